//! Inboxes and their secrets.

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Owner, ROWS_MAX, Tx, addresses::parse_address, on, one_row, values};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName, LocalPart},
        ids::{InboxId, TenantId, WorkspaceId},
        inbox::{Inbox, InboxAddress, SearchText},
        metadata::Metadata,
        names::DisplayName,
        password::PasswordHash,
    },
};

/// An inbox to be written.
#[derive(Debug)]
pub struct NewInbox<'a> {
    /// Its id.
    pub id: InboxId,
    /// The tenant that owns the workspace.
    pub tenant: TenantId,
    /// The workspace that owns it.
    pub workspace: WorkspaceId,
    /// Its canonical address.
    pub canonical: &'a Address,
    /// The username that was asked for, if one was.
    pub requested: Option<&'a LocalPart>,
    /// The name shown beside the address.
    pub display_name: Option<&'a DisplayName>,
    /// The owner's own data.
    pub metadata: &'a Metadata,
    /// Its secrets.
    pub secrets: NewSecrets<'a>,
    /// When its name was allocated.
    pub created_at: Timestamp,
}

/// The secrets of an inbox, as they are written.
#[derive(Clone, Copy, Debug)]
pub struct NewSecrets<'a> {
    /// What Dovecot checks a password against.
    pub password_hash: &'a PasswordHash,
    /// The recoverable copy, sealed; none if the service keeps none.
    pub sealed_password: Option<&'a [u8]>,
}

/// The secrets of an inbox, as they are read.
#[derive(Debug)]
pub struct Secrets {
    /// What Dovecot checks a password against.
    pub password_hash: PasswordHash,
    /// The recoverable password, sealed; none if the service keeps none.
    pub sealed_password: Option<Vec<u8>>,
}

/// Which inboxes of a tenant to list.
#[derive(Clone, Debug, Default)]
pub struct InboxFilter {
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those whose canonical address has this local part.
    pub username: Option<LocalPart>,
    /// Only the one that has this address, canonical or not.
    pub email: Option<Address>,
    /// Only those older than this one.
    pub before: Option<InboxId>,
}

/// A page of a list of inboxes.
#[derive(Debug)]
pub struct InboxPage {
    /// The inboxes.
    pub inboxes: Vec<Inbox>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// Which inboxes to look for, beyond what an index finds.
#[derive(Clone, Debug, Default)]
pub struct InboxSearch {
    /// Only those whose canonical address is at this domain.
    pub domain: Option<DomainName>,
    /// Only those whose canonical local part or display name holds this.
    pub text: Option<SearchText>,
}

impl InboxSearch {
    /// Whether it leaves out anything.
    pub fn is_some(&self) -> bool {
        self.domain.is_some() || self.text.is_some()
    }
}

/// What one step of a search found.
#[derive(Debug)]
pub struct FoundInboxes {
    /// Newest first.
    pub inboxes: Vec<Inbox>,
    /// Whether there are more behind them, before the search stopped.
    pub more: bool,
    /// Where the search stopped before it had read all; none if it has.
    pub stopped_at: Option<InboxId>,
}

/// Inboxes that one step of a search reads at most.
pub const SEARCHED_MAX: u32 = 10_000;

/// One address of one inbox: an inbox comes as several rows, one behind the other.
#[derive(FromRow)]
struct InboxRow {
    id: Uuid,
    tenant_id: Uuid,
    workspace_id: Uuid,
    local_part: String,
    domain: String,
    requested_local_part: Option<String>,
    display_name: Option<String>,
    metadata: String,
    created_at: i64,
    acknowledged_at: Option<i64>,
    address_local_part: String,
    address_domain: String,
    primary_since: Option<i64>,
}

impl InboxRow {
    fn address(&self) -> Result<InboxAddress, Error> {
        let address = parse_address(&self.address_local_part, &self.address_domain)?;
        Ok(InboxAddress {
            address,
            is_primary: self.primary_since.is_some(),
        })
    }

