//! The keys of an encrypted store, and how a value looks under one.
//!
//! A sealed value is a header, a nonce, and what AES-256-GCM makes of the value:
//!
//! ```text
//! 00 'o' 'e' 01   format
//! n               length of the id of the key, in bytes
//! id              n bytes
//! nonce           12 bytes
//! ciphertext      as long as the value
//! tag             16 bytes
//! ```
//!
//! The tag also covers the header and the key of the store that the value is at: a value that was moved, or whose key was
//! renamed, doesn't open.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use bytes::Bytes;
use orchestra_core::{
    rng::Entropy,
    store::{BoxError, Error, Key, Result},
};

/// The longest id of an [`EncryptionKey`], in bytes.
pub const KEY_ID_BYTES_MAX: usize = 64;
const FORMAT: &[u8] = b"\0oe\x01";
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// The most bytes that a value grows by.
pub(super) const OVERHEAD_BYTES_MAX: usize = FORMAT.len() + 1 + KEY_ID_BYTES_MAX + NONCE_BYTES + TAG_BYTES;

/// A secret of 256 bits, and the name that values tell it by.
///
/// The secret is wiped from memory when the key is dropped, and shown nowhere.
#[derive(Clone)]
pub struct EncryptionKey {
    id: String,
    cipher: Aes256Gcm,
}

impl EncryptionKey {
    /// Makes a key; `secret` comes from the operating system's randomness or from a key service, never from a password.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `id` is empty or longer than [`KEY_ID_BYTES_MAX`].
    pub fn new(id: &str, secret: &[u8; 32]) -> Result<Self> {
        if id.is_empty() || id.len() > KEY_ID_BYTES_MAX {
            return Err(Error::Invalid("the id of an encryption key is empty or too long"));
        }
        Ok(Self { id: id.into(), cipher: Aes256Gcm::new(secret.into()) })
    }

    /// The name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many bytes a value grows by.
    pub(super) fn overhead_bytes(&self) -> usize {
        FORMAT.len() + 1 + self.id.len() + NONCE_BYTES + TAG_BYTES
    }

