//! Leader election by Lease: of several processes that run the same loops, one acts (SEMANTICS 47).
//!
//! A candidate never compares its clock with another machine's: a lease has run out once it has been *seen* unchanged for
//! as long as its holder said it would last. A holder stops acting when the renew deadline of its [`Timing`] has passed
//! since it last sent a renewal that was carried out; as that is shorter than the lease, nobody can have taken over by then.
//!
//! A process that is paused, or a request that is long on its way, knows nothing of deadlines: what is led is given a client
//! whose writes the server refuses once that term is over, be it that the lease is another's or this candidate's anew.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{api::fence::Fence, clock::Clock, rng::Entropy};

use client::fenced;

mod client;

/// The namespace of Kubernetes' own leader leases.
pub const ELECTION_NAMESPACE: &str = "kube-system";
/// By how much of itself the wait between two tries is lengthened at most, so that candidates don't march in step.
const JITTER: f64 = 0.2;

/// How long a lease lasts, and how hard its holder tries to keep it.
///
/// Invariant: `retry_period` < `renew_deadline` < `lease_duration`, by whole seconds of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

impl Default for Timing {
    /// 15 s, 10 s and 2 s, as Kubernetes' own components have it.
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// A lease of `lease_seconds`, of which its holder acts for at most `renew_deadline` without a renewal, and tries for
    /// one every `retry_period`.
    ///
    /// # Panics
    ///
    /// Unless `retry_period` < `renew_deadline` < `lease_seconds`.
    #[must_use]
    pub fn new(lease_seconds: u16, renew_deadline: Duration, retry_period: Duration) -> Self {
        let lease_duration = Duration::from_secs(lease_seconds.into());
        assert!(
            retry_period < renew_deadline && renew_deadline < lease_duration,
            "a lease outlasts its holder's deadline, and that outlasts the wait between two tries"
        );
        Self { lease_duration, renew_deadline, retry_period }
    }
}

/// What a candidate is to do about the lease it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody else holds it; or it has changed hands as often as can be counted.
    Wait,
    /// It is free, or has run out: take it, which is this transition.
    Take {
        /// How often it has changed hands, this time included.
        transitions: i32,
    },
    /// It is the candidate's own, in the term that it leads: renew it.
    Renew,
    /// The candidate leads by it no more: it is gone, free, another's, or in another term. Others may have led meanwhile.
    Stop,
}

/// What a candidate brings to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name in the lease, as the `holderIdentity`.
    pub identity: &'a str,
    /// The term that it leads, or led last, if it did: how often the lease had changed hands.
    pub term: Option<i32>,
    /// Whether it leads that term now.
    pub leads: bool,
}

/// Decides about a lease as it was read, which the candidate has seen unchanged for `unchanged_for`; pure.
///
/// Who leads anew does so in a new term, even if nobody else led between: what it left running is not to be taken for what
/// it then leads.
#[must_use]
pub fn decide(lease: Option<&LeaseSpec>, unchanged_for: Duration, candidate: Candidate<'_>) -> Step {
    let transitions = lease.map(|lease| lease.lease_transitions.unwrap_or(0));
    let holder = lease.and_then(|lease| lease.holder_identity.as_deref()).unwrap_or_default();
    if candidate.leads {
        let renews = holder == candidate.identity && transitions == candidate.term;
        return if renews { Step::Renew } else { Step::Stop };
    }
    let lasts = lease.and_then(|lease| lease.lease_duration_seconds).unwrap_or(0);
    let is_anothers = !holder.is_empty() && holder != candidate.identity;
    if is_anothers && unchanged_for < Duration::from_secs(u64::try_from(lasts).unwrap_or(0)) {
        return Step::Wait;
    }
    // A lease that was removed and made anew counts from the beginning.
    let Some(last) = transitions.max(candidate.term) else { return Step::Take { transitions: 0 } };
    // No two terms have one number: when there are no more of them, the lease is to be removed.
    last.checked_add(1).map_or(Step::Wait, |transitions| Step::Take { transitions })
}

