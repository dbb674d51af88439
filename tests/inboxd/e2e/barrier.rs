//! The readiness barrier: what a creation is answered when its login cannot be seen through Dovecot.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use inboxd::stack::private::Kind;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UnixStream,
};

use crate::support::{
    api::{Answer, Api},
    daemon::Daemon,
    domains::insert_domain,
    inbox::Inbox,
    world::World,
};

async fn not_seen(daemon: &Daemon, reason: &str) -> u64 {
    let name = format!("inboxd_barrier_not_seen_total{{reason=\"{reason}\"}}");
    daemon.metric(&name).await.unwrap()
}

/// New logins that were not visible, whatever the reason.
async fn all_not_seen(daemon: &Daemon) -> u64 {
    let text = reqwest::get(&daemon.metrics).await.unwrap().text().await.unwrap();
    let counts = text
        .lines()
        .filter(|line| line.starts_with("inboxd_barrier_not_seen_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    counts.sum()
}

async fn looks(daemon: &Daemon) -> u64 {
    daemon
        .metric("inboxd_barrier_duration_seconds_count")
        .await
        .unwrap_or(0)
}

async fn ask(tenant: &Api, username: &str) -> Answer {
    tenant.post("/v1/inboxes", &json!({ "username": username })).await
}

/// A creation that is to be asked for again.
async fn assert_refused(tenant: &Api, username: &str) {
    let answer = ask(tenant, username).await;
    assert_eq!(answer.error(), (503, "MAIL_STACK_UNAVAILABLE"), "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// Starts the daemon again with this barrier.
async fn with_barrier(world: &mut World, mode: &str) {
    world.daemon.stop().await;
    let key = ("INBOXD_PUBLISH__BARRIER", mode.into());
    world.daemon.environment.push(key);
    world.daemon.up().await;
}

async fn rotate(tenant: &Api, inbox: &Inbox) -> Inbox {
    let path = format!("/v1/inboxes/{}/rotate-password", inbox.id);
    let rotated = tenant.send(tenant.request(Method::POST, &path)).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    inbox.with_password(rotated.text("imapPassword"))
}

#[tokio::test]
async fn a_creation_is_answered_when_its_login_was_seen() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        assert_eq!(looks(&world.daemon).await, 0);
        let ada = world.create(&tenant, "ada").await;
        assert_eq!(looks(&world.daemon).await, 1);
        // What gives no login to anybody asks nobody.
        let ada = rotate(&tenant, &ada).await;
        world.mail.assert_works(&ada, "rotated").await;
        world.delete(&tenant, &ada).await;
        assert_eq!(looks(&world.daemon).await, 1);
        assert_eq!(all_not_seen(&world.daemon).await, 0);
    })
    .await;
}

#[tokio::test]
async fn without_dovecot_nothing_is_created_and_the_same_request_completes_it() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        world.take_down(Kind::Dovecot).await;
        assert_refused(&tenant, "bob").await;
        assert_eq!(not_seen(&world.daemon, "no_server").await, 1);
        let ada = rotate(&tenant, &ada).await;
        world.delete(&tenant, &gone).await;

        world.bring_up(Kind::Dovecot).await;
        let listed = tenant.get("/v1/inboxes").await;
        let bob = world.create(&tenant, "bob").await;
        assert!(
            !listed.body.to_string().contains("bob1@"),
            "a refused creation took a second name: {listed:?}"
        );
        world.mail.assert_works(&bob, "completed").await;
        world.mail.assert_works(&ada, "rotated without Dovecot").await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
    })
    .await;
}

#[tokio::test]
async fn a_dovecot_that_hangs_holds_up_creations_and_nothing_else() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        let process = authentication_process(&world.layout.lookup_socket()).await;
        kill(process, Signal::SIGSTOP).unwrap();
        let ((), rotated, ()) = tokio::join!(
            assert_refused(&tenant, "bob"),
            rotate(&tenant, &ada),
            world.delete(&tenant, &gone),
        );
        let (_, readiness) = world.daemon.readiness("").await;
        kill(process, Signal::SIGCONT).unwrap();
        assert_eq!(not_seen(&world.daemon, "no_answer").await, 1);
        assert!(
            readiness["parts"]["dovecot"]
                .as_str()
                .unwrap()
                .starts_with("down: "),
            "{readiness:?}"
        );
        let bob = world.create(&tenant, "bob").await;
        world.mail.assert_works(&bob, "completed").await;
        world
            .mail
            .assert_works(&rotated, "rotated while Dovecot hung")
            .await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
    })
    .await;
}

