//! Queues of tenants over time: who waits for whom.

use orchestra_core::{
    lab::simulation::{Agent, Arrival, Micros, Simulation, Work},
    rng::Entropy,
    scheduler::{FairShare, FirstFit, NodeInfo, Quota, Resources, Scheduler, Shape},
};

/// When the jobs of two tenants start on two cores, in seconds: six that come at once, and two a second later, each of a core for
/// 10 s.
fn starts(scheduler: impl Scheduler) -> [Vec<f64>; 2] {
    let amounts = |cpu| Resources { cpu, pods: 10, ..Resources::default() };
    let node = NodeInfo { name: "n".into(), allocatable: amounts(2), ..NodeInfo::default() };
    let job = |queue: &str, at: f64| {
        let requests = Resources { pods: 1, ..amounts(1) };
        let work = Work::new(Shape { requests, ..Shape::default() }, Some(Micros::from_seconds(10.0)));
        Arrival { queue: queue.into(), ..Arrival::pod(queue, Micros::from_seconds(at), work) }
    };
    let jobs: Vec<Arrival> = (0..6).map(|_| job("a", 0.0)).chain((0..2).map(|_| job("b", 1.0))).collect();
    let agents = vec![Agent::new(scheduler).whole_queue()];
    let outcome = Simulation::of(&[node]).run(jobs, agents, |_| 0, &Entropy::seeded(1));
    ["a", "b"].map(|queue| {
        let units = outcome.units.iter().filter(|unit| *unit.name == *queue);
        units.map(|unit| unit.placed.expect("everybody starts one day").seconds()).collect()
    })
}

#[test]
fn who_comes_later_does_not_wait_for_all_that_another_wants() {
    assert_eq!(starts(FirstFit::default()), [vec![0.0, 0.0, 10.0, 10.0, 20.0, 20.0], vec![30.0, 30.0]]);
    let dominant = FairShare::dominant(FirstFit::default(), []);
    assert_eq!(starts(dominant), [vec![0.0, 0.0, 10.0, 20.0, 30.0, 30.0], vec![10.0, 20.0]]);
}

/// Who is entitled to a core each, and may not borrow, leaves the other's free; who may, has it until somebody asks for it.
#[test]
fn what_is_not_lent_is_there_at_once() {
    let own = || Resources { cpu: 1, ..Resources::default() };
    let quotas = |borrowing_max: Option<Resources>| {
        let quota = |queue: &str| Quota { borrowing_max: borrowing_max.clone(), ..Quota::new(queue, own()) };
        FairShare::quotas(FirstFit::default(), [quota("a"), quota("b")])
    };
    let strict = starts(quotas(Some(Resources::default())));
    assert_eq!(strict, [vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0], vec![1.0, 11.0]]);
    assert_eq!(starts(quotas(None)), [vec![0.0, 0.0, 10.0, 20.0, 30.0, 30.0], vec![10.0, 20.0]]);
}
