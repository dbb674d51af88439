//! What the mail servers refuse at the door, whatever their defaults are: SMTP smuggling, weak TLS, reports to strangers,
//! empty senders, routes in addresses. The two generations of the servers must not differ in it.

use std::process::{Output, Stdio};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    process::Command,
};

use crate::support::{
    inbox::Inbox,
    mail::{self, Message, Smtp, auth_plain},
    world::World,
};

/// What some mail server takes for the end of a message, and is none (CVE-2023-51764 and its relatives).
const FALSE_ENDS: [(&str, &str); 9] = [
    ("LF.LF", "\n.\n"),
    ("LF.CRLF", "\n.\r\n"),
    ("CRLF.LF", "\r\n.\n"),
    ("CR.CR", "\r.\r"),
    ("CR.CRLF", "\r.\r\n"),
    ("CRLF.CR", "\r\n.\r"),
    ("CR.LF", "\r.\n"),
    ("CRCRLF.CRLF", "\r\r\n.\r\n"),
    ("CRLF NUL.CRLF", "\r\n\0.\r\n"),
];

/// Sends a message in which another one is hidden behind a false end. Returns how many messages the server took.
async fn smuggle<S: AsyncRead + AsyncWrite + Unpin>(
    mut smtp: Smtp<S>,
    sender: &str,
    recipient: &str,
    outer: &Message,
    end: &str,
    hidden: &Message,
) -> usize {
    smtp.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
    smtp.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
    smtp.expect("DATA", "354").await;
    let (outer, hidden) = (outer.text(sender, recipient), hidden.text(sender, recipient));
    let octets = format!(
        "{}{end}MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n{hidden}.\r\nQUIT\r\n",
        outer.trim_end()
    );
    smtp.stream.write_all(octets.as_bytes()).await.unwrap();
    smtp.stream.flush().await.unwrap();
    let answers = smtp.rest().await;
    assert!(!answers.is_empty(), "no answer to the message");
    answers.matches("queued as").count()
}

#[tokio::test]
async fn no_message_hides_in_another_on_either_port() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        for (name, end) in FALSE_ENDS {
            let (outer, hidden) = (Message::new("outer"), Message::new("hidden"));
            let inbound = world.mail.inbound().await;
            let queued = smuggle(inbound, "friend@example.net", &bob.email, &outer, end, &hidden).await;
            assert!(queued <= 1, "port 25, {name}: {queued} messages");
            let submission = world.mail.submission_of(&ada).await;
            let queued = smuggle(submission, &ada.email, &bob.email, &outer, end, &hidden).await;
            assert!(queued <= 1, "submission, {name}: {queued} messages");
        }
        // Not even with a right end: what depends on an answer is not sent before it.
        let (outer, hidden) = (Message::new("outer"), Message::new("hidden"));
        let inbound = world.mail.inbound().await;
        let queued = smuggle(
            inbound,
            "friend@example.net",
            &bob.email,
            &outer,
            "\r\n.\r\n",
            &hidden,
        )
        .await;
        assert_eq!(queued, 1);
        // A chunk (RFC 3030) is as long as it says, whatever is in it.
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound.expect(&format!("RCPT TO:<{}>", bob.email), "250").await;
        let (outer, hidden) = (Message::new("outer"), Message::new("hidden"));
        let outer = outer.text("friend@example.net", &bob.email);
        let hidden = hidden.text("friend@example.net", &bob.email);
        let commands = format!(
            "MAIL FROM:<friend@example.net>\r\nRCPT TO:<{}>\r\nDATA\r\n",
            bob.email
        );
        let chunk = format!("{outer}\r\n.\r\n{commands}{hidden}\n.\n{commands}{hidden}\r\n.\r\n");
        let command = format!("BDAT {} LAST\r\n{chunk}QUIT\r\n", chunk.len());
        inbound.stream.write_all(command.as_bytes()).await.unwrap();
        inbound.stream.flush().await.unwrap();
        let answers = inbound.rest().await;
        assert_eq!(answers.matches("queued as").count(), 1, "{answers}");
        let last = Message::new("the last one");
        world.mail.deliver("friend@example.net", &bob.email, &last).await;
        world.mail.receive(&bob, &last).await;
        let mut imap = world.mail.log_in(&bob).await;
        mail::count(&mut imap, "INBOX").await;
        // The text of a hidden message is in the outer one; a message of its own would have its subject.
        let found = imap.uid_search("HEADER Subject hidden").await.unwrap();
        assert!(found.is_empty(), "{found:?}");
    })
    .await;
}

#[tokio::test]
async fn long_lines_arrive_as_they_were_sent() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        for octets in [900, 998, 999, 1_100, 4_000, 70_000] {
            let message = Message::new(&format!("a link of {octets}"));
            let line = format!("<https://login.example/{}>", "A".repeat(octets - 25));
            let mut inbound = world.mail.inbound().await;
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            inbound.expect(&format!("RCPT TO:<{}>", ada.email), "250").await;
            inbound.expect("DATA", "354").await;
            let text = message.text("friend@example.net", &ada.email);
            inbound.expect(&format!("{text}{line}\r\n."), "250").await;
            let arrived = world.mail.receive(&ada, &message).await;
            assert!(arrived.contains(&line), "a line of {octets} octets was broken");
        }
    })
    .await;
}

