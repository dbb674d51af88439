//! Submission sessions at a time: no inbox and no tenant has more than its share of them.
//!
//! The sessions are counted here. Whose an inbox is has to be asked ([`Tenants`]), and is only where a tenant could have its
//! share: when all sessions together are as many. What is not known in time refuses no session.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::timeout;

use super::tenants::{INBOXES_MAX, Tenants};
use crate::{
    clock::{Clock, Timestamp},
    model::{
        ids::{InboxId, TenantId},
        sasl_name::SaslName,
        session_share::{Share, ShareLimits},
    },
    telemetry,
};

/// An inbox that has a session already has fewer than the free places divided by this: the fewer are left, the less one inbox
/// gets (dynamic thresholds; Choudhury and Hahne, 1998). This is what keeps a few inboxes from taking all, also while it is not
/// known whose they are.
const PART_OF_FREE: u32 = 10;
/// Longest wait of a session for whose the inboxes are.
const ANSWER_TIMEOUT_MS: u64 = 700;
/// Shortest time between a question that was not answered and the next one.
const FAILURE_PAUSE_MS: i64 = 5_000;
/// Inboxes without a session whose tenants are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Most submission sessions at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// All of them (`smtp.sessions_max`).
    pub all: u32,
    /// The parts of them (`smtp.sessions_per_inbox_max`, `smtp.sessions_per_tenant_max`).
    pub shares: ShareLimits,
}

/// Who has logged in. All generations of an inbox's credentials share its places. A login by a password entry of an earlier
/// release counts for itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Holder {
    Inbox(InboxId),
    Other(Box<str>),
}

/// Whose an inbox is. Those without a tenant share what a tenant may have: they can send nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Tenant(TenantId),
    /// The store has no such inbox (any more).
    NoTenant,
}

/// Whether one more session is within the shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Within,
    Beyond(Share),
    /// It depends on whose inboxes are.
    Unknown,
}

/// The sessions that have begun a message, by who has logged in. A session without one is not known here.
pub(super) struct OpenSessions {
    limits: SessionLimits,
    open: Mutex<Open>,
    tenants: Arc<dyn Tenants>,
    clock: Arc<dyn Clock>,
    /// From when on the tenants may be asked for; held while they are.
    next_question: tokio::sync::Mutex<Timestamp>,
}

#[derive(Debug, Default)]
struct Open {
    of_holder: HashMap<Holder, u32>,
    all: u32,
    /// An inbox stays with its tenant, so what is known stays right.
    owners: HashMap<InboxId, Owner>,
}

/// The place of one session, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    holder: Holder,
    of: Arc<OpenSessions>,
}

impl fmt::Debug for OpenSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSessions").finish_non_exhaustive()
    }
}

impl Holder {
    fn of(login: &str) -> Self {
        match SaslName::parse(login) {
            Ok(name) => Self::Inbox(name.inbox),
            Err(_) => Self::Other(login.into()),
        }
    }
}

