//! The one namespace of names: canonical addresses, further addresses and tombstones.

use std::{collections::HashSet, num::NonZeroU32, sync::LazyLock};

use serde::Deserialize;
use sqlx::{AssertSqlSafe, FromRow, types::Json};
use uuid::Uuid;

use super::{Error, Inner, ROWS_MAX, Tx, on, values};
use crate::{
    clock::Timestamp,
    model::{
        Refused,
        address::{Address, DomainName, LocalPart},
        allocation::CANDIDATES_MAX,
        ids::{InboxId, TenantId, WorkspaceId},
        maps::{AddressState, Login, Mailbox},
        password::PasswordHash,
        sasl_name::{Generation, SaslName},
    },
};

/// Which of a hundred names are taken, in one query: a hundred look-ups in the primary key.
static TAKEN: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<String> = (0..CANDIDATES_MAX)
        .map(|index| format!("${}", index + 5))
        .collect();
    format!(
        "SELECT local_part FROM addresses WHERE domain = $1 AND local_part IN ({})
         AND NOT (inbox_id IS NULL AND (held_until <= $3
             OR (tenant_id = $2 AND (held_for IS NULL OR held_for = COALESCE($4, held_for)))))",
        names.join(", ")
    )
});

/// Who asks for an address, and so which tombstones give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// The tenant that will have the address.
    pub tenant: TenantId,
    /// The workspace whose tombstones give way; none: those of every workspace of the tenant.
    pub tombstones_of: Option<WorkspaceId>,
}

impl Claimant {
    /// A workspace, to which only its own tombstones give way.
    pub fn workspace(tenant: TenantId, workspace: WorkspaceId) -> Self {
        Self {
            tenant,
            tombstones_of: Some(workspace),
        }
    }

    /// A tenant, to which the tombstones of all its workspaces give way, those of deleted ones included.
    pub fn tenant(tenant: TenantId) -> Self {
        Self {
            tenant,
            tombstones_of: None,
        }
    }

    /// Whether a tombstone that still holds gives way: one that this tenant left, with this workspace, if it is known.
    pub fn may_take(self, tenant: TenantId, held_for: Option<WorkspaceId>) -> bool {
        let is_own = held_for.is_none() || self.tombstones_of.is_none() || self.tombstones_of == held_for;
        self.tenant == tenant && is_own
    }
}

/// What the maps should say of addresses, in order of the inboxes' ids.
const BY_INBOX: &str = "SELECT a.local_part AS address_local_part, a.domain AS address_domain,
         i.id, i.local_part, i.domain, i.password_hash, i.credential_generation, t.suspended_at
     FROM addresses a JOIN inboxes i ON i.id = a.inbox_id JOIN tenants t ON t.id = i.tenant_id
     WHERE a.inbox_id > $1 ORDER BY a.inbox_id LIMIT $2";

/// The same as one JSON array of [`PackedRow`]s, for SQLite.
static PACKED_BY_INBOX: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT json_group_array(json_array(address_local_part, address_domain,
             lower(hex(id)), local_part, domain, password_hash, credential_generation, suspended_at)) FROM ({BY_INBOX}) page"
    )
});

#[derive(FromRow)]
struct StateRow {
    id: Uuid,
    local_part: String,
    domain: String,
    password_hash: String,
    credential_generation: i64,
    suspended_at: Option<i64>,
}

#[derive(FromRow)]
struct EntryRow {
    address_local_part: String,
    address_domain: String,
    #[sqlx(flatten)]
    state: StateRow,
}

/// The columns of an [`EntryRow`].
#[derive(Deserialize)]
struct PackedRow(String, String, Uuid, String, String, String, i64, Option<i64>);

impl From<PackedRow> for EntryRow {
    fn from(packed: PackedRow) -> Self {
        let PackedRow(
            address_local_part,
            address_domain,
            id,
            local_part,
            domain,
            password_hash,
            credential_generation,
            suspended_at,
        ) = packed;
        Self {
            address_local_part,
            address_domain,
            state: StateRow {
                id,
                local_part,
                domain,
                password_hash,
                credential_generation,
                suspended_at,
            },
        }
    }
}

