//! Inboxes that are created and used at once while everybody else logs in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    attempt::{self, STRANGER},
    inbox::Inbox,
    mail::{Mail, Message},
    wait::{LIMIT, until},
    world::World,
};

/// Inboxes that are created, one after another.
const CREATED: usize = 500;
/// Addresses that one inbox is given and loses again.
const ADDED: usize = 200;
/// Every how many of them gets a whole message.
const MESSAGE_EVERY: usize = 10;
/// Owners of other inboxes who log in all the time, half of them over IMAP, half on submission.
const OTHERS: usize = 6;

/// Messages that come at once for one inbox.
const BURST: usize = 300;
/// Connections that bring them.
const BEARERS: usize = 25;

/// What came of the first attempts.
#[derive(Default)]
struct Attempts {
    succeeded: usize,
    failures: Vec<String>,
    took: Duration,
}

impl Attempts {
    async fn count(&mut self, who: &Inbox, attempt: impl Future<Output = Result<(), String>>) {
        let begun = Instant::now();
        match attempt.await {
            Ok(()) => self.succeeded += 1,
            Err(error) => self.failures.push(format!("{}: {error}", who.email)),
        }
        self.took += begun.elapsed();
    }
}

/// Logs in again and again until told to stop; counts, and collects what failed.
fn log_in_all_the_time(
    mail: Mail,
    inbox: Inbox,
    over_imap: bool,
    stop: Arc<AtomicBool>,
    logins: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut failures = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let outcome = if over_imap {
                imap(&mail, &inbox, 0).await
            } else {
                attempt::submission(&mail, &inbox, None).await
            };
            match outcome {
                Ok(()) => logins.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    failures.push(format!("{}: {error}", inbox.email));
                    0
                }
            };
        }
        failures
    })
}

