//! Leader election under paused time: SEMANTICS 47.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use orchestra_core::{
    clock::{Timestamp, TokioClock},
    controller::{LeaderElection, election::ELECTION_NAMESPACE},
    rng::Entropy,
};
use serde_json::json;
use tokio::{task::JoinHandle, time::Instant};

use super::{network::Network, world};

/// How many act, and the most there ever were.
#[derive(Clone, Debug, Default)]
struct Acting {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Acting {
    fn begin(&self) -> Self {
        let now = 1 + self.now.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(now, Ordering::SeqCst);
        self.clone()
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }
}

struct Act(Acting);

impl Drop for Act {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A candidate whose clock is an hour off for each of its seeds: no one may mind.
pub(super) fn candidate(client: Client, seed: u64) -> LeaderElection {
    let epoch = Timestamp::from_second(1_893_456_000 + 3_600 * i64::try_from(seed).expect("small")).expect("in range");
    LeaderElection::new(client, "loops", "host", Arc::new(TokioClock::starting_at(epoch)), Entropy::seeded(seed))
}

fn run(election: LeaderElection, acting: &Acting) -> JoinHandle<()> {
    let acting = acting.clone();
    tokio::spawn(async move {
        election
            .run(|_| async {
                let _act = Act(acting.begin());
                std::future::pending::<()>().await;
            })
            .await;
    })
}

async fn lease(client: &Client) -> (String, i32) {
    let lease = Api::<Lease>::namespaced(client.clone(), ELECTION_NAMESPACE).get("loops").await.expect("there");
    let spec = lease.spec.expect("a spec");
    (spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or(0))
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

/// Between two looks at its lease others may have led, and have given it up again.
#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_its_lease_free_has_lost_it() {
    let client = world::empty();
    let election = candidate(client.clone(), 1);
    let led = tokio::spawn(async move { election.led(|_| std::future::pending::<()>()).await });
    seconds(1).await;
    let leases = Api::<Lease>::namespaced(client.clone(), ELECTION_NAMESPACE);
    let freed = Patch::Merge(json!({ "spec": { "holderIdentity": "" } }));
    leases.patch("loops", &PatchParams::default(), &freed).await.expect("freed");
    seconds(5).await;
    assert!(led.is_finished(), "what was led goes on");
    led.await.expect("it does not panic").expect_err("it has lost the lease");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_candidates_leads_for_as_long_as_it_lives() {
    let (client, acting) = (world::empty(), Acting::default());
    let (a, b) = (candidate(client.clone(), 1), candidate(client.clone(), 2));
    let first = a.identity().to_owned();
    let _running = (run(a, &acting), run(b, &acting));
    for _ in 0..120 {
        seconds(5).await;
        assert_eq!(acting.now(), 1);
        assert_eq!(lease(&client).await, (first.clone(), 0));
    }
    assert_eq!(acting.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_has_stopped_before_another_starts() {
    let (client, acting, network) = (world::empty(), Acting::default(), Network::default());
    let _first = run(candidate(network.client(&client), 1), &acting);
    seconds(1).await;
    let second = candidate(client.clone(), 2);
    let identity = second.identity().to_owned();
    let _second = run(second, &acting);
    seconds(30).await;
    network.cut(true);
    let cut = Instant::now();
    while acting.now() == 1 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cut.elapsed() <= Duration::from_secs(11), "still acting {:?} after it was cut off", cut.elapsed());
    while acting.now() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cut.elapsed() <= Duration::from_secs(20), "nobody led for {:?}", cut.elapsed());
    assert_eq!(lease(&client).await, (identity.clone(), 1));
    // Back on the network, the first one waits its turn.
    network.cut(false);
    seconds(120).await;
    assert_eq!((lease(&client).await.0, acting.most.load(Ordering::SeqCst)), (identity, 1));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let (client, acting) = (world::empty(), Acting::default());
    let first = candidate(client.clone(), 1);
    let running = run(first.clone(), &acting);
    seconds(1).await;
    let _second = run(candidate(client.clone(), 2), &acting);
    seconds(30).await;
    running.abort();
    let _ = running.await;
    first.release().await;
    let released = Instant::now();
    while acting.now() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(released.elapsed() <= Duration::from_millis(2_500), "taken after {:?}", released.elapsed());
}

/// They are one candidate, which leads once at a time.
#[tokio::test(start_paused = true)]
async fn clones_of_a_candidate_wait_for_each_other() {
    let (client, acting) = (world::empty(), Acting::default());
    let election = candidate(client.clone(), 1);
    let first = run(election.clone(), &acting);
    let _second = run(election, &acting);
    seconds(300).await;
    assert_eq!((acting.now(), lease(&client).await.1), (1, 0));
    first.abort();
    seconds(30).await;
    assert_eq!((acting.now(), acting.most.load(Ordering::SeqCst), lease(&client).await.1), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_gives_the_lease_up() {
    let client = world::empty();
    assert_eq!(candidate(client.clone(), 1).led(async |_| 7).await, Ok(7));
    assert_eq!(lease(&client).await.0, "");
}
