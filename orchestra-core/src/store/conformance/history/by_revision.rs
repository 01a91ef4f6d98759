//! The checker that takes revisions at their word.
//!
//! Revisions give the order of the writes ([`Timeline`]), and so what each key held when ([`Versions`]). What is left is
//! whether that order fits the order of calls in time. Each answer is true from some revision on, until another; each
//! call is given the earliest one that is not before those of the calls answered before it was made. If any choice fits,
//! this one does: a later one would only leave less room to the calls that follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    super::super::{Check, Key, Revision},
    Call, History, Moment, Operation, Outcome, Property, Violation, Watched,
    timeline::{Timeline, changes_something},
    versions::Versions,
};

/// Checks that the revisions of `history` are a strictly serial order of its calls, real time included (laws 1 to 3,
/// SEMANTICS 1, 2, 4 to 6); what watches have told counts as answered when it came.
///
/// It costs O(n log n) for n calls and watched batches, and as much again for each entry listed. Commits without an answer
/// cost more where neither a read nor a watch tells them apart; so do conflicts before which several keys had to be absent:
/// for each such set of keys, once, as much as those keys have versions.
///
/// # Errors
///
/// The first violation found.
pub fn check_by_revision(history: &History) -> Result<(), Violation> {
    let timeline = Timeline::of(history)?;
    let mut points = Points::new(Versions::new(&history.start, timeline.changes()));
    check(history, &timeline, |operation, floor| points.of(operation, floor))
}

/// The same, with a way to find the first revision from another on at which an operation that changed nothing can have
/// been answered as it was.
fn check<'a>(
    history: &'a History,
    timeline: &Timeline,
    mut point: impl FnMut(&'a Operation, Revision) -> Option<Revision>,
) -> Result<(), Violation> {
    let mut written: Vec<Option<Revision>> = vec![None; history.operations.len()];
    for (revision, commit) in timeline.commits() {
        written[commit.operation] = Some(revision);
    }
    let mut floor = Floor { revision: timeline.start(), shown_by: None };
    let mut floors: Vec<Floor> = vec![floor; history.operations.len()];
    for (_, event) in events(history) {
        let revision = match event {
            Event::Invoked(index) => {
                if written[index].is_some_and(|revision| revision <= floor.revision) {
                    return Err(floor.violation(history, index));
                }
                floors[index] = floor;
                continue;
            }
            Event::Returned(index) => written[index]
                .or_else(|| point(&history.operations[index], floors[index].revision))
                .ok_or_else(|| floors[index].violation(history, index))?,
            Event::Told(watch, told) => history.watches[watch].told[told].batch.revision,
        };
        if revision > floor.revision {
            floor = Floor { revision, shown_by: Some(event) };
        }
    }
    Ok(())
}

/// The latest revision that an answer has shown to be there, and the answer.
#[derive(Clone, Copy)]
struct Floor {
    revision: Revision,
    shown_by: Option<Event>,
}

impl Floor {
    /// That the operation at `index` does not fit what was shown before it was made.
    fn violation(self, history: &History, index: usize) -> Violation {
        let shown = match self.shown_by {
            Some(Event::Told(watch, told)) => {
                let Watched { prefix, told: items, .. } = &history.watches[watch];
                format!("the watch of {prefix} had told {:?}", items[told].batch)
            }
            Some(Event::Invoked(other) | Event::Returned(other)) => history.operations[other].to_string(),
            None => "the history had begun".into(),
        };
        let operation = &history.operations[index];
        let detail =
            format!("{shown} was before, so that the store was at {} or later, but then {operation}", self.revision);
        Violation::new(Property::RealTime, detail)
    }
}

#[derive(Clone, Copy)]
enum Event {
    Invoked(usize),
    Returned(usize),
    /// A watch, and which of its batches.
    Told(usize, usize),
}

/// All that happened, in order.
fn events(history: &History) -> Vec<(Moment, Event)> {
    let mut events = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        events.push((operation.invoked, Event::Invoked(index)));
        events.extend(operation.returned.map(|returned| (returned, Event::Returned(index))));
    }
    for (watch, watched) in history.watches.iter().enumerate() {
        events.extend(watched.told.iter().enumerate().map(|(told, item)| (item.at, Event::Told(watch, told))));
    }
    events.sort_by_key(|(moment, _)| *moment);
    events
}

