//! Update and patch: an object is read, changed and written back on condition that it is still what was read.

use http::StatusCode;
use serde_json::Value;

use crate::{
    api::{
        schema,
        validation::{FieldError, FieldErrorKind, Path},
    },
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, meta, meta_mut},
        patch,
        registry::Kind,
        respond::Answer,
        route::Target,
        service_type,
    },
    store::{Check, Op, Txn},
};

use super::{CONFLICT_TRIES, CreateError, Part, Terms, bad_object};

/// What of `metadata` only the server sets.
const SERVERS_OWN: [&str; 8] = [
    "uid",
    "creationTimestamp",
    "generation",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    // Nobody owns a field before there is server-side apply.
    "managedFields",
];
/// How much of a refused patch its error repeats.
const PATCH_SHOWN_BYTES_MAX: usize = 256;

impl Inner {
    pub(crate) async fn update(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
        let body = call.body().await?;
        let (mut new, warnings) = self.read_body(kind, &call, &body)?;
        self.place(kind, target, &mut new)?;
        let name = target.name.clone().unwrap_or_default();
        let seen = seen(&new)?.to_owned();
        if seen.is_empty() && part == Part::Spec && self.is_created_by_update(kind, target).await? {
            self.authorize(&call.user, "create", target, &call.query).await?;
            call.user.admit_change(kind, &Object::new(), &new)?;
            match self.create_object(kind, new.clone(), &call.terms()?).await {
                Ok(created) => return Ok(Answer::created(StatusCode::CREATED, kind, &created, warnings)),
                // Another was first.
                Err(CreateError::Exists) => {}
                Err(CreateError::Failed(failure)) => return Err(failure),
            }
        }
        if seen.is_empty() && !kind.unconditional_update {
            return Err(Failure::invalid(kind, &name, &[unseen()]));
        }
        let terms = call.terms()?;
        let change = |old: &Object| {
            check_seen(kind, &name, &seen, old)?;
            call.user.admit_change(kind, old, &new)?;
            Ok(new.clone())
        };
        let written = self.modify(kind, target, part, &terms, !seen.is_empty(), change).await?;
        Ok(Answer::created(StatusCode::OK, kind, &written, warnings))
    }

