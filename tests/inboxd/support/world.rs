//! Everything for real: a private Dovecot and Postfix, and the daemon beside them.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    process::Output,
};

use futures_util::FutureExt as _;
use inboxd::{
    clock::{Clock as _, Machine},
    mail::doveadm::Doveadm,
    model::address::Address,
    stack::{
        PrivateStack, Settings, key,
        private::{self, Kind, Layout, Ports},
        render::{Postmaster, Reach, Sessions},
        tls,
    },
};
use tokio::process::Command;

use super::{
    Folder,
    api::Api,
    daemon::{DEFAULT_DOMAIN, Daemon, Database, INBOUND_SOCKET, INBOXD, LOGIN_POLICY_KEY},
    free_ports,
    inbox::{Inbox, StoredMessage, deferrals},
    mail::{HOST, Mail, Servers},
    maps::VERIFIED_PASSWORDS,
    milters::MilterProcess,
};

/// The name that the mail servers greet with.
pub const HOSTNAME: &str = "mail.inboxd.test";
/// Largest message, in octets.
pub const MESSAGE_MAX_OCTETS: u64 = 1_000_000;

/// A daemon, its mail servers, and clients of both.
pub struct World {
    pub daemon: Daemon,
    pub mail: Mail,
    pub layout: Layout,
    settings: Settings,
    /// None while both servers are gone, not stopped one by one.
    stack: Option<PrivateStack>,
    signer: Option<MilterProcess>,
    inbound: Option<MilterProcess>,
}

impl World {
    /// Runs a test in a world of its own. The mail servers are stopped also when the test fails.
    pub async fn run(test: impl AsyncFnOnce(&mut Self)) {
        Self::run_on(Database::Sqlite, test).await;
    }

    /// The same with a store on this database.
    pub async fn run_on(database: Database, test: impl AsyncFnOnce(&mut Self)) {
        Self::run_in(Folder::new(), database, "", test).await;
    }

    /// The same with more keys for the daemon.
    pub async fn run_with(extra: &str, test: impl AsyncFnOnce(&mut Self)) {
        let world = Self::start(Folder::new(), Database::Sqlite, extra, Reach::OwnDomains).await;
        world.run_started(test).await;
    }

    /// The same, and Dovecot asks the daemon about logins.
    pub async fn run_with_login_policy(extra: &str, test: impl AsyncFnOnce(&mut Self)) {
        let [port] = free_ports();
        let extra = format!("{LOGIN_POLICY_KEY} = \"{HOST}:{port}\"\n{extra}");
        Self::run_with(&extra, test).await;
    }

    /// The same, and what is for other domains goes to a server on this port.
    pub async fn run_with_relay(extra: &str, port: u16, test: impl AsyncFnOnce(&mut Self)) {
        let host = HOST.to_owned();
        let reach = Reach::Relay { host, port };
        let world = Self::start(Folder::new(), Database::Sqlite, extra, reach).await;
        world.run_started(test).await;
    }

    /// The same, and arriving mail is judged, by what this name server says.
    pub async fn run_judging(server: SocketAddr, extra: &str, test: impl AsyncFnOnce(&mut Self)) {
        let folder = Folder::new();
        let config = format!(
            "inbound.socket = \"{}\"\ninbound.authserv_id = \"{HOSTNAME}\"\ndns.servers = [\"{server}\"]\n{extra}",
            folder.join(INBOUND_SOCKET).display()
        );
        Self::run_in(folder, Database::Sqlite, &config, test).await;
    }

    /// The same in this folder, on this database, with more keys for the daemon.
    pub async fn run_in(folder: Folder, database: Database, extra: &str, test: impl AsyncFnOnce(&mut Self)) {
        let world = Self::start(folder, database, extra, Reach::OwnDomains).await;
        world.run_started(test).await;
    }

