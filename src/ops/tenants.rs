//! Tenants, by the super admin.

use super::{
    Changed, Error, KeyRule, PAGE_MAX, Service,
    condition::Condition,
    deletions::{Deletion, Subject},
    edit::Edit,
    inboxes::{Page, delete_all_of},
    keys::issue,
    require,
    uncommitted::Uncommitted,
};
use crate::{
    model::{
        api_key::{ApiKey, Caller, KeyKind, Scope},
        ids::{TenantId, WorkspaceId},
        limits::Limits,
        maps::MapKey,
        names::{Label, Slug},
        tenant::Tenant,
        workspace::Workspace,
    },
    store::{Owner, SessionsToEnd},
};

/// Who may manage tenants.
pub const MANAGE: KeyRule = KeyRule {
    kinds: &[KeyKind::SuperAdmin],
    text: "tenants are managed with a super admin (sa_) key",
};
/// Name of the workspace that is made with a tenant.
const DEFAULT_WORKSPACE_NAME: &str = "Default";

/// What to change of a tenant's caps.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitsChange {
    /// Of [`Limits::inboxes`].
    pub inboxes: Edit<u32>,
    /// Of [`Limits::domains`].
    pub domains: Edit<u32>,
    /// Of [`Limits::workspaces`].
    pub workspaces: Edit<u32>,
}

impl LimitsChange {
    /// Lifts every cap.
    pub const NONE: Self = Self {
        inboxes: Edit::Clear,
        domains: Edit::Clear,
        workspaces: Edit::Clear,
    };

    /// These caps with the change applied.
    pub fn applied_to(self, limits: Limits) -> Limits {
        Limits {
            inboxes: self.inboxes.applied_to(limits.inboxes),
            domains: self.domains.applied_to(limits.domains),
            workspaces: self.workspaces.applied_to(limits.workspaces),
        }
    }
}

/// What to change of a tenant.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Another name.
    pub name: Option<Label>,
    /// Other caps.
    pub limits: LimitsChange,
    /// Whether it is to be suspended from now on.
    pub suspended: Option<bool>,
}

/// Makes a tenant with its default workspace and its first key.
pub async fn create(
    service: &Service,
    caller: &Caller,
    name: Label,
    limits: LimitsChange,
) -> Result<Uncommitted<(Tenant, ApiKey)>, Error> {
    require(caller, MANAGE)?;
    let (id, workspace, now) = (
        TenantId(service.new_id()),
        WorkspaceId(service.new_id()),
        service.now(),
    );
    let tenant = Tenant {
        id,
        name,
        default_workspace: workspace,
        limits: limits.applied_to(service.settings.default_limits),
        inbox_count: 0,
        workspace_count: 1,
        suspended_at: None,
        created_at: now,
    };
    let label =
        Label::parse(DEFAULT_WORKSPACE_NAME).map_err(|_| Error::Task("the default workspace has no name"))?;
    let default = Workspace {
        id: workspace,
        tenant: id,
        slug: Slug::from_label(&label),
        name: label,
        is_default: true,
        inbox_count: 0,
        domain_count: 0,
        created_at: now,
    };
    let mut tx = service.db.write().await?;
    tx.insert_tenant(&tenant).await?;
    if !tx.insert_workspace(&default).await? {
        return Err(Error::SlugTaken);
    }
    let key = issue(service, &mut tx, Scope::Tenant { tenant: id }, None)
        .await?
        .key;
    Ok(Uncommitted::new((tenant, key), tx))
}

/// A page of all tenants, newest first.
pub async fn list(
    service: &Service,
    caller: &Caller,
    before: Option<TenantId>,
    limit: Option<u32>,
) -> Result<Page<Tenant, TenantId>, Error> {
    require(caller, MANAGE)?;
    let limit = limit.unwrap_or(PAGE_MAX);
    let items = service.db.read().await?.tenants(before, limit + 1).await?;
    Ok(Page::cut(items, limit, |tenant| tenant.id))
}

/// One tenant.
pub async fn read(service: &Service, caller: &Caller, id: TenantId) -> Result<Tenant, Error> {
    require(caller, MANAGE)?;
    service
        .db
        .read()
        .await?
        .tenant(id)
        .await?
        .ok_or(Error::NotFound("tenant"))
}

