//! Traces of SimKube (acrlabs/simkube), version 2: what was applied to a cluster and deleted from it, in MessagePack.
//!
//! An object's pods come when it is applied, and end when it is deleted, when fewer are asked for (the youngest first), or when
//! its template changes, as all of them are replaced then. Their namespace is their queue. What is there in the end doesn't
//! end, unless the trace has recorded how long the object's pods ran.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Trace, TraceError,
    kubernetes::{self, Pods, Wrong},
    machine,
};
use crate::scheduler::Shape;

/// The version of the format.
const VERSION: u16 = 2;

/// How deep values may be nested: deeper than any object of Kubernetes.
const DEPTH_MAX: usize = 128;

/// What nodes are taken for, as there are none in it: 16 cores, 64 GiB.
const MACHINE_CPU_MILLIS: i64 = 16_000;
const MACHINE_MEMORY_BYTES: i64 = 64 << 30;

#[derive(Debug, Deserialize)]
struct Exported {
    version: u16,
    config: Config,
    events: Vec<Event>,
    #[serde(default)]
    pod_lifecycles: BTreeMap<(String, String), BTreeMap<u64, Vec<Lifecycle>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    tracked_objects: BTreeMap<String, Tracked>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tracked {
    #[serde(default)]
    pod_spec_template_paths: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Event {
    ts: i64,
    #[serde(default)]
    applied_objs: Vec<Value>,
    #[serde(default)]
    deleted_objs: Vec<Value>,
}

/// When a pod ran, in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Lifecycle {
    Empty,
    #[allow(dead_code, reason = "since when doesn't tell how long")]
    Running(i64),
    Finished(i64, i64),
}

/// An object's pods of one template.
#[derive(Debug)]
struct Set {
    shape: Arc<Shape>,
    /// The tasks of those that are there, oldest first.
    there: Vec<usize>,
}

/// The trace in the making.
#[derive(Debug, Default)]
struct Replay {
    trace: Trace,
    /// The sets of each object, in the order of its templates.
    sets: BTreeMap<String, Vec<Set>>,
    /// How many pods each object has had.
    had: BTreeMap<String, usize>,
    /// How long pods ran, by their object, where that is known.
    ran: BTreeMap<String, Vec<Option<Duration>>>,
    now: Duration,
}

/// Reads what a tracer exported.
///
/// An object's pods are those of its kind's templates, as the tracer was configured, or as [`kubernetes`] knows
/// them; left out are objects of which neither tells. Recorded lifetimes are used in order, and again from the first when
/// there are no more, as SimKube does, where an object has had pods of one template only.
///
/// # Errors
///
/// [`TraceError`] names the file, and for what is wrong in an event, that by its number, and the field.
pub fn events(mut input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| TraceError::unreadable(file, error))?;
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(&bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    let exported = Exported::deserialize(&mut deserializer).map_err(|error| TraceError::unreadable(file, error))?;
    if exported.version != VERSION {
        return Err(TraceError::field(file, 0, "version", format!("{} is not {VERSION}", exported.version)));
    }
    let machine = machine("", MACHINE_CPU_MILLIS, MACHINE_MEMORY_BYTES, 0);
    let ran = exported.pod_lifecycles.into_iter().filter_map(|((kind, name), by_template)| {
        let mut templates = by_template.into_values();
        let only = templates.next().filter(|all| !all.is_empty() && templates.next().is_none())?;
        Some((format!("{kind} {name}"), only.into_iter().map(Lifecycle::lasted).collect()))
    });
    let mut replay = Replay { trace: Trace { machine, ..Trace::default() }, ran: ran.collect(), ..Replay::default() };
    let (first, mut last) = (exported.events.first().map_or(0, |event| event.ts), i64::MIN);
    for (number, event) in (1..).zip(&exported.events) {
        if event.ts < last {
            return Err(TraceError::field(file, number, "ts", format!("{} is before the event before it", event.ts)));
        }
        last = event.ts;
        replay.now =
            event.ts.checked_sub(first).map_or(Duration::MAX, |since| Duration::from_secs(since.unsigned_abs()));
        let wrong = |(field, problem): Wrong| TraceError::field(file, number, field, problem);
        for (object, at) in event.applied_objs.iter().zip(0..) {
            let wrong = |(field, problem): Wrong| wrong((format!("applied_objs[{at}].{field}"), problem));
            match asked_for(object, &exported.config).map_err(wrong)? {
                Some(pods) => replay.apply(object, pods),
                None => replay.trace.leave_out("objects of other kinds"),
            }
        }
        event.deleted_objs.iter().for_each(|object| replay.delete(object));
    }
    Ok(replay.trace)
}

impl Lifecycle {
    fn lasted(self) -> Option<Duration> {
        match self {
            Self::Empty | Self::Running(_) => None,
            Self::Finished(from, to) => to.checked_sub(from)?.try_into().ok().map(Duration::from_secs),
        }
    }
}

impl Replay {
    fn apply(&mut self, object: &Value, pods: Vec<Pods>) {
        let (key, name) = (kind_and_name(object), kubernetes::full_name(object));
        let mut sets = self.sets.remove(&key).unwrap_or_default().into_iter();
        let mut now = Vec::new();
        for (shape, count) in pods {
            let mut set = match sets.next() {
                Some(set) if set.shape == shape => set,
                other => {
                    other.into_iter().flat_map(|set| set.there).for_each(|task| self.end(task));
                    Set { shape, there: Vec::new() }
                }
            };
            let surplus = set.there.split_off(count.min(set.there.len()));
            surplus.into_iter().for_each(|task| self.end(task));
            while set.there.len() < count {
                let had = self.had.entry(key.clone()).or_insert(0);
                let mut task = kubernetes::task(format!("{name}-{had}"), &set.shape);
                task.arrives = self.now;
                task.runs = self.ran.get(&key).and_then(|all| all.get(*had % all.len())).copied().flatten();
                *had += 1;
                set.there.push(self.trace.tasks.len());
                self.trace.tasks.push(task);
            }
            now.push(set);
        }
        sets.flat_map(|set| set.there).for_each(|task| self.end(task));
        self.sets.insert(key, now);
    }

