//! What is still to be published: keys of the maps whose published state may be behind the store.

use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Error, Owner, ROWS_MAX, Tx, addresses::parse_address, on, values};
use crate::{
    clock::Timestamp,
    model::{address::Address, maps::MapKey},
};

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

    /// The canonical addresses of an owner's inboxes, deleted ones included, that are still to be published: what a
    /// call left undone whose caller was told to try again.
    pub async fn unpublished_of(&mut self, owner: Owner) -> Result<Vec<Address>, Error> {
        let sql = match owner {
            Owner::Tenant(_) => {
                "SELECT DISTINCT i.local_part, i.domain FROM unpublished u
                 JOIN inboxes i ON u.map_key = i.local_part || '@' || i.domain WHERE i.tenant_id = $1"
            }
            Owner::Workspace(_) => {
                "SELECT DISTINCT i.local_part, i.domain FROM unpublished u
                 JOIN inboxes i ON u.map_key = i.local_part || '@' || i.domain WHERE i.workspace_id = $1"
            }
            Owner::Inbox(_) => {
                "SELECT DISTINCT i.local_part, i.domain FROM unpublished u
                 JOIN inboxes i ON u.map_key = i.local_part || '@' || i.domain WHERE i.id = $1"
            }
        };
        let rows: Vec<(String, String)> =
            on!(self, db => sqlx::query_as(sql).bind(owner.id()).fetch_all(db).await)
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
