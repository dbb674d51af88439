//! Clients that use the mail servers without pause, each an inbox of its own, and what came of it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt as _;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    attempt,
    inbox::Inbox,
    mail::{self, Imap, Mail, Message},
    wait::{until, until_within},
    world::World,
};

/// Clients of each kind.
pub const CLIENTS: usize = 3;
/// Uses that show that a kind of client is at work.
const A_FEW: usize = 10;
/// After an outage Postfix tries again with pauses that grow to half a minute.
const QUEUE_LIMIT: Duration = Duration::from_mins(2);
/// A client does not begin more often than this: messages are accepted faster than they are delivered, and a queue that
/// only grows is another test.
const BEAT: Duration = Duration::from_millis(150);

/// What a client does all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Logs in over IMAP.
    Login,
    /// Logs in on submission and sends its inbox a message.
    Submission,
    /// Delivers a message from outside.
    Delivery,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Login, Self::Submission, Self::Delivery];
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    succeeded: [Arc<AtomicUsize>; 3],
    clients: Vec<(Kind, Inbox, JoinHandle<Seen>)>,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    succeeded: usize,
    failures: Vec<String>,
    /// Subjects of the messages that a server took over.
    accepted: BTreeSet<String>,
    /// Subjects of those that it may have taken over: the client did not hear.
    unsure: BTreeSet<String>,
}

impl Load {
    /// Makes inboxes and begins; returns when clients of every kind are at work.
    pub async fn begin(world: &World) -> Self {
        let tenant = world.tenant("Load").await;
        let stop = Arc::new(AtomicBool::new(false));
        let succeeded: [Arc<AtomicUsize>; 3] = Default::default();
        let mut clients = Vec::new();
        for kind in Kind::ALL {
            for number in 0..CLIENTS {
                let name = format!("{kind:?}-{number}").to_lowercase();
                let inbox = world.create(&tenant, &name).await;
                let work = work(
                    kind,
                    world.mail.clone(),
                    inbox.clone(),
                    Arc::clone(&stop),
                    Arc::clone(&succeeded[kind as usize]),
                );
                clients.push((kind, inbox, tokio::spawn(work)));
            }
        }
        let load = Self {
            stop,
            succeeded,
            clients,
        };
        load.a_few_more(&Kind::ALL).await;
        load
    }

    /// How many uses of this kind have succeeded so far.
    pub fn succeeded(&self, kind: Kind) -> usize {
        self.succeeded[kind as usize].load(Ordering::Relaxed)
    }

    /// Waits until a few more uses of each of these kinds have succeeded.
    pub async fn a_few_more(&self, kinds: &[Kind]) {
        let enough = kinds.iter().map(|&kind| (kind, self.succeeded(kind) + A_FEW));
        let enough: Vec<_> = enough.collect();
        until("clients of every kind succeed", || async {
            let have_enough = enough
                .iter()
                .all(|&(kind, enough)| self.succeeded(kind) >= enough);
            have_enough.then_some(())
        })
        .await;
    }

    /// Runs a command of an operator under this load: how many uses of each kind succeeded meanwhile.
    pub async fn during(&self, command: impl Future<Output = ()>) -> [usize; 3] {
        let before = Kind::ALL.map(|kind| self.succeeded(kind));
        command.await;
        Kind::ALL.map(|kind| self.succeeded(kind) - before[kind as usize])
    }

    /// Lets every client finish what it does.
    pub async fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome(Vec::new());
        for (kind, inbox, client) in self.clients {
            outcome.0.push((kind, inbox, client.await.unwrap()));
        }
        outcome
    }
}

