//! Keys: the super admin's, made on the command line, and workspaces', made by their tenant.

use super::{Error, Service, workspaces};
use crate::{
    clock::{self, Clock, Entropy},
    model::{
        api_key::{ApiKey, Caller, KeyKind, Scope},
        ids::{KeyId, WorkspaceId},
        names::Label,
        workspace::WorkspaceKey,
    },
    store::{self, Db, NewKey},
};

/// Makes a super admin key. There is no call of the API for this: whoever may open the store may.
pub async fn create_super_admin(
    db: &Db,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<ApiKey, store::Error> {
    let key = ApiKey::generate(KeyKind::SuperAdmin, entropy);
    let mut tx = db.write().await?;
    let id = KeyId(clock::new_id(clock, entropy));
    tx.insert_key(&NewKey {
        id,
        key: &key,
        scope: Scope::SuperAdmin,
        name: None,
        created_at: clock.now(),
    })
    .await?;
    tx.commit().await?;
    Ok(key)
}

/// Makes a key for a workspace of the caller's tenant.
pub async fn create(
    service: &Service,
    caller: &Caller,
    workspace: WorkspaceId,
    name: Option<Label>,
) -> Result<(ApiKey, WorkspaceKey), Error> {
    let tenant = workspaces::tenant_of(caller)?;
    let key = ApiKey::generate(KeyKind::Workspace, &*service.entropy);
    let mut tx = service.db.write().await?;
    workspaces::reached_to_change(&mut tx, tenant, workspace).await?;
    let (id, created_at) = (KeyId(service.new_id()), service.now());
    let scope = Scope::Workspace { tenant, workspace };
    tx.insert_key(&NewKey {
        id,
        key: &key,
        scope,
        name: name.as_ref(),
        created_at,
    })
    .await?;
    tx.commit().await?;
    let listed = WorkspaceKey {
        id,
        fragment: key.fragment(),
        name,
        created_at,
    };
    Ok((key, listed))
}

/// The keys in force of a workspace of the caller's tenant.
pub async fn list(
    service: &Service,
    caller: &Caller,
    workspace: WorkspaceId,
) -> Result<Vec<WorkspaceKey>, Error> {
    let tenant = workspaces::tenant_of(caller)?;
    let mut tx = service.db.read().await?;
    workspaces::reached(&mut tx, tenant, workspace).await?;
    Ok(tx.keys_of_workspace(workspace).await?)
}

/// Revokes a key of a workspace of the caller's tenant: it stops working with the commit.
pub async fn revoke(
    service: &Service,
    caller: &Caller,
    workspace: WorkspaceId,
    key: KeyId,
) -> Result<(), Error> {
    let tenant = workspaces::tenant_of(caller)?;
    let mut tx = service.db.write().await?;
    workspaces::reached(&mut tx, tenant, workspace).await?;
    if !tx.revoke_workspace_key(workspace, key, service.now()).await? {
        return Err(Error::NotFound("key"));
    }
    Ok(tx.commit().await?)
}
