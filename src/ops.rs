//! Use cases: one function each, called by the HTTP API and the command line alike.
//!
//! An operation checks what the caller reaches, runs one transaction, and returns what changed with the keys of the
//! maps that are to be published. It does not publish: that is for the caller, before it answers.

pub mod addresses;
pub mod authenticate;
mod batched;
pub mod condition;
mod costly;
pub mod create_inbox;
pub mod deletions;
pub mod domains;
pub mod edit;
pub mod fair_slots;
pub mod hang_up;
pub mod idempotency;
pub mod import;
pub mod in_flight;
pub mod inboxes;
pub mod keys;
mod place;
pub mod removal;
pub mod replace_hash;
pub mod secrets;
mod single_flight;
pub mod tenants;
pub mod together;
pub mod uncommitted;
pub mod workspaces;

use std::{collections::BTreeSet, sync::Arc};

use tokio::task::JoinHandle;
use uuid::Uuid;

use self::{
    authenticate::Keys, costly::Costly, deletions::Deletions, domains::Registered, fair_slots::NoSlot,
    in_flight::InFlight, place::Places, single_flight::SingleFlight, together::Together,
};
use crate::{
    clock::{self, Clock, Entropy, Timestamp},
    dns::Dns,
    model::{
        address::{Address, DomainName, LocalPart},
        api_key::{Caller, KeyKind},
        dkim::GenerateError,
        dns_records::SpfTerms,
        ids::{DomainId, TenantId},
        limits::{Limited, Limits},
        maps::MapKey,
        password::HashError,
        sealing::{SealError, SealingKey},
    },
    store::{self, Db, SessionsToEnd, Tx},
};

/// Objects in one answer of a list, and the default.
pub const PAGE_MAX: u32 = 1000;
/// Octets in one answer of a list, unless its first object alone has more.
pub const PAGE_MAX_OCTETS: usize = 1024 * 1024;
/// Tombstones that every plan allows, however few inboxes it has.
const TOMBSTONES_MIN: u32 = 10;
/// Tombstones beyond the limit that one deletion releases in addition to as many as it left.
const EARLIER_TOMBSTONES_RELEASED_MAX: u32 = 1_000;

/// What every operation works with.
pub struct Service {
    /// What is true.
    pub db: Db,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where keys and passwords come from.
    pub entropy: Arc<dyn Entropy>,
    /// Seals recoverable secrets.
    pub sealing: SealingKey,
    /// What the operator decided.
    pub settings: Settings,
    /// Creations between allocation and answer.
    pub in_flight: InFlight,
    /// Deletions between their transaction and their answer.
    deletions: Deletions,
    /// Creations that wait to be written.
    together: Together,
    /// Look-ups of keys that wait.
    keys: Keys,
    /// Look-ups of where inboxes are to be that wait.
    places: Places,
    /// Asks DNS about custom domains.
    dns: Dns,
    /// Checks of domains that are under way.
    checks: SingleFlight<DomainId, Changed<Registered>>,
    /// The turns to hash passwords, to make keys and to check domains.
    costly: Costly,
}

/// What the operator decided about custom domains.
#[derive(Clone, Debug)]
pub struct DomainSettings {
    /// The host that their MX records name.
    pub mx_host: String,
    /// What their SPF records say of the hosts that send.
    pub spf: SpfTerms,
    /// Days within which a registration has to be proved.
    pub pending_days: u32,
    /// How long a holder is given to publish its challenge again when another tenant has proved its domain, in seconds.
    pub handover_notice_seconds: u32,
    /// Pause between two checks of a domain that is verified, in seconds.
    pub check_seconds: u32,
}

/// What the operator decided about inboxes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of inboxes that name none; shared by all tenants.
    pub default_domain: DomainName,
    /// Names that nobody gets at the default domain.
    pub reserved_usernames: BTreeSet<LocalPart>,
    /// How long an address that was given up is kept for the workspace that had it, in days.
    pub tombstone_days: u32,
    /// Most tombstones of one tenant.
    pub tombstones_per_tenant: u32,
    /// Most addresses of one inbox, the canonical one included.
    pub addresses_per_inbox: u32,
    /// About custom domains.
    pub domains: DomainSettings,
    /// The caps of a tenant that is made without any.
    pub default_limits: Limits,
    /// Whether a recoverable copy of passwords is kept, and shown by GET.
    pub reveal_passwords: bool,
}

impl Settings {
    /// How many tombstones a tenant keeps whose plan has this cap on inboxes: as many as it may have inboxes, so that it
    /// takes no more names from others by deleting than by having them, and a few more for small plans.
    pub fn tombstones_of(&self, inbox_cap: Option<u32>) -> u32 {
        let max = self.tombstones_per_tenant;
        inbox_cap.map_or(max, |cap| cap.max(TOMBSTONES_MIN).min(max))
    }

