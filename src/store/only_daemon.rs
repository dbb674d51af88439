//! One daemon a store: two would each believe their claims in memory, and publish into maps of their own.
//!
//! SQLite: `flock(2)` on a file beside the database, which the kernel lets go when the process ends, however it ends.
//!
//! PostgreSQL: a session's advisory lock on a connection of its own. It goes with the session, so it is lost when
//! PostgreSQL restarts, and is taken again then. Another daemon may be faster in that moment: this one ends then. A
//! session whose host lost its power is ended by PostgreSQL's own keep-alive, which is set to seconds.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Error, pooler};

/// What is appended to the name of the database file, as SQLite does with `-wal` and `-shm`.
const LOCK_FILE_ENDING: &str = "-daemon";
/// The advisory lock's number: the word in ASCII.
const ADVISORY_LOCK: i64 = i64::from_be_bytes(*b"\0\0inboxd");
/// PostgreSQL ends a session whose peer has gone without a word after 5 + 3 * 2 seconds; in the daemon's own settings it
/// is two hours.
const KEEP_ALIVE: [(&str, &str); 3] = [
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];
/// Pause between two looks whether the session is still there.
const LOOK_PAUSE_MS: u64 = 2_000;
/// How long such a look, or a new session, may take.
const LOOK_TIMEOUT_MS: u64 = 5_000;
/// How long the lock is asked for while somebody has it, who may be a session that PostgreSQL has not ended yet: our own,
/// or that of a daemon that was killed a moment ago.
const TAKEN_LIMIT_MS: u64 = 15_000;
/// Pause between two tries for a lock that somebody has when the daemon starts.
const START_PAUSE_MS: u64 = 100;

/// Keeps a second daemon from the store for as long as this one lives.
#[derive(Debug)]
pub struct OnlyDaemon(Held);

#[derive(Debug)]
enum Held {
    File {
        _lock: File,
    },
    Session {
        keeper: JoinHandle<()>,
        lost: oneshot::Receiver<Error>,
    },
}

impl OnlyDaemon {
    /// Takes an SQLite store, before it is opened.
    pub fn of_sqlite(file: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Database {
            doing: "lock the store against a second daemon",
            source: sqlx::Error::Io(source),
        };
        let mut path = file.as_os_str().to_owned();
        path.push(LOCK_FILE_ENDING);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self(Held::File { _lock: lock })),
            Err(TryLockError::WouldBlock) => Err(Error::Taken),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Takes a PostgreSQL store, before its schema is brought up to date. Fails with [`Error::Taken`] if another daemon
    /// goes on having it.
    pub async fn of_postgres(options: PgConnectOptions) -> Result<Self, Error> {
        pooler::require_sessions(&options).await?;
        let options = options.options(KEEP_ALIVE);
        let session = take_from_dead(&options).await?;
        let (tell, lost) = oneshot::channel();
        let keeper = tokio::spawn(async move {
            let error = keep(session, &options).await;
            // Nobody listens when the daemon has ended.
            let _ = tell.send(error);
        });
        Ok(Self(Held::Session { keeper, lost }))
    }

    /// Completes when the store has another daemon. Never with SQLite.
    pub async fn lost(&mut self) -> Error {
        match &mut self.0 {
            Held::File { .. } => std::future::pending().await,
            Held::Session { lost, .. } => match lost.await {
                Ok(error) => error,
                // The keeper ends with a word, or with this.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for OnlyDaemon {
    fn drop(&mut self) {
        if let Held::Session { keeper, .. } = &self.0 {
            keeper.abort();
        }
    }
}

/// The same as [`take`], where the session of a daemon that is dead may be there for a while.
async fn take_from_dead(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let begun = Instant::now();
    loop {
        match take(options).await {
            Err(Error::Taken) if begun.elapsed() < Duration::from_millis(TAKEN_LIMIT_MS) => {
                sleep(Duration::from_millis(START_PAUSE_MS)).await;
            }
            taken => return taken,
        }
    }
}

/// A session that has the lock.
async fn take(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let failed = Error::while_doing("lock the store against a second daemon");
    let taking = async {
        let mut session = PgConnection::connect_with(options).await?;
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(ADVISORY_LOCK)
            .fetch_one(&mut session)
            .await?;
        Ok(is_ours.then_some(session))
    };
    match timeout(Duration::from_millis(LOOK_TIMEOUT_MS), taking).await {
        Ok(Ok(Some(session))) => Ok(session),
        Ok(Ok(None)) => Err(Error::Taken),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(sqlx::Error::PoolTimedOut)),
    }
}

/// Keeps the lock over every loss of the session. Returns when another daemon has it.
async fn keep(mut session: PgConnection, options: &PgConnectOptions) -> Error {
    let mut others_since = None;
    let mut is_ours = true;
    loop {
        sleep(Duration::from_millis(LOOK_PAUSE_MS)).await;
        if is_ours {
            let look = timeout(Duration::from_millis(LOOK_TIMEOUT_MS), session.ping()).await;
            is_ours = matches!(look, Ok(Ok(())));
        }
        if is_ours {
            continue;
        }
        match take(options).await {
            Ok(again) => {
                tracing::info!("locked the store against a second daemon again");
                (session, is_ours, others_since) = (again, true, None);
            }
            Err(Error::Taken) => {
                let since = *others_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_millis(TAKEN_LIMIT_MS) {
                    return Error::Taken;
                }
            }
            // It is away: every request says so by itself.
            Err(error) => tracing::debug!(%error, "cannot lock the store again yet"),
        }
    }
}
