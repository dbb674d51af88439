//! Domains that change hands: registrations that contest a verified one, and what is taken from a holder.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    Error, Tx,
    addresses::parse_address,
    domains::{DomainRow, select_domains},
    on, one_row, values,
};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName},
        domain::{Contest, Domain},
        ids::{DomainId, InboxId, WorkspaceId},
    },
};

/// What was taken from the holder of a domain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Every address of the inboxes that were deleted, because their canonical one was at the domain.
    pub addresses_of_deleted: Vec<Address>,
    /// Addresses at the domain that other inboxes had beside their canonical one.
    pub aliases: Vec<Address>,
    /// Domains whose catch-all was one of the deleted inboxes.
    pub catch_alls: Vec<DomainName>,
    /// How many inboxes were deleted, of each workspace.
    pub inboxes: BTreeMap<WorkspaceId, u32>,
    /// Inboxes that lost their primary address, and their canonical one.
    pub without_primary: Vec<(InboxId, Address)>,
}

/// When contests are to be checked.
#[derive(Clone, Copy, Debug)]
pub struct ContestsDue {
    /// Those that were last checked before this,
    pub checked_before: Timestamp,
    /// and those that began before this, unless they were checked since their notice was over.
    pub begun_before: Timestamp,
    /// How long the notice is, in microseconds.
    pub notice_micros: i64,
}

