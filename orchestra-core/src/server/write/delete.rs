//! Delete: an object goes at once, or is marked to go (SEMANTICS 28 and 29).

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde_json::Value;

use crate::{
    api::validation::{FieldError, Path},
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, finalizers, meta, meta_mut},
        registry::Kind,
        respond::{Answer, KindRef},
        route::Target,
        selection::Selection,
    },
    store::Txn,
};

use super::{CONFLICT_TRIES, Terms, now_text};

impl Inner {
    pub(crate) async fn delete(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let options = self.delete_options(&mut call).await?;
        let terms = call.deletion_terms(&options)?;
        let name = target.name.as_deref().unwrap_or_default();
        self.delete_object(kind, target.namespace.as_deref().unwrap_or_default(), name, &options, &terms).await
    }

    pub(crate) async fn delete_collection(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let options = self.delete_options(&mut call).await?;
        let terms = call.deletion_terms(&options)?;
        let selection = Selection::parse(kind, &call.query, None)?;
        self.reach(self.store.revision().await?).await?;
        let view = self.cache.view(&kind.shelf(), &object::prefix(kind, target.namespace.as_deref())?);
        let matching: Vec<_> = view.items.iter().filter(|item| selection.matches(item)).collect();
        let mut failed = None;
        for item in &matching {
            let object = object::decode(&item.encoded, item.revision)?;
            // Another object that has the name by now was not in the list.
            let mut options = options.clone();
            options.preconditions.get_or_insert_default().uid.get_or_insert_with(|| meta(&object, "uid").into());
            let (namespace, name) = (meta(&object, "namespace"), meta(&object, "name"));
            match self.delete_object(kind, namespace, name, &options, &terms).await {
                Err(failure) if failure.code() == StatusCode::NOT_FOUND => {}
                Err(failure) if failure.code() == StatusCode::CONFLICT && self.is_another(kind, &object).await? => {}
                // One that can't go doesn't keep the others.
                Err(failure) => failed = failed.or(Some(failure)),
                Ok(_) => {}
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        let items = matching.iter().map(|item| item.encoded.clone()).collect();
        let kind_of = KindRef::of(kind);
        Ok(Answer::List { kind_of, revision: view.revision, items, next: None })
    }

    /// Whether the name of `object` is another's by now, or nobody's.
    async fn is_another(&self, kind: &Kind, object: &Object) -> Result<bool> {
        let key = object::key(kind, meta(object, "namespace"), meta(object, "name"))?;
        let Some(entry) = self.store.get(&key).await? else { return Ok(true) };
        Ok(meta(&object::decode(&entry.value, entry.modified)?, "uid") != meta(object, "uid"))
    }

    /// Deletes an object, or marks it to go once its finalizers, or its kubelet, are done with it (SEMANTICS 28).
    pub(crate) async fn delete_object(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        terms: &Terms,
    ) -> Result<Answer> {
        let key = object::key(kind, namespace, name)?;
        for _ in 0..CONFLICT_TRIES {
            let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
            let mut old = object::decode(&entry.value, entry.modified)?;
            preconditions(kind, name, options, &old)?;
            if kind.strategy.is_immortal(name) {
                let message =
                    format!("{} \"{name}\" is forbidden: this namespace may not be deleted", kind.qualified());
                return Err(Failure::forbidden(kind.plural, name, message));
            }
            let Some(mut marked) = self.mark_deleted(kind, old.clone(), options)? else {
                let mut txn = Txn::delete(key.clone(), entry.modified);
                self.release_addresses(kind, &old, &mut txn).await?;
                self.guard(kind, Some(&old), None, &mut txn).await?;
                if !terms.dry_run {
                    let Ok(revision) = self.commit(txn, terms).await? else { continue };
                    object::set_revision(&mut old, revision);
                }
                return Ok(match kind.returns_deleted {
                    true => Answer::object(kind, &old),
                    false => Answer::success(kind, name, meta(&old, "uid")),
                });
            };
            let value = object::encode(&mut marked)?;
            if value != entry.value && !terms.dry_run {
                let txn = Txn::replace(key.clone(), entry.modified, value);
                let Ok(revision) = self.commit(txn, terms).await? else { continue };
                object::set_revision(&mut marked, revision);
            }
            return Ok(Answer::created(code_of_marked(options), kind, &marked, Vec::new()));
        }
        Err(Failure::modified(kind, name))
    }

    /// The object as it stays for now; `None` if it goes at once.
    pub(crate) fn mark_deleted(
        &self,
        kind: &Kind,
        mut object: Object,
        options: &DeleteOptions,
    ) -> Result<Option<Object>> {
        let mut wanted: Vec<String> = finalizers(&object).into_iter().map(str::to_owned).collect();
        wanted.retain(|finalizer| finalizer != "orphan" && finalizer != "foregroundDeletion");
        match propagation(kind, options, &object)? {
            Propagation::Orphan => wanted.push("orphan".into()),
            Propagation::Foreground => wanted.push("foregroundDeletion".into()),
            Propagation::Background => {}
        }
        let meta_fields = meta_mut(&mut object);
        if wanted.is_empty() {
            meta_fields.remove("finalizers");
        } else {
            meta_fields.insert("finalizers".into(), wanted.clone().into());
        }
        let grace = kind.strategy.grace_seconds(&object, options.grace_period_seconds);
        let already = meta(&object, "deletionTimestamp").to_owned();
        let old_grace = object["metadata"].get("deletionGracePeriodSeconds").and_then(Value::as_i64);
        if grace == 0 && wanted.is_empty() && !kind.strategy.outlives_deletion(&object) {
            return Ok(None);
        }
        // A grace period only shortens, and a deletion is never taken back.
        if already.is_empty() || old_grace.is_some_and(|old| grace < old) {
            let at = self.clock.now() + std::time::Duration::from_secs(grace.unsigned_abs());
            let generation = object["metadata"].get("generation").and_then(Value::as_i64);
            let meta_fields = meta_mut(&mut object);
            meta_fields.insert("deletionTimestamp".into(), now_text(at).into());
            meta_fields.insert("deletionGracePeriodSeconds".into(), grace.into());
            if let Some(generation) = generation.filter(|_| already.is_empty()) {
                meta_fields.insert("generation".into(), (generation + 1).into());
            }
            kind.strategy.mark_terminating(&mut object);
        }
        Ok(Some(object))
    }

    /// `DeleteOptions` of the body, completed by the query (SEMANTICS 62).
    async fn delete_options(&self, call: &mut Call) -> Result<DeleteOptions> {
        let body = call.body().await?;
        let mut options: DeleteOptions = if body.is_empty() {
            DeleteOptions::default()
        } else {
            serde_json::from_slice(&body)
                .map_err(|error| Failure::bad_request(format!("invalid DeleteOptions: {error}")))?
        };
        options.grace_period_seconds = options.grace_period_seconds.or(call.query.number("gracePeriodSeconds")?);
        let propagation = call.query.value("propagationPolicy");
        if options.propagation_policy.is_none() && !propagation.is_empty() {
            options.propagation_policy = Some(propagation.into());
        }
        if !call.query.value("orphanDependents").is_empty() && options.orphan_dependents.is_none() {
            options.orphan_dependents = Some(call.query.flag("orphanDependents")?);
        }
        if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            options.grace_period_seconds = Some(1);
        }
        Ok(options)
    }
}

/// What says that an object is marked, not gone: 202 only to clients that asked for its dependents to go first.
fn code_of_marked(options: &DeleteOptions) -> StatusCode {
    let foreground = options.propagation_policy.as_deref() == Some("Foreground");
    if foreground || options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK }
}

