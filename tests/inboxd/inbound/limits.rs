//! What a hostile message can use up: time, memory, questions to DNS.

use std::{
    fmt::Write as _,
    net::UdpSocket,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use super::rig::{BAD, GOOD, Rig, letter, said};
use crate::support::{
    dns::DnsServer,
    milter_client::{Envelope, MilterClient},
};

const ENVELOPE: [&str; 3] = [GOOD, "mx.a.test", "x@a.test"];

/// A message with these lines before the others of its header.
fn with_header(lines: &str) -> Vec<u8> {
    format!("{lines}{}", letter("x@a.test")).into_bytes()
}

#[tokio::test]
async fn headers_have_a_limit_and_so_has_the_time_that_they_take() {
    let mut rig = Rig::start("").await;
    let records = rig.keys.records();
    rig.server.set_zone("a.test", &records).await;
    for (what, header) in [
        ("many fields", "a:\r\n".repeat(5_000)),
        (
            "long fields",
            format!("X-Long: {}\r\n", "x".repeat(90_000)).repeat(15),
        ),
    ] {
        let judged = rig.judge(ENVELOPE, &with_header(&header)).await;
        assert!(
            judged.reply.starts_with("552 5.3.4 more than"),
            "{what}: {judged:?}"
        );
    }
    let domains: Vec<String> = (0..30).map(|number| format!("x@d{number}.test")).collect();
    let judged = rig.judge(ENVELOPE, letter(&domains.join(", ")).as_bytes()).await;
    assert!(
        judged
            .reply
            .starts_with("550 5.7.1 the From field names more than"),
        "{judged:?}"
    );

    // What is within the limits is judged, and quickly.
    let names = "a:".repeat(20_000) + "from";
    let signature =
        format!("DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s1; h={names}; bh=AAAA; b=AAAA\r\n");
    // The hash of the body is right, so that all of the header is hashed before the signature turns out to be wrong.
    let hash = BASE64_STANDARD.encode(Sha256::digest("Hello  there, \r\n\r\n.. dots\r\n"));
    let some = signature
        .replace(&names, &("a:".repeat(490) + "from"))
        .replace("bh=AAAA", &format!("bh={hash}"));
    let comments = "(".repeat(60_000);
    for (what, message) in [
        (
            "signatures over many fields",
            with_header(&(signature.repeat(10) + &"a:\r\n".repeat(1_900))),
        ),
        (
            "signatures over as many as are verified",
            with_header(&(some.repeat(10) + &"a:\r\n".repeat(1_900))),
        ),
        (
            "deep comments",
            letter(&format!("{comments} x@a.test")).into_bytes(),
        ),
        (
            "deep results",
            with_header(&format!(
                "Authentication-Results: {comments} mail.inboxd.test\r\n"
            )),
        ),
        (
            "encoded words",
            letter(&format!("{} <x@a.test>", "=?utf-8?q?=40?= ".repeat(5_000))).into_bytes(),
        ),
        ("quotes", letter(&"\"".repeat(90_000)).into_bytes()),
        ("parts", deep_parts()),
    ] {
        let begun = Instant::now();
        let judged = rig.judge(ENVELOPE, &message).await;
        assert_eq!(judged.reply, "", "{what}");
        let field = judged.field("Authentication-Results").unwrap();
        println!("{what}: {:?}, {} octets", begun.elapsed(), field.len());
        assert_eq!(
            field.contains("verification failed"),
            what.contains("as are verified"),
            "{field}"
        );
        // On a busy machine, without optimization: far from what would be quadratic.
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
}

/// Parts in parts: nothing of a body is looked at.
fn deep_parts() -> Vec<u8> {
    let mut text = letter("x@a.test");
    for number in 0..20_000 {
        write!(
            text,
            "--{number}\r\nContent-Type: multipart/mixed; boundary={}\r\n\r\n",
            number + 1
        )
        .unwrap();
    }
    text.into_bytes()
}

#[tokio::test]
async fn a_huge_key_verifies_nothing_and_takes_no_time() {
    const MODULUS_OCTETS: usize = 8_192;
    let mut rig = Rig::start("").await;
    // RFC 8017, A.1.1: a modulus and an exponent.
    let der = |tag: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], body].concat()
    };
    let integers = [der(2, &[0x7f; MODULUS_OCTETS]), der(2, &[1, 0, 1])].concat();
    let text = format!(
        "v=DKIM1; k=rsa; p={}",
        BASE64_STANDARD.encode(der(0x30, &integers))
    );
    let strings: Vec<String> = text
        .as_bytes()
        .chunks(250)
        .map(|part| format!("\"{}\"", String::from_utf8_lossy(part)))
        .collect();
    let record = format!("s1._domainkey TXT {}", strings.join(" "));
    rig.server.set_zone("a.test", &record).await;
    let sign = serde_json::json!({"sign": {"domain": "a.test", "selector": "s1"}});
    let message = rig.keys.write(&[(letter("x@a.test"), vec![sign])]).remove(0);
    let begun = Instant::now();
    let judged = rig.judge(ENVELOPE, &message).await;
    assert_eq!(said(&judged), "spf=none dkim=fail dmarc=none arc=none");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_an_author_the_sender_field_counts() {
    let rig = Rig::start("").await;
    let mail = letter("x@inboxd.test");
    for (message, is_refused) in [
        (mail.replace("From:", "Sender:"), true),
        (mail.replace("From:", "From: x@a.test\r\nSender:"), false),
        (mail.replace("From:", "X-From:"), false),
    ] {
        let judged = rig.judge(ENVELOPE, message.as_bytes()).await;
        assert_eq!(
            judged.reply.starts_with("550 5.7.1 mail from"),
            is_refused,
            "{message}"
        );
    }
}

