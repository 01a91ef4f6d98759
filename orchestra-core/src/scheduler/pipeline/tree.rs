//! The best of many, kept as they change: a tournament.

/// How many values are looked through one by one: a cache line.
const HEAT: usize = 16;

/// A value for each of `0..len`, and at any time the highest of them, how many share it, and which these are.
///
/// A change costs O(log n), and less where it doesn't change who is best above; a question costs O(log n). No value may be
/// `i32::MIN`.
#[derive(Debug)]
pub(super) struct Tournament {
    /// The values, by heats; [`NOTHING`] where there is none.
    values: Vec<[i32; HEAT]>,
    /// A complete binary tree over heats of values, with the root at 1: what is best below, and how many share it.
    matches: Vec<Best>,
    /// Whether those that share it are counted; if not, any number is 1, and most changes end far from the root.
    counts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Best {
    value: i32,
    count: u32,
}

const NOTHING: i32 = i32::MIN;

const NOBODY: Best = Best { value: NOTHING, count: 0 };

impl Tournament {
    /// One of these values; `counts` says whether it can tell how many share the highest, and find another than the first.
    pub(super) fn new(values: impl Iterator<Item = Option<i32>>, counts: bool) -> Self {
        let values: Vec<i32> = values.map(|value| value.unwrap_or(NOTHING)).collect();
        let heat = |heat: &[i32]| std::array::from_fn(|at| heat.get(at).copied().unwrap_or(NOTHING));
        let values: Vec<[i32; HEAT]> = values.chunks(HEAT).map(heat).collect();
        let heats = values.len().next_power_of_two();
        let mut tournament = Self { values, matches: vec![NOBODY; 2 * heats], counts };
        for heat in 0..tournament.values.len() {
            tournament.matches[heats + heat] = tournament.best_of(heat);
        }
        for at in (1..heats).rev() {
            tournament.matches[at] = tournament.better(at);
        }
        tournament
    }

    /// Sets a value, or takes it out.
    pub(super) fn set(&mut self, at: usize, value: Option<i32>) {
        let Some(own) = self.values.get_mut(at / HEAT).and_then(|heat| heat.get_mut(at % HEAT)) else { return };
        let value = value.unwrap_or(NOTHING);
        let was = std::mem::replace(own, value);
        let heat = at / HEAT;
        let mut at = self.matches.len() / 2 + heat;
        // Who neither was the best of its heat nor is it changes nothing.
        let best = self.matches[at].value;
        if was == value || was < best && value < best {
            return;
        }
        let mut best = self.best_of(heat);
        while self.matches[at] != best {
            self.matches[at] = best;
            if at == 1 {
                return;
            }
            at /= 2;
            best = self.better(at);
        }
    }

    /// The value of one; `None` if it is not there.
    pub(super) fn value(&self, at: usize) -> Option<i32> {
        self.values.get(at / HEAT).and_then(|heat| heat.get(at % HEAT)).copied().filter(|value| *value != NOTHING)
    }

    /// How many share the highest value, or 1 if they are not counted; 0 if there is none.
    pub(super) fn ties(&self) -> u32 {
        self.matches.get(1).map_or(0, |root| root.count)
    }

    /// Where the `nth` of those is that share the highest value.
    pub(super) fn best(&self, mut nth: u32) -> Option<usize> {
        let root = *self.matches.get(1)?;
        if nth >= root.count {
            return None;
        }
        let (mut at, heats) = (1, self.matches.len() / 2);
        while at < heats {
            let left = self.matches[2 * at];
            let here = if left.value == root.value { left.count } else { 0 };
            at = 2 * at + usize::from(nth >= here);
            nth -= if nth >= here { here } else { 0 };
        }
        let heat = self.values.get(at - heats)?.iter().enumerate();
        let mut tied = heat.filter(|(_, value)| **value == root.value);
        tied.nth(nth as usize).map(|(lane, _)| (at - heats) * HEAT + lane)
    }

    /// The best of a heat.
    fn best_of(&self, heat: usize) -> Best {
        let Some(heat) = self.values.get(heat) else { return NOBODY };
        let value = heat.iter().copied().fold(NOTHING, i32::max);
        if value == NOTHING {
            return NOBODY;
        }
        let count = if self.counts { heat.iter().map(|other| u32::from(*other == value)).sum() } else { 1 };
        Best { value, count }
    }

    /// The better of the two below a match.
    fn better(&self, at: usize) -> Best {
        let (left, right) = (self.matches[2 * at], self.matches[2 * at + 1]);
        match left.value.cmp(&right.value) {
            std::cmp::Ordering::Less => right,
            std::cmp::Ordering::Equal if self.counts => Best { value: left.value, count: left.count + right.count },
            _ => left,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Tournament;

    proptest! {
        #[test]
        fn the_best_are_those_of_a_plain_look(
            mut values in prop::collection::vec(prop::option::of(0..4_i32), 0..90),
            changes in prop::collection::vec((0..90_usize, prop::option::of(0..4_i32)), 0..90),
        ) {
            let mut tree = Tournament::new(values.iter().copied(), true);
            let mut uncounted = Tournament::new(values.iter().copied(), false);
            for (at, value) in changes {
                if let Some(own) = values.get_mut(at) {
                    *own = value;
                    tree.set(at, value);
                    uncounted.set(at, value);
                }
                let best = values.iter().flatten().max();
                let plain: Vec<usize> = (0..values.len()).filter(|at| best.is_some() && values[*at].as_ref() == best).collect();
                let found: Vec<usize> = (0..tree.ties()).filter_map(|nth| tree.best(nth)).collect();
                prop_assert_eq!(uncounted.best(0), plain.first().copied());
                prop_assert_eq!(found, plain);
            }
        }
    }
}
