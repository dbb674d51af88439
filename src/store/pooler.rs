//! Poolers between this program and PostgreSQL: locks and prepared statements need a session of their own.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::Error;

/// How long the check may take; what is slower fails, or not, in what comes after it.
const CHECK_TIMEOUT_MS: u64 = 5_000;
/// Times that two connections are compared: another client of the pooler may come between.
const ROUNDS: usize = 3;

/// Fails with [`Error::Pooled`] if two connections that are open at the same time share a server process, as behind
/// `PgBouncer` with `pool_mode = transaction` or `statement` (pgbouncer.ini(5)).
pub(super) async fn require_sessions(options: &PgConnectOptions) -> Result<(), Error> {
    match timeout(Duration::from_millis(CHECK_TIMEOUT_MS), shares_sessions(options)).await {
        Ok(Ok(true)) => Err(Error::Pooled),
        // Whatever fails here fails again in the connection that comes after it, which says what it was for.
        Ok(Ok(false) | Err(_)) | Err(_) => Ok(()),
    }
}

async fn shares_sessions(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    // A pooler may refuse parameters that it does not know, before it can be recognized.
    let options = options.clone().extra_float_digits(None);
    let mut one = PgConnection::connect_with(&options).await?;
    let mut other = PgConnection::connect_with(&options).await?;
    let mut is_shared = false;
    for _ in 0..ROUNDS {
        is_shared |= process_of(&mut one).await? == process_of(&mut other).await?;
    }
    one.close().await?;
    other.close().await?;
    Ok(is_shared)
}

/// The server's process behind a connection, asked without a prepared statement.
async fn process_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
