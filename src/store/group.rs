//! Group commit on SQLite, which has one writer and pays one flush a commit.
//!
//! Writers take turns on the one connection that writes. Those that wait at the same time share one transaction of the
//! database and its flush: each works within a savepoint, and a commit returns when the shared transaction is
//! committed. A writer that gives up rolls back to its savepoint and takes nothing of the others with it. If the shared
//! transaction cannot be committed, nobody's commit has happened, and each of them is told.
//!
//! The turn is a lock that is handed on in the order of asking. Whoever opens the shared transaction queues its end
//! behind those that wait at that moment; they are the group.

use std::{sync::Arc, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, oneshot},
    time::timeout,
};

use super::ACQUIRE_TIMEOUT_MS;

/// The one connection that writes, and whose turn it is.
#[derive(Clone, Debug)]
pub(super) struct Group(Arc<Mutex<Turn>>);

/// A failure that all members of a shared transaction are told.
type Shared = Arc<sqlx::Error>;

#[derive(Debug)]
struct Turn {
    options: SqliteConnectOptions,
    /// No store any more: the daemon is stopping.
    closed: bool,
    /// The connection, while no shared transaction is open on it. Not there before the first one, and after a failure
    /// that leaves a connection in doubt: it is closed, and the next transaction gets another.
    idle: Option<SqliteConnection>,
    /// The connection with the shared transaction that is open on it.
    open: Option<SqliteConnection>,
    /// Whether the last member committed. If not, what it wrote is taken back before anything else happens.
    last_committed: bool,
    /// Who wants to know how the shared transaction ends.
    members: Vec<oneshot::Sender<Result<(), Shared>>>,
}

/// One writer's part of a shared transaction. Dropped without [`Member::commit`], it is rolled back.
#[derive(Debug)]
pub(super) struct Member(OwnedMutexGuard<Turn>);

impl Group {
    /// Writers take turns on a connection with these options.
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self(Arc::new(Mutex::new(Turn {
            options,
            closed: false,
            idle: None,
            open: None,
            last_committed: false,
            members: Vec::new(),
        })))
    }

    /// Waits for a turn, and begins.
    pub(super) async fn begin(&self) -> Result<Member, sqlx::Error> {
        let limit = Duration::from_millis(ACQUIRE_TIMEOUT_MS);
        let mut turn = timeout(limit, Arc::clone(&self.0).lock_owned())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?;
        if turn.open.is_some() {
            let next = if turn.last_committed {
                "RELEASE member; SAVEPOINT member"
            } else {
                // The savepoint stays, for the one that begins now.
                "ROLLBACK TO member"
            };
            if let Err(error) = turn.run(next).await {
                turn.abandon(error);
            }
        }
        if turn.open.is_none() {
            turn.open().await?;
            // It asks for the turn behind those that wait for it now: these are the group.
            let turns = Arc::clone(&self.0);
            tokio::spawn(async move { turns.lock().await.end().await });
        }
        turn.last_committed = false;
        Ok(Member(turn))
    }

    /// Closes the connection, after the shared transaction has ended.
    pub(super) async fn close(&self) {
        let mut turn = self.0.lock().await;
        turn.end().await;
        turn.closed = true;
        if let Some(connection) = turn.idle.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "cannot close the store");
        }
    }
}

impl Member {
    /// Where the statements run.
    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        self.0.open.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Gives the turn to the next, and waits until the shared transaction is durable.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let (member, ended) = oneshot::channel();
        self.0.members.push(member);
        self.0.last_committed = true;
        drop(self);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(sqlx::Error::Io(std::io::Error::other(failure))),
            Err(_) => Err(sqlx::Error::PoolClosed),
        }
    }
}

impl Turn {
    /// Opens a shared transaction and its first savepoint.
    async fn open(&mut self) -> Result<(), sqlx::Error> {
        if self.closed {
            return Err(sqlx::Error::PoolClosed);
        }
        // Not kept on the way: dropped in between, by an error or with the caller, it is closed, and nothing is open.
        let mut connection = match self.idle.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let begun = sqlx::query("BEGIN IMMEDIATE; SAVEPOINT member")
            .execute(&mut connection)
            .await;
        begun?;
        self.open = Some(connection);
        Ok(())
    }

    /// Commits the shared transaction, if one is open, and tells its members.
    async fn end(&mut self) {
        if self.open.is_none() {
            return;
        }
        let commit = if self.last_committed {
            "COMMIT"
        } else {
            "ROLLBACK TO member; COMMIT"
        };
        match self.run(commit).await {
            Ok(()) => {
                self.idle = self.open.take();
                self.tell(&Ok(()));
            }
            Err(error) => self.abandon(error),
        }
    }

    /// Runs something that begins or ends a member's part. The connection is out of reach meanwhile: if this is dropped
    /// half-way, it is closed, and the database rolls back.
    async fn run(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        let mut connection = self.open.take().ok_or(sqlx::Error::PoolClosed)?;
        sqlx::query(statements).execute(&mut connection).await?;
        self.open = Some(connection);
        Ok(())
    }

    /// Tells the members of a shared transaction, whose connection is closed, that it is rolled back.
    fn abandon(&mut self, error: sqlx::Error) {
        let failure = Arc::new(error);
        self.tell(&Err(failure));
    }

    fn tell(&mut self, outcome: &Result<(), Shared>) {
        for member in self.members.drain(..) {
            // A member that has gone away needs no answer.
            let _ = member.send(outcome.clone());
        }
    }
}
