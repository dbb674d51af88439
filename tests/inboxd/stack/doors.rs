//! What only a private stack shows of the mail servers' doors: who gets the postmaster's mail, which sockets are open to
//! every user of the host, and what Postfix sends on to other servers.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use inboxd::stack::render::{Postmaster, Reach};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
};

use super::{HASH_OF_SECRET, Rig, complaints, inbox_id, wait_until};
use crate::support::{
    mail::{self, HOST, Message, Smtp},
    wait::LIMIT,
    world::HOSTNAME,
};

const STRANGER: &str = "innocent@bystander.example";

async fn answer_to(smtp: &mut Smtp<TcpStream>, recipient: &str) -> String {
    smtp.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
    let answer = smtp.say(&format!("RCPT TO:{recipient}")).await;
    smtp.expect("RSET", "250").await;
    answer
}

#[tokio::test]
async fn postmaster_and_abuse_reach_the_operators_inbox_unless_a_domain_has_its_own() {
    let rig = Rig::new();
    // A domain without either name, one with an inbox, one with an alias, and one with a catch-all.
    for domain in ["bare.example", "inbox.example", "alias.example", "all.example"] {
        rig.map("domains", &format!("{domain} 1\n"));
    }
    rig.map("recipients", "abuse@inbox.example bob@example.com\n");
    rig.map(
        "aliases",
        "postmaster@alias.example bob@example.com\n@all.example bob@example.com\n",
    );
    let stack = rig.start().await;
    let mut counts = [0, 0];
    for (recipient, user) in [
        ("<postmaster>".to_owned(), "alice"),
        ("<Postmaster>".to_owned(), "alice"),
        ("postmaster".to_owned(), "alice"),
        ("<\"postmaster\">".to_owned(), "alice"),
        // Postfix takes these for a bare postmaster, past every restriction.
        ("<(comment)postmaster>".to_owned(), "alice"),
        ("<@example.net:postmaster>".to_owned(), "alice"),
        (format!("<postmaster@{HOSTNAME}>"), "alice"),
        (format!("<abuse@{HOSTNAME}>"), "alice"),
        ("<postmaster@example.com>".to_owned(), "alice"),
        ("<Abuse@Example.COM>".to_owned(), "alice"),
        ("<postmaster@bare.example>".to_owned(), "alice"),
        ("<abuse@bare.example>".to_owned(), "alice"),
        ("<postmaster@inbox.example>".to_owned(), "alice"),
        ("<abuse@inbox.example>".to_owned(), "bob"),
        ("<postmaster@alias.example>".to_owned(), "bob"),
        ("<abuse@alias.example>".to_owned(), "alice"),
        ("<postmaster@all.example>".to_owned(), "bob"),
        ("<abuse@all.example>".to_owned(), "bob"),
    ] {
        let mut smtp = rig.smtp().await;
        smtp.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
        smtp.expect(&format!("RCPT TO:{recipient}"), "250").await;
        smtp.expect("DATA", "354").await;
        let text = Message::new(&recipient).text(STRANGER, "postmaster@example.com");
        smtp.expect(&format!("{text}."), "250").await;
        let count = &mut counts[usize::from(user == "bob")];
        *count += 1;
        rig.wait_for_mail(&format!("{user}@example.com"), *count).await;
    }
    let mut smtp = rig.smtp().await;
    for (recipient, refusal) in [
        ("<postmaster@example.org>", "554 5.7.1"),
        ("<postmaster@sub.example.com>", "554 5.7.1"),
        ("<postmaster+x@example.com>", "550 5.1.1"),
        ("<abuser@example.com>", "550 5.1.1"),
        // The address that Postfix itself sends from has no mailbox.
        ("<double-bounce>", "554 5.7.1"),
        (&format!("<double-bounce@{HOSTNAME}>"), "554 5.7.1"),
        (&format!("<MAILER-DAEMON@{HOSTNAME}>"), "554 5.7.1"),
    ] {
        let answer = answer_to(&mut smtp, recipient).await;
        assert!(answer.starts_with(refusal), "{recipient}: {answer}");
    }
    // Submission, too, where mail stays on this host.
    let mut smtp = rig.logged_in_submission("bob@example.com").await;
    for recipient in [
        "postmaster",
        "postmaster@example.com",
        &format!("abuse@{HOSTNAME}"),
    ] {
        smtp.send("bob@example.com", recipient, &Message::new("a question"))
            .await;
        counts[0] += 1;
        rig.wait_for_mail("alice@example.com", counts[0]).await;
    }
    stack.stop().await;
    assert!(!rig.postfix_log().contains("status=bounced"));
    assert_eq!(complaints(&rig.postfix_log()), [""; 0]);
}

