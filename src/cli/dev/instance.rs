//! One `inboxd dev` a folder: which process it is, how to start it in the background, how to stop it.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{process::Command, time::Instant};

use super::{Failure, Source, folder, print};
use crate::stack::private;

/// Holds the process id while the process lives, and then the word [`READY`].
const PID_FILE: &str = "inboxd.pid";
/// Written behind the process id when everything answers.
const READY: &str = "ready";
/// How long everything may take to come up in the background.
const START_TIMEOUT_MS: u64 = 120_000;
/// How long everything may take to stop: the daemon drains for up to 35 seconds.
const STOP_TIMEOUT_MS: u64 = 90_000;
/// Time between two looks.
const LOOK_INTERVAL_MS: u64 = 50;
/// Lines of the log that are shown when the start fails.
const LOG_LINES_SHOWN: usize = 20;

/// The right to run in a folder; let go when the process ends.
pub(super) struct Instance {
    pid_file: File,
}

impl Instance {
    /// Claims the folder, unless another process has it.
    pub(super) fn claim(dir: &Path) -> Result<Self, Failure> {
        let mut pid_file = open(&dir.join(PID_FILE))?;
        if is_taken(&pid_file)? {
            return Err(format!(
                "inboxd dev runs in {} already; stop it with: inboxd dev --stop",
                dir.display()
            )
            .into());
        }
        pid_file.set_len(0)?;
        pid_file.rewind()?;
        writeln!(pid_file, "{}", std::process::id())?;
        Ok(Self { pid_file })
    }

    /// Everything answers.
    pub(super) fn ready(&self) -> Result<(), Failure> {
        Ok(writeln!(&self.pid_file, "{READY}")?)
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path);
    Ok(opened.map_err(|error| format!("open {}: {error}", path.display()))?)
}

/// Whether another process holds the file's lock; if none did, we do now.
fn is_taken(pid_file: &File) -> Result<bool, Failure> {
    match pid_file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(format!("lock the process id file: {error}").into()),
    }
}

/// Starts it in the background and returns when it is ready.
pub(super) async fn detach(dir: &Path, source: &Source) -> Result<(), Failure> {
    let pid_file = dir.join(PID_FILE);
    {
        let probe = open(&pid_file)?;
        if is_taken(&probe)? {
            return Err(format!("inboxd dev runs in {} already", dir.display()).into());
        }
        // What an earlier one wrote is not to be taken for this one's.
        probe.set_len(0)?;
    }
    let log_dir = dir.join("log");
    folder::make(&log_dir, private::LOG_DIR_MODE)?;
    let log_path = log_dir.join("inboxd.log");
    let log = private::open_log(&log_path)?;
    let begins_at = usize::try_from(log.metadata()?.len())?;

    let mut command = Command::new(env::current_exe()?);
    command.args(["dev", "--detached"]).env("INBOXD_DEV_DIR", dir);
    if let Some(config) = &source.config {
        command.arg("--config").arg(config);
    }
    for set in &source.set {
        command.arg("--set").arg(set);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let deadline = Instant::now() + Duration::from_millis(START_TIMEOUT_MS);
    loop {
        if fs::read_to_string(&pid_file)?.lines().any(|line| line == READY) {
            return print(&format!(
                "inboxd dev runs in the background; its log is {}. Stop it with: inboxd dev --stop\n\
                 Keys and addresses are in {}\n",
                log_path.display(),
                dir.join(super::BOOTSTRAP_FILE).display()
            ));
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("it did not start ({status}):\n{}", end_of(&log_path, begins_at)).into());
        }
        if Instant::now() > deadline {
            child.start_kill()?;
            return Err(format!(
                "it was not ready within {START_TIMEOUT_MS} ms:\n{}",
                end_of(&log_path, begins_at)
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
    }
}

fn end_of(log: &Path, begins_at: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(begins_at..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// Whether a process has not ended. A zombie has: it only waits for its parent to ask how.
fn is_running(pid: i32) -> bool {
    // proc(5): pid (comm) state ...; comm may hold anything, also parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, behind)| !behind.trim_start().starts_with(['Z', 'X']))
}

/// Stops the one that runs in this folder, and mail servers that a killed one left.
pub(super) async fn stop(wanted: &Path) -> Result<(), Failure> {
    let dir: PathBuf =
        fs::canonicalize(wanted).map_err(|error| format!("nothing runs in {}: {error}", wanted.display()))?;
    let path = dir.join(PID_FILE);
    let pid_file = open(&path)?;
    if is_taken(&pid_file)? {
        let text = fs::read_to_string(&path)?;
        let pid: i32 = text
            .lines()
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|_| format!("{} holds no process id", path.display()))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| format!("stop process {pid}: {errno}"))?;
        let deadline = Instant::now() + Duration::from_millis(STOP_TIMEOUT_MS);
        // The process lets go of the folder shortly before it ends.
        while is_taken(&pid_file)? || is_running(pid) {
            if Instant::now() > deadline {
                return Err(format!("process {pid} did not end within {STOP_TIMEOUT_MS} ms").into());
            }
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
        print("stopped\n")?;
    } else {
        print(&format!("nothing runs in {}\n", dir.display()))?;
    }
    Ok(private::stop_leftovers(&dir).await?)
}