impl StateRow {
    fn parse(self, address: &Address) -> Result<AddressState, Error> {
        let sasl_name = SaslName {
            inbox: InboxId(self.id),
            generation: parse_generation(self.credential_generation)?,
        };
        if self.local_part != address.local_part.as_str() || self.domain != address.domain.as_str() {
            return Ok(AddressState::Alias {
                canonical: parse_address(&self.local_part, &self.domain)?,
                sender: self.suspended_at.is_none().then_some(sasl_name),
            });
        }
        let login = match self.suspended_at {
            Some(_) => Login::Locked,
            None => {
                Login::Open(PasswordHash::parse(&self.password_hash).map_err(Error::row("a password hash"))?)
            }
        };
        Ok(AddressState::Mailbox(Mailbox { sasl_name, login }))
    }
}

fn parse_generation(value: i64) -> Result<Generation, Error> {
    let parsed = u32::try_from(value).ok().and_then(NonZeroU32::new);
    let rule = Refused::because("must be a number from 1 to 4294967295");
    parsed
        .map(Generation)
        .ok_or(rule)
        .map_err(Error::row("a credential generation"))
}

pub(super) fn parse_address(local_part: &str, domain: &str) -> Result<Address, Error> {
    let what = "an address";
    Ok(Address {
        local_part: LocalPart::parse(local_part).map_err(Error::row(what))?,
        domain: DomainName::parse(domain).map_err(Error::row(what))?,
    })
}

impl Tx {
    /// Which of these names at a domain the claimant cannot have now: live ones, and tombstones that hold and do not
    /// give way to it. Takes at most [`CANDIDATES_MAX`] names.
    pub async fn taken_names(
        &mut self,
        domain: &DomainName,
        names: &[LocalPart],
        claimant: Claimant,
        now: Timestamp,
    ) -> Result<HashSet<String>, Error> {
        debug_assert!(
            names.len() <= CANDIDATES_MAX,
            "the statement has {CANDIDATES_MAX} places"
        );
        if names.is_empty() {
            return Ok(HashSet::new());
        }
        // Places left over repeat the first name, so that one prepared statement serves every number of names.
        let padded = (0..CANDIDATES_MAX).filter_map(|index| names.get(index).or(names.first()));
        let taken: Vec<String> = on!(self, db => {
            let mut query = sqlx::query_scalar(AssertSqlSafe(TAKEN.as_str()))
                .bind(domain.as_str())
                .bind(claimant.tenant.0)
                .bind(now.as_micros())
                .bind(claimant.tombstones_of.map(|workspace| workspace.0));
            for name in padded {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look which names are taken"))?;
        Ok(taken.into_iter().collect())
    }

    /// Gives an address to an inbox, if it is free for the claimant: never used, or a tombstone that gives way to it or
    /// no longer holds. `false` if it is not.
    pub async fn claim_address(
        &mut self,
        address: &Address,
        claimant: Claimant,
        inbox: InboxId,
        primary_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO addresses (domain, local_part, tenant_id, inbox_id, primary_since) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (domain, local_part) DO UPDATE SET tenant_id = excluded.tenant_id,
                     inbox_id = excluded.inbox_id, primary_since = excluded.primary_since, held_until = NULL, held_for = NULL, left_by = NULL
                 WHERE addresses.inbox_id IS NULL AND (addresses.held_until <= $6
                     OR (addresses.tenant_id = excluded.tenant_id
                         AND (addresses.held_for IS NULL OR addresses.held_for = COALESCE($7, addresses.held_for))))",
            )
            .bind(address.domain.as_str())
            .bind(address.local_part.as_str())
            .bind(claimant.tenant.0)
            .bind(inbox.0)
            .bind(primary_since.map(Timestamp::as_micros))
            .bind(now.as_micros())
            .bind(claimant.tombstones_of.map(|workspace| workspace.0))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("claim an address"))?;
        Ok(rows == 1)
    }

    /// Makes one of an inbox's addresses the primary one. `false` if it is none of them.
    pub async fn make_primary(
        &mut self,
        inbox: InboxId,
        address: &Address,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let doing = "make an address the primary one";
        on!(self, db => sqlx::query(
                "UPDATE addresses SET primary_since = NULL WHERE inbox_id = $1 AND primary_since IS NOT NULL",
            )
            .bind(inbox.0)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing(doing))?;
        let rows = on!(self, db => sqlx::query(
                "UPDATE addresses SET primary_since = $4 WHERE domain = $2 AND local_part = $3 AND inbox_id = $1",
            )
            .bind(inbox.0)
            .bind(address.domain.as_str())
            .bind(address.local_part.as_str())
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        Ok(rows == 1)
    }

    /// Takes an address from an inbox and leaves a tombstone of its workspace. `false` if it is none of the inbox's.
    pub async fn leave_address(
        &mut self,
        inbox: InboxId,
        address: &Address,
        held_until: Timestamp,
    ) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $4,
                     held_for = (SELECT workspace_id FROM inboxes WHERE id = $1)
                 WHERE domain = $2 AND local_part = $3 AND inbox_id = $1",
            )
            .bind(inbox.0)
            .bind(address.domain.as_str())
            .bind(address.local_part.as_str())
            .bind(held_until.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("take an address from an inbox"))?;
        Ok(rows == 1)
    }

