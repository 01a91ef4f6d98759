//! The checker that takes revisions at their word.
//!
//! Revisions give the order of the writes, so that a replay finds what each key held when ([`Timeline`]). What is left is
//! whether that order fits the order of calls in time. Each answer is true from some revision on, until another; each
//! call is given the earliest one that is not before those of the calls answered before it was made. If any choice fits,
//! this one does: a later one would only leave less room to the calls that follow.

use super::{
    super::super::{Check, Entry, Key, Revision},
    Call, History, Moment, Operation, Outcome, Property, Violation, Watched,
    timeline::{Timeline, changes_something},
};

/// Checks that the revisions of `history` are a strictly serial order of its calls, real time included (laws 1 to 3,
/// SEMANTICS 1, 2, 4 to 6); what watches have told counts as answered when it came.
///
/// It costs O(n log n) for n calls and watched batches, and as much again for each entry listed. Commits without an answer
/// cost more where neither a read nor a watch tells them apart.
///
/// # Errors
///
/// The first violation found.
pub fn check_by_revision(history: &History) -> Result<(), Violation> {
    let timeline = Timeline::of(history)?;
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
                .or_else(|| point(&timeline, &history.operations[index], floors[index].revision))
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

/// The first revision from `floor` on at which `operation`, which changed nothing, can have been answered so.
fn point(timeline: &Timeline, operation: &Operation, floor: Revision) -> Option<Revision> {
    match &operation.call {
        Call::Get { key, entry } => timeline.first(key, floor, |held| held == entry.as_ref()),
        Call::List { listing, .. } => Some(listing.revision).filter(|at| *at >= floor),
        Call::Revision(revision) => Some(*revision).filter(|at| *at >= floor),
        Call::Commit { txn, outcome: Outcome::Committed(at) } => {
            let held: Vec<Condition<'_>> = txn.checks.iter().map(Condition::of).collect();
            (!changes_something(txn) && *at >= floor && first(timeline, *at, &held) == Some(*at)).then_some(*at)
        }
        Call::Commit { txn, outcome: Outcome::Conflict { key, actual } } => {
            let failed = txn.checks.iter().position(|check| check.key() == key && check.hold(*actual).is_err())?;
            let mut held: Vec<Condition<'_>> = txn.checks.iter().take(failed).map(Condition::of).collect();
            held.push(Condition { key, holds: Box::new(|is| is == *actual) });
            first(timeline, floor, &held)
        }
        Call::Commit { outcome: Outcome::Unknown, .. } => None,
    }
}

/// What must hold of when a key was last written.
struct Condition<'a> {
    key: &'a Key,
    holds: Box<dyn Fn(Option<Revision>) -> bool + 'a>,
}

impl<'a> Condition<'a> {
    fn of(check: &'a Check) -> Self {
        Self { key: check.key(), holds: Box::new(|is| check.hold(is).is_ok()) }
    }
}

/// The first revision from `floor` on at which all conditions hold.
fn first(timeline: &Timeline, floor: Revision, conditions: &[Condition<'_>]) -> Option<Revision> {
    let mut at = floor;
    loop {
        let before = at;
        for Condition { key, holds } in conditions {
            at = timeline.first(key, at, |entry: Option<&Entry>| holds(entry.map(|entry| entry.modified)))?;
        }
        if at == before {
            return Some(at);
        }
    }
}