/// The lease as it was last read, and since when it has read so.
#[derive(Debug, Default)]
struct Seen(Option<(LeaseSpec, Instant)>);

impl Seen {
    /// Notes what was read at `now`, and tells for how long it has read so.
    fn note(&mut self, lease: &LeaseSpec, now: Instant) -> Duration {
        match &self.0 {
            Some((seen, since)) if seen == lease => now.duration_since(*since),
            _ => {
                self.0 = Some((lease.clone(), now));
                Duration::ZERO
            }
        }
    }
}

/// A lease that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Its transitions.
    term: i32,
    /// When to stop acting, unless it is renewed.
    until: Instant,
}

/// The lease was lost, and what was led has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease could not be renewed in time")]
pub struct Lost;

/// One candidate for one lease; clones are the same one, and wait for each other to lead.
#[derive(Clone)]
pub struct LeaderElection {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The last term that it led: how often the lease had changed hands. Below 0 before the first.
    last_term: Arc<AtomicI32>,
    /// Held by whichever of the clones is at it.
    leading: Arc<tokio::sync::Mutex<()>>,
    timing: Timing,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
}

impl fmt::Debug for LeaderElection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderElection").field("lease", &self.name).field("identity", &self.identity).finish()
    }
}

impl LeaderElection {
    /// A candidate for the lease `name` in [`ELECTION_NAMESPACE`].
    ///
    /// `host` and a draw of `entropy` make its identity: no two candidates share one, even on one host.
    #[must_use]
    pub fn new(client: Client, name: &str, host: &str, clock: Arc<dyn Clock>, entropy: Entropy) -> Self {
        Self {
            api: Api::namespaced(client, ELECTION_NAMESPACE),
            name: name.into(),
            identity: format!("{host}_{}", entropy.uuid()),
            last_term: Arc::new(AtomicI32::new(-1)),
            leading: Arc::default(),
            timing: Timing::default(),
            clock,
            entropy,
        }
    }

    /// Takes the lease for other times than Kubernetes' own.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Who this candidate is, as the lease's `holderIdentity`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Waits for the lease, then runs what `work` makes as long as it is held; once that ends, gives the lease up.
    ///
    /// `work` is given the client to write by: its writes are refused, with code 409 and the cause `LeaderElectionLost`,
    /// unless this candidate holds the lease, in this very term, in the moment in which they are carried out. Reads are as by
    /// any client. Each write costs the server one more read. Only orchestra's API server knows of this; another ignores what
    /// it is told, and a write that comes late is then as safe as its preconditions make it.
    ///
    /// # Errors
    ///
    /// [`Lost`] if the lease could not be renewed in time: then the work has been dropped, before anyone else can hold it.
    ///
    /// # Cancellation
    ///
    /// Dropped while leading, the lease stays until it runs out; [`release`](Self::release) hands it over at once.
    pub async fn led<T, F: Future<Output = T>>(&self, work: impl FnOnce(Client) -> F) -> Result<T, Lost> {
        let _alone = self.leading.lock().await;
        let mut seen = Seen::default();
        let held = self.acquire(&mut seen).await;
        tracing::info!(lease = self.name, identity = self.identity, term = held.term, "leading");
        let (mut work, mut renewing) = (pin!(work(self.client(held.term))), pin!(self.renew(&mut seen, held)));
        tokio::select! {
            biased;
            () = &mut renewing => {
                tracing::warn!(lease = self.name, identity = self.identity, "no longer leading");
                Err(Lost)
            }
            done = &mut work => {
                self.release().await;
                Ok(done)
            }
        }
    }

    /// Runs the work that `make` makes whenever this candidate leads, anew each time, until one run of it ends by itself; see
    /// [`led`](Self::led) for the client it is given.
    pub async fn run<T, F: Future<Output = T>>(&self, mut make: impl FnMut(Client) -> F) -> T {
        loop {
            if let Ok(done) = self.led(&mut make).await {
                return done;
            }
        }
    }

