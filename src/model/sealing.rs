//! Sealing of recoverable secrets: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) under a key that is never in the
//! database, bound to the object that the secret belongs to.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Entropy;

/// Octets of a sealing key.
pub const SEALING_KEY_OCTETS: usize = 32;
const NONCE_OCTETS: usize = 24;

/// What a sealed secret belongs to. A sealed value moved to another object does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// The recoverable password of the inbox with this id.
    MailPassword(Uuid),
    /// The private DKIM key with this id.
    DkimKey(Uuid),
    /// The answer kept for an `Idempotency-Key`, under the record's id.
    Answer(Uuid),
}

impl Sealed {
    fn context(self) -> Vec<u8> {
        let (purpose, id) = match self {
            Self::MailPassword(id) => ("inboxd mail password v1", id),
            Self::DkimKey(id) => ("inboxd dkim key v1", id),
            Self::Answer(id) => ("inboxd idempotent answer v1", id),
        };
        [purpose.as_bytes(), id.as_bytes()].concat()
    }
}

/// The key that seals; wiped from memory when dropped.
pub struct SealingKey(Zeroizing<[u8; SEALING_KEY_OCTETS]>);

impl SealingKey {
    /// A new key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut octets = Zeroizing::new([0; SEALING_KEY_OCTETS]);
        entropy.fill(octets.as_mut_slice());
        Self(octets)
    }

    /// A key as read from its file.
    pub fn from_octets(octets: Zeroizing<[u8; SEALING_KEY_OCTETS]>) -> Self {
        Self(octets)
    }

    /// The key's octets, for writing its file.
    pub fn octets(&self) -> &[u8; SEALING_KEY_OCTETS] {
        &self.0
    }

    /// Tells one key from another without telling the key: kept in the store, so that a daemon started with the
    /// wrong key file says so instead of failing to open one secret after the other.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"inboxd sealing key fingerprint v1")
            .chain_update(self.octets())
            .finalize()
            .into()
    }

    /// Seals a secret: a fresh nonce, then the ciphertext.
    pub fn seal(
        &self,
        belongs_to: Sealed,
        secret: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0_u8; NONCE_OCTETS];
        entropy.fill(&mut nonce);
        let payload = Payload {
            msg: secret,
            aad: &belongs_to.context(),
        };
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealError::Seal)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`SealingKey::seal`] made for the same object under the same key.
    pub fn open(&self, belongs_to: Sealed, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, ciphertext) = sealed
            .split_first_chunk::<NONCE_OCTETS>()
            .ok_or(SealError::Open)?;
        let payload = Payload {
            msg: ciphertext,
            aad: &belongs_to.context(),
        };
        self.cipher()
            .decrypt(&XNonce::from(*nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| SealError::Open)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.0).into())
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// A secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Larger than the cipher can take.
    #[error("seal a secret")]
    Seal,
    /// Another key, another object, or damaged.
    #[error("open a sealed secret: it was sealed under another key or is damaged")]
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Machine;

    const ID: Uuid = Uuid::from_u128(1);

    #[test]
    fn what_was_sealed_opens() {
        let key = SealingKey::generate(&Machine);
        let sealed = key.seal(Sealed::MailPassword(ID), b"secret", &Machine).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(
            key.open(Sealed::MailPassword(ID), &sealed).unwrap().as_slice(),
            b"secret"
        );
    }

    #[test]
    fn it_opens_only_for_its_object_under_its_key() {
        let key = SealingKey::generate(&Machine);
        let sealed = key.seal(Sealed::MailPassword(ID), b"secret", &Machine).unwrap();
        assert!(
            key.open(Sealed::MailPassword(Uuid::from_u128(2)), &sealed)
                .is_err()
        );
        assert!(key.open(Sealed::Answer(ID), &sealed).is_err());
        assert!(
            SealingKey::generate(&Machine)
                .open(Sealed::MailPassword(ID), &sealed)
                .is_err()
        );
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert!(key.open(Sealed::MailPassword(ID), &damaged).is_err());
        }
        assert!(key.open(Sealed::MailPassword(ID), &[]).is_err());
    }
}
