//! A private Dovecot and Postfix in one folder: what `inboxd dev` runs.
//!
//! Everything of it is below that folder: configuration, sockets, queue, logs, mail. It listens on 127.0.0.1 only, and
//! no mail leaves it, unless it is told of a host that takes what is for others. It needs root, because mail servers change users, and Debian's packages of both.
//!
//! ```text
//! tls/                 CA and certificate             mail/<inbox id>/Maildir
//! dovecot/             configuration, Lua, key        run/, state/   Dovecot's base_dir and state_dir
//! postfix/             configuration                  queue/, data/  Postfix's queue_directory and data_directory
//! log/dovecot.log      log/postfix.log                stack.lock     held while a stack runs
//! ```

mod layout;
mod leftovers;
mod server;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, sync::mpsc};

use self::{
    layout::PrepareError,
    server::{Recipe, Server},
};
pub use self::{
    layout::{FolderProblem, Layout, check_folder},
    server::{Failure, Kind},
};
use super::{
    probe::Probe,
    render::{DovecotVersion, Postmaster, Reach, Sessions, UnsupportedVersion},
    sieve::{self, SieveError},
    tls::Certificates,
    whole::missing_table,
};
use crate::clock::{Clock, Entropy};

/// Most sessions at a time, unless it is said otherwise: what a usual limit of 1024 open files per process allows.
pub const DEFAULT_SESSIONS: Sessions = Sessions {
    imap: 600,
    imap_per_inbox: 50,
    submission: 300,
    submission_per_address: 250,
    smtp_idle_s: 60,
};
/// Longest wait for `dovecot --version`.
const VERSION_TIMEOUT_MS: u64 = 10_000;

/// Mode of the folder of logs, which name who mails whom.
pub const LOG_DIR_MODE: u32 = 0o700;
/// Mode of each log.
const LOG_MODE: u32 = 0o600;

/// Opens a log to be appended to, for its owner alone, whatever it was before.
pub fn open_log(path: &Path) -> io::Result<File> {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(LOG_MODE)
        .open(path)?;
    log.set_permissions(fs::Permissions::from_mode(LOG_MODE))?;
    Ok(log)
}

/// The ports of a private stack, all on 127.0.0.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// IMAP over TLS.
    pub imaps: u16,
    /// Submission with STARTTLS.
    pub submission: u16,
    /// SMTP as other servers speak it.
    pub inbound: u16,
}

/// What a private stack is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder, which exists and passed [`check_folder`].
    pub dir: PathBuf,
    /// The folder of the maps; all four Postfix tables must be in it before the start.
    pub maps_dir: PathBuf,
    /// The name that the servers greet with, also in the certificate.
    pub hostname: String,
    /// Sender of what Dovecot itself would send.
    pub postmaster_address: String,
    /// Who gets the mail for postmaster and abuse.
    pub postmaster: Postmaster,
    /// Where to listen.
    pub ports: Ports,
    /// The socket of a signer that runs beside it; none: nothing is signed.
    pub signer_socket: Option<PathBuf>,
    /// The socket of a milter beside it that judges arriving mail; none: nothing is judged.
    pub inbound_socket: Option<PathBuf>,
    /// URL of what slows password guessing down; none: nothing does.
    pub login_policy_url: Option<String>,
    /// How many sessions there can be.
    pub sessions: Sessions,
    /// Whom submitted messages may go to.
    pub reach: Reach,
    /// Largest message in octets.
    pub message_size_limit: u64,
}

