//! What a watch tells, and from when: SEMANTICS 10 to 14, 23, 37 and 64.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use http::{Request, header};
use http_body_util::Full;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    client::Body,
    runtime::{WatchStreamExt as _, watcher},
};
use orchestra_core::server::UserInfo;
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use super::fixture::{CONFIG_MAPS, Cluster, Events, MERGE_PATCH, NAMESPACES, config_map, number, version};

const END: &str = "k8s.io/initial-events-end";

async fn labelled(cluster: &Cluster, name: &str, label: &str) -> Value {
    let patch = json!({ "metadata": { "labels": { "l": label } } });
    cluster.patch(&format!("{CONFIG_MAPS}/{name}"), MERGE_PATCH, &patch).await.ok()
}

fn told(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

/// SEMANTICS 23: whether what is there comes first, and a bookmark after it, by each of the 18 ways to begin.
#[tokio::test(start_paused = true)]
async fn a_watch_begins_as_its_client_says() {
    let cluster = Cluster::new();
    let before = version(&cluster.post(CONFIG_MAPS, &config_map("a")).await.ok());
    let after = version(&cluster.post(CONFIG_MAPS, &config_map("b")).await.ok());
    for bookmarks in [false, true] {
        for initial in [None, Some(false), Some(true)] {
            for asked in [None, Some(0), Some(before)] {
                let mut path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks={bookmarks}");
                if let Some(initial) = initial {
                    path += &format!("&sendInitialEvents={initial}&resourceVersionMatch=NotOlderThan");
                }
                if let Some(asked) = asked {
                    path += &format!("&resourceVersion={asked}");
                }
                let mut watch = cluster.watch(&path).await;
                // A version, unless it is to be a list first, is where the log is taken up.
                let resumes = asked == Some(before) && initial != Some(true);
                if resumes {
                    assert_eq!(watch.told().await, told("ADDED", "b"), "{path}");
                } else if initial != Some(false) {
                    assert_eq!(watch.told().await, told("ADDED", "a"), "{path}");
                    assert_eq!(watch.told().await, told("ADDED", "b"), "{path}");
                }
                if initial == Some(true) && bookmarks {
                    let event = watch.next().await.expect("the watch goes on");
                    assert_eq!(event["type"], "BOOKMARK", "{path}");
                    assert_eq!(event["object"]["metadata"]["annotations"][END], "true", "{path}");
                    assert_eq!(version(&event["object"]), after, "{path}");
                }
                assert!(watch.is_quiet().await, "{path}");
            }
        }
    }
}

/// SEMANTICS 23.
#[tokio::test(start_paused = true)]
async fn a_beginning_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new();
    for (query, words) in [
        ("sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ("sendInitialEvents=true&resourceVersionMatch=Exact", "resourceVersionMatch: Unsupported value: \"Exact\""),
        ("resourceVersionMatch=NotOlderThan", "forbidden for watch unless sendInitialEvents is provided"),
    ] {
        cluster.get(&format!("{CONFIG_MAPS}?watch=1&{query}")).await.failed_with(422, "Invalid", words);
    }
    for query in ["resourceVersion=x", "timeoutSeconds=x", "allowWatchBookmarks=x", "labelSelector=a%20b"] {
        cluster.get(&format!("{CONFIG_MAPS}?watch=1&{query}")).await.failed(400, "BadRequest");
    }
}

