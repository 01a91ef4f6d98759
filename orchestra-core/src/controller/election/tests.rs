//! The decider in a small world: candidates with clocks of their own time, messages that are late or lost.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Candidate, Seen, Step, Timing, decide};

fn lease(holder: &str, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

fn who_waits(identity: &str) -> Candidate<'_> {
    Candidate { identity, term: None, leads: false }
}

#[test]
fn a_lease_is_taken_when_it_is_free_or_has_been_seen_to_run_out() {
    let seconds = Duration::from_secs;
    assert_eq!(decide(None, seconds(0), who_waits("a")), Step::Take { transitions: 0 });
    assert_eq!(decide(Some(&lease("b", 3)), seconds(14), who_waits("a")), Step::Wait);
    assert_eq!(decide(Some(&lease("b", 3)), seconds(15), who_waits("a")), Step::Take { transitions: 4 });
    assert_eq!(decide(Some(&lease("", 3)), seconds(0), who_waits("a")), Step::Take { transitions: 4 });
}

#[test]
fn who_leads_anew_does_so_in_a_new_term() {
    let back = Candidate { identity: "a", term: Some(3), leads: false };
    for lease in [Some(&lease("a", 3)), Some(&lease("", 3)), Some(&lease("a", 0)), None] {
        assert_eq!(decide(lease, Duration::ZERO, back), Step::Take { transitions: 4 }, "{lease:?}");
    }
}

#[test]
fn a_lease_that_has_changed_hands_as_often_as_can_be_counted_is_not_taken() {
    for candidate in [who_waits("a"), Candidate { identity: "b", term: Some(i32::MAX), leads: false }] {
        assert_eq!(decide(Some(&lease("", i32::MAX)), Duration::ZERO, candidate), Step::Wait);
        assert_eq!(decide(Some(&lease("b", i32::MAX)), Duration::from_secs(99), candidate), Step::Wait);
    }
    let removed = Candidate { identity: "a", term: None, leads: false };
    assert_eq!(decide(None, Duration::ZERO, removed), Step::Take { transitions: 0 });
}

#[test]
fn a_lease_is_renewed_in_its_term_only() {
    let leader = Candidate { identity: "a", term: Some(3), leads: true };
    assert_eq!(decide(Some(&lease("a", 3)), Duration::from_secs(99), leader), Step::Renew);
    for lease in [Some(&lease("a", 4)), Some(&lease("b", 4)), Some(&lease("", 3)), None] {
        assert_eq!(decide(lease, Duration::ZERO, leader), Step::Stop, "{lease:?}");
    }
}

#[test]
#[should_panic(expected = "outlasts")]
fn a_lease_shorter_than_its_deadline_is_refused() {
    let _ = Timing::new(10, Duration::from_secs(10), Duration::from_secs(2));
}

/// What a candidate waits for.
#[derive(Clone, Debug)]
enum Phase {
    Idle,
    /// Its read, sent then, reaches the server.
    Reading(u64),
    /// The answer, a version and a lease, reaches it.
    Answered(u64, u64, LeaseSpec),
    /// What it decided, on condition of the version, reaches the server.
    Writing(u64, u64, Step, LeaseSpec),
    /// It learns that its write was carried out.
    Written(u64, Step),
}

#[derive(Debug)]
struct Process {
    name: String,
    phase: Phase,
    /// When the next message of its own arrives; milliseconds.
    at: u64,
    seen: Seen,
    term: Option<i32>,
    /// It acts from one to the other.
    acts: Option<(u64, u64)>,
}

impl Process {
    fn new(number: usize) -> Self {
        let (name, at) = (number.to_string(), number as u64);
        Self { name, phase: Phase::Idle, at, seen: Seen::default(), term: None, acts: None }
    }

    fn acts_at(&self, now: u64) -> bool {
        self.acts.is_some_and(|(from, until)| from <= now && now < until)
    }

    /// What it makes of the lease that it read, and whether it has stopped for it.
    fn decided(&mut self, read: &LeaseSpec, unchanged: Duration) -> Option<(Step, LeaseSpec)> {
        let candidate = Candidate { identity: &self.name, term: self.term, leads: self.acts_at(self.at) };
        let step = decide(Some(read), unchanged, candidate);
        let transitions = match step {
            Step::Take { transitions } => Some(transitions),
            Step::Renew => read.lease_transitions,
            Step::Stop => {
                self.acts = None;
                return None;
            }
            Step::Wait => return None,
        };
        self.term = transitions;
        Some((step, lease(&self.name, transitions.unwrap_or(0))))
    }

    /// It acts on from its own write, or begins to, unless that is too late.
    fn wrote(&mut self, step: Step, until: u64) {
        let now = self.at;
        let from = match step {
            Step::Take { .. } => Some(now),
            _ => self.acts.filter(|_| self.acts_at(now)).map(|(from, _)| from),
        };
        self.acts = from.filter(|_| now < until).map(|from| (from, until)).or(self.acts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// SEMANTICS 47: however late messages are, and whichever are lost, no two candidates act at one moment, and each term
    /// has a number of its own.
    #[test]
    fn no_two_candidates_ever_act_at_once(
        delays in proptest::collection::vec(prop_oneof![12 => 0..200_u64, 2 => 0..3_000_u64, 1 => 3_000..40_000_u64], 600),
        count in 1..4_usize,
    ) {
        const DEADLINE: u64 = 10_000;
        const RETRY: u64 = 2_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let start = runtime.block_on(async { Instant::now() });
        let (mut version, mut stored, mut last_term) = (0_u64, lease("", 0), 0);
        let mut processes: Vec<Process> = (0..count).map(Process::new).collect();
        for delay in delays {
            let next = (0..count).min_by_key(|&n| processes[n].at).expect("there are some");
            let process = &mut processes[next];
            let now = process.at;
            process.phase = match process.phase.clone() {
                Phase::Idle => Phase::Reading(now),
                Phase::Reading(sent) => Phase::Answered(sent, version, stored.clone()),
                Phase::Answered(sent, read, spec) => {
                    let unchanged = process.seen.note(&spec, start + Duration::from_millis(now));
                    match process.decided(&spec, unchanged) {
                        Some((step, new)) => Phase::Writing(sent, read, step, new),
                        None => Phase::Idle,
                    }
                }
                Phase::Writing(sent, read, step, spec) if read == version => {
                    if let Step::Take { transitions } = step {
                        prop_assert!(transitions > last_term, "term {transitions} after {last_term}");
                        last_term = transitions;
                    }
                    // A renewal differs by its time, which the version stands for here.
                    version += 1;
                    stored = LeaseSpec { strategy: Some(version.to_string()), ..spec };
                    Phase::Written(sent, step)
                }
                Phase::Writing(..) => Phase::Idle,
                Phase::Written(sent, step) => {
                    process.wrote(step, sent + DEADLINE);
                    Phase::Idle
                }
            };
            process.at = now + if matches!(process.phase, Phase::Idle) { RETRY } else { delay };
            let acting = processes.iter().filter(|other| other.acts_at(now)).count();
            prop_assert!(acting <= 1, "at {now} ms: {processes:?}");
        }
        prop_assert!(last_term > 0, "nobody ever led");
    }
}
