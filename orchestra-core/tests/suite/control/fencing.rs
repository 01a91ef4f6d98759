//! What a leader writes too late, under paused time: SEMANTICS 47.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use k8s_openapi::api::{apps::v1::ReplicaSet, coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use orchestra_core::{
    clock::TokioClock,
    control_plane::ControlPlane,
    controller::election::{ELECTION_NAMESPACE, Lost},
};
use orchestra_store::MemoryStore;
use serde_json::json;
use tokio::{
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};

use super::{election::candidate, world};

async fn write(client: &Client, name: &str) -> kube::Result<ConfigMap> {
    let map = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a config map");
    Api::default_namespaced(client.clone()).create(&PostParams::default(), &map).await
}

/// Writes once a second, for ever, unless it can't.
async fn lead(client: Client, name: &str) -> kube::Error {
    for n in 0.. {
        if let Err(error) = write(&client, &format!("{name}-{n}")).await {
            return error;
        }
        sleep(Duration::from_secs(1)).await;
    }
    unreachable!("there are always more numbers")
}

async fn written(client: &Client, name: &str) -> usize {
    let maps = Api::<ConfigMap>::default_namespaced(client.clone()).list(&ListParams::default()).await.expect("a list");
    maps.iter().filter(|map| map.metadata.name.iter().any(|full| full.starts_with(name))).count()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_writes_nothing_when_it_goes_on() {
    let client = world::empty();
    let (first, second) = (candidate(client.clone(), 1), candidate(client.clone(), 2));
    let firsts = OnceLock::new();
    let mut leading = pin!(first.led(|client| {
        firsts.set(client.clone()).ok().expect("it leads once");
        lead(client, "first")
    }));
    timeout(Duration::from_secs(10), &mut leading).await.expect_err("it goes on leading");
    let before = written(&client, "first").await;
    assert!(before >= 5, "it wrote {before} times");

    // From here on it is not polled: its process is paused, and another takes over.
    let took = Arc::new(Notify::new());
    let other = (second.clone(), Arc::clone(&took));
    let _second = tokio::spawn(async move {
        let (second, took) = other;
        second
            .led(async |client| {
                took.notify_one();
                lead(client, "second").await
            })
            .await
    });
    took.notified().await;
    // What it had sent, or sends before it looks at the clock, arrives now.
    match write(firsts.get().expect("it led"), "first-late").await {
        Err(kube::Error::Api(refused)) => {
            assert_eq!(refused.code, 409);
            let why = format!("leader election lost: lease kube-system/loops is held by {}", second.identity());
            assert!(refused.message.contains(&why), "{}", refused.message);
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    // It goes on, and stops at once.
    assert_eq!(leading.await.expect_err("it has lost the lease"), Lost);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(written(&client, "first").await, before);
    assert!(written(&client, "second").await >= 30);
}

/// What outlives its term is refused for good: also when the same candidate leads again, be it that nobody else did between.
#[tokio::test(start_paused = true)]
async fn what_a_leader_left_running_writes_nothing_in_its_next_term() {
    let client = world::empty();
    let election = candidate(client.clone(), 1);
    let leases = Api::<Lease>::namespaced(client.clone(), ELECTION_NAMESPACE);
    let mut earlier = Vec::new();
    for term in 0..4 {
        let (handed, first) = oneshot::channel();
        let leading = election.clone();
        let led = tokio::spawn(async move {
            leading
                .led(async |client| {
                    handed.send(client).ok().expect("it is waited for");
                    std::future::pending::<()>().await;
                })
                .await
        });
        let now = first.await.expect("it leads");
        write(&now, &format!("term-{term}")).await.expect("a leader writes");
        for (of, late) in (0..).zip(&earlier) {
            match write(late, &format!("late-{of}")).await {
                Err(kube::Error::Api(refused)) => {
                    let why = format!("lease kube-system/loops is held in term {term}, not in term {of}");
                    assert!(refused.message.contains(&why), "{}", refused.message);
                }
                other => panic!("expected a refusal, got {other:?}"),
            }
        }
        earlier.push(now);
        match term {
            0 => led.abort(),
            1 => election.release().await,
            _ => drop(leases.delete("loops", &DeleteParams::default()).await.expect("it is there")),
        }
        let ended = led.await;
        assert!(matches!(&ended, Err(aborted) if aborted.is_cancelled()) || matches!(ended, Ok(Err(Lost))));
    }
    assert_eq!(written(&client, "late").await, 0);
}

/// The controllers of a control plane write by such a client: as soon as another holds their lease, and before they know.
#[tokio::test(start_paused = true)]
async fn controllers_write_nothing_once_their_lease_is_anothers() {
    let plane = ControlPlane::builder(MemoryStore::new()).clock(TokioClock::default()).seed(1).elected("host").start();
    let client = plane.client();
    let sets = Api::<ReplicaSet>::all(client.clone());
    world::create(&client, deployment("early")).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(sets.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    let leases = Api::<Lease>::namespaced(client.clone(), ELECTION_NAMESPACE);
    let taken = Patch::Merge(json!({ "spec": { "holderIdentity": "another", "leaseTransitions": 1 } }));
    leases.patch("kube-controller-manager", &PatchParams::default(), &taken).await.expect("it is taken");
    world::create(&client, deployment("late")).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(sets.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    // The other is gone, too; theirs again, they go on.
    sleep(Duration::from_secs(20)).await;
    assert_eq!(sets.list(&ListParams::default()).await.expect("a list").items.len(), 2);
}

fn deployment(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": "default" },
        "spec": { "replicas": 1, "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c", "image": "registry.example/web:1" }] } } },
    })
}
