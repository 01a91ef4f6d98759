//! Manifests of Kubernetes, in YAML or JSON: documents one after the other, and lists, as `kubectl get -o yaml` writes them.
//!
//! Nodes are nodes; pods, and those that deployments, replica sets, replication controllers, stateful sets and jobs ask for,
//! come one by one, in the queue of their namespace: when their object was created, from the first one on, or at once if none
//! says. They wait for a place even if they have one, and don't end, for no manifest tells when.

use std::{collections::BTreeSet, io, str::FromStr as _, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use serde_json::Value;

use super::{Task, Trace, TraceError, machine};
use crate::{
    api::quantity::Quantity,
    clock::Timestamp,
    scheduler::{NodeInfo, PodView, Shape},
};

/// Pods that an object may ask for: as many as Kubernetes supports in a cluster.
const PODS_MAX: u64 = 150_000;

/// What a kubelet takes if it isn't told otherwise, for nodes that don't say.
const NODE_PODS_DEFAULT: i64 = 110;

/// What a node is taken for if the file has none: 16 cores, 64 GiB.
const MACHINE_CPU_MILLIS: i64 = 16_000;
const MACHINE_MEMORY_BYTES: i64 = 64 << 30;

/// A field of an object, and what is wrong with it.
pub(super) type Wrong = (String, String);

/// What an object asks for: as many pods of a shape.
pub(super) type Pods = (Arc<Shape>, usize);

/// An object, and where it is.
struct Object {
    line: u64,
    /// Which item of a list it is, to be put before a field.
    item: String,
    value: Value,
}

/// Reads nodes and pods.
///
/// Counts of pods are those of `replicas`, and of `parallelism` for jobs, as far as they have so many `completions`. Left out are
/// pods that have ended, what another object of the file controls and is counted with, pods of daemon sets, which are
/// bound to a node, cron jobs, and objects of all other kinds, priority classes too: only a priority in numbers counts. An
/// error's line is the one on which the document begins, if the YAML itself is sound.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn objects(mut input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| TraceError::unreadable(file, error))?;
    let text = String::from_utf8(bytes).map_err(|error| TraceError::unreadable(file, error))?;
    let mut objects = Vec::new();
    for (line, document) in documents(&text) {
        let value = serde_yaml_ng::from_str::<Option<Value>>(document).map_err(|error| {
            let below = error.location().map_or(0, |location| location.line().saturating_sub(1));
            TraceError::field(file, line + below as u64, "document", error.to_string())
        })?;
        objects.extend(value.map(|value| Object { line, item: String::new(), value }));
    }
    let objects: Vec<Object> = objects.into_iter().flat_map(items).collect();
    let names: BTreeSet<String> = objects.iter().map(|object| identity(&object.value)).collect();
    let machine = machine("", MACHINE_CPU_MILLIS, MACHINE_MEMORY_BYTES, 0);
    let (mut trace, mut created) = (Trace { machine, ..Trace::default() }, Vec::new());
    for object in &objects {
        let wrong =
            |(field, problem): Wrong| TraceError::field(file, object.line, format!("{}{field}", object.item), problem);
        let at = moment(&object.value).map_err(wrong)?;
        if let Some(why) = take(&mut trace, &names, &object.value).map_err(wrong)? {
            trace.leave_out(why);
        }
        created.resize(trace.tasks.len(), at);
    }
    let first = created.iter().flatten().min().copied();
    for (task, at) in trace.tasks.iter_mut().zip(created) {
        let since = at.zip(first).map(|(at, first)| at.duration_since(first));
        task.arrives = since.and_then(|since| Duration::try_from(since).ok()).unwrap_or_default();
    }
    Ok(trace)
}

