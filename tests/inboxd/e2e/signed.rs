//! Signed mail: what is submitted leaves with signatures that others verify, or it does not leave.

use serde_json::{Value, json};

use crate::support::{
    domains::{asking, name_server, prove},
    inbox::Inbox,
    mail::Message,
    sink::{LAST_LINE, Sink},
    world::World,
};

/// A message as a person writes one.
fn letter(from: &str, subject: &str) -> String {
    format!(
        "From: Ada <{from}>\r\nTo: friend@example.net\r\nSubject: {subject}\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\n\
         Message-ID: <{subject}@example.net>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Folded: one\r\n two\r\n\r\nHello  there, \r\n\r\n..dots\r\n\r\n{LAST_LINE}\r\n\r\n\r\n."
    )
}

#[tokio::test]
async fn what_is_submitted_leaves_with_signatures_that_others_verify() {
    let mut server = name_server().await;
    let sink = Sink::start().await;
    World::run_with_relay(&asking(&server), sink.port, async |world| {
        let tenant = world.tenant("Acme").await;
        prove(&mut server, &tenant, "acme.test").await;
        let ada = Inbox::of(
            &tenant
                .post("/v1/inboxes", &json!({"username": "ada", "domain": "acme.test"}))
                .await,
        );
        let mut submission = world.mail.submission_of(&ada).await;
        submission
            .expect(&format!("MAIL FROM:<{}>", ada.email), "250")
            .await;
        submission.expect("RCPT TO:<friend@example.net>", "250").await;
        submission.expect("DATA", "354").await;
        submission.expect(&letter(&ada.email, "first"), "250").await;
        let received = sink.receive("Subject: first").await;
        let judged = received.judged(server.address(), &ada.email);
        eprintln!(
            "{}\n{}",
            received.text,
            serde_json::to_string_pretty(&judged).unwrap()
        );
        panic!();
    })
    .await;
}
