//! `inboxd serve`, as a process of its own.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use inboxd::maps::Layout;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    Folder,
    api::Api,
    free_ports, postgres,
    wait::{LIMIT, until},
};

/// The program under test.
pub const INBOXD: &str = env!("CARGO_BIN_EXE_inboxd");
/// The domain of inboxes that name none.
pub const DEFAULT_DOMAIN: &str = "inboxd.test";

/// The name of the signer's socket in the folder.
const SIGNER_SOCKET: &str = "signer.sock";
/// The name of the socket of what judges arriving mail.
pub const INBOUND_SOCKET: &str = "inbound.sock";

/// The key that says where Dovecot asks about logins.
pub const LOGIN_POLICY_KEY: &str = "login_policy.listen";

/// Which database a daemon uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    /// The URL of a new, empty database; an SQLite file is made in the folder.
    pub async fn url(self, folder: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite:{}", folder.join("inboxd.db").display()),
            Self::Postgres => postgres::new_database().await,
        }
    }
}

/// A daemon and its folder. Without mail servers, unless [`Daemon::with_config`] is told of some.
#[derive(Debug)]
pub struct Daemon {
    pub folder: Folder,
    pub config: PathBuf,
    pub store_url: String,
    /// `http://127.0.0.1:port`
    pub base: String,
    /// `http://127.0.0.1:port/metrics`
    pub metrics: String,
    /// A super admin key.
    pub super_admin: String,
    /// What its environment holds beside the test's own, from the next start on.
    pub environment: Vec<(&'static str, OsString)>,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon with a database of its own, ready.
    pub async fn start(database: Database) -> Self {
        Self::with_config(database, Folder::new(), "").await
    }

    /// The same in a folder that is there, with more keys: TOML, appended to what the test needs anyway. A section that
    /// is repeated must repeat whole keys only once, so the extra text should name sections that are not used below.
    pub async fn with_config(database: Database, folder: Folder, extra: &str) -> Self {
        let store_url = database.url(folder.path()).await;
        Self::on_store(store_url, folder, extra).await
    }

    /// The same on a store with this URL.
    pub async fn on_store(store_url: String, folder: Folder, extra: &str) -> Self {
        let [api, metrics] = free_ports();
        let dir = folder.path().display();
        let config = folder.join("inboxd.toml");
        let text = format!(
            r#"
            api.listen = "127.0.0.1:{api}"
            metrics.listen = "127.0.0.1:{metrics}"
            service.default_domain = "{DEFAULT_DOMAIN}"
            store.url = "{store_url}"
            store.sealing_key_file = "{dir}/sealing.key"
            maps.dir = "{dir}/maps"
            {extra}
            "#
        );
        // Keys that the extra text sets win over ours.
        let mine = [
            ("dovecot.base_dir", "run"),
            ("dovecot.doveadm_key_file", "doveadm.key"),
            ("tls.private_ca_dir", "private-ca"),
            ("signer.socket", SIGNER_SOCKET),
        ]
        .map(|(key, name)| {
            if extra.contains(key) {
                String::new()
            } else {
                format!("{key} = \"{dir}/{name}\"\n")
            }
        });
        // Without a Dovecot there is nothing to see new logins through.
        let barrier = if extra.contains("dovecot.base_dir") || extra.contains("publish.barrier") {
            ""
        } else {
            "publish.barrier = \"off\"\n"
        };
        // Arriving mail is judged only in the worlds that are about that: others have no DNS.
        let inbound = if extra.contains("inbound.socket") {
            ""
        } else {
            "inbound.socket = \"\"\n"
        };
        // Dovecot asks about logins only in the worlds that are about that.
        let login_policy = if extra.contains(LOGIN_POLICY_KEY) {
            ""
        } else {
            "login_policy.listen = \"\"\n"
        };
        fs::write(&config, text + &mine.concat() + barrier + inbound + login_policy).unwrap();
        let created = Command::new(INBOXD)
            .args(["keys", "create", "--super-admin", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(
            created.status.success(),
            "{}",
            String::from_utf8_lossy(&created.stderr)
        );
        let mut daemon = Self {
            config,
            store_url,
            base: format!("http://127.0.0.1:{api}"),
            metrics: format!("http://127.0.0.1:{metrics}/metrics"),
            super_admin: String::from_utf8(created.stdout).unwrap().trim().to_owned(),
            folder,
            environment: Vec::new(),
            child: None,
        };
        daemon.up().await;
        daemon
    }

    /// Starts it (again) and waits until it answers.
    pub async fn up(&mut self) {
        self.spawn();
        assert!(self.comes_up().await, "the daemon ended:\n{}", self.log());
    }

    /// Waits until it answers, or has ended instead.
    pub async fn comes_up(&self) -> bool {
        let http = reqwest::Client::new();
        until("the daemon answers", || async {
            if !self.is_running() {
                return Some(false);
            }
            let answer = http.get(format!("{}/healthz", self.base)).send().await.ok()?;
            answer.status().is_success().then_some(true)
        })
        .await
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let mut command = Command::new(INBOXD);
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        self.child = Some(
            command
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    /// The value of a metric, labels included in its name; none if there is no such one yet.
    pub async fn metric<T: FromStr>(&self, name: &str) -> Option<T> {
        let text = reqwest::get(&self.metrics).await.unwrap().text().await.unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// What its parts answer, as the metrics' listener says it to operators: the status and the body.
    pub async fn readiness(&self, parts: &str) -> (u16, Value) {
        let url = self.metrics.replace("/metrics", "/readyz");
        let answer = reqwest::get(format!("{url}{parts}")).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// A command with this daemon's configuration, as an operator runs it: its exit status, and what it printed on both
    /// outputs.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = tokio::process::Command::new(INBOXD);
        command.args(arguments).arg("--config").arg(&self.config);
        let output = command.kill_on_drop(true).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT + LIMIT;
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the daemon did not end:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A client that calls with this key.
    pub fn api(&self, key: &str) -> Api {
        Api::new(&self.base, key)
    }

    /// A new tenant: a client with its key.
    pub async fn tenant(&self, name: &str) -> Api {
        self.api(&self.super_admin).tenant(name).await
    }

    pub fn log_file(&self) -> PathBuf {
        self.folder.join("inboxd.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where its signer listens, if one runs.
    pub fn signer_socket(&self) -> PathBuf {
        self.folder.join(SIGNER_SOCKET)
    }

    /// Where arriving mail is judged, if it is.
    pub fn inbound_socket(&self) -> PathBuf {
        self.folder.join(INBOUND_SOCKET)
    }

    /// The folder of its maps.
    pub fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    /// Where its maps are and who reads them, by its configuration.
    pub fn maps_layout(&self) -> Layout {
        let written = inboxd::config::read(Some(&self.config), std::iter::empty(), &[]).unwrap();
        written.check().unwrap().maps_layout().unwrap()
    }

    /// `inboxd` with a command and this daemon's configuration, given this on standard input.
    pub fn run(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
        let mut child = Command::new(INBOXD)
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_owned();
        // A command that ends before it has read everything is judged by what it says.
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        drop(writing.join().unwrap());
        output
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Whether its process is there and has not ended.
    pub fn is_running(&self) -> bool {
        // try_wait needs the child for itself; signal 0 asks without touching.
        let pid = self
            .child
            .as_ref()
            .map(|child| i32::try_from(child.id()).unwrap());
        pid.is_some_and(|pid| {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- end of the daemon's log ---\n{}", super::end_of(&self.log()));
        }
    }
}
