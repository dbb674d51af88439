//! What an answer takes away is gone when the answer comes: logins, open sessions, deliveries.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use crate::support::{
    api::Api,
    inbox::Inbox,
    mail::{Idling, Mail, Message, Submitting},
    wait::{LIMIT, until},
    world::World,
};

/// Times that credentials end under logins.
const ROUNDS: usize = 6;
/// Owners who log in meanwhile.
const OWNERS: usize = 12;

/// What an owner had open when its mailbox was cut off.
struct Open {
    idling: Idling,
    submitting: Submitting,
}

impl Open {
    async fn of(mail: &Mail, inbox: &Inbox) -> Self {
        Self {
            idling: Idling::begin(mail.log_in(inbox).await).await,
            submitting: mail.submission_of(inbox).await,
        }
    }
}

/// Neither login nor recipient, right now and not a little later.
async fn assert_gone(mail: &Mail, inbox: &Inbox) {
    let mut inbound = mail.inbound().await;
    inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
    inbound
        .expect(&format!("RCPT TO:<{}>", inbox.email), "550 5.1.1")
        .await;
    inbound
        .expect(&format!("RCPT TO:<{}>", inbox.with_detail("x")), "550 5.1.1")
        .await;
    assert_locked_out(mail, inbox).await;
}

async fn assert_locked_out(mail: &Mail, inbox: &Inbox) {
    tokio::join!(
        mail.assert_login_refused(&inbox.email, &inbox.password),
        mail.assert_auth_refused(&inbox.email, &inbox.password)
    );
}

async fn assert_no_session(world: &World, inbox: &Inbox) {
    assert!(!world.has_session(inbox).await, "{} is logged in", inbox.email);
}

async fn works(api: &Api) -> u16 {
    api.get("/v1/me").await.status
}

#[tokio::test]
async fn a_deleted_inbox_is_gone_when_delete_answers() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let (ada, bob) = (
            world.create(&tenant, "ada").await,
            world.create(&tenant, "bob").await,
        );
        let mail = &world.mail;
        let open = Open::of(mail, &ada).await;
        let mut other = Open::of(mail, &bob).await;
        // Greeted before, so that the very next thing after the answer is the recipient.
        let mut inbound = mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;

        let deleted = tenant.delete(&format!("/v1/inboxes/{}", ada.id)).await;
        inbound
            .expect(&format!("RCPT TO:<{}>", ada.email), "550 5.1.1")
            .await;
        assert_eq!(
            (deleted.status, &deleted.body),
            (200, &json!({"deleted": true, "id": ada.id}))
        );
        assert_no_session(world, &ada).await;
        assert_gone(mail, &ada).await;
        open.idling.assert_ended().await;
        // A submission session that was logged in can no longer name a sender that nobody owns.
        let mut submitting = open.submitting;
        submitting.say(&format!("MAIL FROM:<{}>", ada.email)).await;
        let refused = submitting.say(&format!("RCPT TO:<{}>", bob.email)).await;
        assert!(refused.starts_with("553"), "{refused}");
        assert_eq!(
            tenant.delete(&format!("/v1/inboxes/{}", ada.id)).await.error(),
            (404, "NOT_FOUND")
        );

        // Nobody else was touched.
        other
            .submitting
            .send(&bob.email, &bob.email, &Message::new("on the old session"))
            .await;
        assert!(!other.idling.has_ended());
        mail.assert_works(&bob, "untouched").await;
    })
    .await;
}

#[tokio::test]
async fn a_rotated_password_ends_the_old_one_and_its_sessions() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let ada = world.create(&tenant, "ada").await;
        let open = Open::of(&world.mail, &ada).await;
        let path = format!("/v1/inboxes/{}/rotate-password", ada.id);
        for (caller, who) in [(&tenant, "its tenant"), (&tenant.with_key(&ada.key), "itself")] {
            let before = caller.get(&format!("/v1/inboxes/{}", ada.id)).await;
            let before = ada.with_password(before.text("imapPassword"));
            let rotated = caller.request(reqwest::Method::POST, &path);
            let rotated = caller.send(rotated).await;
            assert_eq!(rotated.status, 200, "{rotated:?}");
            assert_no_session(world, &ada).await;
            let new = ada.with_password(rotated.text("imapPassword"));
            assert_ne!(new.password, before.password);
            assert_locked_out(&world.mail, &before).await;
            let about = format!("rotated by {who}");
            world.mail.assert_works(&new, &about).await;
        }
        open.idling.assert_ended().await;
    })
    .await;
}

#[tokio::test]
async fn a_rotated_key_changes_nothing_about_mail() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let ada = world.create(&tenant, "ada").await;
        let open = Open::of(&world.mail, &ada).await;
        let path = format!("/v1/inboxes/{}/rotate-key", ada.id);
        let rotated = tenant.send(tenant.request(reqwest::Method::POST, &path)).await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        assert_eq!(works(&tenant.with_key(&ada.key)).await, 401);
        assert_eq!(works(&tenant.with_key(rotated.text("apiKey"))).await, 200);
        assert!(!open.idling.has_ended());
        world.mail.assert_works(&ada, "with a new key").await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_workspace_takes_its_mailboxes_along() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let kept = world.create(&tenant, "kept").await;
        let workspace = tenant.post("/v1/workspaces", &json!({"name": "Customer"})).await;
        assert_eq!(workspace.status, 201, "{workspace:?}");
        let mut gone = Vec::new();
        for name in ["one", "two"] {
            let body = json!({"username": world.name(name), "workspaceId": workspace.id()});
            gone.push(Inbox::of(&tenant.post("/v1/inboxes", &body).await));
        }
        let open = Open::of(&world.mail, &gone[0]).await;
        let deleted = tenant.delete(&format!("/v1/workspaces/{}", workspace.id())).await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
        assert_no_session(world, &gone[0]).await;
        for inbox in &gone {
            assert_gone(&world.mail, inbox).await;
        }
        open.idling.assert_ended().await;
        world.mail.assert_works(&kept, "untouched").await;
    })
    .await;
}

