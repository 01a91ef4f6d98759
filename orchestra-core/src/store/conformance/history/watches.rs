//! What each watch owes whoever reads it: the six properties by which etcd's own robustness tests judge watches.

use super::{
    super::super::{Batch, Change, Revision},
    History, Property, Told, Violation, Watched,
    timeline::Timeline,
};

/// Checks that each watch of `history` is ordered, unique, reliable, atomic, resumable and bookmarkable (law 4, SEMANTICS 10
/// to 12), as far as it was read. Of what was written before the history began, no more is known than what was left of it.
///
/// It costs O(n) for n batches and the commits that they cover, once the writers of all revisions are found as in
/// [`check_by_revision`](super::check_by_revision).
///
/// # Errors
///
/// The first violation found.
pub fn check_watches(history: &History) -> Result<(), Violation> {
    let timeline = Timeline::of(history)?;
    history.watches.iter().try_for_each(|watched| check_watch(history, &timeline, watched))
}

fn check_watch(history: &History, timeline: &Timeline, watched: &Watched) -> Result<(), Violation> {
    let mut reader = Reader { history, timeline, watched, at: watched.after, yielded: None };
    for told in &watched.told {
        if told.batch.changes.is_empty() {
            reader.bookmark(told)?;
        } else {
            reader.changes(&told.batch)?;
        }
        reader.at = told.batch.revision;
    }
    match watched.compacted {
        Some(floor) if floor <= reader.at || floor > timeline.last() => {
            Err(reader.violation(Property::Resumable, &format!("it is told to begin again at {floor}")))
        }
        _ => Ok(()),
    }
}

/// One watch and how far it has come.
struct Reader<'a> {
    history: &'a History,
    timeline: &'a Timeline,
    watched: &'a Watched,
    at: Revision,
    /// The last batch with changes.
    yielded: Option<&'a Batch>,
}

impl<'a> Reader<'a> {
    fn violation(&self, property: Property, what: &str) -> Violation {
        let Watched { prefix, after, .. } = self.watched;
        let last = self.yielded.map_or_else(String::new, |batch| format!(", last with {batch:?}"));
        let detail = format!("the watch of {prefix} after {after} has come to {}{last}, and then {what}", self.at);
        Violation::new(property, detail)
    }

    fn bookmark(&self, told: &Told) -> Result<(), Violation> {
        let Told { at, batch: Batch { revision, .. } } = told;
        if *revision < self.at {
            return Err(self.violation(Property::Bookmarkable, &format!("a bookmark says {revision}")));
        }
        if let Some(missed) = self.missed(*revision) {
            let what = format!("a bookmark says {revision} before {missed:?} is yielded");
            return Err(self.violation(Property::Bookmarkable, &what));
        }
        let writer = self.timeline.at(*revision).map(|written| &self.history.operations[written.operation]);
        match writer.filter(|writer| writer.invoked > *at) {
            Some(writer) => {
                let what = format!("a bookmark says {revision} before there was {writer}");
                Err(self.violation(Property::Bookmarkable, &what))
            }
            None => Ok(()),
        }
    }

    fn changes(&mut self, batch: &'a Batch) -> Result<(), Violation> {
        if batch.revision <= self.at {
            return Err(self.backwards(batch));
        }
        let is_past = batch.revision <= self.timeline.start();
        match self.missed(batch.revision) {
            Some(due) if due.revision == batch.revision => self.compare(&due, batch, is_past)?,
            Some(due) => {
                let first = self.yielded.is_none();
                let property = if first { Property::Resumable } else { Property::Reliable };
                return Err(self.violation(property, &format!("it yields {batch:?}, without {due:?}")));
            }
            // All that it changed may have been changed again before the start.
            None if is_past => {}
            None => {
                return Err(self.violation(Property::Reliable, &format!("it yields {batch:?}, which nobody wrote")));
            }
        }
        self.yielded = Some(batch);
        Ok(())
    }

    /// Holds a batch against what is due at its revision: all, or what is left of it.
    fn compare(&self, due: &Batch, batch: &Batch, is_past: bool) -> Result<(), Violation> {
        let is_whole = due.changes.iter().all(|change| batch.changes.contains(change));
        if is_whole && (is_past || due.changes == batch.changes) {
            return Ok(());
        }
        let torn = batch.changes.iter().all(|change| due.changes.contains(change));
        let property = if torn { Property::Atomic } else { Property::Reliable };
        Err(self.violation(property, &format!("of {due:?} it yields {batch:?}")))
    }

