//! The readiness barrier: a creation is answered when its login has been seen through the mail servers themselves.
//!
//! For creations only. What a rotation, a suspension or a deletion promises is that nobody gets in any more, and that is
//! for the ending of sessions to see; they go on without a Dovecot, as nobody gets in then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Error, Parts, Request, blocking};
use crate::{
    model::{
        address::Address,
        maps::{AddressState, Answer, BarrierMode, MapChange, MapKey},
    },
    store::{self, Pending},
    telemetry::{self, metric},
};

/// How long a creation may wait until its login is seen, where it must be.
const REQUIRED_WITHIN_MS: u64 = 2_000;
/// The same where it is only reported.
const REPORTED_WITHIN_MS: u64 = 250;
/// Pause before the second look, and the longest that it grows to.
const LOOK_PAUSE_MS: u64 = 20;
const LOOK_PAUSE_MAX_MS: u64 = 320;
/// Pause between two lines in the log about what was not seen.
const WARNING_PAUSE_MS: u64 = 10_000;

/// Sees logins through Dovecot; behind a trait because only a real mail server has eyes.
pub trait LoginViewer: Send + Sync {
    /// Looks up all of these logins, and tells each answer as it comes, with the login's index. When it fails, the
    /// logins that nothing was told about are those that it could not see.
    fn look_up<'a>(
        &'a self,
        logins: &'a [Address],
        deadline: Instant,
        told: &'a mut (dyn FnMut(usize, Answer) + Send),
    ) -> Pin<Box<dyn Future<Output = Result<(), Blind>> + Send + 'a>>;
}

/// Logins could not be looked up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Blind {
    /// No mail server is there that could be asked.
    #[error("there is no Dovecot to ask")]
    NoServer(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// It is there, and its configuration has no place to ask.
    #[error("Dovecot cannot be asked")]
    NoListener(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// It does not answer, or not in time, or something else than an answer.
    #[error("Dovecot does not answer")]
    NoAnswer(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// Why the login of a creation was not seen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotSeen {
    /// The tables that Postfix opens do not say what they should, or cannot be read.
    #[error("Postfix does not find it in its tables")]
    Postfix,
    /// Dovecot does not know the login, or the login of something that is no mailbox.
    #[error("Dovecot reads that there is no such login")]
    Unknown,
    /// Dovecot knows the login with another password.
    #[error(
        "Dovecot reads another entry than the one that was written, or its Lua script is older than this inboxd"
    )]
    OtherEntry,
    /// Dovecot cannot read the entry.
    #[error("Dovecot cannot read its entry; Dovecot's log says why")]
    Unreadable,
    /// Dovecot said nothing.
    #[error("look it up through Dovecot")]
    Blind(#[source] Blind),
}

impl NotSeen {
    /// The label of the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Unknown => "unknown",
            Self::OtherEntry => "other_entry",
            Self::Unreadable => "unreadable",
            Self::Blind(Blind::NoServer(_)) => "no_server",
            Self::Blind(Blind::NoListener(_)) => "no_listener",
            Self::Blind(Blind::NoAnswer(_)) => "no_answer",
        }
    }

    fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Found(_) => Self::OtherEntry,
            Answer::Unknown => Self::Unknown,
            Answer::Failed => Self::Unreadable,
        }
    }
}

/// The barrier, where there is one.
pub struct Barrier {
    viewer: Arc<dyn LoginViewer>,
    is_required: bool,
    /// When the log was last told of what is not seen.
    warned: Mutex<Option<Instant>>,
}

impl Barrier {
    /// None where nothing is to be asked.
    pub fn new(mode: BarrierMode, viewer: Arc<dyn LoginViewer>) -> Option<Self> {
        (mode != BarrierMode::Off).then(|| Self {
            viewer,
            is_required: mode == BarrierMode::Require,
            warned: Mutex::new(None),
        })
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(if self.is_required {
            REQUIRED_WITHIN_MS
        } else {
            REPORTED_WITHIN_MS
        })
    }

    fn report(&self, not_seen: &BTreeMap<Address, NotSeen>) {
        for reason in not_seen.values() {
            metric::BARRIER_NOT_SEEN_TOTAL.increment(&[reason.reason()]);
        }
        let Some((login, reason)) = not_seen.first_key_value() else {
            return;
        };
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = Duration::from_millis(WARNING_PAUSE_MS);
        if warned.is_none_or(|then| now.duration_since(then) >= pause) {
            *warned = Some(now);
            tracing::warn!(
                %login,
                why = telemetry::chain(reason),
                logins = not_seen.len(),
                answered = !self.is_required,
                "new logins are not seen through the mail servers"
            );
        }
    }
}

/// A creation that is in the maps, and not answered yet.
pub(super) struct Unseen {
    pub(super) request: Request,
    /// Marks of its keys whose sessions have to end before it is answered.
    pub(super) sessions: Vec<Pending>,
}

/// Creations of one batch, and what is still to be seen of them.
struct Waiting {
    creations: Vec<Unseen>,
    expected: BTreeMap<Address, AddressState>,
    /// Seen, and not to be answered before sessions have ended.
    seen: Vec<Unseen>,
}

