//! Custom domains. The service's default domain is configuration and has no row.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Owner, Tx, addresses::parse_address, on, one_row, values};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName},
        dkim::SealedSigningKey,
        domain::{Challenge, Contest, Domain, DomainStatus, findings_from_json, findings_to_json},
        ids::{DomainId, InboxId, TenantId, WorkspaceId},
        maps::DomainState,
    },
};

/// Which domains a list or a look-up is about.
#[derive(Clone, Copy, Debug)]
pub struct DomainFilter {
    /// Those of this tenant,
    pub tenant: TenantId,
    /// and of this workspace.
    pub workspace: Option<WorkspaceId>,
}

/// Which of them a list shows.
#[derive(Clone, Copy, Debug)]
pub struct DomainSearch<'a> {
    /// Those with this name.
    pub name: Option<&'a DomainName>,
    /// Those with this status,
    pub status: Option<DomainStatus>,
    /// where registrations that are not proved and at least as old as this have failed.
    pub lapsed_before: Timestamp,
}

#[derive(FromRow)]
pub(super) struct DomainRow {
    id: Uuid,
    tenant_id: Uuid,
    workspace_id: Uuid,
    name: String,
    challenge: String,
    catch_all_inbox_id: Option<Uuid>,
    findings: String,
    created_at: i64,
    updated_at: i64,
    checked_at: Option<i64>,
    verified_at: Option<i64>,
    degraded_since: Option<i64>,
    contests: Option<Uuid>,
    contested_since: Option<i64>,
    taking_over_since: Option<i64>,
    contested_by_another_since: Option<i64>,
}

/// `$where` picks from `domains d`.
macro_rules! select_domains {
    ($where:expr) => {
        concat!(
            "SELECT d.id, d.tenant_id, d.workspace_id, d.name, d.challenge, d.catch_all_inbox_id, d.findings, d.created_at,
                 d.updated_at, d.checked_at, d.verified_at, d.degraded_since, d.contests, d.contested_since, d.taking_over_since,
                 (SELECT MIN(c.contested_since) FROM domains c WHERE c.contests = d.id AND c.deleted_at IS NULL)
                     AS contested_by_another_since
             FROM domains d WHERE d.deleted_at IS NULL AND ",
            $where
        )
    };
}

pub(super) use select_domains;

/// A page of registrations, of one status where it is given. `$more` narrows it, with `$6` and `$7`.
macro_rules! select_page {
    ($more:literal) => {
        select_domains!(concat!(
            "d.tenant_id = $1 AND d.id < $2",
            $more,
            " AND ($4 IS NULL OR $4 = CASE WHEN d.contests IS NOT NULL OR d.taking_over_since IS NOT NULL THEN 'contested'
                 WHEN d.verified_at IS NULL AND d.created_at > $5 THEN 'pending'
                 WHEN d.verified_at IS NULL THEN 'failed' WHEN d.degraded_since IS NULL THEN 'verified'
                 ELSE 'degraded' END) ORDER BY d.id DESC LIMIT $3"
        ))
    };
}

/// Takes the catch-all from the domains that `$owned` picks, notes when (`$when` names the column), and returns their names.
macro_rules! clear_catch_alls {
    ($when:literal, $owned:literal) => {
        concat!(
            "UPDATE domains SET catch_all_inbox_id = NULL, ",
            $when,
            " = $2 WHERE deleted_at IS NULL AND ",
            $owned,
            " RETURNING name"
        )
    };
}

impl DomainRow {
    pub(super) fn parse(self) -> Result<Domain, Error> {
        let what = "a domain";
        let contest = self.contests.zip(self.contested_since);
        Ok(Domain {
            id: DomainId(self.id),
            tenant: TenantId(self.tenant_id),
            workspace: WorkspaceId(self.workspace_id),
            name: DomainName::parse(&self.name).map_err(Error::row(what))?,
            challenge: Challenge::parse(&self.challenge).map_err(Error::row(what))?,
            catch_all: self.catch_all_inbox_id.map(InboxId),
            findings: findings_from_json(&self.findings).map_err(Error::row(what))?,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            checked_at: self.checked_at.map(Timestamp::from_micros),
            verified_at: self.verified_at.map(Timestamp::from_micros),
            degraded_since: self.degraded_since.map(Timestamp::from_micros),
            contest: contest.map(|(holder, since)| Contest {
                holder: DomainId(holder),
                since: Timestamp::from_micros(since),
            }),
            contested_since: self.contested_by_another_since.map(Timestamp::from_micros),
            taking_over_since: self.taking_over_since.map(Timestamp::from_micros),
        })
    }
}

