//! The private stack with maps that are written by hand: Dovecot and Postfix in a folder, seen through IMAP, SMTP and
//! doveadm.

mod costly;
mod doors;
mod guesses;
mod look_ups;
mod sessions;
mod silence;

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
};

use futures_util::{StreamExt as _, future::join_all};
use inboxd::{
    clock::{Clock as _, Machine},
    mail::doveadm::{Doveadm, Ended},
    model::address::Address,
    stack::{
        MailPlane, PrivateStack, Settings, key,
        private::{self, Ports, StartError},
        render::{self, Postmaster, Reach, Sessions},
        tls,
        whole::{self, Listen, Premises},
    },
    telemetry::chain,
};
use tokio::{net::TcpStream, sync::Mutex};
use uuid::Uuid;

use crate::support::{
    Folder, end_of, free_ports,
    mail::{self, HOST, Idling, Imap, Mail, Message, Servers, Smtp, Submitting, auth_plain},
    processes_of,
    wait::until,
    world::HOSTNAME,
};

/// `doveadm pw -s SHA512-CRYPT -r 1000 -p secret`
const HASH_OF_SECRET: &str = "{SHA512-CRYPT}$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1";

/// The id of the inbox behind a mailbox of this name.
fn inbox_id(name: &str) -> Uuid {
    Uuid::from_u128(
        name.bytes()
            .fold(1, |sum: u128, byte| sum.wrapping_mul(31) + u128::from(byte)),
    )
}

/// What Postfix gets as the name of its login.
fn sasl_name(name: &str) -> String {
    format!("{}.1", inbox_id(name))
}

/// A folder with maps, and the settings of a stack in it.
struct Rig {
    settings: Settings,
    _folder: Folder,
}

/// The same clients at another address of this host.
fn mail_at(mail: &Mail, source: Ipv4Addr) -> Mail {
    let mut mail = mail.clone();
    mail.source = source;
    mail
}

