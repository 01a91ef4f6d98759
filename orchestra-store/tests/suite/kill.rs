//! `kill -9` at random moments: the test binary runs itself as the process that dies.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use futures::StreamExt as _;
use orchestra_core::{
    rng::Entropy,
    store::{Key, Prefix, Revision, Store, Txn},
};
use orchestra_store::{DurableOptions, DurableStore};

/// Names the directory of the store to a child; in its absence a test binary is nobody's child.
const DIRECTORY_VARIABLE: &str = "ORCHESTRA_STORE_KILL_DIRECTORY";
/// Says how often to kill, for campaigns.
const ROUNDS_VARIABLE: &str = "ORCHESTRA_STORE_KILL_ROUNDS";
const ROUNDS: u64 = 50;
const ROUNDS_IN_CI: u64 = 300;
const WRITERS: usize = 4;
const ACKS_MAX: u64 = 100;

/// Small logs, so that the killed process is in a checkpoint now and then.
const OPTIONS: DurableOptions = DurableOptions {
    history: orchestra_store::HistoryLimits { commits_max: 10_000, bytes_max: 1 << 24 },
    log_bytes_min: 4 << 10,
    reserve_bytes: 1 << 10,
    create: true,
};

/// What a child said of a commit that was acknowledged: `revision key value`.
struct Ack {
    revision: Revision,
    key: Key,
    value: String,
}

/// Rules 1, 3 and 17: each acknowledged write is there, and no revision is used again.
#[tokio::test]
async fn no_acknowledged_write_is_lost_to_kill_9() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let entropy = Entropy::seeded(9);
    let mut highest = Revision(0);
    let mut acked: BTreeMap<Key, Ack> = BTreeMap::new();
    for round in 0..rounds() {
        let acks = run_and_kill(directory.path(), 1 + entropy.next_u64() % ACKS_MAX);
        for ack in acks {
            assert!(ack.revision > highest, "revision {} is used again", ack.revision);
            if acked.get(&ack.key).is_none_or(|earlier| earlier.revision < ack.revision) {
                acked.insert(ack.key.clone(), ack);
            }
        }
        let store = DurableStore::open_with(directory.path(), OPTIONS).expect("a killed store opens");
        let revision = store.revision().await.expect("a revision");
        for ack in acked.values() {
            let entry = store.get(&ack.key).await.expect("a read").expect("an acknowledged entry");
            assert!(entry.modified >= ack.revision && revision >= ack.revision);
            if entry.modified == ack.revision {
                assert_eq!(entry.value, ack.value.as_bytes());
            }
        }
        assert!(revision > highest, "round {round} wrote something");
        highest = revision;
        assert_history_is_whole(&store).await;
    }
}

fn rounds() -> u64 {
    match env::var(ROUNDS_VARIABLE) {
        Ok(rounds) => rounds.parse().expect("a number of rounds"),
        Err(_) if env::var_os("CI").is_some() => ROUNDS_IN_CI,
        Err(_) => ROUNDS,
    }
}

/// Starts a child on `directory`, kills it after `acks` acknowledgements, and returns all that it said.
fn run_and_kill(directory: &Path, acks: u64) -> Vec<Ack> {
    let mut child = Command::new(env::current_exe().expect("this test's path"))
        .args(["--exact", "kill::a_child_writes_until_it_is_killed", "--nocapture"])
        .env(DIRECTORY_VARIABLE, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test binary starts");
    let mut said = Vec::new();
    let mut output = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while output.read_line(&mut line).expect("a line of text") > 0 && line.ends_with('\n') {
        said.push(parse(&line));
        line.clear();
        if said.len() as u64 == acks {
            child.kill().expect("a kill");
        }
    }
    let status = child.wait().expect("the end of the child");
    assert!(!status.success(), "the child was killed");
    said
}

fn parse(line: &str) -> Ack {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [revision, key, value] = words[..] else { panic!("the child failed: {line}") };
    Ack {
        revision: Revision(revision.parse().expect("a revision")),
        key: Key::parse(key).expect("a key"),
        value: value.to_owned(),
    }
}

/// Rule 10: what is left of the history has no holes.
async fn assert_history_is_whole(store: &DurableStore) {
    let end = store.revision().await.expect("a revision");
    let mut watch = store.watch(&Prefix::all(), Revision(0)).await.expect("a watch");
    let mut last = match watch.next().await.expect("an item") {
        Ok(batch) => batch.revision,
        Err(orchestra_core::store::Error::Compacted { floor }) => {
            watch = store.watch(&Prefix::all(), floor).await.expect("a watch");
            floor
        }
        Err(error) => panic!("expected a watch, got {error:?}"),
    };
    while last < end {
        let batch = watch.next().await.expect("an item").expect("a batch");
        assert_eq!(batch.revision.0, last.0 + 1);
        last = batch.revision;
    }
}

/// Not a test of its own: what the killed process runs. Without a parent it does nothing.
#[tokio::test]
async fn a_child_writes_until_it_is_killed() {
    let Some(directory) = env::var_os(DIRECTORY_VARIABLE) else { return };
    let store = DurableStore::open_with(directory, OPTIONS).expect("a killed store opens");
    let writers = (0..WRITERS).map(|writer| write_forever(&store, writer));
    futures::future::join_all(writers).await;
}

async fn write_forever(store: &DurableStore, writer: usize) {
    for round in 0_u64.. {
        let key = Key::new(["writers", &format!("{writer}-{}", round % 10)]).expect("a valid key");
        let seen = store.get(&key).await.expect("a read");
        let next = seen.as_ref().map_or(0, |entry| entry.modified.0);
        let value = format!("{next}-{}", "x".repeat(100));
        let bytes = Bytes::from(value.clone());
        let txn = match seen {
            None => Txn::create(key.clone(), bytes),
            Some(entry) => Txn::replace(entry.key, entry.modified, bytes),
        };
        let revision = store.commit(txn).await.expect("a commit");
        let line = format!("{} {key} {value}\n", revision.0);
        io::stderr().write_all(line.as_bytes()).expect("a parent that listens");
    }
}
