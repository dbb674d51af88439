//! One supervised server: started, watched, started again when it dies, stopped with all its children.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::layout::Layout;
use crate::stack::{probe::Probe, process_group::end_group};

/// Longest wait until a started server answers.
const READY_TIMEOUT_MS: u64 = 20_000;
/// Longest wait for one answer.
const PROBE_TIMEOUT_MS: u64 = 5_000;
/// Time between two probes of a server that is starting.
const PROBE_INTERVAL_MS: u64 = 25;
/// How long a master has to stop with all its children.
const STOP_LIMIT_MS: u64 = 10_000;
/// A server that dies more often than this within [`DEATHS_WINDOW_SECONDS`] is given up.
const DEATHS_MAX: usize = 5;
/// See [`DEATHS_MAX`].
const DEATHS_WINDOW_SECONDS: u64 = 60;
/// Wait before the first restart; doubled with each further death in the window.
const BACKOFF_MS: u64 = 100;
/// How much of the log's end is looked at for an error.
const LOG_TAIL_OCTETS: u64 = 16 * 1024;
/// How many lines of it are quoted.
const LOG_TAIL_LINES: usize = 12;

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// IMAP, LMTP, authentication.
    Dovecot,
    /// SMTP.
    Postfix,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dovecot => "Dovecot",
            Self::Postfix => "Postfix",
        })
    }
}

impl Kind {
    pub(super) fn program_name(self) -> &'static str {
        match self {
            Self::Dovecot => "dovecot",
            Self::Postfix => "master",
        }
    }

    pub(super) fn pid_file(self, layout: &Layout) -> PathBuf {
        match self {
            Self::Dovecot => layout.dovecot_pid_file(),
            Self::Postfix => layout.postfix_pid_file(),
        }
    }

    /// What the server is told with `-c`.
    pub(super) fn configuration(self, layout: &Layout) -> PathBuf {
        match self {
            Self::Dovecot => layout.dovecot_conf(),
            Self::Postfix => layout.postfix_conf_dir(),
        }
    }

    fn log_file(self, layout: &Layout) -> PathBuf {
        match self {
            Self::Dovecot => layout.dovecot_log(),
            Self::Postfix => layout.postfix_log(),
        }
    }

    /// Stay in the foreground, with standard output and standard error as they are: `dovecot -F`; master(8) `-d`.
    pub(in crate::stack) fn foreground(self) -> &'static str {
        match self {
            Self::Dovecot => "-F",
            Self::Postfix => "-d",
        }
    }
}

/// A server that does not run, and the last it said.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {what}; the end of {}:\n{tail}", log.display())]
pub struct Failure {
    /// Which server.
    pub kind: Kind,
    /// What happened.
    pub what: String,
    /// Its log.
    pub log: PathBuf,
    /// The last lines of it since the start.
    pub tail: String,
    /// What the machine said, where it said something.
    #[source]
    pub source: Option<io::Error>,
}

/// A running server and its supervisor.
pub(super) struct Server {
    stop: watch::Sender<bool>,
    supervisor: JoinHandle<()>,
}

impl Server {
    /// Starts it and waits until it answers all probes. Dies too often later: `report`.
    pub(super) async fn start(recipe: Recipe, report: mpsc::Sender<Failure>) -> Result<Self, Failure> {
        let running = recipe.start().await?;
        let (stop, stopped) = watch::channel(false);
        let supervisor = tokio::spawn(supervise(recipe, running, stopped, report));
        Ok(Self { stop, supervisor })
    }

    /// Stops it with all its children, and waits for that.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the supervisor of a mail server ended before it");
        }
    }
}

async fn supervise(
    recipe: Recipe,
    mut running: Running,
    mut stopped: watch::Receiver<bool>,
    report: mpsc::Sender<Failure>,
) {
    let kind = recipe.kind;
    let mut deaths = VecDeque::new();
    loop {
        let status = tokio::select! {
            () = asked_to_stop(&mut stopped) => return running.stop(kind).await,
            status = running.child.wait() => status,
        };
        running.end_children(kind).await;

        let mut why = recipe.failure(
            running.log_start,
            format!("ended ({})", how(&status)),
            status.err(),
        );
        let next = loop {
            let now = Instant::now();
            deaths.push_back(now);
            while deaths
                .front()
                .is_some_and(|&death| now - death > Duration::from_secs(DEATHS_WINDOW_SECONDS))
            {
                deaths.pop_front();
            }
            if deaths.len() > DEATHS_MAX {
                why.what = format!(
                    "{} for the {}th time within {DEATHS_WINDOW_SECONDS} s and is not started again",
                    why.what,
                    deaths.len()
                );
                // Nobody listens when the stack is being stopped.
                let _ = report.send(why).await;
                return;
            }
            tracing::warn!(server = %kind, what = %why.what, "a mail server died and is started again");
            let wait = Duration::from_millis(BACKOFF_MS << (deaths.len() - 1).min(16));
            tokio::select! {
                () = asked_to_stop(&mut stopped) => return,
                () = sleep(wait) => {}
            }
            // Not interrupted by a stop: it has its own limit, and ends what it began.
            match recipe.start().await {
                Ok(next) => break next,
                Err(failure) => why = failure,
            }
        };
        running = next;
    }
}

