//! Chance and identity, passed in: names, uids, jitter and ties all come from an [`Entropy`].

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

/// What Kubernetes builds name suffixes from: no vowels, so no words, and no digit that looks like a letter.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A shared generator of random numbers, names and uids; clones draw from one stream.
///
/// Equal seeds and equal calls give equal answers. It is no source of secrets: keys and tokens come from the operating
/// system.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<fastrand::Rng>>);

impl Entropy {
    /// Makes a generator whose whole future is `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// Makes a generator seeded by the operating system, for clusters that need not be repeatable.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give, on which nothing could be built.
    #[must_use]
    pub fn from_os() -> Self {
        Self::seeded(getrandom::u64().expect("the operating system provides randomness"))
    }

    /// Makes an independent generator, so that one component's draws don't shift another's.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::seeded(self.next_u64())
    }

    /// Draws a number.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.draw(|rng| rng.u64(..))
    }

    /// Draws a number in `0..1`.
    #[must_use]
    pub fn next_f64(&self) -> f64 {
        self.draw(fastrand::Rng::f64)
    }

    /// Draws a version 4 UUID, for an object's uid.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let bytes = self.draw(|rng| rng.u128(..)).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Draws `length` letters to end a generated name with, as in `web-5d9c8b7f6-x2k4p`.
    #[must_use]
    pub fn suffix(&self, length: usize) -> String {
        self.draw(|rng| {
            (0..length).filter_map(|_| rng.choice(SUFFIX_LETTERS)).map(|&letter| char::from(letter)).collect()
        })
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// A draw that depends on both numbers (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
#[must_use]
pub fn mixed(seed: u64, salt: u64) -> u64 {
    let mut mixed = seed.wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::Entropy;

    #[test]
    fn equal_seeds_draw_equal_names_and_uids() {
        let (a, b) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.suffix(5), b.suffix(5));
        assert_eq!(a.fork().next_u64(), b.fork().next_u64());
        assert_ne!(a.uuid(), a.uuid());
    }
}