#[tokio::test]
async fn mail_for_a_postmaster_without_an_inbox_is_not_returned() {
    let mut rig = Rig::new();
    rig.settings.postmaster = Postmaster::Inbox("operator@example.com".into());
    let stack = rig.start().await;
    let mut smtp = rig.smtp().await;
    for recipient in [
        "<postmaster>",
        "<\"POSTMASTER\">",
        &format!("<postmaster@{HOSTNAME}>"),
        "<postmaster@example.com>",
        "<abuse@example.com>",
    ] {
        let answer = answer_to(&mut smtp, recipient).await;
        assert!(answer.starts_with("55"), "{recipient}: {answer}");
    }
    // A spelling that cannot be refused is dropped, and the log says why.
    smtp.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
    smtp.expect("RCPT TO:<(comment)postmaster>", "250").await;
    smtp.expect("DATA", "354").await;
    smtp.expect("Subject: advertisement\r\n\r\nx\r\n.", "250").await;
    wait_until("the end of the message", || {
        rig.postfix_log().contains("there is no inbox for the postmaster")
    })
    .await;
    assert!(!rig.postfix_log().contains("bounced"), "{}", rig.postfix_log());

    // From the moment that there is such an inbox, also in this session.
    rig.mailbox("operator", HASH_OF_SECRET);
    smtp.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
    smtp.expect("RCPT TO:<postmaster>", "250").await;
    smtp.expect("DATA", "354").await;
    smtp.expect("Subject: a question\r\n\r\nx\r\n.", "250").await;
    rig.wait_for_mail("operator@example.com", 1).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_postmaster_on_another_host_gets_the_mail_there() {
    let mut rig = Rig::new();
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    rig.settings.reach = Reach::Relay {
        host: HOST.to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    rig.settings.postmaster = Postmaster::Elsewhere("ops@elsewhere.example".into());
    let stack = rig.start().await;
    let elsewhere = tokio::spawn(take_one_message(listener));
    let mut smtp = rig.smtp().await;
    // The postmaster of another domain is not ours.
    let answer = answer_to(&mut smtp, "<postmaster@elsewhere.example>").await;
    assert!(answer.starts_with("554 5.7.1"), "{answer}");
    smtp.send(STRANGER, "abuse@example.com", &Message::new("a complaint"))
        .await;
    let (commands, _) = tokio::time::timeout(LIMIT, elsewhere).await.unwrap().unwrap();
    assert!(commands.contains("RCPT TO:<ops@elsewhere.example>"), "{commands}");
    for recipient in ["<postmaster>", "<postmaster@example.com>"] {
        let answer = answer_to(&mut smtp, recipient).await;
        assert!(answer.starts_with("250"), "{recipient}: {answer}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_catch_all_takes_local_parts_that_look_like_routes() {
    let rig = Rig::new();
    rig.map("domains", "all.example 1\n");
    rig.map("aliases", "@all.example bob@example.com\n");
    let stack = rig.start().await;
    let recipients = [
        "50%off@all.example",
        "a!b@all.example",
        "\"a@example.net\"@all.example",
    ];
    for (count, recipient) in (1..).zip(recipients) {
        let mut smtp = rig.smtp().await;
        smtp.send(STRANGER, recipient, &Message::new("a test")).await;
        rig.wait_for_mail("bob@example.com", count).await;
    }
    stack.stop().await;
}

/// The sockets in a folder that any user of the host can connect to: writable for others, and so are no folders on the
/// way closed.
fn open_to_everybody(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let Ok(metadata) = entry.metadata() else {
            // A process has ended meanwhile.
            continue;
        };
        let (is_passable, is_writable) = (metadata.mode() & 0o001 != 0, metadata.mode() & 0o002 != 0);
        if metadata.is_dir() && is_passable {
            open_to_everybody(&entry.path(), found);
        } else if metadata.file_type().is_socket() && is_writable {
            found.push(entry.path());
        }
    }
}

#[tokio::test]
async fn no_socket_of_either_server_is_open_to_every_user_of_the_host() {
    let rig = Rig::new();
    let stack = rig.start().await;
    // Processes that a delivery and a login start have their sockets by now.
    let mut smtp = rig.smtp().await;
    smtp.send(STRANGER, "alice@example.com", &Message::new("a test"))
        .await;
    rig.wait_for_mail("alice@example.com", 1).await;
    let find = || {
        let mut found = Vec::new();
        open_to_everybody(&rig.settings.dir, &mut found);
        found
    };
    assert_eq!(find(), [""; 0].map(PathBuf::from));

    // And such a one would be found.
    let open = rig.settings.dir.join("run/open");
    let _listener = UnixListener::bind(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(find(), std::slice::from_ref(&open));
    fs::remove_file(open).unwrap();
    let mode = |socket: &str| {
        let metadata = fs::metadata(rig.settings.dir.join(socket)).unwrap();
        metadata.mode() & 0o777
    };
    assert_eq!(mode("queue/private/dovecot-lmtp"), 0o600);
    assert_eq!(mode("queue/private/auth"), 0o660);
    assert_eq!(mode("queue/private") & 0o007, 0);
    assert_eq!(mode("run/inboxd-userdb"), 0o660);
    assert_eq!(mode("run/http"), 0o660);
    assert!(!rig.settings.dir.join("run/lmtp").exists());
    stack.stop().await;
}

/// Takes one message as another mail server does, and returns the commands and its octets as they came over the wire.
async fn take_one_message(listener: TcpListener) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufStream::new(stream);
    let mut say = b"220 elsewhere.example ESMTP\r\n".to_vec();
    let mut commands = String::new();
    loop {
        stream.write_all(&say).await.unwrap();
        stream.flush().await.unwrap();
        let mut command = String::new();
        stream.read_line(&mut command).await.unwrap();
        commands.push_str(&command);
        if command.starts_with("DATA") {
            break;
        }
        say = b"250 elsewhere.example\r\n".to_vec();
    }
    stream.write_all(b"354 go on\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut octets = Vec::new();
    while !octets.ends_with(b"\r\n.\r\n") {
        octets.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"250 2.0.0 taken\r\n").await.unwrap();
    stream.flush().await.unwrap();
    // Whatever follows is a command: a second message, or the end.
    let mut next = String::new();
    stream.read_line(&mut next).await.unwrap();
    assert!(next.is_empty() || next.starts_with("QUIT"), "{next}");
    (commands, octets)
}

#[tokio::test]
async fn what_a_login_sends_to_others_has_no_bare_line_ends() {
    let mut rig = Rig::new();
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    rig.settings.reach = Reach::Relay {
        host: HOST.to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    let stack = rig.start().await;
    let elsewhere = tokio::spawn(take_one_message(listener));
    let mut smtp = rig.logged_in_submission("alice@example.com").await;
    smtp.expect("MAIL FROM:<alice@example.com>", "250").await;
    smtp.expect("RCPT TO:<victim@elsewhere.example>", "250").await;
    smtp.expect("DATA", "354").await;
    let hidden = "MAIL FROM:<ceo@example.com>";
    let ends = [
        "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n\r.\n",
    ];
    let text = format!("x{}", ends.map(|end| end.to_owned() + hidden).join("x"));
    smtp.expect(&format!("Subject: a test\r\n\r\n{text}\r\n."), "250")
        .await;
    let (_, octets) = tokio::time::timeout(LIMIT, elsewhere).await.unwrap().unwrap();
    let bare = |at: usize| match octets[at] {
        b'\r' => octets.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || octets[at - 1] != b'\r',
        _ => false,
    };
    let shown = String::from_utf8_lossy(&octets);
    assert_eq!((0..octets.len()).filter(|&at| bare(at)).count(), 0, "{shown:?}");
    assert_eq!(shown.matches("\r\n.\r\n").count(), 1, "{shown:?}");
    assert_eq!(shown.matches(hidden).count(), ends.len(), "{shown:?}");
    stack.stop().await;
}

#[tokio::test]
async fn what_is_returned_holds_no_text_of_the_sender() {
    let rig = Rig::new();
    // Postfix knows the mailbox and Dovecot does not: as when it is deleted while its mail is on the way.
    rig.map(
        "recipients",
        &format!(
            "gone@example.com {}=gone=example.com@inboxd.invalid\n",
            inbox_id("gone")
        ),
    );
    let stack = rig.start().await;
    let mut smtp = rig.smtp().await;
    smtp.expect("MAIL FROM:<bob@example.com>", "250").await;
    smtp.expect("RCPT TO:<gone@example.com>", "250").await;
    smtp.expect("DATA", "354").await;
    smtp.expect("Subject: the subject\r\n\r\nBUY THIS\r\n.", "250")
        .await;
    let mut imap = rig.log_in("bob@example.com", "secret").await.unwrap();
    let report = Message::new("Undelivered Mail Returned to Sender");
    let text = mail::read_when_there(&mut imap, &report).await;
    assert!(
        text.contains("Subject: the subject") && !text.contains("BUY THIS"),
        "{text}"
    );
    stack.stop().await;
}