    fn delete(&mut self, object: &Value) {
        let sets = self.sets.remove(&kind_and_name(object)).unwrap_or_default();
        sets.into_iter().flat_map(|set| set.there).for_each(|task| self.end(task));
    }

    /// A pod is deleted, if it has not ended before.
    fn end(&mut self, task: usize) {
        if let Some(task) = self.trace.tasks.get_mut(task) {
            let lived = self.now.saturating_sub(task.arrives);
            task.runs = Some(task.runs.map_or(lived, |runs| runs.min(lived)));
        }
    }
}

/// As SimKube names an object: `apps/v1.Deployment dsb/nginx`.
fn kind_and_name(object: &Value) -> String {
    format!("{} {}", group_version_kind(object), kubernetes::full_name(object))
}

fn group_version_kind(object: &Value) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    format!("{}.{}", text("apiVersion"), text("kind"))
}

/// The pods that an object asks for, by each of its templates; `None` if nobody knows.
fn asked_for(object: &Value, config: &Config) -> Result<Option<Vec<Pods>>, Wrong> {
    if let Some(pods) = kubernetes::pods(object)? {
        return Ok(Some(vec![pods]));
    }
    let tracked = config.tracked_objects.get(&group_version_kind(object));
    let Some(paths) = tracked.and_then(|tracked| tracked.pod_spec_template_paths.as_ref()) else { return Ok(None) };
    let mut pods = Vec::new();
    for (template, parent) in paths.iter().flat_map(|path| templates(object, path)) {
        let shape = kubernetes::template(template, kubernetes::namespace(object), "template.")?;
        let replicas = parent.get("replicas").filter(|replicas| !replicas.is_null());
        let count = replicas.map_or(Ok(1), kubernetes::number_of_pods);
        pods.push((shape, count.map_err(|problem| ("replicas".to_owned(), problem))?));
    }
    Ok(Some(pods))
}