#[tokio::test]
async fn ten_signatures_are_verified_the_authors_first() {
    let mut rig = Rig::start("").await;
    let records = rig.keys.records();
    rig.server.set_zone("a.test", &records).await;
    let sign = |domain: &str| serde_json::json!({"sign": {"domain": domain, "selector": "s1"}});
    let mut steps = vec![sign("a.test")];
    steps.extend((0..40).map(|number| sign(&format!("d{number}.test"))));
    let message = rig.keys.write(&[(letter("x@a.test"), steps)]).remove(0);
    let judged = rig.judge([BAD, "mx.a.test", "x@other.test"], &message).await;
    let dkim = said(&judged);
    let dkim = dkim.split(' ').nth(1).unwrap();
    assert_eq!(dkim, format!("dkim=pass{}", ",permerror".repeat(9)));
}

#[tokio::test]
async fn a_body_is_hashed_and_not_kept() {
    const MESSAGE_OCTETS: usize = 30_000_000;
    const SESSIONS: usize = 8;
    const GROWTH_MAX_OCTETS: u64 = 60_000_000;
    let rig = Rig::start("").await;
    // Whatever is made once is there.
    rig.judge(ENVELOPE, letter("x@a.test").as_bytes()).await;
    let (before, _) = rig.process.memory();
    let line = "0123456789abcdef\r\n";
    let message = letter("x@a.test") + &line.repeat(MESSAGE_OCTETS / line.len());
    let sessions = (0..SESSIONS).map(|_| rig.judge(ENVELOPE, message.as_bytes()));
    for judged in futures_util::future::join_all(sessions).await {
        assert_eq!(judged.reply, "");
    }
    let (_, most) = rig.process.memory();
    let growth = most.saturating_sub(before);
    assert!(
        growth < GROWTH_MAX_OCTETS,
        "{SESSIONS} messages took {growth} octets"
    );
}

