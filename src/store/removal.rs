//! The end of deleted rows: a row goes when nothing refers to it any more.
//!
//! Rows of tenants stay: only a super admin makes them.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Error, Tx, on, values};
use crate::clock::Timestamp;

/// Rows that are marked as deleted first, and removed later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeletedRows {
    /// Revoked keys, unless an answer that was kept for one refers to it.
    Keys,
    /// Deleted registrations of domains.
    Domains,
    /// Deleted inboxes, unless a tombstone or a kept answer refers to one.
    Inboxes,
    /// Deleted workspaces, unless an inbox, a domain or a tombstone refers to one.
    Workspaces,
}

/// Where a walk over deleted rows is: the time and the id of the last row of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemovalCursor(i64, Uuid);

/// A page of deleted rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovalPage {
    /// The rows that nothing refers to.
    pub removable: Vec<Uuid>,
    /// Where the next page begins; none: this was the last one.
    pub next: Option<RemovalCursor>,
}

impl DeletedRows {
    /// All of them, in an order in which each comes behind what refers to it.
    pub const ALL: [Self; 4] = [Self::Keys, Self::Domains, Self::Inboxes, Self::Workspaces];

    /// The table.
    pub fn table(self) -> &'static str {
        match self {
            Self::Keys => "api_keys",
            Self::Domains => "domains",
            Self::Inboxes => "inboxes",
            Self::Workspaces => "workspaces",
        }
    }

    /// A page of rows that were deleted until `$1`, behind (`$2`, `$3`), and whether nothing refers to each.
    fn page(self) -> &'static str {
        match self {
            Self::Keys => {
                "SELECT r.id, r.revoked_at, CASE WHEN
                     EXISTS (SELECT 1 FROM idempotent_requests q WHERE q.caller_key_id = r.id) THEN 0 ELSE 1 END
                 FROM api_keys r WHERE r.revoked_at IS NOT NULL AND r.revoked_at <= $1
                     AND (r.revoked_at, r.id) > ($2, $3) ORDER BY r.revoked_at, r.id LIMIT $4"
            }
            Self::Domains => {
                "SELECT r.id, r.deleted_at, CASE WHEN
                     EXISTS (SELECT 1 FROM domains c WHERE c.contests = r.id) THEN 0 ELSE 1 END
                 FROM domains r WHERE r.deleted_at IS NOT NULL AND r.deleted_at <= $1
                     AND (r.deleted_at, r.id) > ($2, $3) ORDER BY r.deleted_at, r.id LIMIT $4"
            }
            Self::Inboxes => {
                "SELECT r.id, r.deleted_at, CASE WHEN
                     EXISTS (SELECT 1 FROM addresses a WHERE a.inbox_id = r.id)
                     OR EXISTS (SELECT 1 FROM addresses a WHERE a.left_by = r.id)
                     OR EXISTS (SELECT 1 FROM domains d WHERE d.catch_all_inbox_id = r.id)
                     OR EXISTS (SELECT 1 FROM api_keys k JOIN idempotent_requests q ON q.caller_key_id = k.id
                         WHERE k.inbox_id = r.id) THEN 0 ELSE 1 END
                 FROM inboxes r WHERE r.deleted_at IS NOT NULL AND r.deleted_at <= $1
                     AND (r.deleted_at, r.id) > ($2, $3) ORDER BY r.deleted_at, r.id LIMIT $4"
            }
            Self::Workspaces => {
                "SELECT r.id, r.deleted_at, CASE WHEN
                     EXISTS (SELECT 1 FROM inboxes i WHERE i.workspace_id = r.id)
                     OR EXISTS (SELECT 1 FROM domains d WHERE d.workspace_id = r.id)
                     OR EXISTS (SELECT 1 FROM addresses a WHERE a.held_for = r.id)
                     OR EXISTS (SELECT 1 FROM api_keys k JOIN idempotent_requests q ON q.caller_key_id = k.id
                         WHERE k.workspace_id = r.id) THEN 0 ELSE 1 END
                 FROM workspaces r WHERE r.deleted_at IS NOT NULL AND r.deleted_at <= $1
                     AND (r.deleted_at, r.id) > ($2, $3) ORDER BY r.deleted_at, r.id LIMIT $4"
            }
        }
    }

    /// What is removed with rows of these ids, the rows last. A key that a deletion did not see, because it was made in
    /// the same moment, goes with what it reached.
    fn removals(self) -> &'static [&'static str] {
        match self {
            Self::Keys => &["DELETE FROM api_keys WHERE revoked_at IS NOT NULL AND id IN"],
            Self::Domains => &[
                "DELETE FROM dkim_keys WHERE domain_id IN",
                "DELETE FROM domains WHERE deleted_at IS NOT NULL AND id IN",
            ],
            Self::Inboxes => &[
                "DELETE FROM api_keys WHERE inbox_id IN",
                "DELETE FROM inboxes WHERE deleted_at IS NOT NULL AND id IN",
            ],
            Self::Workspaces => &[
                "DELETE FROM api_keys WHERE workspace_id IN",
                "DELETE FROM workspaces WHERE deleted_at IS NOT NULL AND id IN",
            ],
        }
    }
}

