//! What each key held from when to when.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::super::super::{Change, Entry, Key, Listing, Revision};

/// Where the last version of a key ends.
const NEVER: Revision = Revision(u64::MAX);

/// All that the keys of a history held.
#[derive(Debug)]
pub(super) struct Versions {
    /// By key, in order; the first of a key is as of the start.
    of_keys: BTreeMap<Key, Vec<Version>>,
}

/// What a key held from a revision on, until its next version.
#[derive(Debug)]
struct Version {
    from: Revision,
    entry: Option<Entry>,
}

impl Versions {
    /// Those that `changes`, in the order of their revisions, made of `start`.
    pub(super) fn new<'a>(start: &Listing, changes: impl Iterator<Item = (Revision, &'a Change)>) -> Self {
        let mut of_keys: BTreeMap<Key, Vec<Version>> = BTreeMap::new();
        for entry in &start.entries {
            of_keys.insert(entry.key.clone(), vec![Version { from: start.revision, entry: Some(entry.clone()) }]);
        }
        for (from, change) in changes {
            let entry = match change {
                Change::Put(entry) => Some(entry.clone()),
                Change::Delete(_) => None,
            };
            let of_key = of_keys.entry(change.key().clone()).or_default();
            if of_key.is_empty() {
                of_key.push(Version { from: start.revision, entry: None });
            }
            of_key.push(Version { from, entry });
        }
        Self { of_keys }
    }

    /// What was written to `key` at `modified`, and at which revisions it was there.
    pub(super) fn written(&self, key: &Key, modified: Revision) -> Option<(&Entry, Range<Revision>)> {
        let versions = self.of_keys.get(key)?;
        // What was there at the start is older than the first version says.
        let place = versions.partition_point(|version| version.from <= modified).saturating_sub(1);
        let entry = versions[place].entry.as_ref().filter(|entry| entry.modified == modified)?;
        Some((entry, span(versions, place)))
    }

    /// At which revisions none of `keys` held anything, in order.
    pub(super) fn absences(&self, keys: &BTreeSet<&Key>) -> Vec<Range<Revision>> {
        let mut common = vec![Revision(0)..NEVER];
        for key in keys {
            let Some(versions) = self.of_keys.get(*key) else { continue };
            let absent = (0..versions.len()).filter(|&place| versions[place].entry.is_none());
            common = intersection(&common, &absent.map(|place| span(versions, place)).collect::<Vec<_>>());
        }
        common
    }
}

/// The revisions at which the version at `place` was the last.
fn span(versions: &[Version], place: usize) -> Range<Revision> {
    versions[place].from..versions.get(place + 1).map_or(NEVER, |next| next.from)
}

/// What is in both; each is in order.
fn intersection(one: &[Range<Revision>], other: &[Range<Revision>]) -> Vec<Range<Revision>> {
    let (mut both, mut in_one, mut in_other) = (Vec::new(), 0, 0);
    while let (Some(a), Some(b)) = (one.get(in_one), other.get(in_other)) {
        let common = a.start.max(b.start)..a.end.min(b.end);
        if common.start < common.end {
            both.push(common);
        }
        if a.end <= b.end {
            in_one += 1;
        } else {
            in_other += 1;
        }
    }
    both
}
