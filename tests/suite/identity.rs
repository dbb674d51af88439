//! A session and a message in the queue belong to an inbox and its credentials, not to an address: what happens to them when
//! the address goes to another inbox.

use serde_json::json;

use crate::support::{
    api::Api,
    inbox::Inbox,
    mail::{Message, Submitting},
    world::World,
};

/// Begins a message on a session; returns the first reply that is no success, or that to the end of the message.
async fn try_to_send(session: &mut Submitting, sender: &str, recipient: &str) -> String {
    for (command, success) in [
        ("RSET".to_owned(), "250"),
        (format!("MAIL FROM:<{sender}>"), "250"),
        (format!("RCPT TO:<{recipient}>"), "250"),
        ("DATA".to_owned(), "354"),
    ] {
        let reply = session.say(&command).await;
        if !reply.starts_with(success) {
            return reply;
        }
    }
    let text = Message::new("from an old session").text(sender, recipient);
    session.say(&format!("{text}\r\n.")).await
}

/// What ends the credentials of an open session without taking its address away from everybody.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Rotated,
    SuspendedAndResumed,
    /// Deleted, and the name given to a new inbox of the same workspace.
    Recreated,
    /// Deleted, and the name given to a new inbox of another workspace of the tenant.
    RecreatedBySibling,
}

impl Ending {
    /// Returns the inbox that has the address now.
    async fn carry_out(self, operator: &Api, tenant: &Api, inbox: &Inbox) -> Inbox {
        let path = format!("/v1/inboxes/{}", inbox.id);
        match self {
            Self::Rotated => {
                let rotate = tenant.request(reqwest::Method::POST, &format!("{path}/rotate-password"));
                let rotated = tenant.send(rotate).await;
                assert_eq!(rotated.status, 200, "{rotated:?}");
                inbox.with_password(rotated.text("imapPassword"))
            }
            Self::SuspendedAndResumed => {
                let me = tenant.get("/v1/me").await;
                let tenant_path = format!("/v1/tenants/{}", me.text("tenantId"));
                for suspended in [true, false] {
                    let changed = operator
                        .patch(&tenant_path, &json!({"suspended": suspended}))
                        .await;
                    assert_eq!(changed.status, 200, "{changed:?}");
                }
                inbox.clone()
            }
            Self::Recreated => {
                assert_eq!(tenant.delete(&path).await.status, 200);
                Self::create_again(tenant, inbox, None).await
            }
            Self::RecreatedBySibling => {
                let sibling = tenant.post("/v1/workspaces", &json!({"name": "Sibling"})).await;
                assert_eq!(sibling.status, 201, "{sibling:?}");
                assert_eq!(tenant.delete(&path).await.status, 200);
                Self::create_again(tenant, inbox, Some(sibling.id())).await
            }
        }
    }

    async fn create_again(tenant: &Api, inbox: &Inbox, workspace: Option<&str>) -> Inbox {
        let (username, _) = inbox.email.split_once('@').unwrap();
        let mut body = json!({"username": username});
        if let Some(workspace) = workspace {
            body["workspaceId"] = json!(workspace);
        }
        let created = Inbox::of(&tenant.post("/v1/inboxes?strict=true", &body).await);
        assert_eq!(created.email, inbox.email);
        assert_ne!(created.id, inbox.id);
        created
    }
}

