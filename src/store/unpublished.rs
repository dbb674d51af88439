//! What is still to be published: keys of the maps whose published state may be behind the store.

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Owner, ROWS_MAX, Tx, addresses::parse_address, on, values};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName},
        maps::MapKey,
    },
};

/// Marks looked at in one go; as many as [`ROWS_MAX`].
const MARKS_AT_ONCE: u32 = 256;

/// Whether open sessions of a login have to be ended when its key is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionsToEnd {
    /// Sessions may go on.
    None,
    /// Sessions opened with credentials that no longer hold have to end.
    All,
}

/// A key that is to be published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The key.
    pub key: MapKey,
    /// Tells this marking of the key from later ones.
    pub mark: Uuid,
    /// What to do about open sessions.
    pub sessions: SessionsToEnd,
}

#[derive(FromRow)]
struct PendingRow {
    map_key: String,
    mark: Uuid,
    end_sessions_since: Option<i64>,
}

impl PendingRow {
    fn parse(self) -> Result<Pending, Error> {
        Ok(Pending {
            key: MapKey::parse(&self.map_key).map_err(Error::row("a key of the maps"))?,
            mark: self.mark,
            sessions: self
                .end_sessions_since
                .map_or(SessionsToEnd::None, |_| SessionsToEnd::All),
        })
    }
}

impl Tx {
    /// Marks a key as to be published, in the transaction of the change. Sessions that were to be ended before
    /// still are.
    pub async fn mark_unpublished(
        &mut self,
        key: &MapKey,
        mark: Uuid,
        sessions: SessionsToEnd,
        now: Timestamp,
    ) -> Result<(), Error> {
        let end_sessions_since = (sessions == SessionsToEnd::All).then_some(now.as_micros());
        on!(self, db => sqlx::query(
                "INSERT INTO unpublished (map_key, mark, end_sessions_since) VALUES ($1, $2, $3)
                 ON CONFLICT (map_key) DO UPDATE SET mark = excluded.mark,
                     end_sessions_since = COALESCE(unpublished.end_sessions_since, excluded.end_sessions_since)",
            )
            .bind(key.to_string())
            .bind(mark)
            .bind(end_sessions_since)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing("mark a key of the maps as unpublished"))
    }

