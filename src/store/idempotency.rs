//! Answers kept for `Idempotency-Key`.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Error, Tx, on, one_row};
use crate::{
    clock::Timestamp,
    model::{Refused, ids::KeyId, made::Made},
};

/// A request that carries an `Idempotency-Key`, as it is looked up and written.
#[derive(Clone, Debug)]
pub struct Started {
    /// The record's id; its sealed answer is bound to it.
    pub id: Uuid,
    /// The key that the caller presented to the API.
    pub caller: KeyId,
    /// The path that was called.
    pub path: String,
    /// The header's value.
    pub idempotency_key: String,
    /// SHA-256 of query and body.
    pub request_hash: [u8; 32],
    /// When it began.
    pub started_at: Timestamp,
    /// Whose quota it counts against: a tenant, a workspace, or an operator's key.
    pub owner: Uuid,
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
    /// Its answer, unless it is still running.
    pub answer: Option<KeptAnswer>,
}

/// The answer of an earlier request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body, sealed.
    pub sealed: Vec<u8>,
    /// What it is about.
    pub made: Made,
}

#[derive(FromRow)]
struct KeptRow {
    id: Uuid,
    request_hash: Vec<u8>,
    started_at: i64,
    status: Option<i64>,
    sealed_answer: Option<Vec<u8>>,
    made: Option<String>,
}

impl KeptRow {
    fn parse(self) -> Result<Kept, Error> {
        let what = "an idempotent request";
        let answer = match (self.status, self.sealed_answer, self.made) {
            (Some(status), Some(sealed), Some(made)) => Some(KeptAnswer {
                status: u16::try_from(status)
                    .map_err(|_| Refused::because("must be an HTTP status"))
                    .map_err(Error::row(what))?,
                sealed,
                made: Made::from_json(&made).map_err(Error::row(what))?,
            }),
            _ => None,
        };
        Ok(Kept {
            id: self.id,
            request_hash: self.request_hash,
            started_at: Timestamp::from_micros(self.started_at),
            answer,
        })
    }
}

impl Tx {
    /// Writes that a request has begun, and forgets what was answered before the owner's latest `keep` requests. `false` if
    /// the caller, path and key already have a record.
    pub async fn start_idempotent(&mut self, started: &Started, keep: u32) -> Result<bool, Error> {
        let number: Option<i64> = on!(self, db => sqlx::query_scalar(
                "INSERT INTO idempotent_requests
                     (id, caller_key_id, path, idempotency_key, request_hash, started_at, owner_id, number)
                 VALUES ($1, $2, $3, $4, $5, $6, $7,
                     (SELECT COALESCE(MAX(number), 0) + 1 FROM idempotent_requests WHERE owner_id = $7))
                 ON CONFLICT (caller_key_id, path, idempotency_key) DO NOTHING RETURNING number",
            )
            .bind(started.id)
            .bind(started.caller.0)
            .bind(started.path.as_str())
            .bind(started.idempotency_key.as_str())
            .bind(started.request_hash.as_slice())
            .bind(started.started_at.as_micros())
            .bind(started.owner)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("start an idempotent request"))?;
        let Some(number) = number else {
            return Ok(false);
        };
        on!(self, db => sqlx::query(
                "DELETE FROM idempotent_requests WHERE owner_id = $1 AND number <= $2 AND status IS NOT NULL",
            )
            .bind(started.owner)
            .bind(number - i64::from(keep))
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing("forget the oldest answers of an owner"))?;
        Ok(true)
    }

    /// The record of an earlier request with the same caller, path and key.
    pub async fn kept_request(&mut self, started: &Started) -> Result<Option<Kept>, Error> {
        let row: Option<KeptRow> = on!(self, db => sqlx::query_as(
                "SELECT id, request_hash, started_at, status, sealed_answer, made FROM idempotent_requests
                 WHERE caller_key_id = $1 AND path = $2 AND idempotency_key = $3",
            )
            .bind(started.caller.0)
            .bind(started.path.as_str())
            .bind(started.idempotency_key.as_str())
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("look up an idempotent request"))?;
        row.map(KeptRow::parse).transpose()
    }

    /// Keeps the answer of a request that has begun.
    pub async fn keep_answer(&mut self, id: Uuid, answer: &KeptAnswer) -> Result<(), Error> {
        let doing = "keep the answer of an idempotent request";
        let made = answer.made.to_json().map_err(Error::row("what was made"))?;
        let rows = on!(self, db => sqlx::query(
                "UPDATE idempotent_requests SET status = $2, sealed_answer = $3, made = $4 WHERE id = $1",
            )
            .bind(id)
            .bind(i64::from(answer.status))
            .bind(answer.sealed.as_slice())
            .bind(made)
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing(doing))?;
        one_row(doing, rows)
    }

    /// Forgets a request that has no answer. Waits for a transaction that is writing one.
    pub async fn abandon_request(&mut self, id: Uuid) -> Result<(), Error> {
        on!(self, db => sqlx::query("DELETE FROM idempotent_requests WHERE id = $1 AND status IS NULL")
            .bind(id)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing(
            "forget an idempotent request without an answer",
        ))
    }

    /// Forgets a request, so that the same key can begin again.
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
