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
