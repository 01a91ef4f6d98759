//! What `kubectl get` shows of an object: the columns of its kind, and a row of cells.
//!
//! A [`Columns`] is data and one pure function of the object and the time; a kind has one in its row of the registry. Names,
//! types, priorities and cells are those of Kubernetes' own printers, so that scripts which read tables go on to work.

mod batch;
mod cluster;
mod config;
mod duration;
mod network;
mod pod;
#[cfg(test)]
mod properties;
mod rbac;
mod text;
mod workload;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::clock::Timestamp;

pub use batch::{CRON_JOB, JOB};
pub use cluster::{LEASE, NAMESPACE, NODE, PRIORITY_CLASS, STORAGE_CLASS};
pub use config::{CONFIG_MAP, EVENT, SECRET, SERVICE_ACCOUNT};
pub use duration::human;
pub use network::{ENDPOINT_SLICE, ENDPOINTS, SERVICE};
pub use pod::POD;
pub use rbac::{CLUSTER_ROLE_BINDING, ROLE_BINDING};
pub use workload::{
    CONTROLLER_REVISION, DAEMON_SET, DEPLOYMENT, POD_DISRUPTION_BUDGET, REPLICA_SET, REPLICATION_CONTROLLER, SCALE,
    STATEFUL_SET,
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The columns of one kind.
#[derive(Debug)]
pub struct Columns<T> {
    /// The columns, in order.
    pub definitions: &'static [Column],
    /// The row of an object, with as many cells as there are columns.
    pub row: fn(&T, Timestamp) -> Row,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading; clients print it in capitals.
    pub name: &'static str,
    /// The type of its cells: `string`, `integer`, `boolean` or `date`.
    pub cell_type: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// What it tells.
    pub description: Description,
    /// 0 for a column that is always shown, 1 for one that `-o wide` adds.
    pub priority: u8,
}

/// What a column tells, in the words of Kubernetes.
#[derive(Clone, Copy, Debug)]
pub enum Description {
    /// These words.
    Text(&'static str),
    /// The description of a field, by the name of its type's definition and its own.
    Field(&'static str, &'static str),
}

/// What a table says of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// A cell for each column.
    pub cells: Vec<Value>,
    /// Why and how the object has come to its end; none while it hasn't, and for kinds without one.
    pub completed: Option<Completed>,
}

/// How an object has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// One word, such as `Succeeded`.
    pub reason: &'static str,
    /// A sentence.
    pub message: &'static str,
}

impl Row {
    const fn of(cells: Vec<Value>) -> Self {
        Self { cells, completed: None }
    }
}

impl<T: JsonSchema> Columns<T> {
    /// The `columnDefinitions` of a table, with the descriptions that the schema of the kind has.
    ///
    /// Costs a millisecond or so for the largest kinds: keep it.
    #[must_use]
    pub fn describe(&self) -> Value {
        let root = SchemaSettings::draft2020_12().into_generator().root_schema_for::<T>();
        let own = T::schema_name();
        let described = |definition: &str, field: &str| {
            let object = if definition == own { Some(root.as_value()) } else { root.get("$defs")?.get(definition) };
            object?.get("properties")?.get(field)?.get("description")?.as_str().map(str::to_owned)
        };
        let definitions = self.definitions.iter().map(|column| {
            let description = match column.description {
                Description::Text(text) => text.to_owned(),
                Description::Field(definition, field) => described(definition, field).unwrap_or_default(),
            };
            json!({ "name": column.name, "type": column.cell_type, "format": column.format, "description": description,
                "priority": column.priority })
        });
        definitions.collect()
    }
}

/// The columns of a kind that Kubernetes has no printer for: `NAME` and `CREATED AT`.
#[must_use]
pub const fn plain<T>(row: fn(&T, Timestamp) -> Row) -> Columns<T> {
    const CREATED_AT: Column = Column {
        name: "Created At",
        cell_type: "date",
        format: "",
        description: Description::Field(OBJECT_META, "creationTimestamp"),
        priority: 0,
    };
    Columns { definitions: &[NAME, CREATED_AT], row }
}

/// The row under [`plain`] columns.
#[must_use]
pub fn plain_row<T>(object: &T, _now: Timestamp) -> Row
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let meta = object.metadata();
    let created = meta.creation_timestamp.as_ref().map(|time| time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    Row::of(vec![text::name(meta), created.into()])
}

const NAME: Column = Column {
    name: "Name",
    cell_type: "string",
    format: "name",
    description: Description::Field(OBJECT_META, "name"),
    priority: 0,
};
const AGE: Column = string("Age", Description::Field(OBJECT_META, "creationTimestamp"));
const CONTAINERS: Column = wide(string("Containers", Description::Text("Names of each container in the template.")));
const IMAGES: Column =
    wide(string("Images", Description::Text("Images referenced by each container in the template.")));

const fn string(name: &'static str, description: Description) -> Column {
    Column { name, cell_type: "string", format: "", description, priority: 0 }
}

const fn integer(name: &'static str, description: Description) -> Column {
    Column { name, cell_type: "integer", format: "", description, priority: 0 }
}

const fn boolean(name: &'static str, description: Description) -> Column {
    Column { name, cell_type: "boolean", format: "", description, priority: 0 }
}

const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}
