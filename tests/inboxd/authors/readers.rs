//! Whom mail readers take a message to be from.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use async_imap::types::Fetch;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::TryStreamExt as _;
use mail_parser::MessageParser;

use crate::support::{inbox::Inbox, mail::Imap, world::World};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier");
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier");
/// Messages that are appended with one command (RFC 3502).
const APPENDED_TOGETHER: usize = 200;

/// What a reader shows of each message: the addresses, or none where it failed.
pub type Shown = Vec<Option<Vec<String>>>;

/// What every reader shows, by its name.
#[derive(Default)]
pub struct Readers(pub BTreeMap<String, Shown>);

impl Readers {
    /// All readers that need no server.
    pub fn of(messages: &[Vec<u8>]) -> Self {
        let mut readers = Self::default();
        let python = |arguments: &[&str]| {
            let mut command = Command::new(format!("{FOLDER}/bin/python"));
            command.arg(format!("{SOURCES}/readers.py")).args(arguments);
            command
        };
        let node = |name: &str| {
            let mut command = Command::new("node");
            command.arg(format!("{SOURCES}/readers.js")).arg(name);
            command
        };
        readers.add("", python(&["python"]), messages);
        readers.add("", python(&["mail-parser"]), messages);
        let mut older = python(&["mail-parser"]);
        older.env("PYTHONPATH", format!("{FOLDER}/older"));
        readers.add(", older", older, messages);
        readers.add("", node("mailparser"), messages);
        readers.add("", node("mailparser-older"), messages);
        let ours = messages
            .iter()
            .map(|message| crate_mail_parser(message))
            .collect();
        readers.0.insert("mail-parser of Rust".to_owned(), ours);
        readers
    }

    /// What Dovecot's ENVELOPE and imapflow show of the messages, after they were appended to an empty inbox.
    pub async fn of_imap(world: &World, inbox: &Inbox, messages: &[Vec<u8>]) -> Self {
        let mut readers = Self::default();
        let mut imap = world.mail.log_in(inbox).await;
        append(&mut imap, messages).await;
        imap.select("INBOX").await.unwrap();
        let fetched: Vec<Fetch> = imap
            .fetch("1:*", "ENVELOPE")
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let shown = fetched.iter().map(|fetch| Some(envelope(fetch))).collect();
        readers.0.insert("Dovecot".to_owned(), shown);
        imap.logout().await.unwrap();
        let mut imapflow = Command::new("node");
        let servers = &world.mail.servers;
        imapflow
            .arg(format!("{SOURCES}/imapflow.js"))
            .args([&servers.ports.imaps.to_string(), &inbox.email, &inbox.password])
            .arg(&servers.ca_file);
        readers.add("", imapflow, &[]);
        readers
    }

    /// Runs a program that gets messages on its standard input and prints what it shows of each.
    fn add(&mut self, suffix: &str, mut command: Command, messages: &[Vec<u8>]) {
        assert!(Path::new(FOLDER).exists(), "run scripts/install-verifier first");
        let mut child = command
            .current_dir(FOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run scripts/install-deps test first");
        let mut stdin = child.stdin.take().unwrap();
        let lines: String = messages
            .iter()
            .map(|message| BASE64_STANDARD.encode(message) + "\n")
            .collect();
        let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}");
        writing.join().unwrap().unwrap();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let shown: BTreeMap<String, Option<Vec<String>>> = serde_json::from_str(line).unwrap();
            for (reader, addresses) in shown {
                self.0.entry(reader + suffix).or_default().push(addresses);
            }
        }
    }
}

/// Many messages with few commands: non-synchronizing literals (RFC 7888), several at once (RFC 3502).
async fn append(imap: &mut Imap, messages: &[Vec<u8>]) {
    for together in messages.chunks(APPENDED_TOGETHER) {
        let mut command = "APPEND INBOX".to_owned();
        for message in together {
            let text = str::from_utf8(message).unwrap();
            command.extend([" {", &text.len().to_string(), "+}\r\n", text]);
        }
        imap.run_command_and_check_ok(command).await.unwrap();
    }
}

/// RFC 9051, 7.5.2.
pub fn envelope(fetch: &Fetch) -> Vec<String> {
    let envelope = fetch.envelope().unwrap();
    let lists = [&envelope.from, &envelope.sender];
    let text = |octets: Option<&[u8]>| octets.map(|octets| String::from_utf8_lossy(octets).into_owned());
    let addresses = lists.into_iter().flatten().flatten();
    let shown = addresses.map(|address| {
        let parts = [text(address.mailbox.as_deref()), text(address.host.as_deref())];
        parts.into_iter().flatten().collect::<Vec<_>>().join("@")
    });
    shown.collect()
}

/// The crate that other servers in Rust use.
fn crate_mail_parser(message: &[u8]) -> Option<Vec<String>> {
    let parsed = MessageParser::new().parse(message)?;
    let fields = ["From", "Sender", "Resent-From", "Resent-Sender"];
    let lists = fields
        .iter()
        .filter_map(|name| parsed.header(*name)?.as_address());
    let addresses = lists.flat_map(mail_parser::Address::iter);
    Some(
        addresses
            .filter_map(|address| Some(address.address()?.to_owned()))
            .collect(),
    )
}