    async fn run_started(self, test: impl AsyncFnOnce(&mut Self)) {
        let mut world = self;
        let outcome = AssertUnwindSafe(Box::pin(test(&mut world))).catch_unwind().await;
        world.stop_mail_servers().await;
        world.stop_signer();
        world.stop_inbound();
        let Self { layout, .. } = world;
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

    async fn start(folder: Folder, database: Database, extra: &str, reach: Reach) -> Self {
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
            imap.host = "{HOST}"
            imap.port = {imaps}
            smtp.host = "{HOST}"
            smtp.port = {submission}
            mx.host = "{HOST}"
            mx.port = {inbound}
            tls.ca_file = "{ca}"
            mail.root = "{root}"
            mail.uid = {uid}
            mail.gid = {gid}
            dovecot.base_dir = "{base}"
            dovecot.doveadm_key_file = "{key}"
            {extra}
            "#,
            ca = certificates.ca_cert.display(),
            root = layout.mail_root().display(),
            base = layout.doveadm_socket().parent().unwrap().display(),
            key = layout.doveadm_key_file().display(),
        );
        let judges = extra.contains("inbound.socket");
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
            postmaster: Postmaster::Inbox(format!("postmaster@{DEFAULT_DOMAIN}")),
            ports,
            signer_socket: Some(daemon.signer_socket()),
            inbound_socket: judges.then(|| daemon.inbound_socket()),
            login_policy_url: extra.lines().find_map(|line| {
                let listen = line.trim().strip_prefix(LOGIN_POLICY_KEY)?;
                Some(format!("http://{}/", listen.trim_matches([' ', '=', '"'])))
            }),
            sessions: Sessions {
                // Longer than sessions of a test stay open, however busy the machine is.
                smtp_idle_s: 300,
                ..private::DEFAULT_SESSIONS
            },
            reach,
            message_size_limit: MESSAGE_MAX_OCTETS,
        };
        let mut world = Self {
            mail: Mail::new(Servers {
                host: HOST.to_owned(),
                hostname: HOSTNAME.to_owned(),
                ports,
                ca_file: certificates.ca_cert,
            })
            .await,
            daemon,
            layout,
            settings,
            stack: None,
            signer: None,
            inbound: None,
        };
        world.start_signer().await;
        if judges {
            world.start_inbound().await;
        }
        world.start_mail_servers().await;
        world
    }

    /// Starts both mail servers on what is in the folder.
    pub async fn start_mail_servers(&mut self) {
        assert!(self.stack.is_none(), "they run already");
        let started = PrivateStack::start(&self.settings, &Machine, &Machine).await;
        self.stack = Some(started.unwrap_or_else(|error| panic!("{}", inboxd::telemetry::chain(&error))));
    }

    /// Stops both, until nothing of them is left.
    pub async fn stop_mail_servers(&mut self) {
        if let Some(stack) = self.stack.take() {
            stack.stop().await;
        }
    }

    /// Starts the signer, which the mail servers do without.
    pub async fn start_signer(&mut self) {
        assert!(self.signer.is_none(), "it runs already");
        self.signer = Some(MilterProcess::signer(&self.daemon).await);
    }

    /// Stops it, as an operator would.
    pub fn stop_signer(&mut self) {
        if let Some(signer) = self.signer.take() {
            signer.stop();
        }
    }

    /// Starts what judges arriving mail.
    pub async fn start_inbound(&mut self) {
        assert!(self.inbound.is_none(), "it runs already");
        self.inbound = Some(MilterProcess::inbound(&self.daemon).await);
    }

    /// Stops it, as an operator would.
    pub fn stop_inbound(&mut self) {
        if let Some(inbound) = self.inbound.take() {
            inbound.stop();
        }
    }

    /// What judges arriving mail.
    pub fn inbound(&self) -> &MilterProcess {
        self.inbound.as_ref().expect("it runs")
    }

    fn stack(&mut self) -> &mut PrivateStack {
        self.stack.as_mut().expect("the mail servers run")
    }

    /// A name in this world, where no other test makes any.
    #[expect(clippy::unused_self, reason = "in another world, names depend on the test")]
    pub fn name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// The domain of inboxes that name none.
    #[expect(clippy::unused_self, reason = "another world has to ask")]
    pub fn domain(&self) -> &str {
        DEFAULT_DOMAIN
    }

    /// A caller with a super admin's key.
    pub fn operator(&self) -> Api {
        self.daemon.api(&self.daemon.super_admin)
    }

    /// `inboxd verify`, as an operator runs it.
    pub async fn verify(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(INBOXD);
        command
            .arg("verify")
            .args(arguments)
            .arg("--config")
            .arg(&self.daemon.config);
        command.kill_on_drop(true).output().await.unwrap()
    }

    /// Stops a mail server.
    pub async fn take_down(&mut self, kind: Kind) {
        self.stack().take_down(kind).await;
    }

    /// Starts it again; returns when it answers.
    pub async fn bring_up(&mut self, kind: Kind) {
        self.stack().bring_up(kind).await.unwrap();
    }

    /// Whether anybody is logged in to an inbox over IMAP. Asked of Dovecot, which counts a session until it is gone.
    pub async fn has_session(&self, inbox: &Inbox) -> bool {
        let key = key::ensure(&self.layout.doveadm_key_file(), &Machine).unwrap();
        let doveadm = Doveadm::new(&self.layout.doveadm_socket(), &key).unwrap();
        let login = Address::parse(&inbox.email).unwrap();
        let connected = doveadm.is_connected(&login).await.unwrap();
        connected.expect("Dovecot runs")
    }

    /// The owner of all mail: user and group.
    pub fn mail_owner(&self) -> (u32, u32) {
        self.layout.mail_owner()
    }

    /// The files of the messages in an inbox.
    #[expect(clippy::unused_async, reason = "in another world, somebody has to be asked")]
    pub async fn messages(&self, inbox: &Inbox) -> Vec<StoredMessage> {
        let maildir = self.layout.mail_root().join(&inbox.id).join("Maildir");
        ["new", "cur"]
            .iter()
            .filter_map(|part| fs::read_dir(maildir.join(part)).ok())
            .flatten()
            .map(|entry| {
                let path = entry.unwrap().path();
                let metadata = path.metadata().unwrap();
                StoredMessage {
                    path: path.display().to_string(),
                    uid: metadata.uid(),
                    gid: metadata.gid(),
                }
            })
            .collect()
    }

    /// Deliveries to an inbox that Postfix put off.
    #[expect(clippy::unused_async, reason = "in another world, somebody has to be asked")]
    pub async fn deferrals(&self, inbox: &Inbox) -> Vec<String> {
        let log = fs::read_to_string(self.layout.postfix_log()).unwrap();
        deferrals(&log, inbox)
    }

    /// The maps: every file that the mail servers read, with its mode and contents. LMDB's lock files are none, and what
    /// Dovecot's workers hand passwords over with says nothing.
    pub fn maps(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.daemon.maps()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if path.ends_with(VERIFIED_PASSWORDS) {
                    continue;
                }
                if metadata.is_dir() {
                    folders.push(path);
                } else if metadata.is_file() && !path.to_string_lossy().ends_with("-lock") {
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
