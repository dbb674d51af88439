//! The readiness barrier where it meets the publisher: who waits for what. What a real Dovecot says is in `e2e`.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use inboxd::{
    maps::{self, TableError},
    model::{
        address::Address,
        maps::{AddressState, Answer, BarrierMode, Login, Mailbox, MapKey},
        password::PasswordHash,
        sasl_name::{Generation, SaslName},
    },
    ops::inboxes,
    publish::{self, Barrier, Blind, LoginViewer, NotSeen, SessionEnder, SessionsError},
};
use tokio::time::Instant;

use super::{Rig, failures::LookUp};
use crate::support::{
    maps::{Running, assert_equal},
    service::{created, tenant_caller},
    store::{address, hash},
    wait::until,
};

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq)]
enum Trick {
    /// There is none before the deadline.
    Silent,
    /// There is no such login.
    Unknown,
}

/// Reads the password entries as Dovecot does, where it plays no tricks.
struct Eyes {
    passdb: PathBuf,
    tricks: Mutex<BTreeMap<Address, Trick>>,
    looks: AtomicUsize,
}

impl Eyes {
    fn of(rig: &Rig) -> Arc<Self> {
        Arc::new(Self {
            passdb: rig.layout.passdb(),
            tricks: Mutex::default(),
            looks: AtomicUsize::new(0),
        })
    }

    fn play(&self, login: &str, trick: Option<Trick>) {
        let mut tricks = self.tricks.lock().unwrap();
        tricks.remove(&address(login));
        tricks.extend(trick.map(|trick| (address(login), trick)));
    }

    fn trick(&self, login: &Address) -> Option<Trick> {
        self.tricks.lock().unwrap().get(login).copied()
    }

    fn read(&self, login: &Address) -> Answer {
        let entry = self
            .passdb
            .join(login.domain.as_str())
            .join(login.local_part.as_str());
        match fs::read_to_string(entry) {
            Ok(line) => {
                let fields: Vec<&str> = line.split(':').collect();
                let mailbox = Mailbox {
                    sasl_name: SaslName::parse(fields[4]).unwrap(),
                    login: Login::Open(PasswordHash::parse(fields[1]).unwrap()),
                };
                Answer::Found(mailbox.entry_mark())
            }
            Err(_) => Answer::Unknown,
        }
    }
}

impl LoginViewer for Eyes {
    fn look_up<'a>(
        &'a self,
        logins: &'a [Address],
        deadline: Instant,
        told: &'a mut (dyn FnMut(usize, Answer) + Send),
    ) -> Pin<Box<dyn Future<Output = Result<(), Blind>> + Send + 'a>> {
        Box::pin(async move {
            self.looks.fetch_add(1, Ordering::Relaxed);
            let (silent, others): (Vec<_>, Vec<_>) =
                (0..logins.len()).partition(|&index| self.trick(&logins[index]) == Some(Trick::Silent));
            for index in others {
                let login = &logins[index];
                let hidden = self.trick(login) == Some(Trick::Unknown);
                told(index, if hidden { Answer::Unknown } else { self.read(login) });
            }
            for index in silent {
                while self.trick(&logins[index]).is_some() {
                    if Instant::now() >= deadline {
                        return Err(Blind::NoAnswer(Arc::new(std::io::Error::from(
                            std::io::ErrorKind::TimedOut,
                        ))));
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                told(index, self.read(&logins[index]));
            }
            Ok(())
        })
    }
}

impl Rig {
    async fn with_eyes(
        &self,
        eyes: &Arc<Eyes>,
        mode: BarrierMode,
        sessions: Option<Arc<dyn SessionEnder>>,
    ) -> Running {
        let barrier = Barrier::new(mode, Arc::clone(eyes) as Arc<dyn LoginViewer>);
        let running = Running::with_barrier(&self.store.db, &self.layout, sessions, barrier).await;
        running.unwrap()
    }

    async fn keys_of(&self, username: &str) -> Vec<MapKey> {
        created(&self.service, self.acme.id, username).await.1
    }
}

#[tokio::test]
async fn a_login_that_is_not_answered_for_holds_up_its_own_creation_only() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let running = rig.with_eyes(&eyes, BarrierMode::Require, None).await;
    eyes.play("slow@inboxd.test", Some(Trick::Silent));
    let (slow, quick) = (rig.keys_of("slow").await, rig.keys_of("quick").await);
    let publisher = running.publisher.clone();
    let slow = tokio::spawn(async move { publisher.publish_new(slow).await });
    // On one thread the publisher runs when both have asked: they share its batch, and one look.
    running.publisher.publish_new(quick).await.unwrap();
    assert_eq!(eyes.looks.load(Ordering::Relaxed), 1);
    for number in 0..5 {
        let keys = rig.keys_of(&format!("other{number}")).await;
        running.publisher.publish_new(keys).await.unwrap();
    }
    assert!(!slow.is_finished(), "answered without an answer");
    eyes.play("slow@inboxd.test", None);
    slow.await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_seen_at_first_is_looked_at_again() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let running = rig.with_eyes(&eyes, BarrierMode::Require, None).await;
    eyes.play("scout@inboxd.test", Some(Trick::Unknown));
    let keys = rig.keys_of("scout").await;
    let publisher = running.publisher.clone();
    let creating = tokio::spawn(async move { publisher.publish_new(keys).await });
    until("a second look", || {
        std::future::ready((eyes.looks.load(Ordering::Relaxed) >= 2).then_some(()))
    })
    .await;
    assert!(!creating.is_finished());
    eyes.play("scout@inboxd.test", None);
    creating.await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn what_is_never_seen_fails_its_creation_and_stays_in_the_maps() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let running = rig.with_eyes(&eyes, BarrierMode::Require, None).await;
    for (name, trick) in [("scout", Trick::Unknown), ("mute", Trick::Silent)] {
        eyes.play(&format!("{name}@inboxd.test"), Some(trick));
        let refused = running.publisher.publish_new(rig.keys_of(name).await).await;
        let Err(publish::Error::NotSeen(reason)) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            match trick {
                Trick::Unknown => matches!(*reason, NotSeen::Unknown),
                Trick::Silent => matches!(*reason, NotSeen::Blind(Blind::NoAnswer(_))),
            },
            "{reason:?}"
        );
        // Nobody has to see it again for a change of another kind, or at the next start.
        running
            .publisher
            .publish(vec![MapKey::Address(address("scout@inboxd.test"))])
            .await
            .unwrap();
    }
    assert_equal(&rig.store.db, &rig.layout).await;
    running.stop().await;
    let looks = eyes.looks.load(Ordering::Relaxed);
    rig.with_eyes(&eyes, BarrierMode::Require, None)
        .await
        .stop()
        .await;
    assert_eq!(
        eyes.looks.load(Ordering::Relaxed),
        looks,
        "a start looked at logins"
    );
}

