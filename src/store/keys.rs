//! API keys: only their hashes.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Tx, on, one_row, values};
use crate::{
    clock::Timestamp,
    model::{
        Refused,
        api_key::{ApiKey, Caller, Scope},
        ids::{InboxId, KeyId, TenantId, WorkspaceId},
        names::Label,
        workspace::WorkspaceKey,
    },
};

/// A key to be written.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// Its id.
    pub id: KeyId,
    /// The key; only its hash and its fragment are written.
    pub key: &'a ApiKey,
    /// What it reaches.
    pub scope: Scope,
    /// The name it was given.
    pub name: Option<&'a Label>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A key that is in force, and whether its tenant is suspended.
#[derive(Clone, Copy, Debug)]
pub struct FoundKey {
    /// Who calls with it.
    pub caller: Caller,
    /// Since when its tenant is suspended, if it is.
    pub suspended_at: Option<Timestamp>,
}

/// Whose inboxes or keys are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A whole tenant's.
    Tenant(TenantId),
    /// One workspace's.
    Workspace(WorkspaceId),
    /// One inbox, or its key.
    Inbox(InboxId),
}

impl Owner {
    pub(super) fn id(self) -> Uuid {
        match self {
            Self::Tenant(id) => id.0,
            Self::Workspace(id) => id.0,
            Self::Inbox(id) => id.0,
        }
    }
}

#[derive(FromRow)]
struct KeyRow {
    hash: Vec<u8>,
    id: Uuid,
    tenant_id: Option<Uuid>,
    workspace_id: Option<Uuid>,
    inbox_id: Option<Uuid>,
    suspended_at: Option<i64>,
}

#[derive(FromRow)]
struct ListedKeyRow {
    id: Uuid,
    fragment: String,
    name: Option<String>,
    created_at: i64,
}

impl KeyRow {
    fn parse(self) -> Result<FoundKey, Error> {
        let scope = match (self.tenant_id, self.workspace_id, self.inbox_id) {
            (None, None, None) => Scope::SuperAdmin,
            (Some(tenant), None, None) => Scope::Tenant {
                tenant: TenantId(tenant),
            },
            (Some(tenant), Some(workspace), None) => Scope::Workspace {
                tenant: TenantId(tenant),
                workspace: WorkspaceId(workspace),
            },
            (Some(tenant), Some(workspace), Some(inbox)) => Scope::Inbox {
                tenant: TenantId(tenant),
                workspace: WorkspaceId(workspace),
                inbox: InboxId(inbox),
            },
            _ => {
                return Err(Error::row("a key")(Refused(
                    "a key's owners are nested".to_owned(),
                )));
            }
        };
        let caller = Caller {
            key: KeyId(self.id),
            scope,
        };
        Ok(FoundKey {
            caller,
            suspended_at: self.suspended_at.map(Timestamp::from_micros),
        })
    }
}

impl Tx {
    /// Writes a new key's hash.
    pub async fn insert_key(&mut self, new: &NewKey<'_>) -> Result<(), Error> {
        let doing = "insert a key";
        let (tenant, workspace, inbox) = match new.scope {
            Scope::SuperAdmin => (None, None, None),
            Scope::Tenant { tenant } => (Some(tenant.0), None, None),
            Scope::Workspace { tenant, workspace } => (Some(tenant.0), Some(workspace.0), None),
            Scope::Inbox {
                tenant,
                workspace,
                inbox,
            } => (Some(tenant.0), Some(workspace.0), Some(inbox.0)),
        };
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO api_keys (id, hash, fragment, name, tenant_id, workspace_id, inbox_id, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(new.id.0)
            .bind(new.key.hash().as_slice())
            .bind(new.key.fragment())
            .bind(new.name.map(Label::as_str))
            .bind(tenant)
            .bind(workspace)
            .bind(inbox)
            .bind(new.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// The keys in force with these hashes: not revoked, and what they reach is not deleted. In the order of the hashes,
    /// of which there are at most [`super::ROWS_MAX`].
    ///
    /// Deleting revokes the keys that it sees; one that was made in the same moment it may not see.
    pub async fn keys_by_hash(&mut self, hashes: &[[u8; 32]]) -> Result<Vec<Option<FoundKey>>, Error> {
        let sql = format!(
            "SELECT k.hash, k.id, k.tenant_id, k.workspace_id, k.inbox_id, t.suspended_at
             FROM api_keys k LEFT JOIN tenants t ON t.id = k.tenant_id
                 LEFT JOIN workspaces w ON w.id = k.workspace_id LEFT JOIN inboxes i ON i.id = k.inbox_id
             WHERE k.hash IN ({}) AND k.revoked_at IS NULL
                 AND t.deleted_at IS NULL AND w.deleted_at IS NULL AND i.deleted_at IS NULL",
            values::list(hashes.len(), 1)
        );
        let rows: Vec<KeyRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(hashes.len()));
            for hash in hashes {
                query = query.bind(hash.as_slice());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look up keys"))?;
        let mut found = HashMap::new();
        for row in rows {
            found.insert(row.hash.clone(), row.parse()?);
        }
        Ok(hashes
            .iter()
            .map(|hash| found.get(hash.as_slice()).copied())
            .collect())
    }

    /// The keys in force that reach exactly this workspace, newest first.
    pub async fn keys_of_workspace(&mut self, workspace: WorkspaceId) -> Result<Vec<WorkspaceKey>, Error> {
        let rows: Vec<ListedKeyRow> = on!(self, db => sqlx::query_as(
                "SELECT id, fragment, name, created_at FROM api_keys
                 WHERE workspace_id = $1 AND inbox_id IS NULL AND revoked_at IS NULL ORDER BY id DESC",
            )
            .bind(workspace.0)
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list the keys of a workspace"))?;
        rows.into_iter()
            .map(|row| {
                let name = row
                    .name
                    .as_deref()
                    .map(Label::parse_stored)
                    .transpose()
                    .map_err(Error::row("a key"))?;
                let created_at = Timestamp::from_micros(row.created_at);
                Ok(WorkspaceKey {
                    id: KeyId(row.id),
                    fragment: row.fragment,
                    name,
                    created_at,
                })
            })
            .collect()
    }

    /// Revokes one key of a workspace. `false` if the workspace has no such key in force.
    pub async fn revoke_workspace_key(
        &mut self,
        workspace: WorkspaceId,
        key: KeyId,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE api_keys SET revoked_at = $3
                 WHERE id = $2 AND workspace_id = $1 AND inbox_id IS NULL AND revoked_at IS NULL",
            )
            .bind(workspace.0)
            .bind(key.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("revoke a key of a workspace"))?;
        Ok(rows == 1)
    }

    /// Revokes every key that reaches into what the owner owns.
    pub async fn revoke_keys_of(&mut self, owner: Owner, now: Timestamp) -> Result<(), Error> {
        let sql = match owner {
            Owner::Tenant(_) => {
                "UPDATE api_keys SET revoked_at = $2 WHERE tenant_id = $1 AND revoked_at IS NULL"
            }
            Owner::Workspace(_) => {
                "UPDATE api_keys SET revoked_at = $2 WHERE workspace_id = $1 AND revoked_at IS NULL"
            }
            Owner::Inbox(_) => {
                "UPDATE api_keys SET revoked_at = $2 WHERE inbox_id = $1 AND revoked_at IS NULL"
            }
        };
        on!(self, db => sqlx::query(sql).bind(owner.id()).bind(now.as_micros()).execute(db).await.map(drop))
            .map_err(Error::while_doing("revoke keys"))
    }
}