impl Rig {
    fn new() -> Self {
        let folder = Folder::new();
        let dir = fs::canonicalize(folder.path()).unwrap();
        let maps_dir = dir.join("maps");
        for folder in ["maps", "maps/passdb", "maps/passdb/example.com", "maps/postfix"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        // postmap needs a configuration to know where its table types are; the system's may be missing.
        fs::create_dir(dir.join("postmap")).unwrap();
        fs::write(
            dir.join("postmap/main.cf"),
            "compatibility_level = 3.6\nmeta_directory = /etc/postfix\n",
        )
        .unwrap();
        let [imaps, submission, inbound] = free_ports();
        let settings = Settings {
            ports: Ports {
                imaps,
                submission,
                inbound,
            },
            dir,
            maps_dir,
            hostname: HOSTNAME.into(),
            postmaster_address: "postmaster@example.com".into(),
            postmaster: Postmaster::Inbox("alice@example.com".into()),
            signer_socket: None,
            inbound_socket: None,
            login_policy_url: None,
            sessions: private::DEFAULT_SESSIONS,
            reach: Reach::OwnDomains,
            message_size_limit: 1_000_000,
        };
        let rig = Self {
            settings,
            _folder: folder,
        };
        for table in ["domains", "recipients", "aliases", "sender_logins"] {
            rig.map(table, "");
        }
        rig.map("domains", "example.com 1\n");
        rig.mailbox("alice", HASH_OF_SECRET);
        rig.mailbox("bob", HASH_OF_SECRET);
        rig.map("aliases", "second@example.com alice@example.com\n");
        rig.map(
            "sender_logins",
            &format!("second@example.com {}\n", sasl_name("alice")),
        );
        rig
    }

    fn map(&self, table: &str, lines: &str) {
        let file = format!(
            "lmdb:{}",
            self.settings.maps_dir.join("postfix").join(table).display()
        );
        if lines.is_empty() {
            fs::write(self.settings.maps_dir.join("postfix").join(table), "").unwrap();
        }
        let mut postmap = std::process::Command::new("postmap")
            .arg("-c")
            .arg(self.settings.dir.join("postmap"))
            // Without entries: `-i` needs a table that is there.
            .args(if lines.is_empty() { &[][..] } else { &["-ir"][..] })
            .arg(&file)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("apt-get install postfix postfix-lmdb");
        postmap.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = postmap.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.settings.maps_dir.join("passdb/example.com").join(name)
    }

    fn write_entry(&self, name: &str, line: &str) {
        let entry = self.entry(name);
        fs::write(&entry, line).unwrap();
        let dovecot = nix::unistd::Group::from_name("dovecot").unwrap().unwrap();
        chown(&entry, None, Some(dovecot.gid.as_raw())).unwrap();
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn password_entry(&self, name: &str, hash: &str) {
        let home = self.settings.dir.join("mail").join(format!("id-of-{name}"));
        self.write_entry(
            name,
            &format!(
                "{name}@example.com:{hash}:5000:5000:{}:{}::\n",
                sasl_name(name),
                home.display()
            ),
        );
    }

    fn mailbox(&self, name: &str, hash: &str) {
        self.password_entry(name, hash);
        self.map(
            "recipients",
            &format!(
                "{name}@example.com {}={name}=example.com@inboxd.invalid\n",
                inbox_id(name)
            ),
        );
        self.map(
            "sender_logins",
            &format!("{name}@example.com {}\n", sasl_name(name)),
        );
    }

    async fn start(&self) -> PrivateStack {
        match PrivateStack::start(&self.settings, &Machine, &Machine).await {
            Ok(stack) => stack,
            Err(error) => panic!("{}", chain(&error)),
        }
    }

    fn processes(&self) -> Vec<String> {
        processes_of(&self.settings.dir)
    }

    async fn mail(&self) -> Mail {
        Mail::new(Servers {
            host: HOST.to_owned(),
            hostname: HOSTNAME.to_owned(),
            ports: self.settings.ports,
            ca_file: self.settings.dir.join("tls/ca.pem"),
        })
        .await
    }

    async fn smtp(&self) -> Smtp<TcpStream> {
        self.mail().await.inbound().await
    }

    async fn submission(&self) -> Submitting {
        self.mail().await.submission().await
    }

    async fn logged_in_submission(&self, user: &str) -> Submitting {
        let mut smtp = self.submission().await;
        smtp.expect(&auth_plain(user, "secret"), "235").await;
        smtp
    }

    async fn log_in(&self, user: &str, password: &str) -> Result<Imap, String> {
        self.mail().await.try_log_in(user, password).await
    }

    /// Waits until a mailbox holds this many messages.
    async fn wait_for_mail(&self, user: &str, count: u32) {
        let imap = Mutex::new(self.log_in(user, "secret").await.unwrap());
        until(&format!("{user} has {count} messages"), || async {
            let there = mail::count(&mut *imap.lock().await, "INBOX").await;
            (there == count).then_some(())
        })
        .await;
    }

    fn dovecot_log(&self) -> String {
        fs::read_to_string(self.settings.dir.join("log/dovecot.log")).unwrap()
    }

    fn postfix_log(&self) -> String {
        fs::read_to_string(self.settings.dir.join("log/postfix.log")).unwrap()
    }
}

impl Drop for Rig {
    /// A test that failed leaves its servers; what is in the folder of this rig is of this rig.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["log/dovecot.log", "log/postfix.log"] {
                let text = fs::read_to_string(self.settings.dir.join(log)).unwrap_or_default();
                let complaints = complaints(&text);
                eprintln!("complaints: {:#?}", &complaints[..complaints.len().min(20)]);
                eprintln!("--- end of {log} ---\n{}", end_of(&text));
            }
        }
        for process in self.processes() {
            let pid = process
                .split(' ')
                .next()
                .and_then(|pid| pid.parse().ok())
                .unwrap();
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }
}