    fn parse(self) -> Result<Inbox, Error> {
        let what = "an inbox";
        Ok(Inbox {
            id: InboxId(self.id),
            tenant: TenantId(self.tenant_id),
            workspace: WorkspaceId(self.workspace_id),
            canonical: parse_address(&self.local_part, &self.domain)?,
            requested: self
                .requested_local_part
                .as_deref()
                .map(LocalPart::parse)
                .transpose()
                .map_err(Error::row(what))?,
            display_name: self
                .display_name
                .as_deref()
                .map(DisplayName::parse_stored)
                .transpose()
                .map_err(Error::row(what))?,
            metadata: Metadata::from_json(&self.metadata).map_err(Error::row(what))?,
            addresses: vec![self.address()?],
            created_at: Timestamp::from_micros(self.created_at),
            acknowledged_at: self.acknowledged_at.map(Timestamp::from_micros),
        })
    }
}

fn parse_rows(rows: Vec<InboxRow>) -> Result<Vec<Inbox>, Error> {
    let mut inboxes: Vec<Inbox> = Vec::new();
    for row in rows {
        match inboxes.last_mut().filter(|inbox| inbox.id.0 == row.id) {
            Some(inbox) => inbox.addresses.push(row.address()?),
            None => inboxes.push(row.parse()?),
        }
    }
    Ok(inboxes)
}

/// Inboxes with all their addresses, the primary one first: `$where` picks from `inboxes`. The metadata, which may be large,
/// comes with the primary address alone.
macro_rules! select_inboxes {
    ($where:literal) => {
        concat!(
            "SELECT i.id, i.tenant_id, i.workspace_id, i.local_part, i.domain, i.requested_local_part, i.display_name,
                 CASE WHEN a.primary_since IS NULL THEN '' ELSE i.metadata END AS metadata, i.created_at,
                 i.acknowledged_at,
                 a.local_part AS address_local_part, a.domain AS address_domain, a.primary_since
             FROM (SELECT * FROM inboxes WHERE deleted_at IS NULL AND ",
            $where,
            ") i JOIN addresses a ON a.inbox_id = i.id
             ORDER BY i.id DESC, (a.primary_since IS NULL), a.domain, a.local_part"
        )
    };
}

/// Gives a statement that lists inboxes its values: the same numbers for each, whichever of them it uses.
macro_rules! bound {
    ($query:expr, $tenant:expr, $filter:expr, $limit:expr) => {
        $query
            .bind($tenant.0)
            .bind($filter.before.map_or(Uuid::max(), |id| id.0))
            .bind($limit)
            .bind($filter.workspace.map(|workspace| workspace.0))
            .bind($filter.username.as_ref().map(LocalPart::as_str))
            .bind($filter.email.as_ref().map(|email| email.domain.as_str()))
            .bind($filter.email.as_ref().map(|email| email.local_part.as_str()))
    };
}

/// A search for inboxes with its places bound.
macro_rules! bound_search {
    ($query:expr, $asked:expr, $filter:expr, $search:expr, $limit:expr) => {
        $query
            .bind($asked.0)
            .bind($asked.1)
            .bind(i64::from($asked.2))
            .bind($limit)
            .bind($asked.3.0)
            .bind($search.domain.as_ref().map(DomainName::as_str))
            .bind($search.text.as_ref().map(SearchText::like_pattern))
            .bind($filter.username.as_ref().map(LocalPart::as_str))
            .bind($filter.email.as_ref().map(|email| email.domain.as_str()))
            .bind($filter.email.as_ref().map(|email| email.local_part.as_str()))
    };
}

/// Octets of an inbox in a list beside its metadata and its addresses, about.
const INBOX_OCTETS: usize = 600;
/// Octets of an address in a list, about.
const ADDRESS_OCTETS: usize = 80;

/// How many of the inboxes with these sizes, of their metadata and in addresses, fit into a page: at least one.
fn fitting(sizes: &[(i32, i64)], inboxes_max: usize, octets_max: usize) -> usize {
    let mut octets = 0_usize;
    let fit = sizes
        .iter()
        .take(inboxes_max)
        .take_while(|&&(metadata, addresses)| {
            let metadata = usize::try_from(metadata).unwrap_or(0);
            let addresses = usize::try_from(addresses).unwrap_or(0);
            octets =
                octets.saturating_add(INBOX_OCTETS + metadata + addresses.saturating_mul(ADDRESS_OCTETS));
            octets <= octets_max
        });
    fit.count().max(1)
}

impl Tx {
    /// A live inbox.
    pub async fn inbox(&mut self, id: InboxId) -> Result<Option<Inbox>, Error> {
        let rows: Vec<InboxRow> = on!(self, db => sqlx::query_as(select_inboxes!("id = $1"))
            .bind(id.0)
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("read an inbox"))?;
        Ok(parse_rows(rows)?.pop())
    }

    /// Whose these inboxes are, in any order; those without a row are left out. A deleted one has a row until that is
    /// removed. At most [`ROWS_MAX`] inboxes.
    pub async fn tenants_of(&mut self, inboxes: &[InboxId]) -> Result<Vec<(InboxId, TenantId)>, Error> {
        if inboxes.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT id, tenant_id FROM inboxes WHERE id IN ({})",
            values::list(inboxes.len(), 1)
        );
        let rows: Vec<(Uuid, Uuid)> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(inboxes.len()));
            for inbox in inboxes {
                query = query.bind(inbox.0);
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look up whose inboxes are"))?;
        let parse = |(inbox, tenant)| (InboxId(inbox), TenantId(tenant));
        Ok(rows.into_iter().map(parse).collect())
    }

    /// The live inbox whose canonical address this is.
    pub async fn inbox_at(&mut self, address: &Address) -> Result<Option<Inbox>, Error> {
        let rows: Vec<InboxRow> = on!(self, db => sqlx::query_as(select_inboxes!(
                "domain = $1 AND local_part = $2
                 AND id = (SELECT inbox_id FROM addresses WHERE domain = $1 AND local_part = $2)"
            ))
            .bind(address.domain.as_str())
            .bind(address.local_part.as_str())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("look up the inbox at an address"))?;
        Ok(parse_rows(rows)?.pop())
    }

    /// The oldest live inbox of a tenant, or of one of its workspaces, that was requested under this name at
    /// this domain.
    pub async fn inbox_requested_as(
        &mut self,
        tenant: TenantId,
        workspace: Option<WorkspaceId>,
        requested: &Address,
    ) -> Result<Option<Inbox>, Error> {
        let sql = match workspace {
            None => {
                select_inboxes!(
                    "id = (SELECT id FROM inboxes WHERE tenant_id = $1 AND domain = $2
                     AND requested_local_part = $3 AND deleted_at IS NULL ORDER BY id LIMIT 1)"
                )
            }
            Some(_) => {
                select_inboxes!(
                    "id = (SELECT id FROM inboxes WHERE tenant_id = $1 AND domain = $2
                     AND requested_local_part = $3 AND deleted_at IS NULL AND workspace_id = $4 ORDER BY id LIMIT 1)"
                )
            }
        };
        let rows: Vec<InboxRow> = on!(self, db => {
            let query = sqlx::query_as(sql)
                .bind(tenant.0)
                .bind(requested.domain.as_str())
                .bind(requested.local_part.as_str());
            match workspace {
                Some(workspace) => query.bind(workspace.0).fetch_all(db).await,
                None => query.fetch_all(db).await,
            }
        })
        .map_err(Error::while_doing("look up an inbox by its requested name"))?;
        Ok(parse_rows(rows)?.pop())
    }

    /// The oldest live inboxes of a workspace at a domain that no username was asked for and no 201 was sent
    /// for.
    pub async fn unfinished_unnamed_inboxes(
        &mut self,
        workspace: WorkspaceId,
        domain: &DomainName,
        limit: u32,
    ) -> Result<Vec<Inbox>, Error> {
        let rows: Vec<InboxRow> = on!(self, db => sqlx::query_as(select_inboxes!(
                "id IN (SELECT id FROM inboxes WHERE workspace_id = $1 AND domain = $2 AND requested_local_part IS NULL
                 AND acknowledged_at IS NULL AND deleted_at IS NULL ORDER BY id LIMIT $3)"
            ))
            .bind(workspace.0)
            .bind(domain.as_str())
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("look up unfinished inboxes"))?;
        parse_rows(rows)
    }

    /// A page of a tenant's live inboxes, newest first: at most `limit`, and as many as about `octets_max` octets have room
    /// for, but at least one.
    pub async fn inboxes(
        &mut self,
        tenant: TenantId,
        filter: &InboxFilter,
        limit: u32,
        octets_max: usize,
    ) -> Result<InboxPage, Error> {
        // Assembled from literals only; the numbers of the places are fixed, whichever of them a filter uses.
        let mut conditions = vec!["tenant_id = $1 AND id < $2"];
        if filter.workspace.is_some() {
            conditions.push("workspace_id = $4");
        }
        if filter.username.is_some() {
            // By name first, whatever else is asked for: a name has few inboxes, a workspace may have many.
            conditions.push(
                "id IN (SELECT n.id FROM inboxes n
                 WHERE n.tenant_id = $1 AND n.local_part = $5 AND n.deleted_at IS NULL)",
            );
        }
        if filter.email.is_some() {
            conditions.push("id = (SELECT inbox_id FROM addresses WHERE domain = $6 AND local_part = $7)");
        }
        let conditions = conditions.join(" AND ");
        // Sizes first: rows are read ahead, and those that do not fit would be held meanwhile.
        let sql = format!(
            "SELECT LENGTH(metadata), (SELECT COUNT(*) FROM addresses a WHERE a.inbox_id = inboxes.id)
             FROM inboxes WHERE deleted_at IS NULL AND {conditions} ORDER BY id DESC LIMIT $3"
        );
        let sizes: Vec<(i32, i64)> =
            on!(self, db => bound!(sqlx::query_as(AssertSqlSafe(sql)), tenant, filter, i64::from(limit) + 1)
            .fetch_all(db)
            .await)
            .map_err(Error::while_doing("measure a list of inboxes"))?;
        let fit = fitting(&sizes, limit as usize, octets_max);
        let sql = select_inboxes!("\u{1} ORDER BY id DESC LIMIT $3").replace('\u{1}', &conditions);
        let limit = i64::try_from(fit).unwrap_or(i64::MAX);
        let rows: Vec<InboxRow> =
            on!(self, db => bound!(sqlx::query_as(AssertSqlSafe(sql)), tenant, filter, limit)
            .fetch_all(db)
            .await)
            .map_err(Error::while_doing("list inboxes"))?;
        Ok(InboxPage {
            inboxes: parse_rows(rows)?,
            more: sizes.len() > fit,
        })
    }

    /// Looks for a tenant's live inboxes, newest first, among the next `window` that the filter leaves: at most `limit`, and as
    /// many as fit into `octets_max` of a list.
    pub async fn search_inboxes(
        &mut self,
        tenant: TenantId,
        filter: &InboxFilter,
        search: &InboxSearch,
        limit: u32,
        octets_max: usize,
        window: u32,
    ) -> Result<FoundInboxes, Error> {
        // The index of the narrowest owner bounds what is read.
        let scope = if filter.workspace.is_some() {
            "workspace_id = $1"
        } else {
            "tenant_id = $1"
        };
        let owner = filter.workspace.map_or(tenant.0, |workspace| workspace.0);
        let before = filter.before.map_or(Uuid::max(), |id| id.0);
        let end = format!(
            "SELECT id FROM inboxes WHERE {scope} AND id < $2 AND deleted_at IS NULL ORDER BY id DESC LIMIT 1 OFFSET $3"
        );
        let stopped_at: Option<Uuid> = on!(self, db => sqlx::query_scalar(AssertSqlSafe(end))
            .bind(owner)
            .bind(before)
            .bind(i64::from(window) - 1)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("find where a search stops"))?;

        // Assembled from literals only; the numbers of the places are fixed, whichever of them a filter uses.
        let mut conditions = vec!["tenant_id = $5".to_owned()];
        let mut wanted = vec!["1 = 1"];
        if search.domain.is_some() {
            wanted.push("page.domain = $6");
        }
        if search.text.is_some() {
            wanted
                .push("(page.local_part LIKE $7 ESCAPE '!' OR lower(page.display_name) LIKE $7 ESCAPE '!')");
        }
        conditions.push(format!(
            "id IN (SELECT page.id FROM (SELECT id, domain, local_part, display_name FROM inboxes WHERE {scope} AND id < $2
             AND deleted_at IS NULL ORDER BY id DESC LIMIT $3) page WHERE {})",
            wanted.join(" AND ")
        ));
        if filter.username.is_some() {
            conditions.push("local_part = $8".to_owned());
        }
        if filter.email.is_some() {
            conditions.push(
                "id = (SELECT inbox_id FROM addresses WHERE domain = $9 AND local_part = $10)".to_owned(),
            );
        }
        let conditions = conditions.join(" AND ");
        let asked = (owner, before, window, tenant);
        let sql = format!(
            "SELECT LENGTH(metadata), (SELECT COUNT(*) FROM addresses a WHERE a.inbox_id = inboxes.id)
             FROM inboxes WHERE deleted_at IS NULL AND {conditions} ORDER BY id DESC LIMIT $4"
        );
        let sizes: Vec<(i32, i64)> =
            on!(self, db => bound_search!(sqlx::query_as(AssertSqlSafe(sql)), asked, filter, search, i64::from(limit) + 1)
            .fetch_all(db)
            .await)
            .map_err(Error::while_doing("measure what a search found"))?;
        let fit = fitting(&sizes, limit as usize, octets_max);
        let sql = select_inboxes!("\u{1} ORDER BY id DESC LIMIT $4").replace('\u{1}', &conditions);
        let limit = i64::try_from(fit).unwrap_or(i64::MAX);
        let rows: Vec<InboxRow> =
            on!(self, db => bound_search!(sqlx::query_as(AssertSqlSafe(sql)), asked, filter, search, limit)
            .fetch_all(db)
            .await)
            .map_err(Error::while_doing("search inboxes"))?;
        Ok(FoundInboxes {
            inboxes: parse_rows(rows)?,
            more: sizes.len() > fit,
            stopped_at: stopped_at.map(InboxId),
        })
    }

    /// Writes a new inbox. Its canonical address is claimed beside it.
    pub async fn insert_inbox(&mut self, new: &NewInbox<'_>) -> Result<(), Error> {
        let doing = "insert an inbox";
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO inboxes (id, tenant_id, workspace_id, local_part, domain, requested_local_part, display_name,
                     metadata, password_hash, sealed_password, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .bind(new.id.0)
            .bind(new.tenant.0)
            .bind(new.workspace.0)
            .bind(new.canonical.local_part.as_str())
            .bind(new.canonical.domain.as_str())
            .bind(new.requested.map(LocalPart::as_str))
            .bind(new.display_name.map(DisplayName::as_str))
            .bind(new.metadata.to_json())
            .bind(new.secrets.password_hash.as_str())
            .bind(new.secrets.sealed_password)
            .bind(new.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// The secrets of a live inbox.
    pub async fn inbox_secrets(&mut self, id: InboxId) -> Result<Option<Secrets>, Error> {
        let row: Option<(String, Option<Vec<u8>>)> = on!(self, db => sqlx::query_as(
                "SELECT password_hash, sealed_password FROM inboxes WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("read the secrets of an inbox"))?;
        row.map(|(hash, sealed_password)| {
            Ok(Secrets {
                password_hash: PasswordHash::parse(&hash).map_err(Error::row("the secrets of an inbox"))?,
                sealed_password,
            })
        })
        .transpose()
    }

    /// Replaces the secrets of a live inbox and begins a new generation of its credentials. `false` if there is no such
    /// inbox.
    pub async fn renew_secrets(&mut self, id: InboxId, secrets: NewSecrets<'_>) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE inboxes SET password_hash = $2, sealed_password = $3,
                     credential_generation = credential_generation + 1 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(secrets.password_hash.as_str())
            .bind(secrets.sealed_password)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("renew the secrets of an inbox"))?;
        Ok(rows == 1)
    }

    /// Begins a new generation of the credentials of all of a tenant's live inboxes, with their passwords as they are:
    /// submission sessions that are open belong to the one before.
    pub async fn begin_credential_generation(&mut self, tenant: TenantId) -> Result<(), Error> {
        on!(self, db => sqlx::query(
                "UPDATE inboxes SET credential_generation = credential_generation + 1
                 WHERE tenant_id = $1 AND deleted_at IS NULL",
            )
            .bind(tenant.0)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing("begin a generation of credentials"))
    }

    /// Writes the display name and metadata of a live inbox.
    pub async fn describe_inbox(
        &mut self,
        id: InboxId,
        display_name: Option<&DisplayName>,
        metadata: &Metadata,
    ) -> Result<(), Error> {
        let doing = "describe an inbox";
        let rows = on!(self, db => sqlx::query(
                "UPDATE inboxes SET display_name = $2, metadata = $3 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(display_name.map(DisplayName::as_str))
            .bind(metadata.to_json())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Notes that the 201 of these inboxes was sent; the first note of an inbox stays.
    pub async fn acknowledge_inboxes(&mut self, ids: &[InboxId], now: Timestamp) -> Result<(), Error> {
        for ids in ids.chunks(ROWS_MAX) {
            let sql = format!(
                "UPDATE inboxes SET acknowledged_at = $1 WHERE acknowledged_at IS NULL AND id IN ({})",
                values::list(ids.len(), 2)
            );
            on!(self, db => {
                let mut query = sqlx::query(AssertSqlSafe(sql))
                    .persistent(values::is_kept(ids.len()))
                    .bind(now.as_micros());
                for id in ids {
                    query = query.bind(id.0);
                }
                query.execute(db).await.map(drop)
            })
            .map_err(Error::while_doing("acknowledge inboxes"))?;
        }
        Ok(())
    }

    /// The addresses of the owner's live inboxes, and of each whether it is the canonical one.
    pub async fn addresses_of(&mut self, owner: Owner) -> Result<Vec<(Address, bool)>, Error> {
        macro_rules! select_addresses {
            ($owned:literal) => {
                concat!(
                    "SELECT a.local_part, a.domain,
                         CASE WHEN a.local_part = i.local_part AND a.domain = i.domain THEN 1 ELSE 0 END
                     FROM inboxes i JOIN addresses a ON a.inbox_id = i.id WHERE i.deleted_at IS NULL AND ",
                    $owned
                )
            };
        }
        let sql = match owner {
            Owner::Tenant(_) => select_addresses!("i.tenant_id = $1"),
            Owner::Workspace(_) => select_addresses!("i.workspace_id = $1"),
            Owner::Inbox(_) => select_addresses!("i.id = $1"),
        };
        let rows: Vec<(String, String, i32)> =
            on!(self, db => sqlx::query_as(sql).bind(owner.id()).fetch_all(db).await)
                .map_err(Error::while_doing("list the addresses of inboxes"))?;
        rows.iter()
            .map(|(local_part, domain, is_canonical)| {
                Ok((parse_address(local_part, domain)?, *is_canonical != 0))
            })
            .collect()
    }

    /// Deletes the owner's live inboxes: their addresses become tombstones of their workspaces, their sealed passwords are
    /// wiped.
    /// Returns the addresses that were theirs and how many inboxes there were.
    pub async fn delete_inboxes_of(
        &mut self,
        owner: Owner,
        held_until: Timestamp,
        now: Timestamp,
    ) -> Result<(Vec<Address>, u32), Error> {
        let (bury, delete) = match owner {
            Owner::Tenant(_) => (
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $2,
                 held_for = (SELECT workspace_id FROM inboxes i WHERE i.id = addresses.inbox_id) WHERE inbox_id IN
                 (SELECT id FROM inboxes WHERE tenant_id = $1 AND deleted_at IS NULL) RETURNING local_part, domain",
                "UPDATE inboxes SET deleted_at = $2, sealed_password = NULL WHERE tenant_id = $1 AND deleted_at IS NULL",
            ),
            Owner::Workspace(_) => (
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $2,
                 held_for = (SELECT workspace_id FROM inboxes i WHERE i.id = addresses.inbox_id) WHERE inbox_id IN
                 (SELECT id FROM inboxes WHERE workspace_id = $1 AND deleted_at IS NULL) RETURNING local_part, domain",
                "UPDATE inboxes SET deleted_at = $2, sealed_password = NULL WHERE workspace_id = $1 AND deleted_at IS NULL",
            ),
            Owner::Inbox(_) => (
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $2,
                 held_for = (SELECT workspace_id FROM inboxes WHERE id = $1) WHERE inbox_id = $1
                 RETURNING local_part, domain",
                "UPDATE inboxes SET deleted_at = $2, sealed_password = NULL WHERE id = $1 AND deleted_at IS NULL",
            ),
        };
        let rows: Vec<(String, String)> = on!(self, db => sqlx::query_as(bury)
            .bind(owner.id())
            .bind(held_until.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("turn addresses into tombstones"))?;
        let deleted = on!(self, db => sqlx::query(delete)
            .bind(owner.id())
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("delete inboxes"))?;
        let addresses = rows
            .iter()
            .map(|(local_part, domain)| parse_address(local_part, domain))
            .collect::<Result<_, _>>()?;
        Ok((addresses, u32::try_from(deleted).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_as_many_inboxes_as_its_octets_have_room_for_and_at_least_one() {
        assert_eq!(fitting(&[(2, 1); 5], 5, 1_000_000), 5);
        assert_eq!(fitting(&[(2, 1); 6], 5, 1_000_000), 5);
        assert_eq!(fitting(&[(10_000, 1); 5], 5, 25_000), 2);
        assert_eq!(
            fitting(&[(2, 100); 5], 5, 2 * (INBOX_OCTETS + 2 + 100 * ADDRESS_OCTETS)),
            2
        );
        assert_eq!(fitting(&[(50_000, 1), (2, 1)], 5, 25_000), 1);
        // An empty list has no inboxes to read either.
        assert_eq!(fitting(&[], 5, 25_000), 1);
    }
}