/// Connects with openssl(1) and these options, sends these commands, and returns what came of it.
async fn openssl(world: &World, port: u16, options: &str, commands: &str) -> Output {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-quiet", "-crlf", "-connect"])
        .arg(format!("{}:{port}", mail::HOST))
        .args(options.split(' '))
        .args(if port == world.mail.servers.ports.imaps {
            &[][..]
        } else {
            &["-starttls", "smtp"][..]
        })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("apt-get install openssl");
    let mut stdin = child.stdin.take().unwrap();
    // Fails where the handshake did.
    let _ = stdin.write_all(commands.as_bytes()).await;
    // Its end is the server's: it answers the last command and hangs up.
    let output = tokio::time::timeout(crate::support::wait::LIMIT, child.wait_with_output()).await;
    drop(stdin);
    output.expect("openssl ends").unwrap()
}

/// Whether a login succeeds over TLS with these options.
async fn logs_in_over(world: &World, ada: &Inbox, port: u16, options: &str) -> bool {
    let is_imap = port == world.mail.servers.ports.imaps;
    let commands = if is_imap {
        format!("a LOGIN {} {}\nb LOGOUT\n", ada.email, ada.password)
    } else {
        format!("{}\nQUIT\n", auth_plain(&ada.email, &ada.password))
    };
    let output = openssl(world, port, options, &commands).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let succeeded = if is_imap {
        said.contains("a OK")
    } else {
        said.contains("235 2.7.0")
    };
    let failed = String::from_utf8_lossy(&output.stderr).contains(":error:");
    assert_ne!(succeeded, failed, "{options}: {said}{output:?}");
    succeeded
}

