//! Shares of the IMAP sessions: whether one more session of a login may begin.
//!
//! Logins are counted as they are let in. Where that could be beyond a share, Dovecot is asked who is connected, since it alone
//! knows which sessions have ended. Where that is not known in time, no login is refused.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use super::sessions::{Sessions, Verdict};
use crate::{
    clock::{Clock, Timestamp},
    model::{
        ids::TenantId,
        session_share::{Share, ShareLimits},
    },
    telemetry,
};

/// Longest wait of a login for what is known of the sessions. Dovecot gives the request up after a second.
const ANSWER_TIMEOUT_MS: u64 = 700;
/// Shortest time between two times that Dovecot counts.
const COUNT_PAUSE_MS: i64 = 500;
/// The same after it could not be asked, and between two questions of the store that were not answered.
const FAILURE_PAUSE_MS: i64 = 5_000;
/// Longest wait for the store.
const STORE_TIMEOUT_MS: u64 = 1_000;
/// Logins of which the store is asked at a time.
pub const LOGINS_MAX: usize = 256;

/// A question that was not answered.
pub type Unanswered = Box<dyn std::error::Error + Send + Sync>;
/// An answer to come.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unanswered>> + Send + 'a>>;

/// What has to be asked elsewhere; behind a trait because only real mail servers have sessions.
pub trait Directory: Send + Sync {
    /// How many IMAP sessions each login has, in lower case.
    fn sessions(&self) -> Answer<'_, HashMap<Box<str>, u32>>;

    /// Whose these logins are, at most [`LOGINS_MAX`]; those that are of no inbox are left out.
    fn tenants<'a>(&'a self, logins: &'a [Box<str>]) -> Answer<'a, HashMap<Box<str>, TenantId>>;
}

/// The sessions and their limits. Cheap to clone.
#[derive(Clone)]
pub struct Shares(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    directory: Arc<dyn Directory>,
    sessions: Mutex<Sessions>,
    /// Held while something is asked.
    pauses: tokio::sync::Mutex<Pauses>,
}

/// From when on something may be asked again.
struct Pauses {
    dovecot: Timestamp,
    store: Timestamp,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").finish_non_exhaustive()
    }
}

impl Shares {
    /// No sessions are known yet.
    pub fn new(limits: ShareLimits, directory: Arc<dyn Directory>, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        Self(Arc::new(Inner {
            sessions: Mutex::new(Sessions::new(limits, now)),
            clock,
            directory,
            pauses: tokio::sync::Mutex::new(Pauses {
                dovecot: now,
                store: now,
            }),
        }))
    }

    /// Lets one more session of a login begin, or says whose share it would be beyond.
    pub(super) async fn let_in(&self, login: &str) -> Result<(), Share> {
        let login = login.to_lowercase();
        {
            let mut sessions = self.0.sessions();
            if sessions.judge(&login) == Verdict::Within {
                sessions.let_in(&login, self.0.clock.now());
                return Ok(());
            }
        }
        // In a task of its own: what was asked is of use to others, however long this login waits.
        let (inner, of) = (Arc::clone(&self.0), login.clone());
        let asking = tokio::spawn(async move { inner.ask(&of).await });
        let in_time = timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), asking).await;
        let mut sessions = self.0.sessions();
        match (in_time, sessions.judge(&login)) {
            (Ok(Ok(())), Verdict::Beyond(share)) => Err(share),
            // What is known may be old.
            (Err(_) | Ok(Err(_)), Verdict::Beyond(_)) | (_, Verdict::Within | Verdict::Unknown) => {
                sessions.let_in(&login, self.0.clock.now());
                Ok(())
            }
        }
    }
}

impl Inner {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // Nothing panics while it is held.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks what is not known, or may be old.
    async fn ask(&self, login: &str) {
        let mut pauses = self.pauses.lock().await;
        if self.clock.now() >= pauses.dovecot {
            let pause_ms = self.ask_dovecot().await;
            pauses.dovecot = self.after(pause_ms);
        }
        if self.clock.now() >= pauses.store {
            let pause_ms = self.ask_store(login).await;
            pauses.store = self.after(pause_ms);
        }
    }

    fn after(&self, pause_ms: i64) -> Timestamp {
        self.clock.now().plus_millis(pause_ms)
    }

    /// Returns after how many milliseconds it may be asked again.
    async fn ask_dovecot(&self) -> i64 {
        let asked = self.clock.now();
        match self.directory.sessions().await {
            Ok(by_dovecot) => {
                self.sessions().counted(by_dovecot, asked);
                COUNT_PAUSE_MS
            }
            Err(error) => {
                tracing::warn!(
                    error = telemetry::chain(&*error),
                    "cannot count IMAP sessions; no login is refused for their number"
                );
                self.sessions().forget();
                FAILURE_PAUSE_MS
            }
        }
    }

