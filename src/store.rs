//! The store: what is true. The only module with SQL; one file per aggregate.
//!
//! Two databases, one SQL text. [`Db`] hands out transactions, [`Tx`] has every statement as a method, and the
//! `on!` macro runs the same text on whichever database it is. `$1` placeholders, `ON CONFLICT` and
//! `RETURNING` mean the same on both; nothing else is used that does not.
//!
//! Writing transactions are `BEGIN IMMEDIATE` on SQLite, because a deferred one that reads first fails under
//! load when it comes to write, and all of them go through one connection, because SQLite has one writer: see
//! [`group`].

mod addresses;
mod bulk;
mod contests;
mod dkim_keys;
mod domains;
mod fresh;
mod group;
mod idempotency;
mod inboxes;
mod keys;
mod meta;
mod only_daemon;
mod pooler;
mod removal;
mod replace_hash;
mod tenants;
mod unpublished;
mod values;
mod workspaces;

use std::{
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, Sqlite, SqliteConnection, SqlitePool, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::group::{Group, Member};
pub use self::{
    addresses::Claimant,
    bulk::{BULK_ROWS_MAX, Holder, ImportedInbox},
    contests::{ContestsDue, Taken},
    domains::{DomainFilter, DomainSearch},
    fresh::{FRESH_MAX, FreshInbox},
    idempotency::{Kept, KeptAnswer, Started},
    inboxes::{
        FoundInboxes, InboxFilter, InboxPage, InboxSearch, NewInbox, NewSecrets, SEARCHED_MAX, Secrets,
    },
    keys::{FoundKey, NewKey, Owner},
    only_daemon::OnlyDaemon,
    removal::{DeletedRows, RemovalCursor, RemovalPage},
    tenants::Place,
    unpublished::{Pending, SessionsToEnd},
};

/// How long a transaction waits for its turn before the store counts as unavailable.
const ACQUIRE_TIMEOUT_MS: u64 = 20_000;
/// How long SQLite waits for another process's write (a command-line call beside the daemon).
const SQLITE_BUSY_TIMEOUT_MS: u64 = 10_000;
/// Pages that the connection that writes keeps in memory, in KiB. A create changes some twenty of them, of nine indexes.
const SQLITE_WRITER_CACHE_KIB: u32 = 16 * 1024;
/// Pages in the write-ahead log from which on they are written into the database, so that one that changes often is
/// written once. The log is that long, in pages of 4 KiB, and read at start after a crash.
const SQLITE_CHECKPOINT_PAGES: u32 = 4_000;
/// Connections that read from SQLite at the same time.
const SQLITE_READERS: u32 = 8;
/// Statements that a connection keeps prepared: each text of this module, in each number of rows that is kept.
const STATEMENTS_KEPT: usize = 512;
/// Rows that a connection to SQLite reads ahead of whoever takes them: one at a time, it is mostly waking up.
const SQLITE_ROWS_AHEAD: usize = 1_000;
/// Connections to PostgreSQL.
const POSTGRES_CONNECTIONS: u32 = 16;

/// Rows that one statement names at most.
pub const ROWS_MAX: usize = 256;

/// Runs one piece of code on whichever database the transaction is on.
macro_rules! on {
    ($tx:expr, $connection:ident => $run:expr) => {
        match &mut $tx.0 {
            $crate::store::Inner::Sqlite(tx) => match tx.connection() {
                Ok($connection) => $run,
                Err(error) => Err(error),
            },
            $crate::store::Inner::Postgres(tx) => {
                let $connection = tx.connection();
                $run
            }
        }
    };
}
use on;

/// The database, open and migrated.
#[derive(Clone, Debug)]
pub struct Db(Pool);

#[derive(Clone, Debug)]
enum Pool {
    Sqlite { writer: Group, readers: SqlitePool },
    Postgres(PgPool),
}

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
#[derive(Debug)]
pub struct Tx(Inner);

#[derive(Debug)]
enum Inner {
    Sqlite(SqliteTx),
    Postgres(PostgresTx),
}

/// How far statements belong together.
#[derive(Debug)]
enum SqliteTx {
    /// Each by itself.
    Single(PoolConnection<Sqlite>),
    /// They read the same state.
    Reading(Transaction<'static, Sqlite>),
    /// They write, all or nothing.
    Writing(Member),
}

/// How far statements belong together.
#[derive(Debug)]
enum PostgresTx {
    /// Each by itself.
    Single(PoolConnection<Postgres>),
    /// They read the same state, or write, all or nothing.
    Transaction(Transaction<'static, Postgres>),
}

impl SqliteTx {
    fn connection(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        match self {
            Self::Single(connection) => Ok(connection),
            Self::Reading(tx) => Ok(tx),
            Self::Writing(member) => member.connection(),
        }
    }
}

impl PostgresTx {
    fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Single(connection) => connection,
            Self::Transaction(tx) => tx,
        }
    }
}

impl Db {
    /// Opens an SQLite database file, makes it if it is missing, and brings its schema up to date.
    pub async fn open_sqlite(file: &Path) -> Result<Self, Error> {
        let doing = "open the SQLite store";
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: a commit that returned survives a power cut. NORMAL loses the last ones.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_millis(SQLITE_BUSY_TIMEOUT_MS))
            // A savepoint keeps the pages that it changes. In a file, it needs a folder for that, which a container that
            // is read-only has not.
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(STATEMENTS_KEPT)
            .row_buffer_size(SQLITE_ROWS_AHEAD);
        make_private(file).map_err(|source| Error::Database {
            doing,
            source: sqlx::Error::Io(source),
        })?;
        let acquire = Duration::from_millis(ACQUIRE_TIMEOUT_MS);
        let writer = options
            .clone()
            .pragma("cache_size", format!("-{SQLITE_WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT_PAGES.to_string());
        let writer = Group::new(writer);
        let readers = SqlitePoolOptions::new()
            .max_connections(SQLITE_READERS)
            .acquire_timeout(acquire)
            // A file does not go away as a server does; and to ask costs as much as a look-up.
            .test_before_acquire(false)
            .before_acquire(|connection, _| {
                // After a failure of the disk SQLite rolls back by itself, and our own rollback fails: sqlx takes
                // such a connection to be in a transaction for ever. It is closed, and another one opened.
                let usable = !connection.is_in_transaction();
                Box::pin(std::future::ready(Ok(usable)))
            })
            .connect_with(options)
            .await
            .map_err(Error::while_doing(doing))?;
        sqlx::migrate!("migrations/sqlite")
            .run(&readers)
            .await
            .map_err(|source| Error::Migrate { source })?;
        Ok(Self(Pool::Sqlite { writer, readers }))
    }

    /// Opens a PostgreSQL database by its options and brings its schema up to date.
    pub async fn open_postgres(options: PgConnectOptions) -> Result<Self, Error> {
        pooler::require_sessions(&options).await?;
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(Duration::from_millis(ACQUIRE_TIMEOUT_MS))
            .connect_with(options.statement_cache_capacity(STATEMENTS_KEPT))
            .await
            .map_err(Error::while_doing("connect to the PostgreSQL store"))?;
        sqlx::migrate!("migrations/postgres")
            .run(&pool)
            .await
            .map_err(|source| Error::Migrate { source })?;
        Ok(Self(Pool::Postgres(pool)))
    }

    /// Statements that read, each by itself: for those whose answers need not be of the same moment.
    pub async fn look(&self) -> Result<Tx, Error> {
        let doing = "get a connection to read the store";
        Ok(Tx(match &self.0 {
            Pool::Sqlite { readers, .. } => {
                let connection = readers.acquire().await;
                Inner::Sqlite(SqliteTx::Single(connection.map_err(Error::while_doing(doing))?))
            }
            Pool::Postgres(pool) => {
                let connection = pool.acquire().await;
                Inner::Postgres(PostgresTx::Single(connection.map_err(Error::while_doing(doing))?))
            }
        }))
    }

    /// A transaction that only reads: one consistent view.
    pub async fn read(&self) -> Result<Tx, Error> {
        let doing = "begin reading the store";
        Ok(Tx(match &self.0 {
            Pool::Sqlite { readers, .. } => {
                let tx = readers.begin().await;
                Inner::Sqlite(SqliteTx::Reading(tx.map_err(Error::while_doing(doing))?))
            }
            Pool::Postgres(pool) => {
                let tx = pool
                    .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    .await;
                Inner::Postgres(PostgresTx::Transaction(tx.map_err(Error::while_doing(doing))?))
            }
        }))
    }

    /// A transaction that writes. On SQLite those that wait for their turn at the same time share one commit and its
    /// flush, and nothing else: one that is rolled back takes nothing of the others with it.
    pub async fn write(&self) -> Result<Tx, Error> {
        let doing = "begin writing to the store";
        Ok(Tx(match &self.0 {
            Pool::Sqlite { writer, .. } => {
                let member = writer.begin().await;
                Inner::Sqlite(SqliteTx::Writing(member.map_err(Error::while_doing(doing))?))
            }
            Pool::Postgres(pool) => {
                let tx = pool.begin().await;
                Inner::Postgres(PostgresTx::Transaction(tx.map_err(Error::while_doing(doing))?))
            }
        }))
    }

    /// Answers when the database does: for readiness.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut tx = self.look().await?;
        on!(tx, db => sqlx::query("SELECT 1").execute(db).await.map(drop))
            .map_err(Error::while_doing("ask the store whether it is there"))
    }

    /// Closes every connection, after the transactions on them have ended.
    pub async fn close(&self) {
        match &self.0 {
            Pool::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    /// Whether nobody else can be writing at the same time, so that no order of locks has to be kept.
    fn has_one_writer(&self) -> bool {
        matches!(self.0, Inner::Sqlite(_))
    }

    /// Makes the transaction's changes durable.
    pub async fn commit(self) -> Result<(), Error> {
        match self.0 {
            Inner::Sqlite(SqliteTx::Writing(member)) => member.commit().await,
            Inner::Sqlite(SqliteTx::Reading(tx)) => tx.commit().await,
            Inner::Postgres(PostgresTx::Transaction(tx)) => tx.commit().await,
            // Each statement was a transaction.
            Inner::Sqlite(SqliteTx::Single(_)) | Inner::Postgres(PostgresTx::Single(_)) => Ok(()),
        }
        .map_err(Error::while_doing("commit to the store"))
    }
}

/// The store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or did not answer.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// Another daemon has the store.
    #[error(
        "it is already used by another inboxd: stop it first, or give this one another store (store.url)"
    )]
    Taken,
    /// A pooler gives several connections one session.
    #[error(
        "it is reached through a pooler that shares sessions, as PgBouncer does with pool_mode = transaction or statement; \
         locks and prepared statements need a session of their own: set pool_mode = session for this database, or connect \
         to PostgreSQL itself (store.url)"
    )]
    Pooled,
    /// The schema could not be brought up to date.
    #[error("bring the store's schema up to date")]
    Migrate {
        /// What the migrator says.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A row does not parse into a value of the model: somebody else wrote to the database, or a bug did.
    #[error("read {what} from the store: the row does not parse")]
    Row {
        /// What the row should have been.
        what: &'static str,
        /// Which rule it breaks.
        #[source]
        source: crate::model::Refused,
    },
    /// What was done for several callers at once failed; each of them is told.
    #[error("together with others")]
    Together(#[source] Arc<Error>),
    /// A statement touched another number of rows than it must.
    #[error("{doing}: {rows} rows were touched")]
    Rows {
        /// What was being done.
        doing: &'static str,
        /// How many rows it touched.
        rows: u64,
    },
}

impl Error {
    fn while_doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    fn row(what: &'static str) -> impl Fn(crate::model::Refused) -> Self {
        move |source| Self::Row { what, source }
    }

    /// Whether trying again later can help: the database is away, busy or full, rather than the call wrong.
    pub fn is_transient(&self) -> bool {
        let source = match self {
            Self::Database { source, .. } => source,
            Self::Together(error) => return error.is_transient(),
            _ => return false,
        };
        match source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|code| is_transient_code(&code)),
            _ => false,
        }
    }
}

