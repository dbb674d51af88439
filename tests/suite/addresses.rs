//! Further addresses of an inbox: each works from the moment it is added, in both directions, and no longer than it is
//! there.

use serde_json::json;

use crate::support::{attempt, inbox::Inbox, mail::Message, world::World};

fn addresses_of(inbox: &Inbox) -> String {
    format!("/v1/inboxes/{}/addresses", inbox.id)
}

#[tokio::test]
async fn an_address_works_in_open_sessions_from_when_it_is_added_until_it_is_removed() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let desk = format!("{}@{}", world.name("desk"), world.domain());
        let (mut inbound, mut submission) =
            (world.mail.inbound().await, world.mail.submission_of(&scout).await);
        let sender = format!("MAIL FROM:<{desk}>");
        let recipient = format!("RCPT TO:<{desk}>");

        for round in 0..3 {
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            inbound.expect(&recipient, "550 5.1.1").await;
            inbound.expect("RSET", "250").await;
            // Postfix judges the sender when it hears the recipient.
            submission.expect(&sender, "250").await;
            submission
                .expect(&format!("RCPT TO:<{}>", scout.email), "553 5.7.1")
                .await;
            submission.expect("RSET", "250").await;

            let added = tenant.post(&addresses_of(&scout), &json!({"email": desk})).await;
            assert_eq!(added.status, 201, "{added:?}");
            let message = Message::new(&format!("to a further address, {round}"));
            inbound.send("friend@example.net", &desk, &message).await;
            world.mail.receive(&scout, &message).await;
            let message = Message::new(&format!("from a further address, {round}"));
            submission.send(&desk, &scout.email, &message).await;
            let text = world.mail.receive(&scout, &message).await;
            assert!(text.contains(&format!("From: <{desk}>")), "{text}");

            let removed = tenant.delete(&format!("{}/{desk}", addresses_of(&scout))).await;
            assert_eq!(removed.status, 200, "{removed:?}");
        }
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&recipient, "550 5.1.1").await;
        world
            .mail
            .assert_works(&scout, "with its canonical address alone")
            .await;
    })
    .await;
}

#[tokio::test]
async fn an_address_is_no_login_and_no_other_inbox_may_use_it() {
    World::run(async |world| {
        let (acme, other) = (world.tenant("Acme").await, world.tenant("Other").await);
        let (scout, thief) = (
            world.create(&acme, "scout").await,
            world.create(&other, "thief").await,
        );
        let desk = format!("{}@{}", world.name("desk"), world.domain());
        let added = acme
            .post(&addresses_of(&scout), &json!({"email": desk, "primary": false}))
            .await;
        assert_eq!(added.status, 201, "{added:?}");
        world.mail.assert_login_refused(&desk, &scout.password).await;
        world.mail.assert_auth_refused(&desk, &scout.password).await;
        let taken = other.post(&addresses_of(&thief), &json!({"email": desk})).await;
        assert_eq!(taken.error(), (409, "ADDRESS_TAKEN"));
        let mut submission = world.mail.submission_of(&thief).await;
        submission.expect(&format!("MAIL FROM:<{desk}>"), "250").await;
        submission
            .expect(&format!("RCPT TO:<{}>", thief.email), "553 5.7.1")
            .await;
        // Nor may the inbox whose it is use somebody else's.
        let mut submission = world.mail.submission_of(&scout).await;
        submission
            .expect(&format!("MAIL FROM:<{}>", thief.email), "250")
            .await;
        submission
            .expect(&format!("RCPT TO:<{}>", scout.email), "553 5.7.1")
            .await;
    })
    .await;
}

#[tokio::test]
async fn an_address_is_written_as_rfc_5321_lets_it_be_written() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let (name, domain) = (world.name("front.desk"), world.domain().to_owned());
        let added = tenant
            .post(
                &addresses_of(&scout),
                &json!({"email": format!("{name}@{domain}")}),
            )
            .await;
        assert_eq!(added.status, 201, "{added:?}");
        let mut inbound = world.mail.inbound().await;
        let recipients = [
            (
                "upper case",
                format!("{}@{}", name.to_uppercase(), domain.to_uppercase()),
            ),
            ("with detail", format!("{name}+invoices@{domain}")),
            ("quoted", format!("\"{name}\"@{domain}")),
            ("quoted, with detail", format!("\"{name}+a\"@{domain}")),
        ];
        for (what, recipient) in &recipients {
            let message = Message::new(what);
            inbound.send("friend@example.net", recipient, &message).await;
            world.mail.receive(&scout, &message).await;
        }
        let mut submission = world.mail.submission_of(&scout).await;
        for (what, sender) in &recipients {
            let message = Message::new(&format!("from {what}"));
            submission.send(sender, &scout.email, &message).await;
            world.mail.receive(&scout, &message).await;
        }
        // What would need a wider alphabet names nobody here, and is refused for that, not with a failure.
        for recipient in [
            "\"desk team\"",
            "\"desk\\\"team\"",
            "desk/team",
            "..",
            "desk%team",
            "!desk",
        ] {
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            let said = inbound.say(&format!("RCPT TO:<{recipient}@{domain}>")).await;
            // Signs that routed mail in other times are refused as routes.
            let refusals = ["550 5.1.1", "501 5.1.3", "554 5.7.1"];
            assert!(
                refusals.iter().any(|refusal| said.starts_with(refusal)),
                "{recipient}: {said}"
            );
            inbound.expect("RSET", "250").await;
        }
    })
    .await;
}

#[tokio::test]
async fn addresses_outside_ascii_are_refused_at_once() {
    World::run(async |world| {
        let scout = world.inbox("scout").await;
        let mut inbound = world.mail.inbound().await;
        let greeting = inbound.expect("EHLO client.example.net", "250").await;
        assert!(!greeting.contains("SMTPUTF8"), "{greeting}");
        // RFC 6531, 3.5: who does not offer it does not know the parameter.
        inbound
            .expect("MAIL FROM:<j\u{f6}rg@example.net> SMTPUTF8", "555 5.5.4")
            .await;
        let said = inbound.say("MAIL FROM:<j\u{f6}rg@example.net>").await;
        if said.starts_with("250") {
            inbound
                .expect(&format!("RCPT TO:<j\u{f6}rg@{}>", world.domain()), "550 5.1.1")
                .await;
        } else {
            assert!(said.starts_with('5'), "{said}");
        }
        inbound.expect("RSET", "250").await;
        let message = Message::new("in ASCII");
        inbound.send("friend@example.net", &scout.email, &message).await;
        world.mail.receive(&scout, &message).await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_goes_round_in_circles_is_stopped() {
    World::run(async |world| {
        let scout = world.inbox("scout").await;
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&format!("RCPT TO:<{}>", scout.email), "250").await;
        inbound.expect("DATA", "354").await;
        let hop = "Received: from there.example.net by here.example.net; Tue, 24 Nov 2026 00:00:00 +0000\r\n";
        let hops = hop.repeat(60);
        // RFC 5321, 6.3.
        inbound
            .expect(
                &format!("{hops}Subject: round\r\n\r\nand round\r\n."),
                "554 5.4.0",
            )
            .await;
        assert_eq!(attempt::imap(&world.mail, &scout).await, Ok(0));
    })
    .await;
}
