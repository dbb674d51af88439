//! Connections that say nothing take no place for long.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use futures_util::future::join_all;
use inboxd::stack::render::Sessions;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Mutex};

use super::{HASH_OF_SECRET, Rig, mail_at};
use crate::support::{
    mail::{Mail, auth_plain},
    wait::{until, until_within},
};

/// Few places, and the shortest time that connections to Postfix may be silent for.
const FEW: Sessions = Sessions {
    imap: 20,
    imap_per_inbox: 20,
    submission: 12,
    submission_per_address: 10,
    smtp_idle_s: 10,
};
/// More connections without a login than Dovecot has places for: [`FEW`] sessions, and a thousand.
const SILENT_IMAP_CONNECTIONS: usize = 1_500;
/// Longest wait for a place while they say nothing: many times the time that they may be silent for.
const FLOOD_LIMIT: Duration = Duration::from_mins(2);
/// More than submission has places for.
const SILENT_SUBMISSIONS: usize = 20;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.password_entry("carol", HASH_OF_SECRET);
    rig.settings.sessions = FEW;
    rig
}

/// Connections from two addresses of a stranger's.
async fn silent(mail: &Mail, port: u16, count: usize) -> Vec<TcpStream> {
    let sources = [2, 3].map(|host| mail_at(mail, Ipv4Addr::new(127, 0, 0, host)));
    let connecting = (0..count).map(|number| sources[number % 2].connect(port));
    let connected = join_all(connecting).await;
    connected.into_iter().map(Result::unwrap).collect()
}

/// Lets this process have so many files open. It never has fewer than before.
fn allow_open_files(count: usize) {
    let (limit, said) = super::run("sh", &["-c", "ulimit -n"]);
    let limit = limit.trim();
    if limit == "unlimited" || limit.parse::<usize>().unwrap_or_else(|_| panic!("{limit}{said}")) >= count {
        return;
    }
    let raised = Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg(format!("--nofile={count}:"))
        .status()
        .unwrap();
    assert!(
        raised.success(),
        "{count} open files are more than this system allows"
    );
}

#[tokio::test]
async fn postfix_gives_up_who_is_silent_at_any_stage() {
    let rig = rig();
    let stack = rig.start().await;
    let mail = rig.mail().await;
    let greeted = async {
        let rest = rig.smtp().await.rest().await;
        assert!(rest.starts_with("421 4.4.2 "), "{rest}");
    };
    let without_tls = async {
        let rest = mail.submission_in_clear().await.rest().await;
        assert!(rest.starts_with("421 4.4.2 "), "{rest}");
    };
    let handshake = async {
        let mut smtp = mail.submission_in_clear().await;
        smtp.expect("EHLO client.example.net", "250").await;
        smtp.expect("STARTTLS", "220").await;
        smtp.rest().await;
    };
    let logged_in = async {
        let rest = rig.logged_in_submission("alice@example.com").await.rest().await;
        assert!(rest.starts_with("421 4.4.2 "), "{rest}");
    };
    // An octet now and then is no command.
    let dripping = async {
        let stream = Mutex::new(mail.connect(rig.settings.ports.inbound).await.unwrap());
        until("the end of a connection", || async {
            stream.lock().await.write_all(b"N").await.err()
        })
        .await;
    };
    tokio::join!(greeted, without_tls, handshake, logged_in, dripping);
    stack.stop().await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_submission() {
    let rig = rig();
    let stack = rig.start().await;
    let mail = rig.mail().await;
    let held = silent(&mail, rig.settings.ports.submission, SILENT_SUBMISSIONS).await;
    until_within(FLOOD_LIMIT, "a login on submission", || async {
        let mut smtp = mail.try_submission().await.ok()?;
        smtp.try_expect(&auth_plain("carol@example.com", "secret"), "235")
            .await
            .ok()
    })
    .await;
    drop(held);
    stack.stop().await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_imap() {
    allow_open_files(SILENT_IMAP_CONNECTIONS + 1_000);
    let rig = rig();
    let stack = rig.start().await;
    let mail = rig.mail().await;
    let held = silent(&mail, rig.settings.ports.imaps, SILENT_IMAP_CONNECTIONS).await;
    // Some have got as far as TLS.
    let greeted = join_all((0..50).map(|_| mail.try_imap())).await;
    let mut sessions = Vec::new();
    for login in ["alice@example.com", "bob@example.com", "carol@example.com"] {
        sessions.push(rig.log_in(login, "secret").await.unwrap());
    }
    // A flood takes no session away.
    let more = silent(&mail, rig.settings.ports.imaps, SILENT_IMAP_CONNECTIONS).await;
    for session in &mut sessions {
        session.noop().await.unwrap();
    }
    rig.log_in("alice@example.com", "secret").await.unwrap();
    drop((held, greeted, more));
    stack.stop().await;
}
