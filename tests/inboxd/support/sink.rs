//! A mail server somewhere else that takes everything, and what others make of the mail that it got.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tokio::net::TcpStream;

use super::{Folder, free_ports, mail::HOST, wait::until};

/// Postfix's own, smtp-sink(1). It belongs to the package of Postfix.
const SMTP_SINK: &str = "/usr/sbin/smtp-sink";
/// What `make test` installs to judge signed mail.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier/bin/python");
const VERIFY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier/verify.py");

/// A server that keeps each message in a file.
pub struct Sink {
    folder: Folder,
    pub port: u16,
    child: Child,
}

/// A message as it arrived: the envelope in fields that the sink puts in front of it, `X-Mail-Args` and others.
#[derive(Debug)]
pub struct Received {
    pub path: PathBuf,
    pub text: String,
}

impl Sink {
    pub async fn start() -> Self {
        let folder = Folder::new();
        let [port] = free_ports();
        // It gives up being root.
        let inbox = folder.join("messages");
        fs::create_dir(&inbox).unwrap();
        fs::set_permissions(&inbox, fs::Permissions::from_mode(0o777)).unwrap();
        let child = Command::new(SMTP_SINK)
            .args(["-u", "nobody", "-d", "messages/%M."])
            .args([format!("{HOST}:{port}"), "100".to_owned()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("apt-get install postfix");
        until("the sink listens", || async {
            TcpStream::connect((HOST, port)).await.ok()
        })
        .await;
        Self { folder, port, child }
    }

    /// Waits for the message with this in it.
    pub async fn receive(&self, text: &str) -> Received {
        until(&format!("the sink gets a message with {text:?}"), || {
            std::future::ready(self.find(text))
        })
        .await
    }

    /// The message with this in it, if it has arrived. The sink writes a message as it comes: its last line says that it
    /// is whole.
    pub fn find(&self, text: &str) -> Option<Received> {
        let messages = fs::read_dir(self.folder.join("messages")).unwrap();
        messages.into_iter().find_map(|entry| {
            let path = entry.unwrap().path();
            let octets = fs::read(&path).unwrap();
            let found = String::from_utf8_lossy(&octets).into_owned();
            (found.contains(text) && found.contains(LAST_LINE)).then_some(Received { path, text: found })
        })
    }
}

/// Ends every message that is sent to a sink.
pub const LAST_LINE: &str = "-- end --";

impl Drop for Sink {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Received {
    /// What dkimpy and checkdmarc say of it, asking this name server.
    pub fn judged(&self, name_server: SocketAddr, sender: &str) -> Value {
        assert!(Path::new(PYTHON).exists(), "run scripts/install-verifier first");
        let output = Command::new(PYTHON)
            .arg(VERIFY)
            .arg(name_server.port().to_string())
            .arg(&self.path)
            .args([HOST, sender])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.text
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }
}
