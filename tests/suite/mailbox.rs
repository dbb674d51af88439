//! The life of a mailbox: made, used, refused to others.

use serde_json::json;

use crate::support::{
    inbox::Inbox,
    mail::{self, Message, auth_plain},
    world::World,
};

#[tokio::test]
async fn a_creator_is_told_what_to_connect_to() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let body = json!({"username": world.name("scout")});
        let created = tenant.post("/v1/inboxes", &body).await;
        let scout = Inbox::of(&created);
        let servers = &world.mail.servers;
        assert_eq!(
            created.body["imap"],
            json!({"host": servers.host, "port": servers.ports.imaps, "tls": true,
                   "username": scout.email, "password": scout.password})
        );
        assert_eq!(
            created.body["smtp"],
            json!({"host": servers.host, "port": servers.ports.submission, "starttls": true,
                   "username": scout.email, "password": scout.password})
        );
    })
    .await;
}

#[tokio::test]
async fn a_new_inbox_logs_in_submits_receives_and_reads() {
    World::run(async |world| {
        let scout = world.inbox("scout").await;
        let mail = &world.mail;

        let mut imap = mail.log_in(&scout).await;
        let folders = mail::folders(&mut imap).await;
        for (name, special_use) in [
            ("INBOX", ""),
            ("Drafts", "Drafts"),
            ("Junk", "Junk"),
            ("Sent", "Sent"),
            ("Trash", "Trash"),
        ] {
            let (_, attributes) = folders
                .iter()
                .find(|(folder, _)| folder == name)
                .unwrap_or_else(|| panic!("no {name} in {folders:?}"));
            assert!(attributes.contains(special_use), "{name}: {attributes}");
        }
        assert_eq!(mail::count(&mut imap, "INBOX").await, 0);

        let (from_outside, to_itself) = (Message::new("from outside"), Message::new("to itself"));
        mail.deliver("friend@example.net", &scout.email, &from_outside)
            .await;
        let text = mail.receive(&scout, &from_outside).await;
        assert!(
            text.contains("This is from outside.") && text.contains("friend@example.net"),
            "{text}"
        );

        mail.submit(&scout, &scout.email, &to_itself).await.unwrap();
        let text = mail.receive(&scout, &to_itself).await;
        assert!(text.contains("This is to itself."), "{text}");

        let files = world.messages(&scout).await;
        assert_eq!(files.len(), 2, "{files:?}");
        for file in files {
            assert_eq!((file.uid, file.gid), world.mail_owner(), "{}", file.path);
        }
    })
    .await;
}

#[tokio::test]
async fn two_tenants_write_to_each_other() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let (to_bob, to_ada) = (Message::new("to bob"), Message::new("to ada"));
        world.mail.submit(&ada, &bob.email, &to_bob).await.unwrap();
        world.mail.submit(&bob, &ada.email, &to_ada).await.unwrap();
        assert!(world.mail.receive(&bob, &to_bob).await.contains(&ada.email));
        assert!(world.mail.receive(&ada, &to_ada).await.contains(&bob.email));
        assert_eq!(world.messages(&ada).await.len(), 1);
        assert_eq!(world.messages(&bob).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn wrong_credentials_and_unencrypted_ones_are_refused() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let mail = &world.mail;
        let (name, domain) = (world.name("ada"), world.domain());
        for (login, password) in [
            (&*ada.email, "wrong"),
            (&ada.email, &bob.password),
            (&ada.email, ""),
            (&format!("{}@{domain}", world.name("nobody")), &ada.password),
            (&name, &ada.password),
            (&format!("{name}@example.net"), &ada.password),
            (&ada.with_detail("detail"), &ada.password),
            (&format!("../{domain}/{}", ada.email), &ada.password),
        ] {
            tokio::join!(
                mail.assert_login_refused(login, password),
                mail.assert_auth_refused(login, password)
            );
        }
        // The key of the API is no password.
        mail.assert_login_refused(&ada.email, &ada.key).await;

        let mut clear = mail.submission_in_clear().await;
        let offered = clear.expect("EHLO client.example.net", "250").await;
        assert!(
            offered.contains("STARTTLS") && !offered.contains("AUTH"),
            "{offered}"
        );
        let refused = clear.say(&auth_plain(&ada.email, &ada.password)).await;
        assert!(refused.starts_with('5'), "{refused}");
        clear.expect(&format!("MAIL FROM:<{}>", ada.email), "530").await;

        let mut anonymous = mail.submission().await;
        let refused = async {
            anonymous.say(&format!("MAIL FROM:<{}>", ada.email)).await;
            anonymous.say(&format!("RCPT TO:<{}>", ada.email)).await
        };
        let refused = refused.await;
        assert!(refused.starts_with('5'), "{refused}");

        // Inbound SMTP is for other servers: nobody logs in there.
        let mut inbound = mail.inbound().await;
        let offered = inbound.say("EHLO client.example.net").await;
        assert!(!offered.contains("AUTH"), "{offered}");

        // Every refusal forgotten: the right password is let in at once.
        mail.log_in(&ada).await;
        mail.submission_of(&ada).await;
    })
    .await;
}