    /// The markings of these keys, of those that are still to be published. At most [`ROWS_MAX`] keys.
    pub async fn unpublished_keys(&mut self, keys: &[MapKey]) -> Result<Vec<Pending>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT map_key, mark, end_sessions_since FROM unpublished WHERE map_key IN ({})",
            values::list(keys.len(), 1)
        );
        let rows: Vec<PendingRow> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(keys.len()));
            for key in keys {
                query = query.bind(key.to_string());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("look up unpublished keys of the maps"))?;
        rows.into_iter().map(PendingRow::parse).collect()
    }

    /// A page of the keys that are to be published, the oldest marks first, behind the given mark.
    pub async fn unpublished(&mut self, after: Option<Uuid>, limit: u32) -> Result<Vec<Pending>, Error> {
        let rows: Vec<PendingRow> = on!(self, db => sqlx::query_as(
                "SELECT map_key, mark, end_sessions_since FROM unpublished WHERE mark > $1 ORDER BY mark LIMIT $2",
            )
            .bind(after.unwrap_or(Uuid::nil()))
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)
        .map_err(Error::while_doing("list the unpublished keys of the maps"))?;
        rows.into_iter().map(PendingRow::parse).collect()
    }

    /// The addresses of an owner's inboxes, those that they left included, and the domains of its workspaces or of the
    /// inbox's, that are still to be published: what a call left undone whose caller was told to try again. It takes a
    /// look at every mark, of which there are few.
    pub async fn unpublished_of(&mut self, owner: Owner) -> Result<Vec<MapKey>, Error> {
        let mut found = Vec::new();
        let mut after = None;
        while let Some(marked) = self.next_marked(&mut after).await? {
            let (mut addresses, mut domains) = (Vec::new(), Vec::new());
            for pending in marked {
                match pending.key {
                    MapKey::Address(address) => addresses.push(address),
                    MapKey::Domain(domain) => domains.push(domain),
                }
            }
            found.extend(
                self.owned(owner, &addresses)
                    .await?
                    .into_iter()
                    .map(MapKey::Address),
            );
            found.extend(
                self.owned_domains(owner, &domains)
                    .await?
                    .into_iter()
                    .map(MapKey::Domain),
            );
        }
        Ok(found)
    }

    /// The marks behind this one, some at a time; none when all have been seen.
    async fn next_marked(&mut self, after: &mut Option<Uuid>) -> Result<Option<Vec<Pending>>, Error> {
        let marked = self.unpublished(*after, MARKS_AT_ONCE).await?;
        let Some(last) = marked.last() else {
            return Ok(None);
        };
        *after = Some(last.mark);
        Ok(Some(marked))
    }

    /// Of these domains, those that a workspace of the owner, or the inbox's, has or had. At most [`ROWS_MAX`] domains.
    async fn owned_domains(
        &mut self,
        owner: Owner,
        domains: &[DomainName],
    ) -> Result<Vec<DomainName>, Error> {
        if domains.is_empty() {
            return Ok(Vec::new());
        }
        let owns = match owner {
            Owner::Tenant(_) => "tenant_id = $1",
            Owner::Workspace(_) => {
                "tenant_id = (SELECT tenant_id FROM workspaces WHERE id = $1) AND workspace_id = $1"
            }
            Owner::Inbox(_) => {
                "(tenant_id, workspace_id) = (SELECT tenant_id, workspace_id FROM inboxes WHERE id = $1)"
            }
        };
        let sql = format!(
            "SELECT DISTINCT name FROM domains WHERE {owns} AND name IN ({})",
            values::list(domains.len(), 2)
        );
        let names: Vec<String> = on!(self, db => {
            let mut query = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).bind(owner.id());
            for domain in domains {
                query = query.bind(domain.as_str());
            }
            query.fetch_all(db).await
        })
        .map_err(Error::while_doing("list which domains an owner has unpublished"))?;
        names
            .iter()
            .map(|name| DomainName::parse(name).map_err(Error::row("a domain")))
            .collect()
    }

    /// A domain, and addresses at it, that are still to be published. It takes a look at every mark.
    pub async fn unpublished_at(&mut self, domain: &DomainName) -> Result<Vec<MapKey>, Error> {
        let mut found = Vec::new();
        let mut after = None;
        while let Some(marked) = self.next_marked(&mut after).await? {
            found.extend(
                marked
                    .into_iter()
                    .map(|pending| pending.key)
                    .filter(|key| match key {
                        MapKey::Address(address) => address.domain == *domain,
                        MapKey::Domain(name) => name == domain,
                    }),
            );
        }
        Ok(found)
    }

    /// Of these addresses, those that an inbox of the owner has or left. At most [`ROWS_MAX`] addresses.
    async fn owned(&mut self, owner: Owner, addresses: &[Address]) -> Result<Vec<Address>, Error> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let owns = match owner {
            Owner::Tenant(_) => "i.tenant_id",
            Owner::Workspace(_) => "i.workspace_id",
            Owner::Inbox(_) => "i.id",
        };
        let last = addresses.len() * 2 + 1;
        let sql = format!(
            "WITH wanted (domain, local_part) AS (VALUES {})
             SELECT a.local_part, a.domain FROM wanted w
                 JOIN addresses a ON a.domain = w.domain AND a.local_part = w.local_part
                 JOIN inboxes i ON i.id = COALESCE(a.inbox_id, a.left_by) WHERE {owns} = ${last}",
            values::rows(addresses.len(), 2)
        );
        let rows: Vec<(String, String)> = on!(self, db => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).persistent(values::is_kept(addresses.len()));
            for address in addresses {
                query = query.bind(address.domain.as_str()).bind(address.local_part.as_str());
            }
            query.bind(owner.id()).fetch_all(db).await
        })
        .map_err(Error::while_doing("list what an owner has unpublished"))?;
        rows.iter()
            .map(|(local_part, domain)| parse_address(local_part, domain))
            .collect()
    }

    /// Clears marks, except of keys that were marked again meanwhile.
    pub async fn clear_unpublished(&mut self, published: &[Pending]) -> Result<(), Error> {
        // In the order in which keys are marked: on PostgreSQL two transactions that touch the same marks in different
        // orders would wait for each other. There each mark is cleared by itself, because many in one statement come in
        // an order of the database's. SQLite has one writer.
        let mut in_order: Vec<&Pending> = published.iter().collect();
        in_order.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let at_once = if self.has_one_writer() { ROWS_MAX } else { 1 };
        for some in in_order.chunks(at_once) {
            // A mark is one key's, and a key that is marked again has another.
            let sql = format!(
                "DELETE FROM unpublished WHERE mark IN ({})",
                values::list(some.len(), 1)
            );
            on!(self, db => {
                let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(values::is_kept(some.len()));
                for pending in some {
                    query = query.bind(pending.mark);
                }
                query.execute(db).await.map(drop)
            })
            .map_err(Error::while_doing("clear the marks of published keys"))?;
        }
        Ok(())
    }

    /// Marks keys as to be published, which no open session depends on.
    pub async fn mark_all_unpublished(&mut self, marks: &[(MapKey, Uuid)]) -> Result<(), Error> {
        for some in marks.chunks(values::ROWS_INSERTED) {
            let sql = format!(
                "INSERT INTO unpublished (map_key, mark) VALUES {}
                 ON CONFLICT (map_key) DO UPDATE SET mark = excluded.mark",
                values::rows(some.len(), 2)
            );
            on!(self, db => {
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for (key, mark) in some {
                    query = query.bind(key.to_string()).bind(mark);
                }
                query.execute(db).await.map(drop)
            })
            .map_err(Error::while_doing("mark many keys of the maps as unpublished"))?;
        }
        Ok(())
    }

    /// The latest of the marks that there are now.
    pub async fn last_mark(&mut self) -> Result<Option<Uuid>, Error> {
        on!(self, db => sqlx::query_scalar("SELECT mark FROM unpublished WHERE mark > $1 ORDER BY mark DESC LIMIT 1")
            .bind(Uuid::nil())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing(
            "look for the latest unpublished key of the maps",
        ))
    }

    /// How many keys are still to be published of those that were marked until this mark. Those whose sessions have to
    /// end, too, are not counted: a server that hangs may hold them up.
    pub async fn unpublished_until(&mut self, last: Uuid) -> Result<u64, Error> {
        let left: i64 = on!(self, db => sqlx::query_scalar(
                "SELECT COUNT(*) FROM unpublished WHERE mark <= $1 AND end_sessions_since IS NULL",
            )
            .bind(last)
            .fetch_one(db)
            .await)
        .map_err(Error::while_doing("count the unpublished keys of the maps"))?;
        Ok(u64::try_from(left).unwrap_or(0))
    }
}