/// What is at a path, and what that is in; `*` stands for each item of a list.
fn templates<'a>(object: &'a Value, path: &str) -> Vec<(&'a Value, &'a Value)> {
    path.split('/').filter(|step| !step.is_empty()).fold(vec![(object, object)], |found, step| {
        let below = |(value, _): (&'a Value, &'a Value)| -> Vec<(&'a Value, &'a Value)> {
            match value {
                Value::Array(items) if step == "*" => items.iter().map(|item| (item, value)).collect(),
                _ => value.get(step).map(|inner| (inner, value)).into_iter().collect(),
            }
        };
        found.into_iter().flat_map(below).collect()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::events;

    fn deployment(replicas: u32, cpu: &str) -> Value {
        let container = json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "replicas": replicas, "template": { "spec": { "containers": [container] } } },
        })
    }

    /// A trace of these events.
    pub(in super::super) fn exported(version: u32, events: &Value) -> Vec<u8> {
        let tracked =
            json!({ "batch.volcano.sh/v1alpha1.Job": { "podSpecTemplatePaths": ["/spec/tasks/*/template"] } });
        let config = json!({ "trackedObjects": tracked });
        let trace =
            json!({ "version": version, "config": config, "events": events, "index": {}, "pod_lifecycles": {} });
        rmp_serde::to_vec_named(&trace).expect("it can be written")
    }

    #[test]
    fn pods_come_and_go_as_objects_are_applied() {
        let trace = exported(
            2,
            &json!([
                { "ts": 100, "applied_objs": [deployment(2, "1")], "deleted_objs": [] },
                { "ts": 110, "applied_objs": [deployment(3, "1")], "deleted_objs": [] },
                { "ts": 115, "applied_objs": [deployment(1, "1")], "deleted_objs": [] },
                { "ts": 120, "applied_objs": [deployment(1, "2")], "deleted_objs": [] },
                { "ts": 150, "applied_objs": [], "deleted_objs": [deployment(1, "2")] },
            ]),
        );
        let trace = events(&trace[..], "web.sktrace").expect("a trace");
        let seen = |task: &super::super::Task| {
            (task.name.to_string(), task.arrives.as_secs(), task.runs.map(|runs| runs.as_secs()))
        };
        assert_eq!(
            trace.tasks.iter().map(seen).collect::<Vec<_>>(),
            [
                ("shop/web-0".to_owned(), 0, Some(20)),
                ("shop/web-1".to_owned(), 0, Some(15)),
                ("shop/web-2".to_owned(), 10, Some(5)),
                ("shop/web-3".to_owned(), 20, Some(30)),
            ]
        );
        assert_eq!((&*trace.tasks[0].queue, trace.tasks[3].shape.requests.cpu), ("shop", 2_000));
    }

    #[test]
    fn templates_are_found_as_the_tracer_was_told() {
        let task = |replicas| json!({ "replicas": replicas, "template": { "spec": { "containers": [] } } });
        let job = json!({
            "apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": { "name": "j" },
            "spec": { "tasks": [task(2), task(3)] },
        });
        let trace = exported(2, &json!([{ "ts": 1, "applied_objs": [job, { "kind": "Service" }] }]));
        let trace = events(&trace[..], "jobs.sktrace").expect("a trace");
        assert_eq!(trace.to_string(), "5 tasks with 5 pods; left out: 1 (objects of other kinds)");
    }

    #[test]
    fn recorded_lifetimes_are_used_in_order() {
        use std::collections::BTreeMap;

        use serde::Serialize;

        #[derive(Serialize)]
        enum Lifecycle {
            Running(i64),
            Finished(i64, i64),
        }
        #[derive(Serialize)]
        struct Exported {
            version: u16,
            config: Value,
            events: Value,
            pod_lifecycles: BTreeMap<(&'static str, &'static str), BTreeMap<u64, Vec<Lifecycle>>>,
        }
        let lifecycles = vec![Lifecycle::Finished(100, 130), Lifecycle::Running(100)];
        let trace = Exported {
            version: 2,
            config: json!({}),
            events: json!([{ "ts": 100, "applied_objs": [deployment(3, "1")], "deleted_objs": [] }]),
            pod_lifecycles: BTreeMap::from([(("apps/v1.Deployment", "shop/web"), BTreeMap::from([(9, lifecycles)]))]),
        };
        let bytes = rmp_serde::to_vec_named(&trace).expect("it can be written");
        let trace = events(&bytes[..], "web.sktrace").expect("a trace");
        let runs: Vec<_> = trace.tasks.iter().map(|task| task.runs.map(|runs| runs.as_secs())).collect();
        assert_eq!(runs, [Some(30), None, Some(30)]);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_event_and_field() {
        let mut broken = deployment(1, "1");
        broken["spec"]["replicas"] = json!("many");
        for (version, events_of, message) in [
            (3, json!([]), "t:0: version: 3 is not 2"),
            (2, json!([{ "ts": 5 }, { "ts": 4 }]), "t:2: ts: 4 is before the event before it"),
            (
                2,
                json!([{ "ts": 5, "applied_objs": [broken] }]),
                "t:1: applied_objs[0].spec.replicas: \"many\" is not between 0 and 150000",
            ),
        ] {
            let error = events(&exported(version, &events_of)[..], "t").expect_err("a bad trace");
            assert_eq!(error.to_string(), message);
        }
        let error = events(&b"no trace"[..], "t").expect_err("no MessagePack");
        assert_eq!(error.to_string(), "t: can't be read");
    }
}
