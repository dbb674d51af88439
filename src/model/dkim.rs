//! What a domain signs its mail with (DKIM, RFC 6376; Ed25519, RFC 8463).

use std::{convert::Infallible, fmt};

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rsa::{
    PrivateKey,
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _},
    rand_core::{TryCryptoRng, TryRng},
};
use zeroize::Zeroizing;

use super::{Refused, ids::DkimKeyId};
use crate::clock::Entropy;

/// Bits of an RSA key: what RFC 8301 asks for, and what every verifier and every DNS form takes.
const RSA_BITS: usize = 2048;
/// Octets of an Ed25519 private key.
const ED25519_SEED_OCTETS: usize = 32;
/// What stands before them in PKCS #8 (RFC 8410, 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Longest selector in octets: one DNS label (RFC 1035, 2.3.4).
const SELECTOR_MAX_OCTETS: usize = 63;

/// The name of a key below `_domainkey` (RFC 6376, 3.1): one DNS label here, of `a-z 0-9 -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Selector(String);

impl Selector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let is_edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let fits = bytes.len() <= SELECTOR_MAX_OCTETS
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && is_edge(bytes.first())
            && is_edge(bytes.last());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because(
                "must be 1 to 63 characters of a-z, 0-9 and '-', and start and end with a letter or digit",
            ))
        }
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a signature is made: the `a=` of a signature, the `k=` of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// 2048 bits; what every verifier knows (RFC 8301).
    RsaSha256,
    /// Short keys, for verifiers that know RFC 8463.
    Ed25519Sha256,
}

impl Algorithm {
    /// All of them, in the order in which records are listed.
    pub const ALL: [Self; 2] = [Self::RsaSha256, Self::Ed25519Sha256];

    /// The `a=` of a signature.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    /// The `k=` of a record.
    pub fn key_type(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa",
            Self::Ed25519Sha256 => "ed25519",
        }
    }

    /// From what [`Self::as_str`] says.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        found.ok_or_else(|| Refused::because("must be rsa-sha256 or ed25519-sha256"))
    }
}

/// What a signature is verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    /// Where its record is, below `_domainkey`.
    pub selector: Selector,
    /// What it is for.
    pub algorithm: Algorithm,
    /// What the record's `p=` encodes: a `SubjectPublicKeyInfo` in DER for RSA (RFC 6376, 3.6.1), the 32 octets of the key
    /// for Ed25519 (RFC 8463, 4).
    pub octets: Vec<u8>,
}

/// Both halves of a new key.
pub struct Generated {
    /// PKCS #8 in DER; wiped from memory when dropped.
    pub private: Zeroizing<Vec<u8>>,
    /// As [`PublicKey::octets`].
    pub public: Vec<u8>,
}

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make a DKIM key: {0}")]
pub struct GenerateError(String);

/// Makes a key. An RSA key takes a good part of a second: not for an async thread.
pub fn generate(algorithm: Algorithm, entropy: &dyn Entropy) -> Result<Generated, GenerateError> {
    match algorithm {
        Algorithm::RsaSha256 => generate_rsa(entropy).map_err(|error| GenerateError(error.to_string())),
        Algorithm::Ed25519Sha256 => {
            let mut seed = Zeroizing::new([0; ED25519_SEED_OCTETS]);
            entropy.fill(seed.as_mut_slice());
            let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
                .map_err(|error| GenerateError(error.to_string()))?;
            Ok(Generated {
                private: Zeroizing::new([&ED25519_PKCS8_PREFIX[..], seed.as_slice()].concat()),
                public: pair.public_key().as_ref().to_vec(),
            })
        }
    }
}

fn generate_rsa(entropy: &dyn Entropy) -> Result<Generated, Box<dyn std::error::Error>> {
    let private = PrivateKey::new(&mut FromEntropy(entropy), RSA_BITS)?;
    Ok(Generated {
        public: private.to_public_key().to_public_key_der()?.into_vec(),
        private: Zeroizing::new(private.to_pkcs8_der()?.as_bytes().to_vec()),
    })
}

/// Our source of random octets, as crate `rsa` wants it.
struct FromEntropy<'a>(&'a dyn Entropy);

impl TryRng for FromEntropy<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut octets = [0; 4];
        self.0.fill(&mut octets);
        Ok(u32::from_ne_bytes(octets))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut octets = [0; 8];
        self.0.fill(&mut octets);
        Ok(u64::from_ne_bytes(octets))
    }

    fn try_fill_bytes(&mut self, octets: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(octets);
        Ok(())
    }
}

impl TryCryptoRng for FromEntropy<'_> {}

/// What mail is signed with, as it is kept: the private half is sealed under its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedSigningKey {
    /// What the private half is sealed under.
    pub id: DkimKeyId,
    /// Where its public half is found.
    pub selector: Selector,
    /// What it is for.
    pub algorithm: Algorithm,
    /// The private key, PKCS #8 in DER, sealed.
    pub sealed: Vec<u8>,
}

/// What mail is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Where its public half is found.
    pub selector: Selector,
    /// What it is for.
    pub algorithm: Algorithm,
    /// The private key, PKCS #8 in DER; wiped from memory when dropped.
    pub private: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("selector", &self.selector)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_one_dns_label() {
        for good in ["a", "s1", "ib-r-7f3k2q", &"x".repeat(63)] {
            assert_eq!(Selector::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a.b", "A", "a_b", "a b", &"x".repeat(64)] {
            assert!(Selector::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn algorithms_have_one_name_each() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.as_str()), Ok(algorithm));
        }
        assert!(Algorithm::parse("rsa-sha1").is_err());
    }

    #[test]
    fn a_new_key_signs_what_its_public_half_verifies() {
        use ring::{
            rand::SystemRandom,
            signature::{
                ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
            },
        };
        use rsa::{PublicKey as RsaPublicKey, pkcs1::EncodeRsaPublicKey as _, pkcs8::DecodePublicKey as _};

        let rsa = generate(Algorithm::RsaSha256, &crate::clock::Machine).unwrap();
        let pair = RsaKeyPair::from_pkcs8(&rsa.private).unwrap();
        assert_eq!(pair.public().modulus_len() * 8, RSA_BITS);
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"mail", &mut signature)
            .unwrap();
        // The record holds a SubjectPublicKeyInfo, ring takes what is in it.
        let public = RsaPublicKey::from_public_key_der(&rsa.public).unwrap();
        let public = public.to_pkcs1_der().unwrap();
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.as_bytes())
            .verify(b"mail", &signature)
            .unwrap();

        let ed25519 = generate(Algorithm::Ed25519Sha256, &crate::clock::Machine).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&ed25519.private).unwrap();
        UnparsedPublicKey::new(&ED25519, &ed25519.public)
            .verify(b"mail", pair.sign(b"mail").as_ref())
            .unwrap();
        assert_eq!(ed25519.public.len(), 32);
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let key = SigningKey {
            selector: Selector::parse("s1").unwrap(),
            algorithm: Algorithm::Ed25519Sha256,
            private: Zeroizing::new(vec![222; 4]),
        };
        assert!(!format!("{key:?}").contains("222"));
    }
}
