//! Answers kept for `Idempotency-Key`.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Error, Tx, on, one_row};
use crate::{
    clock::Timestamp,
    model::ids::{InboxId, KeyId},
};

/// A request that carries an `Idempotency-Key`, as it is looked up and written.
#[derive(Clone, Debug)]
pub struct Started {
    /// The record's id; its sealed answer is bound to it.
    pub id: Uuid,
    /// The key that the caller presented to the API.
    pub caller: KeyId,
    /// The path that was called.
    pub path: &'static str,
    /// The header's value.
    pub idempotency_key: String,
    /// SHA-256 of query and body.
    pub request_hash: [u8; 32],
    /// When it began.
    pub started_at: Timestamp,
}

/// What is known of an earlier request with the same caller, path and `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The record's id.
    pub id: Uuid,
    /// SHA-256 of its query and body.
    pub request_hash: Vec<u8>,
    /// When it began.
    pub started_at: Timestamp,
    /// Its status and sealed body, unless it is still running.
    pub answer: Option<(u16, Vec<u8>)>,
    /// The inbox that it created, if it did.
    pub inbox: Option<InboxId>,
}

#[derive(FromRow)]
struct KeptRow {
    id: Uuid,
    request_hash: Vec<u8>,
    started_at: i64,
    status: Option<i64>,
    sealed_answer: Option<Vec<u8>>,
    inbox_id: Option<Uuid>,
}

impl Tx {
    /// Writes that a request has begun. `false` if the caller, path and key already have a record.
    pub async fn start_idempotent(&mut self, started: &Started) -> Result<bool, Error> {
        let rows = on!(self, db => sqlx::query(
                "INSERT INTO idempotent_requests (id, caller_key_id, path, idempotency_key, request_hash, started_at)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (caller_key_id, path, idempotency_key) DO NOTHING",
            )
            .bind(started.id)
            .bind(started.caller.0)
            .bind(started.path)
            .bind(started.idempotency_key.as_str())
            .bind(started.request_hash.as_slice())
            .bind(started.started_at.as_micros())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("start an idempotent request"))?;
        Ok(rows == 1)
    }

    /// The record of an earlier request with the same caller, path and key.
    pub async fn kept_request(&mut self, started: &Started) -> Result<Option<Kept>, Error> {
        let row: Option<KeptRow> = on!(self, db => sqlx::query_as(
                "SELECT id, request_hash, started_at, status, sealed_answer, inbox_id FROM idempotent_requests
                 WHERE caller_key_id = $1 AND path = $2 AND idempotency_key = $3",
            )
            .bind(started.caller.0)
            .bind(started.path)
            .bind(started.idempotency_key.as_str())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up an idempotent request"))?;
        Ok(row.map(|row| Kept {
            id: row.id,
            request_hash: row.request_hash,
            started_at: Timestamp::from_micros(row.started_at),
            answer: row
                .status
                .and_then(|status| u16::try_from(status).ok())
                .zip(row.sealed_answer),
            inbox: row.inbox_id.map(InboxId),
        }))
    }

    /// Keeps the answer of a request that has begun.
    pub async fn keep_answer(
        &mut self,
        id: Uuid,
        status: u16,
        sealed_answer: &[u8],
        inbox: Option<InboxId>,
    ) -> Result<(), Error> {
        let doing = "keep the answer of an idempotent request";
        let rows = on!(self, db => sqlx::query(
                "UPDATE idempotent_requests SET status = $2, sealed_answer = $3, inbox_id = $4 WHERE id = $1",
            )
            .bind(id)
            .bind(i64::from(status))
            .bind(sealed_answer)
            .bind(inbox.map(|inbox| inbox.0))
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Forgets a request, so that the same key can begin anew.
    pub async fn forget_request(&mut self, id: Uuid) -> Result<(), Error> {
        on!(self, db => sqlx::query("DELETE FROM idempotent_requests WHERE id = $1").bind(id).execute(db).await.map(drop))
            .map_err(Error::while_doing("forget an idempotent request"))
    }

    /// Forgets requests that began before a time; with `unfinished`, only those that have no answer. Returns
    /// how many there were.
    pub async fn forget_requests_before(&mut self, time: Timestamp, unfinished: bool) -> Result<u64, Error> {
        let sql = if unfinished {
            "DELETE FROM idempotent_requests WHERE started_at < $1 AND status IS NULL"
        } else {
            "DELETE FROM idempotent_requests WHERE started_at < $1"
        };
        on!(self, db => sqlx::query(sql).bind(time.as_micros()).execute(db).await.map(|done| done.rows_affected()))
            .map_err(Error::while_doing("forget old idempotent requests"))
    }
}