/// Finds where operations that changed nothing have their places.
struct Points<'a> {
    versions: Versions,
    /// When none of these keys held anything, for the sets that were asked for.
    absences: BTreeMap<BTreeSet<&'a Key>, Vec<Range<Revision>>>,
}

/// A key, and when it must have been last written.
type Condition<'a> = (&'a Key, Option<Revision>);

impl<'a> Points<'a> {
    fn new(versions: Versions) -> Self {
        Self { versions, absences: BTreeMap::new() }
    }

    /// The first revision from `floor` on at which `operation`, which changed nothing, can have been answered so.
    fn of(&mut self, operation: &'a Operation, floor: Revision) -> Option<Revision> {
        match &operation.call {
            Call::Get { key, entry } => {
                if let Some(entry) = entry
                    && self.versions.written(key, entry.modified)?.0 != entry
                {
                    return None;
                }
                self.first(floor, &[(key, entry.as_ref().map(|entry| entry.modified))])
            }
            Call::List { listing, .. } => Some(listing.revision).filter(|at| *at >= floor),
            Call::Revision(revision) => Some(*revision).filter(|at| *at >= floor),
            Call::Commit { txn, outcome: Outcome::Committed(at) } => {
                let held: Vec<Condition<'_>> = txn.checks.iter().map(condition).collect();
                (!changes_something(txn) && *at >= floor && self.first(*at, &held) == Some(*at)).then_some(*at)
            }
            Call::Commit { txn, outcome: Outcome::Conflict { key, actual } } => {
                let failed = txn.checks.iter().position(|check| check.key() == key && check.hold(*actual).is_err())?;
                let mut held: Vec<Condition<'_>> = txn.checks.iter().take(failed).map(condition).collect();
                held.push((key, *actual));
                self.first(floor, &held)
            }
            Call::Commit { outcome: Outcome::Unknown, .. } => None,
        }
    }

    /// The first revision from `floor` on at which all conditions hold.
    fn first(&mut self, floor: Revision, conditions: &[Condition<'a>]) -> Option<Revision> {
        let (mut from, mut until, mut absent) = (floor, None::<Revision>, BTreeSet::new());
        for (key, modified) in conditions {
            let Some(modified) = modified else {
                absent.insert(*key);
                continue;
            };
            let (_, span) = self.versions.written(key, *modified)?;
            from = from.max(span.start);
            until = Some(until.map_or(span.end, |until| until.min(span.end)));
        }
        let at = self.first_absence(absent, from)?;
        until.is_none_or(|until| at < until).then_some(at)
    }

    /// The first revision from `from` on at which none of `keys` held anything.
    fn first_absence(&mut self, keys: BTreeSet<&'a Key>, from: Revision) -> Option<Revision> {
        if keys.is_empty() {
            return Some(from);
        }
        let Self { versions, absences } = self;
        let spans = absences.entry(keys).or_insert_with_key(|keys| versions.absences(keys));
        let next = spans.partition_point(|span| span.end <= from);
        spans.get(next).map(|span| span.start.max(from))
    }
}

fn condition(check: &Check) -> Condition<'_> {
    match check {
        Check::Absent(key) => (key, None),
        Check::Unchanged(key, seen) => (key, Some(*seen)),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, iter::once};

    use bytes::Bytes;

    use super::{
        super::{
            super::super::{Change, Check, Entry, Key, Listing, Op, Revision, Txn},
            Call, History, Operation, Outcome, Property,
        },
        Timeline, changes_something, check, check_by_revision,
    };
    use crate::rng::Entropy;

    /// What was there at one revision.
    type State = BTreeMap<Key, Entry>;

    fn key(number: u64) -> Key {
        Key::new(["p", &number.to_string()]).expect("a valid key")
    }

