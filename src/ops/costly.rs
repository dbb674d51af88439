//! What costs so much that it is done in fair turns between tenants, and how much of it at a time.

use std::{future::Future, sync::Arc};

use super::{
    Error, Service,
    fair_slots::{FairSlots, Limits, NoSlot, Slot},
};
use crate::model::ids::TenantId;

/// Creations and rotations of one tenant that may wait for their password to be hashed.
const HASHING_WAITING_PER_TENANT_MAX: usize = 1_024;
/// The same of all tenants.
const HASHING_WAITING_MAX: usize = 4_096;
/// Registrations and rotations of one tenant that may wait for their keys to be made. An RSA key takes a core for about
/// a tenth of a second.
const KEY_MAKING_WAITING_PER_TENANT_MAX: usize = 16;
/// The same of all tenants.
const KEY_MAKING_WAITING_MAX: usize = 256;

/// Domains of one tenant that may wait to be checked, and how many are checked at the same time.
const CHECKS_WAITING_PER_TENANT_MAX: usize = 64;
const CHECKS_AT_ONCE_PER_TENANT: usize = 4;
/// The same of all tenants. A check takes as long as a domain's name servers let it wait, and nearly nothing else.
const CHECKS_WAITING_MAX: usize = 1_024;
const CHECKS_AT_ONCE: usize = 16;

/// For whom it is done; none: for the service itself.
pub(super) type Turn = Slot<Option<TenantId>>;

/// The slots for each kind of costly work.
#[derive(Debug)]
pub(super) struct Costly {
    hashing: FairSlots<Option<TenantId>>,
    key_making: FairSlots<Option<TenantId>>,
    checks: FairSlots<Option<TenantId>>,
}

impl Costly {
    /// Slots for a machine with so many cores. Keys are made on half of them at the most, so that passwords, which take
    /// a thousandth of the time, never wait for a core that makes one.
    pub(super) fn new(cores: usize) -> Self {
        Self {
            hashing: FairSlots::new(Limits {
                at_once: cores,
                at_once_per_owner: cores,
                waiting: HASHING_WAITING_MAX,
                waiting_per_owner: HASHING_WAITING_PER_TENANT_MAX,
            }),
            key_making: FairSlots::new(Limits {
                at_once: (cores / 2).max(1),
                at_once_per_owner: 1,
                waiting: KEY_MAKING_WAITING_MAX,
                waiting_per_owner: KEY_MAKING_WAITING_PER_TENANT_MAX,
            }),
            checks: FairSlots::new(Limits {
                at_once: CHECKS_AT_ONCE,
                at_once_per_owner: CHECKS_AT_ONCE_PER_TENANT,
                waiting: CHECKS_WAITING_MAX,
                waiting_per_owner: CHECKS_WAITING_PER_TENANT_MAX,
            }),
        }
    }
}

impl Service {
    /// Waits for the tenant's turn to hash a password.
    pub(super) async fn turn_to_hash(&self, tenant: TenantId) -> Result<Turn, Error> {
        let turn = self.costly.hashing.acquire(Some(tenant)).await;
        turn.map_err(refused("hash a password"))
    }

    /// Waits for the service's own turn to hash a password, which comes among those of the tenants.
    pub(super) async fn turn_to_hash_for_the_service(&self) -> Result<Turn, Error> {
        let turn = self.costly.hashing.acquire(None).await;
        turn.map_err(refused("hash a password"))
    }

    /// Waits for the turn to make keys: for a tenant, of whom no one else makes any meanwhile, or for the service itself.
    pub(super) async fn turn_to_make_keys(&self, tenant: Option<TenantId>) -> Result<Arc<Turn>, Error> {
        let turn = self.costly.key_making.acquire(tenant).await;
        turn.map(Arc::new).map_err(refused("make DKIM keys"))
    }

    /// Waits for the tenant's turn to check a domain. The service's own checks need none: they have limits of their own.
    pub(super) fn turn_to_check(
        &self,
        tenant: TenantId,
    ) -> impl Future<Output = Result<Turn, Error>> + Send + 'static {
        let slots = self.costly.checks.clone();
        async move {
            let turn = slots.acquire(Some(tenant)).await;
            turn.map_err(refused("check a domain"))
        }
    }
}

fn refused(work: &'static str) -> impl Fn(NoSlot) -> Error {
    move |reason| Error::NoSlot { work, reason }
}

/// Computes something in a turn, away from the async threads. The turn lasts until it is computed, also where no caller
/// waits for the result any more.
pub(super) async fn compute<T: Send + 'static>(
    turn: impl Send + 'static,
    computation: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(move || {
        let computed = computation();
        drop(turn);
        computed
    })
    .await
    .map_err(|_| Error::Task("a computation failed"))
}
