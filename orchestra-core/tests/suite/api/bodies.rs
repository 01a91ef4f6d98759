//! Bodies that nobody asked for. Over HTTP/2 a client sees no answer while its body is not taken.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use http::{Method, Request, header};
use http_body::Frame;
use http_body_util::StreamBody;
use orchestra_core::server::{REQUEST_SECONDS_MAX, UserInfo, WRITES_IN_FLIGHT_MAX};
use tokio::{
    task::yield_now,
    time::{Duration, Instant},
};
use tower::ServiceExt as _;

use super::fixture::{CONFIG_MAPS, Cluster, NAMESPACES, PODS, config_map};

const MIB: usize = 1 << 20;

/// Sends a body of up to `frames` MiB, which then hangs if it is `stuck`; the code of the answer, and how many were read.
async fn sent(cluster: &Cluster, method: Method, path: &str, frames: usize, stuck: bool) -> (u16, usize) {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let frames = stream::iter(0..frames).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; MIB])))
    });
    let end = if stuck { stream::pending().boxed() } else { stream::empty().boxed() };
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(StreamBody::new(frames.chain(end))).expect("a request");
    if let Some(user) = &cluster.user {
        request.extensions_mut().insert(user.clone());
    }
    let response = cluster.server.clone().oneshot(request).await.expect("infallible");
    (response.status().as_u16(), read.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_to_its_end_whatever_is_answered() {
    let cluster = Cluster::new();
    let widgets = format!("{NAMESPACES}/default/widgets");
    let unknown = format!("{PODS}/a/unknown");
    for (method, path, code) in [
        (Method::POST, widgets.as_str(), 404),
        (Method::POST, "/apis/example.com/v1/widgets", 404),
        (Method::POST, &unknown, 404),
        (Method::PUT, CONFIG_MAPS, 405),
        (Method::POST, "/version", 405),
        (Method::POST, CONFIG_MAPS, 413),
        (Method::GET, CONFIG_MAPS, 200),
    ] {
        assert_eq!(sent(&cluster, method.clone(), path, 5, false).await, (code, 5), "{method} {path}");
    }
    let nobody = cluster.by(None);
    assert_eq!(sent(&nobody, Method::POST, CONFIG_MAPS, 5, false).await, (401, 5));
    let stranger = cluster.by(Some(UserInfo::new("ann", ["system:authenticated"])));
    assert_eq!(sent(&stranger, Method::POST, CONFIG_MAPS, 5, false).await, (403, 5));
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_cut_off_and_answered() {
    let cluster = Cluster::new();
    for (path, code) in [("/apis/example.com/v1/widgets", 404), (CONFIG_MAPS, 413)] {
        let (given, read) = sent(&cluster, Method::POST, path, usize::MAX, false).await;
        assert_eq!(given, code);
        assert!((16..=24).contains(&read), "{read}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_keeps_neither_its_answer_for_long_nor_others() {
    let cluster = Cluster::new();
    cluster.now().await;
    let begun = Instant::now();
    let widgets = "/apis/example.com/v1/widgets";
    let stuck = join_all((0..=WRITES_IN_FLIGHT_MAX).map(|_| sent(&cluster, Method::POST, widgets, 1, true)));
    let component = cluster.by(Some(UserInfo::new("system:kube-controller-manager", ["system:authenticated"])));
    let other = async {
        for _ in 0..10 {
            yield_now().await;
        }
        component.post(CONFIG_MAPS, &config_map("a")).await.ok();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    };
    let (answers, ()) = tokio::join!(stuck, other);
    assert!(answers.iter().all(|answer| *answer == (404, 1)));
    assert!(begun.elapsed() <= Duration::from_secs(REQUEST_SECONDS_MAX + 1), "{:?}", begun.elapsed());
    // A watch begins although its body goes on.
    let begun = Instant::now();
    assert_eq!(sent(&cluster, Method::GET, &format!("{PODS}?watch=1"), 1, true).await.0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
