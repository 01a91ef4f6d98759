//! The kinds a server knows: each is a row, and every handler is generic over rows.

use std::{any::type_name, fmt, sync::OnceLock};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::{
        columns::{Column, Columns, Row},
        schema::{DecodeError, Schema},
        validation::{FieldError, metadata::Scope},
    },
    clock::Timestamp,
    server::{
        object::Object,
        openapi::{Definition, Served},
        review::Review,
        view::View,
    },
};

mod rows;
mod strategy;

pub(crate) use strategy::Strategy;

/// One kind: its names, and what may be said of its objects.
pub(crate) struct Kind {
    /// The group; empty for the core group.
    pub(crate) group: &'static str,
    /// The version.
    pub(crate) version: &'static str,
    /// The kind, such as `Pod`.
    pub(crate) kind: &'static str,
    /// The resource, such as `pods`.
    pub(crate) plural: &'static str,
    /// The resource of one object, such as `pod`.
    pub(crate) singular: &'static str,
    /// What `kubectl` users type.
    pub(crate) short_names: &'static [&'static str],
    /// The groups of resources it is in, such as `all`.
    pub(crate) categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Its subresources, such as `status`.
    pub(crate) subresources: &'static [&'static str],
    /// The fields a selector may name, beside `metadata.name` and `metadata.namespace`.
    pub(crate) fields: &'static [&'static str],
    /// The first two segments of its keys: group and resource of the kind that stores it.
    pub(crate) storage: (&'static str, &'static str),
    /// Whether an update without a resource version is taken.
    pub(crate) unconditional_update: bool,
    /// Whether an update of what isn't there creates it.
    pub(crate) creates_on_update: bool,
    /// Whether a deletion that is done at once answers with the object, not with a `Status`.
    pub(crate) returns_deleted: bool,
    pub(crate) strategy: Strategy,
    /// How it shows the objects of another kind, if it stores none itself.
    pub(crate) view: Option<&'static View>,
    /// What its objects ask, if they are answered and not stored.
    pub(crate) review: Option<Review>,
    model: Box<dyn Model>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind").field("kind", &self.kind).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Kind {
    /// The resource with its group, as messages name it: `pods`, `deployments.apps`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// What can be done with its objects.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        match (self.review, self.strategy) {
            (Some(_), _) => &["create"],
            // To empty the whole cluster takes more than one request.
            (None, Strategy::Namespace) => &["create", "delete", "get", "list", "patch", "update", "watch"],
            (None, _) => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }
    }

    /// Whether it has a subresource of this name.
    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The key prefix of its objects, which names its shelf of the watch cache.
    pub(crate) fn shelf(&self) -> String {
        format!("/{}/{}", self.storage.0, self.storage.1)
    }

    /// Whether its objects count the changes of their specs.
    pub(crate) fn has_generation(&self) -> bool {
        self.has("status") && !matches!(self.kind, "Namespace" | "Node" | "Service")
            || self.kind == "PodDisruptionBudget"
    }

    /// What a table of its objects says of the columns, as JSON.
    pub(crate) fn columns(&self) -> &str {
        self.model.columns()
    }

    /// The row of an encoded object. One that does not decode, which no write lets in, has a name and empty cells.
    pub(crate) fn row(&self, encoded: &[u8], now: Timestamp) -> Row {
        self.model.row(encoded, now)
    }

    /// What the OpenAPI documents say of it.
    pub(crate) fn served(&self) -> Served {
        Served {
            group: self.group,
            version: self.version,
            kind: self.kind,
            resource: self.plural,
            scope: if self.namespaced { Scope::Namespaced } else { Scope::Cluster },
            subresources: self.subresources,
            verbs: self.verbs(),
            definition: self.model.definition(),
        }
    }

    /// Its fields and their types.
    pub(crate) fn schema(&self) -> &Schema {
        self.model.schema()
    }

    /// Checks names and types of the fields; returns the problems that only a strict client minds.
    pub(crate) fn conform(&self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        self.model.schema().conform(object)
    }

    /// Fills in what the author left to the server.
    pub(crate) fn default(&self, object: Object) -> Result<Object, serde_json::Error> {
        self.model.default(object)
    }

    /// What is wrong with an object, or with the change from `old`.
    pub(crate) fn validate(&self, new: &Object, old: Option<&Object>) -> Result<Vec<FieldError>, serde_json::Error> {
        self.model.validate(new, old)
    }
}

/// What is typed about a kind, with the type forgotten.
trait Model: Send + Sync {
    fn definition(&self) -> Definition;
    fn schema(&self) -> &Schema;
    fn columns(&self) -> &str;
    fn row(&self, encoded: &[u8], now: Timestamp) -> Row;
    fn default(&self, object: Object) -> Result<Object, serde_json::Error>;
    fn validate(&self, new: &Object, old: Option<&Object>) -> Result<Vec<FieldError>, serde_json::Error>;
}

/// The functions of one API type.
struct Typed<T> {
    schema: OnceLock<Schema>,
    columns: Columns<T>,
    described: OnceLock<String>,
    default: fn(&mut T),
    validate: fn(&T) -> Vec<FieldError>,
    validate_update: fn(&T, &T) -> Vec<FieldError>,
}

impl<T: Serialize + DeserializeOwned + JsonSchema> Model for Typed<T> {
    fn definition(&self) -> Definition {
        Definition::of::<T>()
    }

    fn schema(&self) -> &Schema {
        self.schema.get_or_init(Schema::of::<T>)
    }

    fn columns(&self) -> &str {
        self.described.get_or_init(|| self.columns.describe().to_string())
    }

    fn row(&self, encoded: &[u8], now: Timestamp) -> Row {
        match serde_json::from_slice::<T>(encoded) {
            Ok(object) => (self.columns.row)(&object, now),
            Err(_) => {
                let object: Value = serde_json::from_slice(encoded).unwrap_or_default();
                let name = |column: &Column| (column.format == "name").then(|| object["metadata"]["name"].clone());
                let cells = self.columns.definitions.iter().map(|column| name(column).unwrap_or_default());
                Row { cells: cells.collect(), completed: None }
            }
        }
    }

    fn default(&self, object: Object) -> Result<Object, serde_json::Error> {
        let mut typed: T = serde_json::from_value(Value::Object(object))?;
        (self.default)(&mut typed);
        match serde_json::to_value(&typed)? {
            Value::Object(object) => Ok(object),
            _ => unreachable!("{} encodes as an object", type_name::<T>()),
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>) -> Result<Vec<FieldError>, serde_json::Error> {
        let typed = |object: &Object| serde_json::from_value::<T>(Value::Object(object.clone()));
        let new = typed(new)?;
        let mut errors = (self.validate)(&new);
        if let Some(old) = old {
            errors.extend((self.validate_update)(&new, &typed(old)?));
        }
        Ok(errors)
    }
}

/// All kinds, in the order in which discovery lists them.
#[derive(Debug)]
pub(crate) struct Registry(Vec<Kind>);

impl Registry {
    /// The built-in kinds.
    pub(crate) fn built_in() -> Self {
        Self(rows::rows())
    }

    /// The kinds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter()
    }

    /// The kind behind a resource.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Kind> {
        self.0.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }
}
