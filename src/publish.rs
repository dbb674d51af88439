//! From the store to the maps, before the answer.
//!
//! Level-triggered: a transaction that changes what the mail side should see marks the touched keys as unpublished;
//! publishing reads the *current* state of a marked key, writes that, and clears the mark if the key was not marked
//! again meanwhile. Applying twice is harmless, order does not matter, and a crash loses nothing, because start-up
//! publishes what is marked and then compares everything. What is marked and nobody asked to publish (a commit whose
//! answer was lost on the way, a command beside the daemon) is found by a look at the marks now and then.
//!
//! One task does all of it. Requests that wait at the same time share one batch and its flushes.

mod barrier;
mod check;
mod compare;
mod rebuild;
mod retry;

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};
use uuid::Uuid;

use self::{
    barrier::Unseen,
    rebuild::{Beside, Rebuild, RebuildRequest},
    retry::Retry,
};
pub use self::{
    barrier::{Barrier, Blind, LoginViewer, NotSeen},
    check::{Checked, Misread, Report},
    rebuild::{Rebuilt, rebuild},
};
use crate::{
    maps::{self, Differences, Maps},
    model::{
        address::{Address, DomainName},
        maps::{MapChange, MapKey},
    },
    store::{self, Db, Pending, SessionsToEnd, Tx},
    telemetry::{self, metric},
};

/// Requests that may wait for the publisher; more of them wait to be let in.
const QUEUE_MAX: usize = 1024;
/// Keys published in one batch. It bounds how long look-ups may wait for the tables.
const BATCH_MAX: usize = store::ROWS_MAX;
/// The same as a number of rows.
const BATCH_MAX_ROWS: u32 = 256;
/// Logins whose sessions are ended at the same time; each takes a process of Dovecot.
const SESSION_ENDINGS_AT_ONCE: usize = 16;
/// Rebuilds that may wait for one that is under way.
const REBUILDS_MAX: usize = 4;
/// Pause between two looks for marks that nobody asked to publish.
const LOOK_PAUSE_MS: u64 = 5_000;
/// Marks looked at in one such look.
const LOOK_MAX: u32 = 1_024;
/// Published marks that may wait to be cleared.
const CLEAR_QUEUE_MAX: usize = 4096;

/// Ends the open sessions of a login; behind a trait because only real mail servers have sessions.
pub trait SessionEnder: Send + Sync {
    /// Ends every open session of this login, and returns when they have ended or there is no server that could
    /// have any.
    fn end_sessions<'a>(
        &'a self,
        login: &'a Address,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionsError>> + Send + 'a>>;
}

