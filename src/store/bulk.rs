//! Many inboxes in a few statements, for imports. What the rows say is what `inboxes.rs`, `addresses.rs` and
//! `unpublished.rs` write one at a time.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Claimant, Error, Tx, on, values};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName, LocalPart},
        ids::{InboxId, TenantId, WorkspaceId},
        metadata::Metadata,
        password::PasswordHash,
    },
};

/// Names that one statement looks for, and inboxes that are written in one call. SQLite takes 32,766 values (PostgreSQL
/// 65,535).
pub const BULK_ROWS_MAX: usize = 4_000;

/// An inbox of an import: finished, because somebody outside has its password, and without a recoverable one.
#[derive(Debug)]
pub struct ImportedInbox<'a> {
    /// Its id.
    pub id: InboxId,
    /// Its canonical and only address, which is also the name that was asked for.
    pub address: &'a Address,
    /// What Dovecot checks a password against.
    pub hash: &'a PasswordHash,
}

/// Who has a name at a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A live inbox whose canonical address it is.
    Inbox(TenantId, WorkspaceId),
    /// A live inbox of which it is a further address.
    Alias,
    /// No inbox, but until then only this tenant gets it, and of its workspaces only this one, if one is named.
    Tombstone(TenantId, Option<WorkspaceId>, Timestamp),
}

#[derive(FromRow)]
struct HolderRow {
    local_part: String,
    tenant_id: Uuid,
    workspace_id: Option<Uuid>,
    held_until: Option<i64>,
    held_for: Option<Uuid>,
    is_canonical: Option<i32>,
}

impl HolderRow {
    fn parse(self) -> Result<(String, Holder), Error> {
        let tenant = TenantId(self.tenant_id);
        let holder = match (self.workspace_id, self.held_until) {
            (None, Some(until)) => Holder::Tombstone(
                tenant,
                self.held_for.map(WorkspaceId),
                Timestamp::from_micros(until),
            ),
            (Some(workspace), None) if self.is_canonical == Some(1) => {
                Holder::Inbox(tenant, WorkspaceId(workspace))
            }
            (Some(_), None) => Holder::Alias,
            _ => {
                return Err(Error::Row {
                    what: "an address",
                    source: crate::model::Refused::because("must be an inbox's or a tombstone"),
                });
            }
        };
        Ok((self.local_part, holder))
    }
}