    /// Releases a tenant's tombstones beyond the number that it may keep, those that end first: anyone gets these
    /// addresses from now on. At most `limit` in one call. Returns how many were released.
    ///
    /// The rows stay, with the inbox that left them, because they may still have to be published. The cost grows with
    /// `keep` and `limit`, not with the tombstones that there are.
    pub async fn release_tombstones(
        &mut self,
        tenant: TenantId,
        keep: u32,
        limit: u32,
        now: Timestamp,
    ) -> Result<u32, Error> {
        let surplus: Vec<(String, String)> = on!(self, db => sqlx::query_as(
                "SELECT domain, local_part FROM addresses WHERE tenant_id = $1 AND inbox_id IS NULL AND held_until > $2
                 ORDER BY held_until DESC, domain DESC, local_part DESC LIMIT $4 OFFSET $3",
            )
            .bind(tenant.0)
            .bind(now.as_micros())
            .bind(i64::from(keep))
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list a tenant's tombstones beyond its limit"))?;
        for some in surplus.chunks(ROWS_MAX) {
            let sql = format!(
                "UPDATE addresses SET held_until = $1 WHERE inbox_id IS NULL AND (domain, local_part) IN (VALUES {})",
                values::rows_from(some.len(), 2, 2)
            );
            on!(self, db => {
                let mut query = sqlx::query(AssertSqlSafe(sql))
                    .persistent(values::is_kept(some.len()))
                    .bind(now.as_micros());
                for (domain, local_part) in some {
                    query = query.bind(domain).bind(local_part);
                }
                query.execute(db).await.map(drop)
            })
            .map_err(Error::while_doing("release tombstones"))?;
        }
        Ok(u32::try_from(surplus.len()).unwrap_or(u32::MAX))
    }

    /// Whether an address is a tombstone that this inbox left, and is still to be published.
    pub async fn has_left_unpublished(&mut self, inbox: InboxId, address: &Address) -> Result<bool, Error> {
        let found: Option<i32> = on!(self, db => sqlx::query_scalar(
                "SELECT 1 FROM addresses a JOIN unpublished u ON u.map_key = $4
                 WHERE a.domain = $2 AND a.local_part = $3 AND a.left_by = $1",
            )
            .bind(inbox.0)
            .bind(address.domain.as_str())
            .bind(address.local_part.as_str())
            .bind(address.to_string())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up an address that an inbox left"))?;
        Ok(found.is_some())
    }

    /// What the maps should say of these addresses, in any order; of those that are left out, nothing. At most
    /// [`ROWS_MAX`] addresses.
    pub async fn address_states(
        &mut self,
        addresses: &[&Address],
    ) -> Result<Vec<(Address, AddressState)>, Error> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "WITH wanted (domain, local_part) AS (VALUES {})
             SELECT a.local_part AS address_local_part, a.domain AS address_domain,
                 i.id, i.local_part, i.domain, i.password_hash, i.credential_generation, t.suspended_at
             FROM wanted w JOIN addresses a ON a.domain = w.domain AND a.local_part = w.local_part
                 JOIN inboxes i ON i.id = a.inbox_id JOIN tenants t ON t.id = i.tenant_id",
            values::rows(addresses.len(), 2)
        );
        let rows: Vec<EntryRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(addresses.len()));
            for address in addresses {
                query = query.bind(address.domain.as_str()).bind(address.local_part.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("read what the maps should say of addresses"))?;
        parse_states(rows)
    }

