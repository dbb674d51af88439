//! What judges arriving mail, a DNS server that it asks, and those that write and judge mail independently of it.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use inboxd::{
    clock::Machine,
    milter::authentication_results::AuthenticationResults,
    model::dkim::{Algorithm, generate},
};
use serde_json::{Value, json};

use crate::support::{
    Folder,
    daemon::{DEFAULT_DOMAIN, Daemon, Database, INBOUND_SOCKET},
    dns::DnsServer,
    milter_client::{Envelope, Judged, MilterClient},
    milters::MilterProcess,
};

/// What `make test` installs to judge mail.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier/bin/python");
/// The name under which verdicts are given.
pub const HOST: &str = "mail.inboxd.test";
/// An address that the SPF records of the zones permit, and one that they do not.
pub const GOOD: &str = "192.0.2.1";
pub const BAD: &str = "198.51.100.9";

/// Keys that messages of a test are signed with, all of whose selectors have the same.
pub struct Keys {
    rsa_pem: String,
    rsa_record: String,
    ed25519_seed: String,
    ed25519_record: String,
}

impl Keys {
    pub fn new() -> Self {
        let rsa = generate(Algorithm::RsaSha256, &Machine).unwrap();
        let ed25519 = generate(Algorithm::Ed25519Sha256, &Machine).unwrap();
        let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        let text = BASE64_STANDARD.encode(rsa.private.as_slice());
        for line in text.as_bytes().chunks(64) {
            writeln!(pem, "{}", String::from_utf8_lossy(line)).unwrap();
        }
        pem += "-----END PRIVATE KEY-----\n";
        // RFC 8410, 7: the seed stands behind 16 octets of header.
        let seed = &ed25519.private.as_slice()[16..48];
        Self {
            rsa_pem: pem,
            rsa_record: record("rsa", &rsa.public),
            ed25519_seed: BASE64_STANDARD.encode(seed),
            ed25519_record: record("ed25519", &ed25519.public),
        }
    }

    /// The records of both keys, for a zone: selectors `s1` and `ed`.
    pub fn records(&self) -> String {
        format!(
            "s1._domainkey TXT {}\ned._domainkey TXT {}\n",
            self.rsa_record, self.ed25519_record
        )
    }

    /// Messages, after what senders and forwarders do to each of them (`write.py`).
    pub fn write(&self, messages: &[(String, Vec<Value>)]) -> Vec<Vec<u8>> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|(text, steps)| json!({"text": text, "steps": steps}))
            .collect();
        let given = json!({
            "keys": {"rsa": self.rsa_pem, "ed25519": self.ed25519_seed},
            "messages": messages,
        });
        let written: Vec<String> = serde_json::from_value(python("write.py", &[], &given)).unwrap();
        let octets = |text: &String| {
            text.chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap())
                .collect()
        };
        written.iter().map(octets).collect()
    }
}

/// A TXT record in strings of at most 255 octets.
fn record(kind: &str, public: &[u8]) -> String {
    let text = format!("v=DKIM1; k={kind}; p={}", BASE64_STANDARD.encode(public));
    let strings = text.as_bytes().chunks(200);
    let quoted: Vec<String> = strings
        .map(|part| format!("\"{}\"", String::from_utf8_lossy(part)))
        .collect();
    quoted.join(" ")
}

fn python(script: &str, arguments: &[String], input: &Value) -> Value {
    let path = format!("{}/tests/support/verifier/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(PYTHON)
        .arg(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/install-verifier");
    let input = input.to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the others say of messages, each with client, HELO and envelope sender (`judge.py`).
pub fn independent(server: &DnsServer, mails: &[(Vec<u8>, [&str; 3])]) -> Vec<Value> {
    let text = |octets: &Vec<u8>| octets.iter().map(|&octet| char::from(octet)).collect::<String>();
    let given: Vec<Value> = mails
        .iter()
        .map(|(message, [client, helo, sender])| {
            json!({"text": text(message), "client": client, "helo": helo, "sender": sender})
        })
        .collect();
    let port = server.address().port().to_string();
    serde_json::from_value(python("judge.py", &[port], &Value::Array(given))).unwrap()
}

/// A daemon, and what judges arriving mail beside it. There are no mail servers: the tests speak to it as Postfix does.
pub struct Rig {
    pub daemon: Daemon,
    pub process: MilterProcess,
    pub server: DnsServer,
    pub keys: Keys,
}

impl Rig {
    pub async fn start(extra: &str) -> Self {
        let mut server = DnsServer::start().await;
        // The walk of DMARC goes up to the top.
        for top in ["test", "com"] {
            server.set_zone(top, "").await;
        }
        Self::asking(server, extra).await
    }

    async fn asking(server: DnsServer, extra: &str) -> Self {
        Self::asking_at(server.address(), server, extra).await
    }

    /// One that asks at another address than that of its server.
    pub async fn asking_at(address: SocketAddr, server: DnsServer, extra: &str) -> Self {
        let folder = Folder::new();
        let config = format!(
            "inbound.socket = \"{}\"\ninbound.authserv_id = \"{HOST}\"\ndns.servers = [\"{}\"]\n{extra}",
            folder.join(INBOUND_SOCKET).display(),
            address
        );
        let daemon = Daemon::with_config(Database::Sqlite, folder, &config).await;
        Self {
            process: MilterProcess::inbound(&daemon).await,
            daemon,
            server,
            keys: Keys::new(),
        }
    }

    /// What the process has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.daemon.folder.join("inbound.log")).unwrap()
    }

    pub async fn client(&self) -> MilterClient {
        MilterClient::connect(&self.daemon.inbound_socket()).await
    }

    /// What is made of one message.
    pub async fn judge(&self, [client, helo, sender]: [&str; 3], message: &[u8]) -> Judged {
        let envelope = Envelope {
            client,
            helo,
            sender,
            recipients: &["scout@inboxd.test"],
        };
        self.client().await.judge(&envelope, message).await
    }
}

/// A message from this author.
pub fn letter(from: &str) -> String {
    format!(
        "From: {from}\r\nTo: scout@{DEFAULT_DOMAIN}\r\nSubject: a letter\r\nDate: Sat, 28 Nov 2026 12:00:00 +0000\r\n\
         MIME-Version: 1.0\r\n\r\nHello  there, \r\n\r\n.. dots\r\n\r\n"
    )
}

/// What a message was marked with: `spf=pass dkim=pass,fail dmarc=pass arc=none`.
pub fn said(judged: &Judged) -> String {
    let field = judged.field("Authentication-Results").expect("it is marked");
    let results = AuthenticationResults::parse(field.as_bytes()).unwrap();
    assert_eq!(results.id, HOST);
    let of = |method: &str| {
        let found: Vec<&str> = results
            .statements
            .iter()
            .filter(|statement| statement.method == method)
            .map(|statement| statement.result.as_str())
            .collect();
        if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(",")
        }
    };
    format!(
        "spf={} dkim={} dmarc={} arc={}",
        of("spf"),
        of("dkim"),
        of("dmarc"),
        of("arc")
    )
}