/// Each document, with the line on which it begins.
fn documents(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let is_mark = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let (mut starts, mut at) = (vec![(1, 0)], 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_mark(line) {
            starts.push((number, at));
        }
        at += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|(_, at)| *at).chain([text.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|((line, from), to)| Some((line, text.get(from..to)?)))
}

/// The object, or those that it lists.
fn items(object: Object) -> Vec<Object> {
    let Object { line, value: Value::Object(mut fields), .. } = object else { return vec![object] };
    let is_list = fields.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match fields.remove("items") {
        Some(Value::Array(items)) if is_list => {
            let item = |(at, value)| Object { line, item: format!("items[{at}]."), value };
            items.into_iter().enumerate().map(item).collect()
        }
        items => {
            fields.extend(items.map(|items| ("items".to_owned(), items)));
            vec![Object { line, item: String::new(), value: fields.into() }]
        }
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether its kind is of a group whose kinds are known here.
fn is_of_kubernetes(object: &Value) -> bool {
    let group = text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
    matches!(group, "" | "apps" | "batch")
}

/// The namespace that an object is in, if its kind has one.
pub(super) fn namespace(object: &Value) -> &str {
    Some(text(object, "/metadata/namespace")).filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Its namespace and name.
pub(super) fn full_name(object: &Value) -> String {
    format!("{}/{}", namespace(object), text(object, "/metadata/name"))
}

/// What tells it from all other objects.
pub(super) fn identity(object: &Value) -> String {
    format!("{} {}", text(object, "/kind"), full_name(object))
}

/// Which object controls it.
fn controller(object: &Value) -> Option<(&str, String)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
    let kind = text(owner, "/kind");
    Some((kind, format!("{kind} {}/{}", namespace(object), text(owner, "/name"))))
}

fn moment(object: &Value) -> Result<Option<Timestamp>, Wrong> {
    match object.pointer("/metadata/creationTimestamp") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(|text| text.parse().ok())
            .map(Some)
            .ok_or_else(|| ("metadata.creationTimestamp".to_owned(), format!("{value} is no date and time"))),
    }
}

/// Takes what is of use in an object, or says why it is left out; `names` are those of all objects of the file.
fn take(trace: &mut Trace, names: &BTreeSet<String>, object: &Value) -> Result<Option<&'static str>, Wrong> {
    let kind = text(object, "/kind");
    if kind.is_empty() {
        return Err(("kind".into(), "it is missing".into()));
    }
    Ok(match (kind, controller(object)) {
        _ if !is_of_kubernetes(object) => Some("objects of other kinds"),
        (_, Some(("DaemonSet", _))) => Some("pods of daemon sets"),
        (_, Some((_, owner))) if names.contains(&owner) => Some("counted with its controller"),
        ("DaemonSet", _) => Some("daemon sets"),
        ("CronJob", _) => Some("cron jobs"),
        ("Pod", _) if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") => Some("pods that have ended"),
        ("Pod", _) => {
            let shape = template(object, namespace(object), "")?;
            trace.tasks.push(task(full_name(object), &shape));
            None
        }
        ("Node", _) => {
            trace.nodes.push(node(object)?);
            None
        }
        _ => {
            let Some((shape, count)) = pods(object)? else { return Ok(Some("objects of other kinds")) };
            trace.tasks.extend((0..count).map(|at| task(format!("{}-{at}", full_name(object)), &shape)));
            None
        }
    })
}

/// A pod as a task that doesn't end.
pub(super) fn task(name: String, shape: &Arc<Shape>) -> Task {
    Task { queue: shape.namespace.clone(), priority: shape.priority, ..Task::pod(name, Arc::clone(shape)) }
}

/// The pods that an object asks for; `None` if its kind is none of those known to.
pub(super) fn pods(object: &Value) -> Result<Option<Pods>, Wrong> {
    let count = match text(object, "/kind") {
        _ if !is_of_kubernetes(object) => return Ok(None),
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" => {
            count(object, "replicas")?.unwrap_or(1)
        }
        "Job" if object.pointer("/spec/suspend") == Some(&Value::Bool(true)) => 0,
        "Job" => {
            let parallel = count(object, "parallelism")?.unwrap_or(1);
            count(object, "completions")?.map_or(parallel, |completions| parallel.min(completions))
        }
        _ => return Ok(None),
    };
    let pod =
        object.pointer("/spec/template").ok_or_else(|| ("spec.template".to_owned(), "it is missing".to_owned()))?;
    Ok(Some((template(pod, namespace(object), "spec.template.")?, count)))
}

