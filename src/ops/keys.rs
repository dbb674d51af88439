//! Keys: the super admin's, made on the command line, and workspaces', made by their tenant.

use super::{Error, Service, workspaces};
use crate::{
    clock::{self, Clock, Entropy, Timestamp},
    model::{
        api_key::{ApiKey, Caller, Scope},
        ids::{KeyId, WorkspaceId},
        names::Label,
        workspace::WorkspaceKey,
    },
    store::{self, Db, NewKey, Tx},
};

/// A key that was just made.
pub(super) struct Issued {
    /// The key itself, for the one answer that carries it.
    pub(super) key: ApiKey,
    id: KeyId,
    created_at: Timestamp,
}

/// Makes a key that reaches this, and writes its hash.
async fn issue_with(
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    tx: &mut Tx,
    scope: Scope,
    name: Option<&Label>,
) -> Result<Issued, store::Error> {
    let key = ApiKey::generate(scope.kind(), entropy);
    let (id, created_at) = (KeyId(clock::new_id(clock, entropy)), clock.now());
    let new = NewKey {
        id,
        key: &key,
        scope,
        name,
        created_at,
    };
    tx.insert_key(&new).await?;
    Ok(Issued { key, id, created_at })
}

/// The same with the clock and the entropy of the service.
pub(super) async fn issue(
    service: &Service,
    tx: &mut Tx,
    scope: Scope,
    name: Option<&Label>,
) -> Result<Issued, store::Error> {
    issue_with(&*service.clock, &*service.entropy, tx, scope, name).await
}

/// Makes a super admin key. There is no call of the API for this: whoever may open the store may.
pub async fn create_super_admin(
    db: &Db,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<ApiKey, store::Error> {
    let mut tx = db.write().await?;
    let issued = issue_with(clock, entropy, &mut tx, Scope::SuperAdmin, None).await?;
    tx.commit().await?;
    Ok(issued.key)
}

/// Makes a key for a workspace of the caller's tenant.
pub async fn create(
    service: &Service,
    caller: &Caller,
    workspace: WorkspaceId,
    name: Option<Label>,
) -> Result<(ApiKey, WorkspaceKey), Error> {
    let tenant = workspaces::tenant_of(caller)?;
    let mut tx = service.db.write().await?;
    workspaces::reached_to_change(&mut tx, tenant, workspace).await?;
    let scope = Scope::Workspace { tenant, workspace };
    let Issued { key, id, created_at } = issue(service, &mut tx, scope, name.as_ref()).await?;
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