/// Why the stack is not running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot hold a stack.
    #[error("use {} for a private mail stack", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: FolderProblem,
    },
    /// Another process runs a stack in this folder.
    #[error("another process runs the mail stack in {}", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// We are not root.
    #[error(
        "a private Dovecot and Postfix must be started by root: they change to the users of their packages"
    )]
    NotRoot,
    /// A program is missing.
    #[error("{program} is not installed: apt-get install {packages}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's packages.
        packages: &'static str,
    },
    /// `dovecot --version` failed.
    #[error("ask Dovecot for its version")]
    AskVersion(#[source] io::Error),
    /// We do not know how to configure this Dovecot.
    #[error("configure Dovecot")]
    Version(#[from] UnsupportedVersion),
    /// A table that Postfix reads is missing: it would not start without.
    #[error("{} is missing: publish the maps before the mail stack is started", table.display())]
    MissingTable {
        /// The table.
        table: PathBuf,
    },
    /// Files or folders could not be made.
    #[error("prepare {}", dir.display())]
    Prepare {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: PrepareError,
    },
    /// The Sieve script could not be compiled.
    #[error(transparent)]
    Sieve(#[from] SieveError),
    /// Servers of an earlier run do not go away.
    #[error("stop what an earlier run left in {}: process {pid} does not end", dir.display())]
    Leftover {
        /// The folder.
        dir: PathBuf,
        /// The process.
        pid: i32,
    },
    /// A port is taken.
    #[error("listen on 127.0.0.1:{port} for {purpose}")]
    Port {
        /// The port.
        port: u16,
        /// What for.
        purpose: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A server did not come up.
    #[error(transparent)]
    Server(#[from] Failure),
}

/// A running private stack.
///
/// [`PrivateStack::stop`] it: when it is only dropped, the servers are told to stop, but nobody waits for that, and what
/// is left of them is stopped by the next start in the same folder.
pub struct PrivateStack {
    layout: Layout,
    certificates: Certificates,
    version: DovecotVersion,
    /// None while it is taken down.
    dovecot: Option<Server>,
    /// None while it is taken down.
    postfix: Option<Server>,
    dovecot_recipe: Recipe,
    postfix_recipe: Recipe,
    report: mpsc::Sender<Failure>,
    failures: mpsc::Receiver<Failure>,
    /// Keeps other processes from starting a stack in the same folder.
    _lock: File,
}

impl PrivateStack {
    /// Writes the configuration, stops what a killed earlier run left, starts both servers, and returns when they answer.
    pub async fn start(
        settings: &Settings,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, StartError> {
        let folder_problem = |source| StartError::Folder {
            dir: settings.dir.clone(),
            source,
        };
        check_folder(&settings.dir).map_err(folder_problem)?;
        if !nix::unistd::Uid::effective().is_root() {
            return Err(StartError::NotRoot);
        }
        let layout = Layout::of(&settings.dir).map_err(folder_problem)?;
        let lock = lock(&layout)?;
        let dovecot = installed_program(Kind::Dovecot)?;
        let master = installed_program(Kind::Postfix)?;
        let version = ask_version(&dovecot).await?;
        if let Some(table) = missing_table(&settings.maps_dir) {
            return Err(StartError::MissingTable { table });
        }

        stop_servers_of(&layout).await?;
        let certificates = layout
            .prepare(settings, version, clock, entropy)
            .map_err(|source| StartError::Prepare {
                dir: layout.dir().to_owned(),
                source,
            })?;
        sieve::compile(&layout.dovecot_conf(), &layout.sieve_script()).await?;
        check_ports(settings.ports)?;

        let (report, failures) = mpsc::channel(2);
        let imaps = Probe::Imaps {
            port: settings.ports.imaps,
            certificate: certificates.server_cert.clone(),
        };
        let smtp = [settings.ports.submission, settings.ports.inbound].map(|port| Probe::Smtp { port });
        let dovecot_recipe = Recipe::new(Kind::Dovecot, dovecot, &layout, vec![imaps]);
        let postfix_recipe = Recipe::new(Kind::Postfix, master, &layout, smtp.into());
        let dovecot = Server::start(dovecot_recipe.clone(), report.clone()).await?;
        let postfix = match Server::start(postfix_recipe.clone(), report.clone()).await {
            Ok(postfix) => postfix,
            Err(failure) => {
                dovecot.stop().await;
                return Err(failure.into());
            }
        };
        Ok(Self {
            layout,
            certificates,
            version,
            dovecot: Some(dovecot),
            postfix: Some(postfix),
            dovecot_recipe,
            postfix_recipe,
            report,
            failures,
            _lock: lock,
        })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The CA for clients to trust, and the servers' certificate.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Which Dovecot this is.
    pub fn dovecot_version(&self) -> DovecotVersion {
        self.version
    }

    /// Waits until a server died so often that it is not started again. Both still have to be stopped.
    pub async fn failed(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // The sender is ours, so it is never gone.
            None => std::future::pending().await,
        }
    }

    /// Stops one of the servers, as an operator would for maintenance, until [`PrivateStack::bring_up`].
    pub async fn take_down(&mut self, kind: Kind) {
        let server = match kind {
            Kind::Dovecot => self.dovecot.take(),
            Kind::Postfix => self.postfix.take(),
        };
        if let Some(server) = server {
            server.stop().await;
        }
    }

    /// Starts a server that was taken down, and returns when it answers.
    pub async fn bring_up(&mut self, kind: Kind) -> Result<(), Failure> {
        let (server, recipe) = match kind {
            Kind::Dovecot => (&mut self.dovecot, &self.dovecot_recipe),
            Kind::Postfix => (&mut self.postfix, &self.postfix_recipe),
        };
        if server.is_none() {
            *server = Some(Server::start(recipe.clone(), self.report.clone()).await?);
        }
        Ok(())
    }

    /// Stops both servers; when it returns, no process of either is left.
    pub async fn stop(mut self) {
        // Postfix first, so that no delivery finds Dovecot gone and waits for a retry.
        self.take_down(Kind::Postfix).await;
        self.take_down(Kind::Dovecot).await;
    }
}

/// Stops the servers that a killed earlier run left in this folder. Nobody may be running a stack there now.
pub async fn stop_leftovers(dir: &Path) -> Result<(), StartError> {
    let layout = Layout::of(dir).map_err(|source| StartError::Folder {
        dir: dir.to_owned(),
        source,
    })?;
    let _lock = lock(&layout)?;
    stop_servers_of(&layout).await
}

async fn stop_servers_of(layout: &Layout) -> Result<(), StartError> {
    for kind in [Kind::Postfix, Kind::Dovecot] {
        leftovers::stop(kind, layout)
            .await
            .map_err(|pid| StartError::Leftover {
                dir: layout.dir().to_owned(),
                pid,
            })?;
    }
    Ok(())
}

const DOVECOT_PLACES: &[&str] = &["/usr/sbin/dovecot"];
const DOVECOT_PACKAGES: &str = "dovecot-imapd dovecot-lmtpd dovecot-auth-lua";
const MASTER_PLACES: &[&str] = &[
    "/usr/lib/postfix/sbin/master",
    "/usr/libexec/postfix/master",
    "/usr/lib/postfix/master",
];
const POSTFIX_PACKAGES: &str = "postfix postfix-lmdb";

fn lock(layout: &Layout) -> Result<File, StartError> {
    let path = layout.lock_file();
    let failed = |source| StartError::Lock {
        path: path.clone(),
        source,
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StartError::InUse {
            dir: layout.dir().to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The program of a server that is installed.
pub(super) fn installed_program(kind: Kind) -> Result<PathBuf, StartError> {
    match kind {
        Kind::Dovecot => installed("dovecot", DOVECOT_PLACES, DOVECOT_PACKAGES),
        Kind::Postfix => installed("Postfix's master", MASTER_PLACES, POSTFIX_PACKAGES),
    }
}

fn installed(program: &'static str, places: &[&str], packages: &'static str) -> Result<PathBuf, StartError> {
    let found = places.iter().map(Path::new).find(|place| place.is_file());
    found
        .map(Path::to_owned)
        .ok_or(StartError::Missing { program, packages })
}

/// The version of the Dovecot that is installed.
pub async fn installed_dovecot() -> Result<DovecotVersion, StartError> {
    ask_version(&installed_program(Kind::Dovecot)?).await
}

async fn ask_version(dovecot: &Path) -> Result<DovecotVersion, StartError> {
    let asked = Command::new(dovecot).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_millis(VERSION_TIMEOUT_MS), asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(StartError::AskVersion)?;
    Ok(DovecotVersion::parse(&String::from_utf8_lossy(&output.stdout))?)
}

/// A server that is in the way of ours would answer our probes.
fn check_ports(ports: Ports) -> Result<(), StartError> {
    let wanted = [
        (ports.imaps, "IMAP"),
        (ports.submission, "submission"),
        (ports.inbound, "inbound SMTP"),
    ];
    for (port, purpose) in wanted {
        std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|source| StartError::Port {
            port,
            purpose,
            source,
        })?;
    }
    Ok(())
}
