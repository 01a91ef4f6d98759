use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufReader, Read, Write},
    num::NonZeroU32,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::External;
use crate::{
    clock::Timestamp,
    rng::Entropy,
    scheduler::{
        Ask, DeviceRequest, NodeInfo, Op, Plan, PodId, PodView, Resources, Scheduler as _, Shape, Snapshot, Unit,
        UnitId, conformance,
    },
};

/// A program in this process: it is run on each line that is written, and what it says can be read.
#[derive(Clone)]
struct InProcess(Arc<Mutex<Process>>);

struct Process {
    program: Box<dyn FnMut(&Value) -> String + Send>,
    line: Vec<u8>,
    said: VecDeque<u8>,
}

impl Write for InProcess {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Process { program, line, said } = &mut *self.0.lock().expect("no program panics");
        line.extend_from_slice(bytes);
        if line.ends_with(b"\n") {
            said.extend(program(&serde_json::from_slice(line).expect("an ask is JSON")).into_bytes());
            line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for InProcess {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().expect("no program panics").said.read(buffer)
    }
}

fn external(program: impl FnMut(&Value) -> String + Send + 'static) -> External {
    let process = Process { program: Box::new(program), line: Vec::new(), said: VecDeque::new() };
    let process = InProcess(Arc::new(Mutex::new(process)));
    External::new("in-process", process.clone(), BufReader::new(process))
}

fn amount(amounts: &Value, resource: &str) -> i64 {
    amounts[resource].as_i64().unwrap_or(0)
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// Which devices a pod gets, those with the least left first; `None` if there are too few.
fn devices(shape: &Value, node: &Value) -> Option<Vec<usize>> {
    let wanted = &shape["devices"];
    let count = wanted["count"].as_u64().unwrap_or(0) as usize;
    let model = node["devices"].get("model");
    if count > 0 && !list(wanted, "models").is_empty() && !list(wanted, "models").iter().any(|one| Some(one) == model) {
        return None;
    }
    let mut left: Vec<(i64, usize)> =
        list(&node["devices"], "left").iter().map(|left| left.as_i64().unwrap_or(0)).zip(0..).collect();
    left.retain(|(left, _)| *left >= amount(wanted, "millis"));
    left.sort_unstable();
    (left.len() >= count).then(|| left.iter().take(count).map(|(_, at)| *at).collect())
}

fn fits(shape: &Value, node: &Value) -> bool {
    let tolerable = |taint: &Value| taint["effect"] == "PreferNoSchedule";
    let selected = |(key, value): (&String, &Value)| node["labels"].get(key) == Some(value);
    let is_free = |port: &Value| !list(node, "host_ports").contains(port);
    let has_left = |(resource, wanted): (&String, &Value)| {
        amount(&node["requested"], resource) + wanted.as_i64().unwrap_or(0) <= amount(&node["allocatable"], resource)
    };
    node.get("unschedulable").is_none()
        && list(node, "taints").iter().all(tolerable)
        && shape.get("node_selector").and_then(Value::as_object).into_iter().flatten().all(selected)
        && list(shape, "host_ports").iter().all(is_free)
        && shape["requests"].as_object().into_iter().flatten().all(has_left)
        && devices(shape, node).is_some()
}

/// First fit, by the protocol alone; knows the cluster from one ask to the next.
fn first_fit() -> impl FnMut(&Value) -> String + Send {
    let mut nodes: BTreeMap<String, Value> = BTreeMap::new();
    move |ask| {
        if ask["anew"] == true {
            nodes.clear();
        }
        for node in list(ask, "nodes") {
            nodes.insert(node["name"].as_str().expect("a name").into(), node.clone());
        }
        let (mut now, mut steps, mut left) = (nodes.clone(), Vec::new(), Vec::new());
        for unit in list(ask, "units") {
            // One pod that finds no node leaves no trace.
            let (before, mut ops) = ((list(unit, "pods").len() > 1).then(|| now.clone()), Vec::new());
            for pod in list(unit, "pods") {
                let shape = &ask["shapes"][pod["shape"].as_u64().expect("a number") as usize];
                let on_offer = |name: &str| ask.get("scope").is_none() || list(ask, "scope").contains(&name.into());
                let Some((name, node)) = now.iter_mut().find(|(name, node)| on_offer(name) && fits(shape, node)) else {
                    continue;
                };
                let chosen = devices(shape, node).expect("it fits");
                for (resource, wanted) in shape["requests"].as_object().expect("amounts") {
                    let sum = amount(&node["requested"], resource) + wanted.as_i64().expect("an amount");
                    node["requested"][resource] = sum.into();
                }
                for device in &chosen {
                    let left = node["devices"]["left"][device].as_i64().expect("an amount");
                    node["devices"]["left"][device] = (left - amount(&shape["devices"], "millis")).into();
                }
                let ports = [list(node, "host_ports"), list(shape, "host_ports")].concat();
                node["host_ports"] = ports.into();
                ops.push(json!({ "place": { "pod": pod["id"], "node": name, "devices": chosen } }));
            }
            if ops.len() < (unit["pods_min"].as_u64().expect("a number") as usize).max(1) {
                now = before.unwrap_or(now);
                left.push(&unit["id"]);
            } else {
                steps.push(json!({ "unit": unit["id"], "ops": ops }));
            }
        }
        format!("{}\n", json!({ "version": 1, "steps": steps, "left": left }))
    }
}

mod laws {
    use super::{external, first_fit};

    crate::scheduler_conformance!(external(first_fit()));
}

/// A program that does anything: places pods anywhere, on nodes that there are or not, leaves units out, answers them twice.
fn drunk(seed: u64) -> impl FnMut(&Value) -> String + Send {
    let entropy = Entropy::seeded(seed);
    move |ask| {
        let below = |bound: usize| (entropy.next_u64() % bound as u64) as usize;
        let (mut steps, mut left) = (Vec::new(), Vec::new());
        for unit in list(ask, "units") {
            for _ in 0..below(3) {
                let ops = list(unit, "pods").iter().filter(|_| below(8) > 0).map(|pod| {
                    let node = format!("n{:02}", below(13));
                    match below(6) {
                        0 => json!({ "place": { "pod": below(60), "node": node } }),
                        1 => json!({ "place": { "pod": pod["id"], "node": node, "devices": [below(70), below(3)] } }),
                        2 => json!({ "evict": { "pod": below(60), "for": pod["id"] } }),
                        _ => json!({ "place": { "pod": pod["id"], "node": node } }),
                    }
                });
                steps.push(json!({ "unit": unit["id"], "ops": ops.collect::<Vec<_>>() }));
            }
            if below(4) == 0 {
                left.push(unit["id"].clone());
            }
        }
        match below(12) {
            0 => "{\"version\":1\n".into(),
            _ => format!("{}\n", json!({ "version": 1, "steps": steps, "left": left })),
        }
    }
}

#[test]
fn whatever_a_program_does_its_plans_are_total_feasible_and_whole() {
    for (seed, evicts) in [(1, false), (2, true)] {
        let scheduler = || if evicts { external(drunk(seed)).evicting() } else { external(drunk(seed)) };
        conformance::every_unit_is_planned_or_left(scheduler());
        conformance::every_step_is_feasible(scheduler());
        conformance::no_gang_is_split(scheduler());
        conformance::own_steps_do_not_conflict(scheduler());
        conformance::the_scope_is_kept(scheduler());
    }
}

/// Two nodes of 1000, of which the first has one device and a pod of 300 on it, and two units that wait: a pod of 600 that
/// needs half of a device, and a gang of two pods of 500.
fn cluster() -> (Snapshot, Vec<Unit>) {
    let shape = |cpu, count| Shape {
        requests: Resources { cpu, pods: 1, ..Resources::default() },
        devices: DeviceRequest { count, millis: 500 * u16::from(count), ..DeviceRequest::default() },
        ..Shape::default()
    };
    let node = |name: &str, devices| NodeInfo {
        name: name.into(),
        allocatable: Resources { cpu: 1_000, pods: 10, ..Resources::default() },
        devices,
        ..NodeInfo::default()
    };
    let pods = [("old", 300, 0), ("web", 600, 1), ("a", 500, 0), ("b", 500, 0)];
    let pods = pods.map(|(name, cpu, count)| (PodView::new(name, shape(cpu, count)), None));
    let mut snapshot = Snapshot::new([node("n0", 1), node("n1", 0)], pods);
    snapshot.place(PodId(0), crate::scheduler::NodeId(0).into());
    let unit = |id, pods: &[u32]| Unit {
        id: UnitId(id),
        pods: pods.iter().map(|pod| PodId(*pod)).collect(),
        pods_min: pods.len(),
        priority: 0,
        queue: "q".into(),
        since: Timestamp::UNIX_EPOCH,
    };
    (snapshot, vec![unit(0, &[1]), unit(1, &[2, 3])])
}

fn ask<'a>(snapshot: &'a Snapshot, pending: &'a [Unit]) -> Ask<'a> {
    let (now, seed, steps_max) = (Timestamp::UNIX_EPOCH, u64::MAX, NonZeroU32::MAX);
    Ask { now, seed, snapshot, pending, scope: None, steps_max }
}

/// What becomes of an answer to an ask for both units: the plan, and what was wrong with it.
fn judged(answer: &str, evicting: bool) -> (Plan, Vec<String>) {
    let (snapshot, units) = cluster();
    let line = format!("{answer}\n");
    let scheduler = external(move |_| line.clone());
    let mut scheduler = if evicting { scheduler.evicting() } else { scheduler };
    let plan = scheduler.plan(&ask(&snapshot, &units));
    let faults = scheduler.faults().take();
    assert_eq!(scheduler.faults().count(), faults.len() as u64);
    (plan, faults.iter().map(ToString::to_string).collect())
}

/// An answer that gives the web pod to n0, as it should, and the gang to these nodes.
fn gang(ops: &str) -> String {
    let web = r#"{"unit":0,"ops":[{"place":{"pod":1,"node":"n0","devices":[0]}}]}"#;
    format!(r#"{{"version":1,"steps":[{web},{{"unit":1,"ops":[{ops}]}}],"left":[]}}"#)
}

fn place(pod: u32, node: &str) -> String {
    format!(r#"{{"place":{{"pod":{pod},"node":"{node}"}}}}"#)
}

#[test]
fn a_sound_plan_is_taken_as_it_is() {
    let both = format!("{},{}", place(2, "n1"), place(3, "n1"));
    let (plan, faults) = judged(&gang(&both), false);
    assert_eq!((plan.steps.len(), plan.left.len(), faults), (2, 0, vec![]));
    let Op::Place { place, .. } = &plan.steps[0].ops[0] else { panic!("{plan:?}") };
    assert!(place.devices.contains(0));
}

#[test]
fn a_step_that_does_not_hold_is_dropped_and_named() {
    let (a, b) = (place(2, "n1"), place(3, "n1"));
    let unit = |problem: &str| format!("the policy's plan for unit 1 doesn't hold: {problem}");
    for (ops, problem) in [
        (a.clone(), "it places 1 pods, where 2 have to be"),
        (String::new(), "it places 0 pods, where 2 have to be"),
        (format!("{a},{}", place(3, "n0")), "node \"n0\" doesn't take pod 3: Insufficient cpu (NodeResourcesFit)"),
        (format!("{a},{}", place(3, "n7")), "there is no node \"n7\""),
        (format!("{a},{}", place(9, "n1")), "pod 9 is not of the unit"),
        (format!("{a},{}", place(1, "n1")), "pod 1 is not of the unit"),
        (format!("{a},{a}"), "pod 2 is placed twice"),
        (
            format!("{a},{}", b.replace("\"n1\"", "\"n1\",\"devices\":[0]")),
            "devices [0] of node \"n1\" are not what pod 3 needs",
        ),
        (format!(r#"{{"evict":{{"pod":0,"for":2}}}},{a},{b}"#), "it may not evict"),
    ] {
        let (plan, faults) = judged(&gang(&ops), false);
        assert_eq!(faults, [unit(problem)], "{ops}");
        let [left] = &plan.left[..] else { panic!("{plan:?}") };
        // The first pod of the gang has room on one node, and so has the second.
        let why: Vec<_> = left.why.iter().map(|(reasons, count)| (reasons[0].to_string(), *count)).collect();
        let not_chosen = format!("node(s) were not chosen, as {}", unit(problem));
        assert_eq!((plan.steps.len(), why), (1, vec![("Insufficient cpu".into(), 1), (not_chosen, 1)]));
    }
}

#[test]
fn units_that_are_not_answered_once_are_named() {
    for (answer, expected) in [
        (r#"{"version":1,"steps":[],"left":[0]}"#, "unit 1 doesn't hold: it is neither in a step nor left"),
        (r#"{"version":1,"steps":[],"left":[0,1,1]}"#, "unit 1 doesn't hold: it is answered twice"),
        (r#"{"version":1,"steps":[],"left":[0,1,7]}"#, "unit 7 doesn't hold: it was not asked for"),
    ] {
        let (plan, faults) = judged(answer, false);
        assert_eq!((plan.steps.len(), plan.left.len(), faults.len()), (0, 2, 1), "{faults:?}");
        assert!(faults[0].contains(expected), "{faults:?}");
    }
    let (plan, faults) = judged(r#"{"version":1,"steps":[],"left":[0,1]}"#, false);
    assert_eq!(faults.len(), 0, "a policy may leave units over");
    let why: Vec<_> = plan.left[0].why.iter().map(|(reasons, count)| (reasons[0].to_string(), *count)).collect();
    let [devices, chosen] =
        ["node(s) didn't have the devices that the pod needs", "node(s) were not chosen by the policy"];
    assert_eq!(why, [(devices.to_owned(), 1), (chosen.to_owned(), 1)], "what rules a node out is said first");
}

#[test]
fn what_is_no_plan_leaves_everything_over() {
    for (answer, expected) in [
        ("hello", "the policy's answer is no plan: expected value at line 1 column 1"),
        ("[]", "the policy's answer is no plan: "),
        (r#"{"version":1,"steps":[]}"#, "the policy's answer is no plan: missing field `left`"),
        (
            r#"{"version":2,"steps":[],"left":[0,1]}"#,
            "the policy's answer is no plan: its version is 2, where 1 is spoken",
        ),
        (r#"{"version":1,"steps":[],"left":[],"note":1}"#, "the policy's answer is no plan: unknown field `note`"),
    ] {
        let (plan, faults) = judged(answer, false);
        assert_eq!((plan.steps.len(), plan.left.len(), faults.len()), (0, 2, 1), "{faults:?}");
        assert!(faults[0].starts_with(expected), "{faults:?}");
    }
}

#[test]
fn only_what_runs_is_evicted_for_a_pod_of_the_unit() {
    let evict = |victim: u32, preemptor: u32| {
        let ops = format!(r#"{{"evict":{{"pod":{victim},"for":{preemptor}}}}},{},{}"#, place(2, "n1"), place(3, "n1"));
        judged(&gang(&ops), true)
    };
    let (plan, faults) = evict(0, 2);
    assert_eq!((plan.steps.len(), faults), (2, vec![]));
    assert_eq!(plan.steps[1].ops[0], Op::Evict { pod: PodId(0), preemptor: Some(PodId(2)) });
    for (victim, preemptor, problem) in [
        (1, 2, "pod 1 doesn't run"),
        (99, 2, "pod 99 doesn't run"),
        (0, 1, "pod 1, for which it evicts, is not of the unit"),
    ] {
        let (plan, faults) = evict(victim, preemptor);
        assert!(plan.steps.len() == 1 && faults[0].ends_with(problem), "{faults:?}");
    }
}

#[test]
fn a_program_that_ends_or_hangs_is_told_of_and_not_asked_again() {
    let (snapshot, units) = cluster();
    let ask = ask(&snapshot, &units);
    let mut scheduler = External::new("ended", io::sink(), io::empty());
    let plans = [scheduler.plan(&ask), scheduler.plan(&ask)];
    assert!(plans.iter().all(|plan| plan.steps.is_empty() && plan.left.len() == 2));
    let faults: Vec<String> = scheduler.faults().take().iter().map(ToString::to_string).collect();
    let [ended, gone] =
        ["has ended without an answer", "is not asked any more"].map(|end| format!("the policy's program {end}"));
    assert_eq!(faults, [ended, gone]);

    /// Its input is closed.
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut scheduler = External::new("closed", Closed, io::empty());
    assert_eq!(scheduler.plan(&ask).left.len(), 2);
    assert_eq!(scheduler.faults().take()[0].to_string(), "the policy's program has ended without an answer");

    /// A reader with a bound on how long it waits.
    struct Hangs;
    impl Read for Hangs {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
    let mut scheduler = External::new("hangs", io::sink(), BufReader::new(Hangs));
    assert_eq!(scheduler.plan(&ask).left.len(), 2);
    let faults = scheduler.faults().take();
    let source = std::error::Error::source(&faults[0]).map(ToString::to_string);
    assert_eq!(
        (faults[0].to_string(), source),
        ("the policy's program can't be talked to".into(), Some("timed out".into()))
    );
}

#[test]
fn nodes_that_have_not_changed_are_not_told_again() {
    let (mut snapshot, units) = cluster();
    let asks: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (heard, mut answers) = (Arc::clone(&asks), 0);
    let mut scheduler = external(move |ask| {
        heard.lock().expect("no test panics").push(ask.clone());
        answers += 1;
        if answers == 4 { "?\n".into() } else { "{\"version\":1,\"steps\":[],\"left\":[0,1]}\n".into() }
    })
    .evicting();
    let mut told = |snapshot: &Snapshot| {
        let _ = scheduler.plan(&ask(snapshot, &units));
        let ask = asks.lock().expect("no test panics").last().cloned().expect("an ask");
        let names: Vec<String> =
            list(&ask, "nodes").iter().map(|node| node["name"].as_str().unwrap_or("").into()).collect();
        (ask["anew"] == true, names.join(" "), ask)
    };
    let all = |anew, names: &str| (anew, names.to_owned());
    let (anew, names, first) = told(&snapshot);
    assert_eq!((anew, names), all(true, "n0 n1"));
    let pods = json!([{ "id": 0, "priority": 0, "requests": { "cpu": 300, "pods": 1 }, "devices": [] }]);
    assert_eq!(first["nodes"][0]["pods"], pods, "what can be evicted is told");
    assert_eq!(first["seed"], u64::MAX);
    assert_eq!(told(&snapshot).1, "");
    snapshot.evict(PodId(0));
    let (anew, names, changed) = told(&snapshot);
    assert_eq!((anew, names, &changed["nodes"][0]["pods"]), (false, "n0".into(), &json!([])));
    assert_eq!(told(&snapshot).1, "", "the fourth answer is no plan");
    assert_eq!(told(&snapshot).1, "n0 n1", "so that all is told again");
    let copy = snapshot.clone();
    let (anew, names, _) = told(&copy);
    assert_eq!((anew, names), all(true, "n0 n1"), "another cluster");
}

proptest! {
    #[test]
    fn no_line_makes_the_scheduler_panic(line in "\\PC*", tail in any::<Vec<u8>>()) {
        let (snapshot, units) = cluster();
        let bytes = [line.as_bytes(), &tail].concat();
        let plan = External::new("noise", io::sink(), io::Cursor::new(bytes)).plan(&ask(&snapshot, &units));
        prop_assert_eq!((plan.steps.len(), plan.left.len()), (0, 2));
    }
}