fn doveadm(stack: &PrivateStack) -> Doveadm {
    let key = key::ensure(&stack.layout().doveadm_key_file(), &Machine).unwrap();
    Doveadm::new(&stack.layout().doveadm_socket(), &key).unwrap()
}

/// The lines of a log that say that something is not as it should be.
fn complaints(log: &str) -> Vec<&str> {
    let signs = ["warning:", "error:", "fatal:", "panic:"];
    let bad = log
        .lines()
        .filter(|line| signs.iter().any(|sign| line.to_lowercase().contains(sign)));
    // How Dovecot calls being stopped.
    bad.filter(|line| !line.contains("Killed with signal 15"))
        .collect()
}

#[tokio::test]
async fn a_mailbox_is_logged_in_to_with_its_password_only() {
    let rig = Rig::new();
    let stack = rig.start().await;

    let mut imap = rig.log_in("alice@example.com", "secret").await.unwrap();
    let capabilities = imap.capabilities().await.unwrap();
    assert!(capabilities.has_str("IDLE") && capabilities.has_str("SPECIAL-USE"));
    let folders: Vec<_> = imap.lsub(Some(""), Some("*")).await.unwrap().collect().await;
    let mut names: Vec<_> = folders
        .iter()
        .map(|folder| folder.as_ref().unwrap().name().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["Drafts", "Junk", "Sent", "Trash"]);
    imap.append("Drafts", None, None, "Subject: a draft\r\n\r\n")
        .await
        .unwrap();
    imap.logout().await.unwrap();
    let mail = rig.settings.dir.join("mail/id-of-alice/Maildir");
    assert_eq!(fs::metadata(mail.join(".Drafts")).unwrap().uid(), 5000);

    rig.log_in("ALICE@Example.COM", "secret").await.unwrap();
    for (user, password) in [
        ("alice@example.com", "Secret"),
        ("nobody@example.com", "secret"),
        ("alice@example.org", "secret"),
        ("alice", "secret"),
        ("../example.com/alice@example.com", "secret"),
        ("alice@../passdb/example.com", "secret"),
    ] {
        let refused = rig.log_in(user, password).await.unwrap_err();
        assert!(refused.contains("AUTHENTICATIONFAILED"), "{user}: {refused}");
    }
    stack.stop().await;
    assert_eq!(complaints(&rig.dovecot_log()), [""; 0]);
}

#[tokio::test]
async fn a_new_password_holds_from_the_next_login() {
    let rig = Rig::new();
    let stack = rig.start().await;
    assert!(rig.log_in("new@example.com", "secret").await.is_err());
    rig.mailbox("new", "{PLAIN}one");
    rig.log_in("new@example.com", "one").await.unwrap();
    rig.mailbox("new", "{PLAIN}two");
    rig.log_in("new@example.com", "two").await.unwrap();
    assert!(rig.log_in("new@example.com", "one").await.is_err());
    fs::remove_file(rig.entry("new")).unwrap();
    assert!(rig.log_in("new@example.com", "two").await.is_err());
    stack.stop().await;
}

#[tokio::test]
async fn extra_fields_reach_their_database() {
    let rig = Rig::new();
    let home = rig.settings.dir.join("mail/id-of-alice").display().to_string();
    let entry = |extra: &str| format!("alice@example.com:{{PLAIN}}secret:5000:5000::{home}::{extra}\n");
    let stack = rig.start().await;
    rig.write_entry("alice", &entry("allow_nets=192.0.2.0/24"));
    assert!(rig.log_in("alice@example.com", "secret").await.is_err());
    rig.write_entry(
        "alice",
        &entry(&format!("allow_nets=127.0.0.0/8 userdb_home={home}-moved")),
    );
    let mut imap = rig.log_in("alice@example.com", "secret").await.unwrap();
    imap.create("Here").await.unwrap();
    assert!(Path::new(&format!("{home}-moved/Maildir/.Here")).is_dir());
    stack.stop().await;
}