    fn seal(&self, nonce: [u8; NONCE_BYTES], key: &Key, value: &[u8]) -> Result<Bytes> {
        let mut sealed = Vec::with_capacity(value.len() + self.overhead_bytes());
        sealed.extend_from_slice(FORMAT);
        sealed.extend(u8::try_from(self.id.len()));
        sealed.extend_from_slice(self.id.as_bytes());
        let bound = bound(&sealed, key);
        sealed.extend_from_slice(&nonce);
        let start = sealed.len();
        sealed.extend_from_slice(value);
        let buffer = InOutBuf::from(&mut sealed[start..]);
        let tag = self.cipher.encrypt_inout_detached(&nonce.into(), &bound, buffer);
        // Only a value of more than 64 GiB.
        sealed.extend_from_slice(&tag.map_err(|_| Error::Invalid("a value is too large to encrypt"))?);
        Ok(sealed.into())
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptionKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys that a store knows: the first encrypts, each decrypts what it has encrypted.
#[derive(Clone, Debug)]
pub struct KeyRing {
    first: EncryptionKey,
    others: Vec<EncryptionKey>,
}

impl KeyRing {
    /// Makes a ring of one key.
    #[must_use]
    pub fn new(first: EncryptionKey) -> Self {
        Self { first, others: Vec::new() }
    }

    /// Adds a key that only decrypts.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is one of its id already.
    pub fn with(mut self, key: EncryptionKey) -> Result<Self> {
        if self.find(&key.id).is_some() {
            return Err(Error::Invalid("two encryption keys have one id"));
        }
        self.others.push(key);
        Ok(self)
    }

    /// The key that encrypts.
    #[must_use]
    pub fn first(&self) -> &EncryptionKey {
        &self.first
    }

    fn find(&self, id: &str) -> Option<&EncryptionKey> {
        [&self.first].into_iter().chain(&self.others).find(|key| key.id == id)
    }

    /// What is stored at `key` for `value`.
    pub(super) fn seal(&self, nonces: &Nonces, key: &Key, value: &[u8]) -> Result<Bytes> {
        self.first.seal(nonces.draw()?, key, value)
    }

    /// The value that is stored as `sealed` at `key`.
    pub(super) fn open(&self, key: &Key, sealed: &[u8]) -> Result<Bytes, DecryptError> {
        let parts = Parts::of(sealed).ok_or_else(|| DecryptError::NotEncrypted { key: key.clone() })?;
        let id = parts.id.to_owned();
        let Some(encryption_key) = self.find(&id) else {
            return Err(DecryptError::UnknownKey { key: key.clone(), id });
        };
        let mut value = parts.ciphertext.to_vec();
        encryption_key
            .cipher
            .decrypt_inout_detached(
                &parts.nonce.into(),
                &bound(parts.header, key),
                InOutBuf::from(&mut value[..]),
                &parts.tag.into(),
            )
            .map_err(|_| DecryptError::Refused { key: key.clone(), id })?;
        Ok(value.into())
    }

    /// Whether `sealed` is of another key than the first.
    pub(super) fn is_stale(&self, sealed: &[u8]) -> bool {
        Parts::of(sealed).is_none_or(|parts| parts.id != self.first.id)
    }
}

/// What the tag covers besides the value.
fn bound(header: &[u8], key: &Key) -> Vec<u8> {
    [header, key.as_str().as_bytes()].concat()
}

/// A sealed value, taken apart.
struct Parts<'a> {
    header: &'a [u8],
    id: &'a str,
    nonce: [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
    tag: [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    /// `None` if `sealed` is not such a value.
    fn of(sealed: &'a [u8]) -> Option<Self> {
        let (length, rest) = sealed.strip_prefix(FORMAT)?.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        let header = sealed.get(..FORMAT.len() + 1 + id.len())?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self { header, id: std::str::from_utf8(id).ok()?, nonce: *nonce, ciphertext, tag: *tag })
    }
}

/// Why a value could not be read: the source of an [`Error::Unavailable`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecryptError {
    /// The ring has no key of this id: add it.
    #[error("{key} is encrypted with the key {id:?}, which is not in the key ring")]
    UnknownKey {
        /// Where the value is.
        key: Key,
        /// The id of the key that it was encrypted with.
        id: String,
    },
    /// The key of this id has another secret, or the value was changed, or moved from another place.
    #[error("{key} does not open with the key {id:?}: the secret is another one, or the value was tampered with")]
    Refused {
        /// Where the value is.
        key: Key,
        /// The id of the key that it was encrypted with.
        id: String,
    },
    /// The value was written without encryption.
    #[error("{key} is not encrypted")]
    NotEncrypted {
        /// Where the value is.
        key: Key,
    },
}

impl From<DecryptError> for Error {
    fn from(error: DecryptError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Where nonces come from.
///
/// Whoever sees two values under one key and nonce learns what they have in common, and can forge others. A counter
/// would have to survive every restart and be shared by every server of a store, so nonces are 96 bits of chance: draws of
/// 2³² under one key have a repeat with a chance of 2⁻³², which is as many as NIST SP 800-38D, section 8.3, allows. Rotate
/// keys before.
#[derive(Clone, Debug)]
pub struct Nonces(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Repeatable(Entropy),
}

impl Nonces {
    /// Nonces from the operating system, each drawn by itself: none is foretold or repeated by a restart.
    #[must_use]
    pub fn from_os() -> Self {
        Self(Source::System)
    }

    /// Nonces that are the same for the same seed, for simulations only: they keep no secret.
    #[must_use]
    pub fn repeatable(entropy: Entropy) -> Self {
        Self(Source::Repeatable(entropy))
    }

    fn draw(&self) -> Result<[u8; NONCE_BYTES]> {
        let mut nonce = [0; NONCE_BYTES];
        match &self.0 {
            Source::System => getrandom::fill(&mut nonce).map_err(|error| Error::Unavailable(BoxError::from(error)))?,
            Source::Repeatable(entropy) => {
                let (high, low) = (entropy.next_u64().to_be_bytes(), entropy.next_u64().to_be_bytes());
                nonce.iter_mut().zip(high.into_iter().chain(low)).for_each(|(byte, drawn)| *byte = drawn);
            }
        }
        Ok(nonce)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{EncryptionKey, Entropy, Key, KeyRing, Nonces};

    fn ring() -> KeyRing {
        KeyRing::new(EncryptionKey::new("a", &[1; 32]).expect("a valid id"))
    }

    proptest! {
        /// What the tag is for: no single byte of a sealed value may be another.
        #[test]
        fn a_value_opens_as_it_was_and_with_no_byte_changed(
            value in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), flip in 1..=255_u8,
        ) {
            let (ring, key) = (ring(), Key::new(["p", "a"]).expect("a valid key"));
            let sealed = ring.seal(&Nonces::repeatable(Entropy::seeded(1)), &key, &value).expect("a sealed value");
            prop_assert_eq!(sealed.len(), value.len() + ring.first().overhead_bytes());
            prop_assert_eq!(ring.open(&key, &sealed).expect("it opens"), value);
            let mut changed = sealed.to_vec();
            changed[at.index(sealed.len())] ^= flip;
            prop_assert!(ring.open(&key, &changed).is_err());
            prop_assert!(ring.open(&key, &sealed[..at.index(sealed.len())]).is_err());
        }
    }

    #[test]
    fn no_nonce_of_the_operating_system_comes_twice() {
        let nonces = Nonces::from_os();
        let mut drawn: Vec<_> = (0..1_000).map(|_| nonces.draw().expect("a nonce")).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 1_000);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", KeyRing::new(EncryptionKey::new("a", &[171; 32]).expect("a valid id")));
        assert!(
            shown.contains("\"a\"") && !shown.contains("171") && !shown.to_lowercase().contains("ab, ab"),
            "{shown}"
        );
    }
}