    /// Whose the inboxes are that have these addresses, in any order; those that no inbox has are left out. At most
    /// [`ROWS_MAX`] addresses.
    pub async fn tenants_at(&mut self, addresses: &[Address]) -> Result<Vec<(Address, TenantId)>, Error> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "WITH wanted (domain, local_part) AS (VALUES {})
             SELECT a.local_part, a.domain, i.tenant_id
             FROM wanted w JOIN addresses a ON a.domain = w.domain AND a.local_part = w.local_part
                 JOIN inboxes i ON i.id = a.inbox_id",
            values::rows(addresses.len(), 2)
        );
        let rows: Vec<(String, String, Uuid)> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(addresses.len()));
            for address in addresses {
                query = query.bind(address.domain.as_str()).bind(address.local_part.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look up whose addresses are"))?;
        let parse = |(local_part, domain, tenant): (String, String, Uuid)| {
            Ok((parse_address(&local_part, &domain)?, TenantId(tenant)))
        };
        rows.into_iter().map(parse).collect()
    }

    /// A page of everything that the maps should say of addresses, in order of domain and local part (their
    /// octets), behind the given address.
    pub async fn address_states_after(
        &mut self,
        after: Option<&Address>,
        limit: u32,
    ) -> Result<Vec<(Address, AddressState)>, Error> {
        let (domain, local_part) = after.map_or(("", ""), |address| {
            (address.domain.as_str(), address.local_part.as_str())
        });
        let rows: Vec<EntryRow> = on!(self, db => sqlx::query_as(
                "SELECT a.local_part AS address_local_part, a.domain AS address_domain,
                     i.id, i.local_part, i.domain, i.password_hash, i.credential_generation, t.suspended_at
                 FROM addresses a JOIN inboxes i ON i.id = a.inbox_id JOIN tenants t ON t.id = i.tenant_id
                 WHERE (a.domain, a.local_part) > ($1, $2) ORDER BY a.domain, a.local_part LIMIT $3",
            )
            .bind(domain)
            .bind(local_part)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list what the maps should say of addresses"))?;
        parse_states(rows)
    }

    /// The same in order of the inboxes' ids, behind the given one: as they were written, and so to be read much faster
    /// than by name. All addresses of an inbox are on one page, of which `limit` is the size it usually has; the second
    /// value is the last of the inboxes.
    pub async fn address_states_after_inbox(
        &mut self,
        after: Option<InboxId>,
        limit: u32,
    ) -> Result<(Vec<(Address, AddressState)>, Option<InboxId>), Error> {
        let mut limit = limit;
        loop {
            let mut rows = self.entries_after_inbox(after, limit).await?;
            let is_full = rows.len() == limit as usize;
            if let Some(last) = rows.last().map(|row| row.state.id).filter(|_| is_full) {
                // There may be more of the last inbox: it is for the next page.
                rows.retain(|row| row.state.id != last);
                if rows.is_empty() {
                    limit = limit.saturating_mul(2);
                    continue;
                }
            }
            let last = rows.last().map(|row| InboxId(row.state.id));
            return Ok((parse_states(rows)?, last));
        }
    }

    /// Rows in order of the inboxes' ids. SQLite gives them in one value: each value of a row that it gives by itself is
    /// copied from one thread to another, which costs more than to find it.
    async fn entries_after_inbox(
        &mut self,
        after: Option<InboxId>,
        limit: u32,
    ) -> Result<Vec<EntryRow>, Error> {
        let (after, limit) = (after.map_or(Uuid::nil(), |inbox| inbox.0), i64::from(limit));
        let read = match &mut self.0 {
            Inner::Sqlite(tx) => match tx.connection() {
                Ok(db) => sqlx::query_scalar(AssertSqlSafe(PACKED_BY_INBOX.as_str()))
                    .bind(after)
                    .bind(limit)
                    .fetch_one(db)
                    .await
                    .map(|Json(packed): Json<Vec<PackedRow>>| {
                        let mut rows: Vec<EntryRow> = packed.into_iter().map(EntryRow::from).collect();
                        // An aggregate function may be given its rows in any order.
                        rows.sort_by_key(|row| row.state.id);
                        rows
                    }),
                Err(error) => Err(error),
            },
            Inner::Postgres(tx) => {
                let rows = sqlx::query_as(BY_INBOX).bind(after).bind(limit);
                rows.fetch_all(tx.connection()).await
            }
        };
        read.map_err(Error::while_doing("list what the maps should say of addresses"))
    }
}

fn parse_states(rows: Vec<EntryRow>) -> Result<Vec<(Address, AddressState)>, Error> {
    let mut states: Vec<(Address, AddressState)> = Vec::with_capacity(rows.len());
    for row in rows {
        // Most have the domain of the one before: it is parsed once.
        let address = match states.last() {
            Some((last, _)) if last.domain.as_str() == row.address_domain => Address {
                local_part: LocalPart::parse(&row.address_local_part).map_err(Error::row("an address"))?,
                domain: last.domain.clone(),
            },
            _ => parse_address(&row.address_local_part, &row.address_domain)?,
        };
        let state = row.state.parse(&address)?;
        states.push((address, state));
    }
    Ok(states)
}