#[tokio::test]
async fn a_locked_mailbox_refuses_logins_and_takes_mail() {
    let rig = Rig::new();
    rig.password_entry("alice", "*");
    let stack = rig.start().await;
    assert!(rig.log_in("alice@example.com", "secret").await.is_err());
    assert!(rig.log_in("alice@example.com", "*").await.is_err());
    rig.submission()
        .await
        .expect(&auth_plain("alice@example.com", "secret"), "535")
        .await;
    let mut smtp = rig.smtp().await;
    smtp.send(
        "someone@example.net",
        "alice@example.com",
        &Message::new("a test"),
    )
    .await;
    let new = rig.settings.dir.join("mail/id-of-alice/Maildir/new");
    wait_until("a message in a locked mailbox", || {
        fs::read_dir(&new).is_ok_and(|mail| mail.count() == 1)
    })
    .await;
    rig.password_entry("alice", HASH_OF_SECRET);
    rig.wait_for_mail("alice@example.com", 1).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_broken_entry_is_a_temporary_failure() {
    let rig = Rig::new();
    let stack = rig.start().await;
    for broken in [
        "",
        "\n",
        "bob@example.com\n",
        "alice@example.com:{PLAIN}secret:5000:5000::/home::\n",
        "bob@example.com:{PLAIN}secret:::::\n",
    ] {
        rig.write_entry("bob", broken);
        let refused = rig.log_in("bob@example.com", "secret").await.unwrap_err();
        assert!(refused.contains("UNAVAILABLE"), "{broken:?}: {refused}");
    }
    let mut smtp = rig.smtp().await;
    smtp.send("someone@example.net", "bob@example.com", &Message::new("a test"))
        .await;
    wait_until("a deferred delivery", || {
        rig.postfix_log().contains("status=deferred")
    })
    .await;
    rig.password_entry("bob", HASH_OF_SECRET);
    rig.wait_for_mail("bob@example.com", 1).await;
    stack.stop().await;
}

#[tokio::test]
async fn inbound_mail_reaches_known_recipients_only() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let mut smtp = rig.smtp().await;
    for (count, to) in [
        "alice@example.com",
        "Alice@EXAMPLE.com",
        "alice+lists.rust@example.com",
        "second@example.com",
        "Second+x@example.com",
    ]
    .iter()
    .enumerate()
    {
        smtp.send("someone@example.net", to, &Message::new("a test"))
            .await;
        rig.wait_for_mail("alice@example.com", u32::try_from(count).unwrap() + 1)
            .await;
    }
    smtp.expect("MAIL FROM:<someone@example.net>", "250").await;
    for unknown in [
        "nobody@example.com",
        "alice.x@example.com",
        "nobody+x@example.com",
    ] {
        smtp.expect(&format!("RCPT TO:<{unknown}>"), "550 5.1.1").await;
    }
    for relayed in [
        "someone@example.org",
        "alice@sub.example.com",
        "@example.com:someone@example.org",
        "alice%example.net@example.com",
        "someone",
    ] {
        let reply = smtp.say(&format!("RCPT TO:<{relayed}>")).await;
        assert!(reply.starts_with('5'), "{relayed}: {reply}");
    }
    // Known from now on, in the session that just heard the opposite.
    rig.mailbox("nobody", HASH_OF_SECRET);
    smtp.expect("RCPT TO:<nobody@example.com>", "250").await;
    // A new domain holds from the next session; this one may remember a refusal.
    rig.map("domains", "example.org 1\n");
    let new = format!(
        "new@example.org {}=new=example.org@inboxd.invalid\n",
        inbox_id("new")
    );
    rig.map("recipients", &new);
    let mut next = rig.smtp().await;
    next.expect("MAIL FROM:<someone@example.net>", "250").await;
    next.expect("RCPT TO:<new@example.org>", "250").await;
    next.expect("RCPT TO:<other@example.org>", "550 5.1.1").await;
    smtp.expect("RSET", "250").await;
    // Not even a sender of our own makes an open relay, nor is AUTH offered here.
    smtp.expect("MAIL FROM:<alice@example.com>", "250").await;
    smtp.expect("RCPT TO:<someone@example.edu>", "554 5.7.1").await;
    smtp.expect(&auth_plain("alice@example.com", "secret"), "503")
        .await;
    stack.stop().await;
}

