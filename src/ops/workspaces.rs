//! Workspaces, by their tenant.

use super::{
    Changed, Error, KeyRule, PAGE_MAX, Service,
    condition::Condition,
    deletions::{Deletion, Subject},
    inboxes::{Page, delete_all_of},
    uncommitted::Uncommitted,
};
use crate::{
    model::{
        api_key::{Caller, KeyKind, Scope},
        ids::{TenantId, WorkspaceId},
        limits::Limited,
        names::{Label, Slug},
        workspace::Workspace,
    },
    store::{Owner, Tx},
};

/// Numbers tried behind a slug that follows from a name, until one is free.
const SLUG_NUMBER_MAX: u32 = 10_000;

/// What to change of a workspace.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Another name.
    pub name: Option<Label>,
    /// Another slug.
    pub slug: Option<Slug>,
}

/// Who may manage workspaces and their keys.
pub const MANAGE: KeyRule = KeyRule {
    kinds: &[KeyKind::Tenant],
    text: "workspaces and their keys are managed with a tenant (tk_) key",
};

/// The tenant whose key this is: workspaces are for nobody else.
pub(super) fn tenant_of(caller: &Caller) -> Result<TenantId, Error> {
    match caller.scope {
        Scope::Tenant { tenant } => Ok(tenant),
        _ => Err(Error::Forbidden(MANAGE.text)),
    }
}

/// A workspace of the tenant; what is not does not exist.
pub(super) async fn reached(tx: &mut Tx, tenant: TenantId, id: WorkspaceId) -> Result<Workspace, Error> {
    tx.workspace(tenant, id)
        .await?
        .ok_or(Error::NotFound("workspace"))
}

/// The same for a change: nobody else changes anything of the tenant until the transaction ends.
pub(super) async fn reached_to_change(
    tx: &mut Tx,
    tenant: TenantId,
    id: WorkspaceId,
) -> Result<Workspace, Error> {
    tx.lock_tenant(tenant).await?;
    reached(tx, tenant, id).await
}

/// Makes a workspace. Without a slug it gets the one that follows from its name, numbered if that is taken.
pub async fn create(
    service: &Service,
    caller: &Caller,
    name: Label,
    slug: Option<Slug>,
) -> Result<Uncommitted<Workspace>, Error> {
    let tenant_id = tenant_of(caller)?;
    let mut tx = service.db.write().await?;
    if !tx.count_new_workspace(tenant_id).await? {
        let tenant = tx.tenant(tenant_id).await?.ok_or(Error::InvalidApiKey)?;
        let max = tenant.limits.workspaces.unwrap_or(u32::MAX);
        return Err(Error::PlanLimit {
            limit: Limited::Workspaces,
            current: tenant.workspace_count,
            max,
        });
    }
    let follows = Slug::from_label(&name);
    let mut workspace = Workspace {
        id: WorkspaceId(service.new_id()),
        tenant: tenant_id,
        slug: slug.clone().unwrap_or_else(|| follows.clone()),
        name,
        is_default: false,
        inbox_count: 0,
        domain_count: 0,
        created_at: service.now(),
    };
    let mut number = 1;
    while !tx.insert_workspace(&workspace).await? {
        number += 1;
        if slug.is_some() || number > SLUG_NUMBER_MAX {
            return Err(Error::SlugTaken);
        }
        workspace.slug = follows.numbered(number);
    }
    Ok(Uncommitted::new(workspace, tx))
}

/// A page of the caller's workspaces, newest first.
pub async fn list(
    service: &Service,
    caller: &Caller,
    before: Option<WorkspaceId>,
    limit: Option<u32>,
) -> Result<Page<Workspace, WorkspaceId>, Error> {
    let tenant = tenant_of(caller)?;
    let limit = limit.unwrap_or(PAGE_MAX);
    let items = service
        .db
        .read()
        .await?
        .workspaces(tenant, before, limit + 1)
        .await?;
    Ok(Page::cut(items, limit, |workspace| workspace.id))
}

/// One of the caller's workspaces.
pub async fn read(service: &Service, caller: &Caller, id: WorkspaceId) -> Result<Workspace, Error> {
    let tenant = tenant_of(caller)?;
    reached(&mut service.db.read().await?, tenant, id).await
}

/// Changes the name and the slug of one of the caller's workspaces.
pub async fn change(
    service: &Service,
    caller: &Caller,
    id: WorkspaceId,
    change: &Change,
    condition: &Condition<Workspace>,
) -> Result<(), Error> {
    let tenant = tenant_of(caller)?;
    let mut tx = service.db.write().await?;
    condition.require(&reached_to_change(&mut tx, tenant, id).await?)?;
    if let Some(name) = &change.name {
        tx.rename_workspace(id, name).await?;
    }
    if let Some(slug) = &change.slug
        && !tx.change_workspace_slug(id, slug).await?
    {
        return Err(Error::SlugTaken);
    }
    Ok(tx.commit().await?)
}

/// Deletes one of the caller's workspaces with all its inboxes and keys.
///
/// Its addresses become tombstones: the tenant's key may give them to another of its workspaces, and no one else gets
/// them while they hold.
pub async fn delete(
    service: &Service,
    caller: &Caller,
    id: WorkspaceId,
    condition: &Condition<Workspace>,
) -> Result<Changed<Deletion>, Error> {
    let tenant = tenant_of(caller)?;
    let deletion = service.deletions.claim(caller, Subject::Workspace(id)).await;
    let mut tx = service.db.write().await?;
    tx.lock_tenant(tenant).await?;
    match tx.workspace(tenant, id).await? {
        Some(workspace) if workspace.is_default => return Err(Error::DefaultWorkspace),
        Some(workspace) => condition.require(&workspace)?,
        None => return deletion.resume(&mut tx, caller, "workspace").await,
    }
    let deleted = delete_all_of(service, &mut tx, tenant, Owner::Workspace(id)).await?;
    if !tx.delete_workspace(id, service.now()).await? {
        return Err(Error::NotFound("workspace"));
    }
    tx.count_gone(tenant, deleted.value, 1).await?;
    deletion.commits(Some(id));
    tx.commit().await?;
    Ok(Changed {
        value: deletion,
        publish: deleted.publish,
    })
}