async fn work(
    kind: Kind,
    mail: Mail,
    inbox: Inbox,
    stop: Arc<AtomicBool>,
    succeeded: Arc<AtomicUsize>,
) -> Seen {
    let mut seen = Seen::default();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        beat.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let message = Message::new(&format!("{kind:?} {number}."));
        let outcome = match kind {
            Kind::Login => attempt::imap(&mail, &inbox).await.map(drop),
            Kind::Submission => attempt::submission(&mail, &inbox, Some(&message)).await,
            Kind::Delivery => attempt::inbound(&mail, &inbox, Some(&message)).await,
        };
        let writes = kind != Kind::Login;
        match outcome {
            Ok(()) => {
                seen.succeeded += 1;
                succeeded.fetch_add(1, Ordering::Relaxed);
                seen.accepted.extend(writes.then_some(message.subject));
            }
            Err(error) => {
                seen.failures.push(format!("{kind:?} {number}: {error}"));
                seen.unsure.extend(writes.then_some(message.subject));
            }
        }
    }
    seen
}

/// What all clients saw.
pub struct Outcome(Vec<(Kind, Inbox, Seen)>);

impl Outcome {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Seen> {
        let of_kind = self.0.iter().filter(move |(of, _, _)| *of == kind);
        of_kind.map(|(_, _, seen)| seen)
    }

    /// How many uses succeeded, and how many did not.
    pub fn count(&self, kind: Kind) -> (usize, usize) {
        self.of(kind).fold((0, 0), |(succeeded, failed), seen| {
            (succeeded + seen.succeeded, failed + seen.failures.len())
        })
    }

    /// Fails if anything failed.
    pub fn assert_none_failed(&self, kinds: &[Kind]) {
        let failures = kinds
            .iter()
            .flat_map(|&kind| self.of(kind))
            .flat_map(|seen| &seen.failures);
        assert_eq!(failures.collect::<Vec<_>>(), Vec::<&String>::new());
    }

    /// Fails unless every message that was accepted is in its inbox, no other is, and none is still under way.
    pub async fn arrivals(&self, world: &World) -> Arrivals {
        until_within(QUEUE_LIMIT, "Postfix's queue is empty", || async {
            world.queue().await.is_empty().then_some(())
        })
        .await;
        let mut arrivals = Arrivals {
            messages: 0,
            repeated: 0,
        };
        for (_, inbox, seen) in &self.0 {
            let mut imap = world.mail.log_in(inbox).await;
            let there = subjects(&mut imap).await;
            let each: BTreeSet<_> = there.iter().cloned().collect();
            let lost: Vec<_> = seen.accepted.difference(&each).collect();
            assert!(lost.is_empty(), "accepted and lost: {lost:?}");
            let strange: Vec<_> = each
                .difference(&seen.accepted)
                .filter(|subject| !seen.unsure.contains(*subject))
                .collect();
            assert!(strange.is_empty(), "arrived and never sent: {strange:?}");
            arrivals.messages += each.len();
            arrivals.repeated += there.len() - each.len();
        }
        arrivals
    }
}

/// How many uses of each kind succeeded and failed.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Kind::ALL.map(|kind| self.count(kind));
        write!(f, "{:?}: {counts:?} (succeeded, failed)", Kind::ALL)
    }
}

/// Messages in the inboxes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrivals {
    /// Different ones.
    pub messages: usize,
    /// Further copies of them.
    pub repeated: usize,
}

/// The subjects of all messages in an inbox, in the order of their arrival.
pub async fn subjects(imap: &mut Imap) -> Vec<String> {
    if mail::count(imap, "INBOX").await == 0 {
        return Vec::new();
    }
    let fetched = imap.fetch("1:*", "BODY.PEEK[HEADER.FIELDS (SUBJECT)]");
    let fetched: Vec<_> = fetched.await.unwrap().try_collect().await.unwrap();
    let subject = |fetch: &async_imap::types::Fetch| {
        let header = String::from_utf8(fetch.header().unwrap().to_vec()).unwrap();
        let subject = header.trim().strip_prefix("Subject: ").unwrap();
        subject.to_owned()
    };
    fetched.iter().map(subject).collect()
}
