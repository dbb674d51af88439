//! The registration of a domain: a claim that has to be proved.

use super::{Registered, filter_of, write_keys};
use crate::{
    model::{
        address::DomainName,
        api_key::Caller,
        domain::{Challenge, Domain, DomainStatus, lapsed_before},
        ids::{DomainId, WorkspaceId},
        limits::Limited,
        suffix::is_public_suffix,
        tenant::Tenant,
    },
    ops::{Error, Service, Settings, uncommitted::Uncommitted},
    store::{DomainFilter, Tx},
};

/// What came of a registration.
#[derive(Debug)]
pub enum Registration {
    /// The workspace had it already.
    Existing(Registered),
    /// It is new.
    New(Uncommitted<Registered>),
}

impl Registration {
    /// Makes it durable.
    pub async fn commit(self) -> Result<Registered, Error> {
        match self {
            Self::Existing(registered) => Ok(registered),
            Self::New(registered) => registered.commit().await,
        }
    }
}

/// What a workspace has of a domain.
enum Known {
    /// A registration that is verified, or may still be.
    Current(Registered),
    /// None, and it may register the domain.
    Nothing,
    /// One that has lapsed, and it may register the domain again.
    Lapsed(Domain),
}

/// Registers a domain for a workspace, or finds the registration that it has.
///
/// Fails with [`Error::PlanLimit`] where the tenant has as many domains as it may. That is checked before keys are made,
/// and again in the transaction that writes the registration.
pub async fn register(
    service: &Service,
    caller: &Caller,
    name: &DomainName,
    workspace: Option<WorkspaceId>,
) -> Result<Registration, Error> {
    let mut tx = service.db.read().await?;
    let (filter, workspace) = workspace_of(&mut tx, caller, workspace).await?;
    require_registrable(&service.settings, name)?;
    if let Known::Current(registered) = known(service, &mut tx, filter, name).await? {
        return Ok(Registration::Existing(registered));
    }
    drop(tx);
    // In the turn no other registration of this tenant makes keys. What was true before it may have changed meanwhile, and
    // a refusal should cost no key.
    let turn = service.turn_to_make_keys(Some(filter.tenant)).await?;
    let mut tx = service.db.read().await?;
    if let Known::Current(registered) = known(service, &mut tx, filter, name).await? {
        return Ok(Registration::Existing(registered));
    }
    drop(tx);
    let keys = service.new_dkim_keys(&turn).await?;

    let mut tx = service.db.write().await?;
    if !tx.lock_tenant(filter.tenant).await? {
        return Err(Error::InvalidApiKey);
    }
    if tx.workspace(filter.tenant, workspace).await?.is_none() {
        return Err(Error::NotFound("workspace"));
    }
    let lapsed = match known(service, &mut tx, filter, name).await? {
        Known::Current(registered) => return Ok(Registration::Existing(registered)),
        Known::Lapsed(domain) => Some(domain.id),
        Known::Nothing => None,
    };
    let domain = Domain::registered(
        lapsed.unwrap_or_else(|| DomainId(service.new_id())),
        (filter.tenant, workspace),
        name.clone(),
        Challenge::generate(&*service.entropy),
        service.now(),
    );
    if lapsed.is_some() {
        // It begins again, with another challenge and other keys.
        tx.renew_domain(&domain).await?;
        tx.delete_dkim_keys(domain.id).await?;
    } else if !tx.insert_domain(&domain).await? {
        return Err(Error::DomainTaken(name.clone()));
    }
    let keys = write_keys(service, &mut tx, domain.id, keys).await?;
    let registered = Registered::of(service, domain, &keys);
    Ok(Registration::New(Uncommitted::new(registered, tx).in_turn(turn)))
}

/// The workspace that is to have a domain, also as what look-ups are about.
async fn workspace_of(
    tx: &mut Tx,
    caller: &Caller,
    workspace: Option<WorkspaceId>,
) -> Result<(DomainFilter, WorkspaceId), Error> {
    let filter = filter_of(
        tx,
        caller,
        workspace,
        "workspaceId: a workspace (wk_) key registers domains for its own workspace only",
    )
    .await?;
    let workspace = match filter.workspace {
        Some(workspace) => workspace,
        None => {
            tx.tenant(filter.tenant)
                .await?
                .ok_or(Error::InvalidApiKey)?
                .default_workspace
        }
    };
    let filter = DomainFilter {
        workspace: Some(workspace),
        ..filter
    };
    Ok((filter, workspace))
}

/// What a workspace has of a domain. Fails if it has none and may not register it.
async fn known(
    service: &Service,
    tx: &mut Tx,
    filter: DomainFilter,
    name: &DomainName,
) -> Result<Known, Error> {
    let pending_days = service.settings.domains.pending_days;
    let lapsed = lapsed_before(service.now(), pending_days);
    let found = tx.domain_named(filter, name).await?;
    let found = match found {
        Some(domain) if domain.status(service.now(), pending_days) != DomainStatus::Failed => {
            let keys = tx.dkim_keys(Some(domain.id)).await?;
            return Ok(Known::Current(Registered::of(service, domain, &keys)));
        }
        found => found,
    };
    require_no_sibling(tx, filter, name).await?;
    let tenant = tx.tenant(filter.tenant).await?.ok_or(Error::InvalidApiKey)?;
    let current = tx.count_domains(filter.tenant, lapsed).await?;
    require_below_cap(&tenant, current)?;
    Ok(found.map_or(Known::Nothing, Known::Lapsed))
}

/// Requires that a tenant which has so many domains may have one more.
pub(super) fn require_below_cap(tenant: &Tenant, current: u32) -> Result<(), Error> {
    match tenant.limits.domains {
        Some(max) if current >= max => Err(Error::PlanLimit {
            limit: Limited::Domains,
            current,
            max,
        }),
        _ => Ok(()),
    }
}

/// Requires a domain that a tenant can own at all.
fn require_registrable(settings: &Settings, name: &DomainName) -> Result<(), Error> {
    let refused = |rule: String| {
        Err(Error::Invalid {
            field: "domain",
            rule,
        })
    };
    let default = &settings.default_domain;
    if name == default {
        return refused(format!(
            "{name} is the service's default domain, which all tenants share"
        ));
    }
    if name.is_below(default) {
        return refused(format!("{name} is below the service's default domain {default}"));
    }
    if is_public_suffix(name) {
        return refused(format!(
            "{name} is a public suffix: anybody can have a domain below it, and nobody owns all of it"
        ));
    }
    Ok(())
}

/// Requires that no sibling workspace has proved the domain: its tenant decides which of the two has it. A domain of another
/// tenant may be registered, and is proved when that one's challenge is missing from DNS.
async fn require_no_sibling(tx: &mut Tx, filter: DomainFilter, name: &DomainName) -> Result<(), Error> {
    let is_sibling =
        |holder: &Domain| holder.tenant == filter.tenant && Some(holder.workspace) != filter.workspace;
    let holders = tx.verified_domains(std::slice::from_ref(name)).await?;
    if holders.iter().any(is_sibling) {
        return Err(Error::DomainTaken(name.clone()));
    }
    Ok(())
}
