//! Create, update, patch and delete: each a read, a decision, and a commit on condition that what was read still stands.

use http::{StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde_json::Value;

use crate::{
    api::schema,
    rng::Entropy,
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, finalizers, is_terminating, meta, meta_mut},
        patch,
        registry::Kind,
        respond::Answer,
        route::Target,
        selection::Selection,
    },
    store::{self, Check, Op, Txn},
};

/// How often a generated name that is taken is drawn again.
const GENERATE_TRIES: usize = 8;
/// How often a write that reads first is tried again after a conflict.
const CONFLICT_TRIES: usize = 16;
/// How many letters end a generated name.
const SUFFIX_LETTERS: usize = 5;
/// The longest generated name without its suffix, so that the whole is a label.
const GENERATED_BASE_MAX: usize = 58;

/// Which part of an object a write is for; the other keeps its value (SEMANTICS 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Spec,
    /// The status alone.
    Status,
    /// The spec's finalizers, of a namespace.
    Finalize,
    /// The node and the condition that says so, of a pod.
    Binding,
}

impl Inner {
    pub(super) async fn create(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let (mut object, warnings) = self.read_body(kind, &call, &body)?;
        self.place(kind, target, &mut object)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let dry_run = call.dry_run()?;
        let generate = meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty();
        for _ in 0..GENERATE_TRIES {
            let mut draft = object.clone();
            if generate {
                let name = generated_name(meta(&draft, "generateName"), &self.entropy);
                meta_mut(&mut draft).insert("name".into(), name.into());
            }
            let name = meta(&draft, "name").to_owned();
            match self.create_object(kind, draft, dry_run).await {
                Err(CreateError::Exists) if generate => {}
                Err(CreateError::Exists) => return Err(Failure::already_exists(kind, &name)),
                Err(CreateError::Failed(failure)) => return Err(failure),
                Ok(created) => return Ok(Answer::created(StatusCode::CREATED, kind, &created, warnings)),
            }
        }
        Err(Failure::already_exists(kind, meta(&object, "generateName")))
    }

