//! What each watch owes whoever reads it: the six properties by which etcd's own robustness tests judge watches.

use super::{
    super::super::{Batch, Change, Revision},
    History, Property, Violation, Watched,
    timeline::Timeline,
};

/// Checks that each watch of `history` is ordered, unique, reliable, atomic, resumable and bookmarkable (law 4, SEMANTICS 10
/// to 12), as far as it was read.
///
/// It costs O(n) for n batches and the commits that they cover, once the writers of all revisions are found as in
/// [`check_by_revision`](super::check_by_revision).
///
/// # Errors
///
/// The first violation found.
pub fn check_watches(history: &History) -> Result<(), Violation> {
    let timeline = Timeline::of(history)?;
    history.watches.iter().try_for_each(|watched| check_watch(&timeline, watched))
}

fn check_watch(timeline: &Timeline, watched: &Watched) -> Result<(), Violation> {
    let mut reader = Reader { timeline, watched, at: watched.after, yielded: None };
    for told in &watched.told {
        if told.batch.changes.is_empty() {
            reader.bookmark(&told.batch)?;
        } else if told.batch.revision > timeline.start() {
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

    fn bookmark(&self, batch: &Batch) -> Result<(), Violation> {
        if batch.revision < self.at {
            return Err(self.violation(Property::Bookmarkable, &format!("a bookmark says {}", batch.revision)));
        }
        match self.missed(batch.revision) {
            Some(missed) => {
                let what = format!("a bookmark says {} before {missed:?} is yielded", batch.revision);
                Err(self.violation(Property::Bookmarkable, &what))
            }
            None => Ok(()),
        }
    }

    fn changes(&mut self, batch: &'a Batch) -> Result<(), Violation> {
        if batch.revision <= self.at {
            return Err(self.backwards(batch));
        }
        let due = self.missed(batch.revision);
        match due {
            Some(due) if due.revision == batch.revision && due.changes == batch.changes => {
                self.yielded = Some(batch);
                Ok(())
            }
            Some(due) if due.revision == batch.revision => {
                let torn = batch.changes.iter().all(|change| due.changes.contains(change));
                let property = if torn { Property::Atomic } else { Property::Reliable };
                Err(self.violation(property, &format!("of {due:?} it yields {batch:?}")))
            }
            Some(due) => {
                let first = self.yielded.is_none();
                let property = if first { Property::Resumable } else { Property::Reliable };
                Err(self.violation(property, &format!("it yields {batch:?}, without {due:?}")))
            }
            None => Err(self.violation(Property::Reliable, &format!("it yields {batch:?}, which nobody wrote"))),
        }
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
