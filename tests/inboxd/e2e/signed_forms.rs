//! The form of signed mail: what arrives, here and elsewhere, has signatures that others verify, or it was refused by a
//! rule that the answer names.

use std::fs;

use tokio::io::AsyncWriteExt as _;

use super::signed::{FRIEND, Rig, aligned, run};
use crate::support::{
    inbox::Inbox,
    mail::{Message, Submitting, octets_when_there},
    sink::{LAST_LINE, Received},
    world::World,
};

/// RFC 5322, 2.1.1.
const LINE_MAX_OCTETS: usize = 998;
/// Octets of a body that Postfix gives the signer at once (`MILTER_CHUNK_SIZE`).
const CHUNK_OCTETS: usize = 65_535;

/// Submits octets to others and to the sender itself; the answer.
async fn submit(submission: &mut Submitting, sender: &str, octets: &[u8]) -> String {
    submission.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
    submission.expect(&format!("RCPT TO:<{FRIEND}>"), "250").await;
    submission.expect(&format!("RCPT TO:<{sender}>"), "250").await;
    submission.expect("DATA", "354").await;
    submission.stream.write_all(octets).await.unwrap();
    submission.say(".").await
}

/// A message as it was delivered here, octet by octet.
async fn delivered(world: &World, inbox: &Inbox, subject: &str) -> Received {
    let mut imap = world.mail.log_in(inbox).await;
    let octets = octets_when_there(&mut imap, &Message::new(subject)).await;
    imap.logout().await.unwrap();
    let path = world.daemon.folder.join(subject);
    fs::write(&path, &octets).unwrap();
    let text = String::from_utf8_lossy(&octets).into_owned();
    Received { path, text }
}

/// A line of this many octets.
fn line(octets: usize) -> Vec<u8> {
    vec![b'x'; octets]
}

/// A body in which a line of this many octets is in two of the parts that the signer gets.
fn over_two_chunks(octets: usize) -> Vec<u8> {
    let filler = format!("{}\r\n", "y".repeat(78)).repeat(CHUNK_OCTETS / 80 - 5);
    let body = [filler.as_bytes(), &line(octets)].concat();
    assert!(filler.len() < CHUNK_OCTETS && body.len() > CHUNK_OCTETS);
    body
}

