//! One mail server alone in a container: its configuration rendered at each start, the server in the foreground, and a
//! certificate that may be replaced at any time.
//!
//! The server is given a copy of certificate and key, in the folder of the rendered configuration, which may be lost
//! with the container (a tmpfs). So it never reads one that is just being replaced: a pair is handed over when both
//! files are there and belong together, and the server is told to read it. Connections that are open stay open.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    files::{FileError, backdate, write_atomically},
    pair::{Pair, PairError},
    private::{Kind, StartError, installed_dovecot, installed_program},
    probe::Probe,
    process_group::end_group,
    queue::{self, QueueError},
    render::{MailPlane, RenderError},
    sieve::{self, SieveError},
    whole::{self, Listen, Premises, missing_table},
};
use crate::{clock::Clock, telemetry};

/// Postfix's `data_directory`: Debian's, where only its user may write.
const POSTFIX_DATA_DIR: &str = "/var/lib/postfix";
/// Time between two looks at the certificate.
const CERTIFICATE_LOOK_MS: u64 = 2_000;
/// How long the server's master has to stop; what it leaves is given as long. The container engine gives us 30 s.
const STOP_LIMIT_MS: u64 = 10_000;
/// Longest wait for one answer of a health check.
const CHECK_TIMEOUT_MS: u64 = 4_000;
/// `EX_NOUSER` of sysexits(3): what doveadm ends with when it was told that there is no such user.
const NO_SUCH_USER: i32 = 67;
/// A user that cannot be: there are no domains below `.invalid` (RFC 6761, 6.4).
const NOBODY: &str = "nobody@health.invalid";

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which server.
    pub server: Kind,
    /// Where its configuration is written: a folder that only root can write.
    pub dir: PathBuf,
    /// What it serves. Certificate and key are those that may be replaced; the path of the Lua script is not used.
    pub plane: MailPlane,
    /// Port of submission.
    pub submission_port: u16,
    /// Port of SMTP as other mail servers speak it.
    pub inbound_port: u16,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not installed, or is one that we cannot configure.
    #[error(transparent)]
    Installed(#[from] StartError),
    /// The configuration cannot be written in the servers' languages.
    #[error("write configuration")]
    Render(#[from] RenderError),
    /// A file could not be written.
    #[error("write configuration")]
    File(#[from] FileError),
    /// Postfix has no folders to work in.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The Sieve script could not be compiled.
    #[error(transparent)]
    Sieve(#[from] SieveError),
    /// Certificate and key cannot be used.
    #[error("use the certificate")]
    Certificate(#[from] PairError),
    /// A table that Postfix reads is missing: it would not start without.
    #[error("{} is missing: start inboxd first, which makes it", table.display())]
    MissingTable {
        /// The table.
        table: PathBuf,
    },
    /// It cannot be started, told or waited for.
    #[error("run {server}")]
    Process {
        /// Which server.
        server: Kind,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended without being asked to.
    #[error("{server} ended ({status}); what it said is above")]
    Ended {
        /// Which server.
        server: Kind,
        /// How.
        status: ExitStatus,
    },
}

/// Why a server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// A program of the server cannot be asked.
    #[error("run {program}")]
    Ask {
        /// The program.
        program: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program of the server says that it does not work.
    #[error("{program} ended with {status}: {said}")]
    Refused {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// A port does not greet.
    #[error("{purpose} on port {port} does not greet")]
    Silent {
        /// The port.
        port: u16,
        /// What for.
        purpose: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Settings {
    fn certificate(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// What the server is told with `-c`.
    fn configuration(&self) -> PathBuf {
        match self.server {
            Kind::Dovecot => self.premises().dovecot_conf(),
            Kind::Postfix => self.dir.clone(),
        }
    }

    fn premises(&self) -> Premises {
        Premises {
            dovecot_conf_dir: self.dir.clone(),
            dovecot_state_dir: self.dir.join("state"),
            dovecot_log: "/dev/stderr".into(),
            sessions_outlive_reload: true,
            postfix_conf_dir: self.dir.clone(),
            postfix_data_dir: POSTFIX_DATA_DIR.into(),
            postfix_log: "/dev/stdout".into(),
            listen: Listen::Everywhere,
            inbound_port: self.inbound_port,
        }
    }

    /// What the server serves, with the files that it is given.
    fn plane(&self) -> MailPlane {
        MailPlane {
            lua_script: self.dir.join("inboxd.lua"),
            tls_cert: self.certificate(),
            tls_key: self.key(),
            submission_service: Listen::Everywhere.service(self.submission_port),
            ..self.plane.clone()
        }
    }

    async fn write(&self, clock: &dyn Clock) -> Result<(), Error> {
        let (plane, premises) = (self.plane(), self.premises());
        let files = match self.server {
            Kind::Dovecot => whole::dovecot(installed_dovecot().await?, &plane, &premises)?,
            Kind::Postfix => {
                queue::prepare(&plane.queue_dir, &premises.postfix_data_dir)?;
                whole::postfix(&plane, &premises)?
            }
        };
        for file in files {
            write_atomically(&file.path, file.contents.as_bytes(), 0o644)?;
            backdate(&file.path, clock)?;
        }
        if self.server == Kind::Dovecot {
            sieve::compile(&premises.dovecot_conf(), &plane.sieve_script()).await?;
        }
        Ok(())
    }

    fn hand_over(&self, pair: &Pair) -> Result<(), FileError> {
        write_atomically(&self.key(), pair.key.as_bytes(), 0o600)?;
        write_atomically(&self.certificate(), pair.certificate.as_bytes(), 0o644)
    }

    fn process_error(&self, source: io::Error) -> Error {
        Error::Process {
            server: self.server,
            source,
        }
    }

    fn spawn(&self) -> Result<Child, Error> {
        // Standard output is the log of a container, and Dovecot has only the other one for its own.
        let log = io::stdout().as_fd().try_clone_to_owned();
        let log = log.map_err(|source| self.process_error(source))?;
        Command::new(installed_program(self.server)?)
            .arg(self.server.foreground())
            .arg("-c")
            .arg(self.configuration())
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::from(log))
            // Its children end with it: see `stop`.
            .process_group(0)
            .spawn()
            .map_err(|source| self.process_error(source))
    }

    fn tell(&self, leader: i32, signal: Signal) -> Result<(), Error> {
        match kill(Pid::from_raw(leader), signal) {
            // It has ended, which whoever waits for it hears.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(self.process_error(errno.into())),
        }
    }

    /// Stops the master and then the sessions that it leaves, which finish the command that they are at.
    async fn stop(&self, mut child: Child, leader: i32) -> Result<(), Error> {
        let server = self.server;
        self.tell(leader, Signal::SIGTERM)?;
        if let Ok(status) = timeout(Duration::from_millis(STOP_LIMIT_MS), child.wait()).await {
            let status = status.map_err(|source| self.process_error(source))?;
            tracing::info!(%server, %status, "stopped");
        } else {
            tracing::warn!(%server, "does not stop and is killed");
            child.kill().await.map_err(|source| self.process_error(source))?;
        }
        if let Err(pid) = end_group(leader).await {
            tracing::error!(%server, pid, "a process does not end");
        }
        Ok(())
    }
}

/// Runs the server until `stop` completes or it ends by itself, which is an error: starting it again is for whoever
/// runs the container.
pub async fn run(
    settings: &Settings,
    clock: &dyn Clock,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    if settings.server == Kind::Postfix
        && let Some(table) = missing_table(&settings.plane.maps_dir)
    {
        return Err(Error::MissingTable { table });
    }
    let source = (&*settings.plane.tls_cert, &*settings.plane.tls_key);
    let mut pair = Pair::read(source.0, source.1).await?;
    pair.check()?;
    settings.hand_over(&pair)?;
    settings.write(clock).await?;

    let server = settings.server;
    let mut child = settings.spawn()?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let leader = leader.ok_or_else(|| settings.process_error(io::ErrorKind::NotFound.into()))?;
    tracing::info!(%server, configuration = %settings.configuration().display(), "started");
    let mut stop = std::pin::pin!(stop);
    let mut looks = interval(Duration::from_millis(CERTIFICATE_LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is wrong with the files now, so that it is said once.
    let mut problem = String::new();
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|source| settings.process_error(source))?;
                return Err(Error::Ended { server, status });
            }
            () = &mut stop => break,
            _ = looks.tick() => {
                match changed(source, &pair).await {
                    Ok(None) => problem.clear(),
                    Ok(Some(new)) => {
                        settings.hand_over(&new)?;
                        settings.tell(leader, Signal::SIGHUP)?;
                        pair = new;
                        tracing::info!(%server, certificate = %source.0.display(), "uses another certificate from now on");
                    }
                    Err(error) => {
                        let text = telemetry::chain(&error);
                        if text != problem {
                            tracing::warn!(%server, error = text, "goes on with the certificate that it has");
                            problem = text;
                        }
                    }
                }
            }
        }
    }
    settings.stop(child, leader).await
}

/// The pair that is in the files now, if it is another one and complete.
async fn changed(source: (&Path, &Path), known: &Pair) -> Result<Option<Pair>, PairError> {
    let now = Pair::read(source.0, source.1).await?;
    if now == *known {
        return Ok(None);
    }
    now.check()?;
    Ok(Some(now))
}

/// Whether the server that [`run`] runs with the same settings does its work. For the container's health check.
pub async fn check(settings: &Settings) -> Result<(), Unhealthy> {
    let configuration = settings.configuration();
    match settings.server {
        Kind::Dovecot => {
            // The way of every login: authentication process, Lua script, folder of the entries.
            ask("doveadm", &configuration, &["user", NOBODY], NO_SUCH_USER).await?;
            let imaps = Probe::Imaps {
                port: settings.plane.imaps_port,
                certificate: settings.certificate(),
            };
            greets(&imaps, settings.plane.imaps_port, "IMAP").await
        }
        Kind::Postfix => {
            ask("postfix", &configuration, &["status"], 0).await?;
            for (port, purpose) in [
                (settings.submission_port, "submission"),
                (settings.inbound_port, "inbound SMTP"),
            ] {
                greets(&Probe::Smtp { port }, port, purpose).await?;
            }
            Ok(())
        }
    }
}

async fn ask(
    program: &'static str,
    configuration: &Path,
    arguments: &[&str],
    expected: i32,
) -> Result<(), Unhealthy> {
    let asked = Command::new(program)
        .arg("-c")
        .arg(configuration)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_millis(CHECK_TIMEOUT_MS), asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Unhealthy::Ask { program, source })?;
    if output.status.code() == Some(expected) {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Unhealthy::Refused {
        program,
        status: output.status,
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

async fn greets(probe: &Probe, port: u16, purpose: &'static str) -> Result<(), Unhealthy> {
    timeout(Duration::from_millis(CHECK_TIMEOUT_MS), probe.run())
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| Unhealthy::Silent {
            port,
            purpose,
            source,
        })
}
