//! Inboxes at a customer's own domain. Not for every stack: the domain is written into the store.

use serde_json::json;

use crate::support::{domains::insert_domain, inbox::Inbox, mail::Message, world::World};

#[tokio::test]
async fn an_inbox_at_a_custom_domain_works_from_the_domains_first_moment() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        // Before anybody has heard of the domain.
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect("RCPT TO:<ada@acme.example>", "554").await;
        insert_domain(&world.daemon, &tenant, "acme.example", true).await;
        // Nothing tells the daemon of a row that was written past it: its start does.
        world.daemon.stop().await;
        world.daemon.up().await;

        let body = json!({"username": "ada", "domain": "acme.example"});
        let ada = Inbox::of(&tenant.post("/v1/inboxes", &body).await);
        assert_eq!(ada.email, "ada@acme.example");
        let here = world.create(&tenant, "ada").await;
        let (first, second) = (
            Message::new("to the custom domain"),
            Message::new("to the default one"),
        );
        world.mail.submit(&here, &ada.email, &first).await.unwrap();
        world.mail.submit(&ada, &here.email, &second).await.unwrap();
        world.mail.receive(&ada, &first).await;
        world.mail.receive(&here, &second).await;
        assert_eq!(
            (
                world.messages(&ada).await.len(),
                world.messages(&here).await.len()
            ),
            (1, 1)
        );
        world.mail.assert_login_refused(&ada.email, &here.password).await;
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect("RCPT TO:<nobody@acme.example>", "550 5.1.1").await;
        inbound.expect("RCPT TO:<ada@sub.acme.example>", "554").await;
    })
    .await;
}
