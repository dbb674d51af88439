//! Whose mail is signed, and in whose name.

use crate::support::{mail::Message, world::World};

#[tokio::test]
async fn what_is_submitted_is_signed_and_what_others_send_is_not() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let (submitted, delivered) = (Message::new("submitted"), Message::new("delivered"));
        world.mail.submit(&ada, &bob.email, &submitted).await.unwrap();
        let text = world.mail.receive(&bob, &submitted).await;
        let signature = format!("; d={}; c=relaxed/simple;", world.domain());
        assert!(
            text.contains("DKIM-Signature: v=1; a=rsa-sha256; s=ibr-"),
            "{text}"
        );
        assert!(text.contains(&signature), "{text}");
        world
            .mail
            .deliver("friend@example.net", &bob.email, &delivered)
            .await;
        let text = world.mail.receive(&bob, &delivered).await;
        assert!(!text.contains("DKIM-Signature"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn nobody_writes_in_somebody_elses_name() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let mut smtp = world.mail.submission_of(&ada).await;
        smtp.expect(&format!("MAIL FROM:<{}>", ada.email), "250").await;
        smtp.expect(&format!("RCPT TO:<{}>", bob.email), "250").await;
        smtp.expect("DATA", "354").await;
        let forged = Message::new("forged").text(&bob.email, &bob.email);
        smtp.expect(&format!("{forged}."), "550 5.7.1").await;
        let own = Message::new("my own");
        smtp.send(&ada.email, &bob.email, &own).await;
        world.mail.receive(&bob, &own).await;
    })
    .await;
}

#[tokio::test]
async fn what_readers_read_differently_is_refused() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let (own, other) = (&ada.email, &bob.email);
        let (local_part, domain) = other.split_once('@').unwrap();
        let line = "x".repeat(999);
        let refused = [
            (format!("From: {other} <{own}>\r\n"), "550 5.7.1"),
            (format!("From: {other}\t<{own}>\r\n"), "550 5.7.1"),
            (format!("From: {other}<{own}>\r\n"), "550 5.7.1"),
            (format!("From: {other} Boss <{own}>\r\n"), "550 5.7.1"),
            (format!("From: {local_part} @ {domain} <{own}>\r\n"), "550 5.7.1"),
            (
                format!("From: \"{local_part}\"@{domain} <{own}>\r\n"),
                "550 5.7.1",
            ),
            (format!("From: {own}, {other} <{own}>\r\n"), "550 5.7.1"),
            (format!("From: {own}\r\nSender: {other}\r\n"), "550 5.7.1"),
            (format!("From: {own}\r\nResent-From: {other}\r\n"), "550 5.7.1"),
            (format!("From: {own}\r\nFrom : {other}\r\n"), "550 5.7.1"),
            (format!("From: {own}\r\n \r\nFrom: {other}\r\n"), "550 5.7.1"),
            (format!("From: {own}\r\n\r\n{line}\r\n"), "550 5.6.0"),
            (format!("From: {own}\r\nReferences: {line}\r\n"), "550 5.6.0"),
        ];
        for (fields, answer) in &refused {
            // Postfix answers slowly after some errors in a session.
            let mut smtp = world.mail.submission_of(&ada).await;
            smtp.expect(&format!("MAIL FROM:<{own}>"), "250").await;
            smtp.expect(&format!("RCPT TO:<{other}>"), "250").await;
            smtp.expect("DATA", "354").await;
            smtp.expect(&format!("{fields}\r\nx\r\n."), answer).await;
        }
        let mut smtp = world.mail.submission_of(&ada).await;
        for (number, author) in [
            format!("{own} <{own}>"),
            format!("\"{other}\" <{own}>"),
            format!("Ada <{own}>"),
        ]
        .into_iter()
        .enumerate()
        {
            let message = Message::new(&format!("fine {number}"));
            let text = format!("From: {author}\r\nSubject: {}\r\n\r\nx\r\n.", message.subject);
            smtp.expect(&format!("MAIL FROM:<{own}>"), "250").await;
            smtp.expect(&format!("RCPT TO:<{other}>"), "250").await;
            smtp.expect("DATA", "354").await;
            smtp.expect(&text, "250").await;
            let received = world.mail.receive(&bob, &message).await;
            assert!(received.contains(&format!("From: {author}\r\n")), "{received}");
        }
    })
    .await;
}
