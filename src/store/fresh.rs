//! New inboxes at names that nobody ever had, many in a few statements.
//!
//! What the rows say is what `inboxes.rs`, `addresses.rs`, `keys.rs` and `unpublished.rs` write one at a time, and the
//! counters count the same. Names with a history (live, or tombstones, or requested before) are left to them.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Error, NewInbox, NewKey, Tx, on, values};
use crate::model::{address::LocalPart, ids::TenantId, maps::MapKey, names::DisplayName};

/// Inboxes that are written together.
pub const FRESH_MAX: usize = 64;

/// A new inbox with everything that is written beside it.
#[derive(Debug)]
pub struct FreshInbox<'a> {
    /// The inbox. Its canonical address is the one that was asked for, unless none was.
    pub inbox: NewInbox<'a>,
    /// Its key.
    pub key: NewKey<'a>,
    /// Marks its address as to be published.
    pub mark: Uuid,
}

impl Tx {
    /// Writes new inboxes, unfinished and to be published, if each is within its tenant's cap, its workspace is there,
    /// its address was never used and no live inbox of its tenant was requested under it. Returns the places of those
    /// for which this does not hold: if there are any, roll back. At most [`FRESH_MAX`] inboxes, of different addresses.
    pub async fn insert_fresh_inboxes(&mut self, new: &[FreshInbox<'_>]) -> Result<Vec<usize>, Error> {
        debug_assert!(new.len() <= FRESH_MAX, "the caller splits");
        let mut refused = Vec::new();
        // First, because it takes the turns of these tenants.
        let within_cap = self
            .count_each(
                "UPDATE tenants SET inbox_count = inbox_count + $1 WHERE deleted_at IS NULL
                 AND (max_inboxes IS NULL OR inbox_count + $1 <= max_inboxes) AND id IN (",
                new.iter().map(|fresh| fresh.inbox.tenant.0),
            )
            .await?;
        let workspaces = self
            .count_each(
                "UPDATE workspaces SET inbox_count = inbox_count + $1 WHERE deleted_at IS NULL AND id IN (",
                new.iter().map(|fresh| fresh.inbox.workspace.0),
            )
            .await?;
        let (mut requested, mut claimed) = (HashSet::new(), HashSet::new());
        for some in new.chunks(values::ROWS_INSERTED) {
            requested.extend(self.requested_already(some).await?);
            claimed.extend(self.claim_fresh(some).await?);
        }
        for (place, FreshInbox { inbox, .. }) in new.iter().enumerate() {
            let name = (
                inbox.canonical.domain.as_str().to_owned(),
                inbox.canonical.local_part.as_str().to_owned(),
            );
            let fits = within_cap.contains(&inbox.tenant.0)
                && workspaces.contains(&inbox.workspace.0)
                && claimed.contains(&name)
                && !requested.contains(&(inbox.tenant.0, name.0, name.1));
            if !fits {
                refused.push(place);
            }
        }
        if refused.is_empty() {
            for some in new.chunks(values::ROWS_INSERTED) {
                self.insert_rows(some).await?;
            }
            let marks = new
                .iter()
                .map(|fresh| (MapKey::Address(fresh.inbox.canonical.clone()), fresh.mark));
            self.mark_all_unpublished(&marks.collect::<Vec<_>>()).await?;
        }
        Ok(refused)
    }

    /// Runs a counting statement, whose list of ids is still open, for as many of each id as there are, and returns the
    /// ids that were counted.
    async fn count_each(
        &mut self,
        statement: &'static str,
        ids: impl Iterator<Item = Uuid>,
    ) -> Result<HashSet<Uuid>, Error> {
        let mut times: HashMap<Uuid, i64> = HashMap::new();
        for id in ids {
            *times.entry(id).or_default() += 1;
        }
        let mut by_times: BTreeMap<i64, Vec<Uuid>> = BTreeMap::new();
        for (id, times) in times {
            by_times.entry(times).or_default().push(id);
        }
        let mut counted = HashSet::new();
        for (times, mut ids) in by_times {
            ids.sort_unstable();
            let sql = format!("{statement}{}) RETURNING id", values::list(ids.len(), 2));
            let rows: Vec<Uuid> = on!(self, db => {
                let mut query = sqlx::query_scalar(AssertSqlSafe(sql))
                    .persistent(values::is_kept(ids.len()))
                    .bind(times);
                for id in &ids {
                    query = query.bind(id);
                }
                query.fetch_all(db).await
            })
            .map_err(Error::while_doing("count new inboxes"))?;
            counted.extend(rows);
        }
        Ok(counted)
    }

    /// Under which of these names a live inbox of the tenant was requested before.
    async fn requested_already(
        &mut self,
        new: &[FreshInbox<'_>],
    ) -> Result<HashSet<(Uuid, String, String)>, Error> {
        let asked: Vec<(TenantId, &str, &str)> = new
            .iter()
            .filter_map(|fresh| {
                let requested = fresh.inbox.requested?;
                Some((
                    fresh.inbox.tenant,
                    fresh.inbox.canonical.domain.as_str(),
                    requested.as_str(),
                ))
            })
            .collect();
        if asked.is_empty() {
            return Ok(HashSet::new());
        }
        let each: Vec<String> = (0..asked.len())
            .map(|row| {
                let (tenant, domain, name) = (3 * row + 1, 3 * row + 2, 3 * row + 3);
                format!(
                    "SELECT tenant_id, domain, requested_local_part FROM inboxes WHERE tenant_id = ${tenant}
                     AND domain = ${domain} AND requested_local_part = ${name} AND deleted_at IS NULL"
                )
            })
            .collect();
        let sql = each.join(" UNION ALL ");
        let rows: Vec<(Uuid, String, String)> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql));
            for (tenant, domain, name) in asked {
                query = query.bind(tenant.0).bind(domain).bind(name);
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look which names were requested before"))?;
        Ok(rows.into_iter().collect())
    }

    /// Claims the addresses that nobody ever had, and returns them.
    async fn claim_fresh(&mut self, new: &[FreshInbox<'_>]) -> Result<HashSet<(String, String)>, Error> {
        let sql = format!(
            "INSERT INTO addresses (domain, local_part, tenant_id, inbox_id, primary_since) VALUES {}
             ON CONFLICT (domain, local_part) DO NOTHING RETURNING domain, local_part",
            values::rows(new.len(), 5)
        );
        let rows: Vec<(String, String)> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql));
            for FreshInbox { inbox, .. } in new {
                query = query
                    .bind(inbox.canonical.domain.as_str())
                    .bind(inbox.canonical.local_part.as_str())
                    .bind(inbox.tenant.0)
                    .bind(inbox.id.0)
                    .bind(inbox.created_at.as_micros());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("claim fresh addresses"))?;
        Ok(rows.into_iter().collect())
    }

    /// The inboxes and their keys.
    async fn insert_rows(&mut self, new: &[FreshInbox<'_>]) -> Result<(), Error> {
        let inboxes = format!(
            "INSERT INTO inboxes (id, tenant_id, workspace_id, local_part, domain, requested_local_part, display_name,
                 metadata, password_hash, sealed_password, created_at) VALUES {}",
            values::rows(new.len(), 11)
        );
        on!(self, db => {
            let mut query = sqlx::query(AssertSqlSafe(inboxes));
            for FreshInbox { inbox, .. } in new {
                query = query
                    .bind(inbox.id.0)
                    .bind(inbox.tenant.0)
                    .bind(inbox.workspace.0)
                    .bind(inbox.canonical.local_part.as_str())
                    .bind(inbox.canonical.domain.as_str())
                    .bind(inbox.requested.map(LocalPart::as_str))
                    .bind(inbox.display_name.map(DisplayName::as_str))
                    .bind(inbox.metadata.to_json())
                    .bind(inbox.secrets.password_hash.as_str())
                    .bind(inbox.secrets.sealed_password)
                    .bind(inbox.created_at.as_micros());
            }
            query.execute(db).await.map(drop)
        })
        .map_err(Error::while_doing("insert inboxes"))?;

        let keys = format!(
            "INSERT INTO api_keys (id, hash, fragment, tenant_id, workspace_id, inbox_id, created_at) VALUES {}",
            values::rows(new.len(), 7)
        );
        on!(self, db => {
            let mut query = sqlx::query(AssertSqlSafe(keys));
            for FreshInbox { inbox, key, .. } in new {
                query = query
                    .bind(key.id.0)
                    .bind(key.key.hash().to_vec())
                    .bind(key.key.fragment())
                    .bind(inbox.tenant.0)
                    .bind(inbox.workspace.0)
                    .bind(inbox.id.0)
                    .bind(key.created_at.as_micros());
            }
            query.execute(db).await.map(drop)
        })
        .map_err(Error::while_doing("insert the keys of inboxes"))
    }
}
