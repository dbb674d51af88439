//! A custom domain: who registered it, how it is proved, and what DNS says of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Refused,
    address::DomainName,
    dkim::{Algorithm, PublicKey, Selector},
    ids::{DkimKeyId, DomainId, InboxId, TenantId, WorkspaceId},
};
use crate::clock::{Entropy, Timestamp};

/// Random octets of a challenge: nobody guesses what somebody else has to publish.
const CHALLENGE_OCTETS: usize = 20;
/// The alphabet of challenges: letters and digits that are not mistaken for one another.
const CHALLENGE_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What the owner of a domain publishes to prove that it is the owner; each registration has its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge(String);

impl Challenge {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(token(entropy, CHALLENGE_OCTETS))
    }

    /// From the store.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because("must be lower-case letters and digits"))
        }
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Random lower-case letters and digits, five bits each.
pub(super) fn token(entropy: &dyn Entropy, length: usize) -> String {
    let mut octets = vec![0; length];
    entropy.fill(&mut octets);
    octets
        .iter()
        .map(|octet| char::from(CHALLENGE_ALPHABET[usize::from(octet % 32)]))
        .collect()
}

/// A workspace's registration of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// The tenant that owns the workspace.
    pub tenant: TenantId,
    /// The workspace that registered it.
    pub workspace: WorkspaceId,
    /// The domain.
    pub name: DomainName,
    /// What is to be published to prove it.
    pub challenge: Challenge,
    /// The inbox that gets mail to what is no address of the domain.
    pub catch_all: Option<InboxId>,
    /// What DNS said of each record when it was asked last; empty before.
    pub findings: Vec<Finding>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When something about it changed.
    pub updated_at: Timestamp,
    /// When DNS was asked last.
    pub checked_at: Option<Timestamp>,
    /// When its ownership was proved; mail is accepted from then on.
    pub verified_at: Option<Timestamp>,
    /// Since when a record is missing that it needs and had.
    pub degraded_since: Option<Timestamp>,
    /// That it is proved while another tenant has the domain, or one above it.
    pub contest: Option<Contest>,
    /// Since when another tenant's registration contests this one.
    pub contested_since: Option<Timestamp>,
    /// Since when it is verified in place of another registration, as long as the mail servers may not see that.
    pub taking_over_since: Option<Timestamp>,
}

/// That a registration is proved while the challenge of a holder, who has the domain or one above it, is missing from DNS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contest {
    /// The holder's registration.
    pub holder: DomainId,
    /// Since when.
    pub since: Timestamp,
}

impl Contest {
    /// When the domain is handed over, if nothing changes in DNS.
    pub fn due(self, notice_seconds: u32) -> Timestamp {
        self.since.plus_seconds(i64::from(notice_seconds))
    }
}

/// How far a domain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainStatus {
    /// Its ownership is not proved yet.
    Pending,
    /// It is proved, and mail is accepted.
    Verified,
    /// The same, but a record is missing that it needs and had.
    Degraded,
    /// It is proved, and another tenant has the domain: it is handed over when the notice is over.
    Contested,
    /// It was not proved in time: it has to be registered again.
    Failed,
}

impl DomainStatus {
    const ALL: [Self; 5] = [
        Self::Pending,
        Self::Verified,
        Self::Degraded,
        Self::Contested,
        Self::Failed,
    ];

    /// Parses the API's name of it.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| Refused::because("must be pending, verified, degraded, contested or failed"))
    }

    /// As the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Degraded => "degraded",
            Self::Contested => "contested",
            Self::Failed => "failed",
        }
    }
}

