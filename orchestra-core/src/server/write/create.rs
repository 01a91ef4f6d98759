//! Create: an object gets its name, its uid and its place, once.

use http::StatusCode;

use crate::{
    rng::Entropy,
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, is_terminating, meta, meta_mut},
        registry::Kind,
        respond::Answer,
        route::Target,
    },
    store::{Check, Op, Txn},
};

use super::{CONFLICT_TRIES, Terms, bad_object, now_text};

/// How often a generated name that is taken is drawn again.
const GENERATE_TRIES: usize = 8;
/// How many letters end a generated name.
const SUFFIX_LETTERS: usize = 5;
/// The longest generated name without its suffix, so that the whole is a label.
const GENERATED_BASE_MAX: usize = 58;

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

impl Inner {
    pub(crate) async fn create(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let (mut object, warnings) = self.read_body(kind, &call, &body)?;
        self.place(kind, target, &mut object)?;
        if !meta(&object, "resourceVersion").is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        call.user.admit_change(kind, &Object::new(), &object)?;
        let terms = call.terms()?;
        let generate = meta(&object, "name").is_empty() && !meta(&object, "generateName").is_empty();
        for _ in 0..GENERATE_TRIES {
            let mut draft = object.clone();
            if generate {
                let name = generated_name(meta(&draft, "generateName"), &self.entropy);
                meta_mut(&mut draft).insert("name".into(), name.into());
            }
            let name = meta(&draft, "name").to_owned();
            match self.create_object(kind, draft, &terms).await {
                Err(CreateError::Exists) if generate => {}
                Err(CreateError::Exists) => return Err(Failure::already_exists(kind, &name)),
                Err(CreateError::Failed(failure)) => return Err(failure),
                Ok(created) => return Ok(Answer::created(StatusCode::CREATED, kind, &created, warnings)),
            }
        }
        Err(Failure::already_exists(kind, meta(&object, "generateName")))
    }

    /// Creates `object`, whose name stands.
    pub(crate) async fn create_object(
        &self,
        kind: &Kind,
        object: Object,
        terms: &Terms,
    ) -> Result<Object, CreateError> {
        let mut object = kind.default(object).map_err(|error| bad_object(&error))?;
        self.stamp(kind, &mut object);
        self.prioritize(kind, &mut object).await?;
        self.admit_default_class(kind, &object).await?;
        kind.strategy.prepare_create(&mut object);
        let name = meta(&object, "name").to_owned();
        let errors = kind.validate(&object, None).map_err(Failure::internal)?;
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, &name, &errors).into());
        }
        for _ in 0..CONFLICT_TRIES {
            if let Some(created) = self.try_create(kind, object.clone(), terms).await? {
                return Ok(created);
            }
        }
        Err(Failure::modified(kind, &name).into())
    }

    /// Creates an object that is complete but for its addresses; `None` if what it depends on has changed under way: its
    /// namespace, or who has an address.
    async fn try_create(&self, kind: &Kind, mut object: Object, terms: &Terms) -> Result<Option<Object>, CreateError> {
        let (namespace, name) = (meta(&object, "namespace").to_owned(), meta(&object, "name").to_owned());
        let mut txn = Txn::default();
        if kind.namespaced {
            txn.checks.push(self.live_namespace(kind, &name, &namespace).await?);
        }
        let key = object::key(kind, &namespace, &name)?;
        if self.store.get(&key).await.map_err(Failure::from)?.is_some() {
            return Err(CreateError::Exists);
        }
        self.claim_addresses(kind, &mut object, None, &mut txn).await?;
        self.guard(kind, None, Some(&object), &mut txn).await?;
        let value = object::encode(&mut object)?;
        if terms.dry_run {
            return Ok(Some(object));
        }
        txn.checks.push(Check::Absent(key.clone()));
        txn.ops.push(Op::Put(key.clone(), value));
        match self.commit(txn, terms).await? {
            Ok(revision) => {
                object::set_revision(&mut object, revision);
                Ok(Some(object))
            }
            Err(taken) if taken == key => Err(CreateError::Exists),
            Err(_) => Ok(None),
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

    /// What the server sets on every new object (SEMANTICS 24).
    fn stamp(&self, kind: &Kind, object: &mut Object) {
        let now = now_text(self.clock.now());
        let uid = self.entropy.uuid().to_string();
        // A node's kubelet is its observer, and tells what it has as it registers it.
        if kind.has("status") && kind.kind != "Node" {
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
}

fn generated_name(base: &str, entropy: &Entropy) -> String {
    let end = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATED_BASE_MAX).last();
    format!("{}{}", &base[..end.unwrap_or(0)], entropy.suffix(SUFFIX_LETTERS))
}