impl OpenSessions {
    pub(super) fn new(limits: SessionLimits, tenants: Arc<dyn Tenants>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
            tenants,
            next_question: tokio::sync::Mutex::new(clock.now()),
            clock,
        })
    }

    /// A place for a session of this login, or whose share it would be beyond. Waits for at most [`ANSWER_TIMEOUT_MS`].
    pub(super) async fn take(self: &Arc<Self>, login: &str) -> Result<Place, Share> {
        let holder = Holder::of(login);
        {
            let mut open = self.open();
            match open.judge(self.limits, &holder) {
                Verdict::Within => return Ok(self.place(&mut open, holder)),
                Verdict::Beyond(share) => return Err(share),
                Verdict::Unknown => {}
            }
        }
        // In a task of its own: what was asked is of use to others, however long this session waits.
        let (sessions, asker) = (Arc::clone(self), holder.clone());
        let asking = tokio::spawn(async move { sessions.ask(&asker).await });
        if timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), asking)
            .await
            .is_err()
        {
            tracing::debug!(login, "a session does not wait for whose its inbox is");
        }
        let mut open = self.open();
        match open.judge(self.limits, &holder) {
            Verdict::Beyond(share) => Err(share),
            Verdict::Within | Verdict::Unknown => Ok(self.place(&mut open, holder)),
        }
    }

    fn place(self: &Arc<Self>, open: &mut Open, holder: Holder) -> Place {
        open.add(&holder);
        Place {
            holder,
            of: Arc::clone(self),
        }
    }

    /// Asks whose the inboxes are of which that is not known: those with sessions, and that of this login.
    async fn ask(&self, holder: &Holder) {
        let mut next_question = self.next_question.lock().await;
        if self.clock.now() < *next_question {
            return;
        }
        let unknown = self.open().without_owner(holder);
        for inboxes in unknown.chunks(INBOXES_MAX) {
            let asked = timeout(
                Duration::from_millis(ANSWER_TIMEOUT_MS),
                self.tenants.tenants_of(inboxes),
            );
            match asked.await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                Ok(tenants) => self.open().learn(inboxes, &tenants),
                Err(error) => {
                    tracing::warn!(
                        error = telemetry::chain(&*error),
                        "cannot ask inboxd whose inboxes have sessions; no session is refused for those of its tenant"
                    );
                    *next_question = self.clock.now().plus_millis(FAILURE_PAUSE_MS);
                    return;
                }
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether one more session of this login is within the shares.
    fn judge(&self, limits: SessionLimits, holder: &Holder) -> Verdict {
        let own = self.of_holder.get(holder).copied().unwrap_or(0);
        let free = limits.all.saturating_sub(self.all);
        if own >= limits.shares.inbox || (own > 0 && own * PART_OF_FREE >= free) {
            return Verdict::Beyond(Share::Inbox);
        }
        let per_tenant = limits.shares.tenant;
        if self.all < per_tenant {
            return Verdict::Within;
        }
        let Some(owner) = self.owner(holder) else {
            return Verdict::Unknown;
        };
        let (mut of_owner, mut unknown) = (0, 0);
        for (other, sessions) in &self.of_holder {
            match self.owner(other) {
                Some(others) if others == owner => of_owner += sessions,
                Some(_) => {}
                None => unknown += sessions,
            }
        }
        if of_owner >= per_tenant {
            Verdict::Beyond(Share::Tenant)
        } else if of_owner + unknown >= per_tenant {
            Verdict::Unknown
        } else {
            Verdict::Within
        }
    }

    /// Whose a login's inbox is, if that is known.
    fn owner(&self, holder: &Holder) -> Option<Owner> {
        match holder {
            Holder::Inbox(inbox) => self.owners.get(inbox).copied(),
            Holder::Other(_) => Some(Owner::NoTenant),
        }
    }

    /// The inboxes of which it is not known whose they are: those with sessions, and at last that of this login.
    fn without_owner(&self, last: &Holder) -> Vec<InboxId> {
        let others = self.of_holder.keys().filter(|&holder| holder != last);
        let unknown = others.chain([last]).filter(|holder| self.owner(holder).is_none());
        unknown
            .filter_map(|holder| match holder {
                Holder::Inbox(inbox) => Some(*inbox),
                Holder::Other(_) => None,
            })
            .collect()
    }

    /// Notes whose these inboxes are, by an answer.
    fn learn(&mut self, inboxes: &[InboxId], tenants: &HashMap<InboxId, TenantId>) {
        if self.owners.len() + inboxes.len() > REMEMBERED_MAX {
            let of_holder = &self.of_holder;
            self.owners
                .retain(|inbox, _| of_holder.contains_key(&Holder::Inbox(*inbox)));
        }
        self.owners.extend(inboxes.iter().map(|inbox| {
            let tenant = tenants.get(inbox).copied();
            (*inbox, tenant.map_or(Owner::NoTenant, Owner::Tenant))
        }));
    }

    fn add(&mut self, holder: &Holder) {
        *self.of_holder.entry(holder.clone()).or_default() += 1;
        self.all += 1;
    }

    fn remove(&mut self, holder: &Holder) {
        self.all -= 1;
        let Some(sessions) = self.of_holder.get_mut(holder) else {
            return;
        };
        *sessions -= 1;
        if *sessions == 0 {
            self.of_holder.remove(holder);
        }
    }
}

impl Place {
    /// Whether it is one for this login.
    pub(super) fn is_of(&self, login: &str) -> bool {
        self.holder == Holder::of(login)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.open().remove(&self.holder);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use async_trait::async_trait;
    use uuid::Uuid;

    use super::{super::tenants::Unanswered, *};
    use crate::clock::Hand;

    /// What a question gets.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    enum Mood {
        #[default]
        Answers,
        Fails,
        Hangs,
    }

    /// Ten inboxes each tenant, from number 0; a thousand and more do not exist.
    #[derive(Default)]
    struct Fake {
        mood: Mutex<Mood>,
        asked: AtomicUsize,
    }

    impl Fake {
        fn set(&self, mood: Mood) {
            *self.mood.lock().unwrap() = mood;
        }
    }

    #[async_trait]
    impl Tenants for Fake {
        async fn tenants_of(&self, inboxes: &[InboxId]) -> Result<HashMap<InboxId, TenantId>, Unanswered> {
            assert!(inboxes.len() <= INBOXES_MAX);
            self.asked.fetch_add(1, Relaxed);
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Answers => {}
                Mood::Fails => return Err("it fails".into()),
                Mood::Hangs => std::future::pending().await,
            }
            let number = |inbox: &InboxId| format!("{:x}", inbox.0.as_u128()).parse::<u128>().unwrap();
            let there = inboxes.iter().filter(|inbox| number(inbox) < 1_000);
            Ok(there
                .map(|inbox| (*inbox, TenantId(Uuid::from_u128(number(inbox) / 10))))
                .collect())
        }
    }

    fn login(inbox: usize, generation: u32) -> String {
        format!("00000000-0000-0000-0000-{inbox:012}.{generation}")
    }

    fn open(all: u32, inbox: u32, tenant: u32) -> (Arc<OpenSessions>, Arc<Fake>, Arc<Hand>) {
        let (fake, clock) = (Arc::new(Fake::default()), Arc::new(Hand::default()));
        let limits = SessionLimits {
            all,
            shares: ShareLimits { inbox, tenant },
        };
        let sessions = OpenSessions::new(limits, Arc::clone(&fake) as _, Arc::clone(&clock) as _);
        (sessions, fake, clock)
    }

    async fn take(sessions: &Arc<OpenSessions>, inbox: usize) -> Result<Place, Share> {
        sessions.take(&login(inbox, 1)).await
    }

    /// As many places for this inbox as it gets, and whose share the next would be beyond.
    async fn fill(sessions: &Arc<OpenSessions>, inbox: usize) -> (Vec<Place>, Share) {
        let mut held = Vec::new();
        loop {
            match take(sessions, inbox).await {
                Ok(place) => held.push(place),
                Err(share) => return (held, share),
            }
        }
    }

    #[tokio::test]
    async fn an_inbox_has_its_places_and_gives_them_back() {
        let (sessions, fake, _) = open(100, 2, 100);
        let [first, rotated, other] =
            [(1, 1), (1, 2), (2, 1)].map(|(inbox, generation)| login(inbox, generation));
        let mut held = vec![
            sessions.take(&first).await.unwrap(),
            sessions.take(&rotated).await.unwrap(),
        ];
        assert!(
            held.iter()
                .all(|place| place.is_of(&first) && !place.is_of(&other))
        );
        for login in [&first, &rotated] {
            assert_eq!(sessions.take(login).await.unwrap_err(), Share::Inbox);
        }
        let others = sessions.take(&other).await.unwrap();
        held.pop();
        held.push(sessions.take(&first).await.unwrap());
        assert_eq!(sessions.take(&first).await.unwrap_err(), Share::Inbox);
        drop((held, others));
        assert!(sessions.open().of_holder.is_empty());
        assert_eq!(sessions.open().all, 0);
        assert_eq!(fake.asked.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn inboxes_that_take_what_they_get_leave_places_for_others() {
        let (sessions, fake, _) = open(600, 50, 600);
        let (mut held, _) = fill(&sessions, 0).await;
        assert_eq!(held.len(), 50);
        for inbox in 1..12 {
            held.extend(fill(&sessions, inbox).await.0);
        }
        let free = 600 - held.len();
        assert!(free > 150, "{free}");
        // Whoever has none gets one while there is any.
        for number in 0..free {
            held.push(take(&sessions, 1_000 + number).await.unwrap());
        }
        assert_eq!(take(&sessions, 0).await.unwrap_err(), Share::Inbox);
        assert_eq!(fake.asked.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn the_inboxes_of_a_tenant_share_its_places() {
        let (sessions, fake, _) = open(600, 3, 7);
        let mut held = Vec::new();
        for (inbox, places, beyond) in [(0, 3, Share::Inbox), (1, 3, Share::Inbox), (2, 1, Share::Tenant)] {
            let (of_inbox, share) = fill(&sessions, inbox).await;
            assert_eq!((of_inbox.len(), share), (places, beyond), "{inbox}");
            held.push(of_inbox);
        }
        // One question, about all three; it is known from then on.
        assert_eq!(fake.asked.load(Relaxed), 1);
        assert_eq!(take(&sessions, 2).await.unwrap_err(), Share::Tenant);
        assert_eq!(fake.asked.load(Relaxed), 1);
        // An inbox of the tenant that has none, and one of another tenant.
        assert_eq!(take(&sessions, 9).await.unwrap_err(), Share::Tenant);
        assert_eq!(fill(&sessions, 10).await.0.len(), 3);
        // What ends is free for the others.
        held[0].pop();
        let place = take(&sessions, 9).await.unwrap();
        assert_eq!(take(&sessions, 9).await.unwrap_err(), Share::Tenant);
        drop(place);
        take(&sessions, 2).await.unwrap();
    }

    #[tokio::test]
    async fn logins_of_no_inbox_share_what_a_tenant_may_have() {
        let (sessions, ..) = open(600, 3, 4);
        let mut held = fill(&sessions, 1_000).await.0;
        held.push(sessions.take("scout@example.com").await.unwrap());
        for login in [login(1_001, 1), "scout@example.com".to_owned()] {
            assert_eq!(sessions.take(&login).await.unwrap_err(), Share::Tenant);
        }
        assert_eq!(fill(&sessions, 0).await.0.len(), 3);
        held.pop();
        take(&sessions, 1_001).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_known_refuses_no_session_and_is_not_asked_again_at_once() {
        for mood in [Mood::Fails, Mood::Hangs] {
            let (sessions, fake, clock) = open(600, 3, 4);
            fake.set(mood);
            let mut held = Vec::new();
            for inbox in 0..4 {
                held.extend(fill(&sessions, inbox).await.0);
            }
            // The share of an inbox holds all the same.
            assert_eq!(held.len(), 12);
            assert_eq!(fake.asked.load(Relaxed), 1);
            clock.advance_millis(FAILURE_PAUSE_MS);
            fake.set(Mood::Answers);
            assert_eq!(take(&sessions, 5).await.unwrap_err(), Share::Tenant);
            // What is known holds also while there is no answer.
            fake.set(mood);
            assert_eq!(take(&sessions, 5).await.unwrap_err(), Share::Tenant);
            take(&sessions, 6).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_limit() {
        let (sessions, ..) = open(600, 3, 1);
        let held = take(&sessions, 0).await.unwrap();
        take(&sessions, 10).await.unwrap();
        let kept = InboxId(Uuid::from_u128(0));
        let strangers: Vec<_> = (0..REMEMBERED_MAX)
            .map(|number| InboxId(Uuid::from_u128(0xffff_0000 + number as u128)))
            .collect();
        let mut open = sessions.open();
        for inboxes in strangers.chunks(INBOXES_MAX) {
            open.learn(inboxes, &HashMap::new());
            assert!(open.owners.len() <= REMEMBERED_MAX);
        }
        assert!(matches!(open.owners.get(&kept), Some(Owner::Tenant(_))));
        drop(open);
        drop(held);
    }
}
