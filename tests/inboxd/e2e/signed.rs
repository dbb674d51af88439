//! Signed mail: what is submitted leaves with signatures that others verify, or it does not leave.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::{
    api::Api,
    dns::DnsServer,
    domains::{asking, name_server, prove, publish, verify},
    inbox::Inbox,
    mail::{Message, Submitting},
    maps::edit,
    sink::{LAST_LINE, Received, Sink},
    wait::until,
    world::World,
};

pub(super) const FRIEND: &str = "friend@example.net";

/// A message as a person writes one, ready to follow DATA.
fn letter(from: &str, subject: &str) -> String {
    format!(
        "From: Ada <{from}>\r\nTo: {FRIEND}\r\nSubject: {subject}\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\n\
         Message-ID: <{subject}@example.net>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Folded: one\r\n two\r\n\r\nHello  there, \r\n\r\n..dots\r\n\r\n{LAST_LINE}\r\n\r\n\r\n."
    )
}

async fn inbox(api: &Api, username: &str, domain: &str) -> Inbox {
    let body = json!({"username": username, "domain": domain});
    Inbox::of(&api.post("/v1/inboxes", &body).await)
}

/// What a test of signed mail has beside its world.
pub(super) struct Rig {
    pub(super) server: DnsServer,
    /// Gets what is for other domains.
    pub(super) sink: Sink,
    tenant: Api,
    /// An inbox at a domain of the tenant's own, which is proved.
    pub(super) ada: Inbox,
}

/// Runs a test in a world from which mail leaves.
pub(super) async fn run(test: impl AsyncFnOnce(&mut World, &mut Rig)) {
    let mut server = name_server().await;
    let sink = Sink::start().await;
    let (config, port) = (asking(&server), sink.port);
    World::run_with_relay(&config, port, async |world| {
        let tenant = world.tenant("Acme").await;
        prove(&mut server, &tenant, "acme.test").await;
        let ada = inbox(&tenant, "ada", "acme.test").await;
        let mut rig = Rig {
            server,
            sink,
            tenant,
            ada,
        };
        test(world, &mut rig).await;
    })
    .await;
}

/// Submits what follows DATA; the answer must begin so.
async fn submit(submission: &mut Submitting, sender: &str, text: &str, answer: &str) {
    submission.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
    submission.expect(&format!("RCPT TO:<{FRIEND}>"), "250").await;
    submission.expect("DATA", "354").await;
    submission.expect(text, answer).await;
}

/// The signatures that others verified, by their `a=`, their selectors with them. All must be of the author's domain, and
/// so must be the envelope: DMARC passes by both ways (RFC 7489, 3.1).
pub(super) fn aligned(judged: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(judged["author"], judged["envelope"], "{judged:#}");
    assert_eq!(judged["spf"]["valid"], true, "{judged:#}");
    assert_eq!(judged["spf"]["passes"], true, "{judged:#}");
    assert_eq!(judged["dmarc"]["valid"], true, "{judged:#}");
    let signatures = judged["signatures"].as_array().unwrap();
    let of_one = |signature: &Value| {
        assert_eq!(signature["verified"], true, "{judged:#}");
        assert_eq!(signature["domain"], judged["author"], "{judged:#}");
        (text(&signature["algorithm"]), text(&signature["selector"]))
    };
    let mut found: Vec<_> = signatures.iter().map(of_one).collect();
    found.sort_unstable();
    found
}

/// The same, of which there must be one of each algorithm.
fn both(judged: &Value) -> [String; 2] {
    let [(first, ed25519), (second, rsa)] = aligned(judged).try_into().unwrap();
    assert_eq!([first, second], ["ed25519-sha256", "rsa-sha256"]);
    [ed25519, rsa]
}

/// The number of signatures that others verified of a message with something changed on the way.
fn verified_after(received: &Received, from: &str, to: &str, server: SocketAddr, sender: &str) -> usize {
    assert!(received.text.contains(from));
    fs::write(&received.path, received.text.replacen(from, to, 1)).unwrap();
    let judged = received.judged(server, sender);
    fs::write(&received.path, &received.text).unwrap();
    let signatures = judged["signatures"].as_array().unwrap();
    assert_eq!(signatures.len(), 2);
    let verified = signatures
        .iter()
        .filter(|signature| signature["verified"] == true);
    verified.count()
}

