//! The columns of configuration, and of events.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Secret, ServiceAccount};

use super::{
    AGE, Column, Columns, Description, NAME, Row, string,
    text::{age, name, since},
    wide,
};
use crate::clock::Timestamp;

const EVENT_TYPE: &str = "io.k8s.api.core.v1.Event";
const REFERENCE: &str = "io.k8s.api.core.v1.ObjectReference";

/// The columns of config maps.
pub const CONFIG_MAP: Columns<ConfigMap> = Columns {
    definitions: &[NAME, string("Data", Description::Field("io.k8s.api.core.v1.ConfigMap", "data")), AGE],
    row: config_map,
};

/// The columns of secrets.
pub const SECRET: Columns<Secret> = Columns {
    definitions: &[
        NAME,
        string("Type", Description::Field("io.k8s.api.core.v1.Secret", "type")),
        string("Data", Description::Field("io.k8s.api.core.v1.Secret", "data")),
        AGE,
    ],
    row: secret,
};

/// The columns of service accounts.
pub const SERVICE_ACCOUNT: Columns<ServiceAccount> = Columns { definitions: &[NAME, AGE], row: service_account };

/// The columns of events.
pub const EVENT: Columns<Event> = Columns {
    definitions: &[
        string("Last Seen", Description::Field(EVENT_TYPE, "lastTimestamp")),
        string("Type", Description::Field(EVENT_TYPE, "type")),
        string("Reason", Description::Field(EVENT_TYPE, "reason")),
        string("Object", Description::Field(EVENT_TYPE, "involvedObject")),
        wide(string("Subobject", Description::Field(REFERENCE, "fieldPath"))),
        wide(string("Source", Description::Field(EVENT_TYPE, "source"))),
        string("Message", Description::Field(EVENT_TYPE, "message")),
        wide(string("First Seen", Description::Field(EVENT_TYPE, "firstTimestamp"))),
        wide(string("Count", Description::Field(EVENT_TYPE, "count"))),
        Column { priority: 1, ..NAME },
    ],
    row: event,
};

fn config_map(map: &ConfigMap, now: Timestamp) -> Row {
    let texts = map.data.as_ref().map_or(0, |data| data.len());
    let binaries = map.binary_data.as_ref().map_or(0, |data| data.len());
    Row::of(vec![name(&map.metadata), (texts + binaries).into(), age(&map.metadata, now)])
}

fn secret(secret: &Secret, now: Timestamp) -> Row {
    Row::of(vec![
        name(&secret.metadata),
        secret.type_.as_deref().unwrap_or_default().into(),
        secret.data.as_ref().map_or(0, |data| data.len()).into(),
        age(&secret.metadata, now),
    ])
}

fn service_account(account: &ServiceAccount, now: Timestamp) -> Row {
    Row::of(vec![name(&account.metadata), age(&account.metadata, now)])
}

fn event(event: &Event, now: Timestamp) -> Row {
    let happened = event.event_time.as_ref().map(|time| time.0);
    let first = event.first_timestamp.as_ref().map(|time| time.0).or(happened);
    let last = event.last_timestamp.as_ref().map(|time| time.0).or(first);
    let (last, count) = match &event.series {
        Some(series) => (series.last_observed_time.as_ref().map(|time| time.0), series.count.unwrap_or(0)),
        // An event that happened once need not say so.
        None => (last, event.count.filter(|count| *count != 0).unwrap_or(1)),
    };
    let about = &event.involved_object;
    let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
    let object = match about.name.as_deref() {
        None | Some("") => kind,
        Some(name) => format!("{kind}/{name}"),
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Row::of(vec![
        since(last, now).into(),
        text(&event.type_).into(),
        text(&event.reason).into(),
        object.into(),
        text(&about.field_path).into(),
        source(event).into(),
        text(&event.message).trim().into(),
        since(first, now).into(),
        count.into(),
        name(&event.metadata),
    ])
}

/// Who reports, and where.
fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let first = |older: Option<&String>, newer: &Option<String>| {
        older.filter(|text| !text.is_empty()).or(newer.as_ref()).cloned().unwrap_or_default()
    };
    let component = first(source.and_then(|source| source.component.as_ref()), &event.reporting_component);
    let host = first(source.and_then(|source| source.host.as_ref()), &event.reporting_instance);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(object: &Value) -> Value {
        let mut object = object.clone();
        object["metadata"] = json!({ "name": "e" });
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        json!(event(&serde_json::from_value(object).expect("an event"), now).cells)
    }

    /// SEMANTICS 73: events of either API read the same.
    #[test]
    fn events_of_the_older_and_of_the_newer_form_read_the_same() {
        let about = json!({ "kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}" });
        let older =
            shown(&json!({ "involvedObject": about, "type": "Normal", "reason": "Pulled", "message": " done\n",
            "source": { "component": "kubelet", "host": "n1" }, "count": 3,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z" }));
        let expected =
            json!(["10s", "Normal", "Pulled", "pod/web", "spec.containers{a}", "kubelet, n1", "done", "60s", 3, "e"]);
        assert_eq!(older, expected);
        let newer = shown(&json!({ "involvedObject": about, "type": "Normal", "reason": "Pulled", "message": "done",
            "reportingComponent": "kubelet", "reportingInstance": "n1", "eventTime": "2026-01-01T00:00:00Z",
            "series": { "count": 3, "lastObservedTime": "2026-01-01T00:00:50Z" } }));
        assert_eq!(newer, expected);
    }

    #[test]
    fn an_event_that_happened_once_counts_one() {
        let once = shown(&json!({ "involvedObject": { "kind": "Node" }, "eventTime": "2026-01-01T00:00:30Z" }));
        assert_eq!((&once[0], &once[3], &once[8]), (&json!("30s"), &json!("node"), &json!(1)));
    }
}