/// SQLite's result codes are numbers (primary code in the low byte), PostgreSQL's five characters.
fn is_transient_code(code: &str) -> bool {
    /// BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL. CORRUPT is also what SQLite makes of a disk that
    /// does not read (EIO), and it says nothing of the call.
    const SQLITE: [u32; 8] = [5, 6, 8, 10, 11, 13, 14, 15];
    /// Connection, transaction rollback (deadlock, serialization), resources, operator intervention, system error.
    const POSTGRES: [&str; 5] = ["08", "40", "53", "57", "58"];
    if code.len() == 5 && !code.starts_with('0') || code.len() == 5 && code.starts_with("08") {
        return POSTGRES.iter().any(|class| code.starts_with(class));
    }
    code.parse::<u32>()
        .is_ok_and(|number| SQLITE.contains(&(number & 0xff)))
}

/// Makes the database file if it is missing, and lets nobody but the daemon read it. SQLite gives its other files the
/// same mode.
fn make_private(file: &Path) -> std::io::Result<()> {
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)?;
    if open.metadata()?.permissions().mode() & 0o077 != 0 {
        open.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Requires that a statement touched exactly one row.
fn one_row(doing: &'static str, rows: u64) -> Result<(), Error> {
    if rows == 1 {
        Ok(())
    } else {
        Err(Error::Rows { doing, rows })
    }
}

/// A count or cap as the database holds it.
fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(if value < 0 { 0 } else { u32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_pass_are_told_from_codes_that_do_not() {
        for transient in [
            "5", "517", "10", "3338", "11", "13", "14", "8", "08006", "40001", "40P01", "53100", "57P01",
            "57P03",
        ] {
            assert!(is_transient_code(transient), "{transient}");
        }
        for lasting in ["1", "19", "2067", "23505", "42601", "22001", "0A000"] {
            assert!(!is_transient_code(lasting), "{lasting}");
        }
    }
}