    /// The first revision from another on at which an operation can have been answered so, tried one by one.
    fn plainly(history: &History, timeline: &Timeline) -> impl Fn(&Operation, Revision) -> Option<Revision> {
        let start: State = history.start.entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
        let later = timeline.commits().scan(start.clone(), |state, (_, written)| {
            for change in &written.changes {
                match change {
                    Change::Put(entry) => drop(state.insert(entry.key.clone(), entry.clone())),
                    Change::Delete(key) => drop(state.remove(key)),
                }
            }
            Some(state.clone())
        });
        let states: Vec<(Revision, State)> =
            (timeline.start().0..).map(Revision).zip(once(start).chain(later)).collect();
        move |operation, floor| {
            let mut left = states.iter().filter(|(revision, _)| *revision >= floor);
            left.find(|(revision, state)| fits(&operation.call, *revision, state)).map(|(revision, _)| *revision)
        }
    }

    fn fits(call: &Call, revision: Revision, state: &State) -> bool {
        let modified = |key: &Key| state.get(key).map(|entry| entry.modified);
        let holds = |check: &Check| check.hold(modified(check.key())).is_ok();
        match call {
            Call::Get { key, entry } => state.get(key) == entry.as_ref(),
            Call::List { listing, .. } => listing.revision == revision,
            Call::Revision(told) => *told == revision,
            Call::Commit { txn, outcome: Outcome::Committed(at) } => {
                !changes_something(txn) && *at == revision && txn.checks.iter().all(holds)
            }
            Call::Commit { txn, outcome: Outcome::Conflict { key, actual } } => {
                let failed = txn.checks.iter().position(|check| check.key() == key && check.hold(*actual).is_err());
                failed.is_some_and(|failed| txn.checks[..failed].iter().all(holds) && modified(key) == *actual)
            }
            Call::Commit { outcome: Outcome::Unknown, .. } => false,
        }
    }

    /// Draws histories whose commits are in order, and whose reads and conflicts are made up.
    struct Draw {
        entropy: Entropy,
        operations: Vec<Operation>,
        /// What each commit left, the start first.
        states: Vec<State>,
        start: Listing,
    }

    const KEYS: u64 = 3;
    const STEPS: u64 = 16;

    impl Draw {
        fn history(seed: u64) -> History {
            let entry = Entry { key: key(0), value: Bytes::from("0"), created: Revision(3), modified: Revision(4) };
            let start = Listing { revision: Revision(7), entries: vec![entry.clone()] };
            let states = vec![State::from([(key(0), entry)])];
            let mut draw = Self { entropy: Entropy::seeded(seed), operations: Vec::new(), states, start };
            for moment in (0..STEPS).map(|step| 10 * step) {
                if draw.below(2) == 0 { draw.commit(moment) } else { draw.ask(moment) }
            }
            History { start: draw.start, operations: draw.operations, watches: Vec::new() }
        }

        fn below(&self, end: u64) -> u64 {
            self.entropy.next_u64() % end
        }

        fn revision(&self) -> Revision {
            Revision(self.start.revision.0 + self.states.len() as u64 - 1)
        }

        fn commit(&mut self, moment: u64) {
            let mut state = self.states.last().expect("there is a start").clone();
            let (key, next) = (key(self.below(KEYS)), Revision(self.revision().0 + 1));
            let value = Bytes::from(moment.to_string());
            let (txn, created) = match state.get(&key) {
                Some(entry) if self.below(2) == 0 => (Txn::delete(key.clone(), entry.modified), None),
                Some(Entry { created, modified, .. }) => {
                    (Txn::replace(key.clone(), *modified, value.clone()), Some(*created))
                }
                None => (Txn::create(key.clone(), value.clone()), Some(next)),
            };
            match created {
                Some(created) => drop(state.insert(key.clone(), Entry { key, value, created, modified: next })),
                None => drop(state.remove(&key)),
            }
            self.states.push(state);
            let call = Call::Commit { txn, outcome: Outcome::Committed(next) };
            self.operations.push(Operation { invoked: moment, returned: Some(moment + 1), call });
        }

