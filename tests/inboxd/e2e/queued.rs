//! Mail that waits in Postfix's queue when its inbox goes.

use inboxd::stack::private::Kind;
use serde_json::json;

use crate::support::{attempt, inbox::Inbox, mail::Message, wait::until, world::World};

#[tokio::test]
async fn mail_that_waits_for_a_deleted_inbox_is_returned_and_not_given_to_the_next_one() {
    // Without the barrier an inbox can be made while Dovecot is down.
    World::run_with("publish.barrier = \"off\"", async |world| {
        let tenant = world.tenant("Acme").await;
        let (old, kept, sender) = (
            world.create(&tenant, "scout").await,
            world.create(&tenant, "kept").await,
            world.create(&tenant, "sender").await,
        );
        let alias = "desk@inboxd.test";
        let add_alias = async |inbox: &Inbox| {
            let path = format!("/v1/inboxes/{}/addresses", inbox.id);
            let added = tenant
                .post(&path, &json!({"email": alias, "primary": false}))
                .await;
            assert_eq!(added.status, 201, "{added:?}");
        };
        add_alias(&old).await;
        let mut submission = world.mail.submission_of(&sender).await;
        world.take_down(Kind::Dovecot).await;
        let waiting = [
            (old.email.clone(), Message::new("for the old inbox")),
            (old.with_detail("x"), Message::new("with a detail")),
            (alias.to_owned(), Message::new("for its alias")),
            (kept.email.clone(), Message::new("for one that stays")),
        ];
        for (recipient, message) in &waiting {
            submission.send(&sender.email, recipient, message).await;
        }
        until("all wait", || async {
            let old = world.deferrals(&old).await.len();
            (old >= 3 && !world.deferrals(&kept).await.is_empty()).then_some(())
        })
        .await;

        world.delete(&tenant, &old).await;
        let new = world.create(&tenant, "scout").await;
        assert_eq!(new.email, old.email);
        add_alias(&new).await;
        world.bring_up(Kind::Dovecot).await;

        // What is sent from now on arrives, and what waited comes back to its sender.
        world.mail.receive(&kept, &waiting[3].1).await;
        world.mail.assert_works(&new, "the next inbox").await;
        until("three messages are returned", || async {
            let returned = attempt::imap(&world.mail, &sender).await.unwrap();
            (returned >= 3).then_some(())
        })
        .await;
        let arrived = world.messages(&new).await;
        for file in &arrived {
            let text = std::fs::read_to_string(&file.path).unwrap();
            assert!(text.contains("the next inbox"), "{text}");
        }
        assert!(!arrived.is_empty());
    })
    .await;
}
