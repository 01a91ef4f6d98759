//! The checker that does not trust revisions.
//!
//! It is the algorithm of Wing and Gong (J. Parallel Distrib. Comput. 17, 1993) with Lowe's memory of what was tried
//! (Concurr. Comput. 29, 2017): of the calls that no other one precedes in time, each in turn is tried as the next, until
//! all that were answered have their place. A commit without an answer may have a place anywhere after it was made, or none.
//!
//! A revision is here no more than the name of what a commit left at a key, by which checks and answers mean it; nothing is
//! concluded from one being greater than another.
//!
//! Keys are searched one by one, which is right for calls of one key as linearizability is local (Herlihy and Wing, 1990). A
//! transaction over several keys, and a listing, counts as one call for each of its keys, all in the time that the whole
//! took; a transaction without an answer may then have happened at one key and not at another. What is lost by that, a
//! commit that is torn or a listing of two instants, [`check_by_revision`](super::check_by_revision) finds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    super::super::{Check, Entry, Key, Op, Revision, Txn},
    Call, History, Moment, Outcome, Property, Violation,
};

/// How many states of one key are looked at before the search is given up, and the history counts as broken.
const STATES_MAX: usize = 1_000_000;

/// Checks that for each key of `history` there is an order of its calls, in keeping with real time, that explains every
/// answer (SEMANTICS 2, 4 and 6).
///
/// It costs up to exponentially much in the number of calls at once and of commits without an answer, but hardly more than
/// O(n²) where a commit is conditional on the one before it, as here.
///
/// # Errors
///
/// The first key for which there is no such order, with the calls that have no place.
pub fn check_linearizable(history: &History) -> Result<(), Violation> {
    keys(history).into_iter().try_for_each(|key| Search::new(history, key).run())
}

/// The keys that calls name.
fn keys(history: &History) -> BTreeSet<&Key> {
    let mut keys = BTreeSet::new();
    for operation in &history.operations {
        match &operation.call {
            Call::Get { key, .. } => keys.extend([key]),
            Call::List { listing, .. } => keys.extend(listing.entries.iter().map(|entry| &entry.key)),
            Call::Revision(_) => {}
            Call::Commit { txn, .. } => keys.extend(txn.checks.iter().map(Check::key)),
        }
    }
    keys
}

/// What one call did at one key.
struct Step<'a> {
    operation: usize,
    invoked: Moment,
    returned: Option<Moment>,
    /// What it found there.
    found: Vec<Found<'a>>,
    /// What it left there: nothing new, no value, or that of a writer.
    left: Option<Content>,
}

/// What a call tells of what was at the key.
#[derive(Clone, Copy)]
enum Found<'a> {
    Nothing,
    /// Something by this name.
    Named(Revision),
    Entry(&'a Entry),
    /// What can't be.
    Contradiction,
}

/// What is at the key: what the writer of this number put, or nothing.
type Content = Option<usize>;

/// Who put something at the key.
struct Writer<'a> {
    value: &'a Bytes,
    /// The names by which it was told of; none if it was not.
    names: BTreeSet<Revision>,
}