impl Tx {
    /// Whether a workspace has registered a domain: `None` if not, else since when it is verified, if it is, and the mail
    /// servers see that.
    pub async fn domain_of_workspace(
        &mut self,
        workspace: WorkspaceId,
        domain: &DomainName,
    ) -> Result<Option<Option<Timestamp>>, Error> {
        let verified_at: Option<Option<i64>> = on!(self, db => sqlx::query_scalar(
                "SELECT CASE WHEN taking_over_since IS NULL THEN verified_at END FROM domains
                 WHERE workspace_id = $1 AND name = $2 AND deleted_at IS NULL",
            )
            .bind(workspace.0)
            .bind(domain.as_str())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up a domain of a workspace"))?;
        Ok(verified_at.map(|at| at.map(Timestamp::from_micros)))
    }

    /// Writes a new registration. `false` if the workspace has one of this domain already.
    pub async fn insert_domain(&mut self, domain: &Domain) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO domains (id, tenant_id, workspace_id, name, challenge, created_at, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(domain.id.0)
            .bind(domain.tenant.0)
            .bind(domain.workspace.0)
            .bind(domain.name.as_str())
            .bind(domain.challenge.as_str())
            .bind(domain.created_at.as_micros())
            .bind(domain.updated_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("insert a domain"))?;
        Ok(rows == 1)
    }

    /// The registration of a domain that a tenant, or one workspace of it, has: of several the verified one, else one
    /// that is proved, else the newest.
    pub async fn domain_named(
        &mut self,
        filter: DomainFilter,
        name: &DomainName,
    ) -> Result<Option<Domain>, Error> {
        let sql = match filter.workspace {
            None => select_domains!("d.tenant_id = $1 AND d.name = $2"),
            Some(_) => select_domains!("d.tenant_id = $1 AND d.name = $2 AND d.workspace_id = $3"),
        };
        let rows: Vec<DomainRow> = on!(self, db => {
            let query = sqlx::query_as(sql).bind(filter.tenant.0).bind(name.as_str());
            match filter.workspace {
                Some(workspace) => query.bind(workspace.0).fetch_all(db).await,
                None => query.fetch_all(db).await,
            }
        })
        .map_err(Error::while_doing("read a domain"))?;
        let found = rows
            .into_iter()
            .max_by_key(|row| (row.verified_at.is_some(), row.contests.is_some(), row.id));
        found.map(DomainRow::parse).transpose()
    }

    /// A registration.
    pub async fn domain(&mut self, id: DomainId) -> Result<Option<Domain>, Error> {
        let row: Option<DomainRow> = on!(self, db => sqlx::query_as(select_domains!("d.id = $1"))
            .bind(id.0)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("read a domain"))?;
        row.map(DomainRow::parse).transpose()
    }

    /// A page of registrations, newest first, older than the cursor.
    pub async fn domains(
        &mut self,
        filter: DomainFilter,
        search: DomainSearch<'_>,
        before: Option<DomainId>,
        limit: u32,
    ) -> Result<Vec<Domain>, Error> {
        let sql = match (filter.workspace, search.name) {
            (None, None) => select_page!(""),
            (Some(_), None) => select_page!(" AND d.workspace_id = $6"),
            (None, Some(_)) => select_page!(" AND d.name = $6"),
            (Some(_), Some(_)) => select_page!(" AND d.workspace_id = $6 AND d.name = $7"),
        };
        let rows: Vec<DomainRow> = on!(self, db => {
            let mut query = sqlx::query_as(sql)
                .bind(filter.tenant.0)
                .bind(before.map_or(Uuid::max(), |id| id.0))
                .bind(i64::from(limit))
                .bind(search.status.map(DomainStatus::as_str))
                .bind(search.lapsed_before.as_micros());
            if let Some(workspace) = filter.workspace {
                query = query.bind(workspace.0);
            }
            if let Some(name) = search.name {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("list domains"))?;
        rows.into_iter().map(DomainRow::parse).collect()
    }

    /// How many domains count against a tenant's cap: those that are verified, and those that may still be, because they
    /// are proved, or were registered later than this.
    pub async fn count_domains(
        &mut self,
        tenant: TenantId,
        registered_after: Timestamp,
    ) -> Result<u32, Error> {
        let found: i64 = on!(self, db => sqlx::query_scalar(
                "SELECT COUNT(*) FROM domains WHERE tenant_id = $1 AND deleted_at IS NULL
                     AND (verified_at IS NOT NULL OR contests IS NOT NULL OR created_at > $2)",
            )
            .bind(tenant.0)
            .bind(registered_after.as_micros())
            .fetch_one(db)
            .await)
        .map_err(Error::while_doing("count the domains of a tenant"))?;
        Ok(super::count(found))
    }

    /// How many verified domains a tenant has.
    pub async fn count_verified_domains(&mut self, tenant: TenantId) -> Result<u32, Error> {
        let found: i64 = on!(self, db => sqlx::query_scalar(
                "SELECT COUNT(*) FROM domains WHERE tenant_id = $1 AND deleted_at IS NULL AND verified_at IS NOT NULL",
            )
            .bind(tenant.0)
            .fetch_one(db)
            .await)
        .map_err(Error::while_doing("count the verified domains of a tenant"))?;
        Ok(super::count(found))
    }

    /// Writes that a domain's ownership is proved. `false` if somebody else has proved it before.
    pub async fn verify_domain(&mut self, id: DomainId, now: Timestamp) -> Result<bool, Error> {
        let doing = "write that a domain is verified";
        let done = on!(self, db => sqlx::query(
                "UPDATE domains SET verified_at = $2, updated_at = $2 WHERE id = $1 AND deleted_at IS NULL
                     AND NOT EXISTS (SELECT 1 FROM domains o WHERE o.name = domains.name AND o.verified_at IS NOT NULL
                         AND o.deleted_at IS NULL)",
            )
            .bind(id.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()));
        match done {
            Ok(rows) => Ok(rows == 1),
            // In the same moment: the index decides.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(source) => Err(Error::while_doing(doing)(source)),
        }
    }

    /// Writes what DNS said of a domain, and whether it lost something.
    pub async fn write_findings(&mut self, domain: &Domain) -> Result<(), Error> {
        let doing = "write what DNS says of a domain";
        let findings = findings_to_json(&domain.findings).map_err(Error::row("a domain"))?;
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET findings = $2, checked_at = $3, updated_at = $4, degraded_since = $5
                 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(domain.id.0)
            .bind(findings)
            .bind(domain.checked_at.map(Timestamp::as_micros))
            .bind(domain.updated_at.as_micros())
            .bind(domain.degraded_since.map(Timestamp::as_micros))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Begins a lapsed registration anew, with another challenge.
    pub async fn renew_domain(&mut self, domain: &Domain) -> Result<(), Error> {
        let doing = "renew a registration";
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET challenge = $2, created_at = $3, updated_at = $3, checked_at = NULL, findings = '[]'
                 WHERE id = $1 AND verified_at IS NULL AND deleted_at IS NULL",
            )
            .bind(domain.id.0)
            .bind(domain.challenge.as_str())
            .bind(domain.created_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Sets the inbox that gets mail to what is no address of a domain.
    pub async fn set_catch_all(
        &mut self,
        id: DomainId,
        inbox: Option<InboxId>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let doing = "set the catch-all of a domain";
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET catch_all_inbox_id = $2, updated_at = $3 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(inbox.map(|inbox| inbox.0))
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Takes the catch-all from every domain that has an inbox of this owner for it. Returns the domains.
    pub async fn clear_catch_alls_of(
        &mut self,
        owner: Owner,
        now: Timestamp,
    ) -> Result<Vec<DomainName>, Error> {
        let sql = match owner {
            Owner::Tenant(_) => {
                clear_catch_alls!("updated_at", "tenant_id = $1 AND catch_all_inbox_id IS NOT NULL")
            }
            Owner::Workspace(_) => clear_catch_alls!(
                "updated_at",
                "workspace_id = $1 AND catch_all_inbox_id IS NOT NULL"
            ),
            Owner::Inbox(_) => clear_catch_alls!("updated_at", "catch_all_inbox_id = $1"),
        };
        self.names_returned(sql, owner.id(), now, "clear catch-alls")
            .await
    }

    /// Deletes the domains of an owner, which an inbox has none of. Returns those that were verified.
    pub async fn delete_domains_of(
        &mut self,
        owner: Owner,
        now: Timestamp,
    ) -> Result<Vec<DomainName>, Error> {
        let sql = match owner {
            Owner::Tenant(_) => clear_catch_alls!("deleted_at", "tenant_id = $1"),
            Owner::Workspace(_) => clear_catch_alls!("deleted_at", "workspace_id = $1"),
            Owner::Inbox(_) => return Ok(Vec::new()),
        };
        self.names_returned(sql, owner.id(), now, "delete domains").await
    }

    async fn names_returned(
        &mut self,
        sql: &'static str,
        owner: Uuid,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<Vec<DomainName>, Error> {
        let names: Vec<String> = on!(self, db => sqlx::query_scalar(sql)
            .bind(owner)
            .bind(now.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing(doing))?;
        names
            .iter()
            .map(|name| DomainName::parse(name).map_err(Error::row("a domain")))
            .collect()
    }

    /// Deletes a registration.
    pub async fn delete_domain(&mut self, id: DomainId, now: Timestamp) -> Result<(), Error> {
        let doing = "delete a domain";
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET deleted_at = $2, catch_all_inbox_id = NULL WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// How many live inboxes have their canonical address at a domain.
    pub async fn count_inboxes_at(&mut self, tenant: TenantId, domain: &DomainName) -> Result<u32, Error> {
        let found: i64 = on!(self, db => sqlx::query_scalar(
                "SELECT COUNT(*) FROM addresses a JOIN inboxes i ON i.id = a.inbox_id AND i.domain = a.domain
                     AND i.local_part = a.local_part WHERE a.domain = $2 AND i.tenant_id = $1",
            )
            .bind(tenant.0)
            .bind(domain.as_str())
            .fetch_one(db)
            .await)
        .map_err(Error::while_doing("count the inboxes at a domain"))?;
        Ok(super::count(found))
    }

    /// Takes every address of a domain from the inboxes that have it, and leaves no hold on any, because whoever owns the
    /// domain next gets all of its names. Returns the addresses that were in use, and the inboxes of which one was
    /// primary, with their canonical addresses.
    pub async fn leave_domain(
        &mut self,
        domain: &DomainName,
        now: Timestamp,
    ) -> Result<(Vec<Address>, Vec<(InboxId, Address)>), Error> {
        let doing = "take the addresses of a domain from inboxes";
        let rows: Vec<(Uuid, String, String)> = on!(self, db => sqlx::query_as(
                "SELECT i.id, i.local_part, i.domain FROM addresses a JOIN inboxes i ON i.id = a.inbox_id
                 WHERE a.domain = $1 AND a.primary_since IS NOT NULL",
            )
            .bind(domain.as_str())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing(doing))?;
        let without_primary = rows
            .iter()
            .map(|(id, local_part, domain)| Ok((InboxId(*id), parse_address(local_part, domain)?)))
            .collect::<Result<_, Error>>()?;
        on!(self, db => sqlx::query("UPDATE addresses SET held_until = $2 WHERE domain = $1 AND inbox_id IS NULL")
            .bind(domain.as_str())
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing(doing))?;
        let left: Vec<String> = on!(self, db => sqlx::query_scalar(
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $2
                 WHERE domain = $1 AND inbox_id IS NOT NULL RETURNING local_part",
            )
            .bind(domain.as_str())
            .bind(now.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing(doing))?;
        let left = left
            .iter()
            .map(|local_part| parse_address(local_part, domain.as_str()))
            .collect::<Result<_, _>>()?;
        Ok((left, without_primary))
    }

    /// What the maps should say of those of these domains that are served: that some workspace has verified, or that
    /// is the default domain. At most [`super::ROWS_MAX`] names.
    pub async fn domain_states(
        &mut self,
        names: &[&DomainName],
        default_domain: &DomainName,
    ) -> Result<HashMap<DomainName, DomainState>, Error> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT d.name, i.local_part, i.domain FROM domains d LEFT JOIN inboxes i ON i.id = d.catch_all_inbox_id
                 AND i.deleted_at IS NULL
             WHERE d.verified_at IS NOT NULL AND d.deleted_at IS NULL AND d.name IN ({})",
            values::list(names.len(), 1)
        );
        let rows: Vec<StateRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(names.len()));
            for name in names {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("read what the maps should say of domains"))?;
        let keys = self.signing_keys(Some(names)).await?;
        let default_domain = names.contains(&default_domain).then_some(default_domain);
        states(rows, keys, default_domain)
    }

    /// The same of every domain that is served.
    pub async fn all_domain_states(
        &mut self,
        default_domain: &DomainName,
    ) -> Result<HashMap<DomainName, DomainState>, Error> {
        let rows: Vec<StateRow> = on!(self, db => sqlx::query_as(
                "SELECT d.name, i.local_part, i.domain FROM domains d LEFT JOIN inboxes i ON i.id = d.catch_all_inbox_id
                     AND i.deleted_at IS NULL
                 WHERE d.verified_at IS NOT NULL AND d.deleted_at IS NULL ORDER BY d.name",
            )
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list what the maps should say of domains"))?;
        let keys = self.signing_keys(None).await?;
        states(rows, keys, Some(default_domain))
    }

    /// Verified domains that were last checked before this, those that wait the longest first.
    pub async fn domains_to_check(
        &mut self,
        checked_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<Domain>, Error> {
        let rows: Vec<DomainRow> = on!(self, db => sqlx::query_as(select_domains!(
                "d.verified_at IS NOT NULL AND d.checked_at <= $1 ORDER BY d.checked_at, d.id LIMIT $2"
            ))
            .bind(checked_before.as_micros())
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list domains to be checked"))?;
        rows.into_iter().map(DomainRow::parse).collect()
    }
}

/// A verified domain, and the canonical address of its catch-all.
type StateRow = (String, Option<String>, Option<String>);

/// What the maps should say of verified domains, and of the default one, if it is asked for. It has no row, unless it was
/// somebody's own before it became the default one; its keys are its own in either case.
fn states(
    rows: Vec<StateRow>,
    mut keys: HashMap<Option<DomainName>, Vec<SealedSigningKey>>,
    default_domain: Option<&DomainName>,
) -> Result<HashMap<DomainName, DomainState>, Error> {
    let mut catch_alls: HashMap<DomainName, Option<Address>> = HashMap::with_capacity(rows.len() + 1);
    catch_alls.extend(default_domain.map(|name| (name.clone(), None)));
    for (name, local_part, domain) in rows {
        let name = DomainName::parse(&name).map_err(Error::row("a domain"))?;
        let catch_all = match (local_part, domain) {
            (Some(local_part), Some(domain)) => Some(parse_address(&local_part, &domain)?),
            _ => None,
        };
        catch_alls.insert(name, catch_all);
    }
    let state = |(name, catch_all): (DomainName, _)| {
        let of = Some(name.clone()).filter(|name| Some(name) != default_domain);
        let keys = keys.remove(&of).unwrap_or_default();
        (name, DomainState::Served { catch_all, keys })
    };
    Ok(catch_alls.into_iter().map(state).collect())
}