/// A number of pods in an object's spec.
fn count(object: &Value, field: &str) -> Result<Option<usize>, Wrong> {
    match object.pointer(&format!("/spec/{field}")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => number_of_pods(value).map(Some).map_err(|problem| (format!("spec.{field}"), problem)),
    }
}

pub(super) fn number_of_pods(value: &Value) -> Result<usize, String> {
    let number = value.as_u64().filter(|number| *number <= PODS_MAX);
    number.map(|number| number as usize).ok_or_else(|| format!("{value} is not between 0 and {PODS_MAX}"))
}

/// The shape of a template's pods; `field` is what the names of its fields begin with.
pub(super) fn template(template: &Value, namespace: &str, field: &str) -> Result<Arc<Shape>, Wrong> {
    let mut template = template.clone();
    quantities(&mut template, field)?;
    let wrong = |error: serde_json::Error| (format!("{field}spec"), error.to_string());
    let PodTemplateSpec { metadata, spec } = serde_json::from_value(template).map_err(wrong)?;
    let mut metadata = metadata.unwrap_or_default();
    metadata.namespace = Some(namespace.to_owned());
    let (pod, _) = PodView::of(&Pod { metadata, spec, status: None }).unbound();
    Ok(pod.shape)
}

fn node(object: &Value) -> Result<NodeInfo, Wrong> {
    let mut object = object.clone();
    quantities(&mut object, "")?;
    if ["allocatable", "capacity"].iter().all(|list| object.pointer(&format!("/status/{list}")).is_none()) {
        return Err(("status.allocatable".into(), "it is missing".into()));
    }
    let node: Node = serde_json::from_value(object).map_err(|error| ("status".to_owned(), error.to_string()))?;
    let mut info = NodeInfo::of(&node);
    if info.allocatable.pods == 0 {
        info.allocatable.pods = NODE_PODS_DEFAULT;
    }
    Ok(info)
}

/// Makes texts of amounts that are written as numbers, as the API server does; what is no amount is refused.
fn quantities(value: &mut Value, path: &str) -> Result<(), Wrong> {
    match value {
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, value)| {
            let path = format!("{path}{name}");
            let is_list = matches!(name.as_str(), "requests" | "limits" | "overhead" | "allocatable" | "capacity");
            match value {
                Value::Object(amounts) if is_list => amounts
                    .iter_mut()
                    .try_for_each(|(resource, amount)| quantity(amount, &format!("{path}.{resource}"))),
                _ => quantities(value, &format!("{path}.")),
            }
        }),
        Value::Array(items) => items
            .iter_mut()
            .zip(0..)
            .try_for_each(|(item, at)| quantities(item, &format!("{}[{at}].", path.trim_end_matches('.')))),
        _ => Ok(()),
    }
}

fn quantity(amount: &mut Value, path: &str) -> Result<(), Wrong> {
    if amount.is_number() {
        *amount = Value::String(amount.to_string());
    }
    let known = amount.as_str().and_then(|text| Quantity::from_str(text).ok());
    match known {
        Some(known) if known >= Quantity::default() => Ok(()),
        _ => Err((path.to_owned(), format!("{amount} is no quantity"))),
    }
}

#[cfg(test)]
mod tests {
    use super::objects;

    const MANIFEST: &str = "
# nothing yet
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: a}}
spec: {taints: [{key: gpu, effect: NoSchedule}]}
status: {allocatable: {cpu: 3920m, memory: 12Gi, nvidia.com/gpu: 2}}
--- # another
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, creationTimestamp: 2026-01-01T00:00:10Z}
spec:
  replicas: 3
  template:
    metadata: {labels: {app: web}}
    spec:
      priority: 7
      containers: [{name: c, resources: {requests: {cpu: 0.5, memory: 64Mi}}}]