#[tokio::test]
async fn an_open_submission_session_never_sends_again_once_its_credentials_end() {
    World::run(async |world| {
        let operator = world.operator();
        let reader = world.inbox("reader").await;
        for (name, ending) in [
            ("rotated", Ending::Rotated),
            ("suspended", Ending::SuspendedAndResumed),
            ("again", Ending::Recreated),
            ("sibling", Ending::RecreatedBySibling),
        ] {
            let tenant = world.tenant(name).await;
            let old = world.create(&tenant, name).await;
            let alias = format!("{}@{}", world.name(&format!("{name}-alias")), world.domain());
            let addresses = format!("/v1/inboxes/{}/addresses", old.id);
            let added = tenant.post(&addresses, &json!({"email": alias})).await;
            assert_eq!(added.status, 201, "{added:?}");

            let mut idle = world.mail.submission_of(&old).await;
            // Each of these is in the middle of a message when the credentials end.
            let mut after_recipient = world.mail.submission_of(&old).await;
            let mut in_data = world.mail.submission_of(&old).await;
            for session in [&mut after_recipient, &mut in_data] {
                session.expect(&format!("MAIL FROM:<{}>", old.email), "250").await;
                session
                    .expect(&format!("RCPT TO:<{}>", reader.email), "250")
                    .await;
            }
            in_data.expect("DATA", "354").await;

            let new = ending.carry_out(&operator, &tenant, &old).await;

            for sender in [&old.email, &alias, &old.with_detail("x")] {
                let reply = try_to_send(&mut idle, sender, &reader.email).await;
                assert!(reply.starts_with("553 5.7.1"), "{ending:?}, {sender}: {reply}");
            }
            let reply = after_recipient.say("DATA").await;
            assert!(reply.starts_with("553 5.7.1"), "{ending:?}: {reply}");
            let text = Message::new("in the middle").text(&old.email, &reader.email);
            let reply = in_data.say(&format!("{text}\r\n.")).await;
            assert!(reply.starts_with("550 5.7.1"), "{ending:?}: {reply}");

            // The new credentials work at once, and nothing of the old sessions has arrived.
            let message = Message::new(name);
            world.mail.submit(&new, &reader.email, &message).await.unwrap();
            let text = world.mail.receive(&reader, &message).await;
            assert!(text.contains(&new.email), "{text}");
        }
        assert_eq!(world.messages(&reader).await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_login_is_an_address_and_never_what_postfix_knows_it_by() {
    World::run(async |world| {
        let scout = world.inbox("scout").await;
        for login in [format!("{}.1", scout.id), scout.id.clone()] {
            world.mail.assert_login_refused(&login, &scout.password).await;
            world.mail.assert_auth_refused(&login, &scout.password).await;
        }
        // Nor is the address that a message has in the queue a recipient, for anybody.
        let (local_part, domain) = scout.email.split_once('@').unwrap();
        let queued = format!("{}={local_part}={domain}@inboxd.invalid", scout.id);
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        for recipient in [&queued, &queued.replace("@inboxd", "+x@inboxd")] {
            inbound
                .expect(&format!("RCPT TO:<{recipient}>"), "550 5.1.1")
                .await;
        }
        let mut submission = world.mail.submission_of(&scout).await;
        submission
            .expect(&format!("MAIL FROM:<{}>", scout.email), "250")
            .await;
        submission
            .expect(&format!("RCPT TO:<{queued}>"), "550 5.1.1")
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_message_says_to_which_address_it_was_sent() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let (name, domain) = (world.name("desk"), world.domain().to_owned());
        let desk = format!("{name}@{domain}");
        let added = tenant
            .post(
                &format!("/v1/inboxes/{}/addresses", scout.id),
                &json!({"email": desk, "primary": false}),
            )
            .await;
        assert_eq!(added.status, 201, "{added:?}");
        let scout_with = |detail: &str| scout.with_detail(detail);
        for (sent_to, delivered_to) in [
            (scout.email.clone(), scout.email.clone()),
            (desk.clone(), scout.email.clone()),
            (format!("{name}+news@{domain}"), scout_with("news")),
            (scout_with("a=b/c"), scout_with("a=b/c")),
            (desk.to_uppercase(), scout.email.clone()),
        ] {
            let message = Message::new(&format!("to {sent_to}"));
            world.mail.deliver("friend@example.net", &sent_to, &message).await;
            let text = world.mail.receive(&scout, &message).await;
            let field = |name: &str| {
                let values: Vec<&str> = text
                    .lines()
                    .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .collect();
                let [value] = values.as_slice() else {
                    panic!("{name}: {values:?} in {text}")
                };
                value.trim_matches(['<', '>']).to_ascii_lowercase()
            };
            assert_eq!(field("X-Original-To"), sent_to.to_ascii_lowercase());
            assert_eq!(field("Delivered-To"), delivered_to);
            assert!(!text.contains(&scout.id), "{text}");
        }
        // A detail that needs quotes: it reaches its mailbox all the same.
        let message = Message::new("in quotes");
        let (local_part, _) = scout.email.split_once('@').unwrap();
        let quoted = format!("\"{local_part}+a b\"@{domain}");
        world.mail.deliver("friend@example.net", &quoted, &message).await;
        let text = world.mail.receive(&scout, &message).await;
        assert!(text.contains(&format!("X-Original-To: {quoted}")), "{text}");
    })
    .await;
}
