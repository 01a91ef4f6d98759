//! Requests in flight are bounded: SEMANTICS 35.

use std::convert::Infallible;

use http::{Method, Request, header};
use http_body_util::{BodyExt as _, StreamBody};
use orchestra_core::server::{READS_IN_FLIGHT_MAX, REQUEST_SECONDS_MAX, UserInfo, WRITES_IN_FLIGHT_MAX};
use tokio::{
    task::{JoinSet, yield_now},
    time::{Duration, sleep},
};
use tower::ServiceExt as _;

use super::fixture::{CONFIG_MAPS, Cluster, PODS, config_map};

/// A write whose body never ends, by `user`.
async fn stuck(cluster: Cluster, user: UserInfo) -> u16 {
    let body = StreamBody::new(futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Infallible>>());
    let request = Request::builder().method(Method::POST).uri(CONFIG_MAPS);
    let mut request = request.header(header::CONTENT_TYPE, "application/json").body(body.boxed()).expect("a request");
    request.extensions_mut().insert(user);
    cluster.server.clone().oneshot(request).await.expect("infallible").status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn one_write_too_many_is_told_to_come_again() {
    let cluster = Cluster::new();
    let user = UserInfo::new("system:kube-controller-manager", ["system:authenticated"]);
    let other = cluster.by(Some(user.clone()));
    cluster.now().await;
    let mut writes = JoinSet::new();
    for _ in 0..WRITES_IN_FLIGHT_MAX {
        writes.spawn(stuck(cluster.clone(), user.clone()));
    }
    for _ in 0..10 {
        yield_now().await;
    }
    let refused = other.post(CONFIG_MAPS, &config_map("a")).await;
    refused.failed_with(429, "TooManyRequests", "Too many requests, please try again later.");
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert_eq!(refused.json()["details"]["retryAfterSeconds"], 1);

    other.get(CONFIG_MAPS).await.ok();
    other.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    cluster.post(CONFIG_MAPS, &config_map("by-a-master")).await.ok();
    let metrics = cluster.get("/metrics").await.text();
    assert!(metrics.contains("apiserver_dropped_requests_total{request_kind=\"mutating\"} 1"), "{metrics}");

    sleep(Duration::from_secs(REQUEST_SECONDS_MAX + 1)).await;
    assert!(writes.join_all().await.iter().all(|code| *code == 504));
    other.post(CONFIG_MAPS, &config_map("a")).await.ok();
}

#[tokio::test(start_paused = true)]
async fn what_stays_for_long_takes_no_place_and_probes_need_none() {
    let cluster = Cluster::new();
    let nobody = cluster.by(Some(UserInfo::new("system:kube-scheduler", ["system:authenticated"])));
    let mut watches = Vec::new();
    for _ in 0..=READS_IN_FLIGHT_MAX {
        watches.push(nobody.watch(&format!("{PODS}?watch=1")).await);
    }
    nobody.get(PODS).await.ok();
    let later = format!("{PODS}?resourceVersion=1000000");
    let reads: JoinSet<_> = (0..READS_IN_FLIGHT_MAX)
        .map(|_| {
            let (nobody, later) = (nobody.clone(), later.clone());
            async move { nobody.get(&later).await.code }
        })
        .collect();
    for _ in 0..10 {
        yield_now().await;
    }
    nobody.get(PODS).await.failed(429, "TooManyRequests");
    assert_eq!(nobody.get("/readyz").await.code, 200);
    assert!(reads.join_all().await.iter().all(|code| *code == 504));
    nobody.get(PODS).await.ok();
}