---
kind: List
items:
- {kind: Pod, metadata: {name: one, creationTimestamp: 2026-01-01T00:00:00Z}, spec: {nodeName: n1, containers: []}}
- {kind: Pod, metadata: {name: done}, status: {phase: Succeeded}}
- kind: Pod
  metadata: {name: web-x, namespace: shop, ownerReferences: [{kind: Deployment, name: web, controller: true}]}
- {kind: Job, metadata: {name: j}, spec: {parallelism: 4, completions: 2, template: {spec: {containers: []}}}}
- {kind: DaemonSet, metadata: {name: agent}}
- {kind: Service, metadata: {name: web}}
";

    #[test]
    fn workloads_are_expanded_into_pods() {
        let trace = objects(MANIFEST.as_bytes(), "all.yaml").expect("manifests");
        let seen: Vec<_> = trace.tasks.iter().map(|task| (&*task.name, task.arrives.as_secs())).collect();
        let web = [("shop/web-0", 10), ("shop/web-1", 10), ("shop/web-2", 10)];
        assert_eq!(seen, [&web[..], &[("default/one", 0), ("default/j-0", 0), ("default/j-1", 0)]].concat());
        let pod = &trace.tasks[0];
        assert_eq!(
            (&*pod.queue, pod.priority, pod.shape.labels.get("app").map(String::as_str)),
            ("shop", 7, Some("web"))
        );
        assert_eq!((pod.shape.requests.cpu, pod.shape.requests.memory, pod.runs), (500, 64 << 20, None));
        assert_eq!(trace.tasks[3].shape.node_name, None, "it waits for a place anew");
        let [node] = &trace.nodes[..] else { panic!("{:?}", trace.nodes) };
        assert_eq!(
            (node.allocatable.cpu, node.allocatable.amount("nvidia.com/gpu"), node.allocatable.pods),
            (3_920, 2, 110)
        );
        assert_eq!(node.taints.len(), 1);
        let why: Vec<_> = trace.left_out.into_iter().collect();
        assert_eq!(
            why,
            [
                ("counted with its controller", 1),
                ("daemon sets", 1),
                ("objects of other kinds", 1),
                ("pods that have ended", 1)
            ]
        );
    }

    #[test]
    fn json_is_read_as_kubectl_writes_it() {
        let list = "{\n\t\"kind\": \"PodList\",\n\t\"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}, \
                    \"spec\": {\"containers\": []}}]\n}";
        assert_eq!(objects(list.as_bytes(), "pods.json").expect("a list").tasks.len(), 1);
        assert_eq!(objects(&b""[..], "empty.yaml").expect("nothing").tasks.len(), 0);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        for (text, message) in [
            ("a: 1\n---\n\nkind: Pod\nb: [", "m.yaml:6: document: "),
            ("---\nmetadata: {}\n", "m.yaml:1: kind: it is missing"),
            ("kind: Deployment\n---\nkind: Pod", "m.yaml:1: spec.template: it is missing"),
            (
                "kind: ReplicaSet\nspec: {replicas: many}",
                "m.yaml:1: spec.replicas: \"many\" is not between 0 and 150000",
            ),
            (
                "kind: List\nitems: [{kind: Pod, spec: {containers: [{resources: {requests: {cpu: much}}}]}}]",
                "m.yaml:1: items[0].spec.containers[0].resources.requests.cpu: \"much\" is no quantity",
            ),
            ("kind: Node\nstatus: {capacity: {cpu: -1}}", "m.yaml:1: status.capacity.cpu: \"-1\" is no quantity"),
            ("kind: Node", "m.yaml:1: status.allocatable: it is missing"),
            ("kind: Pod\nspec: 7", "m.yaml:1: spec: invalid type"),
            (
                "kind: Pod\nspec: {containers: []}\nmetadata: {creationTimestamp: noon}",
                "m.yaml:1: metadata.creationTimestamp: \"noon\" is no date and time",
            ),
        ] {
            let error = objects(text.as_bytes(), "m.yaml").expect_err("a bad document").to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
