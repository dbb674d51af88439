//! Stopped, killed, half down: what works goes on working, and what was promised holds.

use inboxd::stack::private::Kind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, Database},
    mail::Message,
    wait::until,
    world::World,
};

/// The parts of `/readyz`, and whether it says that all are ready.
async fn readiness(daemon: &Daemon) -> (u16, Value) {
    let (status, body) = daemon.readiness("").await;
    assert_eq!(body["ready"], json!(status == 200), "{body}");
    (status, body["parts"].clone())
}

async fn wait_until_ready(daemon: &Daemon) {
    until("every part is ready", || async {
        let (status, _) = readiness(daemon).await;
        (status == 200).then_some(())
    })
    .await;
}

/// The same once it says that a part is down: an answer is shared for a second.
async fn not_ready(daemon: &Daemon) -> (u16, Value) {
    until("a part is down", || async {
        let (status, parts) = readiness(daemon).await;
        (status != 200).then_some((status, parts))
    })
    .await
}

#[tokio::test]
async fn mail_goes_on_while_the_daemon_is_stopped_or_was_killed() {
    assert_mail_goes_on(Database::Sqlite).await;
}

#[tokio::test]
async fn mail_goes_on_while_the_daemon_is_stopped_or_was_killed_on_postgresql() {
    assert_mail_goes_on(Database::Postgres).await;
}

async fn assert_mail_goes_on(database: Database) {
    World::run_on(database, async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        world.delete(&tenant, &gone).await;
        world.mail.assert_works(&ada, "before").await;
        let before = tenant.get(&format!("/v1/inboxes/{}", ada.id)).await;
        let maps = world.maps();
        assert!(maps.len() >= 5, "{maps:?}");

        assert_eq!(world.daemon.stop().await.code(), Some(0));
        world.mail.assert_works(&ada, "while it is stopped").await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
        assert!(world.maps() == maps, "a stop changed the maps");

        world.daemon.up().await;
        assert!(world.maps() == maps, "a start changed the maps");
        let after = tenant.get(&format!("/v1/inboxes/{}", ada.id)).await;
        assert_eq!(after.body, before.body);
        assert_eq!(after.text("imapPassword"), ada.password);
        world.mail.assert_works(&ada, "after it was started").await;

        world.daemon.kill();
        world.mail.assert_works(&ada, "while it is dead").await;
        assert!(world.maps() == maps, "a crash changed the maps");
        world.daemon.up().await;
        assert!(world.maps() == maps, "a start after a crash changed the maps");
        let after = tenant.get(&format!("/v1/inboxes/{}", ada.id)).await;
        assert_eq!(after.body, before.body);
        let new = world.create(&tenant, "new").await;
        world.mail.assert_works(&new, "made after a crash").await;
        world.mail.assert_works(&ada, "after a crash").await;
    })
    .await;
}

#[tokio::test]
async fn the_daemon_starts_and_repairs_the_maps_while_the_mail_servers_run() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, bob) = (
            world.create(&tenant, "ada").await,
            world.create(&tenant, "bob").await,
        );
        world.daemon.stop().await;
        // Somebody restored an old backup of the password entries.
        std::fs::remove_file(world.daemon.maps().join("passdb/inboxd.test/ada")).unwrap();
        world.mail.assert_login_refused(&ada.email, &ada.password).await;
        world.daemon.up().await;
        world.mail.assert_works(&ada, "repaired").await;
        world.mail.assert_works(&bob, "untouched").await;
    })
    .await;
}

#[tokio::test]
async fn without_dovecot_mail_is_taken_and_changes_hold_when_it_is_back() {
    World::run(async |world| {
        wait_until_ready(&world.daemon).await;
        let tenant = world.tenant("Acme").await;
        let (ada, gone) = world.ada_and_gone(&tenant).await;
        let bob = world.create(&tenant, "bob").await;
        world.take_down(Kind::Dovecot).await;
        let (status, parts) = not_ready(&world.daemon).await;
        assert_eq!(status, 503);
        assert!(
            parts["dovecot"].as_str().unwrap().starts_with("down: "),
            "{parts}"
        );
        assert_eq!(
            (&parts["postfix"], &parts["store"], &parts["maps"]),
            (&json!("ok"), &json!("ok"), &json!("ok"))
        );

        let rotated = tenant
            .send(tenant.request(
                reqwest::Method::POST,
                &format!("/v1/inboxes/{}/rotate-password", ada.id),
            ))
            .await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        world.delete(&tenant, &gone).await;
        // Mail is taken, and kept in the queue.
        let waiting = Message::new("waiting");
        world
            .mail
            .deliver("friend@example.net", &bob.email, &waiting)
            .await;

        world.bring_up(Kind::Dovecot).await;
        world.mail.log_in(&bob).await;
        world.mail.assert_login_refused(&ada.email, &ada.password).await;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
        let ada = ada.with_password(rotated.text("imapPassword"));
        world.mail.assert_works(&bob, "made before").await;
        world.mail.assert_works(&ada, "rotated without Dovecot").await;
        wait_until_ready(&world.daemon).await;
    })
    .await;
}

#[tokio::test]
async fn without_postfix_creates_are_answered_and_hold_when_it_is_back() {
    World::run(async |world| {
        wait_until_ready(&world.daemon).await;
        let tenant = world.tenant("Acme").await;
        let gone = world.create(&tenant, "gone").await;
        world.take_down(Kind::Postfix).await;
        let (status, parts) = not_ready(&world.daemon).await;
        assert_eq!(status, 503);
        assert!(
            parts["postfix"].as_str().unwrap().starts_with("down: "),
            "{parts}"
        );
        assert_eq!(
            (&parts["dovecot"], &parts["store"], &parts["maps"]),
            (&json!("ok"), &json!("ok"), &json!("ok"))
        );

        let bob = world.create(&tenant, "bob").await;
        world.mail.log_in(&bob).await;
        world.delete(&tenant, &gone).await;
        world.bring_up(Kind::Postfix).await;
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&format!("RCPT TO:<{}>", bob.email), "250").await;
        inbound
            .expect(&format!("RCPT TO:<{}>", gone.email), "550 5.1.1")
            .await;
        world.mail.assert_works(&bob, "made without Postfix").await;
        wait_until_ready(&world.daemon).await;
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_is_asked_to_stop_twice_stops_once_and_well() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        world.daemon.signal(Signal::SIGTERM);
        world.daemon.signal(Signal::SIGTERM);
        assert_eq!(world.daemon.ended().await.code(), Some(0));
        world.daemon.up().await;
        world.mail.assert_works(&ada, "after two signals").await;
    })
    .await;
}

#[tokio::test]
async fn a_start_while_a_tenant_is_suspended_finds_nothing_to_repair() {
    World::run(async |world| {
        let sa = world.operator();
        let made = sa.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let ada = world.create(&sa.with_key(made.text("key")), "ada").await;
        let path = format!("/v1/tenants/{}", made.id());
        let suspended = sa.patch(&path, &json!({"suspended": true})).await;
        assert_eq!(suspended.status, 200, "{suspended:?}");
        world.daemon.stop().await;
        world.daemon.up().await;
        // The very first start made the default domain.
        assert_eq!(world.daemon.log().matches("have been repaired").count(), 1);
        world.mail.assert_login_refused(&ada.email, &ada.password).await;
        let resumed = sa.patch(&path, &json!({"suspended": false})).await;
        assert_eq!(resumed.status, 200, "{resumed:?}");
        world.mail.assert_works(&ada, "resumed").await;
    })
    .await;
}