/// What became of a tenant.
#[derive(Debug)]
pub enum Standing {
    /// It is there, suspended or not.
    There(Tenant),
    /// It was deleted.
    Deleted,
    /// This store never had it.
    Unknown,
}

/// What became of the tenant with this id. Others than its operator are not told of deleted tenants.
pub async fn standing(service: &Service, caller: &Caller, id: TenantId) -> Result<Standing, Error> {
    require(caller, MANAGE)?;
    let mut tx = service.db.read().await?;
    Ok(match tx.tenant(id).await? {
        Some(tenant) => Standing::There(tenant),
        None if tx.tenant_was_deleted(id).await? => Standing::Deleted,
        None => Standing::Unknown,
    })
}

/// Makes another key for a tenant; the others stay in force.
pub async fn create_key(service: &Service, caller: &Caller, id: TenantId) -> Result<ApiKey, Error> {
    require(caller, MANAGE)?;
    let mut tx = service.db.write().await?;
    if !tx.lock_tenant(id).await? {
        return Err(Error::NotFound("tenant"));
    }
    let key = issue(service, &mut tx, Scope::Tenant { tenant: id }, None)
        .await?
        .key;
    tx.commit().await?;
    Ok(key)
}

/// Changes a tenant's name, caps and suspension. A suspended tenant's keys are refused and nobody logs in to its
/// inboxes; mail for them is still accepted, so that nothing is lost when it is resumed.
pub async fn change(
    service: &Service,
    caller: &Caller,
    id: TenantId,
    change: &Change,
    condition: &Condition<Tenant>,
) -> Result<Changed<()>, Error> {
    require(caller, MANAGE)?;
    let mut tx = service.db.write().await?;
    // Before it is read: another change of it must not be undone by this one.
    tx.lock_tenant(id).await?;
    let mut tenant = tx.tenant(id).await?.ok_or(Error::NotFound("tenant"))?;
    condition.require(&tenant)?;
    let was_suspended = tenant.suspended_at.is_some();
    if let Some(name) = &change.name {
        tenant.name = name.clone();
    }
    tenant.limits = change.limits.applied_to(tenant.limits);
    tenant.suspended_at = match change.suspended {
        Some(true) => tenant.suspended_at.or(Some(service.now())),
        Some(false) => None,
        None => tenant.suspended_at,
    };
    if !tx.update_tenant(&tenant).await? {
        return Err(Error::NotFound("tenant"));
    }
    let is_suspended = tenant.suspended_at.is_some();
    let publish = if is_suspended == was_suspended {
        // An earlier suspension may have been written but not published; trying again finishes it.
        if change.suspended.is_some() {
            tx.unpublished_of(Owner::Tenant(id)).await?
        } else {
            Vec::new()
        }
    } else {
        if is_suspended {
            // Submission sessions that are open now must not go on when the tenant is resumed.
            tx.begin_credential_generation(id).await?;
        }
        let addresses = tx.addresses_of(Owner::Tenant(id)).await?;
        let keys = addresses.into_iter().map(|(address, is_login)| {
            let sessions = if is_suspended && is_login {
                SessionsToEnd::All
            } else {
                SessionsToEnd::None
            };
            (MapKey::Address(address), sessions)
        });
        service.mark_each(&mut tx, keys).await?
    };
    tx.commit().await?;
    Ok(Changed { value: (), publish })
}

/// Deletes a tenant with everything that it owns. Its addresses become tombstones, within its limit, which no one gets
/// while they hold.
pub async fn delete(
    service: &Service,
    caller: &Caller,
    id: TenantId,
    condition: &Condition<Tenant>,
) -> Result<Changed<Deletion>, Error> {
    require(caller, MANAGE)?;
    let deletion = service.deletions.claim(caller, Subject::Tenant(id)).await;
    let mut tx = service.db.write().await?;
    if condition.is_some() {
        tx.lock_tenant(id).await?;
        if let Some(tenant) = tx.tenant(id).await? {
            condition.require(&tenant)?;
        }
    }
    if !tx.delete_tenant(id, service.now()).await? {
        return deletion.resume(&mut tx, caller, "tenant").await;
    }
    let deleted = delete_all_of(service, &mut tx, id, Owner::Tenant(id)).await?;
    deletion.commits(None);
    tx.commit().await?;
    Ok(Changed {
        value: deletion,
        publish: deleted.publish,
    })
}
