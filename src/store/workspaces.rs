//! Workspaces.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Error, Tx, count, on, one_row};
use crate::{
    clock::Timestamp,
    model::{
        ids::{TenantId, WorkspaceId},
        names::{Label, Slug},
        workspace::Workspace,
    },
};

#[derive(FromRow)]
struct WorkspaceRow {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    slug: String,
    default_workspace_id: Uuid,
    inbox_count: i64,
    domain_count: i64,
    created_at: i64,
}

impl WorkspaceRow {
    fn parse(self) -> Result<Workspace, Error> {
        Ok(Workspace {
            id: WorkspaceId(self.id),
            tenant: TenantId(self.tenant_id),
            name: Label::parse_stored(&self.name).map_err(Error::row("a workspace"))?,
            slug: Slug::parse(&self.slug).map_err(Error::row("a workspace"))?,
            is_default: self.id == self.default_workspace_id,
            inbox_count: count(self.inbox_count),
            domain_count: count(self.domain_count),
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

macro_rules! select_workspaces {
    () => {
        "SELECT w.id, w.tenant_id, w.name, w.slug, t.default_workspace_id, w.inbox_count,
             (SELECT COUNT(*) FROM domains d WHERE d.workspace_id = w.id AND d.deleted_at IS NULL) AS domain_count, w.created_at
         FROM workspaces w JOIN tenants t ON t.id = w.tenant_id
         WHERE w.deleted_at IS NULL AND t.deleted_at IS NULL AND w.tenant_id = $1"
    };
}

impl Tx {
    /// Writes a new workspace. `false` if its slug is taken within the tenant.
    pub async fn insert_workspace(&mut self, workspace: &Workspace) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO workspaces (id, tenant_id, name, slug, inbox_count, created_at) VALUES ($1, $2, $3, $4, 0, $5)
                 ON CONFLICT DO NOTHING",
            )
            .bind(workspace.id.0)
            .bind(workspace.tenant.0)
            .bind(workspace.name.as_str())
            .bind(workspace.slug.as_str())
            .bind(workspace.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("insert a workspace"))?;
        Ok(rows == 1)
    }

    /// A workspace of a tenant.
    pub async fn workspace(&mut self, tenant: TenantId, id: WorkspaceId) -> Result<Option<Workspace>, Error> {
        let row: Option<WorkspaceRow> =
            on!(self, db => sqlx::query_as(concat!(select_workspaces!(), " AND w.id = $2"))
            .bind(tenant.0)
            .bind(id.0)
            .fetch_optional(db)
            .await)
            .map_err(Error::while_doing("read a workspace"))?;
        row.map(WorkspaceRow::parse).transpose()
    }

    /// A page of a tenant's workspaces, newest first, older than the cursor.
    pub async fn workspaces(
        &mut self,
        tenant: TenantId,
        before: Option<WorkspaceId>,
        limit: u32,
    ) -> Result<Vec<Workspace>, Error> {
        let before = before.map_or(Uuid::max(), |id| id.0);
        let rows: Vec<WorkspaceRow> = on!(self, db => sqlx::query_as(concat!(
                select_workspaces!(), " AND w.id < $2 ORDER BY w.id DESC LIMIT $3"
            ))
            .bind(tenant.0)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list the workspaces of a tenant"))?;
        rows.into_iter().map(WorkspaceRow::parse).collect()
    }

    /// Gives a workspace another name.
    pub async fn rename_workspace(&mut self, id: WorkspaceId, name: &Label) -> Result<(), Error> {
        let doing = "rename a workspace";
        let rows = on!(self, db => sqlx::query("UPDATE workspaces SET name = $2 WHERE id = $1 AND deleted_at IS NULL")
            .bind(id.0)
            .bind(name.as_str())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Gives a workspace another slug. `false` if another workspace of the tenant has it.
    pub async fn change_workspace_slug(&mut self, id: WorkspaceId, slug: &Slug) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE workspaces SET slug = $2 WHERE id = $1 AND deleted_at IS NULL AND NOT EXISTS
                 (SELECT 1 FROM workspaces o WHERE o.tenant_id = workspaces.tenant_id AND o.slug = $2
                  AND o.id <> $1 AND o.deleted_at IS NULL)",
            )
            .bind(id.0)
            .bind(slug.as_str())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("change a workspace's slug"))?;
        Ok(rows == 1)
    }

    /// Marks a workspace as deleted. `false` if there is no such workspace.
    pub async fn delete_workspace(&mut self, id: WorkspaceId, now: Timestamp) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query("UPDATE workspaces SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL")
            .bind(id.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("delete a workspace"))?;
        Ok(rows == 1)
    }

    /// Changes the number of live inboxes that a workspace counts. `false` if there is no such workspace any more.
    pub async fn count_inboxes_of_workspace(&mut self, id: WorkspaceId, change: i64) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE workspaces SET inbox_count = inbox_count + $2 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(change)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("count the inboxes of a workspace"))?;
        Ok(rows == 1)
    }
}