#[tokio::test]
async fn what_is_submitted_leaves_with_signatures_that_others_verify() {
    run(async |world, rig| {
        let Rig {
            server,
            sink,

            ada,
            ..
        } = rig;
        let sender = ada.email.as_str();
        let mut submission = world.mail.submission_of(ada).await;
        submit(&mut submission, sender, &letter(sender, "first"), "250").await;
        let received = sink.receive("Subject: first").await;
        let address = server.address();
        both(&received.judged(address, sender));
        // What a signature is for: nothing of this can be changed or added on the way.
        for (from, to) in [
            ("Hello", "Hallo"),
            ("Subject: first", "Subject: other"),
            ("From: Ada", "From: Eve"),
            ("To: friend", "Cc: more@example.net\nTo: friend"),
            ("Subject: first", "Subject: first\nSubject: second"),
        ] {
            assert_eq!(verified_after(&received, from, to, address, sender), 0, "{from} -> {to}");
        }
        for (from, to) in [("Subject: first", "subject:  first "), ("X-Folded: one\n two", "X-Folded: none")] {
            assert_eq!(verified_after(&received, from, to, address, sender), 2, "{from} -> {to}");
        }

        // Messages as programs write them.
        let long = "x".repeat(900);
        let lines = format!("{}\r\n", "y".repeat(70)).repeat(3_000);
        for (subject, text) in [
            ("no-body", format!("From: {sender}\r\nX-End: {LAST_LINE}\r\nSubject: no-body\r\n.")),
            // Postfix gives it a From field, from the envelope.
            ("no-from", format!("Subject: no-from\r\n\r\n{LAST_LINE}\r\n.")),
            ("no-date", format!("From: {sender}\r\nSubject: no-date\r\n\r\n{LAST_LINE}\r\n.")),
            ("empty-lines", format!("From: {sender}\r\nSubject: empty-lines\r\nX-End: {LAST_LINE}\r\n\r\n\r\n\r\n.")),
            (
                "=?utf-8?q?J=C3=B6rg?=",
                format!("from:{sender}\r\nsubject:\t=?utf-8?q?J=C3=B6rg?=  \r\n\r\n{LAST_LINE} \t \r\n \r\n."),
            ),
            (
                "eight-bits",
                format!("From: J\u{f6}rg <{sender}>\r\nSubject: eight-bits \u{fc}\r\nContent-Type: text/plain; charset=utf-8\r\n\
                         Content-Transfer-Encoding: 8bit\r\nMIME-Version: 1.0\r\n\r\n\u{e4}\u{1f600}\r\n{LAST_LINE}\r\n."),
            ),
            (
                "long",
                format!("From: {sender}\r\nSubject: long\r\nReferences: <{long}@example.net>\r\n\t<{long}@example.net>\r\n\r\n{lines}{LAST_LINE}\r\n."),
            ),
            (
                "returns",
                format!("From: {sender}\r\nSubject: returns\r\n\r\na\rb\r\r\n\t\r\n{LAST_LINE}\r\n \t\r\n\t \r\n."),
            ),
            (
                "detail",
                format!("From: \"Ada, in person\" <Ada+Detail@ACME.test>\r\nSubject: detail\r\n\r\n{LAST_LINE}\r\n."),
            ),
        ] {
            submit(&mut submission, sender, &text, "250").await;
            let received = sink.receive(subject).await;
            let judged = received.judged(address, sender);
            assert_eq!(aligned(&judged).len(), 2, "{subject}: {judged:#}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_key_signs_the_next_message_of_a_session_that_is_open() {
    run(async |world, rig| {
        let Rig {
            server,
            sink,
            tenant,
            ada,
        } = rig;
        let sender = ada.email.as_str();
        let mut submission = world.mail.submission_of(ada).await;
        let mut selectors = Vec::new();
        for round in 0..3 {
            let subject = format!("round-{round}");
            submit(&mut submission, sender, &letter(sender, &subject), "250").await;
            let received = sink.receive(&format!("Subject: {subject}")).await;
            let now = both(&received.judged(server.address(), sender));
            assert!(!selectors.contains(&now), "{now:?} has signed before");
            selectors.push(now.clone());

            let rotated = tenant.post("/v1/domains/acme.test/dkim/rotate", &json!({})).await;
            assert_eq!(rotated.status, 200, "{rotated:?}");
            // Nobody can verify the new one yet.
            let subject = format!("waiting-{round}");
            submit(&mut submission, sender, &letter(sender, &subject), "250").await;
            let waiting = sink.receive(&format!("Subject: {subject}")).await;
            assert_eq!(both(&waiting.judged(server.address(), sender)), now);

            publish(server, tenant, "acme.test").await;
            assert_eq!(verify(tenant, "acme.test").await.text("status"), "verified");
            // What was signed before is on its way, and can be verified.
            both(&received.judged(server.address(), sender));
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_signed_waits_and_does_not_leave() {
    run(async |world, rig| {
        let Rig {
            server, sink, ada, ..
        } = rig;
        let sender = ada.email.as_str();
        let from = format!("MAIL FROM:<{sender}>");
        let mut open = world.mail.submission_of(ada).await;
        submit(&mut open, sender, &letter(sender, "before"), "250").await;

        world.stop_signer();
        open.expect(&from, "451 4.7.1").await;
        let refused = world.mail.try_submission().await.map(drop).unwrap_err();
        assert!(refused.contains("454 4.3.0 Try again later"), "{refused}");
        // Mail from others needs no signature of ours.
        let message = Message::new("from outside meanwhile");
        let mut inbound = world.mail.inbound().await;
        inbound.send("friend@example.net", sender, &message).await;
        world.mail.receive(ada, &message).await;
        let stored = world.messages(ada).await;
        let text = fs::read_to_string(&stored[0].path).unwrap();
        assert!(!text.contains("DKIM-Signature"), "{text}");

        world.start_signer().await;
        // Postfix asks for it once a session.
        open.expect(&from, "451 4.7.1").await;
        let mut again = world.mail.submission_of(ada).await;
        submit(&mut again, sender, &letter(sender, "again"), "250").await;
        both(
            &sink
                .receive("Subject: again")
                .await
                .judged(server.address(), sender),
        );

        // A domain without a key.
        let table = world.daemon.maps_layout().table(inboxd::maps::Which::SigningKeys);
        edit(&table, |database, txn| {
            assert!(database.delete(txn, b"acme.test\0").unwrap());
        });
        submit(&mut again, sender, &letter(sender, "without-a-key"), "451 4.7.5").await;
        let (status, said) = world.daemon.command(&["maps", "check"]).await;
        assert_eq!(
            (status, said.contains("signing_keys acme.test: missing")),
            (1, true),
            "{said}"
        );
        let (status, said) = world.daemon.command(&["maps", "rebuild"]).await;
        assert_eq!(status, 0, "{said}");
        submit(&mut again, sender, &letter(sender, "with-a-key"), "250").await;
        both(
            &sink
                .receive("Subject: with-a-key")
                .await
                .judged(server.address(), sender),
        );
        assert!(sink.find("without-a-key").is_none());

        // No table at all.
        fs::rename(&table, table.with_extension("gone")).unwrap();
        submit(
            &mut again,
            sender,
            &letter(sender, "without-a-table"),
            "451 4.7.5",
        )
        .await;
        fs::rename(table.with_extension("gone"), &table).unwrap();
        submit(&mut again, sender, &letter(sender, "with-a-table"), "250").await;
        both(
            &sink
                .receive("Subject: with-a-table")
                .await
                .judged(server.address(), sender),
        );
        assert!(sink.find("without-a-table").is_none());
    })
    .await;
}

#[tokio::test]
async fn nobody_signs_as_somebody_else() {
    run(async |world, rig| {
        let Rig {
            server,
            sink,
            tenant: acme,
            ada,
        } = rig;
        let other = world.tenant("Other").await;
        prove(server, &other, "other.test").await;
        let bob = inbox(&other, "bob", "other.test").await;
        let colleague = inbox(acme, "colleague", "acme.test").await;
        let sender = ada.email.as_str();
        let mut submission = world.mail.submission_of(ada).await;
        let text = |field: &str| format!("{field}\r\nSubject: forged\r\n\r\n{LAST_LINE}\r\n.");
        for field in [
            format!("From: <{}>", bob.email),
            format!("From: <{}>", colleague.email),
            format!("From: Ada <{sender}>, Bob <{}>", bob.email),
            format!("From: Ada <{sender}>\r\nFrom: Bob <{}>", bob.email),
            format!("From: {sender} <{}>", bob.email),
            "From: nobody@acme.test".to_owned(),
            "From: ada@sub.acme.test".to_owned(),
            "From: ada@example.net".to_owned(),
            format!("From: group: {sender};"),
        ] {
            submit(&mut submission, sender, &text(&field), "550 5.7.1").await;
        }
        // Another address of one's own.
        let added = acme
            .post(
                &format!("/v1/inboxes/{}/addresses", ada.id),
                &json!({"email": "desk@acme.test"}),
            )
            .await;
        assert_eq!(added.status, 201);
        submit(
            &mut submission,
            "desk@acme.test",
            &letter("desk@acme.test", "as-desk"),
            "250",
        )
        .await;
        both(
            &sink
                .receive("Subject: as-desk")
                .await
                .judged(server.address(), sender),
        );
        // An empty sender is for mail servers.
        submission.expect("MAIL FROM:<>", "250").await;
        submission
            .expect(&format!("RCPT TO:<{FRIEND}>"), "553 5.7.1")
            .await;
        submission.expect("RSET", "250").await;
        // From the moment in which it is taken away.
        let path = format!("/v1/inboxes/{}/addresses/desk@acme.test", ada.id);
        assert_eq!(acme.delete(&path).await.status, 200);
        submit(
            &mut submission,
            sender,
            &letter("desk@acme.test", "no-desk"),
            "550 5.7.1",
        )
        .await;
        assert!(sink.find("Subject: forged").is_none());
        assert!(sink.find("Subject: no-desk").is_none());
    })
    .await;
}

#[tokio::test]
async fn two_hundred_sessions_are_signed_at_the_same_time() {
    const SESSIONS: usize = 200;
    // No inbox may have all of them.
    const SENDERS: usize = 8;
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = world.create(&tenant, "scout").await;
        let mut senders = Vec::new();
        for number in 0..SENDERS {
            senders.push(world.create(&tenant, &format!("sender-{number}")).await);
        }
        let mut open = Vec::new();
        for sender in senders.iter().cycle().take(SESSIONS) {
            let mut submission = world.mail.submission_of(sender).await;
            for (command, answer) in [
                (format!("MAIL FROM:<{}>", sender.email), "250"),
                (format!("RCPT TO:<{}>", scout.email), "250"),
                ("DATA".to_owned(), "354"),
            ] {
                submission.expect(&command, answer).await;
            }
            open.push((submission, sender.email.as_str()));
        }
        let scout = &scout;
        let ending = open
            .iter_mut()
            .enumerate()
            .map(async |(number, (submission, sender))| {
                submission
                    .expect(&letter(sender, &format!("session-{number}")), "250")
                    .await;
            });
        futures_util::future::join_all(ending).await;
        let stored = until("every message arrives", || async {
            let stored = world.messages(scout).await;
            (stored.len() == SESSIONS).then_some(stored)
        })
        .await;
        for message in stored {
            let text = fs::read_to_string(&message.path).unwrap();
            // Nobody has seen the record of another key yet.
            assert_eq!(text.matches("DKIM-Signature:").count(), 1, "{text}");
            assert!(text.contains("d=inboxd.test;"), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn garbage_at_the_signers_socket_keeps_nobody_from_signing() {
    run(async |world, rig| {
        let Rig {
            server, sink, ada, ..
        } = rig;
        let sender = ada.email.as_str();
        let mut submission = world.mail.submission_of(ada).await;
        let negotiation = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff".as_slice();
        let packets: Vec<Vec<u8>> = vec![
            Vec::new(),
            vec![0; 3],
            vec![0; 4_096],
            vec![0xff; 4_096],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\0\0\0\x01E".to_vec(),
            b"\xff\xff\xff\xffB".to_vec(),
            [negotiation, b"\0\0\0\x01E"].concat(),
            [negotiation, b"\0\0\0\x02L\0"].concat(),
            [negotiation, b"\0\0\0\x05DMx\0y"].concat(),
            [negotiation, b"\0\0\0\x03Lx\0\0\0\0\x01N"].concat(),
            [negotiation, b"\0\x0f\0\0L", &vec![b'x'; 0x0f_0000]].concat(),
            [negotiation, negotiation, negotiation].concat(),
            negotiation[..9].to_vec(),
        ];
        for packet in &packets {
            let mut stream = UnixStream::connect(world.daemon.signer_socket()).await.unwrap();
            // It may hang up before it has all of it.
            let _ = stream.write_all(packet).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!String::from_utf8_lossy(&answer).contains("v=1;"), "{packet:?}");
        }
        submit(&mut submission, sender, &letter(sender, "after-garbage"), "250").await;
        both(
            &sink
                .receive("Subject: after-garbage")
                .await
                .judged(server.address(), sender),
        );
    })
    .await;
}

#[tokio::test]
async fn the_default_domain_signs_as_its_operator_lets_it() {
    run(async |world, rig| {
        let Rig {
            server, sink, tenant, ..
        } = rig;
        let scout = world.create(tenant, "scout").await;
        let sender = scout.email.as_str();
        let mut submission = world.mail.submission_of(&scout).await;
        // From the first message on, whether anybody can verify it or not.
        submit(&mut submission, sender, &letter(sender, "unpublished"), "250").await;
        let unpublished = sink.receive("Subject: unpublished").await;
        assert_eq!(unpublished.text.matches("DKIM-Signature:").count(), 1);
        let (status, said) = world.daemon.command(&["domain", "check"]).await;
        assert_eq!((status, said.contains("missing  TXT  ibr-")), (1, true), "{said}");

        let mut selectors: Vec<[String; 2]> = Vec::new();
        let count = AtomicUsize::new(0);
        for subject in ["published", "rotated"] {
            let (status, zone) = world.daemon.command(&["domain", "zone"]).await;
            assert_eq!(status, 0, "{zone}");
            server
                .set_zone("inboxd.test", &format!("mail A 127.0.0.1\n{zone}"))
                .await;
            let (status, said) = world.daemon.command(&["domain", "check"]).await;
            assert_eq!(status, 0, "{said}");
            // The daemon sees what another process has changed within seconds.
            let judged = until("the new keys sign", || async {
                let subject = format!("{subject}-{}", count.fetch_add(1, Ordering::Relaxed));
                let mut submission = world.mail.submission_of(&scout).await;
                submit(&mut submission, sender, &letter(sender, &subject), "250").await;
                let judged = sink
                    .receive(&format!("Subject: {subject}"))
                    .await
                    .judged(server.address(), sender);
                let found = aligned(&judged);
                let is_new = found
                    .iter()
                    .all(|(_, selector)| !selectors.iter().flatten().any(|old| old == selector));
                (found.len() == 2 && is_new).then_some(judged)
            })
            .await;
            selectors.push(both(&judged));
            let (status, rotated) = world.daemon.command(&["domain", "rotate-dkim"]).await;
            assert_eq!(status, 0, "{rotated}");
            assert_eq!(
                rotated.matches("._domainkey.").count(),
                2 * (selectors.len() + 1),
                "{rotated}"
            );
        }
        // What left before its key was published can be verified now.
        let judged = unpublished.judged(server.address(), sender);
        assert_eq!(aligned(&judged).len(), 1);
    })
    .await;
}