    /// Creates `object`, whose name stands.
    pub(super) async fn create_object(
        &self,
        kind: &Kind,
        object: Object,
        dry_run: bool,
    ) -> Result<Object, CreateError> {
        let mut object = kind.default(object).map_err(bad_object)?;
        let namespace = meta(&object, "namespace").to_owned();
        let name = meta(&object, "name").to_owned();
        self.stamp(kind, &mut object);
        kind.strategy.prepare_create(&mut object);
        let errors = kind.validate(&object, None).map_err(Failure::internal)?;
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, &name, &errors).into());
        }
        let mut txn = Txn::default();
        if kind.namespaced {
            txn.checks.push(self.live_namespace(kind, &name, &namespace).await?);
        }
        self.claim_addresses(kind, &mut object, None, &mut txn).await?;
        let key = object::key(kind, &namespace, &name)?;
        if dry_run {
            let taken = self.store.get(&key).await.map_err(Failure::from)?.is_some();
            return if taken { Err(CreateError::Exists) } else { Ok(object) };
        }
        let value = object::encode(&mut object);
        txn.checks.push(Check::Absent(key.clone()));
        txn.ops.push(Op::Put(key.clone(), value));
        match self.store.commit(txn).await {
            Ok(revision) => {
                meta_mut(&mut object).insert("resourceVersion".into(), revision.0.to_string().into());
                Ok(object)
            }
            Err(store::Error::Conflict { key: conflict, .. }) if conflict == key => Err(CreateError::Exists),
            Err(store::Error::Conflict { .. }) => Err(Failure::modified(kind, &name).into()),
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// The check that a namespace still stands as it does now: nothing is made in one that is missing or on its way out.
    async fn live_namespace(&self, kind: &Kind, name: &str, namespace: &str) -> Result<Check> {
        let namespaces = self.registry.find("", "v1", "namespaces").expect("built in");
        let key = object::key(namespaces, "", namespace)?;
        let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(namespaces, namespace))?;
        if is_terminating(&object::decode(&entry.value, entry.modified)?) {
            let message = format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                kind.qualified()
            );
            return Err(Failure::forbidden(kind.plural, name, message)
                .because("NamespaceTerminating", &format!("namespace {namespace} is being terminated")));
        }
        Ok(Check::Unchanged(key, entry.modified))
    }

    pub(super) async fn update(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
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

    pub(super) async fn patch(&self, kind: &Kind, target: &Target, mut call: Call, part: Part) -> Result<Answer> {
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
    pub(super) async fn modify(
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

    /// What the server sets on every new object (SEMANTICS 24).
    fn stamp(&self, kind: &Kind, object: &mut Object) {
        let now = now_text(self.clock.now());
        let uid = self.entropy.uuid().to_string();
        if kind.has("status") {
            object.remove("status");
        }
        let has_generation = kind.has_generation();
        let meta = meta_mut(object);
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "managedFields"] {
            meta.remove(field);
        }
        meta.insert("uid".into(), uid.into());
        meta.insert("creationTimestamp".into(), now.into());
        if has_generation {
            meta.insert("generation".into(), 1.into());
        }
    }

    pub(super) async fn delete(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let options = self.delete_options(&mut call).await?;
        let dry_run = call.dry_run()? || options.dry_run.as_ref().is_some_and(|all| !all.is_empty());
        let name = target.name.as_deref().unwrap_or_default();
        self.delete_object(kind, target.namespace.as_deref().unwrap_or_default(), name, &options, dry_run).await
    }

    pub(super) async fn delete_collection(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let options = self.delete_options(&mut call).await?;
        let dry_run = call.dry_run()? || options.dry_run.as_ref().is_some_and(|all| !all.is_empty());
        let selection = Selection::parse(kind, &call.query, None)?;
        self.cache.reach(self.store.revision().await?).await;
        let view = self.cache.view(&kind.shelf(), &object::prefix(kind, target.namespace.as_deref())?);
        let matching: Vec<_> = view.items.iter().filter(|item| selection.matches(item)).collect();
        for item in &matching {
            let object = object::decode(&item.encoded, item.revision)?;
            let deleted =
                self.delete_object(kind, meta(&object, "namespace"), meta(&object, "name"), &options, dry_run);
            match deleted.await {
                Err(failure) if failure.code() == StatusCode::NOT_FOUND => {}
                other => drop(other?),
            }
        }
        let items = matching.iter().map(|item| item.encoded.clone()).collect();
        let kind_of = crate::server::respond::KindRef::of(kind);
        Ok(Answer::List { kind_of, revision: view.revision, items, next: None })
    }

    /// Deletes an object, or marks it to go once its finalizers, or its kubelet, are done with it (SEMANTICS 28).
    pub(super) async fn delete_object(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Answer> {
        let key = object::key(kind, namespace, name)?;
        for _ in 0..CONFLICT_TRIES {
            let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
            let old = object::decode(&entry.value, entry.modified)?;
            preconditions(kind, name, options, &old)?;
            let marked = self.mark_deleted(kind, old.clone(), options)?;
            let (txn, answer) = match marked {
                None => {
                    let mut txn = Txn::delete(key.clone(), entry.modified);
                    self.release_addresses(kind, &old, &mut txn).await?;
                    (txn, Answer::success(kind, name, meta(&old, "uid")))
                }
                Some(mut marked) => {
                    let value = object::encode(&mut marked);
                    if value == entry.value {
                        return Ok(Answer::object(kind, &marked));
                    }
                    (Txn::replace(key.clone(), entry.modified, value), Answer::object(kind, &marked))
                }
            };
            if dry_run {
                return Ok(answer);
            }
            match self.store.commit(txn).await {
                Ok(_) => return Ok(answer),
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::modified(kind, name))
    }

    /// The object as it stays for now; `None` if it goes at once.
    fn mark_deleted(&self, kind: &Kind, mut object: Object, options: &DeleteOptions) -> Result<Option<Object>> {
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

    /// Parses a body into an object of `kind`, strictly if asked; what a lenient client should know comes as warnings.
    pub(super) fn read_body(&self, kind: &Kind, call: &Call, body: &[u8]) -> Result<(Object, Vec<String>)> {
        let content_type = call
            .parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("application/json");
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Failure::unsupported_media_type(content_type, "application/json"));
        }
        let (value, mut problems) = schema::parse_strict(body)
            .map_err(|error| Failure::bad_request(schema::unrecognized(kind.kind, &error, body)))?;
        let Value::Object(mut object) = value else {
            let detail = "the body is no JSON object";
            return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
        };
        problems.extend(self.conform(kind, &mut object)?);
        let warnings = match call.query.value("fieldValidation") {
            "Ignore" => Vec::new(),
            "Warn" => problems,
            "" | "Strict" if problems.is_empty() => problems,
            "" => problems,
            "Strict" => {
                let detail = schema::strict_decoding_error(&problems);
                return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
            }
            other => return Err(Failure::bad_request(format!("fieldValidation: Unsupported value: {other:?}"))),
        };
        Ok((object, warnings))
    }

    /// Checks names and types; `apiVersion` and `kind` must be the kind's own.
    fn conform(&self, kind: &Kind, object: &mut Object) -> Result<Vec<String>> {
        for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
            match object.get(field).and_then(Value::as_str) {
                None | Some("") => drop(object.insert(field.into(), expected.into())),
                Some(given) if given == expected => {}
                Some(given) => {
                    return Err(Failure::bad_request(format!(
                        "the {field} in the data ({given}) does not match the expected {field} ({expected})"
                    )));
                }
            }
        }
        let mut value = Value::Object(std::mem::take(object));
        let problems = kind
            .conform(&mut value)
            .map_err(|error| Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, error)))?;
        if let Value::Object(conformed) = value {
            *object = conformed;
        }
        Ok(problems)
    }

    /// Puts an object where its path says; what it says itself must agree.
    fn place(&self, kind: &Kind, target: &Target, object: &mut Object) -> Result<()> {
        let given = meta(object, "namespace").to_owned();
        match (&target.namespace, kind.namespaced) {
            (Some(namespace), true) if given.is_empty() || given == *namespace => {
                meta_mut(object).insert("namespace".into(), namespace.as_str().into());
            }
            (Some(_), true) => {
                return Err(Failure::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            (None, true) => return Err(Failure::bad_request("an empty namespace may not be set during creation")),
            (_, false) => drop(meta_mut(object).remove("namespace")),
        }
        if let Some(name) = &target.name {
            let given = meta(object, "name").to_owned();
            if !given.is_empty() && given != *name {
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(Failure::bad_request(message));
            }
            meta_mut(object).insert("name".into(), name.as_str().into());
        }
        Ok(())
    }
}

/// Why an object was not created.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// Its name is taken.
    Exists,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for CreateError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
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
        (Some(other), None) => Err(Failure::bad_request(format!(
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": supported values: \
             \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        ))),
        (Some(_), Some(_)) => Err(Failure::bad_request("orphanDependents and propagationPolicy cannot be both set")),
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

fn check_seen(kind: &Kind, name: &str, seen: &str, old: &Object) -> Result<()> {
    if !seen.is_empty() && seen != meta(old, "resourceVersion") {
        return Err(Failure::modified(kind, name));
    }
    Ok(())
}

/// An object that conforms to its schema decodes, but for what the schema can't say.
fn bad_object(error: serde_json::Error) -> Failure {
    Failure::bad_request(format!("the object can't be decoded: {error}"))
}

/// Whether anything but `metadata` and `status` differs.
fn spec_changed(new: &Object, old: &Object) -> bool {
    let rest = |object: &Object| {
        let fields = object.iter().filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"));
        fields.map(|(field, value)| (field.clone(), value.clone())).collect::<Vec<_>>()
    };
    rest(new) != rest(old)
}

fn generated_name(base: &str, entropy: &Entropy) -> String {
    let end = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATED_BASE_MAX).last();
    format!("{}{}", &base[..end.unwrap_or(0)], entropy.suffix(SUFFIX_LETTERS))
}

/// A time as `metav1.Time` has it: whole seconds.
pub(crate) fn now_text(now: crate::clock::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