#[tokio::test]
async fn submission_demands_tls_and_a_login() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let mut plain = rig.mail().await.submission_in_clear().await;
    let features = plain.expect("EHLO client.example.net", "250").await;
    assert!(
        features.contains("STARTTLS") && !features.contains("AUTH") && !features.contains("SMTPUTF8"),
        "{features}"
    );
    plain.expect("MAIL FROM:<alice@example.com>", "530 5.7.0").await;
    plain
        .expect(&auth_plain("alice@example.com", "secret"), "530 5.7.0")
        .await;

    let mut smtp = rig.submission().await;
    smtp.expect("MAIL FROM:<alice@example.com>", "250").await;
    let reply = smtp.say("RCPT TO:<bob@example.com>").await;
    assert!(reply.starts_with('5'), "{reply}");

    let mut smtp = rig.submission().await;
    smtp.expect(&auth_plain("alice@example.com", "wrong"), "535")
        .await;
    stack.stop().await;
}

#[tokio::test]
async fn a_login_sends_as_its_own_addresses_to_our_domains() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let mut smtp = rig.logged_in_submission("Alice@example.com").await;
    let own = [
        "alice@example.com",
        "ALICE@example.com",
        "alice+news@example.com",
        "second@example.com",
        "second+x@example.com",
    ];
    for (count, from) in own.iter().enumerate() {
        smtp.send(from, "bob@example.com", &Message::new("a test")).await;
        rig.wait_for_mail("bob@example.com", u32::try_from(count).unwrap() + 1)
            .await;
    }
    for foreign in [
        "bob@example.com",
        "nobody@example.com",
        "someone@example.net",
        "bob+x@example.com",
    ] {
        smtp.expect(&format!("MAIL FROM:<{foreign}>"), "250").await;
        let reply = smtp.say("RCPT TO:<bob@example.com>").await;
        assert!(reply.starts_with("553 5.7.1"), "{foreign}: {reply}");
        smtp.expect("RSET", "250").await;
    }
    smtp.expect("MAIL FROM:<alice@example.com>", "250").await;
    let reply = smtp.expect("RCPT TO:<someone@example.org>", "550 5.7.1").await;
    assert!(reply.contains("own domains only"), "{reply}");
    smtp.expect("RCPT TO:<nobody@example.com>", "550 5.1.1").await;
    stack.stop().await;
    assert_eq!(complaints(&rig.postfix_log()), [""; 0]);
}

#[tokio::test]
async fn ended_sessions_are_ended_also_while_they_idle() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let doveadm = doveadm(&stack);
    let alice = Address::parse("alice@example.com").unwrap();
    assert_eq!(
        doveadm.end_sessions(&alice).await.unwrap(),
        Ended::All { kicks: 0 }
    );

    let mut bob = rig.log_in("bob@example.com", "secret").await.unwrap();
    let mut idling = Vec::new();
    for _ in 0..3 {
        let imap = rig.log_in("alice@example.com", "secret").await.unwrap();
        idling.push(Idling::begin(imap).await);
    }
    assert_eq!(doveadm.is_connected(&alice).await.unwrap(), Some(true));
    assert!(matches!(
        doveadm.end_sessions(&alice).await.unwrap(),
        Ended::All { kicks: 1.. }
    ));
    assert_eq!(doveadm.is_connected(&alice).await.unwrap(), Some(false));
    for idling in idling {
        idling.assert_ended().await;
    }
    bob.noop().await.unwrap();
    stack.stop().await;
    assert_eq!(doveadm.end_sessions(&alice).await.unwrap(), Ended::NoServer);
}