#[tokio::test]
async fn passwords_are_asked_for_over_tls_1_2_and_up_with_a_certificate_and_forward_secrecy() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let ports = &world.mail.servers.ports;
        for port in [ports.submission, ports.imaps] {
            for good in ["-tls1_2", "-tls1_3"] {
                assert!(logs_in_over(world, &ada, port, good).await, "{port} {good}");
            }
            for bad in [
                "-tls1 -cipher DEFAULT:@SECLEVEL=0",
                "-tls1_1 -cipher DEFAULT:@SECLEVEL=0",
                "-tls1_2 -cipher aNULL:@SECLEVEL=0",
                "-tls1_2 -cipher kRSA:@SECLEVEL=0",
                "-tls1_2 -cipher eNULL:@SECLEVEL=0",
            ] {
                assert!(!logs_in_over(world, &ada, port, bad).await, "{port} {bad}");
            }
        }
        // Other servers send without TLS rather than over an old one.
        for (options, is_secure) in [
            ("-tls1_2", true),
            ("-tls1_1 -cipher DEFAULT:@SECLEVEL=0", false),
            ("-tls1_2 -cipher aNULL:@SECLEVEL=0", false),
        ] {
            let output = openssl(world, ports.inbound, options, "QUIT\n").await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(said.contains("221 "), is_secure, "{options}: {output:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stranger_asks_for_no_report() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let mut inbound = world.mail.inbound().await;
        let offered = inbound.expect("EHLO client.example.net", "250").await;
        for feature in ["DSN", "ETRN", "AUTH", "VRFY", "XCLIENT", "XFORWARD"] {
            assert!(!offered.contains(feature), "{offered}");
        }
        for parameter in ["RET=HDRS", "ENVID=abc"] {
            inbound
                .expect(
                    &format!("MAIL FROM:<friend@example.net> {parameter}"),
                    "501 5.7.1",
                )
                .await;
        }
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        let recipient = format!("RCPT TO:<{}>", ada.email);
        for parameter in [
            "NOTIFY=SUCCESS",
            "NOTIFY=SUCCESS,FAILURE,DELAY",
            "ORCPT=rfc822;a@example.net",
        ] {
            inbound
                .expect(&format!("{recipient} {parameter}"), "501 5.7.1")
                .await;
        }
        inbound.expect(&recipient, "250").await;
        inbound.expect("RSET", "250").await;
        for command in [
            "VRFY ada",
            "EXPN ada",
            "XCLIENT NAME=a",
            "XFORWARD NAME=a",
            "ETRN example.net",
        ] {
            let said = inbound.say(command).await;
            assert!(said.starts_with('5'), "{command}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_login_may_ask_for_a_report_which_goes_to_its_own_address() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let message = Message::new("please confirm");
        let mut smtp = world.mail.submission_of(&ada).await;
        let offered = smtp.expect("EHLO client.example.net", "250").await;
        assert!(offered.contains("DSN") && !offered.contains("ETRN"), "{offered}");
        smtp.expect(&format!("MAIL FROM:<{}> RET=HDRS ENVID=abc", ada.email), "250")
            .await;
        smtp.expect(&format!("RCPT TO:<{}> NOTIFY=SUCCESS", bob.email), "250")
            .await;
        smtp.expect("DATA", "354").await;
        smtp.expect(&format!("{}.", message.text(&ada.email, &bob.email)), "250")
            .await;
        world.mail.receive(&bob, &message).await;
        let report = Message::new("Successful Mail Delivery Report");
        let text = world.mail.receive(&ada, &report).await;
        // A mailbox is an alias of its inbox (docs/maps.md): for the sender, delivery ends there (RFC 3464, 2.3.3).
        assert!(text.contains("Action: expanded"), "{text}");
        assert!(
            text.contains(&format!("Final-Recipient: rfc822; {}", bob.email)),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_login_names_a_sender_that_is_its_own() {
    World::run(async |world| {
        let (ada, bob) = (world.inbox("ada").await, world.inbox("bob").await);
        let recipient = format!("RCPT TO:<{}>", bob.email);
        let mut smtp = world.mail.submission_of(&ada).await;
        for empty in ["<>", "< >", "<> BODY=8BITMIME", "<> RET=HDRS"] {
            let said = smtp.say(&format!("MAIL FROM:{empty}")).await;
            if said.starts_with("250") {
                let said = smtp.expect(&recipient, "553 5.7.1").await;
                assert!(said.contains("empty sender"), "{said}");
            } else {
                assert!(said.starts_with('5'), "{empty}: {said}");
            }
            smtp.expect("RSET", "250").await;
        }
        let domain = world.domain();
        for foreign in [
            format!("@{domain}"),
            "ada".to_owned(),
            "MAILER-DAEMON".to_owned(),
            "postmaster".to_owned(),
            format!("postmaster@{domain}"),
            format!("double-bounce@{}", world.mail.servers.hostname),
            format!("@{domain}:{}", bob.email),
            format!("\"{}\"@{domain}", ada.email),
            format!("{}@example.net", world.name("ada")),
        ] {
            let said = smtp.say(&format!("MAIL FROM:<{foreign}>")).await;
            if said.starts_with("250") {
                let said = smtp.say(&recipient).await;
                assert!(said.starts_with("553 5.7.1"), "{foreign}: {said}");
            } else {
                assert!(said.starts_with('5'), "{foreign}: {said}");
            }
            smtp.expect("RSET", "250").await;
        }
        // RFC 4954, 5: who is said to have submitted the message first does not count.
        smtp.expect(&format!("MAIL FROM:<{}> AUTH={}", bob.email, bob.email), "250")
            .await;
        smtp.expect(&recipient, "553 5.7.1").await;
        smtp.expect("RSET", "250").await;
        let own = Message::new("with a right sender");
        smtp.send(&ada.with_detail("50%off"), &bob.email, &own).await;
        world.mail.receive(&bob, &own).await;
    })
    .await;
}

#[tokio::test]
async fn percent_and_exclamation_marks_are_letters_and_no_routes() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let domain = world.domain();
        for detail in [
            "50%off",
            "wow!x",
            "a/b",
            "a=b",
            "a%example.org",
            "example.org!a",
            "A.B~c*d'e",
        ] {
            let message = Message::new(&format!("to the detail {detail}"));
            world
                .mail
                .deliver("friend@example.net", &ada.with_detail(detail), &message)
                .await;
            world.mail.receive(&ada, &message).await;
        }
        let (name, _) = ada.email.split_once('@').unwrap();
        let host = &world.mail.servers.hostname;
        for (route, refusal) in [
            (format!("{name}%example.org@{domain}"), "550 5.1.1"),
            (format!("example.org!{name}@{domain}"), "550 5.1.1"),
            (format!("\"{name}@example.org\"@{domain}"), "550 5.1.1"),
            (format!("{name}@example.org@{domain}"), "550 5.1.1"),
            (format!("nobody%x@{domain}"), "550 5.1.1"),
            ("a%b@example.org".to_owned(), "554 5.7.1"),
            (format!("a%example.org@{host}"), "554 5.7.1"),
            (format!("\"a@example.org\"@{host}"), "554 5.7.1"),
            ("a%example.org".to_owned(), "554 5.7.1"),
            ("example.org!a".to_owned(), "554 5.7.1"),
            (format!("@{domain}:a@example.org"), "554 5.7.1"),
        ] {
            // A session of its own: Postfix hangs up on whoever makes too many mistakes.
            let mut inbound = world.mail.inbound().await;
            inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
            inbound.expect(&format!("RCPT TO:<{route}>"), refusal).await;
        }
        // RFC 5321, appendix C: a source route is ignored.
        let mut inbound = world.mail.inbound().await;
        inbound.expect("MAIL FROM:<friend@example.net>", "250").await;
        inbound
            .expect(&format!("RCPT TO:<@example.org:{}>", ada.email), "250")
            .await;
    })
    .await;
}