/// The search for an order of the calls of one key.
struct Search<'a> {
    history: &'a History,
    key: &'a Key,
    /// In the order in which they were made.
    steps: Vec<Step<'a>>,
    writers: Vec<Writer<'a>>,
    /// The names of those who had an answer.
    told: BTreeSet<Revision>,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, key: &'a Key) -> Self {
        let mut search = Self { history, key, steps: Vec::new(), writers: Vec::new(), told: BTreeSet::new() };
        if let Some(entry) = history.start.entries.iter().find(|entry| entry.key == *key) {
            search.writer(&entry.value, Some(entry.modified));
        }
        for (index, operation) in history.operations.iter().enumerate() {
            let Some((found, left)) = search.part(&operation.call) else { continue };
            let (invoked, returned) = (operation.invoked, operation.returned);
            search.steps.push(Step { operation: index, invoked, returned, found, left });
        }
        search.name_the_untold();
        search
    }

    /// Numbers a writer.
    fn writer(&mut self, value: &'a Bytes, name: Option<Revision>) -> Content {
        self.told.extend(name);
        self.writers.push(Writer { value, names: name.into_iter().collect() });
        Some(self.writers.len() - 1)
    }

    /// What `call` found and left at the key; `None` if it says nothing of it.
    fn part(&mut self, call: &'a Call) -> Option<(Vec<Found<'a>>, Option<Content>)> {
        match call {
            Call::Get { key, entry } => (key == self.key).then(|| (vec![found(entry.as_ref())], None)),
            Call::List { prefix, listing } if prefix.contains(self.key) => {
                let entry = listing.entries.iter().find(|entry| entry.key == *self.key);
                Some((vec![found(entry)], None))
            }
            Call::List { .. } | Call::Revision(_) => None,
            Call::Commit { txn, outcome: Outcome::Conflict { key, actual } } => {
                let conflict = |check: &&Check| check.key() == key && check.hold(*actual).is_err();
                let failed = txn.checks.iter().position(|check| conflict(&check));
                let earlier = txn.checks.iter().take(failed.unwrap_or(0)).filter(|check| check.key() == self.key);
                let mut finds: Vec<Found<'_>> = earlier.map(expected).collect();
                if key == self.key {
                    // No check fails on what is said to be there.
                    finds.extend(failed.is_none().then_some(Found::Contradiction));
                    finds.push(actual.map_or(Found::Nothing, Found::Named));
                }
                (!finds.is_empty()).then_some((finds, None))
            }
            Call::Commit { txn, outcome } => {
                let name = if let Outcome::Committed(revision) = outcome { Some(*revision) } else { None };
                let left = self.written(txn, name);
                let checks = txn.checks.iter().filter(|check| check.key() == self.key);
                let finds: Vec<Found<'_>> = checks.map(expected).collect();
                // Of a commit without an answer a check alone tells nothing.
                let says = if name.is_some() { !finds.is_empty() } else { left.is_some() };
                says.then_some((finds, left))
            }
        }
    }

    /// What `txn` leaves at the key, if it writes it.
    fn written(&mut self, txn: &'a Txn, name: Option<Revision>) -> Option<Content> {
        match txn.ops.iter().find(|op| op.key() == self.key)? {
            Op::Put(_, value) => Some(self.writer(value, name)),
            Op::Delete(_) => Some(None),
        }
    }

    /// Gives each writer without an answer the names by which others have seen what it put, if no other such put the same.
    fn name_the_untold(&mut self) {
        let seen: Vec<&Entry> = self.steps.iter().flat_map(|step| &step.found).filter_map(Found::entry).collect();
        let mut names: BTreeMap<&Bytes, BTreeSet<Revision>> = BTreeMap::new();
        for entry in seen.into_iter().filter(|entry| !self.told.contains(&entry.modified)) {
            names.entry(&entry.value).or_default().insert(entry.modified);
        }
        let mut untold: BTreeMap<&Bytes, Vec<&mut Writer<'_>>> = BTreeMap::new();
        for writer in self.writers.iter_mut().filter(|writer| writer.names.is_empty()) {
            untold.entry(writer.value).or_default().push(writer);
        }
        for (value, mut writers) in untold {
            if let [writer] = &mut writers[..] {
                writer.names = names.remove(value).unwrap_or_default();
            }
        }
    }

    /// Whether `content` is what was found.
    fn fits(&self, content: Content, found: Found<'_>) -> bool {
        let Some(writer) = content.map(|number| &self.writers[number]) else { return matches!(found, Found::Nothing) };
        // A writer that nobody has seen may be anyone whose name is not another's.
        let named =
            |name: Revision| writer.names.contains(&name) || (writer.names.is_empty() && !self.told.contains(&name));
        match found {
            Found::Nothing | Found::Contradiction => false,
            Found::Named(name) => named(name),
            Found::Entry(entry) => *writer.value == entry.value && named(entry.modified),
        }
    }

    /// What `step` leaves of `content`; `None` if it can't have found that.
    fn after(&self, step: &Step<'_>, content: Content) -> Option<Content> {
        let fits = step.found.iter().all(|found| self.fits(content, *found));
        fits.then(|| step.left.unwrap_or(content))
    }

    fn run(&self) -> Result<(), Violation> {
        let initial = self.history.start.entries.iter().any(|entry| entry.key == *self.key).then_some(0);
        let mut placed = Placed::new(self.steps.len());
        let mut open = self.steps.iter().filter(|step| step.returned.is_some()).count();
        let mut stack = vec![Frame { content: initial, untried: self.next(&placed), placed: None }];
        let mut tried = BTreeSet::new();
        let mut best = (open, self.next(&placed));
        while let Some(frame) = stack.last_mut() {
            if open == 0 {
                return Ok(());
            }
            let Some(index) = frame.untried.pop() else {
                if let Some(index) = frame.placed {
                    placed.set(index, false);
                    open += usize::from(self.steps[index].returned.is_some());
                }
                stack.pop();
                continue;
            };
            let Some(content) = self.after(&self.steps[index], frame.content) else { continue };
            placed.set(index, true);
            if tried.len() < STATES_MAX && tried.insert((placed.clone(), content)) {
                open -= usize::from(self.steps[index].returned.is_some());
                let untried = self.next(&placed);
                if open < best.0 {
                    best = (open, untried.clone());
                }
                stack.push(Frame { content, untried, placed: Some(index) });
            } else {
                placed.set(index, false);
            }
        }
        Err(self.violation(&best.1))
    }

    /// The steps that may come next, the one made first last.
    fn next(&self, placed: &Placed) -> Vec<usize> {
        let mut next = Vec::new();
        let mut first_return = Moment::MAX;
        for (index, step) in self.steps.iter().enumerate().skip(placed.full()) {
            if placed.has(index) {
                continue;
            }
            if step.invoked > first_return {
                break;
            }
            next.push(index);
            first_return = first_return.min(step.returned.unwrap_or(Moment::MAX));
        }
        next.reverse();
        next
    }

    fn violation(&self, stuck: &[usize]) -> Violation {
        let stuck = stuck.iter().rev().map(|&index| self.history.operations[self.steps[index].operation].to_string());
        let stuck: Vec<String> = stuck.collect();
        let detail = format!(
            "no order of the calls of {} explains them all: none of these can come next: {}",
            self.key,
            stuck.join("; ")
        );
        Violation::new(Property::Linearizable, detail)
    }
}