impl Waiting {
    /// This login was seen: answers the creations that waited for it alone.
    fn settle(&mut self, login: &Address) {
        self.expected.remove(login);
        let waits = |creation: &mut Unseen| {
            creation
                .request
                .keys
                .iter()
                .any(|key| matches!(key, MapKey::Address(address) if self.expected.contains_key(address)))
        };
        for creation in self.creations.extract_if(.., |creation| !waits(creation)) {
            if creation.sessions.is_empty() {
                // A caller that has gone away needs no answer.
                let _ = creation.request.done.send(Ok(()));
            } else {
                self.seen.push(creation);
            }
        }
    }
}

impl Parts {
    /// Answers creations of one batch as their logins are seen, and those that are not, at the latest after a time limit.
    /// Returns those whose answer has to wait for sessions to end.
    pub(super) async fn see(
        self: Arc<Self>,
        creations: Vec<Unseen>,
        published: Vec<MapChange>,
    ) -> Vec<Unseen> {
        let begun = Instant::now();
        let mut waiting = Waiting {
            expected: expected_of(&creations, published),
            creations,
            seen: Vec::new(),
        };
        let mut not_seen = BTreeMap::new();
        if let Some(barrier) = &self.barrier {
            let deadline = begun + barrier.limit();
            let mut pause = Duration::from_millis(LOOK_PAUSE_MS);
            loop {
                not_seen = self.look_at(barrier, &mut waiting, deadline).await;
                if waiting.expected.is_empty() || Instant::now() + pause >= deadline {
                    break;
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(LOOK_PAUSE_MAX_MS));
                if let Err(error) = self.refresh(&mut waiting.expected).await {
                    tracing::warn!(
                        error = telemetry::chain(&error),
                        "cannot read what should be seen"
                    );
                }
            }
            metric::BARRIER_DURATION_SECONDS.observe(begun.elapsed(), &[]);
            barrier.report(&not_seen);
            if !barrier.is_required {
                not_seen.clear();
            }
        }
        for creation in waiting.creations {
            let reason = creation.request.keys.iter().find_map(|key| match key {
                MapKey::Address(address) => not_seen.get(address),
                MapKey::Domain(_) => None,
            });
            match reason {
                Some(reason) => {
                    let _ = creation
                        .request
                        .done
                        .send(Err(Error::NotSeen(Arc::new(reason.clone()))));
                }
                None if creation.sessions.is_empty() => {
                    let _ = creation.request.done.send(Ok(()));
                }
                None => waiting.seen.push(creation),
            }
        }
        waiting.seen
    }

    /// One look through both servers. Returns what is not seen, and why.
    async fn look_at(
        &self,
        barrier: &Barrier,
        waiting: &mut Waiting,
        deadline: Instant,
    ) -> BTreeMap<Address, NotSeen> {
        let expected: Vec<(Address, AddressState)> = waiting
            .expected
            .iter()
            .map(|(address, state)| (address.clone(), state.clone()))
            .collect();
        let (maps, asked) = (Arc::clone(&self.maps), expected.clone());
        let in_postfix = match blocking(move || maps.show_to_postfix(&asked)).await {
            Ok(in_postfix) => in_postfix,
            Err(error) => {
                tracing::warn!(
                    error = telemetry::chain(&error),
                    "cannot read the tables as Postfix does"
                );
                vec![false; expected.len()]
            }
        };
        let mut not_seen = BTreeMap::new();
        let mut asked = Vec::with_capacity(expected.len());
        for ((address, state), there) in expected.into_iter().zip(in_postfix) {
            if there {
                asked.push((address, state));
            } else {
                not_seen.insert(address, NotSeen::Postfix);
            }
        }
        let logins: Vec<Address> = asked.iter().map(|(address, _)| address.clone()).collect();
        let mut answered = BTreeSet::new();
        let mut told = |index: usize, answer: Answer| {
            let (login, state) = &asked[index];
            answered.insert(index);
            if state.is_seen_in(&answer) {
                waiting.settle(login);
            } else {
                not_seen.insert(login.clone(), NotSeen::of(&answer));
            }
        };
        if let Err(blind) = barrier.viewer.look_up(&logins, deadline, &mut told).await {
            for (index, login) in logins.into_iter().enumerate() {
                if !answered.contains(&index) {
                    not_seen.insert(login, NotSeen::Blind(blind.clone()));
                }
            }
        }
        not_seen
    }

    /// What should be seen now: it may have been changed again since it was published.
    async fn refresh(&self, expected: &mut BTreeMap<Address, AddressState>) -> Result<(), store::Error> {
        let mut tx = self.db.read().await?;
        let addresses: Vec<Address> = expected.keys().cloned().collect();
        for addresses in addresses.chunks(store::ROWS_MAX) {
            let addresses: Vec<&Address> = addresses.iter().collect();
            let mut states: HashMap<_, _> = tx.address_states(&addresses).await?.into_iter().collect();
            for address in addresses {
                let state = states.remove(address).unwrap_or(AddressState::Absent);
                expected.insert(address.clone(), state);
            }
        }
        Ok(())
    }
}

/// The addresses of these creations, and the states that were published.
fn expected_of(creations: &[Unseen], published: Vec<MapChange>) -> BTreeMap<Address, AddressState> {
    let keys: BTreeSet<&MapKey> = creations
        .iter()
        .flat_map(|creation| &creation.request.keys)
        .collect();
    published
        .into_iter()
        .filter_map(|change| match change {
            MapChange::Address(address, state) if keys.contains(&MapKey::Address(address.clone())) => {
                Some((address, state))
            }
            MapChange::Address(..) | MapChange::Domain(..) => None,
        })
        .collect()
}
