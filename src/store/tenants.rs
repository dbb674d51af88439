//! Tenants and their caps.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Error, Tx, count, on, one_row};
use crate::{
    clock::Timestamp,
    model::{
        address::Address,
        ids::{TenantId, WorkspaceId},
        limits::Limits,
        names::Label,
        tenant::Tenant,
    },
};

#[derive(FromRow)]
struct TenantRow {
    id: Uuid,
    name: String,
    default_workspace_id: Uuid,
    max_inboxes: Option<i64>,
    max_domains: Option<i64>,
    max_workspaces: Option<i64>,
    inbox_count: i64,
    workspace_count: i64,
    suspended_at: Option<i64>,
    created_at: i64,
}

#[derive(FromRow)]
struct PlaceRow {
    #[sqlx(flatten)]
    tenant: TenantRow,
    workspace_id: Option<Uuid>,
    has_history: i32,
}

/// Where a new inbox is to be.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its tenant.
    pub tenant: Tenant,
    /// Its workspace, if that is there.
    pub workspace: Option<WorkspaceId>,
    /// Whether anybody ever had the address that is wanted, or a live inbox of the tenant was requested under it.
    pub has_history: bool,
}

impl TenantRow {
    fn parse(self) -> Result<Tenant, Error> {
        Ok(Tenant {
            id: TenantId(self.id),
            name: Label::parse_stored(&self.name).map_err(Error::row("a tenant"))?,
            default_workspace: WorkspaceId(self.default_workspace_id),
            limits: Limits {
                inboxes: self.max_inboxes.map(count),
                domains: self.max_domains.map(count),
                workspaces: self.max_workspaces.map(count),
            },
            inbox_count: count(self.inbox_count),
            workspace_count: count(self.workspace_count),
            suspended_at: self.suspended_at.map(Timestamp::from_micros),
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

macro_rules! tenant_columns {
    () => {
        "id, name, default_workspace_id, max_inboxes, max_domains, max_workspaces, inbox_count, workspace_count, \
         suspended_at, created_at"
    };
}

impl Tx {
    /// Writes a new tenant; its default workspace is written beside it.
    pub async fn insert_tenant(&mut self, tenant: &Tenant) -> Result<(), Error> {
        let doing = "insert a tenant";
        let rows = on!(self, db => sqlx::query(concat!(
                "INSERT INTO tenants (", tenant_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
            ))
            .bind(tenant.id.0)
            .bind(tenant.name.as_str())
            .bind(tenant.default_workspace.0)
            .bind(tenant.limits.inboxes.map(i64::from))
            .bind(tenant.limits.domains.map(i64::from))
            .bind(tenant.limits.workspaces.map(i64::from))
            .bind(i64::from(tenant.inbox_count))
            .bind(i64::from(tenant.workspace_count))
            .bind(tenant.suspended_at.map(Timestamp::as_micros))
            .bind(tenant.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// A tenant that is not deleted.
    pub async fn tenant(&mut self, id: TenantId) -> Result<Option<Tenant>, Error> {
        let row: Option<TenantRow> = on!(self, db => sqlx::query_as(concat!(
                "SELECT ", tenant_columns!(), " FROM tenants WHERE id = $1 AND deleted_at IS NULL"
            ))
            .bind(id.0)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("read a tenant"))?;
        row.map(TenantRow::parse).transpose()
    }

    /// What decides where a tenant's new inbox goes; none if there is no such tenant. Without a workspace, its default
    /// one is meant.
    pub async fn place(
        &mut self,
        id: TenantId,
        workspace: Option<WorkspaceId>,
        wanted: Option<&Address>,
    ) -> Result<Option<Place>, Error> {
        let row: Option<PlaceRow> = on!(self, db => sqlx::query_as(
                "SELECT t.id, t.name, t.default_workspace_id, t.max_inboxes, t.max_domains, t.max_workspaces, t.inbox_count,
                     t.workspace_count, t.suspended_at, t.created_at, w.id AS workspace_id,
                     CASE WHEN EXISTS (SELECT 1 FROM addresses a WHERE a.domain = $3 AND a.local_part = $4)
                         OR EXISTS (SELECT 1 FROM inboxes i WHERE i.tenant_id = t.id AND i.domain = $3
                             AND i.requested_local_part = $4 AND i.deleted_at IS NULL) THEN 1 ELSE 0 END AS has_history
                 FROM tenants t LEFT JOIN workspaces w ON w.id = COALESCE($2, t.default_workspace_id)
                     AND w.tenant_id = t.id AND w.deleted_at IS NULL
                 WHERE t.id = $1 AND t.deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(workspace.map(|workspace| workspace.0))
            .bind(wanted.map(|wanted| wanted.domain.as_str()))
            .bind(wanted.map(|wanted| wanted.local_part.as_str()))
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look where an inbox is to be"))?;
        row.map(|row| {
            Ok(Place {
                tenant: row.tenant.parse()?,
                workspace: row.workspace_id.map(WorkspaceId),
                has_history: row.has_history != 0,
            })
        })
        .transpose()
    }

    /// The cap on inboxes of a tenant, be it deleted or not; the inner `None` is no cap.
    pub async fn inbox_cap(&mut self, id: TenantId) -> Result<Option<Option<u32>>, Error> {
        let cap: Option<Option<i64>> =
            on!(self, db => sqlx::query_scalar("SELECT max_inboxes FROM tenants WHERE id = $1")
            .bind(id.0)
            .fetch_optional(db)
            .await)
            .map_err(Error::while_doing("read a tenant's cap on inboxes"))?;
        Ok(cap.map(|cap| cap.map(count)))
    }

    /// Whether there was a tenant with this id, which is deleted.
    pub async fn tenant_was_deleted(&mut self, id: TenantId) -> Result<bool, Error> {
        let row: Option<(Uuid,)> =
            on!(self, db => sqlx::query_as("SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NOT NULL")
            .bind(id.0)
            .fetch_optional(db)
            .await)
            .map_err(Error::while_doing("look for a deleted tenant"))?;
        Ok(row.is_some())
    }

    /// A page of the tenants that are not deleted, newest first, older than the cursor.
    pub async fn tenants(&mut self, before: Option<TenantId>, limit: u32) -> Result<Vec<Tenant>, Error> {
        let before = before.map_or(Uuid::max(), |id| id.0);
        let rows: Vec<TenantRow> = on!(self, db => sqlx::query_as(concat!(
                "SELECT ", tenant_columns!(), " FROM tenants WHERE id < $1 AND deleted_at IS NULL ORDER BY id DESC LIMIT $2"
            ))
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list the tenants"))?;
        rows.into_iter().map(TenantRow::parse).collect()
    }

    /// Writes a tenant's name, caps and suspension. `false` if there is no such tenant.
    pub async fn update_tenant(&mut self, tenant: &Tenant) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE tenants SET name = $2, max_inboxes = $3, max_domains = $4, max_workspaces = $5, suspended_at = $6
                 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(tenant.id.0)
            .bind(tenant.name.as_str())
            .bind(tenant.limits.inboxes.map(i64::from))
            .bind(tenant.limits.domains.map(i64::from))
            .bind(tenant.limits.workspaces.map(i64::from))
            .bind(tenant.suspended_at.map(Timestamp::as_micros))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("update a tenant"))?;
        Ok(rows == 1)
    }

    /// Marks a tenant as deleted. `false` if there is no such tenant.
    pub async fn delete_tenant(&mut self, id: TenantId, now: Timestamp) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query("UPDATE tenants SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL")
            .bind(id.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("delete a tenant"))?;
        Ok(rows == 1)
    }

    /// Takes a tenant's turn: until this transaction ends, others that change what the tenant has wait here. `false`
    /// if there is no such tenant.
    ///
    /// To be asked first: what is read behind it stays true, and since everybody asks for it before anything else,
    /// nobody waits for two things in the other order. Counting something new takes the turn, too. SQLite, with one
    /// writer, needs none of it.
    pub async fn lock_tenant(&mut self, id: TenantId) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query("UPDATE tenants SET inbox_count = inbox_count WHERE id = $1 AND deleted_at IS NULL")
            .bind(id.0)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("take a tenant's turn"))?;
        Ok(rows == 1)
    }

    /// Counts one more inbox of a tenant, if its cap allows, and takes the tenant's turn. `false` if the cap is reached.
    pub async fn count_new_inbox(&mut self, id: TenantId) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE tenants SET inbox_count = inbox_count + 1
                 WHERE id = $1 AND deleted_at IS NULL AND (max_inboxes IS NULL OR inbox_count < max_inboxes)",
            )
            .bind(id.0)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("count a new inbox"))?;
        Ok(rows == 1)
    }

    /// Counts one more workspace of a tenant, if its cap allows. `false` if the cap is reached.
    pub async fn count_new_workspace(&mut self, id: TenantId) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE tenants SET workspace_count = workspace_count + 1
                 WHERE id = $1 AND deleted_at IS NULL AND (max_workspaces IS NULL OR workspace_count < max_workspaces)",
            )
            .bind(id.0)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("count a new workspace"))?;
        Ok(rows == 1)
    }

    /// Counts inboxes and workspaces of a tenant that are gone.
    pub async fn count_gone(&mut self, id: TenantId, inboxes: u32, workspaces: u32) -> Result<(), Error> {
        let doing = "count what is gone of a tenant";
        let rows = on!(self, db => sqlx::query(
                "UPDATE tenants SET inbox_count = inbox_count - $2, workspace_count = workspace_count - $3 WHERE id = $1",
            )
            .bind(id.0)
            .bind(i64::from(inboxes))
            .bind(i64::from(workspaces))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }
}