impl<'a> Found<'a> {
    fn entry(&self) -> Option<&'a Entry> {
        if let Self::Entry(entry) = self { Some(entry) } else { None }
    }
}

fn found(entry: Option<&Entry>) -> Found<'_> {
    entry.map_or(Found::Nothing, Found::Entry)
}

/// What must have been found where `check` held.
fn expected(check: &Check) -> Found<'_> {
    match check {
        Check::Absent(_) => Found::Nothing,
        Check::Unchanged(_, seen) => Found::Named(*seen),
    }
}

/// One decision of a search.
struct Frame {
    content: Content,
    untried: Vec<usize>,
    placed: Option<usize>,
}

/// Which steps have a place, as bits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    /// How many whole words of the beginning are full: their steps need no second look.
    full_words: usize,
    words: Vec<u64>,
}

impl Placed {
    fn new(len: usize) -> Self {
        Self { full_words: 0, words: vec![0; len.div_ceil(64)] }
    }

    fn has(&self, index: usize) -> bool {
        self.words[index / 64] & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: usize, placed: bool) {
        let bit = 1 << (index % 64);
        if placed {
            self.words[index / 64] |= bit;
        } else {
            self.words[index / 64] &= !bit;
        }
        self.full_words = self.words.iter().take_while(|word| **word == u64::MAX).count();
    }

    /// Up to where all have a place.
    fn full(&self) -> usize {
        self.full_words * 64
    }
}