impl Tx {
    /// Who has which of these names at a domain; those that nobody has are left out. At most [`BULK_ROWS_MAX`] names.
    pub async fn holders(
        &mut self,
        domain: &DomainName,
        names: &[&LocalPart],
    ) -> Result<Vec<(String, Holder)>, Error> {
        let places = values::list(names.len(), 2);
        let sql = format!(
            "SELECT a.local_part, a.tenant_id, i.workspace_id, a.held_until, a.held_for,
                 CAST(i.local_part = a.local_part AND i.domain = a.domain AS INTEGER) AS is_canonical
             FROM addresses a LEFT JOIN inboxes i ON i.id = a.inbox_id WHERE a.domain = $1 AND a.local_part IN ({places})"
        );
        let rows: Vec<HolderRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(domain.as_str());
            for name in names {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look who has these names"))?;
        rows.into_iter().map(HolderRow::parse).collect()
    }

    /// Counts so many new inboxes of a tenant and its workspace, if the tenant's cap allows, and takes the tenant's turn.
    /// `false` if it does not, or there is no such tenant or workspace.
    pub async fn count_new_inboxes(
        &mut self,
        tenant: TenantId,
        workspace: WorkspaceId,
        inboxes: u32,
    ) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE tenants SET inbox_count = inbox_count + $2
                 WHERE id = $1 AND deleted_at IS NULL AND (max_inboxes IS NULL OR inbox_count + $2 <= max_inboxes)",
            )
            .bind(tenant.0)
            .bind(i64::from(inboxes))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("count new inboxes"))?;
        Ok(rows == 1
            && self
                .count_inboxes_of_workspace(workspace, i64::from(inboxes))
                .await?)
    }

    /// Writes new inboxes with their addresses, finished. `false` if one of the addresses was claimed meanwhile by another
    /// transaction: then roll back and try again. At most [`BULK_ROWS_MAX`] inboxes.
    pub async fn insert_imported(
        &mut self,
        claimant: Claimant,
        workspace: WorkspaceId,
        inboxes: &[ImportedInbox<'_>],
        now: Timestamp,
    ) -> Result<bool, Error> {
        for some in inboxes.chunks(values::ROWS_INSERTED) {
            if !self.claim_imported(claimant, some, now).await? {
                return Ok(false);
            }
            self.insert_imported_rows(claimant.tenant, workspace, some, now)
                .await?;
        }
        Ok(true)
    }

    /// Whether all of these addresses were free, and are theirs now.
    async fn claim_imported(
        &mut self,
        claimant: Claimant,
        inboxes: &[ImportedInbox<'_>],
        now: Timestamp,
    ) -> Result<bool, Error> {
        let rows = values::rows_of(inboxes.len(), 5, 3, |text, first| {
            let (local_part, inbox) = (first + 1, first + 2);
            write!(text, "(${first}, ${local_part}, $1, ${inbox}, $2)")
        });
        let claim = format!(
            "INSERT INTO addresses (domain, local_part, tenant_id, inbox_id, primary_since) VALUES {rows}
             ON CONFLICT (domain, local_part) DO UPDATE SET tenant_id = excluded.tenant_id,
                 inbox_id = excluded.inbox_id, primary_since = excluded.primary_since, held_until = NULL, held_for = NULL, left_by = NULL
             WHERE addresses.inbox_id IS NULL AND (addresses.held_until <= $3 OR (addresses.tenant_id = excluded.tenant_id
                 AND (addresses.held_for IS NULL OR addresses.held_for = COALESCE($4, addresses.held_for))))"
        );
        let claimed = on!(self, db => {
            let mut query = sqlx::query(AssertSqlSafe(claim))
                .bind(claimant.tenant.0)
                .bind(now.as_micros())
                .bind(now.as_micros())
                .bind(claimant.tombstones_of.map(|workspace| workspace.0));
            for inbox in inboxes {
                query = query
                    .bind(inbox.address.domain.as_str())
                    .bind(inbox.address.local_part.as_str())
                    .bind(inbox.id.0);
            }
            query.execute(db).await.map(|done| done.rows_affected())
        })
        .map_err(Error::while_doing("claim many addresses"))?;
        Ok(claimed == inboxes.len() as u64)
    }

    async fn insert_imported_rows(
        &mut self,
        tenant: TenantId,
        workspace: WorkspaceId,
        inboxes: &[ImportedInbox<'_>],
        now: Timestamp,
    ) -> Result<(), Error> {
        let rows = values::rows_of(inboxes.len(), 5, 4, |text, first| {
            let (local_part, domain, hash) = (first + 1, first + 2, first + 3);
            write!(
                text,
                "(${first}, $1, $2, ${local_part}, ${domain}, ${local_part}, $3, ${hash}, $4, $4)"
            )
        });
        let insert = format!(
            "INSERT INTO inboxes (id, tenant_id, workspace_id, local_part, domain, requested_local_part, metadata,
                 password_hash, created_at, acknowledged_at) VALUES {rows}"
        );
        let metadata = Metadata::default().to_json();
        on!(self, db => {
            let mut query = sqlx::query(AssertSqlSafe(insert))
                .bind(tenant.0)
                .bind(workspace.0)
                .bind(&metadata)
                .bind(now.as_micros());
            for inbox in inboxes {
                query = query
                    .bind(inbox.id.0)
                    .bind(inbox.address.local_part.as_str())
                    .bind(inbox.address.domain.as_str())
                    .bind(inbox.hash.as_str());
            }
            query.execute(db).await.map(drop)
        })
        .map_err(Error::while_doing("insert many inboxes"))
    }
}