impl Tx {
    /// The verified registrations of these domains. At most [`super::ROWS_MAX`] names.
    pub async fn verified_domains(&mut self, names: &[DomainName]) -> Result<Vec<Domain>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "{}({})",
            select_domains!("d.verified_at IS NOT NULL AND d.name IN "),
            values::list(names.len(), 1)
        );
        let rows: Vec<DomainRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(false);
            for name in names {
                query = query.bind(name.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look up verified domains"))?;
        rows.into_iter().map(DomainRow::parse).collect()
    }

    /// Writes whether a registration contests another one.
    pub async fn write_contest(&mut self, id: DomainId, contest: Option<Contest>) -> Result<(), Error> {
        let doing = "write whether a registration contests another one";
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET contests = $2, contested_since = $3 WHERE id = $1 AND deleted_at IS NULL",
            )
            .bind(id.0)
            .bind(contest.map(|contest| contest.holder.0))
            .bind(contest.map(|contest| contest.since.as_micros()))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Ends all contests with a holder. Returns how many there were.
    pub async fn end_contests_with(&mut self, holder: DomainId) -> Result<u64, Error> {
        on!(self, db => sqlx::query("UPDATE domains SET contests = NULL, contested_since = NULL WHERE contests = $1")
            .bind(holder.0)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("end the contests with a domain's holder"))
    }

    /// Registrations that contest another one and are to be checked, those that wait the longest first. They are few. One
    /// whose holder has gone is to be checked at once.
    pub async fn contests_due(&mut self, due: ContestsDue, limit: u32) -> Result<Vec<Domain>, Error> {
        let rows: Vec<DomainRow> = on!(self, db => sqlx::query_as(select_domains!(
                "d.contests IS NOT NULL AND (d.checked_at <= $1
                     OR (d.contested_since <= $2 AND d.checked_at < d.contested_since + $3)
                     OR EXISTS (SELECT 1 FROM domains h WHERE h.id = d.contests AND h.deleted_at IS NOT NULL))
                 ORDER BY d.checked_at, d.id LIMIT $4"
            ))
            .bind(due.checked_before.as_micros())
            .bind(due.begun_before.as_micros())
            .bind(due.notice_micros)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list contests to be checked"))?;
        rows.into_iter().map(DomainRow::parse).collect()
    }

    /// Writes that a domain is another registration's from now on, which the mail servers are still to see. `false` if
    /// some registration of it is verified.
    pub async fn take_over_domain(&mut self, id: DomainId, now: Timestamp) -> Result<bool, Error> {
        if !self.verify_domain(id, now).await? {
            return Ok(false);
        }
        let doing = "write that a domain is taken over";
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET contests = NULL, contested_since = NULL, taking_over_since = $2 WHERE id = $1",
            )
            .bind(id.0)
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)?;
        Ok(true)
    }

    /// Domains that were taken over, which the mail servers are still to see.
    pub async fn domains_taking_over(&mut self, limit: u32) -> Result<Vec<Domain>, Error> {
        let rows: Vec<DomainRow> = on!(self, db => sqlx::query_as(select_domains!(
                "d.taking_over_since IS NOT NULL ORDER BY d.taking_over_since, d.id LIMIT $1"
            ))
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list domains that are taken over"))?;
        rows.into_iter().map(DomainRow::parse).collect()
    }

    /// Writes that the mail servers see who has a domain now. `false` if that was known, or there is no such registration.
    pub async fn finish_take_over(&mut self, id: DomainId) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "UPDATE domains SET taking_over_since = NULL
                 WHERE id = $1 AND taking_over_since IS NOT NULL AND deleted_at IS NULL",
            )
            .bind(id.0)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("write that a domain has been taken over"))?;
        Ok(rows == 1)
    }

    /// Takes a domain from its holder: deletes the holder's inboxes whose canonical address is at it, with their keys, and
    /// takes its addresses from the others. No address at the domain is held for anyone; those of the deleted inboxes at
    /// other domains are, until `held_until`.
    ///
    /// The registration itself, and counters, are left to the caller.
    pub async fn take_inboxes_at(
        &mut self,
        holder: &Domain,
        held_until: Timestamp,
        now: Timestamp,
    ) -> Result<Taken, Error> {
        let mut taken = Taken {
            catch_alls: self.clear_catch_alls_at(holder, now).await?,
            ..Taken::default()
        };
        let doing = "delete the inboxes at a domain";
        on!(self, db => sqlx::query(
                "UPDATE api_keys SET revoked_at = $3 WHERE revoked_at IS NULL AND inbox_id IN
                     (SELECT id FROM inboxes WHERE tenant_id = $1 AND domain = $2 AND deleted_at IS NULL)",
            )
            .bind(holder.tenant.0)
            .bind(holder.name.as_str())
            .bind(now.as_micros())
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing(doing))?;
        let addresses: Vec<(String, String)> = on!(self, db => sqlx::query_as(
                "UPDATE addresses SET inbox_id = NULL, left_by = inbox_id, primary_since = NULL, held_until = $3,
                     held_for = (SELECT workspace_id FROM inboxes i WHERE i.id = addresses.inbox_id)
                 WHERE inbox_id IN (SELECT id FROM inboxes WHERE tenant_id = $1 AND domain = $2 AND deleted_at IS NULL)
                 RETURNING local_part, domain",
            )
            .bind(holder.tenant.0)
            .bind(holder.name.as_str())
            .bind(held_until.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing(doing))?;
        taken.addresses_of_deleted = addresses
            .iter()
            .map(|(local_part, domain)| parse_address(local_part, domain))
            .collect::<Result<_, _>>()?;
        let deleted: Vec<Uuid> = on!(self, db => sqlx::query_scalar(
                "UPDATE inboxes SET deleted_at = $3, sealed_password = NULL
                 WHERE tenant_id = $1 AND domain = $2 AND deleted_at IS NULL RETURNING workspace_id",
            )
            .bind(holder.tenant.0)
            .bind(holder.name.as_str())
            .bind(now.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing(doing))?;
        for workspace in deleted {
            *taken.inboxes.entry(WorkspaceId(workspace)).or_default() += 1;
        }
        (taken.aliases, taken.without_primary) = self.leave_domain(&holder.name, now).await?;
        Ok(taken)
    }

    /// Takes the catch-all from every domain that has one of the inboxes at this domain for it. Returns the domains.
    async fn clear_catch_alls_at(
        &mut self,
        holder: &Domain,
        now: Timestamp,
    ) -> Result<Vec<DomainName>, Error> {
        let names: Vec<String> = on!(self, db => sqlx::query_scalar(
                "UPDATE domains SET catch_all_inbox_id = NULL, updated_at = $3
                 WHERE deleted_at IS NULL AND tenant_id = $1 AND catch_all_inbox_id IN
                     (SELECT id FROM inboxes WHERE tenant_id = $1 AND domain = $2 AND deleted_at IS NULL) RETURNING name",
            )
            .bind(holder.tenant.0)
            .bind(holder.name.as_str())
            .bind(now.as_micros())
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("clear the catch-alls at a domain"))?;
        names
            .iter()
            .map(|name| DomainName::parse(name).map_err(Error::row("a domain")))
            .collect()
    }
}
