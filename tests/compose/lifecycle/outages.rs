//! A container that is restarted, killed or recreated while the others work.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tokio::{task::JoinHandle, time::timeout};

use super::Sessions;
use crate::support::{
    api::{Answer, Api},
    attempt::STRANGER,
    inbox::Inbox,
    load::{Kind, Load},
    mail::{Idling, Message},
    wait::{LIMIT, until},
    world::World,
};

/// Restarts under load.
const RESTARTS: usize = 2;
/// Deliveries that Postfix has under way at a time. When one of the two servers of a delivery ends between storing the
/// message and hearing that it is stored, it is delivered again (RFC 1047); no protocol prevents that.
const DELIVERIES_AT_A_TIME: usize = 20;
/// Creators at a time.
const CREATORS: usize = 4;
/// Creates that show that creators are at work.
const A_FEW: usize = 10;

/// Asks for an inbox. None: no answer came, or one that says to come again.
pub(super) async fn ask(tenant: &Api, username: &str) -> Option<Answer> {
    let request = tenant
        .request(reqwest::Method::POST, "/v1/inboxes")
        .json(&json!({ "username": username }));
    let answer = timeout(LIMIT, tenant.try_send(request)).await.ok()?.ok()?;
    (answer.status != 503).then_some(answer)
}