    /// Which property a batch breaks that is not after the last.
    fn backwards(&self, batch: &Batch) -> Violation {
        let seen = |change: &Change| {
            let before = self.watched.told.iter().take_while(|told| !std::ptr::eq(&raw const told.batch, batch));
            before.into_iter().any(|told| told.batch.revision == batch.revision && told.batch.changes.contains(change))
        };
        let property = if batch.changes.iter().any(seen) {
            Property::Unique
        } else if self.yielded.is_none() {
            Property::Resumable
        } else if self.yielded.is_some_and(|last| last.revision == batch.revision) {
            Property::Atomic
        } else {
            Property::Ordered
        };
        self.violation(property, &format!("it yields {batch:?}"))
    }

    /// The first batch that is due up to `until`.
    fn missed(&self, until: Revision) -> Option<Batch> {
        self.timeline.next(&self.watched.prefix, self.at, until)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{
            super::super::{Batch, Change, Entry, Key, Listing, Prefix, Revision, Txn},
            Call, History, Operation, Outcome, Property, Told, Watched,
        },
        check_watches,
    };

    fn put(name: &str, at: u64) -> Change {
        let (key, value) = (Key::new(["p", name]).expect("a valid key"), Bytes::from(name.to_owned()));
        Change::Put(Entry { key, value, created: Revision(at), modified: Revision(at) })
    }

    fn batch(revision: u64, changes: &[Change]) -> Batch {
        Batch { revision: Revision(revision), changes: changes.to_vec() }
    }

    /// What is wrong with a watch after `after` that told `batches`, where `old` was written at r4, `other` at r6, and `new`
    /// at r8 by the only commit of a history that began at r7.
    fn verdict(after: u64, batches: &[Batch]) -> Option<Property> {
        let entry = |change: Change| match change {
            Change::Put(entry) => entry,
            Change::Delete(key) => panic!("{key} is put"),
        };
        let start = Listing { revision: Revision(7), entries: vec![entry(put("old", 4)), entry(put("other", 6))] };
        let Entry { key, value, modified, .. } = entry(put("new", 8));
        let call = Call::Commit { txn: Txn::create(key, value), outcome: Outcome::Committed(modified) };
        let told = (20..).zip(batches).map(|(at, batch)| Told { at, batch: batch.clone() }).collect();
        let watched =
            Watched { prefix: Prefix::new(["p"]).expect("a prefix"), after: Revision(after), told, compacted: None };
        let operations = vec![Operation { invoked: 10, returned: Some(11), call }];
        check_watches(&History { start, operations, watches: vec![watched] }).err().map(|violation| violation.property)
    }

    #[test]
    fn what_is_known_of_the_time_before_a_history_is_due_to_watches() {
        let (old, other, new) = (batch(4, &[put("old", 4)]), batch(6, &[put("other", 6)]), batch(8, &[put("new", 8)]));
        assert_eq!(verdict(2, &[old.clone(), other.clone(), new.clone()]), None);
        // Of what is gone, anything may have been told.
        assert_eq!(verdict(2, &[batch(3, &[put("old", 3)]), old.clone(), other.clone()]), None);
        assert_eq!(verdict(2, &[batch(4, &[put("gone", 4), put("old", 4)]), other.clone()]), None);
        assert_eq!(verdict(2, std::slice::from_ref(&other)), Some(Property::Resumable));
        assert_eq!(verdict(2, &[old.clone(), new.clone()]), Some(Property::Reliable));
        assert_eq!(verdict(2, &[old.clone(), batch(7, &[])]), Some(Property::Bookmarkable));
        assert_eq!(verdict(2, &[batch(4, &[put("gone", 4)])]), Some(Property::Reliable));
        assert_eq!(verdict(2, &[old.clone(), other.clone(), old.clone()]), Some(Property::Unique));
        assert_eq!(verdict(4, &[old, other.clone()]), Some(Property::Resumable));
        assert_eq!(verdict(7, &[other, new]), Some(Property::Resumable));
    }

    #[test]
    fn a_bookmark_of_a_revision_that_nobody_wrote_is_none() {
        assert_eq!(verdict(7, &[batch(8, &[put("new", 8)]), batch(8, &[])]), None);
        assert_eq!(verdict(12, &[batch(12, &[])]), Some(Property::Order));
    }
}
