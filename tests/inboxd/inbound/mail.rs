//! Through a real Postfix and a real Dovecot: what is refused, what goes to Junk, and how many copies arrive.

use std::fs;

use inboxd::stack::private::Kind;
use serde_json::json;

use super::rig::{Keys, letter};
use crate::support::{
    api::Api,
    dns::DnsServer,
    domains::{MX_HOST, prove},
    inbox::Inbox,
    mail::{Message, count},
    wait::until,
    world::World,
};

/// The spellings of a field in our name that a stranger may try.
const FORGED: [&str; 6] = [
    "Authentication-Results: mail.inboxd.test; dmarc=pass (forged)",
    "authentication-results : MAIL.inboxd.test; dmarc=pass (forged)",
    "Authentication-Results:\r\n (c) \"mail.inboxd.test\" 1;\r\n dmarc=pass (forged)",
    "Authentication-Results: =?utf-8?q?mail=2Einboxd=2Etest?=; dmarc=pass (forged)",
    "Received-SPF: pass (forged)",
    "X-INBOXD-JUNK: no (forged)",
];

/// What each test has beside its world.
struct Rig {
    server: DnsServer,
    keys: Keys,
    tenant: Api,
    scout: Inbox,
}

/// Runs a test in a world in which arriving mail is judged.
async fn run(extra: &str, test: impl AsyncFnOnce(&mut World, &mut Rig)) {
    let mut server = DnsServer::start().await;
    let keys = Keys::new();
    server.set_zone("test", "").await;
    for (zone, records) in [
        (
            "good.test",
            "@ TXT \"v=spf1 ip4:127.0.0.1 -all\"\n_dmarc TXT \"v=DMARC1; p=reject\"",
        ),
        (
            "bank.test",
            "@ TXT \"v=spf1 -all\"\n_dmarc TXT \"v=DMARC1; p=reject\"",
        ),
        (
            "shop.test",
            "@ TXT \"v=spf1 -all\"\n_dmarc TXT \"v=DMARC1; p=quarantine\"",
        ),
    ] {
        server.set_zone(zone, records).await;
    }
    let ours = format!("mail A 127.0.0.1\n{}", keys.records());
    server.set_zone("inboxd.test", &ours).await;
    let config = format!("domains.mx_host = \"{MX_HOST}\"\n{extra}");
    World::run_judging(server.address(), &config, async |world| {
        let tenant = world.tenant("Acme").await;
        let scout = Inbox::of(&tenant.post("/v1/inboxes", &json!({"username": "scout"})).await);
        let mut rig = Rig {
            server,
            keys,
            tenant,
            scout,
        };
        test(world, &mut rig).await;
    })
    .await;
}

/// Says one message; returns the last reply.
async fn deliver(world: &World, sender: &str, recipients: &[&str], text: &str) -> String {
    let mut smtp = world.mail.inbound().await;
    smtp.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
    for recipient in recipients {
        smtp.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
    }
    smtp.expect("DATA", "354").await;
    let stuffed = text.replace("\r\n.", "\r\n..");
    smtp.say(&format!("{stuffed}.")).await
}

/// A letter with more fields, and a subject of its own.
fn with_fields(from: &str, subject: &str, fields: &[&str]) -> String {
    let fields: Vec<String> = fields.iter().map(|field| format!("{field}\r\n")).collect();
    fields.concat() + &letter(from).replace("a letter", subject)
}