    /// Returns after how many milliseconds it may be asked again.
    async fn ask_store(&self, login: &str) -> i64 {
        let unknown = self.sessions().of_unknown_tenant(login);
        for logins in unknown.chunks(LOGINS_MAX) {
            let asked = timeout(
                Duration::from_millis(STORE_TIMEOUT_MS),
                self.directory.tenants(logins),
            );
            match asked.await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                Ok(mut tenants) => {
                    let learned = logins.iter().map(|login| (login.clone(), tenants.remove(login)));
                    self.sessions().learned(learned);
                }
                Err(error) => {
                    tracing::warn!(
                        error = telemetry::chain(&*error),
                        "cannot look up whose IMAP sessions are; no login is refused for those of its tenant"
                    );
                    return FAILURE_PAUSE_MS;
                }
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use uuid::Uuid;

    use super::*;
    use crate::clock::Hand;

    const LIMITS: ShareLimits = ShareLimits { inbox: 2, tenant: 2 };

    /// What a question gets.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    enum Mood {
        #[default]
        Answers,
        Fails,
        Hangs,
    }

    impl Mood {
        async fn answer<T>(self, answer: T) -> Result<T, Unanswered> {
            match self {
                Self::Answers => Ok(answer),
                Self::Fails => Err("it fails".into()),
                Self::Hangs => std::future::pending().await,
            }
        }
    }

    /// Where one login has all sessions that it may have, and all are of one tenant.
    #[derive(Default)]
    struct Fake {
        dovecot: Mood,
        store: Mood,
        dovecot_asked: AtomicUsize,
        store_asked: AtomicUsize,
    }

    impl Directory for Fake {
        fn sessions(&self) -> Answer<'_, HashMap<Box<str>, u32>> {
            self.dovecot_asked.fetch_add(1, Relaxed);
            let sessions = HashMap::from([("full@b.test".into(), LIMITS.inbox)]);
            Box::pin(self.dovecot.answer(sessions))
        }

        fn tenants<'a>(&'a self, logins: &'a [Box<str>]) -> Answer<'a, HashMap<Box<str>, TenantId>> {
            self.store_asked.fetch_add(1, Relaxed);
            let tenants = logins.iter().map(|login| (login.clone(), TenantId(Uuid::nil())));
            Box::pin(self.store.answer(tenants.collect()))
        }
    }

    fn shares(fake: Fake) -> (Shares, Arc<Fake>, Arc<Hand>) {
        let (fake, clock) = (Arc::new(fake), Arc::new(Hand::default()));
        let shares = Shares::new(LIMITS, Arc::clone(&fake) as _, Arc::clone(&clock) as _);
        (shares, fake, clock)
    }

    #[tokio::test]
    async fn refusals_do_not_ask_again_at_once() {
        let (shares, fake, clock) = shares(Fake::default());
        for _ in 0..100 {
            assert_eq!(shares.let_in("Full@b.test").await, Err(Share::Inbox));
            assert_eq!(shares.let_in("other@b.test").await, Err(Share::Tenant));
        }
        assert_eq!(fake.dovecot_asked.load(Relaxed), 1);
        // For each of the two.
        assert_eq!(fake.store_asked.load(Relaxed), 2);
        clock.advance_millis(COUNT_PAUSE_MS);
        assert_eq!(shares.let_in("full@b.test").await, Err(Share::Inbox));
        assert_eq!(fake.dovecot_asked.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn a_dovecot_that_fails_refuses_no_login_and_is_left_alone_for_a_while() {
        let (shares, fake, clock) = shares(Fake {
            dovecot: Mood::Fails,
            ..Fake::default()
        });
        for _ in 0..100 {
            assert_eq!(shares.let_in("full@b.test").await, Ok(()));
        }
        assert_eq!(fake.dovecot_asked.load(Relaxed), 1);
        clock.advance_millis(FAILURE_PAUSE_MS);
        assert_eq!(shares.let_in("full@b.test").await, Ok(()));
        assert_eq!(fake.dovecot_asked.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn a_store_that_fails_leaves_the_share_of_an_inbox() {
        let (shares, fake, _clock) = shares(Fake {
            store: Mood::Fails,
            ..Fake::default()
        });
        for _ in 0..2 {
            assert_eq!(shares.let_in("other@b.test").await, Ok(()));
            assert_eq!(shares.let_in("full@b.test").await, Err(Share::Inbox));
        }
        assert_eq!(fake.store_asked.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_login_does_not_wait_for_what_hangs() {
        for (dovecot, store) in [(Mood::Hangs, Mood::Answers), (Mood::Answers, Mood::Hangs)] {
            let (shares, ..) = shares(Fake {
                dovecot,
                store,
                ..Fake::default()
            });
            assert_eq!(shares.let_in("other@b.test").await, Ok(()));
        }
    }
}