enum Propagation {
    Background,
    Foreground,
    Orphan,
}

fn propagation(kind: &Kind, options: &DeleteOptions, object: &Object) -> Result<Propagation> {
    if !kind.has_generation() && options.propagation_policy.is_none() && options.orphan_dependents.is_none() {
        return Ok(kept_propagation(object));
    }
    match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), None) | (None, Some(true)) => Ok(Propagation::Orphan),
        (Some("Foreground"), None) => Ok(Propagation::Foreground),
        (Some("Background"), None) | (None, Some(false)) => Ok(Propagation::Background),
        (None, None) => Ok(kept_propagation(object)),
        (Some(other), None) => {
            let supported = ["Background", "Foreground", "Orphan"];
            let error = FieldError::not_supported(&Path::root("propagationPolicy"), other, &supported);
            Err(Failure::invalid_options("DeleteOptions", &[error]))
        }
        (Some(policy), Some(_)) => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let error = FieldError::invalid(&Path::root("propagationPolicy"), policy, why);
            Err(Failure::invalid_options("DeleteOptions", &[error]))
        }
    }
}

/// A deletion that is under way keeps the policy it began with.
fn kept_propagation(object: &Object) -> Propagation {
    match finalizers(object).into_iter().find(|finalizer| matches!(*finalizer, "orphan" | "foregroundDeletion")) {
        Some("orphan") => Propagation::Orphan,
        Some(_) => Propagation::Foreground,
        None => Propagation::Background,
    }
}

fn preconditions(kind: &Kind, name: &str, options: &DeleteOptions, object: &Object) -> Result<()> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    for (field, label, wanted) in
        [("uid", "UID", &preconditions.uid), ("resourceVersion", "ResourceVersion", &preconditions.resource_version)]
    {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| !wanted.is_empty())
            && wanted != meta(object, field)
        {
            let why = format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {}",
                meta(object, field)
            );
            return Err(Failure::conflict(kind, name, &why));
        }
    }
    Ok(())
}
