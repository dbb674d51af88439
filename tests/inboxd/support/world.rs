//! Everything for real: a private Dovecot and Postfix, and the daemon beside them.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
};

use futures_util::FutureExt as _;
use inboxd::{
    clock::{Clock as _, Machine},
    mail::doveadm::Doveadm,
    stack::{
        PrivateStack, Settings, key,
        private::{Kind, Layout, Ports},
        tls,
    },
};
use serde_json::json;

use super::{
    Folder,
    api::{Answer, Api},
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    free_ports,
    mail::Mail,
};

/// The name that the mail servers greet with.
pub const HOSTNAME: &str = "mail.inboxd.test";
/// Largest message, in octets.
pub const MESSAGE_MAX_OCTETS: u64 = 1_000_000;

/// A daemon, its mail servers, and clients of both.
pub struct World {
    pub daemon: Daemon,
    pub mail: Mail,
    pub stack: PrivateStack,
    pub layout: Layout,
}

/// An inbox as its creator knows it.
#[derive(Clone, Debug)]
pub struct Inbox {
    pub id: String,
    pub email: String,
    pub password: String,
    /// Its `ak_` key.
    pub key: String,
}

impl Inbox {
    /// From a 201.
    pub fn of(created: &Answer) -> Self {
        assert_eq!(created.status, 201, "{created:?}");
        Self {
            id: created.id().to_owned(),
            email: created.text("canonicalEmail").to_owned(),
            password: created.text("imapPassword").to_owned(),
            key: created.text("apiKey").to_owned(),
        }
    }

    /// Its address with a detail behind the local part.
    pub fn with_detail(&self, detail: &str) -> String {
        let (local_part, domain) = self.email.split_once('@').unwrap();
        format!("{local_part}+{detail}@{domain}")
    }
}

/// Creates an inbox with this name.
pub async fn create(tenant: &Api, username: &str) -> Inbox {
    let created = tenant.post("/v1/inboxes", &json!({ "username": username })).await;
    let inbox = Inbox::of(&created);
    assert_eq!(inbox.email, format!("{username}@{DEFAULT_DOMAIN}"));
    inbox
}

impl World {
    /// Runs a test in a world of its own. The mail servers are stopped also when the test fails.
    pub async fn run(test: impl AsyncFnOnce(&mut Self)) {
        Self::run_on(Database::Sqlite, test).await;
    }

    /// The same with a store on this database.
    pub async fn run_on(database: Database, test: impl AsyncFnOnce(&mut Self)) {
        let mut world = Self::start(database).await;
        let outcome = AssertUnwindSafe(Box::pin(test(&mut world))).catch_unwind().await;
        let Self { stack, layout, .. } = world;
        stack.stop().await;
        if let Err(panic) = outcome {
            for log in [layout.dovecot_log(), layout.postfix_log()] {
                let lines = fs::read_to_string(&log).unwrap_or_default();
                eprintln!("--- end of {} ---\n{}", log.display(), super::end_of(&lines));
            }
            // The daemon's own log is shown when it is dropped.
            resume_unwind(panic);
        }
        assert_eq!(
            layout_processes(&layout),
            Vec::<String>::new(),
            "processes are left"
        );
    }

    async fn start(database: Database) -> Self {
        let folder = Folder::new();
        let layout = Layout::of(folder.path()).unwrap();
        for dir in ["tls", "dovecot"] {
            fs::DirBuilder::new()
                .mode(0o755)
                .create(folder.join(dir))
                .unwrap();
        }
        let certificates = tls::ensure(&layout.tls_dir(), &[HOSTNAME], Machine.now()).unwrap();
        let [imaps, submission, inbound] = free_ports();
        let (uid, gid) = layout.mail_owner();
        let config = format!(
            r#"
            imap.host = "127.0.0.1"
            imap.port = {imaps}
            smtp.host = "127.0.0.1"
            smtp.port = {submission}
            mx.host = "127.0.0.1"
            mx.port = {inbound}
            tls.ca_file = "{ca}"
            mail.root = "{root}"
            mail.uid = {uid}
            mail.gid = {gid}
            dovecot.base_dir = "{base}"
            dovecot.doveadm_key_file = "{key}"
            "#,
            ca = certificates.ca_cert.display(),
            root = layout.mail_root().display(),
            base = layout.doveadm_socket().parent().unwrap().display(),
            key = layout.doveadm_key_file().display(),
        );
        // The daemon first: Postfix does not start without the tables that it makes.
        let daemon = Daemon::with_config(database, folder, &config).await;
        let ports = Ports {
            imaps,
            submission,
            inbound,
        };
        let settings = Settings {
            dir: layout.dir().to_owned(),
            maps_dir: daemon.maps(),
            hostname: HOSTNAME.to_owned(),
            postmaster_address: format!("postmaster@{DEFAULT_DOMAIN}"),
            ports,
            message_size_limit: MESSAGE_MAX_OCTETS,
        };
        let stack = PrivateStack::start(&settings, &Machine, &Machine).await;
        let stack = stack.unwrap_or_else(|error| panic!("{}", inboxd::telemetry::chain(&error)));
        Self {
            mail: Mail::new(&certificates.ca_cert, ports).await,
            daemon,
            stack,
            layout,
        }
    }

    /// A new tenant, as a client with its key.
    pub async fn tenant(&self, name: &str) -> Api {
        self.daemon.tenant(name).await
    }

    /// An inbox of a tenant of its own.
    pub async fn inbox(&self, username: &str) -> Inbox {
        create(&self.tenant(username).await, username).await
    }

    /// Stops a mail server.
    pub async fn take_down(&mut self, kind: Kind) {
        self.stack.take_down(kind).await;
    }

    /// Starts it again; returns when it answers.
    pub async fn bring_up(&mut self, kind: Kind) {
        self.stack.bring_up(kind).await.unwrap();
    }

    /// A client of Dovecot's administration socket.
    pub fn doveadm(&self) -> Doveadm {
        let key = key::ensure(&self.layout.doveadm_key_file(), &Machine).unwrap();
        Doveadm::new(&self.layout.doveadm_socket(), &key).unwrap()
    }

    /// Where an inbox's mail lies.
    pub fn home(&self, inbox: &Inbox) -> PathBuf {
        self.layout.mail_root().join(&inbox.id)
    }

    /// The files of the messages in an inbox.
    pub fn messages(&self, inbox: &Inbox) -> Vec<PathBuf> {
        let maildir = self.home(inbox).join("Maildir");
        ["new", "cur"]
            .iter()
            .filter_map(|part| fs::read_dir(maildir.join(part)).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// The maps: every file that the mail servers read, with its mode and contents. LMDB's lock files are none.
    pub fn maps(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.daemon.maps()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    folders.push(path);
                } else if !path.to_string_lossy().ends_with("-lock") {
                    let contents = fs::read(&path).unwrap();
                    found.push((path, metadata.permissions().mode(), contents));
                }
            }
        }
        found.sort();
        found
    }
}

/// The processes that work in a stack's folder.
fn layout_processes(layout: &Layout) -> Vec<String> {
    super::processes_of(layout.dir())
        .into_iter()
        // The daemon outlives the stack by a moment.
        .filter(|process| !process.contains("inboxd serve"))
        .collect()
}