/// The header of a message with this subject, and the folder that it is in, as soon as it is there.
async fn arrived(world: &World, inbox: &Inbox, subject: &str) -> (String, &'static str) {
    let root = world.layout.mail_root().join(&inbox.id).join("Maildir");
    until(&format!("{subject:?} arrives"), || async {
        for (folder, path) in [("INBOX", "new"), ("Junk", ".Junk/new")] {
            for entry in fs::read_dir(root.join(path)).into_iter().flatten() {
                let text = fs::read_to_string(entry.unwrap().path()).unwrap();
                if text.contains(&format!("Subject: {subject}\n")) {
                    let header = text.split("\n\n").next().unwrap().to_owned();
                    return Some((header, folder));
                }
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn suspicious_mail_goes_to_junk_and_nothing_else_does() {
    run("", async |world, rig| {
        let scout = &rig.scout;
        for (name, sender, recipient, folder) in [
            ("honest", "x@good.test", scout.email.clone(), "INBOX"),
            ("detail", "x@good.test", scout.with_detail("Junk"), "INBOX"),
            ("unknown", "x@nowhere.test", scout.email.clone(), "INBOX"),
            ("forged", "x@bank.test", scout.email.clone(), "Junk"),
            ("forged-detail", "x@shop.test", scout.with_detail("INBOX"), "Junk"),
        ] {
            let text = with_fields(sender, name, &FORGED);
            let reply = deliver(world, sender, &[&recipient], &text).await;
            assert!(reply.starts_with("250"), "{name}: {reply}");
            let (header, found) = arrived(world, scout, name).await;
            assert_eq!(found, folder, "{name}: {header}");
            assert!(!header.contains("(forged)"), "{name}: {header}");
            assert!(
                header.contains(&format!("\nDelivered-To: {recipient}\n")),
                "{header}"
            );
            for field in ["Authentication-Results", "Received-SPF"] {
                assert_eq!(
                    header.matches(&format!("\n{field}: ")).count(),
                    1,
                    "{name}: {header}"
                );
            }
            assert_eq!(
                header.contains("\nX-Inboxd-Junk: yes ("),
                folder == "Junk",
                "{header}"
            );
        }
        // What others have said stays.
        let others = ["Authentication-Results: mx.example.org; spf=pass (theirs)"];
        deliver(
            world,
            "x@good.test",
            &[&scout.email],
            &with_fields("x@good.test", "others", &others),
        )
        .await;
        let (header, _) = arrived(world, scout, "others").await;
        assert!(header.contains("(theirs)"), "{header}");
        let mut imap = world.mail.log_in(scout).await;
        assert_eq!(
            (count(&mut imap, "INBOX").await, count(&mut imap, "Junk").await),
            (4, 2)
        );
    })
    .await;
}

#[tokio::test]
async fn the_policy_decides_about_what_fails() {
    for (policy, bank, shop) in [("report", "INBOX", "INBOX"), ("reject", "refused", "Junk")] {
        run(&format!("inbound.dmarc = \"{policy}\"\n"), async |world, rig| {
            let scout = &rig.scout;
            for (sender, expected) in [("x@bank.test", bank), ("x@shop.test", shop)] {
                let text = with_fields(sender, sender, &[]);
                let reply = deliver(world, sender, &[&scout.email], &text).await;
                if expected == "refused" {
                    assert!(
                        reply.starts_with("550 5.7.1 ")
                            && reply.contains("bank.test asks to have such mail rejected"),
                        "{reply}"
                    );
                } else {
                    assert!(reply.starts_with("250"), "{reply}");
                    let (header, folder) = arrived(world, scout, sender).await;
                    assert_eq!(folder, expected);
                    assert!(header.contains("dmarc=fail (p="), "{header}");
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn no_stranger_writes_in_our_name() {
    run("", async |world, rig| {
        let scout = &rig.scout;
        let me = scout.email.as_str();
        let by_name = format!("\"{me}\" <x@good.test>");
        let several = format!("x@good.test, {me}");
        for (name, sender, from) in [
            ("both", me, me),
            ("envelope", me, "x@good.test"),
            ("author", "x@good.test", me),
            ("null sender", "", me),
            ("no such inbox", "x@good.test", "nobody@inboxd.test"),
            ("in a name", "x@good.test", by_name.as_str()),
            ("one of several", "x@good.test", several.as_str()),
            ("in a comment", "x@good.test", "x@good.test (boss@inboxd.test)"),
            (
                "encoded",
                "x@good.test",
                "=?utf-8?q?boss=40inboxd=2Etest?= <x@good.test>",
            ),
        ] {
            let reply = deliver(world, sender, &[me], &with_fields(from, name, &[])).await;
            assert!(
                reply.starts_with("550 5.7.1 mail from inboxd.test is accepted after a login only"),
                "{name}: {reply}"
            );
        }
        // The address that the mailbox has in the queue: Postfix makes ours of it at delivery, wherever it stands.
        let queued = format!("{}=scout=inboxd.test@inboxd.invalid", scout.id);
        let in_pieces = queued.replace("@inboxd.", " @ inboxd . (x) ");
        let named = format!("\"{queued}\" <x@good.test>");
        for (sender, from) in [
            ("x@good.test", queued.as_str()),
            ("x@good.test", in_pieces.as_str()),
            ("x@good.test", named.as_str()),
            (queued.as_str(), "x@good.test"),
        ] {
            let reply = deliver(world, sender, &[me], &with_fields(from, "queued", &[])).await;
            assert!(
                reply.starts_with("550 5.7.1 mail from inboxd.invalid is accepted after a login only"),
                "{sender}, {from}: {reply}"
            );
        }
        // However the client spells the sender.
        for path in [
            "<SCOUT@INBOXD.TEST>",
            "<\"scout\"@inboxd.test>",
            "<scout@inboxd.test.>",
            "<@good.test:scout@inboxd.test>",
            "<scout+x@inboxd.test>",
            "scout@inboxd.test",
            "Scout <scout@inboxd.test>",
            "<scout@inboxd.test (x)>",
            "<scout @ inboxd . test>",
            "< scout@inboxd.test >",
        ] {
            let mut smtp = world.mail.inbound().await;
            let said = smtp.say(&format!("MAIL FROM:{path}")).await;
            if said.starts_with('5') {
                continue;
            }
            smtp.expect(&format!("RCPT TO:<{me}>"), "250").await;
            smtp.expect("DATA", "354").await;
            let text = with_fields("x@good.test", "spelled", &[]);
            let reply = smtp.say(&format!("{text}.")).await;
            assert!(
                reply.starts_with("550 5.7.1 mail from inboxd.test"),
                "{path}: {reply}"
            );
        }
        // With the domain's own signature, a mailing list may.
        // In the simple form, which no white space survives that a server on the way changes.
        let sign = json!({"sign": {"domain": "inboxd.test", "selector": "s1", "form": "simple/simple"}});
        let change = json!({"replace": ["Subject: changed", "Subject: forged"]});
        let texts = [
            (
                with_fields(&format!("Me\r\n  <{me}>"), "signed", &[]),
                vec![sign.clone()],
            ),
            (with_fields(me, "changed", &[]), vec![sign, change]),
        ];
        let [signed, changed] = rig.keys.write(&texts).try_into().unwrap();
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        let (signed, changed) = (text(signed), text(changed));
        let reply = deliver(world, "list@good.test", &[me], &signed).await;
        assert!(reply.starts_with("250"), "{reply}");
        assert_eq!(arrived(world, scout, "signed").await.1, "INBOX");
        let reply = deliver(world, "list@good.test", &[me], &changed).await;
        assert!(reply.starts_with("550 5.7.1"), "{reply}");

        // What DNS does not say now, it may say later.
        rig.server.break_zone("inboxd.test").await;
        let reply = deliver(world, "list@good.test", &[me], &signed).await;
        assert!(reply.starts_with("451 4.7.1"), "{reply}");
        // A login writes as before, also to itself.
        world
            .mail
            .submit(scout, me, &crate::support::mail::Message::new("mine"))
            .await
            .unwrap();
        world
            .mail
            .receive(scout, &crate::support::mail::Message::new("mine"))
            .await;
    })
    .await;
}

#[tokio::test]
async fn what_a_stranger_reports_to_the_postmaster_is_not_refused() {
    run("inbound.dmarc = \"reject\"", async |world, rig| {
        prove(&mut rig.server, &rig.tenant, "own.test").await;
        let body = json!({"username": "abuse", "domain": "own.test"});
        let abuse = Inbox::of(&rig.tenant.post("/v1/inboxes", &body).await);
        let (us, scout) = (abuse.email.as_str(), rig.scout.email.as_str());
        // In our own name, and in that of a bank that asks for refusal.
        for (from, name) in [(us, "ours"), ("ceo@bank.test", "theirs")] {
            let text = with_fields(from, name, &[]);
            let reply = deliver(world, "x@shop.test", &[us], &text).await;
            assert!(reply.starts_with("250"), "{name}: {reply}");
            let reply = deliver(world, "x@shop.test", &[us, scout], &text).await;
            assert!(reply.starts_with("550 5.7.1"), "{name}: {reply}");
        }
        until("both are in Junk", || async {
            let mut imap = world.mail.log_in(&abuse).await;
            (count(&mut imap, "Junk").await == 2).then_some(())
        })
        .await;
        assert_eq!(count(&mut world.mail.log_in(&abuse).await, "INBOX").await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_done_about_our_name_is_a_setting() {
    for (setting, folder) in [("quarantine", "Junk"), ("accept", "INBOX")] {
        run(
            &format!("inbound.own_senders = \"{setting}\"\n"),
            async |world, rig| {
                let me = rig.scout.email.as_str();
                let reply = deliver(world, me, &[me], &with_fields(me, "as myself", &[])).await;
                assert!(reply.starts_with("250"), "{reply}");
                assert_eq!(arrived(world, &rig.scout, "as myself").await.1, folder);
            },
        )
        .await;
    }
}

/// The recipients that Postfix says it got the copies of a message for, but for those of another inbox. Both get it.
async fn copies(world: &World, inbox: &Inbox, subject: &str, other: &Inbox) -> Vec<String> {
    arrived(world, inbox, subject).await;
    arrived(world, other, subject).await;
    let read = || fs::read_to_string(world.layout.postfix_log()).unwrap();
    // The last message that was put into the queue.
    let queued = read();
    let queued = queued.lines().rev().find(|line| line.contains(" nrcpt="));
    let id = queued
        .unwrap()
        .split(": from=<")
        .next()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .to_owned();
    // It is removed as soon as all have got it.
    let log = until("the message has left the queue", || async {
        let log = read();
        log.contains(&format!("{id}: removed")).then_some(log)
    })
    .await;
    let recipients = log.lines().filter_map(|line| {
        let (_, sent) = line.split_once(&format!("{id}: to=<"))?;
        let given = sent.split_once("orig_to=<").map_or(sent, |(_, given)| given);
        let given = given.split('>').next()?.to_ascii_lowercase();
        (given != other.email).then_some(given)
    });
    recipients.collect()
}

#[tokio::test]
async fn a_mailbox_gets_one_copy_under_the_first_of_its_names() {
    run("", async |world, rig| {
        prove(&mut rig.server, &rig.tenant, "acme.test").await;
        let tenant = &rig.tenant;
        let scout = rig.scout.clone();
        let other = Inbox::of(&tenant.post("/v1/inboxes", &json!({"username": "other"})).await);
        for email in ["one@inboxd.test", "two@inboxd.test", "three@acme.test"] {
            let path = format!("/v1/inboxes/{}/addresses", scout.id);
            let added = tenant
                .post(&path, &json!({"email": email, "primary": false}))
                .await;
            assert!(added.status < 300, "{added:?}");
        }
        let set = tenant
            .patch("/v1/domains/acme.test", &json!({"catchAll": scout.id}))
            .await;
        assert_eq!(set.status, 200, "{set:?}");

        let me = scout.email.as_str();
        let detail = scout.with_detail("d");
        let upper = me.to_ascii_uppercase();
        for (number, given) in [
            vec![me],
            vec!["one@inboxd.test", "two@inboxd.test"],
            vec!["two@inboxd.test", me, "one@inboxd.test"],
            vec![me, "one@inboxd.test"],
            vec![detail.as_str(), me],
            vec![me, detail.as_str(), "one+x@inboxd.test"],
            vec!["anything@acme.test", "three@acme.test", me],
            vec!["One@inboxd.test", "one@inboxd.test"],
            vec![upper.as_str(), me, "ONE+Y@INBOXD.TEST"],
        ]
        .iter()
        .enumerate()
        {
            let subject = format!("copy-{number}");
            let mut recipients = given.clone();
            recipients.push(&other.email);
            let text = with_fields("x@good.test", &subject, &[]);
            let reply = deliver(world, "x@good.test", &recipients, &text).await;
            assert!(reply.starts_with("250"), "{given:?}: {reply}");
            let found = copies(world, &scout, &subject, &other).await;
            assert_eq!(found, [given[0].to_ascii_lowercase()], "{given:?}");

            // The same by submission.
            let subject = format!("sent-{number}");
            let mut submission = world.mail.submission_of(&other).await;
            submission
                .expect(&format!("MAIL FROM:<{}>", other.email), "250")
                .await;
            for recipient in &recipients {
                submission.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
            }
            submission.expect("DATA", "354").await;
            let text = with_fields(&other.email, &subject, &FORGED);
            submission.expect(&format!("{text}."), "250").await;
            let found = copies(world, &scout, &subject, &other).await;
            assert_eq!(found, [given[0].to_ascii_lowercase()], "submitted to {given:?}");
            let (header, folder) = arrived(world, &scout, &subject).await;
            assert!(!header.contains("(forged)") && folder == "INBOX", "{header}");
        }
        assert_eq!(world.messages(&scout).await.len(), 18);
        // Postfix deletes what means the same: one that is spelled otherwise must not take the first one along.
        for (subject, second) in [("quoted", "\"one\"@inboxd.test"), ("dotted", "one@inboxd.test.")] {
            let text = with_fields("x@good.test", subject, &[]);
            let given = ["one@inboxd.test", second, other.email.as_str()];
            let reply = deliver(world, "x@good.test", &given, &text).await;
            assert!(reply.starts_with("250"), "{second}: {reply}");
            let found = copies(world, &scout, subject, &other).await;
            assert!(
                !found.is_empty() && found.iter().all(|name| name.starts_with("one@inboxd.test")),
                "{second}: {found:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_judged_waits_and_arrives_later() {
    run("", async |world, rig| {
        let scout = rig.scout.clone();
        let text = |subject: &str| with_fields("x@good.test", subject, &[]);
        let reply = deliver(world, "x@good.test", &[&scout.email], &text("before")).await;
        assert!(reply.starts_with("250"), "{reply}");

        let part = async |world: &World| {
            let answer = world.operator().get("/readyz?parts=inbound").await;
            answer.body["parts"]["inbound"].as_str().unwrap().to_owned()
        };
        let checks = |world: &World| world.daemon.run(&["inbound", "--check"], "").status.success();
        assert_eq!((part(world).await.as_str(), checks(world)), ("ok", true));
        world.stop_inbound();
        let state = until("the part is down", || async {
            let state = part(world).await;
            (state != "ok").then_some(state)
        })
        .await;
        assert!(
            state.starts_with("down: ask the milter at ") && !checks(world),
            "{state}"
        );
        // Postfix answers as soon as a client greets, or at the end.
        let mut smtp = world.mail.try_inbound().await;
        let reply = match &mut smtp {
            Ok(smtp) => {
                let mut last = String::new();
                for command in ["MAIL FROM:<x@good.test>", &format!("RCPT TO:<{}>", scout.email)] {
                    last = smtp.say(command).await;
                    if !last.starts_with('2') {
                        break;
                    }
                }
                last
            }
            Err(reply) => reply.clone(),
        };
        assert!(reply.contains("451 4.7.1"), "{reply}");
        drop(smtp);
        world.start_inbound().await;
        let reply = deliver(world, "x@good.test", &[&scout.email], &text("after")).await;
        assert!(reply.starts_with("250"), "{reply}");

        until("the part works again", || async {
            (part(world).await == "ok").then_some(())
        })
        .await;

        // One that hangs is given up by Postfix.
        world.inbound().hang(true);
        let hung = world.mail.try_inbound().await;
        let reply = match hung {
            Ok(mut smtp) => smtp.say("MAIL FROM:<x@good.test>").await,
            Err(reply) => reply,
        };
        assert!(reply.contains("451 4.7.1"), "{reply}");
        world.inbound().hang(false);
        let reply = deliver(world, "x@good.test", &[&scout.email], &text("at last")).await;
        assert!(reply.starts_with("250"), "{reply}");
        for subject in ["before", "after", "at last"] {
            assert_eq!(arrived(world, &scout, subject).await.1, "INBOX");
        }
    })
    .await;
}

#[tokio::test]
async fn without_its_script_dovecot_delivers_to_the_inbox() {
    run("", async |world, rig| {
        let scout = &rig.scout;
        let script = world.layout.dovecot_conf().with_file_name("inboxd.sieve");
        fs::write(&script, "this is no script").unwrap();
        fs::remove_file(script.with_extension("svbin")).unwrap();
        world.take_down(Kind::Dovecot).await;
        world.bring_up(Kind::Dovecot).await;
        let text = with_fields("x@bank.test", "unfiled", &[]);
        let reply = deliver(world, "x@bank.test", &[&scout.email], &text).await;
        assert!(reply.starts_with("250"), "{reply}");
        let (header, folder) = arrived(world, scout, "unfiled").await;
        assert_eq!(folder, "INBOX");
        assert!(header.contains("\nX-Inboxd-Junk: yes"), "{header}");
    })
    .await;
}

#[tokio::test]
async fn a_flood_for_one_inbox_is_put_off_and_all_else_goes_on() {
    let limit = "inbound.octets_per_inbox_per_hour_max = 20_000\n";
    run(limit, async |world, rig| {
        let scout = &rig.scout;
        let other = world.create(&rig.tenant, "other").await;
        let aliases = format!("/v1/inboxes/{}/addresses", scout.id);
        let alias = format!("alias@{}", scout.email.split_once('@').unwrap().1);
        let added = rig
            .tenant
            .post(&aliases, &json!({"email": alias, "primary": false}))
            .await;
        assert_eq!(added.status, 201, "{added:?}");
        let long = |subject: &str| with_fields("x@good.test", subject, &[]) + &"x\r\n".repeat(4_000);
        // What is refused for another reason does not count.
        let forged = with_fields(&scout.email, "forged", &[]) + &"x\r\n".repeat(4_000);
        for _ in 0..3 {
            let reply = deliver(world, &scout.email, &[&scout.email], &forged).await;
            assert!(reply.starts_with("550 5.7.1 "), "{reply}");
        }
        for subject in ["one", "two"] {
            let reply = deliver(world, "x@good.test", &[&scout.email], &long(subject)).await;
            assert!(reply.starts_with("250"), "{reply}");
            arrived(world, scout, subject).await;
        }
        let detail = scout.with_detail("x");
        for recipients in [
            &[&*scout.email][..],
            &[&detail],
            &[&alias],
            &[&other.email, &alias],
        ] {
            let reply = deliver(world, "x@good.test", recipients, &long("three")).await;
            assert!(reply.starts_with("452 4.2.2 "), "{recipients:?}: {reply}");
        }
        let reply = deliver(world, "x@good.test", &[&other.email], &long("other")).await;
        assert!(reply.starts_with("250"), "{reply}");
        arrived(world, &other, "other").await;
        // Logins are not strangers.
        let message = Message::new("submitted in a flood");
        world.mail.submit(scout, &scout.email, &message).await.unwrap();
        world.mail.receive(scout, &message).await;
    })
    .await;
}