#[tokio::test]
async fn where_no_name_server_answers_mail_arrives_and_our_name_waits() {
    // It takes questions and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = DnsServer::start().await;
    let rig = Rig::asking_at(silent.local_addr().unwrap(), server, "dns.timeout_ms = 500\n").await;
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; d=inboxd.test; s=s1; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n";
    let begun = Instant::now();
    let judged = rig.judge(ENVELOPE, letter("x@a.test").as_bytes()).await;
    assert_eq!(said(&judged), "spf=temperror dkim=none dmarc=temperror arc=none");
    assert_eq!(judged.field("X-Inboxd-Junk"), None);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());

    // As soon as it is known that nothing answers, nothing is asked.
    crate::support::wait::until("it is known", || async {
        rig.log().contains("no name server answers").then_some(())
    })
    .await;
    let begun = Instant::now();
    for _ in 0..20 {
        let judged = rig.judge(ENVELOPE, letter("x@a.test").as_bytes()).await;
        assert_eq!(said(&judged), "spf=temperror dkim=none dmarc=temperror arc=none");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // In our own name: what could be true waits, what cannot is refused.
    let signed = [signature, &letter("x@inboxd.test")].concat();
    for (sender, message, reply) in [
        ("x@a.test", signed.as_str(), "451 4.7.1"),
        ("x@inboxd.test", &letter("x@inboxd.test"), "451 4.7.1"),
        ("x@a.test", &letter("x@inboxd.test"), "550 5.7.1"),
    ] {
        let judged = rig.judge([GOOD, "mx.a.test", sender], message.as_bytes()).await;
        assert!(judged.reply.starts_with(reply), "{sender}: {judged:?}");
    }
}

#[tokio::test]
async fn a_senders_slow_dns_does_not_hide_whose_name_he_writes_in() {
    // The whole of the sender's zone is at a server that does not answer; that of the author answers.
    let mut rig = Rig::start("dns.timeout_ms = 1000\n").await;
    rig.server
        .set_zone(
            "bank.test",
            "@ TXT \"v=spf1 -all\"\n_dmarc TXT \"v=DMARC1; p=reject\"\n",
        )
        .await;
    rig.server.break_zone("slow.test").await;
    let sign = "DKIM-Signature: v=1; a=rsa-sha256; d=slow.test; s=s1; h=from; bh=AAAA; b=AAAA\r\n";
    let message = [sign, &letter("x@bank.test")].concat();
    let judged = rig
        .judge([BAD, "mx.slow.test", "x@slow.test"], message.as_bytes())
        .await;
    let said = said(&judged);
    assert!(
        said.starts_with("spf=temperror ") && said.contains(" dmarc=fail "),
        "{said}"
    );
    assert!(judged.field("X-Inboxd-Junk").is_some());

    // Nor does a top-level domain whose servers fail: no policy is there.
    let policy = "@ TXT \"v=spf1 -all\"\n_dmarc TXT \"v=DMARC1; p=reject\"\n";
    rig.server.set_zone("bank.com", policy).await;
    rig.server.break_zone("com").await;
    let envelope = [BAD, "mx.bank.test", "x@bank.com"];
    let judged = rig.judge(envelope, letter("x@bank.com").as_bytes()).await;
    assert_eq!(
        super::rig::said(&judged),
        "spf=fail dkim=none dmarc=fail arc=none"
    );
}

#[tokio::test]
async fn many_sessions_and_garbage_keep_it_from_nothing() {
    let rig = Rig::start("").await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(rig.client().await);
    }
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        &[0xff; 64],
        &[0, 0, 0, 1, 0],
    ] {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::UnixStream::connect(rig.daemon.inbound_socket())
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
    }
    // Several messages of one session know nothing of each other.
    let mut client: MilterClient = rig.client().await;
    let envelope = |sender: &'static str| Envelope {
        client: GOOD,
        helo: "mx.a.test",
        sender,
        recipients: &["scout@inboxd.test"],
    };
    let forged = with_header("Received-SPF: pass\r\nX-Inboxd-Junk: yes\r\n");
    let first = client.judge(&envelope("x@a.test"), &forged).await;
    assert_eq!(first.removed.len(), 2, "{first:?}");
    let second = client.message(&envelope(""), letter("x@a.test").as_bytes()).await;
    assert_eq!(second.removed, [], "{second:?}");
    assert!(
        second
            .field("Authentication-Results")
            .unwrap()
            .contains("smtp.helo=mx.a.test")
    );
    drop(idle);
}
