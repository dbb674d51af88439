//! Creations between allocation and answer, and requests with an `Idempotency-Key` that run.
//!
//! An inbox is finished when its 201 was sent, not when it was written. So a creation holds a [`Claim`] on its inbox
//! from before it is visible until its answer has been handed to the connection, or dropped. Whoever else asks for
//! the same inbox waits for the claim: then either the 201 was sent, and the inbox exists, or it was not, and the
//! waiting request completes the creation with fresh credentials.
//!
//! That the 201 was sent is written to the store behind the answer. If the process dies in between, the inbox counts
//! as unfinished: whoever got the 201 has working credentials, and whoever did not can ask again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedMutexGuard, mpsc};
use uuid::Uuid;

use crate::{
    clock::Clock,
    model::ids::InboxId,
    store::{self, Db},
    telemetry,
};

/// Acknowledgements written in one transaction.
const BATCH_MAX: usize = 1024;
/// Pause before acknowledgements that the store did not take are written again.
const RETRY_PAUSE_MS: u64 = 500;
/// Times that they are tried while the daemon stops.
const TRIES_AT_STOP_MAX: u32 = 20;

/// The creations that are under way in this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InFlight {
    claims: Arc<Mutex<HashMap<InboxId, Arc<tokio::sync::Mutex<()>>>>>,
    /// Inboxes whose 201 was sent and that the store does not know yet.
    sent: Arc<Mutex<HashSet<InboxId>>>,
    acknowledge: mpsc::UnboundedSender<InboxId>,
    /// The records of requests with an `Idempotency-Key` that run.
    running: Arc<Mutex<HashSet<Uuid>>>,
}

/// A request with an `Idempotency-Key` runs as long as this is held.
#[derive(Debug)]
pub struct Running {
    record: Uuid,
    running: Arc<Mutex<HashSet<Uuid>>>,
}

/// The right to create or complete one inbox. Dropped without [`Claim::sent`], the creation stays unfinished.
#[derive(Debug)]
pub struct Claim {
    inbox: InboxId,
    in_flight: InFlight,
    guard: Option<OwnedMutexGuard<()>>,
}

impl InFlight {
    /// An empty register, and the task that writes acknowledgements to the store. The task ends when the register
    /// and every claim are gone and everything is written.
    pub fn start(db: Db, clock: Arc<dyn Clock>) -> (Self, tokio::task::JoinHandle<()>) {
        let (acknowledge, sent_ones) = mpsc::unbounded_channel();
        let sent = Arc::new(Mutex::new(HashSet::new()));
        let task = tokio::spawn(write_acknowledgements(db, clock, sent_ones, Arc::clone(&sent)));
        (
            Self {
                claims: Arc::default(),
                sent,
                acknowledge,
                running: Arc::default(),
            },
            task,
        )
    }

    /// Claims an inbox, waiting for whoever has it.
    pub async fn claim(&self, inbox: InboxId) -> Claim {
        let lock = Arc::clone(held(&self.claims).entry(inbox).or_default());
        let guard = lock.lock_owned().await;
        Claim {
            inbox,
            in_flight: self.clone(),
            guard: Some(guard),
        }
    }

    /// Claims an inbox if nobody has it.
    pub fn try_claim(&self, inbox: InboxId) -> Option<Claim> {
        let lock = Arc::clone(held(&self.claims).entry(inbox).or_default());
        let guard = lock.try_lock_owned().ok()?;
        Some(Claim {
            inbox,
            in_flight: self.clone(),
            guard: Some(guard),
        })
    }

    /// Notes that the request of a record runs.
    pub fn run(&self, record: Uuid) -> Running {
        held(&self.running).insert(record);
        Running {
            record,
            running: Arc::clone(&self.running),
        }
    }

    /// Whether the request of a record runs.
    pub fn is_running(&self, record: Uuid) -> bool {
        held(&self.running).contains(&record)
    }
}

impl Running {
    /// The record's id.
    pub fn record(&self) -> Uuid {
        self.record
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        held(&self.running).remove(&self.record);
    }
}

impl Claim {
    /// Whether a 201 was sent for this inbox that the store may not know of yet. Ask *before* reading the store: a
    /// 201 that was written in between is then seen there.
    pub fn was_sent(&self) -> bool {
        held(&self.in_flight.sent).contains(&self.inbox)
    }

    /// The 201 has been handed to the connection: the inbox is finished.
    pub fn sent(self) {
        held(&self.in_flight.sent).insert(self.inbox);
        if self.in_flight.acknowledge.send(self.inbox).is_err() {
            tracing::error!(inbox = %self.inbox, "the task that writes acknowledgements has gone; the same request gets fresh credentials");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = held(&self.in_flight.claims);
        drop(self.guard.take());
        // One reference is the register's own; without another no caller waits.
        if claims
            .get(&self.inbox)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            claims.remove(&self.inbox);
        }
    }
}

/// These locks are held for a few instructions that cannot panic half-way.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_acknowledgements(
    db: Db,
    clock: Arc<dyn Clock>,
    mut sent_ones: mpsc::UnboundedReceiver<InboxId>,
    sent: Arc<Mutex<HashSet<InboxId>>>,
) {
    let mut batch = Vec::new();
    while sent_ones.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut tries_at_stop = 0;
        while let Err(error) = acknowledge(&db, &*clock, &batch).await {
            tracing::warn!(
                error = telemetry::chain(&error),
                inboxes = batch.len(),
                "cannot write that inboxes are finished; trying again"
            );
            if sent_ones.is_closed() {
                tries_at_stop += 1;
                if tries_at_stop == TRIES_AT_STOP_MAX {
                    tracing::error!(
                        inboxes = batch.len(),
                        "stopping without having written that inboxes are finished"
                    );
                    break;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(RETRY_PAUSE_MS)).await;
        }
        let mut sent = held(&sent);
        for inbox in batch.drain(..) {
            sent.remove(&inbox);
        }
    }
}

async fn acknowledge(db: &Db, clock: &dyn Clock, inboxes: &[InboxId]) -> Result<(), store::Error> {
    let mut tx = db.write().await?;
    tx.acknowledge_inboxes(inboxes, clock.now()).await?;
    tx.commit().await
}