/// An inbox from a 201, or from the 200 that follows a 201 which got lost on its way.
pub(super) async fn inbox_of(tenant: &Api, answer: &Answer) -> Inbox {
    if answer.status == 201 {
        return Inbox::of(answer);
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = tenant.get(&format!("/v1/inboxes/{}", answer.id())).await;
    Inbox {
        id: found.id().to_owned(),
        email: found.text("canonicalEmail").to_owned(),
        password: found.text("imapPassword").to_owned(),
        key: String::new(),
    }
}

/// What one creator saw.
#[derive(Default)]
struct Created {
    inboxes: Vec<Inbox>,
    /// The name whose request was not answered.
    unanswered: Option<String>,
}

/// Creates inboxes one after another until a request is not answered.
async fn create_until_unanswered(tenant: Api, names: String, answered: Arc<AtomicUsize>) -> Created {
    let mut created = Created::default();
    for number in 0.. {
        let username = format!("{names}-{number}");
        let Some(answer) = ask(&tenant, &username).await else {
            created.unanswered = Some(username);
            break;
        };
        created.inboxes.push(Inbox::of(&answer));
        answered.fetch_add(1, Ordering::Relaxed);
    }
    created
}

struct Creators {
    tenant: Api,
    tasks: Vec<JoinHandle<Created>>,
}

impl Creators {
    /// Returns when they are at work.
    async fn begin(world: &World, names: &str) -> Self {
        let tenant = world.tenant("Creators").await;
        let answered = Arc::new(AtomicUsize::new(0));
        let tasks = (0..CREATORS).map(|number| {
            let names = world.name(&format!("{names}-{number}"));
            let work = create_until_unanswered(tenant.clone(), names, Arc::clone(&answered));
            tokio::spawn(work)
        });
        let tasks = tasks.collect();
        until("inboxes are created", || async {
            (answered.load(Ordering::Relaxed) >= A_FEW).then_some(())
        })
        .await;
        Self { tenant, tasks }
    }

    /// What they have got until the daemon did not answer them any more.
    async fn end(self) -> (Vec<Inbox>, Vec<String>) {
        let (mut inboxes, mut unanswered) = (Vec::new(), Vec::new());
        for task in self.tasks {
            let created = task.await.unwrap();
            inboxes.extend(created.inboxes);
            unanswered.extend(created.unanswered);
        }
        (inboxes, unanswered)
    }
}

/// Sends the requests that were not answered again until they are, and the inboxes log in.
async fn repeat(world: &World, tenant: &Api, unanswered: &[String]) {
    for username in unanswered {
        let answer = until("the same request again is answered", || ask(tenant, username)).await;
        let inbox = inbox_of(tenant, &answer).await;
        assert_eq!(inbox.email, format!("{username}@{}", world.domain()));
        world.mail.assert_works(&inbox, "after all").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_the_daemon_fail_no_login_and_lose_no_message() {
    World::run_alone(async |world| {
        let ada = world.inbox("ada").await;
        let load = Load::begin(world).await;
        for round in 1..=RESTARTS {
            let sessions = Sessions::open(&world.mail, &ada).await;
            let creators = Creators::begin(world, &format!("round-{round}")).await;
            let tenant = creators.tenant.clone();
            let meanwhile = load
                .during(async {
                    world.compose.run(&["restart", "inboxd"]).await;
                })
                .await;
            sessions.assert_go_on(&format!("in round {round}")).await;
            let (inboxes, unanswered) = creators.end().await;
            println!(
                "round {round}: {meanwhile:?} of {:?} while the daemon was restarted; {} inboxes created before, {} \
                 requests not answered",
                Kind::ALL,
                inboxes.len(),
                unanswered.len()
            );
            assert!(
                meanwhile.iter().all(|&count| count > 0),
                "no load during the restart: {meanwhile:?}"
            );
            repeat(world, &tenant, &unanswered).await;
            for inbox in &inboxes {
                world.mail.log_in(inbox).await;
            }
            world.until_ready().await;
            load.a_few_more(&Kind::ALL).await;
        }
        let outcome = load.end().await;
        outcome.assert_none_failed(&Kind::ALL);
        let arrivals = outcome.arrivals(world).await;
        assert_eq!(arrivals.repeated, 0, "of {arrivals:?}");
        println!("{arrivals:?}; {outcome}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_daemon_mail_goes_on_and_after_it_creates_do() {
    World::run_alone(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        world.delete(&tenant, &gone).await;
        let sessions = Sessions::open(&world.mail, &ada).await;
        let load = Load::begin(world).await;
        let creators = Creators::begin(world, "cut-off").await;
        let creating = creators.tenant.clone();

        world.compose.run(&["kill", "inboxd"]).await;
        let (inboxes, unanswered) = creators.end().await;
        assert_eq!(unanswered.len(), CREATORS, "somebody answers: {unanswered:?}");
        assert!(ask(&tenant, &world.name("refused")).await.is_none());
        sessions.assert_go_on("without the daemon").await;
        world.mail.assert_works(&ada, "without the daemon").await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
        for inbox in &inboxes {
            world.mail.log_in(inbox).await;
        }
        load.a_few_more(&Kind::ALL).await;

        world.compose.up().await;
        world.until_ready().await;
        for inbox in &inboxes {
            world.mail.log_in(inbox).await;
            // It is the same one, whether or not the daemon came to note down that it had answered.
            let (username, _) = inbox.email.split_once('@').unwrap();
            let again = ask(&creating, username).await.unwrap();
            assert_eq!(again.id(), inbox.id, "an inbox that was promised is gone");
        }
        repeat(world, &creating, &unanswered).await;
        let bob = world.create(&tenant, "bob").await;
        world.mail.assert_works(&bob, "made after the kill").await;
        world.mail.assert_works(&ada, "after the kill").await;
        load.a_few_more(&Kind::ALL).await;
        let outcome = load.end().await;
        outcome.assert_none_failed(&Kind::ALL);
        let arrivals = outcome.arrivals(world).await;
        assert_eq!(arrivals.repeated, 0, "of {arrivals:?}");
        println!(
            "killed after {} answers, {} requests not answered; {arrivals:?}; {outcome}",
            inboxes.len(),
            unanswered.len(),
        );
    })
    .await;
}

/// Another container for a service, with the same volumes.
async fn recreate(world: &World, service: &str) {
    let before = container_of(world, service).await;
    world.compose.recreate(service).await;
    assert_ne!(
        container_of(world, service).await,
        before,
        "{service} is the same container"
    );
}

async fn container_of(world: &World, service: &str) -> String {
    world.compose.run(&["ps", "--quiet", service]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_dovecot_reads_the_maps_and_misses_no_mail() {
    World::run_alone(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        world.delete(&tenant, &gone).await;
        world.mail.assert_works(&ada, "before").await;
        let load = Load::begin(world).await;
        let meanwhile = load.during(recreate(world, "dovecot")).await;
        load.a_few_more(&Kind::ALL).await;
        let bob = world.create(&tenant, "bob").await;
        world.mail.assert_works(&bob, "made after it").await;
        world.mail.assert_works(&ada, "after it").await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
        world.until_ready().await;
        let outcome = load.end().await;
        // Logins need Dovecot, on submission, too. Mail from outside does not: Postfix takes it and waits.
        outcome.assert_none_failed(&[Kind::Delivery]);
        let arrivals = outcome.arrivals(world).await;
        assert!(arrivals.repeated <= DELIVERIES_AT_A_TIME, "{arrivals:?}");
        println!(
            "{meanwhile:?} of {:?} while Dovecot was recreated; {arrivals:?}; {outcome}",
            Kind::ALL,
        );
        // A session is ended through the new one's administration socket.
        let idling = Idling::begin(world.mail.log_in(&bob).await).await;
        world.delete(&tenant, &bob).await;
        idling.assert_ended().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_postfix_reads_the_maps_and_keeps_its_queue() {
    World::run_alone(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        world.delete(&tenant, &gone).await;
        world.mail.assert_works(&ada, "before").await;
        // Accepted while nobody could be given it.
        world.compose.run(&["stop", "dovecot"]).await;
        let waiting = Message::new("waiting in the queue");
        world.mail.deliver(STRANGER, &ada.email, &waiting).await;
        world.compose.up_service("dovecot").await;

        let load = Load::begin(world).await;
        let meanwhile = load.during(recreate(world, "postfix")).await;
        load.a_few_more(&Kind::ALL).await;
        let bob = world.create(&tenant, "bob").await;
        world.mail.assert_works(&bob, "made after it").await;
        world.mail.assert_works(&ada, "after it").await;
        let mut inbound = world.mail.inbound().await;
        inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
        inbound
            .expect(&format!("RCPT TO:<{}>", gone.email), "550 5.1.1")
            .await;
        world.until_ready().await;
        // An operator need not wait for the next try.
        world.compose.exec("postfix", &["postqueue", "-f"]).await;
        let outcome = load.end().await;
        // Logins over IMAP do not need Postfix.
        outcome.assert_none_failed(&[Kind::Login]);
        let arrivals = outcome.arrivals(world).await;
        world.mail.receive(&ada, &waiting).await;
        assert!(arrivals.repeated <= DELIVERIES_AT_A_TIME, "{arrivals:?}");
        println!(
            "{meanwhile:?} of {:?} while Postfix was recreated; {arrivals:?}; {outcome}",
            Kind::ALL,
        );
    })
    .await;
}
