//! API keys: a prefix that tells the kind, 256 random bits in base62, and a checksum that tells a mistyped key
//! without a look-up. Only the SHA-256 of a key is ever stored.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{
    ids::{InboxId, KeyId, TenantId, WorkspaceId},
    names::Label,
};
use crate::clock::{Entropy, Timestamp};

/// Base62 digits of randomness: 62^43 is just over 2^256.
const RANDOM_DIGITS: usize = 43;
/// Base62 digits of checksum: 62^6 is just over 2^32.
const CHECKSUM_DIGITS: usize = 6;
/// Octets of a whole key.
const KEY_OCTETS: usize = 3 + RANDOM_DIGITS + CHECKSUM_DIGITS;
/// Octets of a key that may be shown and stored in clear: the prefix and five digits.
const FRAGMENT_OCTETS: usize = 8;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key as it is listed: never the key itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedKey {
    /// Its id.
    pub id: KeyId,
    /// The part of it that may be shown.
    pub fragment: String,
    /// The name it was given.
    pub name: Option<Label>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Who holds a key of this kind, and what it reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// `sa_`: the platform's operator; the life cycle of tenants.
    SuperAdmin,
    /// `tk_`: a tenant's back end; everything in one tenant.
    Tenant,
    /// `wk_`: one workspace.
    Workspace,
    /// `ak_`: one inbox.
    Inbox,
}

impl KeyKind {
    /// The first three octets of a key of this kind.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::SuperAdmin => "sa_",
            Self::Tenant => "tk_",
            Self::Workspace => "wk_",
            Self::Inbox => "ak_",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::SuperAdmin, Self::Tenant, Self::Workspace, Self::Inbox]
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))
    }
}

/// A whole key, secret. Its `Debug` shows nothing of it.
#[derive(Clone, Debug)]
pub struct ApiKey {
    kind: KeyKind,
    text: SecretString,
}

impl ApiKey {
    /// A new key.
    pub fn generate(kind: KeyKind, entropy: &dyn Entropy) -> Self {
        let mut text = String::with_capacity(KEY_OCTETS);
        text.push_str(kind.prefix());
        let mut random = [0_u8; 64];
        while text.len() < 3 + RANDOM_DIGITS {
            entropy.fill(&mut random);
            // 248 is the largest multiple of 62 in a byte: dropping the rest keeps every digit equally likely.
            let digits = random
                .iter()
                .filter(|&&byte| byte < 248)
                .map(|byte| char::from(DIGITS[usize::from(byte % 62)]));
            text.extend(digits.take(3 + RANDOM_DIGITS - text.len()));
        }
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self {
            kind,
            text: text.into(),
        }
    }

    /// Parses a key as a caller sent it: prefix, alphabet, length and checksum must be right.
    pub fn parse(text: &str) -> Option<Self> {
        let kind = KeyKind::of(text)?;
        if text.len() != KEY_OCTETS || !text[3..].bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (body, sum) = text.split_at(KEY_OCTETS - CHECKSUM_DIGITS);
        (checksum(body) == sum).then(|| Self {
            kind,
            text: text.to_owned().into(),
        })
    }

    /// What the prefix says.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// What the store keeps: the SHA-256 of the text. 256 random bits need no salt and no stretching.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.expose_secret().as_bytes()).into()
    }

    /// The part that may be shown later, to tell keys apart: `tk_4fGh2`.
    pub fn fragment(&self) -> String {
        self.text.expose_secret()[..FRAGMENT_OCTETS].to_owned()
    }

    /// The key itself, for the one answer that carries it.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

/// CRC-32 in base62, most significant digit first.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|&digit| char::from(digit)).collect()
}

/// What a key stands for: everything that its holder can reach, and nothing else exists for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All tenants, but nothing inside them.
    SuperAdmin,
    /// One tenant.
    Tenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// One workspace.
    Workspace {
        /// The tenant that owns the workspace.
        tenant: TenantId,
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// One inbox.
    Inbox {
        /// The tenant that owns the workspace.
        tenant: TenantId,
        /// The workspace that owns the inbox.
        workspace: WorkspaceId,
        /// The inbox.
        inbox: InboxId,
    },
}

impl Scope {
    /// The kind of key that has this scope.
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::SuperAdmin => KeyKind::SuperAdmin,
            Self::Tenant { .. } => KeyKind::Tenant,
            Self::Workspace { .. } => KeyKind::Workspace,
            Self::Inbox { .. } => KeyKind::Inbox,
        }
    }
}

/// A key that was presented, found and is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Which key.
    pub key: KeyId,
    /// What it reaches.
    pub scope: Scope,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Machine;

    #[test]
    fn generated_keys_parse_and_tell_their_kind() {
        for kind in [
            KeyKind::SuperAdmin,
            KeyKind::Tenant,
            KeyKind::Workspace,
            KeyKind::Inbox,
        ] {
            let key = ApiKey::generate(kind, &Machine);
            assert_eq!(key.expose().len(), KEY_OCTETS);
            let parsed = ApiKey::parse(key.expose()).unwrap();
            assert_eq!(parsed.kind(), kind);
            assert_eq!(parsed.hash(), key.hash());
            assert!(key.expose().starts_with(&key.fragment()));
        }
    }

    #[test]
    fn every_single_mistyped_character_is_noticed() {
        let key = ApiKey::generate(KeyKind::Tenant, &Machine);
        let text = key.expose();
        for position in 3..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(ApiKey::parse(&wrong).is_none(), "position {position}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        let key = ApiKey::generate(KeyKind::Tenant, &Machine);
        assert!(!format!("{key:?}").contains(&key.expose()[3..]));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_takes_no_noise(text in ".{0,80}") {
            prop_assert!(ApiKey::parse(&text).is_none());
        }
    }
}
