//! The store on an etcd that others write to as well.

use orchestra_core::store::{Check, Op};

use super::*;

/// Writes `count` keys of somebody else's.
async fn write_elsewhere(etcd: &Etcd, count: usize) {
    let mut other = Client::connect([etcd.endpoint()], None).await.expect("etcd answers");
    for number in 0..count {
        other.put(format!("/elsewhere/{number}"), "x", None).await.expect("a put");
    }
}

/// A cache that waits for what a read has shown it must not wait for ever: revisions count the commits of all.
#[tokio::test]
async fn a_watch_comes_to_what_others_have_written_elsewhere_once_that_is_asked_for() {
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let mut watch = watch(&store).await;
    for round in 0..3 {
        write_elsewhere(&etcd, 5).await;
        let now = store.revision().await.expect("a revision");
        let mut reached = Revision(0);
        while reached < now {
            let batch = next(&mut watch).await;
            assert!(batch.changes.is_empty(), "got {batch:?}");
            assert!(batch.revision > reached, "a bookmark fell back");
            reached = batch.revision;
        }
        // What brings it there is no entry.
        assert_eq!(store.list(&Prefix::all()).await.expect("a listing").entries.len(), round);
        let created = create(&store, round, 1).await;
        assert_eq!(told(&mut watch, 1).await, created);
    }
}

/// SEMANTICS 1: who doesn't ask causes no commit.
#[tokio::test]
async fn a_watch_writes_nothing_unless_somebody_waits() {
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let now = store.revision().await.expect("a revision");
    let mut watch = store.watch(&Prefix::all(), now).await.expect("a watch");
    create(&store, 0, 1).await;
    told(&mut watch, 1).await;
    write_elsewhere(&etcd, 5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(create(&store, 1, 1).await, [Revision(now.0 + 7)]);
}

/// SEMANTICS 12: what etcd says of its own progress is a bookmark, for watches of a part too.
#[tokio::test]
async fn etcds_own_notes_of_progress_are_bookmarks() {
    let etcd = Etcd::start_with(&["--experimental-watch-progress-notify-interval=100ms"], None).await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let start = store.revision().await.expect("a revision");
    let mut watch = store.watch(&Prefix::new(["p"]).expect("a prefix"), start).await.expect("a watch");
    write_elsewhere(&etcd, 5).await;
    // Some may be told before all is written.
    let mut reached = start;
    while reached < Revision(start.0 + 5) {
        let batch = next(&mut watch).await;
        assert!(batch.revision > reached && batch.changes.is_empty(), "got {batch:?}");
        reached = batch.revision;
    }
    let created = create(&store, 0, 1).await;
    assert_eq!(told(&mut watch, 1).await, created);
}

/// A user that may only read has a watch all the same, and is told as much as etcd tells.
#[tokio::test]
async fn a_watch_that_may_not_write_goes_on() {
    let etcd = Etcd::start().await;
    require_users(&etcd).await.expect("etcd has users");
    let mut root = root(&etcd).await;
    let permission = Permission::new(PermissionType::Read, "/orchestra/").with_prefix();
    root.role_grant_permission("guest", permission).await.expect("it is granted");
    let of = |name| EtcdOptions { user: user(name, "secret"), ..etcd.options() };
    let reader = connect(of("guest")).await.expect("it is let in");
    let mut watch = watch(&reader).await;
    root.put("/elsewhere/x", "x", None).await.expect("a put");
    reader.revision().await.expect("a revision");
    let created = create(&connect(of("orchestra")).await.expect("it is let in"), 0, 2).await;
    assert_eq!(told(&mut watch, 2).await, created);
}

/// Whoever shares the etcd may compact it faster than a listing has its pages: that is told, not tried for ever.
#[tokio::test]
async fn a_listing_that_compaction_always_overtakes_ends() {
    const ENTRIES: usize = 3_000;
    // Some twenty pages.
    let value = Bytes::from(vec![b'x'; 16 << 10]);
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let mut other = Client::connect([etcd.endpoint()], None).await.expect("etcd answers");
    for first in (0..ENTRIES).step_by(60) {
        let keys = || (first..first + 60).map(|number| key(&number.to_string()));
        let checks = keys().map(Check::Absent).collect();
        let ops = keys().map(|key| Op::Put(key, value.clone())).collect();
        store.commit(Txn { checks, ops }).await.expect("a commit");
    }
    let compacting = async {
        loop {
            let put = other.put("/elsewhere", "x", None).await.expect("a put");
            let now = put.header().expect("a header").revision();
            other.compact(now, None).await.expect("a compaction");
        }
    };
    let listed = async {
        loop {
            match store.list(&Prefix::all()).await {
                Ok(listing) => assert_eq!(listing.entries.len(), ENTRIES),
                Err(error) => return error,
            }
        }
    };
    let error = tokio::select! {
        biased;
        error = timeout(Duration::from_secs(60), listed) => error.expect("a listing ends"),
        () = compacting => unreachable!("it goes on"),
    };
    let Error::Unavailable(source) = &error else { panic!("expected Unavailable, got {error:?}") };
    assert!(source.to_string().starts_with("compaction overtook each listing"), "{source}");
    assert_eq!(store.list(&Prefix::all()).await.expect("it is not overtaken").entries.len(), ENTRIES);
}
