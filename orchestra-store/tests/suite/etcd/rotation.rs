//! The store on an etcd of three members, each of which is killed in its turn, the leader and the one that is asked too.

use std::{sync::Arc, time::Duration};

use orchestra_core::{
    rng::Entropy,
    store::{
        Store,
        conformance::history::{Call, History, Log, Outcome, Recorded, Workload},
    },
};
use orchestra_store::{
    EtcdStore, Slow,
    etcd::testing::{EtcdCluster, MEMBERS},
    wrap::{Delay, Delays},
};

use super::cluster::leader;

/// How often each member is killed.
const TURNS: usize = 2;

/// Kills each member in its turn, when all are there; returns how often that was the leader.
async fn kill_each(mut cluster: EtcdCluster) -> (usize, EtcdCluster) {
    let mut leaders = 0;
    for victim in (0..TURNS * MEMBERS).map(|turn| turn % MEMBERS) {
        leaders += usize::from(leader(&cluster).await == victim);
        cluster.kill(victim).expect("it is killed");
        leader(&cluster).await;
        cluster.restart(victim).await.expect("it comes back");
    }
    (leaders, cluster)
}

/// How many commits came to each outcome: done, or not known.
fn commits(history: &History) -> [usize; 2] {
    let count = |is: fn(&Outcome) -> bool| {
        let of = |call: &Call| matches!(call, Call::Commit { outcome, .. } if is(outcome));
        history.operations.iter().filter(|operation| of(&operation.call)).count()
    };
    [count(|outcome| matches!(outcome, Outcome::Committed(_))), count(|outcome| *outcome == Outcome::Unknown)]
}

/// Laws 1 to 5, with commits whose outcome nobody was told: it is one or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_breaks_no_law_while_each_member_is_killed_in_turn() {
    let cluster = EtcdCluster::start().await;
    let store = EtcdStore::connect(cluster.options()).await.expect("etcd answers");
    // The checkers need not have more than some thousand calls.
    let call = Delay { min: Duration::from_millis(2), jitter: Duration::from_millis(20) };
    let store = Slow::new(store, Delays { reads: call, writes: call, ..Delays::default() }, Entropy::seeded(1));
    let log = Log::start(&store).await.expect("a listing");
    let store: Arc<dyn Store> = Arc::new(Recorded::new(store, log.clone()));
    let killing = tokio::spawn(kill_each(cluster));
    let mut seed = 0;
    while !killing.is_finished() {
        Workload::seeded(seed).run(&store).await;
        seed += 1;
    }
    let (leaders, _cluster) = killing.await.expect("they come back");
    let history = log.history();
    let [committed, unknown] = commits(&history);
    assert!(
        leaders > 0 && unknown > 0 && committed > unknown,
        "{leaders} leaders, {committed} commits, {unknown} in doubt"
    );
    if let Err(violation) = history.check() {
        panic!("{violation}\n{history:#?}");
    }
}