    /// A client whose writes are those of one term.
    fn client(&self, term: i32) -> Client {
        let (namespace, name, holder) = (ELECTION_NAMESPACE.into(), self.name.clone(), self.identity.clone());
        fenced(self.api.clone().into_client(), &Fence { namespace, name, transitions: term, holder })
    }

    /// Gives the lease up, if this candidate holds it; to be called when nothing that is led runs any more.
    ///
    /// Failing to is no harm: the lease runs out.
    pub async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(self.clock.now()));
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Ok(Err(error)) = timeout_at(Instant::now() + self.timing.retry_period, released).await {
            tracing::debug!(lease = self.name, %error, "not released");
        }
    }

    /// Waits until the lease is this candidate's.
    async fn acquire(&self, seen: &mut Seen) -> Held {
        loop {
            let next = Instant::now() + self.retry_wait();
            match timeout_at(Instant::now() + self.timing.renew_deadline, self.attempt(seen, None)).await {
                Ok(Ok(Some(held))) if held.until > Instant::now() => return held,
                Ok(Err(error)) => tracing::debug!(lease = self.name, %error, "not acquired"),
                _ => {}
            }
            sleep_until(next).await;
        }
    }

    /// Renews the lease for as long as that goes on.
    async fn renew(&self, seen: &mut Seen, mut held: Held) {
        loop {
            sleep_until(held.until.min(Instant::now() + self.retry_wait())).await;
            // A process that was paused finds its deadline passed, and an answer that came in time all the same.
            if Instant::now() >= held.until {
                return;
            }
            match timeout_at(held.until, self.attempt(seen, Some(held.term))).await {
                Ok(Ok(Some(renewed))) => held = renewed,
                Ok(Err(error)) if Instant::now() < held.until => {
                    tracing::debug!(lease = self.name, %error, "not renewed");
                }
                _ => return,
            }
        }
    }

    /// Reads the lease and does what is to be done, while it leads a term or not; how this candidate holds it now, if it does.
    async fn attempt(&self, seen: &mut Seen, leads: Option<i32>) -> kube::Result<Option<Held>> {
        // Others count from when they see the write, which can't be before this.
        let sent = Instant::now();
        let lease = self.api.get_opt(&self.name).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.clone());
        let unchanged_for = spec.as_ref().map_or(Duration::ZERO, |spec| seen.note(spec, Instant::now()));
        let now = MicroTime(self.clock.now());
        let mut new = spec.clone().unwrap_or_default();
        let last_term = self.last_term.load(Ordering::Relaxed);
        let term = leads.or((last_term >= 0).then_some(last_term));
        let candidate = Candidate { identity: &self.identity, term, leads: leads.is_some() };
        match decide(spec.as_ref(), unchanged_for, candidate) {
            Step::Wait | Step::Stop => return Ok(None),
            Step::Renew => {}
            Step::Take { transitions } => {
                new.acquire_time = Some(now.clone());
                new.lease_transitions = Some(transitions);
            }
        }
        new.holder_identity = Some(self.identity.clone());
        new.lease_duration_seconds = i32::try_from(self.timing.lease_duration.as_secs()).ok();
        new.renew_time = Some(now);
        let (params, term) = (PostParams::default(), new.lease_transitions.unwrap_or(0));
        // Before the answer, which may be lost: no two terms are to have one number.
        self.last_term.fetch_max(term, Ordering::Relaxed);
        match lease {
            // Conditional on the version that was read: of two who take it, one does.
            Some(lease) => self.api.replace(&self.name, &params, &Lease { spec: Some(new), ..lease }).await?,
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                self.api.create(&params, &Lease { metadata, spec: Some(new) }).await?
            }
        };
        Ok(Some(Held { term, until: sent + self.timing.renew_deadline }))
    }

    fn retry_wait(&self) -> Duration {
        self.timing.retry_period.mul_f64(1.0 + JITTER * self.entropy.next_f64())
    }
}

#[cfg(test)]
mod tests;