/// Open sessions could not be ended.
#[derive(Debug, thiserror::Error)]
#[error("end the open sessions of a login")]
pub struct SessionsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Something could not be published. It stays marked and is tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be read.
    #[error("read from the store what to publish")]
    Store(#[source] Arc<store::Error>),
    /// The maps could not be written.
    #[error("write the maps")]
    Maps(#[source] Arc<maps::Error>),
    /// Open sessions could not be ended.
    #[error("cut off open sessions")]
    Sessions(#[source] Arc<SessionsError>),
    /// A new login is in the maps, and was not seen through the mail servers.
    #[error("see a new login through the mail servers")]
    NotSeen(#[source] Arc<NotSeen>),
    /// The publisher has stopped, because the daemon is stopping.
    #[error("the publisher has stopped")]
    Stopped,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<maps::Error> for Error {
    fn from(error: maps::Error) -> Self {
        Self::Maps(Arc::new(error))
    }
}

/// What the publisher works with.
pub struct Parts {
    /// What is true.
    pub db: Db,
    /// What the mail side sees.
    pub maps: Arc<Maps>,
    /// The domain that is served although no workspace owns it.
    pub default_domain: DomainName,
    /// Ends open sessions; none where the configuration names no way to.
    pub sessions: Option<Arc<dyn SessionEnder>>,
    /// Sees new logins before their creations are answered; none where nothing is to be asked.
    pub barrier: Option<Barrier>,
}

/// Asks the publisher to publish.
#[derive(Clone, Debug)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    rebuilds: mpsc::Sender<RebuildRequest>,
}

/// Asks the publisher to write all maps anew. Unlike a [`Publisher`], it does not keep the task running.
#[derive(Clone, Debug)]
pub struct Rebuilder(mpsc::Sender<RebuildRequest>);

struct Request {
    keys: Vec<MapKey>,
    /// Whether it is answered when its logins have been seen.
    to_be_seen: bool,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Publisher {
    /// Publishes the current state of these keys. When it returns, both mail servers see it, and it survives a
    /// power cut.
    pub async fn publish(&self, keys: Vec<MapKey>) -> Result<(), Error> {
        self.ask(keys, false).await
    }

    /// The same for new logins: when it returns, they have also been seen through the mail servers, if that is required.
    pub async fn publish_new(&self, keys: Vec<MapKey>) -> Result<(), Error> {
        self.ask(keys, true).await
    }

    async fn ask(&self, keys: Vec<MapKey>, to_be_seen: bool) -> Result<(), Error> {
        let begun = Instant::now();
        let (done, published) = oneshot::channel();
        self.requests
            .send(Request {
                keys,
                to_be_seen,
                done,
            })
            .await
            .map_err(|_| Error::Stopped)?;
        let result = published.await.map_err(|_| Error::Stopped)?;
        metric::PUBLISH_DURATION_SECONDS.observe(begun.elapsed(), &[]);
        result
    }

    /// Another way to the same task.
    pub fn rebuilder(&self) -> Rebuilder {
        Rebuilder(self.rebuilds.clone())
    }
}

impl Rebuilder {
    /// Writes all maps anew, while changes go on being published. Two that are asked for at the same time happen one
    /// after the other.
    pub async fn rebuild(&self) -> Result<Rebuilt, Error> {
        let (done, rebuilt) = oneshot::channel();
        self.0
            .send(RebuildRequest { done })
            .await
            .map_err(|_| Error::Stopped)?;
        rebuilt.await.map_err(|_| Error::Stopped)?
    }
}

/// Brings the maps to the store's state, whatever happened in between, and starts the task that keeps them there.
///
/// The task ends when every [`Publisher`] is gone and everything that was asked has been published.
pub async fn start(parts: Parts) -> Result<(Publisher, tokio::task::JoinHandle<()>), Error> {
    let mut task = Task {
        parts: Arc::new(parts),
        failing: false,
        ending: JoinSet::new(),
        looking: JoinSet::new(),
        seen: BTreeSet::new(),
        again: None,
        rebuild: None,
    };
    // What is marked is known to differ; but it cannot be published into tables that are not there yet.
    let is_in_place = task.parts.maps.is_in_place();
    if is_in_place {
        task.publish_all_marked().await?;
    }
    let differences = task.parts.compare().await?;
    if differences != Differences::default() {
        tracing::info!(
            wrong = differences.wrong,
            extra = differences.extra,
            "the maps differed from the store and have been repaired"
        );
    }
    if !is_in_place {
        task.publish_all_marked().await?;
    }
    let (requests, asked) = mpsc::channel(QUEUE_MAX);
    let (rebuilds, rebuilds_asked) = mpsc::channel(REBUILDS_MAX);
    let publisher = Publisher { requests, rebuilds };
    Ok((publisher, tokio::spawn(task.run(asked, rebuilds_asked))))
}

struct Task {
    parts: Arc<Parts>,
    /// Something could not be published or cut off, and nobody may be asking again.
    failing: bool,
    /// Answers that wait for sessions to end; each says whether they did. They do not hold up the batches behind.
    ending: JoinSet<Result<(), Error>>,
    /// Creations of earlier batches whose logins are being looked at. Each returns those that wait for sessions, too.
    looking: JoinSet<Vec<Unseen>>,
    /// The marks that the last look saw.
    seen: BTreeSet<Uuid>,
    /// What is marked is being published again.
    again: Option<Again>,
    /// A rebuild that is under way: a step of it comes after each round of everything else.
    rebuild: Option<Rebuild>,
}

/// Everything that is marked, published page by page: the marks up to this one are behind it.
#[derive(Default)]
struct Again {
    after: Option<Uuid>,
}

impl Task {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut rebuilds: mpsc::Receiver<RebuildRequest>,
    ) {
        let (clear, marks) = mpsc::channel(CLEAR_QUEUE_MAX);
        let clearing = tokio::spawn(clear_marks(self.parts.db.clone(), marks));
        // Points in time, not pauses: requests that never stop coming must not put them off.
        let mut retry = Retry::soon();
        let mut look = pausing(LOOK_PAUSE_MS);
        loop {
            let mut beside = Beside::Others;
            tokio::select! {
                biased;
                () = retry.due(), if self.failing && self.again.is_none() => {
                    self.failing = false;
                    self.again = Some(Again::default());
                }
                _ = look.tick() => self.look().await,
                Some(ended) = self.ending.join_next() => {
                    if matches!(ended, Ok(Ok(()))) {
                        retry = if self.failing { retry } else { Retry::soon() };
                    } else if !self.failing {
                        self.failing = true;
                        retry = retry.restarted();
                    }
                }
                Some(seen) = self.looking.join_next() => self.answer_seen(seen),
                request = requests.recv() => match request {
                    Some(first) => {
                        let failed_before = self.failing;
                        self.serve(first, &mut requests, &clear).await;
                        if self.failing && !failed_before {
                            retry = retry.restarted();
                        }
                    }
                    None => break,
                },
                Some(request) = rebuilds.recv(), if self.rebuild.is_none() => {
                    self.rebuild = Some(Rebuild::new(request));
                }
                // Nobody waits: what is under way goes on.
                () = std::future::ready(()), if self.again.is_some() || self.rebuild.is_some() => {
                    beside = Beside::Nothing;
                }
            }
            if let Some(again) = self.again.take() {
                beside = Beside::Others;
                self.again = self.retry(again).await;
                if self.again.is_none() {
                    let settled = !self.failing && self.ending.is_empty();
                    retry = if settled { Retry::soon() } else { retry.later() };
                }
            }
            if let Some(rebuild) = self.rebuild.take() {
                self.rebuild = rebuild.step(&self.parts, beside).await;
            }
        }
        while let Some(seen) = self.looking.join_next().await {
            self.answer_seen(seen);
        }
        while self.ending.join_next().await.is_some() {}
        drop(clear);
        if let Err(error) = clearing.await {
            tracing::error!(%error, "the task that clears published marks failed");
        }
    }

    /// One request and all that came meanwhile, as one batch.
    async fn serve(
        &mut self,
        first: Request,
        requests: &mut mpsc::Receiver<Request>,
        clear: &mpsc::Sender<Pending>,
    ) {
        let mut batch = vec![first];
        let mut keys = batch[0].keys.len();
        while keys < BATCH_MAX {
            let Ok(request) = requests.try_recv() else { break };
            keys += request.keys.len();
            batch.push(request);
        }
        metric::PUBLISH_BATCH_KEYS.observe_count(keys);
        let wanted: BTreeSet<MapKey> = batch
            .iter()
            .flat_map(|request| request.keys.iter().cloned())
            .collect();
        let wanted: Vec<MapKey> = wanted.into_iter().collect();
        match self.publish(&wanted).await {
            Err(error) => {
                self.failing = true;
                metric::PUBLISH_FAILURES_TOTAL.increment(&[]);
                tracing::error!(error = telemetry::chain(&error), keys, "cannot publish");
                for request in batch {
                    // A caller that has gone away needs no answer.
                    let _ = request.done.send(Err(error.clone()));
                }
            }
            Ok((published, changes)) => {
                let (with_sessions, without) = by_sessions(published);
                let mut unseen = Vec::new();
                for request in batch {
                    let own: Vec<Pending> = with_sessions
                        .iter()
                        .filter(|pending| request.keys.contains(&pending.key))
                        .cloned()
                        .collect();
                    if request.to_be_seen && self.parts.barrier.is_some() {
                        unseen.push(Unseen {
                            request,
                            sessions: own,
                        });
                    } else {
                        self.answer(request, own);
                    }
                }
                if !unseen.is_empty() {
                    self.looking.spawn(Arc::clone(&self.parts).see(unseen, changes));
                }
                for pending in without {
                    if clear.send(pending).await.is_err() {
                        tracing::error!(
                            "the task that clears published marks has gone; marks stay until the next start"
                        );
                    }
                }
            }
        }
    }

    /// Answers a request whose keys are in the maps: at once, or when the sessions that have to end have ended.
    fn answer(&mut self, request: Request, with_sessions: Vec<Pending>) {
        if with_sessions.is_empty() {
            // A caller that has gone away needs no answer.
            let _ = request.done.send(Ok(()));
            return;
        }
        let parts = Arc::clone(&self.parts);
        self.ending.spawn(async move {
            let ended = parts.end_sessions(with_sessions).await;
            let _ = request.done.send(ended.clone());
            ended
        });
    }

    /// Answers creations that have been seen, and whose answer waits for sessions to end.
    fn answer_seen(&mut self, seen: Result<Vec<Unseen>, tokio::task::JoinError>) {
        match seen {
            Ok(seen) => {
                for creation in seen {
                    self.answer(creation.request, creation.sessions);
                }
            }
            Err(error) => tracing::error!(%error, "a task that looks at new logins failed"),
        }
    }

    /// Publishes a page of what is still marked although nobody waits for it. `None`: that was all, or it failed.
    async fn retry(&mut self, again: Again) -> Option<Again> {
        match self.publish_marked(again).await {
            Ok(Some(again)) => return Some(again),
            Ok(None) => {
                if !self.failing {
                    tracing::info!("everything that could not be published is published");
                }
            }
            Err(error) => {
                self.failing = true;
                metric::PUBLISH_FAILURES_TOTAL.increment(&[]);
                tracing::error!(error = telemetry::chain(&error), "still cannot publish");
            }
        }
        None
    }

    /// Finds marks that are there for longer than any publication takes: whoever made them did not ask.
    async fn look(&mut self) {
        let marked = async { self.parts.db.look().await?.unpublished(None, LOOK_MAX).await };
        match marked.await {
            Ok(marked) => {
                let now: BTreeSet<Uuid> = marked.into_iter().map(|pending| pending.mark).collect();
                // Marks that are being published, or whose sessions are being ended, just now are seen twice for a good reason.
                let is_under_way = self.again.is_some() || !self.ending.is_empty();
                if !self.failing && !is_under_way && !now.is_disjoint(&self.seen) {
                    tracing::info!("publishing what is marked and nobody asked for");
                    self.failing = true;
                }
                self.seen = now;
            }
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "cannot look for marks"),
        }
    }

    /// Publishes everything that is marked now. What cannot be cut off stays marked, and the task is failing.
    async fn publish_all_marked(&mut self) -> Result<(), Error> {
        let mut again = Again::default();
        while let Some(further) = self.publish_marked(again).await? {
            again = further;
        }
        Ok(())
    }

    /// Publishes one page of what is marked. `None`: there is nothing behind it.
    async fn publish_marked(&mut self, again: Again) -> Result<Option<Again>, Error> {
        let mut store = self.parts.db.look().await?;
        let marked = store.unpublished(again.after, BATCH_MAX_ROWS).await?;
        drop(store);
        let Some(last) = marked.last() else {
            return Ok(None);
        };
        let after = Some(last.mark);
        let keys: Vec<MapKey> = marked.into_iter().map(|pending| pending.key).collect();
        let (published, _) = self.publish(&keys).await?;
        let (with_sessions, without) = by_sessions(published);
        clear(&self.parts.db, &without).await?;
        self.cut_off(with_sessions);
        Ok(Some(Again { after }))
    }

    /// Ends sessions for whoever asked earlier, beside the task. If some are being ended just now, these wait for the
    /// next try, so that a server that hangs is not asked ever more often at the same time.
    fn cut_off(&mut self, with_sessions: Vec<Pending>) {
        if with_sessions.is_empty() {
            return;
        }
        if !self.ending.is_empty() {
            self.failing = true;
            return;
        }
        let parts = Arc::clone(&self.parts);
        self.ending
            .spawn(async move { parts.end_sessions(with_sessions).await });
    }

    /// Publishes the current state of these keys. Returns the marks that this settles, but for open sessions, and what was
    /// published.
    async fn publish(&self, keys: &[MapKey]) -> Result<(Vec<Pending>, Vec<MapChange>), Error> {
        let (mut settled, mut published) = (Vec::new(), Vec::with_capacity(keys.len()));
        for keys in keys.chunks(BATCH_MAX) {
            let mut tx = self.parts.db.read().await?;
            settled.extend(tx.unpublished_keys(keys).await?);
            let changes = self.parts.current(&mut tx, keys).await?;
            drop(tx);
            published.extend(self.parts.apply(changes).await?);
        }
        Ok((settled, published))
    }
}

impl Parts {
    /// What the maps should say of these keys now, in their order.
    async fn current(&self, tx: &mut Tx, keys: &[MapKey]) -> Result<Vec<MapChange>, Error> {
        Ok(compare::current(tx, &self.default_domain, keys).await?)
    }

    /// Applies changes and gives them back.
    async fn apply(&self, changes: Vec<MapChange>) -> Result<Vec<MapChange>, Error> {
        let maps = Arc::clone(&self.maps);
        blocking(move || maps.apply(&changes).map(|()| changes)).await
    }

    /// Ends the open sessions of these logins, whose keys are in the maps, and clears their marks before anybody is
    /// told: a call that is made again must not find them.
    async fn end_sessions(self: &Arc<Self>, published: Vec<Pending>) -> Result<(), Error> {
        let ending = published
            .into_iter()
            .map(|pending| Arc::clone(self).end_sessions_of(pending));
        let mut endings = futures_util::stream::iter(ending).buffer_unordered(SESSION_ENDINGS_AT_ONCE);
        let mut failure = Ok(());
        let mut ended = Vec::new();
        while let Some(outcome) = endings.next().await {
            match outcome {
                Ok(pending) => ended.push(pending),
                Err(error) => {
                    tracing::error!(error = telemetry::chain(&error), "cannot end sessions");
                    failure = Err(error);
                }
            }
        }
        if let Err(error) = clear(&self.db, &ended).await {
            tracing::warn!(error = telemetry::chain(&error), "cannot clear published marks");
        }
        failure
    }

    async fn end_sessions_of(self: Arc<Self>, pending: Pending) -> Result<Pending, Error> {
        if let (MapKey::Address(login), Some(sessions)) = (&pending.key, &self.sessions) {
            sessions
                .end_sessions(login)
                .await
                .map_err(|error| Error::Sessions(Arc::new(error)))?;
        }
        Ok(pending)
    }
}

/// Marks of logins whose sessions have to end, and the others.
fn by_sessions(published: Vec<Pending>) -> (Vec<Pending>, Vec<Pending>) {
    published
        .into_iter()
        .partition(|pending| pending.sessions == SessionsToEnd::All)
}

/// Ticks after each pause; those missed are not made up for.
fn pausing(pause_ms: u64) -> Interval {
    let pause = Duration::from_millis(pause_ms);
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + pause, pause);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Clears marks behind the answers: a mark that outlives its publication costs one more publication, no more.
async fn clear_marks(db: Db, mut marks: mpsc::Receiver<Pending>) {
    let mut batch = Vec::new();
    while marks.recv_many(&mut batch, CLEAR_QUEUE_MAX).await > 0 {
        if let Err(error) = clear(&db, &batch).await {
            tracing::warn!(
                error = telemetry::chain(&error),
                marks = batch.len(),
                "cannot clear published marks"
            );
        }
        batch.clear();
    }
}

async fn clear(db: &Db, published: &[Pending]) -> Result<(), store::Error> {
    if published.is_empty() {
        return Ok(());
    }
    let mut tx = db.write().await?;
    tx.clear_unpublished(published).await?;
    tx.commit().await
}

/// Runs something that blocks on files away from the async threads.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, maps::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => Ok(result?),
        Err(panicked) if panicked.is_panic() => std::panic::resume_unwind(panicked.into_panic()),
        Err(_) => Err(Error::Stopped),
    }
}