#[tokio::test]
async fn a_suspended_tenant_receives_and_does_nothing_else_until_it_is_resumed() {
    World::run(async |world| {
        let sa = world.operator();
        let made = sa.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let tenant = sa.with_key(made.text("key"));
        let path = format!("/v1/tenants/{}", made.id());
        let ada = world.create(&tenant, "ada").await;
        let stranger = world.inbox("stranger").await;
        let open = Open::of(&world.mail, &ada).await;

        let suspended = sa.patch(&path, &json!({"suspended": true})).await;
        assert_eq!(suspended.status, 200, "{suspended:?}");
        assert_no_session(world, &ada).await;
        assert_locked_out(&world.mail, &ada).await;
        open.idling.assert_ended().await;
        let refused = tenant.get("/v1/inboxes").await;
        assert_eq!(refused.error(), (403, "TENANT_SUSPENDED"));
        let refused = sa.with_key(&ada.key).get("/v1/me").await;
        assert_eq!(refused.error(), (403, "TENANT_SUSPENDED"));
        let meanwhile = Message::new("meanwhile");
        world
            .mail
            .deliver("friend@example.net", &ada.email, &meanwhile)
            .await;
        world
            .mail
            .submit(&stranger, &ada.email, &Message::new("from here"))
            .await
            .unwrap();
        // Postfix lets nobody end a session, but this one can name no sender any more.
        let mut submitting = open.submitting;
        submitting.say(&format!("MAIL FROM:<{}>", ada.email)).await;
        let refused = submitting.say(&format!("RCPT TO:<{}>", stranger.email)).await;
        assert!(refused.starts_with("553"), "{refused}");

        let resumed = sa.patch(&path, &json!({"suspended": false})).await;
        assert_eq!(resumed.status, 200, "{resumed:?}");
        world.mail.receive(&ada, &meanwhile).await;
        world.mail.receive(&ada, &Message::new("from here")).await;
        world.mail.assert_works(&ada, "resumed").await;
        assert_eq!(works(&tenant).await, 200);

        let open = Open::of(&world.mail, &ada).await;
        let deleted = sa.delete(&path).await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
        assert_gone(&world.mail, &ada).await;
        open.idling.assert_ended().await;
        assert_eq!(works(&tenant).await, 401);
        world.mail.assert_works(&stranger, "untouched").await;
    })
    .await;
}

/// Logs in and out all the time; once the credentials are being ended, logs in and idles until the server ends that.
/// Returns when a login is refused, with the number of logins that were not. So it never returns if one session outlives
/// its credentials.
async fn log_in_until_refused(mail: Mail, inbox: Inbox, ending: Arc<AtomicBool>) -> usize {
    let mut last_ones = 0;
    loop {
        match mail.try_log_in(&inbox.email, &inbox.password).await {
            Ok(imap) if ending.load(Ordering::SeqCst) => {
                last_ones += 1;
                Idling::until_the_end(imap).await;
            }
            Ok(mut imap) => {
                // The server may have ended it meanwhile.
                let _ = imap.logout().await;
            }
            Err(error) if error.contains("AUTHENTICATIONFAILED") => return last_ones,
            // Ended between the password and the mailbox.
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn no_session_slips_through_while_its_credentials_end() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let mut inbox = world.create(&tenant, "ada").await;
        let path = format!("/v1/inboxes/{}", inbox.id);
        for round in 0..ROUNDS {
            let ending = Arc::new(AtomicBool::new(false));
            let owners: Vec<_> = (0..OWNERS)
                .map(|_| {
                    let owner = log_in_until_refused(world.mail.clone(), inbox.clone(), Arc::clone(&ending));
                    tokio::spawn(owner)
                })
                .collect();
            until("somebody is logged in", || async {
                world.has_session(&inbox).await.then_some(())
            })
            .await;
            ending.store(true, Ordering::SeqCst);
            if round + 1 == ROUNDS {
                assert_eq!(tenant.delete(&path).await.status, 200);
            } else {
                let rotate = tenant.request(reqwest::Method::POST, &format!("{path}/rotate-password"));
                let rotated = tenant.send(rotate).await;
                assert_eq!(rotated.status, 200, "{rotated:?}");
                rotated.text("imapPassword").clone_into(&mut inbox.password);
            }
            let mut sessions = 0;
            for owner in owners {
                sessions += tokio::time::timeout(LIMIT, owner)
                    .await
                    .expect("a session outlived its credentials")
                    .unwrap();
            }
            println!("round {round}: {sessions} sessions began while their credentials were ended");
        }
    })
    .await;
}