    /// Whether an update is of what isn't there, and creates it. One that says what it has seen never is.
    async fn is_created_by_update(&self, kind: &Kind, target: &Target) -> Result<bool> {
        if !kind.creates_on_update {
            return Ok(false);
        }
        let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref());
        let key = object::key(kind, namespace.unwrap_or_default(), name.unwrap_or_default())?;
        Ok(self.store.get(&key).await?.is_none())
    }

    pub(crate) async fn patch(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
        let body = call.body().await?;
        let validation = call.field_validation()?;
        let terms = call.terms()?;
        let name = target.name.clone().unwrap_or_default();
        let (patch, duplicates) = patch::parse(&call.content_type(), &body)?;
        let mut warnings = Vec::new();
        let change = |old: &Object| {
            let patched = patch.apply(kind, Value::Object(old.clone()))?;
            let Value::Object(mut patched) = patched else {
                return Err(Failure::bad_request("the patch makes something else of the object"));
            };
            let mut problems = duplicates.clone();
            problems.extend(self.conform(kind, &mut patched)?);
            warnings = validation.judge(problems).map_err(|problems| strict_patch(kind, &name, &body, &problems))?;
            self.place(kind, target, &mut patched)?;
            check_seen(kind, &name, seen(&patched)?, old)?;
            call.user.admit_change(kind, old, &patched)?;
            Ok(patched)
        };
        let written = self.modify(kind, target, part, &terms, false, change).await?;
        Ok(Answer::created(StatusCode::OK, kind, &written, warnings))
    }

    /// Reads an object, changes it, and commits the change unless the object has changed under way; then again, unless
    /// the client has named the version it means.
    ///
    /// A write that changes nothing commits nothing: the object keeps its resource version, and no watch sees it.
    pub(crate) async fn modify(
        &self,
        kind: &Kind,
        target: &Target,
        part: Part,
        terms: &Terms,
        pinned: bool,
        mut change: impl FnMut(&Object) -> Result<Object>,
    ) -> Result<Object> {
        let name = target.name.as_deref().unwrap_or_default();
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        for _ in 0..CONFLICT_TRIES {
            let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
            let old = object::decode(&entry.value, entry.modified)?;
            let new = change(&old)?;
            self.admit_default_class(kind, &new).await?;
            let mut new = self.merge_parts(kind, part, &old, new)?;
            // A binding changes what no other write may: the node of a pod.
            let before = (part != Part::Binding).then_some(&old);
            let errors = kind.validate(&new, before).map_err(Failure::internal)?;
            if !errors.is_empty() {
                return Err(Failure::invalid(kind, name, &errors));
            }
            let gone = kind.strategy.ends_with_finalizers(&new);
            let mut txn = Txn { checks: vec![Check::Unchanged(key.clone(), entry.modified)], ops: Vec::new() };
            if gone {
                self.release_addresses(kind, &old, &mut txn).await?;
                self.guard(kind, Some(&old), None, &mut txn).await?;
                txn.ops.push(Op::Delete(key.clone()));
            } else {
                // What it allocates is part of what is stored.
                self.claim_addresses(kind, &mut new, Some(&old), &mut txn).await?;
                let value = object::encode(&mut new)?;
                if value == entry.value {
                    return Ok(old);
                }
                self.guard(kind, Some(&old), Some(&new), &mut txn).await?;
                txn.ops.push(Op::Put(key.clone(), value));
            }
            if terms.dry_run {
                return Ok(new);
            }
            match self.commit(txn, terms).await? {
                Ok(revision) => {
                    object::set_revision(&mut new, revision);
                    return Ok(new);
                }
                Err(changed) if pinned && changed == key => return Err(Failure::modified(kind, name)),
                Err(_) => {}
            }
        }
        Err(Failure::modified(kind, name))
    }

    /// What a write may change: the part it is for, and of `metadata` what isn't the server's.
    fn merge_parts(&self, kind: &Kind, part: Part, old: &Object, mut new: Object) -> Result<Object> {
        if matches!(part, Part::Finalize | Part::Binding) {
            return Ok(new);
        }
        check_uid(kind, old, meta(&new, "uid"))?;
        if part == Part::Status {
            let status = new.remove("status");
            let mut merged = old.clone();
            match status {
                Some(status) => merged.insert("status".into(), status),
                None => merged.remove("status"),
            };
            return kind.default(merged).map_err(|error| bad_object(&error));
        }
        if kind.has("status") {
            match old.get("status") {
                Some(status) => new.insert("status".into(), status.clone()),
                None => new.remove("status"),
            };
        }
        for field in SERVERS_OWN {
            let kept = old.get("metadata").and_then(|meta| meta.get(field)).cloned();
            match kept {
                Some(kept) => meta_mut(&mut new).insert(field.into(), kept),
                None => meta_mut(&mut new).remove(field),
            };
        }
        kind.strategy.prepare_update(&mut new, old);
        if kind.kind == "Service" {
            service_type::follow_type(&mut new, old);
        }
        let mut new = kind.default(new).map_err(|error| bad_object(&error))?;
        let generation = old["metadata"].get("generation").and_then(Value::as_i64);
        if let Some(generation) = generation.filter(|_| spec_changed(&new, old)) {
            meta_mut(&mut new).insert("generation".into(), (generation + 1).into());
        }
        Ok(new)
    }
}

/// The version of the object that a client has seen; empty if it doesn't say.
fn seen(object: &Object) -> Result<&str> {
    match meta(object, "resourceVersion") {
        // Kubernetes takes it for none.
        "0" => Ok(""),
        seen if seen.bytes().all(|byte| byte.is_ascii_digit()) => Ok(seen),
        other => Err(Failure::bad_request(format!(
            "metadata.resourceVersion: Invalid value: {other:?}: must be a number that the server has given out"
        ))),
    }
}

/// What is wrong with an update that doesn't say what it has seen, where it must; with Kubernetes' own notation of zero.
fn unseen() -> FieldError {
    FieldError {
        path: "metadata.resourceVersion".into(),
        kind: FieldErrorKind::Invalid,
        value: None,
        detail: "0x0: must be specified for an update".into(),
    }
}

/// Refuses to change an object that is another than the client means (SEMANTICS 25).
pub(crate) fn check_uid(kind: &Kind, old: &Object, meant: &str) -> Result<()> {
    let uid = meta(old, "uid");
    if meant.is_empty() || meant == uid {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {meant}, UID in object meta: {uid}");
    Err(Failure::conflict(kind, meta(old, "name"), &why))
}

/// The 422 for a patch that leaves what its kind doesn't know, or names a field twice.
fn strict_patch(kind: &Kind, name: &str, patch: &[u8], problems: &[String]) -> Failure {
    let shown = String::from_utf8_lossy(patch.get(..PATCH_SHOWN_BYTES_MAX).unwrap_or(patch));
    let detail = schema::strict_decoding_error(problems);
    Failure::invalid(kind, name, &[FieldError::invalid(&Path::root("patch"), shown, detail)])
}

/// Refuses to change an object that is no longer what the client has seen.
pub(crate) fn check_seen(kind: &Kind, name: &str, seen: &str, old: &Object) -> Result<()> {
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
