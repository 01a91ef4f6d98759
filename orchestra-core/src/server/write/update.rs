//! Update and patch: an object is read, changed and written back on condition that it is still what was read.

use http::StatusCode;
use serde_json::Value;

use crate::{
    api::schema,
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, meta, meta_mut},
        patch,
        registry::Kind,
        respond::Answer,
        route::Target,
    },
    store::{self, Txn},
};

use super::{CONFLICT_TRIES, Part, bad_object};

impl Inner {
    pub(crate) async fn update(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
        let body = call.body().await?;
        let (mut new, warnings) = self.read_body(kind, &call, &body)?;
        self.place(kind, target, &mut new)?;
        let name = target.name.clone().unwrap_or_default();
        let seen = meta(&new, "resourceVersion").to_owned();
        if seen.is_empty() && !kind.unconditional_update {
            return Err(Failure::bad_request(
                "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
            ));
        }
        let dry_run = call.dry_run()?;
        let change = |old: &Object| {
            check_seen(kind, &name, &seen, old)?;
            Ok(new.clone())
        };
        let written = self.modify(kind, target, part, dry_run, !seen.is_empty(), change).await?;
        Ok(Answer::created(StatusCode::OK, kind, &written, warnings))
    }

    pub(crate) async fn patch(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
        let body = call.body().await?;
        let content_type = call.content_type();
        let dry_run = call.dry_run()?;
        let name = target.name.clone().unwrap_or_default();
        let patch = patch::parse(&content_type, &body)?;
        let change = |old: &Object| {
            let patched = patch.apply(kind, Value::Object(old.clone()))?;
            let Value::Object(mut patched) = patched else {
                return Err(Failure::bad_request("the patch makes something else of the object"));
            };
            let problems = self.conform(kind, &mut patched)?;
            if !problems.is_empty() && call.query.value("fieldValidation") == "Strict" {
                let detail = schema::strict_decoding_error(&problems);
                return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
            }
            self.place(kind, target, &mut patched)?;
            check_seen(kind, &name, meta(&patched, "resourceVersion"), old)?;
            Ok(patched)
        };
        let written = self.modify(kind, target, part, dry_run, false, change).await?;
        Ok(Answer::object(kind, &written))
    }

    /// Reads an object, changes it, and commits the change unless the object has changed under way; then again, unless
    /// the client has named the version it means.
    pub(crate) async fn modify(
        &self,
        kind: &Kind,
        target: &Target,
        part: Part,
        dry_run: bool,
        pinned: bool,
        change: impl Fn(&Object) -> Result<Object>,
    ) -> Result<Object> {
        let name = target.name.as_deref().unwrap_or_default();
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        for _ in 0..CONFLICT_TRIES {
            let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
            let old = object::decode(&entry.value, entry.modified)?;
            let new = change(&old)?;
            let mut new = self.merge_parts(kind, part, &old, new)?;
            // A binding changes what no other write may: the node of a pod.
            let before = (part != Part::Binding).then_some(&old);
            let errors = kind.validate(&new, before).map_err(Failure::internal)?;
            if !errors.is_empty() {
                return Err(Failure::invalid(kind, name, &errors));
            }
            let value = object::encode(&mut new);
            if value == entry.value || dry_run {
                return Ok(new);
            }
            let gone = kind.strategy.ends_with_finalizers(&new);
            let mut txn = if gone {
                Txn::delete(key.clone(), entry.modified)
            } else {
                Txn::replace(key.clone(), entry.modified, value)
            };
            if !gone {
                self.claim_addresses(kind, &mut new, Some(&old), &mut txn).await?;
            }
            match self.store.commit(txn).await {
                Ok(revision) => {
                    meta_mut(&mut new).insert("resourceVersion".into(), revision.0.to_string().into());
                    return Ok(new);
                }
                Err(store::Error::Conflict { .. }) if pinned => return Err(Failure::modified(kind, name)),
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::modified(kind, name))
    }

    /// What a write may change: the part it is for, and of `metadata` what isn't the server's.
    fn merge_parts(&self, kind: &Kind, part: Part, old: &Object, mut new: Object) -> Result<Object> {
        if matches!(part, Part::Finalize | Part::Binding) {
            return Ok(new);
        }
        let has_status = kind.has("status");
        let old_meta = old.get("metadata").cloned().unwrap_or_default();
        if part == Part::Status {
            let status = new.remove("status");
            let mut merged = old.clone();
            match status {
                Some(status) => merged.insert("status".into(), status),
                None => merged.remove("status"),
            };
            let defaulted = kind.default(merged).map_err(bad_object)?;
            return Ok(defaulted);
        }
        if has_status {
            match old.get("status") {
                Some(status) => new.insert("status".into(), status.clone()),
                None => new.remove("status"),
            };
        }
        let new_meta = meta_mut(&mut new);
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
        ] {
            let given = new_meta.get(field).and_then(Value::as_str);
            let kept = old_meta.get(field);
            if field == "uid" && given.is_some_and(|uid| !uid.is_empty() && kept.and_then(Value::as_str) != Some(uid)) {
                let name = old_meta["name"].as_str().unwrap_or_default();
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                    given.unwrap_or_default(),
                    kept.and_then(Value::as_str).unwrap_or_default()
                );
                return Err(Failure::conflict(kind, name, &why));
            }
            match kept {
                Some(kept) => new_meta.insert(field.into(), kept.clone()),
                None => new_meta.remove(field),
            };
        }
        kind.strategy.prepare_update(&mut new, old);
        let mut new = kind.default(new).map_err(bad_object)?;
        if spec_changed(&new, old) && old_meta.get("generation").is_some() {
            let generation = old_meta["generation"].as_i64().unwrap_or(0) + 1;
            meta_mut(&mut new).insert("generation".into(), generation.into());
        }
        Ok(new)
    }
}

fn check_seen(kind: &Kind, name: &str, seen: &str, old: &Object) -> Result<()> {
    if !seen.is_empty() && seen != meta(old, "resourceVersion") {
        return Err(Failure::modified(kind, name));
    }
    Ok(())
}
/// Whether anything but `metadata` and `status` differs.
fn spec_changed(new: &Object, old: &Object) -> bool {
    let rest = |object: &Object| {
        let fields = object.iter().filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"));
        fields.map(|(field, value)| (field.clone(), value.clone())).collect::<Vec<_>>()
    };
    rest(new) != rest(old)
}