/// SEMANTICS 10, 11 and 64.
#[tokio::test(start_paused = true)]
async fn a_watch_tells_every_change_once_and_can_be_resumed_anywhere() {
    let cluster = Cluster::new();
    let start = cluster.now().await;
    let path = |after: u64| format!("{CONFIG_MAPS}?watch=1&resourceVersion={after}");
    let mut whole = cluster.watch(&path(start)).await;
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    labelled(&cluster, "a", "x").await;
    cluster.post(CONFIG_MAPS, &config_map("b")).await.ok();
    cluster.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let mut events = Vec::new();
    for expected in [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("ADDED", "a")] {
        let event = whole.next().await.expect("the watch goes on");
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(expected.0), &json!(expected.1)));
        assert_eq!((&event["object"]["kind"], &event["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
        events.push(event);
    }
    // The last that was there, at the version at which it went.
    assert_eq!(events[3]["object"]["metadata"]["labels"], json!({ "l": "x" }));
    assert_eq!(events[3]["object"]["data"], json!({ "a": "1" }));
    let versions: Vec<_> = events.iter().map(|event| version(&event["object"])).collect();
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");

    for (at, after) in versions.iter().enumerate() {
        let mut resumed = cluster.watch(&path(*after)).await;
        for event in &events[at + 1..] {
            assert_eq!(resumed.next().await.as_ref(), Some(event));
        }
        assert!(resumed.is_quiet().await);
    }
}

/// SEMANTICS 23.
#[tokio::test(start_paused = true)]
async fn an_object_that_enters_a_selection_is_added_and_one_that_leaves_is_deleted() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=l%3Dx")).await;
    labelled(&cluster, "a", "y").await;
    let entered = labelled(&cluster, "a", "x").await;
    let event = watch.next().await.expect("it entered");
    assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &entered));
    let left = labelled(&cluster, "a", "z").await;
    let event = watch.next().await.expect("it left");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(version(&event["object"]), version(&left));
    assert_eq!(event["object"]["metadata"]["labels"]["l"], "x", "as it was when it was last selected");
    cluster.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert!(watch.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_may_be_on_one_object_or_on_one_namespace() {
    let cluster = Cluster::new();
    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "default2" } })).await.ok();
    let mut one = cluster.watch(&format!("{CONFIG_MAPS}/a?watch=1")).await;
    let mut all = cluster.watch(&format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name!%3Db")).await;
    for name in ["b", "a", "c"] {
        cluster.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    cluster.post("/api/v1/namespaces/default2/configmaps", &config_map("a")).await.ok();
    assert_eq!(one.told().await, told("ADDED", "a"));
    assert_eq!((all.told().await, all.told().await), (told("ADDED", "a"), told("ADDED", "c")));
    assert!(one.is_quiet().await && all.is_quiet().await);
}

/// SEMANTICS 12: a bookmark says how far the watch has come, although nothing that it is about has happened.
#[tokio::test(start_paused = true)]
async fn bookmarks_come_every_minute_if_there_is_anything_to_say() {
    let cluster = Cluster::new();
    let path = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={}", cluster.now().await);
    let mut watch = cluster.watch(&path).await;
    let made = cluster.post(NAMESPACES, &json!({ "metadata": { "name": "other" } })).await.ok();
    assert!(watch.is_quiet().await);
    let event = watch.next().await.expect("a bookmark");
    assert_eq!((&event["type"], version(&event["object"])), (&json!("BOOKMARK"), version(&made)));
    assert_eq!((&event["object"]["kind"], &event["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert!(tokio::time::timeout(Duration::from_secs(200), watch.line()).await.is_err(), "it has all been said");
    // Without leave there is none.
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", version(&made) - 1)).await;
    assert!(tokio::time::timeout(Duration::from_secs(200), watch.line()).await.is_err());
}

/// SEMANTICS 11, 14 and 23: never a silent gap.
#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_behind_what_is_kept_ends_with_an_error() {
    let cluster = Cluster::new();
    let start = version(&cluster.post(CONFIG_MAPS, &config_map("a")).await.ok());
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={start}");
    let mut slow = cluster.watch(&path).await;
    for at in 0..4_200 {
        labelled(&cluster, "a", &at.to_string()).await;
    }
    // The cache follows turn by turn: time goes on once it has come to the end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut last = start;
    let error = loop {
        let event = slow.next().await.expect("an error before the end");
        if event["type"] == "ERROR" {
            break event;
        }
        assert_eq!(version(&event["object"]), last + 1, "no gap");
        last += 1;
    };
    assert_eq!((&error["object"]["kind"], &error["object"]["code"]), (&json!("Status"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(slow.next().await.is_none());
    // Who asks for what is gone is told at once, and by an event: clients list again on nothing else (SEMANTICS 23).
    let mut late = cluster.watch(&path).await;
    let error = late.next().await.expect("an error");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(late.next().await.is_none());
}

/// SEMANTICS 23: kube-rs goes on with another server of the store, whose events do not reach back to where it was.
#[tokio::test(start_paused = true)]
async fn a_watcher_outlives_its_server() {
    let store = Arc::new(MemoryStore::new());
    let first = Cluster::over(store.clone());
    let seen = version(&first.post(CONFIG_MAPS, &config_map("a")).await.ok());
    let current = Arc::new(Mutex::new(first.server.clone()));
    let behind = Arc::clone(&current);
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = behind.lock().expect("no test panics here").client(UserInfo::master("admin"));
        async move { client.send(request).await }
    });
    let maps: Api<ConfigMap> = Api::default_namespaced(kube::Client::new(service, "default"));
    let mut applied =
        watcher(maps, watcher::Config::default().disable_bookmarks()).default_backoff().applied_objects().boxed();
    let mut next = async || {
        let map = timeout(Duration::from_secs(60), applied.next()).await.expect("within a minute");
        map.expect("a watcher does not end").map(|map| map.name_any())
    };
    assert_eq!(next().await.ok().as_deref(), Some("a"));

    first.server.drain();
    first.post(NAMESPACES, &json!({ "metadata": { "name": "other" } })).await.ok();
    let second = Cluster::over(store);
    *current.lock().expect("no test panics here") = second.server.clone();
    second.post(CONFIG_MAPS, &config_map("b")).await.ok();
    let mut late = second.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={seen}")).await;
    assert_eq!(late.next().await.expect("an error")["object"]["code"], 410);
    // It may say first that it has to list again.
    while next().await.ok().as_deref() != Some("b") {}
}

/// SEMANTICS 11: a watch from the future waits, and tells nothing that is before it.
#[tokio::test(start_paused = true)]
async fn a_watch_from_the_future_waits_for_it() {
    let cluster = Cluster::new();
    let future = cluster.now().await + 1;
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={future}")).await;
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    assert!(watch.is_quiet().await);
    cluster.post(CONFIG_MAPS, &config_map("b")).await.ok();
    assert_eq!(watch.told().await, told("ADDED", "b"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_time_is_over() {
    let cluster = Cluster::new();
    for (asked, lasts) in [("5", 5), ("0", 2_700), ("99999999999", 86_400)] {
        let begun = tokio::time::Instant::now();
        let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds={asked}");
        assert!(cluster.watch(&path).await.line().await.is_none());
        assert_eq!(begun.elapsed().as_secs(), lasts);
    }
}

/// SEMANTICS 37.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_about_to_stop_ends_its_watches_where_they_can_be_resumed() {
    let cluster = Cluster::new();
    let path = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={}", cluster.now().await);
    let mut watch = cluster.watch(&path).await;
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "other" } })).await.ok();
    let now = cluster.now().await;
    cluster.server.drain();
    assert_eq!(watch.told().await, told("ADDED", "a"));
    let event = watch.next().await.expect("a last bookmark");
    assert_eq!((&event["type"], version(&event["object"])), (&json!("BOOKMARK"), now));
    assert!(watch.next().await.is_none());
    assert_eq!(cluster.get("/readyz").await.code, 500);
    assert_eq!(cluster.get("/livez").await.code, 200);
    cluster.get(&format!("{CONFIG_MAPS}/a")).await.ok();
}

/// An event is encoded once: every watcher is given the very same bytes.
#[tokio::test(start_paused = true)]
async fn watchers_share_the_bytes_of_an_event() {
    let cluster = Cluster::new();
    let path = format!("{CONFIG_MAPS}?watch=1&labelSelector=l");
    let mut watchers: Vec<Events> = Vec::new();
    for _ in 0..3 {
        watchers.push(cluster.watch(&path).await);
    }
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    labelled(&cluster, "a", "enters").await;
    labelled(&cluster, "a", "changes").await;
    cluster.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    for event in ["ADDED", "MODIFIED", "DELETED"] {
        let mut lines = Vec::new();
        for watcher in &mut watchers {
            lines.push(watcher.line().await.expect("the watch goes on"));
        }
        assert!(lines[0].starts_with(format!("{{\"type\":\"{event}\"").as_bytes()));
        assert!(lines.iter().all(|line| line.as_ptr() == lines[0].as_ptr() && line.len() == lines[0].len()), "{event}");
    }
}

/// SEMANTICS 64 and 65.
#[tokio::test(start_paused = true)]
async fn a_watch_speaks_the_form_its_client_accepts() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let request = Request::builder().uri(format!("{CONFIG_MAPS}?watch=1")).header(header::ACCEPT, accept);
    let response = cluster.answer(request.body(Full::default()).expect("a request")).await;
    let mut watch = Events::of(response);
    labelled(&cluster, "a", "x").await;
    let gone = cluster.now().await + 1;
    cluster.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    for event_type in ["ADDED", "MODIFIED", "DELETED"] {
        let event = watch.next().await.expect("the watch goes on");
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!(event_type), &json!("PartialObjectMetadata")));
        assert_eq!(event["object"]["metadata"]["name"], "a");
        assert!(event["object"].get("data").is_none());
        if event_type == "DELETED" {
            assert_eq!(number(&event["object"]["metadata"]["resourceVersion"]), gone);
        }
    }
}