#[tokio::test]
async fn two_hundred_clients_at_a_time_are_served() {
    let rig = Rig::new();
    let agents: Vec<String> = (0..200).map(|number| format!("agent{number}")).collect();
    for agent in &agents {
        rig.password_entry(agent, HASH_OF_SECRET);
    }
    let stack = rig.start().await;
    let smtp = async || {
        let mut smtp = rig.smtp().await;
        smtp.expect("MAIL FROM:<someone@example.net>", "250").await;
        smtp
    };
    let mut open = join_all((0..200).map(|_| smtp())).await;
    for smtp in &mut open {
        smtp.expect("RCPT TO:<alice@example.com>", "250").await;
    }
    drop(open);
    let log_in = async |agent: &String| rig.log_in(&format!("{agent}@example.com"), "secret").await;
    let logins = join_all(agents.iter().map(log_in)).await;
    let mut sessions: Vec<Imap> = logins.into_iter().map(Result::unwrap).collect();
    for session in &mut sessions {
        session.noop().await.unwrap();
    }
    drop(sessions);
    stack.stop().await;
    assert_eq!(rig.processes(), [""; 0]);
    assert_eq!(complaints(&rig.dovecot_log()), [""; 0]);
}

#[tokio::test]
async fn stopping_leaves_no_process_and_starting_again_finds_the_mail() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let ca = fs::read(&stack.certificates().ca_cert).unwrap();
    let second = PrivateStack::start(&rig.settings, &Machine, &Machine).await;
    assert!(matches!(second, Err(StartError::InUse { .. })));
    let mut smtp = rig.smtp().await;
    smtp.send(
        "someone@example.net",
        "alice@example.com",
        &Message::new("a test"),
    )
    .await;
    rig.wait_for_mail("alice@example.com", 1).await;
    let idle = rig.log_in("alice@example.com", "secret").await.unwrap();
    stack.stop().await;
    assert_eq!(rig.processes(), [""; 0]);
    drop(idle);

    let stack = rig.start().await;
    rig.wait_for_mail("alice@example.com", 1).await;
    assert_eq!(fs::read(&stack.certificates().ca_cert).unwrap(), ca);
    stack.stop().await;
    assert_eq!(rig.processes(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_and_given_up_in_the_end() {
    let rig = Rig::new();
    let mut stack = rig.start().await;
    let master = |rig: &Rig| -> Option<i32> {
        fs::read_to_string(rig.settings.dir.join("run/master.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let mut killed = None;
    let failure = loop {
        let next = until("a new Dovecot", || async {
            master(&rig).filter(|&pid| Some(pid) != killed)
        });
        let pid = tokio::select! {
            failure = stack.failed() => break failure,
            pid = next => pid,
        };
        killed = Some(pid);
        let victim = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    assert!(
        failure.to_string().contains("SIGKILL") && failure.to_string().contains("for the 6th time"),
        "{failure}"
    );
    stack.stop().await;
    assert_eq!(rig.processes(), [""; 0]);
}

#[tokio::test]
async fn a_server_that_does_not_come_up_says_why() {
    let rig = Rig::new();
    let taken = TcpListener::bind(("127.0.0.1", rig.settings.ports.inbound)).unwrap();
    let refused = PrivateStack::start(&rig.settings, &Machine, &Machine)
        .await
        .err()
        .unwrap();
    assert!(matches!(refused, StartError::Port { port, .. } if port == rig.settings.ports.inbound));
    drop(taken);
    let in_the_way = rig.settings.dir.join("run/http/folder");
    fs::create_dir_all(&in_the_way).unwrap();
    let refused = PrivateStack::start(&rig.settings, &Machine, &Machine)
        .await
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("run/http) failed"),
        "{}",
        chain(&refused)
    );
    fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::remove_file(rig.settings.dir.join("maps/postfix/domains.lmdb")).unwrap();
    let refused = PrivateStack::start(&rig.settings, &Machine, &Machine)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(refused, StartError::MissingTable { .. }),
        "{}",
        chain(&refused)
    );
    assert_eq!(rig.processes(), [""; 0]);
}

#[tokio::test]
async fn a_pid_file_that_names_somebody_else_is_no_leftover() {
    let rig = Rig::new();
    rig.start().await.stop().await;
    let mut bystander = tokio::process::Command::new("sleep")
        .arg("60")
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = bystander.id().unwrap();
    for file in ["run/master.pid", "queue/pid/master.pid"] {
        fs::write(rig.settings.dir.join(file), format!("{pid}\n")).unwrap();
    }
    rig.start().await.stop().await;
    assert_eq!(bystander.try_wait().unwrap(), None);
    bystander.kill().await.unwrap();
}

#[tokio::test]
async fn a_dropped_stack_stops() {
    let rig = Rig::new();
    drop(rig.start().await);
    wait_until("the end of a dropped stack", || rig.processes().is_empty()).await;
}

/// What an operator would render, with certificate and key in this folder.
fn operators_plane(dir: &Path) -> MailPlane {
    let certificates = tls::ensure(dir, &["mail.example.com"], Machine.now()).unwrap();
    key::ensure(&dir.join("doveadm.key"), &Machine).unwrap();
    MailPlane {
        maps_dir: "/var/lib/inboxd".into(),
        lua_script: dir.join("inboxd.lua"),
        mail_root: "/var/mail/inboxd".into(),
        mail_uid: 5000,
        mail_gid: 5000,
        hostname: "mail.example.com".into(),
        postmaster_address: "postmaster@example.com".into(),
        postmaster: Postmaster::Inbox("postmaster@example.com".into()),
        double_bounce_sender: key::double_bounce_sender(&Machine),
        queue_dir: "/var/spool/postfix".into(),
        auth_socket: "/var/spool/postfix/private/auth".into(),
        lmtp_socket: "/var/spool/postfix/private/dovecot-lmtp".into(),
        dovecot_base_dir: "/run/dovecot".into(),
        doveadm_group: "root".into(),
        doveadm_key_file: dir.join("doveadm.key"),
        signer_socket: Some("/run/inboxd-signer/milter".into()),
        inbound_socket: Some("/run/inboxd-inbound/milter".into()),
        tls_cert: certificates.server_cert,
        tls_key: certificates.server_key,
        imaps_port: 993,
        submission_service: "587".into(),
        login_policy_url: Some("http://127.0.0.1:8085/".into()),
        sessions: Sessions {
            imap: 4000,
            imap_per_inbox: 50,
            submission: 600,
            submission_per_address: 500,
            smtp_idle_s: 60,
        },
        reach: Reach::World,
        message_size_limit: 1_000_000,
    }
}

#[tokio::test]
async fn the_fragment_fits_the_stock_configuration_of_dovecot() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let plane = operators_plane(dir);
    let dovecot = dir.join("dovecot");
    let copied = std::process::Command::new("cp")
        .args(["-r", "/etc/dovecot"])
        .arg(&dovecot)
        .status()
        .unwrap();
    assert!(copied.success());
    let auth = dovecot.join("conf.d/10-auth.conf");
    let stock = fs::read_to_string(&auth).unwrap();
    assert!(
        stock.contains("\n!include auth-system.conf.ext"),
        "the fragment's comment is about this line"
    );
    fs::write(
        &auth,
        stock.replace(
            "\n!include auth-system.conf.ext",
            "\n#!include auth-system.conf.ext",
        ),
    )
    .unwrap();
    let version = private::installed_dovecot().await.unwrap();
    for file in render::dovecot(version, &plane).unwrap() {
        let name = file.path.file_name().unwrap();
        let target = if file.path.extension().is_some_and(|extension| extension == "conf") {
            dovecot.join("conf.d").join(name)
        } else {
            dir.join(name)
        };
        fs::write(target, file.contents).unwrap();
    }
    let (effective, said) = run(
        "doveconf",
        &["-n", "-c", dovecot.join("dovecot.conf").to_str().unwrap()],
    );
    assert_eq!(complaints(&said), [""; 0]);
    for (database, count) in [("passdb", 2), ("userdb", 1)] {
        let found = effective.lines().filter(|line| line.starts_with(database));
        assert_eq!(found.count(), count, "{effective}");
    }
    assert!(!effective.contains("mbox"), "{effective}");
    assert!(
        effective.contains(&format!("{}\n", plane.tls_cert.display())),
        "{effective}"
    );
    assert!(!effective.contains("%{user | username | lower}"), "{effective}");
}

#[test]
fn the_fragments_fit_the_stock_configuration_of_postfix() {
    let folder = tempfile::tempdir().unwrap();
    let plane = operators_plane(folder.path());
    let postfix = folder.path().join("postfix");
    fs::create_dir(&postfix).unwrap();
    let mut main = fs::read_to_string("/usr/share/postfix/main.cf.debian").unwrap();
    let mut master = fs::read_to_string("/usr/share/postfix/master.cf.dist").unwrap();
    for file in render::postfix(&plane).unwrap() {
        if file.path.ends_with("main.cf") {
            &mut main
        } else {
            &mut master
        }
        .push_str(&file.contents);
    }
    fs::write(postfix.join("main.cf"), main).unwrap();
    fs::write(postfix.join("master.cf"), master).unwrap();
    let (effective, said) = run("postconf", &["-c", postfix.to_str().unwrap(), "-n"]);
    let unexpected: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("overriding earlier entry"))
        .collect();
    assert_eq!(unexpected, [""; 0]);
    assert!(
        effective.contains("$inboxd_route_access, reject_unauth_destination\n"),
        "{effective}"
    );
    let (services, _) = run("postconf", &["-c", postfix.to_str().unwrap(), "-M", "587/inet"]);
    assert!(services.contains("reject_sender_login_mismatch"), "{services}");
}

/// Premises in this folder, as a container has them elsewhere.
fn container_premises(dir: &Path) -> Premises {
    Premises {
        dovecot_conf_dir: dir.to_owned(),
        dovecot_state_dir: dir.join("state"),
        dovecot_log: "/dev/stderr".into(),
        sessions_outlive_reload: true,
        postfix_conf_dir: dir.to_owned(),
        postfix_data_dir: "/var/lib/postfix".into(),
        postfix_log: "/dev/stdout".into(),
        listen: Listen::Everywhere,
        inbound_port: 25,
    }
}

#[tokio::test]
async fn the_whole_configuration_of_a_container_is_one_that_both_servers_take() {
    for reach in [Reach::World, Reach::OwnDomains] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let plane = MailPlane {
            reach: reach.clone(),
            ..operators_plane(dir)
        };
        let premises = container_premises(dir);
        let version = private::installed_dovecot().await.unwrap();
        let mut files = whole::dovecot(version, &plane, &premises).unwrap();
        files.extend(whole::postfix(&plane, &premises).unwrap());
        for file in files {
            fs::write(file.path, file.contents).unwrap();
        }
        let conf = premises.dovecot_conf();
        let (effective, said) = run("doveconf", &["-n", "-c", conf.to_str().unwrap()]);
        assert_eq!(complaints(&said), [""; 0]);
        assert!(effective.contains("shutdown_clients = no"), "{effective}");

        let dir = dir.to_str().unwrap();
        let (effective, said) = run("postconf", &["-c", dir, "-n"]);
        assert_eq!(said, "");
        assert!(effective.contains("inet_interfaces = all"), "{effective}");
        // To the world there is a way, and one only where there should be.
        let (client, _) = run("postconf", &["-c", dir, "-M", "smtp/unix"]);
        let (refusal, _) = run("postconf", &["-c", dir, "-h", "default_transport"]);
        let is_open = reach == Reach::World;
        assert_eq!(client.contains("smtp"), is_open, "{client}");
        assert_eq!(refusal.trim() == "smtp", is_open, "{refusal}");
    }
}

/// What a program prints, to standard output and standard error.
fn run(program: &str, arguments: &[&str]) -> (String, String) {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || std::future::ready(is_so().then_some(()))).await;
}