/// Returns when the server should stop: told so, or because the stack was dropped.
async fn asked_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// How to start a server.
#[derive(Clone)]
pub(super) struct Recipe {
    kind: Kind,
    program: PathBuf,
    configuration: PathBuf,
    log: PathBuf,
    probes: Vec<Probe>,
}

/// A started server.
struct Running {
    child: Child,
    /// Process id of the master, number of its process group.
    leader: i32,
    /// Where in the log this run begins.
    log_start: u64,
}

impl Recipe {
    pub(super) fn new(kind: Kind, program: PathBuf, layout: &Layout, probes: Vec<Probe>) -> Self {
        Self {
            kind,
            program,
            configuration: kind.configuration(layout),
            log: kind.log_file(layout),
            probes,
        }
    }

    async fn start(&self) -> Result<Running, Failure> {
        let log_start = fs::metadata(&self.log).map_or(0, |log| log.len());
        let failure = |what: &str, source| self.failure(log_start, what.to_owned(), source);
        let mut running = self
            .spawn(log_start)
            .map_err(|source| failure("cannot be started", Some(source)))?;

        let deadline = Instant::now() + Duration::from_millis(READY_TIMEOUT_MS);
        for probe in &self.probes {
            loop {
                let answer = tokio::select! {
                    biased;
                    status = running.child.wait() => {
                        let what = format!("ended while it was starting ({})", how(&status));
                        running.end_children(self.kind).await;
                        return Err(failure(&what, status.err()));
                    }
                    answer = timeout(Duration::from_millis(PROBE_TIMEOUT_MS), probe.run()) => answer,
                };
                let problem = match answer {
                    Ok(Ok(())) => break,
                    Ok(Err(problem)) => problem,
                    Err(_) => io::ErrorKind::TimedOut.into(),
                };
                if Instant::now() >= deadline {
                    running.stop(self.kind).await;
                    let what = format!("does not answer within {READY_TIMEOUT_MS} ms");
                    return Err(failure(&what, Some(problem)));
                }
                sleep(Duration::from_millis(PROBE_INTERVAL_MS)).await;
            }
        }
        Ok(running)
    }

    fn spawn(&self, log_start: u64) -> io::Result<Running> {
        // What is said before the log is open, mistakes in the configuration for example, goes to the same place.
        let log = super::open_log(&self.log)?;
        let child = Command::new(&self.program)
            .arg(self.kind.foreground())
            .arg("-c")
            .arg(&self.configuration)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            // Ctrl-C in a terminal goes to us alone, and the group is what is stopped as a whole.
            .process_group(0)
            .spawn()?;
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Running {
            child,
            leader,
            log_start,
        })
    }

    fn failure(&self, log_start: u64, what: String, source: Option<io::Error>) -> Failure {
        let tail = tail(&self.log, log_start).unwrap_or_else(|error| format!("(cannot be read: {error})"));
        Failure {
            kind: self.kind,
            what,
            log: self.log.clone(),
            tail,
            source,
        }
    }
}

impl Running {
    /// Tells the master to stop and waits until nothing is left of it and its children.
    async fn stop(mut self, kind: Kind) {
        // Fails only when the master has ended by itself.
        let _ = kill(Pid::from_raw(self.leader), Signal::SIGTERM);
        if timeout(Duration::from_millis(STOP_LIMIT_MS), self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!(server = %kind, "a mail server does not stop and is killed");
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
        self.end_children(kind).await;
    }

    /// Waits until the children of a master that has ended are gone.
    async fn end_children(&self, kind: Kind) {
        if let Err(pid) = end_group(self.leader).await {
            tracing::error!(server = %kind, pid, "a process of a mail server does not end");
        }
    }
}

impl Drop for Running {
    /// A start that was cancelled, or a stack that was dropped: tells the master to stop its children and itself, which
    /// nobody waits for.
    fn drop(&mut self) {
        if self.child.id().is_some() {
            // Fails only when the master has ended by itself.
            let _ = kill(Pid::from_raw(self.leader), Signal::SIGTERM);
        }
    }
}

fn how(status: &io::Result<ExitStatus>) -> String {
    status
        .as_ref()
        .map_or_else(|_| "unknown how".to_owned(), ToString::to_string)
}

/// The last lines of a log since a position in it.
fn tail(log: &Path, since: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    // A log that became shorter was rotated: all of it is new.
    let since = if length < since { 0 } else { since };
    file.seek(SeekFrom::Start(since.max(length.saturating_sub(LOG_TAIL_OCTETS))))?;
    let mut text = Vec::new();
    file.take(LOG_TAIL_OCTETS).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_of_this_run_and_short() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines = (0..100)
            .map(|line| format!("line {line}"))
            .collect::<Vec<_>>()
            .join("\n");
        fs::write(&log, format!("old\n{lines}")).unwrap();
        let quoted = tail(&log, 4).unwrap();
        assert_eq!(quoted.lines().count(), LOG_TAIL_LINES);
        assert!(quoted.ends_with("line 99"));
        let all = u64::try_from(lines.len() + 4).unwrap();
        assert_eq!(tail(&log, all).unwrap(), "");
    }
}
