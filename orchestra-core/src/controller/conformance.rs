//! The laws of [`Controller`] as checks, for every implementation.
//!
//! A controller is run over an API whose clients can be made to fail after any number of writes; a fresh controller must
//! then bring about the same state.

#![allow(clippy::missing_panics_doc, reason = "a law panics when it does not hold")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use http::{Method, Request};
use kube::{Client, client::Body};
use serde_json::Value;

use super::{Controller, ObjectKey};

/// How often a controller is called until it has to have settled.
const CALLS_MAX: usize = 64;
/// How many writes a controller may need at most.
const WRITES_MAX: usize = 256;

/// A controller under test, and the world around it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A new API with the objects in it that the controller is to act on.
    async fn world(&self) -> Client;

    /// A new controller that acts through `client`, its caches filled.
    async fn controller(&self, client: Client) -> Box<dyn Controller>;

    /// The object to reconcile.
    fn key(&self) -> ObjectKey;

    /// What the controller has brought about, without what differs from run to run, such as uids.
    async fn outcome(&self, client: &Client) -> Value;
}

/// A client whose writes are counted, and fail from a certain one on: that one is carried out, but its answer is lost.
#[derive(Clone, Debug)]
struct Writes {
    done: Arc<AtomicUsize>,
    fails_at: usize,
}

impl Writes {
    fn failing_at(fails_at: usize) -> Self {
        Self { done: Arc::default(), fails_at }
    }

    fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn client(&self, inner: Client) -> Client {
        let writes = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (inner, writes) = (inner.clone(), writes.clone());
            async move {
                let reads = matches!(*request.method(), Method::GET | Method::HEAD);
                let number = if reads { 0 } else { 1 + writes.done.fetch_add(1, Ordering::Relaxed) };
                if number > writes.fails_at {
                    return Err(lost());
                }
                let answer = inner.send(request).await.map_err(Into::into);
                if number == writes.fails_at && number > 0 { Err(lost()) } else { answer }
            }
        });
        Client::new(service, "default")
    }
}

fn lost() -> tower::BoxError {
    "the controller was killed".into()
}

/// Calls a controller until it writes no more; tells whether it got there.
async fn settle(controller: &dyn Controller, key: &ObjectKey, writes: &Writes) -> bool {
    for _ in 0..CALLS_MAX {
        let before = writes.count();
        let outcome = controller.reconcile(key).await;
        if outcome.is_ok() && writes.count() == before {
            return true;
        }
        if writes.count() > writes.fails_at {
            return false;
        }
    }
    panic!("still writing after {CALLS_MAX} calls");
}

async fn settled(fixture: &dyn Fixture, world: &Client) -> Value {
    let writes = Writes::failing_at(WRITES_MAX);
    let controller = fixture.controller(writes.client(world.clone())).await;
    assert!(settle(&*controller, &fixture.key(), &writes).await, "more than {WRITES_MAX} writes");
    fixture.outcome(world).await
}

/// Law 1: the outcome depends on the state read, not on how often or why it ran.
pub async fn one_controller_and_many_agree(fixture: &dyn Fixture) {
    let world = fixture.world().await;
    let first = settled(fixture, &world).await;
    for _ in 0..3 {
        assert_eq!(settled(fixture, &world).await, first, "another controller came to another outcome");
    }
    let other = fixture.world().await;
    assert_eq!(settled(fixture, &other).await, first, "an equal world came to another outcome");
}

/// Law 2: with nothing changed in between, a second call writes nothing.
pub async fn a_settled_controller_writes_nothing(fixture: &dyn Fixture) {
    let world = fixture.world().await;
    settled(fixture, &world).await;
    let writes = Writes::failing_at(WRITES_MAX);
    let controller = fixture.controller(writes.client(world)).await;
    let _ = controller.reconcile(&fixture.key()).await.expect("nothing fails");
    assert_eq!(writes.count(), 0, "writes of a controller that has nothing to do");
}

/// Law 3: killed after any write, whose answer it never saw, a later controller still converges.
pub async fn a_crash_at_any_write_is_made_good(fixture: &dyn Fixture) {
    let wanted = settled(fixture, &fixture.world().await).await;
    for fails_at in 1..=WRITES_MAX {
        let world = fixture.world().await;
        let writes = Writes::failing_at(fails_at);
        let controller = fixture.controller(writes.client(world.clone())).await;
        let survived = settle(&*controller, &fixture.key(), &writes).await && writes.count() < fails_at;
        drop(controller);
        assert_eq!(settled(fixture, &world).await, wanted, "after a crash at write {fails_at}");
        if survived {
            return;
        }
    }
    panic!("more than {WRITES_MAX} writes");
}

/// Makes a test of each law for the controller of a [`Fixture`], on paused time.
#[macro_export]
macro_rules! controller_conformance {
    ($fixture:expr) => {
        $crate::controller_conformance!(@each $fixture;
            one_controller_and_many_agree
            a_settled_controller_writes_nothing
            a_crash_at_any_write_is_made_good
        );
    };
    (@each $fixture:expr; $($law:ident)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $law() {
            $crate::controller::conformance::$law(&$fixture).await;
        })*

        /// Runs every law in turn, for programs that are no tests.
        #[allow(dead_code, reason = "used by programs only")]
        pub(crate) async fn all() -> usize {
            let mut laws = 0;
            $({
                $crate::controller::conformance::$law(&$fixture).await;
                laws += 1;
            })*
            laws
        }
    };
}