#[tokio::test]
async fn a_barrier_that_reports_lets_through_what_is_not_seen() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let running = rig.with_eyes(&eyes, BarrierMode::Report, None).await;
    for (name, trick) in [("scout", Trick::Unknown), ("mute", Trick::Silent)] {
        eyes.play(&format!("{name}@inboxd.test"), Some(trick));
        running
            .publisher
            .publish_new(rig.keys_of(name).await)
            .await
            .unwrap();
    }
    assert!(eyes.looks.load(Ordering::Relaxed) >= 2);
    running.stop().await;
}

#[tokio::test]
async fn what_changes_while_it_is_looked_at_is_seen_as_it_is_now() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let running = rig.with_eyes(&eyes, BarrierMode::Require, None).await;
    eyes.play("scout@inboxd.test", Some(Trick::Unknown));
    let (scout, keys) = created(&rig.service, rig.acme.id, "scout").await;
    let publisher = running.publisher.clone();
    let creating = tokio::spawn(async move { publisher.publish_new(keys).await });
    until("a look", || {
        std::future::ready((eyes.looks.load(Ordering::Relaxed) >= 1).then_some(()))
    })
    .await;
    let caller = tenant_caller(rig.acme.id);
    let rotated = inboxes::rotate_password(&rig.service, &caller, scout.inbox.id)
        .await
        .unwrap();
    running.publisher.publish(rotated.publish).await.unwrap();
    eyes.play("scout@inboxd.test", None);
    creating.await.unwrap().unwrap();
    running.stop().await;
}

/// Counts.
#[derive(Default)]
struct Endings(AtomicUsize);

impl SessionEnder for Endings {
    fn end_sessions<'a>(
        &'a self,
        _: &'a Address,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionsError>> + Send + 'a>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn a_creation_whose_mark_demands_it_waits_for_sessions_to_end_too() {
    let rig = Rig::new().await;
    let eyes = Eyes::of(&rig);
    let endings = Arc::new(Endings::default());
    let ender = Some(Arc::clone(&endings) as Arc<dyn SessionEnder>);
    let running = rig.with_eyes(&eyes, BarrierMode::Require, ender).await;
    let (scout, keys) = created(&rig.service, rig.acme.id, "scout").await;
    // Rotated by somebody whose own publication failed.
    let caller = tenant_caller(rig.acme.id);
    inboxes::rotate_password(&rig.service, &caller, scout.inbox.id)
        .await
        .unwrap();
    running.publisher.publish_new(keys).await.unwrap();
    assert_eq!(endings.0.load(Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test]
async fn the_tables_are_read_as_postfix_reads_them() {
    let rig = Rig::new().await;
    let running = Running::start(&rig.store.db, &rig.layout).await;
    let (scout, keys) = created(&rig.service, rig.acme.id, "scout").await;
    running.publisher.publish(keys).await.unwrap();
    let mailbox = |login| {
        AddressState::Mailbox(Mailbox {
            sasl_name: SaslName {
                inbox: scout.inbox.id,
                generation: Generation::FIRST,
            },
            login,
        })
    };
    let expected = [
        ("scout@inboxd.test", mailbox(Login::Open(hash(1))), true),
        ("scout@inboxd.test", mailbox(Login::Locked), false),
        ("scout@inboxd.test", AddressState::Absent, false),
        (
            "scout@inboxd.test",
            AddressState::Alias {
                canonical: address("x@inboxd.test"),
                sender: None,
            },
            false,
        ),
        ("nobody@inboxd.test", mailbox(Login::Open(hash(1))), false),
        ("nobody@inboxd.test", AddressState::Absent, true),
        ("nobody@elsewhere.test", AddressState::Absent, true),
    ];
    let states: Vec<_> = expected
        .iter()
        .map(|(name, state, _)| (address(name), state.clone()))
        .collect();
    let shown = running.maps.show_to_postfix(&states).unwrap();
    assert_eq!(shown, expected.map(|(_, _, shown)| shown));

    // Among look-ups of Postfix's own.
    let table = rig.layout.postfix().join("recipients.lmdb");
    let look_up = LookUp::hold(&table);
    assert_eq!(running.maps.show_to_postfix(&states[..1]).unwrap(), [true]);
    drop(look_up);

    // Postfix opens what has the name.
    let aside = table.with_extension("aside");
    fs::copy(&table, &aside).unwrap();
    fs::rename(&aside, &table).unwrap();
    let error = running.maps.show_to_postfix(&states[..1]).unwrap_err();
    assert!(
        matches!(
            error,
            maps::Error::Table {
                source: TableError::Gone,
                ..
            }
        ),
        "{error:?}"
    );
    running.stop().await;
}
