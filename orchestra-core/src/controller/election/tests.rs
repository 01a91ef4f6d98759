//! The decider in a small world: candidates with clocks of their own time, messages that are late or lost.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Seen, Step, Timing, decide};

fn lease(holder: &str, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

#[test]
fn a_lease_is_taken_when_it_is_free_or_has_been_seen_to_run_out() {
    let seconds = Duration::from_secs;
    assert_eq!(decide(None, seconds(0), "a"), Step::Take { transitions: 0 });
    assert_eq!(decide(Some(&lease("b", 3)), seconds(14), "a"), Step::Wait);
    assert_eq!(decide(Some(&lease("b", 3)), seconds(15), "a"), Step::Take { transitions: 4 });
    assert_eq!(decide(Some(&lease("", 3)), seconds(0), "a"), Step::Take { transitions: 4 });
    assert_eq!(decide(Some(&lease("a", 3)), seconds(99), "a"), Step::Renew);
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
    /// Its write, on condition of the version, reaches the server.
    Writing(u64, u64, LeaseSpec),
    /// It learns that its write was carried out.
    Written(u64),
}

#[derive(Debug)]
struct Candidate {
    name: String,
    phase: Phase,
    /// When the next message of its own arrives; milliseconds.
    at: u64,
    seen: Seen,
    /// It acts from one to the other.
    acts: Option<(u64, u64)>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// SEMANTICS 47: however late messages are, and whichever are lost, no two candidates act at one moment.
    #[test]
    fn no_two_candidates_ever_act_at_once(
        delays in proptest::collection::vec(prop_oneof![12 => 0..200_u64, 2 => 0..3_000_u64, 1 => 3_000..40_000_u64], 600),
        count in 2..4_usize,
    ) {
        const DEADLINE: u64 = 10_000;
        const RETRY: u64 = 2_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let start = runtime.block_on(async { Instant::now() });
        let (mut version, mut stored, mut terms) = (0_u64, lease("", 0), 0_usize);
        let mut candidates: Vec<Candidate> = (0..count).map(|n| Candidate {
            name: n.to_string(), phase: Phase::Idle, at: n as u64, seen: Seen::default(), acts: None }).collect();
        for delay in delays {
            let next = (0..count).min_by_key(|&n| candidates[n].at).expect("there are some");
            let candidate = &mut candidates[next];
            let now = candidate.at;
            candidate.phase = match candidate.phase.clone() {
                Phase::Idle => Phase::Reading(now),
                Phase::Reading(sent) => Phase::Answered(sent, version, stored.clone()),
                Phase::Answered(sent, read, spec) => {
                    let unchanged = candidate.seen.note(&spec, start + Duration::from_millis(now));
                    match decide(Some(&spec), unchanged, &candidate.name) {
                        Step::Wait => Phase::Idle,
                        step => {
                            let transitions = match step {
                                Step::Take { transitions } => transitions,
                                _ => spec.lease_transitions.unwrap_or(0),
                            };
                            Phase::Writing(sent, read, lease(&candidate.name, transitions))
                        }
                    }
                }
                Phase::Writing(sent, read, spec) if read == version => {
                    // A renewal differs by its time, which the version stands for here.
                    version += 1;
                    stored = LeaseSpec { strategy: Some(version.to_string()), ..spec };
                    Phase::Written(sent)
                }
                Phase::Writing(..) => Phase::Idle,
                Phase::Written(sent) => {
                    if now < sent + DEADLINE {
                        let from = candidate.acts.filter(|(_, until)| now <= *until).map_or(now, |(from, _)| from);
                        candidate.acts = Some((from, sent + DEADLINE));
                        terms += 1;
                    }
                    Phase::Idle
                }
            };
            candidate.at = now + if matches!(candidate.phase, Phase::Idle) { RETRY } else { delay };
            let acting = candidates.iter().filter(|other| other.acts.is_some_and(|(from, until)| from <= now && now < until));
            prop_assert!(acting.count() <= 1, "at {now} ms: {candidates:?}");
        }
        prop_assert!(terms > 0, "nobody ever led");
    }
}