/// The process that answers look-ups and verifies logins: it introduces itself with `SPID<tab>process`.
async fn authentication_process(socket: &Path) -> Pid {
    let mut lines = BufReader::new(UnixStream::connect(socket).await.unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("a handshake");
        if let Some(pid) = line.strip_prefix("SPID\t") {
            return Pid::from_raw(pid.parse().unwrap());
        }
    }
}

#[tokio::test]
async fn an_entry_that_dovecot_cannot_read_is_not_taken_for_a_login() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        insert_domain(&world.daemon, &tenant, "acme.example", true).await;
        world.daemon.stop().await;
        world.daemon.up().await;
        let body = |username: &str| json!({"username": username, "domain": "acme.example"});
        Inbox::of(&tenant.post("/v1/inboxes", &body("first")).await);
        let folder = world.daemon.maps().join("passdb/acme.example");
        let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        // The daemon writes as before, and Dovecot may not enter any more.
        mode(0o700);
        let unreadable = body("ada");
        let (refused, bob) = tokio::join!(
            tenant.post("/v1/inboxes", &unreadable),
            world.create(&tenant, "bob"),
        );
        assert_eq!(refused.error(), (503, "MAIL_STACK_UNAVAILABLE"), "{refused:?}");
        world
            .mail
            .assert_works(&bob, "beside one that cannot be read")
            .await;
        let reasons = [
            not_seen(&world.daemon, "unreadable").await,
            // Dovecot 2.4 takes longer to say so than a creation waits.
            not_seen(&world.daemon, "no_answer").await,
        ];
        assert_eq!(reasons.iter().sum::<u64>(), 1);
        assert!(world.daemon.log().contains("not seen through the mail servers"));
        mode(0o750);
        let ada = Inbox::of(&tenant.post("/v1/inboxes", &body("ada")).await);
        assert_eq!(ada.email, "ada@acme.example");
        world.mail.log_in(&ada).await;
    })
    .await;
}

#[tokio::test]
async fn a_dovecot_with_an_older_configuration_is_named_as_such() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        fs::remove_file(world.layout.lookup_socket()).unwrap();
        assert_refused(&tenant, "ada").await;
        assert_eq!(not_seen(&world.daemon, "no_listener").await, 1);
        let (_, readiness) = world.daemon.readiness("").await;
        let dovecot = readiness["parts"]["dovecot"].as_str().unwrap();
        for told in [&world.daemon.log(), dovecot] {
            assert!(told.contains("inboxd stack render dovecot"), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn where_the_barrier_reports_what_is_not_seen_is_answered_and_counted() {
    World::run(async |world| {
        with_barrier(world, "report").await;
        let tenant = world.tenant("Acme").await;
        world.create(&tenant, "ada").await;
        world.take_down(Kind::Dovecot).await;
        let bob = world.create(&tenant, "bob").await;
        let eve = world.create(&tenant, "eve").await;
        assert_eq!(not_seen(&world.daemon, "no_server").await, 2);
        assert_eq!(looks(&world.daemon).await, 3);
        // One line is enough for a while.
        let log = world.daemon.log();
        assert_eq!(log.matches("not seen through the mail servers").count(), 1);
        world.bring_up(Kind::Dovecot).await;
        world.mail.assert_works(&bob, "made without Dovecot").await;
        world.mail.assert_works(&eve, "made without Dovecot").await;
    })
    .await;
}

#[tokio::test]
async fn where_the_barrier_is_off_nobody_is_asked() {
    World::run(async |world| {
        with_barrier(world, "off").await;
        let tenant = world.tenant("Acme").await;
        world.take_down(Kind::Dovecot).await;
        let ada = world.create(&tenant, "ada").await;
        assert_eq!(
            (looks(&world.daemon).await, all_not_seen(&world.daemon).await),
            (0, 0)
        );
        world.bring_up(Kind::Dovecot).await;
        world.mail.assert_works(&ada, "made without Dovecot").await;
    })
    .await;
}
