//! A customer's own domain, from its registration to its deletion, with real mail. Not for every stack: it takes a name
//! server that the test changes.

use serde_json::json;

use crate::{
    suite::storm::Storm,
    support::{
        api::Api,
        attempt,
        domains::{asking, name_server, prove, publish, register, verify},
        inbox::Inbox,
        mail::{Idling, Message},
        wait::until,
        world::World,
    },
};

async fn create(api: &Api, username: &str, domain: &str) -> Inbox {
    let body = json!({"username": username, "domain": domain});
    Inbox::of(&api.post("/v1/inboxes", &body).await)
}

#[tokio::test]
async fn a_domain_takes_mail_in_the_second_in_which_it_is_proved() {
    let mut server = name_server().await;
    World::run_with(&asking(&server), async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        // An open session, which has refused the very pair of sender and recipient before.
        let mut inbound = world.mail.inbound().await;
        for name in ["one.test", "two.test", "three.test"] {
            let recipients = [format!("ada@{name}"), format!("desk@{name}")];
            assert_eq!(register(&tenant, name).await.status, 201);
            publish(&mut server, &tenant, name).await;
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            for recipient in &recipients {
                inbound.expect(&format!("RCPT TO:<{recipient}>"), "554").await;
            }
            inbound.expect("RSET", "250").await;

            assert_eq!(verify(&tenant, name).await.text("status"), "verified");
            let ada = create(&tenant, "ada", name).await;
            let addresses = format!("/v1/inboxes/{}/addresses", scout.id);
            let desk = json!({"email": recipients[1], "primary": false});
            assert_eq!(tenant.post(&addresses, &desk).await.status, 201);
            for (recipient, inbox) in recipients.iter().zip([&ada, &scout]) {
                let message = Message::new(&format!("to {recipient}"));
                inbound.send("friend@example.net", recipient, &message).await;
                world.mail.receive(inbox, &message).await;
            }
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            inbound
                .expect(&format!("RCPT TO:<nobody@{name}>"), "550 5.1.1")
                .await;
            inbound.expect(&format!("RCPT TO:<ada@sub.{name}>"), "554").await;
            inbound.expect("RSET", "250").await;
            world.mail.assert_works(&ada, "at its own domain").await;
            world.mail.assert_login_refused(&ada.email, &scout.password).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_catch_all_gets_what_no_address_gets() {
    let mut server = name_server().await;
    World::run_with(&asking(&server), async |world| {
        let tenant = world.tenant("Acme").await;
        prove(&mut server, &tenant, "acme.test").await;
        let (scout, ada) = (
            world.create(&tenant, "scout").await,
            create(&tenant, "ada", "acme.test").await,
        );
        let addresses = format!("/v1/inboxes/{}/addresses", ada.id);
        let desk = json!({"email": "desk@acme.test"});
        assert_eq!(tenant.post(&addresses, &desk).await.status, 201);
        let path = "/v1/domains/acme.test";
        let mut inbound = world.mail.inbound().await;
        let refuses = async |inbound: &mut crate::support::mail::Smtp<_>, recipient: &str| {
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            inbound
                .expect(&format!("RCPT TO:<{recipient}>"), "550 5.1.1")
                .await;
            inbound.expect("RSET", "250").await;
        };
        refuses(&mut inbound, "anybody@acme.test").await;
        for round in 0..2 {
            let set = tenant.patch(path, &json!({"catchAll": scout.id})).await;
            assert_eq!(set.status, 200, "{set:?}");
            for (number, (recipient, inbox)) in [
                ("anybody@acme.test", &scout),
                ("Any.Body+detail@ACME.test", &scout),
                ("\"any body\"@acme.test", &scout),
                ("ada@acme.test", &ada),
                ("ada+detail@acme.test", &ada),
                ("desk@acme.test", &ada),
                ("desk+detail@acme.test", &ada),
            ]
            .into_iter()
            .enumerate()
            {
                let message = Message::new(&format!("round {round}, number {number}"));
                inbound.send("friend@example.net", recipient, &message).await;
                world.mail.receive(inbox, &message).await;
            }
            let counts = (
                attempt::imap(&world.mail, &scout).await.unwrap(),
                attempt::imap(&world.mail, &ada).await.unwrap(),
            );
            assert_eq!(counts, (3 * (round + 1), 4 * (round + 1)), "each message once");
            assert_eq!(tenant.patch(path, &json!({"catchAll": null})).await.status, 200);
            refuses(&mut inbound, "anybody@acme.test").await;
        }
        // Nobody may send as what only the catch-all gets.
        tenant.patch(path, &json!({"catchAll": scout.id})).await;
        let mut submission = world.mail.submission_of(&scout).await;
        submission.expect("MAIL FROM:<anybody@acme.test>", "250").await;
        submission
            .expect(&format!("RCPT TO:<{}>", scout.email), "553 5.7.1")
            .await;
        // It goes with its inbox.
        let deleted = tenant.delete(&format!("/v1/inboxes/{}", scout.id)).await;
        assert_eq!(deleted.status, 200);
        refuses(&mut inbound, "anybody@acme.test").await;
        world.mail.assert_works(&ada, "when the catch-all has gone").await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_domain_is_nobodys_any_more() {
    let mut server = name_server().await;
    World::run_with(&asking(&server), async |world| {
        let (acme, other) = (world.tenant("Acme").await, world.tenant("Other").await);
        prove(&mut server, &acme, "acme.test").await;
        let scout = world.create(&acme, "scout").await;
        let addresses = format!("/v1/inboxes/{}/addresses", scout.id);
        let desk = json!({"email": "desk@acme.test"});
        assert_eq!(acme.post(&addresses, &desk).await.status, 201);
        let mut submission = world.mail.submission_of(&scout).await;
        let message = Message::new("from the domain");
        submission.send("desk@acme.test", &scout.email, &message).await;
        world.mail.receive(&scout, &message).await;
        assert_eq!(acme.delete("/v1/domains/acme.test").await.status, 200);
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect("RCPT TO:<desk@acme.test>", "554").await;
        submission.expect("MAIL FROM:<desk@acme.test>", "250").await;
        submission
            .expect(&format!("RCPT TO:<{}>", scout.email), "553 5.7.1")
            .await;
        // Whoever proves it next has all of its names.
        prove(&mut server, &other, "acme.test").await;
        let desk = create(&other, "desk", "acme.test").await;
        let message = Message::new("for the new owner");
        world
            .mail
            .deliver("friend@example.net", &desk.email, &message)
            .await;
        world.mail.receive(&desk, &message).await;
        assert_eq!(attempt::imap(&world.mail, &scout).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_session_of_the_former_owner_never_sends_as_the_next_one() {
    let mut server = name_server().await;
    World::run_with(&asking(&server), async |world| {
        let (acme, other) = (world.tenant("Acme").await, world.tenant("Other").await);
        prove(&mut server, &acme, "acme.test").await;
        let former = create(&acme, "ceo", "acme.test").await;
        let reader = world.inbox("reader").await;
        let mut submission = world.mail.submission_of(&former).await;
        world.delete(&acme, &former).await;
        assert_eq!(acme.delete("/v1/domains/acme.test").await.status, 200);
        prove(&mut server, &other, "acme.test").await;
        let next = create(&other, "ceo", "acme.test").await;
        assert_eq!(next.email, former.email);

        submission
            .expect(&format!("MAIL FROM:<{}>", former.email), "250")
            .await;
        submission
            .expect(&format!("RCPT TO:<{}>", reader.email), "553 5.7.1")
            .await;
        let message = Message::new("from the next owner");
        world.mail.submit(&next, &reader.email, &message).await.unwrap();
        world.mail.receive(&reader, &message).await;
        assert_eq!(world.messages(&reader).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_domain_that_is_handed_over_is_the_former_owners_no_more() {
    let mut server = name_server().await;
    let config = format!("{}domains.handover_notice_s = 0\n", asking(&server));
    World::run_with(&config, async |world| {
        let (acme, other) = (world.tenant("Acme").await, world.tenant("Other").await);
        prove(&mut server, &acme, "acme.test").await;
        let (former, scout) = (
            create(&acme, "ceo", "acme.test").await,
            world.create(&acme, "scout").await,
        );
        let addresses = format!("/v1/inboxes/{}/addresses", scout.id);
        let desk = json!({"email": "desk@acme.test"});
        assert_eq!(acme.post(&addresses, &desk).await.status, 201);
        let kept = Message::new("before");
        world
            .mail
            .deliver("friend@example.net", &former.email, &kept)
            .await;
        world.mail.receive(&former, &kept).await;
        let idling = Idling::begin(world.mail.log_in(&former).await).await;
        let mut sessions = [
            world.mail.submission_of(&former).await,
            world.mail.submission_of(&scout).await,
        ];

        // The domain is the other tenant's in DNS, and nothing of the former one is left there.
        assert_eq!(register(&other, "acme.test").await.status, 201);
        publish(&mut server, &other, "acme.test").await;
        let verified = verify(&other, "acme.test").await;
        assert_eq!(
            (verified.status, verified.text("status")),
            (200, "verified"),
            "{verified:?}"
        );
        idling.assert_ended().await;
        world
            .mail
            .assert_login_refused(&former.email, &former.password)
            .await;
        world
            .mail
            .assert_auth_refused(&former.email, &former.password)
            .await;
        for (session, sender) in sessions.iter_mut().zip(["ceo@acme.test", "desk@acme.test"]) {
            session.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
            session
                .expect(&format!("RCPT TO:<{}>", scout.email), "553 5.7.1")
                .await;
        }
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        for recipient in ["ceo@acme.test", "desk@acme.test"] {
            inbound
                .expect(&format!("RCPT TO:<{recipient}>"), "550 5.1.1")
                .await;
        }

        let next = create(&other, "ceo", "acme.test").await;
        assert_eq!(next.email, former.email);
        let message = Message::new("for the owner now");
        world
            .mail
            .deliver("friend@example.net", &next.email, &message)
            .await;
        world.mail.receive(&next, &message).await;
        world.mail.assert_works(&next, "of the owner now").await;
        world.mail.assert_works(&scout, "at the default domain").await;
        assert_eq!(
            world.messages(&former).await.len(),
            1,
            "its mail stays, and none is added"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_new_domains_take_mail_at_the_first_attempt_in_a_login_storm() {
    let mut server = name_server().await;
    World::run_with(&asking(&server), async |world| {
        let storm = Storm::begin(world).await;
        let tenant = world.tenant("Acme").await;
        let mut failures = Vec::new();
        for number in 0..20 {
            let name = format!("domain-{number}.test");
            prove(&mut server, &tenant, &name).await;
            let ada = create(&tenant, "ada", &name).await;
            let mail = &world.mail;
            let (imap, submission, inbound) = tokio::join!(
                attempt::imap(mail, &ada),
                attempt::submission(mail, &ada, None),
                attempt::inbound(mail, &ada, None)
            );
            failures.extend(
                [imap.map(drop), submission, inbound]
                    .into_iter()
                    .filter_map(Result::err),
            );
        }
        let logins = storm.end().await;
        println!("20 domains proved and used beside {logins} logins of others");
        assert_eq!(failures, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn domains_are_looked_at_by_themselves() {
    let mut server = name_server().await;
    let config = format!("{}domains.check_interval_s = 1\n", asking(&server));
    World::run_with(&config, async |world| {
        let tenant = world.tenant("Acme").await;
        prove(&mut server, &tenant, "acme.test").await;
        let status = async || {
            let domain = tenant.get("/v1/domains/acme.test").await;
            domain.text("status").to_owned()
        };
        server.set_zone("acme.test", "").await;
        until("it is found degraded", || async {
            (status().await == "degraded").then_some(())
        })
        .await;
        // Nothing stops working.
        let ada = create(&tenant, "ada", "acme.test").await;
        world.mail.assert_works(&ada, "at a degraded domain").await;
        publish(&mut server, &tenant, "acme.test").await;
        until("it is found whole", || async {
            (status().await == "verified").then_some(())
        })
        .await;
    })
    .await;
}