        /// An answer that is true of some moment, though maybe not of this one.
        fn ask(&mut self, moment: u64) {
            let latest = self.states.len() as u64 - 1;
            let earlier = latest - (self.below(2) * self.below(4)).min(latest);
            let at = Revision(self.start.revision.0 + earlier);
            let state = &self.states[usize::try_from(earlier).expect("a few")];
            let check = |key: Key| match state.get(&key) {
                Some(entry) => Check::Unchanged(key, entry.modified),
                None => Check::Absent(key),
            };
            let checks: Vec<Check> = (0..self.below(KEYS)).map(key).map(check).collect();
            let call = match self.below(4) {
                0 => Call::Revision(at),
                1 => {
                    let key = key(self.below(KEYS));
                    Call::Get { entry: state.get(&key).cloned(), key }
                }
                2 => Call::Commit { txn: Txn { checks, ops: Vec::new() }, outcome: Outcome::Committed(at) },
                _ => {
                    let key = key(KEYS - 1);
                    let actual = state.get(&key).map(|entry| entry.modified);
                    let check = match actual {
                        Some(_) => Check::Absent(key.clone()),
                        None => Check::Unchanged(key.clone(), Revision(1)),
                    };
                    let checks: Vec<Check> = checks.into_iter().chain([check]).collect();
                    let op = Op::Put(key.clone(), Bytes::new());
                    Call::Commit { txn: Txn { checks, ops: vec![op] }, outcome: Outcome::Conflict { key, actual } }
                }
            };
            let invoked = moment - self.below(80).min(moment);
            self.operations.push(Operation { invoked, returned: Some(moment + self.below(80)), call });
        }
    }

    #[test]
    fn verdicts_are_those_of_a_search_of_every_revision() {
        let (mut accepted, mut rejected) = (0, 0);
        for seed in 0..4_000 {
            let history = Draw::history(seed);
            let timeline = Timeline::of(&history).expect("the commits are in order");
            let verdict = check_by_revision(&history);
            assert_eq!(verdict, check(&history, &timeline, plainly(&history, &timeline)), "of the seed {seed}");
            *if verdict.is_ok() { &mut accepted } else { &mut rejected } += 1;
        }
        assert!(accepted > 400 && rejected > 400, "{accepted} accepted, {rejected} rejected");
    }

    /// A key that comes and goes, and readers who all ask before it does and are answered after it: of what was written,
    /// of nothing, and that an absent other key was not what stood in their way.
    fn overlapping(rounds: u64) -> History {
        let (a, b) = (key(0), key(1));
        let (mut operations, answered) = (Vec::new(), 10 * rounds);
        for round in 0..rounds {
            let (created, deleted) = (Revision(2 * round + 2), Revision(2 * round + 3));
            let value = Bytes::from(round.to_string());
            let entry = Entry { key: a.clone(), value: value.clone(), created, modified: created };
            let refused = Txn {
                checks: vec![Check::Absent(b.clone()), Check::Absent(a.clone())],
                ops: vec![Op::Put(a.clone(), Bytes::new())],
            };
            let conflict = Outcome::Conflict { key: a.clone(), actual: Some(created) };
            let committed = |txn, at| Call::Commit { txn, outcome: Outcome::Committed(at) };
            let writes = [
                committed(Txn::create(a.clone(), value), created),
                committed(Txn::delete(a.clone(), created), deleted),
            ];
            operations.extend((10 * round..).step_by(2).zip(writes).map(|(moment, call)| Operation {
                invoked: moment + 1,
                returned: Some(moment + 2),
                call,
            }));
            let asks = [
                Call::Get { key: a.clone(), entry: Some(entry) },
                Call::Get { key: a.clone(), entry: None },
                Call::Commit { txn: refused, outcome: conflict },
            ];
            operations.extend(asks.map(|call| Operation { invoked: 0, returned: Some(answered), call }));
        }
        let start = Listing { revision: Revision(1), entries: Vec::new() };
        History { start, operations, watches: Vec::new() }
    }

    /// Looked for one after another, the places of so many would not be found today.
    #[test]
    fn two_hundred_thousand_operations_of_one_key_may_overlap() {
        let mut history = overlapping(40_000);
        assert_eq!(check_by_revision(&history), Ok(()));
        let last = history.operations.len() as u64;
        // Made when all was over, the first read is out of date.
        let read = history.operations.iter_mut().find(|operation| matches!(operation.call, Call::Get { .. }));
        let read = read.expect("a read");
        (read.invoked, read.returned) = (last * 10, Some(last * 10 + 1));
        assert_eq!(check_by_revision(&history).map_err(|violation| violation.property), Err(Property::RealTime));
    }
}