    /// Whether a name is kept for the operator.
    pub fn is_reserved(&self, domain: &DomainName, local_part: &LocalPart) -> bool {
        *domain == self.default_domain && self.reserved_usernames.contains(local_part)
    }
}

/// What an operation did, and which keys of the maps have to be published before the answer.
#[derive(Clone, Debug)]
pub struct Changed<T> {
    /// What the answer is about.
    pub value: T,
    /// What to publish.
    pub publish: Vec<MapKey>,
}

/// Why an operation did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key was presented.
    #[error("no API key: send it as X-API-Key or as Authorization: Bearer")]
    MissingApiKey,
    /// The key is unknown, revoked or expired, or two different ones were presented.
    #[error("the API key is not valid")]
    InvalidApiKey,
    /// Keys of this kind cannot make this call at all.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The tenant of the key is suspended.
    #[error("this tenant is suspended; ask the operator of the service")]
    TenantSuspended,
    /// Nothing that the caller reaches has this id.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A field has a value that is not allowed.
    #[error("{field}: {rule}")]
    Invalid {
        /// Which field, query parameter or header.
        field: &'static str,
        /// What is allowed.
        rule: String,
    },
    /// The name is kept for the operator.
    #[error("{field}: {local_part} is reserved on {domain}")]
    UsernameReserved {
        /// Which field asks for it.
        field: &'static str,
        /// The name.
        local_part: LocalPart,
        /// The default domain.
        domain: DomainName,
    },
    /// Another inbox has the address, or it is kept for whoever had it.
    #[error("email: {0} is taken")]
    AddressTaken(Address),
    /// The canonical address is the inbox's for as long as it lives.
    #[error("{0} is the canonical address of this inbox and cannot be removed")]
    CanonicalAddress(Address),
    /// The domain is neither the default one nor one of the target workspace.
    #[error("{field}: {domain} is neither the service's default domain nor a domain of this workspace")]
    DomainNotAllowed {
        /// Which field names it.
        field: &'static str,
        /// The domain.
        domain: DomainName,
    },
    /// The domain is the workspace's, but its ownership is not proved yet.
    #[error("{field}: {domain} is not verified yet")]
    DomainNotVerified {
        /// Which field names it.
        field: &'static str,
        /// The domain.
        domain: DomainName,
    },
    /// A cap of the tenant's plan is reached.
    #[error("the plan allows {max} {}, and {current} are in use", limit.as_str())]
    PlanLimit {
        /// Which cap.
        limit: Limited,
        /// How many there are.
        current: u32,
        /// How many there may be.
        max: u32,
    },
    /// Somebody else has the name, and `strict` forbids another one.
    #[error("{} is taken", wanted)]
    UsernameTaken {
        /// What was asked for.
        wanted: Address,
    },
    /// Somebody has the name and every numbered fallback.
    #[error("{} and every numbered fallback up to {last} are taken", wanted)]
    UsernameExhausted {
        /// What was asked for.
        wanted: Address,
        /// The last fallback tried.
        last: LocalPart,
    },
    /// Another workspace has verified the domain.
    #[error("domain: {0} is verified already, by another, who keeps it as long as its challenge is in DNS")]
    DomainTaken(DomainName),
    /// Another tenant has verified a domain above it.
    #[error(
        "domain: {domain} is below {above}, which is verified already, by another, who keeps it as long as its challenge is in DNS"
    )]
    DomainBelow {
        /// What was asked for.
        domain: DomainName,
        /// What is somebody else's.
        above: DomainName,
    },
    /// The registration was not proved in time.
    #[error(
        "domain: the registration of {domain} was not proved within {pending_days} days and has lapsed; register the domain again"
    )]
    DomainLapsed {
        /// The domain.
        domain: DomainName,
        /// Days within which it had to be proved.
        pending_days: u32,
    },
    /// Inboxes have their canonical address at the domain.
    #[error("domain: {inboxes} inboxes have their canonical address at {domain}; delete them first")]
    DomainInUse {
        /// The domain.
        domain: DomainName,
        /// How many.
        inboxes: u32,
    },
    /// The default workspace lives as long as its tenant.
    #[error("the default workspace cannot be deleted")]
    DefaultWorkspace,
    /// A tenant would lock itself out.
    #[error("this is the tenant's last key; make another one first, or ask the operator of the service")]
    LastKey,
    /// Another workspace of the tenant has the slug.
    #[error("slug: another workspace has this slug")]
    SlugTaken,
    /// The object is not in the state that the change is meant for.
    #[error("the object has changed since it was read; read it again")]
    PreconditionFailed,
    /// The `Idempotency-Key` was used with another request.
    #[error("Idempotency-Key: this key was used with another query or body")]
    IdempotencyKeyReused,
    /// The first request with this `Idempotency-Key` has not been answered yet.
    #[error("Idempotency-Key: the first request with this key is still running")]
    IdempotencyInProgress,
    /// The store failed.
    #[error("use the store")]
    Store(#[from] store::Error),
    /// A secret could not be sealed or opened.
    #[error("handle a sealed secret")]
    Seal(#[from] SealError),
    /// A password could not be hashed.
    #[error("make a password")]
    Hash(#[from] HashError),
    /// A DKIM key could not be made.
    #[error("make a DKIM key")]
    Dkim(#[source] GenerateError),
    /// There is no turn for a piece of costly work now. Nothing of it was begun.
    #[error("{work}: {reason}; try again")]
    NoSlot {
        /// The work.
        work: &'static str,
        /// Why not.
        reason: NoSlot,
    },
    /// Work that several callers share failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A task of this process failed.
    #[error("{0}")]
    Task(&'static str),
}

impl Service {
    /// The operations on a store, and the tasks that write what several of them share. The tasks end when the last
    /// operation has ended and everything is written.
    pub fn start(
        db: Db,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        sealing: SealingKey,
        settings: Settings,
        dns: Dns,
    ) -> (Arc<Self>, [JoinHandle<()>; 4]) {
        let (in_flight, acknowledging) = InFlight::start(db.clone(), Arc::clone(&clock));
        let (together, writing) = Together::start(db.clone());
        let (keys, looking_up) = authenticate::start(db.clone());
        let (places, placing) = place::start(db.clone());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let service = Self {
            db,
            clock,
            entropy,
            sealing,
            settings,
            in_flight,
            deletions: Deletions::default(),
            together,
            keys,
            places,
            dns,
            checks: SingleFlight::default(),
            costly: Costly::new(cores),
        };
        (Arc::new(service), [looking_up, placing, writing, acknowledging])
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new identifier.
    pub fn new_id(&self) -> Uuid {
        clock::new_id(&*self.clock, &*self.entropy)
    }

    /// Until when the addresses of an inbox deleted now are kept for its workspace.
    fn held_until(&self) -> Timestamp {
        const SECONDS_A_DAY: i64 = 86_400;
        self.now()
            .plus_seconds(i64::from(self.settings.tombstone_days) * SECONDS_A_DAY)
    }

    /// Releases the tombstones that a tenant has beyond its limit, after `left` more were left in this transaction, which
    /// has the tenant's turn.
    ///
    /// Releasing is not part of what the caller waits for, so one call catches up with a bounded number of earlier
    /// ones: a limit that was lowered is reached with the next deletions.
    async fn limit_tombstones(&self, tx: &mut Tx, tenant: TenantId, left: u32) -> Result<(), Error> {
        let plan = tx.inbox_cap(tenant).await?.ok_or(Error::NotFound("tenant"))?;
        let keep = self.settings.tombstones_of(plan);
        let limit = left.saturating_add(EARLIER_TOMBSTONES_RELEASED_MAX);
        let released = tx.release_tombstones(tenant, keep, limit, self.now()).await?;
        if released > 0 {
            tracing::debug!(%tenant, released, keep, "tombstones beyond the tenant's limit are released");
        }
        Ok(())
    }

    /// Marks addresses as unpublished, in the order of their keys, and returns these.
    async fn mark(
        &self,
        tx: &mut Tx,
        addresses: impl IntoIterator<Item = Address>,
        sessions: SessionsToEnd,
    ) -> Result<Vec<MapKey>, Error> {
        let keys = addresses
            .into_iter()
            .map(|address| (MapKey::Address(address), sessions));
        self.mark_each(tx, keys).await
    }

    /// The same for keys of any kind, each with what is to become of open sessions.
    async fn mark_each(
        &self,
        tx: &mut Tx,
        keys: impl IntoIterator<Item = (MapKey, SessionsToEnd)>,
    ) -> Result<Vec<MapKey>, Error> {
        let mut keys: Vec<(MapKey, SessionsToEnd)> = keys.into_iter().collect();
        keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, sessions) in &keys {
            tx.mark_unpublished(key, self.new_id(), *sessions, self.now())
                .await?;
        }
        Ok(keys.into_iter().map(|(key, _)| key).collect())
    }
}

/// Which kinds of key may make a call at all.
#[derive(Clone, Copy, Debug)]
pub struct KeyRule {
    /// These kinds.
    pub kinds: &'static [KeyKind],
    /// The rule in words, for whoever holds another.
    pub text: &'static str,
}

/// Requires a key of a kind that may make the call.
pub fn require(caller: &Caller, rule: KeyRule) -> Result<(), Error> {
    if rule.kinds.contains(&caller.scope.kind()) {
        Ok(())
    } else {
        Err(Error::Forbidden(rule.text))
    }
}
