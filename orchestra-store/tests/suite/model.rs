//! The same random sequences on every store, beside one plain model: those that agree with it agree with one another.

use std::env;
#[cfg(feature = "etcd")]
use std::{thread, time::Duration};

use orchestra_core::store::conformance::model::check_sequences;
#[cfg(feature = "etcd")]
use orchestra_core::store::conformance::model::{Share, check_share};
use orchestra_store::{DurableStore, MemoryStore};
#[cfg(feature = "etcd")]
use orchestra_store::{EtcdOptions, EtcdStore, etcd::testing::Etcd};

/// How many sequences there are; CONTRIBUTING.md has the command for a campaign.
const SEQUENCES_VARIABLE: &str = "ORCHESTRA_MODEL_SEQUENCES";
const SEQUENCES: u32 = 2_000;

fn sequences() -> u32 {
    env::var(SEQUENCES_VARIABLE).map_or(SEQUENCES, |text| text.parse().expect("a number of sequences"))
}

#[test]
fn a_memory_store_answers_as_the_model() {
    check_sequences(|| async { MemoryStore::new() }, sequences());
}

#[test]
fn a_durable_store_answers_as_the_model() {
    let open = || async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        (DurableStore::open(directory.path()).expect("a store opens"), directory)
    };
    check_sequences(open, sequences());
}

/// How many etcds share the sequences: one mostly waits for the next of its own rounds, every 100 ms.
#[cfg(feature = "etcd")]
const ETCDS: u32 = 4;

/// How long an etcd may take to answer: a campaign takes long enough to meet a machine that is busy with something else.
#[cfg(feature = "etcd")]
const PATIENCE: Duration = Duration::from_secs(120);
/// An etcd gives up itself after 5 s and twice the election timeout.
#[cfg(feature = "etcd")]
const PATIENT: [&str; 2] = ["--heartbeat-interval=100", "--election-timeout=5000"];

#[cfg(feature = "etcd")]
#[test]
fn etcd_answers_as_the_model() {
    let open = || async {
        let etcd = Etcd::start_with(&PATIENT, None).await;
        let options = EtcdOptions { request_timeout: PATIENCE, keepalive_timeout: PATIENCE, ..etcd.options() };
        (EtcdStore::connect(options).await.expect("etcd answers"), etcd)
    };
    // What a share finds fails the test when the scope ends.
    thread::scope(|scope| {
        for first in 0..ETCDS {
            scope.spawn(move || check_share(open, sequences(), Share { first, of: ETCDS }));
        }
    });
}
