//! The shares of sessions that an inbox and a tenant have.

use serde_json::json;

use crate::support::{
    inbox::Inbox,
    mail::{Imap, Message, Submitting},
    wait::until,
    world::World,
};

/// Fewer than two inboxes may have.
const LIMITS: &str = "imap.sessions_per_inbox_total_max = 4\nimap.sessions_per_tenant_max = 6\n";

/// Logs in one time after the other until that is refused; the sessions, and the server's word.
async fn fill(world: &World, inbox: &Inbox) -> (Vec<Imap>, String) {
    let mut sessions = Vec::new();
    loop {
        match world.mail.try_log_in(&inbox.email, &inbox.password).await {
            Ok(session) => sessions.push(session),
            Err(refusal) => return (sessions, refusal),
        }
        assert!(sessions.len() < 20, "no login was refused");
    }
}

#[tokio::test]
async fn a_tenant_has_its_share_of_the_sessions_and_others_have_theirs() {
    World::run_with_login_policy(LIMITS, async |world| {
        let greedy = world.daemon.tenant("Greedy").await;
        let other = world.daemon.tenant("Other").await;
        let first = Inbox::of(&greedy.post("/v1/inboxes", &json!({})).await);
        let second = Inbox::of(&greedy.post("/v1/inboxes", &json!({})).await);
        let others = Inbox::of(&other.post("/v1/inboxes", &json!({})).await);

        let (of_first, refusal) = fill(world, &first).await;
        assert_eq!(of_first.len(), 4, "{refusal}");
        assert!(refusal.contains("this inbox has as many sessions"), "{refusal}");
        let (of_second, refusal) = fill(world, &second).await;
        assert_eq!(of_second.len(), 2, "{refusal}");
        assert!(refusal.contains("the inboxes of this customer"), "{refusal}");
        let (of_others, _) = fill(world, &others).await;
        assert_eq!(of_others.len(), 4);

        // A daemon that has just started knows of the sessions that are there.
        world.daemon.stop().await;
        world.daemon.up().await;
        let refused = world.mail.try_log_in(&second.email, &second.password).await;
        assert!(refused.unwrap_err().contains("the inboxes of this customer"));

        // While the daemon is away no login is refused.
        world.daemon.stop().await;
        world.mail.log_in(&second).await.logout().await.unwrap();
        world.daemon.up().await;

        // What ends is free for others of the tenant.
        drop(of_first);
        until("a place", || async {
            world.mail.try_log_in(&second.email, &second.password).await.ok()
        })
        .await;
        let metrics = reqwest::get(&world.daemon.metrics)
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let refusals = "inboxd_imap_logins_refused_total{share=\"tenant\"} ";
        assert!(metrics.contains(refusals), "{metrics}");
    })
    .await;
}

/// A session of submission that has begun a message, or the server's word.
async fn begin_message(world: &World, inbox: &Inbox) -> Result<Submitting, String> {
    let mut smtp = world.mail.submission_of(inbox).await;
    smtp.try_expect(&format!("MAIL FROM:<{}>", inbox.email), "250")
        .await?;
    Ok(smtp)
}

#[tokio::test]
async fn an_inbox_has_its_share_of_submission() {
    World::run_with("smtp.sessions_per_inbox_max = 3\n", async |world| {
        let acme = world.daemon.tenant("Acme").await;
        let greedy = Inbox::of(&acme.post("/v1/inboxes", &json!({})).await);
        let other = Inbox::of(&acme.post("/v1/inboxes", &json!({})).await);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(begin_message(world, &greedy).await.unwrap());
        }
        let mut beyond = world.mail.submission_of(&greedy).await;
        let refusal = beyond.say(&format!("MAIL FROM:<{}>", greedy.email)).await;
        assert!(
            refusal.starts_with("421 4.7.0 this inbox has as many sessions"),
            "{refusal}"
        );
        // It is over, so that it takes no place.
        assert_eq!(beyond.rest().await, "");

        // Those that have a place go on, one message after the other.
        let first = &mut held[0];
        for number in 0..2 {
            first.expect("RSET", "250").await;
            let message = Message::new(&format!("share {number}"));
            first.send(&greedy.email, &other.email, &message).await;
        }
        begin_message(world, &other).await.unwrap();
        held.pop();
        until("a place", || async { begin_message(world, &greedy).await.ok() }).await;
    })
    .await;
}

#[tokio::test]
async fn the_inboxes_of_a_tenant_share_submission() {
    const LIMITS: &str = "smtp.sessions_per_inbox_max = 2\nsmtp.sessions_per_tenant_max = 4\n";
    World::run_with(LIMITS, async |world| {
        let greedy = world.daemon.tenant("Greedy").await;
        let other = world.daemon.tenant("Other").await;
        let mut inboxes = Vec::new();
        for _ in 0..4 {
            inboxes.push(Inbox::of(&greedy.post("/v1/inboxes", &json!({})).await));
        }
        let [first, second, third, fourth] = &inboxes[..] else {
            panic!("four inboxes were made");
        };
        let others = Inbox::of(&other.post("/v1/inboxes", &json!({})).await);
        let socket = world.daemon.maps().join("signer/.tenants");
        until("the daemon has the socket for the signer", || async {
            socket.exists().then_some(())
        })
        .await;

        let mut held = Vec::new();
        for inbox in [first, first, second, second] {
            held.push(begin_message(world, inbox).await.unwrap());
        }
        // Where the answer comes too late on a busy machine, the session is let in, and the next one is not.
        let refused = async || {
            let mut beyond = world.mail.submission_of(third).await;
            let refusal = beyond.say(&format!("MAIL FROM:<{}>", third.email)).await;
            if refusal.starts_with("250") {
                return None;
            }
            assert!(
                refusal.starts_with("421 4.7.0 the inboxes of this customer have as many sessions"),
                "{refusal}"
            );
            assert_eq!(beyond.rest().await, "");
            Some(())
        };
        until("a refusal", &refused).await;
        let mut of_others = begin_message(world, &others).await.unwrap();
        of_others.expect("RSET", "250").await;
        let message = Message::new("within the share");
        of_others.send(&others.email, &first.email, &message).await;

        // What is known of an inbox holds while the daemon is away; whose the fourth is cannot be learned then.
        world.daemon.stop().await;
        assert_eq!(refused().await, Some(()));
        begin_message(world, fourth).await.unwrap();

        // What ends is free for others of the tenant.
        held.pop();
        until("a place", || async { begin_message(world, third).await.ok() }).await;
        world.daemon.up().await;
    })
    .await;
}