impl Tx {
    /// When the earliest of the changes was made that are still to be published; none if all are published.
    pub async fn unpublished_since(&mut self) -> Result<Option<Timestamp>, Error> {
        let first = self.unpublished(None, 1).await?;
        let made_at = first.first().and_then(|pending| pending.mark.get_timestamp());
        Ok(made_at.map(|time| {
            let (seconds, nanos) = time.to_unix();
            Timestamp::from_micros(i64::try_from(seconds).unwrap_or(0) * 1_000_000 + i64::from(nanos / 1000))
        }))
    }

    /// A page of rows that were deleted until this time, behind the cursor, oldest first.
    pub async fn deleted_rows(
        &mut self,
        rows: DeletedRows,
        until: Timestamp,
        after: Option<RemovalCursor>,
        limit: u32,
    ) -> Result<RemovalPage, Error> {
        let RemovalCursor(time, id) = after.unwrap_or(RemovalCursor(i64::MIN, Uuid::nil()));
        let found: Vec<(Uuid, i64, i32)> = on!(self, db => sqlx::query_as(rows.page())
            .bind(until.as_micros())
            .bind(time)
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list deleted rows"))?;
        let is_full = found.len() >= limit as usize;
        let next = found.last().filter(|_| is_full);
        Ok(RemovalPage {
            next: next.map(|&(id, time, _)| RemovalCursor(time, id)),
            removable: found
                .into_iter()
                .filter(|&(_, _, is_removable)| is_removable != 0)
                .map(|(id, _, _)| id)
                .collect(),
        })
    }

    /// Removes deleted rows that nothing refers to. At most [`super::ROWS_MAX`] rows.
    pub async fn remove_rows(&mut self, rows: DeletedRows, ids: &[Uuid]) -> Result<u64, Error> {
        let mut removed = 0;
        if ids.is_empty() {
            return Ok(removed);
        }
        for start in rows.removals() {
            let sql = format!("{start} ({})", values::list(ids.len(), 1));
            removed = on!(self, db => {
                let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(values::is_kept(ids.len()));
                for id in ids {
                    query = query.bind(id);
                }
                query.execute(db).await.map(|done| done.rows_affected())
            })
            .map_err(Error::while_doing("remove deleted rows"))?;
        }
        Ok(removed)
    }

    /// Removes tombstones that ended until this time, the oldest first: anyone may have these addresses. Returns how
    /// many were removed, which is fewer than `limit` if there are no more.
    pub async fn remove_tombstones(&mut self, until: Timestamp, limit: u32) -> Result<u64, Error> {
        on!(self, db => sqlx::query(
                "DELETE FROM addresses WHERE inbox_id IS NULL AND held_until <= $1 AND (domain, local_part) IN
                     (SELECT e.domain, e.local_part FROM addresses e WHERE e.inbox_id IS NULL AND e.held_until <= $1
                      ORDER BY e.held_until LIMIT $2)",
            )
            .bind(until.as_micros())
            .bind(i64::from(limit))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("remove tombstones that have ended"))
    }
}