/// Owners of other inboxes who log in all the time.
pub struct Storm {
    stop: Arc<AtomicBool>,
    logins: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Storm {
    pub async fn begin(world: &World) -> Self {
        let (stop, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let crowd = world.tenant("Crowd").await;
        let mut tasks = Vec::new();
        for number in 0..OTHERS {
            let other = world.create(&crowd, &format!("other-{number}")).await;
            let (stop, logins) = (Arc::clone(&stop), Arc::clone(&logins));
            tasks.push(log_in_all_the_time(
                world.mail.clone(),
                other,
                number % 2 == 0,
                stop,
                logins,
            ));
        }
        Self { stop, logins, tasks }
    }

    /// Ends it; none of the logins may have failed. Returns how many there were.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        assert_eq!(failures, Vec::<String>::new(), "logins of others failed");
        self.logins.load(Ordering::Relaxed)
    }
}

/// Looks into an inbox in which there are so many messages at most.
async fn imap(mail: &Mail, inbox: &Inbox, at_most: u32) -> Result<(), String> {
    let exists = attempt::imap(mail, inbox).await?;
    if exists <= at_most {
        Ok(())
    } else {
        Err(format!("{exists} messages in a new mailbox"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_new_inboxes_work_at_their_first_use_in_a_login_storm() {
    World::run(async |world| {
        let begun = Instant::now();
        let storm = Storm::begin(world).await;
        let tenant = world.tenant("Acme").await;
        let [mut over_imap, mut over_submission, mut from_outside]: [Attempts; 3] = Default::default();
        let mut creating = Duration::ZERO;
        let mut with_message = Vec::new();
        for number in 0..CREATED {
            let asked = Instant::now();
            let inbox = world.create(&tenant, &format!("agent-{number}")).await;
            creating += asked.elapsed();
            let message = (number % MESSAGE_EVERY == 0).then(|| Message::new(&format!("for number {number}")));
            // At the same moment, for none of the three may depend on another having been first.
            let mail = &world.mail;
            tokio::join!(
                over_imap.count(&inbox, imap(mail, &inbox, u32::from(message.is_some()))),
                over_submission.count(&inbox, attempt::submission(mail, &inbox, None)),
                from_outside.count(&inbox, attempt::inbound(mail, &inbox, message.as_ref())),
            );
            with_message.extend(message.map(|message| (inbox, message)));
        }
        let logins = storm.end().await;
        println!(
            "{CREATED} created in {creating:?} of {:?}, beside {} other logins; first attempts that succeeded: \
             IMAP {} ({:?}), submission {} ({:?}), inbound {} ({:?})",
            begun.elapsed(),
            logins,
            over_imap.succeeded,
            over_imap.took,
            over_submission.succeeded,
            over_submission.took,
            from_outside.succeeded,
            from_outside.took,
        );
        for (what, attempts) in [
            ("IMAP", over_imap),
            ("submission", over_submission),
            ("inbound", from_outside),
        ] {
            assert_eq!(attempts.succeeded, CREATED, "{what}: {:#?}", attempts.failures);
        }
        for (inbox, message) in with_message {
            world.mail.receive(&inbox, &message).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_addresses_come_and_go_at_once_in_a_login_storm() {
    World::run(async |world| {
        let storm = Storm::begin(world).await;
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let path = format!("/v1/inboxes/{}/addresses", scout.id);
        let mut wrong = Vec::new();
        for number in 0..ADDED {
            let address = format!("{}@{}", world.name(&format!("name-{number}")), world.domain());
            let added = tenant.post(&path, &json!({"email": address})).await;
            assert_eq!(added.status, 201, "{added:?}");
            let mail = &world.mail;
            let (inbound, submission) = tokio::join!(
                attempt::inbound_to(mail, &address),
                attempt::submission_as(mail, &scout, &address)
            );
            wrong.extend([inbound, submission].into_iter().filter_map(Result::err));
            let removed = tenant.delete(&format!("{path}/{address}")).await;
            assert_eq!(removed.status, 200, "{removed:?}");
            let (inbound, submission) = tokio::join!(
                attempt::inbound_to(mail, &address),
                attempt::submission_as(mail, &scout, &address)
            );
            for (outcome, refusal) in [(inbound, "550 5.1.1"), (submission, "553 5.7.1")] {
                match outcome {
                    Err(error) if error.contains(refusal) => {}
                    other => wrong.push(format!("{address} after its removal: {other:?}")),
                }
            }
        }
        let logins = storm.end().await;
        println!("{ADDED} addresses came and went beside {logins} logins of others");
        assert_eq!(wrong, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn of_requests_for_one_name_at_once_one_gets_the_credentials() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        for round in 0..5 {
            let body = json!({"username": world.name(&format!("wanted-{round}"))});
            let answers = join_all((0..20).map(|_| tenant.post("/v1/inboxes", &body))).await;
            let (made, found): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
            assert_eq!((made.len(), found.len()), (1, 19));
            for answer in found {
                assert_eq!((answer.status, answer.id()), (200, made[0].id()), "{answer:?}");
                assert_eq!(answer.body["existed"], json!(true));
                for secret in ["imapPassword", "apiKey"] {
                    assert!(answer.body.get(secret).is_none(), "{answer:?}");
                }
            }
            let found = tokio::time::timeout(LIMIT, world.mail.log_in(&Inbox::of(made[0]))).await;
            found.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_burst_for_one_inbox_is_delivered_without_a_pause() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let bring = async |bearer: usize| {
            let mut inbound = world.mail.inbound().await;
            for number in 0..BURST / BEARERS {
                let message = Message::new(&format!("burst {bearer} {number}."));
                inbound.send(STRANGER, &ada.email, &message).await;
            }
        };
        join_all((0..BEARERS).map(bring)).await;
        until("all of it is in the inbox", || async {
            let there = attempt::imap(&world.mail, &ada).await.unwrap();
            (usize::try_from(there).unwrap() == BURST).then_some(())
        })
        .await;
        assert_eq!(world.deferrals(&ada).await, Vec::<String>::new());
    })
    .await;
}