#[tokio::test]
async fn a_login_is_the_same_in_upper_case() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let shouted = ada.email.to_uppercase();
        world.mail.try_log_in(&shouted, &ada.password).await.unwrap();
        let mut smtp = world.mail.submission().await;
        smtp.expect(&auth_plain(&shouted, &ada.password), "235").await;
        smtp.expect(&format!("MAIL FROM:<{}>", ada.email), "250").await;
        smtp.expect(&format!("RCPT TO:<{}>", ada.email), "250").await;
        smtp.expect("RSET", "250").await;
        smtp.expect(&format!("MAIL FROM:<{shouted}>"), "250").await;
        smtp.expect(&format!("RCPT TO:<{}>", ada.email), "250").await;
    })
    .await;
}

#[tokio::test]
async fn a_sender_address_must_be_ones_own() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let mut smtp = world.mail.submission_of(&ada).await;
        for foreign in [
            bob.email.clone(),
            bob.with_detail("x"),
            bob.email.to_uppercase(),
            format!("{}@{}", world.name("nobody"), world.domain()),
            format!("{}@example.net", world.name("ada")),
        ] {
            smtp.say(&format!("MAIL FROM:<{foreign}>")).await;
            let refused = smtp.say(&format!("RCPT TO:<{}>", bob.email)).await;
            assert!(refused.starts_with("553"), "{foreign}: {refused}");
            smtp.expect("RSET", "250").await;
        }
        let detailed = Message::new("from a detail");
        smtp.send(&ada.with_detail("news"), &bob.email, &detailed).await;
        world.mail.receive(&bob, &detailed).await;
    })
    .await;
}

#[tokio::test]
async fn only_known_recipients_are_accepted_and_nothing_is_relayed() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let domain = world.domain();
        let unknown = format!("{}@{domain}", world.name("nobody"));
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&format!("RCPT TO:<{unknown}>"), "550 5.1.1").await;
        inbound
            .expect(&format!("RCPT TO:<no+body@{domain}>"), "550 5.1.1")
            .await;
        inbound.expect(&format!("RCPT TO:<{}x>", ada.email), "554").await;
        for abroad in [
            "someone@example.org".to_owned(),
            format!("someone%example.org@{domain}"),
            format!("@{domain}:someone@example.org"),
            format!("\"someone@example.org\"@{domain}"),
            "someone@[127.0.0.1]".to_owned(),
        ] {
            let refused = inbound.say(&format!("RCPT TO:<{abroad}>")).await;
            assert!(refused.starts_with("55"), "{abroad}: {refused}");
        }
        inbound.expect("RCPT TO:<someone@example.org>", "554").await;
        inbound.expect(&format!("RCPT TO:<{}>", ada.email), "250").await;

        let mut submission = world.mail.submission_of(&ada).await;
        submission
            .expect(&format!("MAIL FROM:<{}>", ada.email), "250")
            .await;
        submission
            .expect(&format!("RCPT TO:<{unknown}>"), "550 5.1.1")
            .await;
        // The stack under test lets no mail out, not even of its own users.
        let refused = submission.say("RCPT TO:<someone@example.org>").await;
        assert!(refused.starts_with("55"), "{refused}");
        submission
            .expect(&format!("RCPT TO:<{}>", ada.email), "250")
            .await;
    })
    .await;
}

#[tokio::test]
async fn details_and_upper_case_reach_the_base_address() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let addresses = [
            ada.email.to_uppercase(),
            ada.with_detail("news"),
            ada.with_detail("News+More").to_uppercase(),
            ada.with_detail(""),
        ];
        for address in &addresses {
            let message = Message::new(&format!("for {}", address.replace('@', " at ")));
            world.mail.deliver("friend@example.net", address, &message).await;
            world.mail.receive(&ada, &message).await;
        }
        let mut imap = world.mail.log_in(&ada).await;
        assert_eq!(mail::count(&mut imap, "INBOX").await, 4);
        assert_eq!(world.messages(&ada).await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_re_created_address_is_a_new_and_empty_mailbox() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let old = world.create(&tenant, "ada").await;
        let message = Message::new("of the old one");
        world
            .mail
            .deliver("friend@example.net", &old.email, &message)
            .await;
        world.mail.receive(&old, &message).await;
        assert_eq!(
            tenant.delete(&format!("/v1/inboxes/{}", old.id)).await.status,
            200
        );

        let new = world.create(&tenant, "ada").await;
        assert_ne!(new.id, old.id);
        assert_ne!(new.password, old.password);
        let mut imap = world.mail.log_in(&new).await;
        assert_eq!(mail::count(&mut imap, "INBOX").await, 0);
        world.mail.assert_login_refused(&old.email, &old.password).await;
        let message = Message::new("of the new one");
        world
            .mail
            .deliver("friend@example.net", &new.email, &message)
            .await;
        world.mail.receive(&new, &message).await;
        assert_eq!(world.messages(&new).await.len(), 1);
    })
    .await;
}