/// A subject, more header fields, and a body, which may be missing. Where it is, or is to end as it does, a field holds the
/// last line that the sink waits for.
type Form = (&'static str, Vec<u8>, Option<Vec<u8>>);

/// Each form that is signed.
fn signed() -> Vec<Form> {
    let field = |name: &str, value: &[u8]| [name.as_bytes(), b":", value, b"\r\n"].concat();
    let last_line = || field("X-End", format!(" {LAST_LINE}").as_bytes());
    let longest = line(LINE_MAX_OCTETS);
    let references = "References: ".len();
    let mut forms = vec![
        ("longest-line", Vec::new(), Some(longest.clone())),
        (
            "longest-line-with-dot",
            Vec::new(),
            Some([b"..", &longest[1..]].concat()),
        ),
        (
            "longest-line-in-parts",
            Vec::new(),
            Some(over_two_chunks(LINE_MAX_OCTETS)),
        ),
        (
            "longest-field",
            field("References", &[b" ", &longest[references..]].concat()),
            Some(Vec::new()),
        ),
        (
            "longest-field-of-spaces",
            field(
                "References",
                &[&vec![b' '; 501], &longest[references + 500..]].concat(),
            ),
            Some(Vec::new()),
        ),
        (
            "longest-folded-line",
            field("References", &[b" x\r\n ", &longest[1..], b"\r\n\ty"].concat()),
            Some(Vec::new()),
        ),
        ("no-body", last_line(), None),
        ("empty-body", last_line(), Some(Vec::new())),
        ("empty-lines", last_line(), Some(b"\r\n\r\n\r\n".to_vec())),
        (
            "white-space-lines",
            last_line(),
            Some(b" \r\n\t\r\n \t \r\n".to_vec()),
        ),
        (
            "white-space-ends",
            Vec::new(),
            Some(b"a \r\nb\t\r\n  c  d".to_vec()),
        ),
        (
            "eight-bit-body",
            Vec::new(),
            Some(b"\xe4\xff\x80\xa0\x85\r\n\xc3\xb6".to_vec()),
        ),
        (
            "control-body",
            Vec::new(),
            Some(b"a\x0cb\x0b\r\n\x7f\x1a\x08\x1b[0m".to_vec()),
        ),
        // Postfix puts spaces in their place (cleanup_replace_stray_cr_lf) before the signer gets them.
        ("lone-returns", Vec::new(), Some(b"a\rb\r\r\nc".to_vec())),
        // It ends lines there.
        ("lone-newlines", Vec::new(), Some(b"a\nb\n\nc".to_vec())),
        (
            "eight-bit-field",
            field("References", b" a\xa0\xa0b\x85 c \xa0"),
            Some(Vec::new()),
        ),
        (
            "eight-bit-name",
            field("Reply-To", b" \"J\xc3\xb6rg\" <a@example.net>"),
            Some(Vec::new()),
        ),
        // It ends the field there.
        ("nul-field", field("References", b" a\0b"), Some(Vec::new())),
        (
            "white-space-field",
            field("References", b"\r\n \r\n\t\r\n x  y\r\n  "),
            Some(Vec::new()),
        ),
        ("no-space-field", field("References", b"x"), Some(Vec::new())),
        ("empty-field", field("References", b""), Some(Vec::new())),
        (
            "space-before-colon",
            field("References ", b" x"),
            Some(Vec::new()),
        ),
        ("line-that-is-no-field", Vec::new(), None),
    ];
    let no_field = [b"this is no field\r\n".as_slice(), LAST_LINE.as_bytes(), b"\r\n"].concat();
    forms.last_mut().unwrap().1 = no_field;
    forms
}

#[tokio::test]
async fn what_arrives_verifies_here_and_elsewhere() {
    run(async |world, rig| {
        let Rig {
            server, sink, ada, ..
        } = rig;
        let sender = ada.email.as_str();
        let mut submission = world.mail.submission_of(ada).await;
        for (subject, fields, body) in signed() {
            let head = format!("From: {sender}\r\nSubject: {subject}\r\n");
            let end = format!("\r\n{LAST_LINE}\r\n");
            let body = match &body {
                None => Vec::new(),
                // What a body ends with is what some of these forms are about.
                Some(body) if fields.starts_with(b"X-End") => [b"\r\n", body.as_slice()].concat(),
                Some(body) => [b"\r\n", body.as_slice(), end.as_bytes()].concat(),
            };
            let message = [head.as_bytes(), &fields, &body].concat();
            let answer = submit(&mut submission, sender, &message).await;
            assert!(answer.starts_with("250 2.0.0"), "{subject}: {answer}");
            let subject_line = format!("Subject: {subject}\n");
            for received in [
                sink.receive(&subject_line).await,
                delivered(world, ada, subject).await,
            ] {
                let judged = received.judged(server.address(), sender);
                assert_eq!(aligned(&judged).len(), 2, "{subject}: {judged:#}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_would_not_verify_is_refused_with_the_rule() {
    let longer = line(LINE_MAX_OCTETS + 1);
    let references = "References: ".len();
    let field = |value: &[u8]| [b"References:", value, b"\r\n\r\n"].concat();
    let control = "the header field References has a control character";
    let long_field =
        "the header field References has a line of 999 octets, more than 998; fold it at white space";
    let lone =
        "has a NUL, or a carriage return or newline on its own; encode it as quoted-printable or base64";
    let forms: Vec<(Vec<u8>, String)> = vec![
        (
            [b"\r\n", longer.as_slice(), b"\r\n"].concat(),
            "line 1 of the body has 999 octets, more than 998; encode the text as quoted-printable or base64"
                .to_owned(),
        ),
        (
            [b"\r\na\r\n\r\n..", &longer[1..], b"\r\nb\r\n"].concat(),
            "line 3 of the body has 999 octets".to_owned(),
        ),
        (
            [b"\r\n", over_two_chunks(LINE_MAX_OCTETS + 1).as_slice(), b"\r\n"].concat(),
            format!("line {} of the body has 999 octets", CHUNK_OCTETS / 80 - 5 + 1),
        ),
        (
            [b"\r\n", "é".repeat(LINE_MAX_OCTETS).as_bytes(), b"\r\n"].concat(),
            "line 1 of the body has 1996 octets".to_owned(),
        ),
        (
            field(&[b" ", &longer[references..]].concat()),
            long_field.to_owned(),
        ),
        (
            field(&[&vec![b' '; 501], &longer[references + 500..]].concat()),
            long_field.to_owned(),
        ),
        (field(&[b" x\r\n ", &longer[1..]].concat()), long_field.to_owned()),
        (field(b" a\x0cb"), control.to_owned()),
        (field(b" a\r\n \x0bb"), control.to_owned()),
        (field(b" \x1b$B$3\x1b(B"), control.to_owned()),
        (field(b" a\x7f"), control.to_owned()),
        (
            b"\r\na\r\nb\0c\r\n".to_vec(),
            format!("line 2 of the body {lone}"),
        ),
    ];
    run(async |world, rig| {
        let Rig { sink, ada, .. } = rig;
        let sender = ada.email.as_str();
        for (form, rule) in &forms {
            let mut submission = world.mail.submission_of(ada).await;
            let head = format!("From: {sender}\r\nSubject: refused\r\n");
            let answer = submit(&mut submission, sender, &[head.as_bytes(), form].concat()).await;
            assert!(
                answer.starts_with(&format!("550 5.6.0 {rule}")),
                "{rule}: {answer}"
            );
            assert!(
                answer.contains("(RFC 5322, 2.") || answer.contains("which RFC 5322, 2.2"),
                "{answer}"
            );
        }
        assert!(sink.find("Subject: refused").is_none());
        assert_eq!(world.messages(ada).await.len(), 0);
    })
    .await;
}