impl Domain {
    /// A registration that is made now, of which nothing is proved.
    pub fn registered(
        id: DomainId,
        (tenant, workspace): (TenantId, WorkspaceId),
        name: DomainName,
        challenge: Challenge,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            tenant,
            workspace,
            name,
            challenge,
            catch_all: None,
            findings: Vec::new(),
            created_at: now,
            updated_at: now,
            checked_at: None,
            verified_at: None,
            degraded_since: None,
            contest: None,
            contested_since: None,
            taking_over_since: None,
        }
    }

    /// Whether addresses can be made at it: it is verified, and the mail servers see that.
    pub fn is_usable(&self) -> bool {
        self.verified_at.is_some() && self.taking_over_since.is_none()
    }

    /// How far it is. A registration that is not proved within so many days has lapsed.
    pub fn status(&self, now: Timestamp, pending_days: u32) -> DomainStatus {
        if self.contest.is_some() || self.taking_over_since.is_some() {
            return DomainStatus::Contested;
        }
        match (self.verified_at, self.degraded_since) {
            (Some(_), Some(_)) => DomainStatus::Degraded,
            (Some(_), None) => DomainStatus::Verified,
            (None, _) if self.created_at <= lapsed_before(now, pending_days) => DomainStatus::Failed,
            (None, _) => DomainStatus::Pending,
        }
    }
}

/// Registrations that are at least as old as this, and not proved, have lapsed.
pub fn lapsed_before(now: Timestamp, pending_days: u32) -> Timestamp {
    const SECONDS_A_DAY: i64 = 86_400;
    now.plus_seconds(-i64::from(pending_days) * SECONDS_A_DAY)
}

/// What DNS said of a record, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Which record: its name and type, as in a zone.
    pub record: String,
    /// Whether it is there.
    pub status: RecordStatus,
    /// Why, in plain words.
    pub reason: String,
    /// Whether it was there at any check since the registration.
    pub was_there: bool,
}

/// Findings as the store keeps them.
pub fn findings_to_json(findings: &[Finding]) -> Result<String, Refused> {
    serde_json::to_string(findings).map_err(|error| Refused(error.to_string()))
}

/// Findings from the store.
pub fn findings_from_json(text: &str) -> Result<Vec<Finding>, Refused> {
    serde_json::from_str(text).map_err(|error| Refused(error.to_string()))
}

/// Whether a record is in DNS as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordStatus {
    /// It is.
    Verified,
    /// There is none.
    Missing,
    /// There is something else.
    Wrong,
    /// DNS did not answer.
    Unknown,
}

/// A pair of keys of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DkimKey {
    /// Its id; the private half is sealed under it.
    pub id: DkimKeyId,
    /// What is published.
    pub public: PublicKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its record was first seen in DNS.
    pub seen_at: Option<Timestamp>,
    /// Since when another key signs.
    pub retired_at: Option<Timestamp>,
}

impl fmt::Display for DomainStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of a domain's keys sign: of each algorithm the latest whose record was seen. Before any was seen the first RSA
/// key signs, so that no mail leaves unsigned; verifiers take it for unsigned until the record is there (RFC 6376, 6.1.2).
pub fn signing(keys: &[DkimKey]) -> Vec<&DkimKey> {
    Algorithm::ALL
        .into_iter()
        .filter_map(|algorithm| {
            let of_kind = || {
                keys.iter()
                    .filter(move |key| key.public.algorithm == algorithm && key.retired_at.is_none())
            };
            let seen = of_kind()
                .filter(|key| key.seen_at.is_some())
                .max_by_key(|key| (key.created_at, key.id));
            let first = || {
                of_kind()
                    .filter(|_| algorithm == Algorithm::RsaSha256)
                    .min_by_key(|key| (key.created_at, key.id))
            };
            seen.or_else(first)
        })
        .collect()
}

/// A name for a new key, unlike that of any other: two tenants may publish keys for one domain side by side.
pub fn new_selector(algorithm: Algorithm, entropy: &dyn Entropy) -> Result<Selector, Refused> {
    const RANDOM_CHARACTERS: usize = 8;
    let kind = match algorithm {
        Algorithm::RsaSha256 => 'r',
        Algorithm::Ed25519Sha256 => 'e',
    };
    Selector::parse(&format!("ib{kind}-{}", token(entropy, RANDOM_CHARACTERS)))
}
