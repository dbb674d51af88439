//! Arriving mail is judged by a container of its own.

use crate::support::{
    attempt::STRANGER,
    mail::{Mail, Message},
    world::World,
};

/// The reply that refuses one message of a stranger in this name; empty if it is taken.
async fn refusal(mail: &Mail, sender: &str, recipient: &str, message: &Message) -> String {
    let mut inbound = match mail.try_inbound().await {
        Ok(inbound) => inbound,
        Err(reply) => return reply,
    };
    let text = format!("{}.", message.text(sender, recipient));
    for (command, reply) in [
        (format!("MAIL FROM:<{sender}>"), "250"),
        (format!("RCPT TO:<{recipient}>"), "250"),
        ("DATA".to_owned(), "354"),
        (text, "250"),
    ] {
        if let Err(refused) = inbound.try_expect(&command, reply).await {
            return refused;
        }
    }
    String::new()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arriving_mail_is_judged_and_waits_while_nothing_judges() {
    World::run_alone(async |world| {
        let tenant = world.tenant("Acme").await;
        let ada = world.create(&tenant, "ada").await;
        let message = Message::new("from herself");
        let refused = refusal(&world.mail, &ada.email, &ada.email, &message).await;
        // Which of the two depends on whether DNS is there.
        assert!(
            refused.contains("550 5.7.1 mail from") || refused.contains("451 4.7.1 that this mail"),
            "{refused}"
        );

        world.compose.run(&["stop", "inbound"]).await;
        let message = Message::new("unjudged");
        let refused = refusal(&world.mail, STRANGER, &ada.email, &message).await;
        assert!(refused.contains("451 4.7.1"), "{refused}");
        // Submission goes on.
        let sent = Message::new("sent meanwhile");
        world.mail.submit(&ada, &ada.email, &sent).await.unwrap();
        world.mail.receive(&ada, &sent).await;

        world.compose.up_service("inbound").await;
        let message = Message::new("judged");
        world.mail.deliver(STRANGER, &ada.email, &message).await;
        let text = world.mail.receive(&ada, &message).await;
        assert!(text.contains("\r\nAuthentication-Results: "), "{text}");
        world.until_ready().await;
    })
    .await;
}
