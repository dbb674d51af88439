//! Keys: the super admin's, made on the command line, tenants', made by themselves, the super admin or there, and workspaces',
//! made by their tenant.

use super::{Error, KeyRule, Service, require, uncommitted::Uncommitted, workspaces};
use crate::{
    clock::{self, Clock, Entropy, Timestamp},
    model::{
        api_key::{ApiKey, Caller, KeyKind, ListedKey, Scope},
        ids::{KeyId, TenantId, WorkspaceId},
        limits::Limited,
        names::Label,
    },
    store::{self, Db, NewKey, Tx},
};

/// Keys in force that one tenant may have for itself, and those of one workspace.
pub const KEYS_MAX: u32 = 100;

/// Who may manage the keys of a tenant.
pub const MANAGE_TENANT_KEYS: KeyRule = KeyRule {
    kinds: &[KeyKind::SuperAdmin, KeyKind::Tenant],
    text: "the keys of a tenant are managed with a super admin (sa_) key or one of its own (tk_) keys",
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

/// Whose keys a call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeysOf {
    /// A tenant's own (`tk_`).
    Tenant(TenantId),
    /// A workspace's (`wk_`).
    Workspace(WorkspaceId),
}

/// The scope of these keys, within the caller's reach; what is not does not exist. Until the transaction ends, nothing of
/// the tenant is changed by others.
async fn scope_of(tx: &mut Tx, caller: &Caller, of: KeysOf) -> Result<Scope, Error> {
    match of {
        KeysOf::Tenant(tenant) => {
            require(caller, MANAGE_TENANT_KEYS)?;
            let is_foreign = matches!(caller.scope, Scope::Tenant { tenant: own } if own != tenant);
            if is_foreign || !tx.lock_tenant(tenant).await? {
                return Err(Error::NotFound("tenant"));
            }
            Ok(Scope::Tenant { tenant })
        }
        KeysOf::Workspace(workspace) => {
            let tenant = workspaces::tenant_of(caller)?;
            workspaces::reached_to_change(tx, tenant, workspace).await?;
            Ok(Scope::Workspace { tenant, workspace })
        }
    }
}

/// Makes a key, if there may be another one.
async fn create_within_cap(
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    tx: &mut Tx,
    scope: Scope,
    name: Option<Label>,
) -> Result<(ApiKey, ListedKey), Error> {
    let current = u32::try_from(tx.keys_of(scope).await?.len()).unwrap_or(u32::MAX);
    if current >= KEYS_MAX {
        return Err(Error::PlanLimit {
            limit: Limited::Keys,
            current,
            max: KEYS_MAX,
        });
    }
    let Issued { key, id, created_at } = issue_with(clock, entropy, tx, scope, name.as_ref()).await?;
    let listed = ListedKey {
        id,
        fragment: key.fragment(),
        name,
        created_at,
    };
    Ok((key, listed))
}

/// Makes a key for a tenant or a workspace.
pub async fn create(
    service: &Service,
    caller: &Caller,
    of: KeysOf,
    name: Option<Label>,
) -> Result<Uncommitted<(ApiKey, ListedKey)>, Error> {
    let mut tx = service.db.write().await?;
    let scope = scope_of(&mut tx, caller, of).await?;
    let made = create_within_cap(&*service.clock, &*service.entropy, &mut tx, scope, name).await?;
    Ok(Uncommitted::new(made, tx))
}

/// The keys in force of a tenant or a workspace, newest first.
pub async fn list(service: &Service, caller: &Caller, of: KeysOf) -> Result<Vec<ListedKey>, Error> {
    let mut tx = service.db.read().await?;
    let scope = match of {
        KeysOf::Tenant(tenant) => {
            require(caller, MANAGE_TENANT_KEYS)?;
            let is_foreign = matches!(caller.scope, Scope::Tenant { tenant: own } if own != tenant);
            if is_foreign || tx.tenant(tenant).await?.is_none() {
                return Err(Error::NotFound("tenant"));
            }
            Scope::Tenant { tenant }
        }
        KeysOf::Workspace(workspace) => {
            let tenant = workspaces::tenant_of(caller)?;
            workspaces::reached(&mut tx, tenant, workspace).await?;
            Scope::Workspace { tenant, workspace }
        }
    };
    Ok(tx.keys_of(scope).await?)
}

/// Revokes a key of a tenant or a workspace: it stops working with the commit. A tenant cannot revoke its last one, which
/// would lock it out; the super admin can.
pub async fn revoke(service: &Service, caller: &Caller, of: KeysOf, key: KeyId) -> Result<(), Error> {
    let mut tx = service.db.write().await?;
    let scope = scope_of(&mut tx, caller, of).await?;
    let keys = tx.keys_of(scope).await?;
    if !keys.iter().any(|listed| listed.id == key) {
        return Err(Error::NotFound("key"));
    }
    let is_tenants_own = matches!((caller.scope, of), (Scope::Tenant { .. }, KeysOf::Tenant(_)));
    if is_tenants_own && keys.len() == 1 {
        return Err(Error::LastKey);
    }
    if !tx.revoke_key(key, service.now()).await? {
        return Err(Error::NotFound("key"));
    }
    Ok(tx.commit().await?)
}

/// Makes a key for a tenant without a caller: whoever may open the store may.
pub async fn create_for_tenant(
    db: &Db,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    tenant: TenantId,
    name: Option<Label>,
) -> Result<ApiKey, Error> {
    let mut tx = db.write().await?;
    if !tx.lock_tenant(tenant).await? {
        return Err(Error::NotFound("tenant"));
    }
    let (key, _) = create_within_cap(clock, entropy, &mut tx, Scope::Tenant { tenant }, name).await?;
    tx.commit().await?;
    Ok(key)
}

/// The super admin keys in force, or those of a tenant, without a caller.
pub async fn list_all(db: &Db, tenant: Option<TenantId>) -> Result<Vec<ListedKey>, Error> {
    let mut tx = db.read().await?;
    let scope = match tenant {
        None => Scope::SuperAdmin,
        Some(tenant) if tx.tenant(tenant).await?.is_some() => Scope::Tenant { tenant },
        Some(_) => return Err(Error::NotFound("tenant")),
    };
    Ok(tx.keys_of(scope).await?)
}

/// Revokes any key without a caller, also the last one of a kind.
pub async fn revoke_any(db: &Db, clock: &dyn Clock, key: KeyId) -> Result<(), Error> {
    let mut tx = db.write().await?;
    if !tx.revoke_key(key, clock.now()).await? {
        return Err(Error::NotFound("key in force"));
    }
    Ok(tx.commit().await?)
}
