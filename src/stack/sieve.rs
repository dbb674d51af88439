//! The Sieve script that files messages to Junk, compiled: deliveries run as the owner of the mail, who may not write the
//! binary beside it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// Pigeonhole's compiler.
const SIEVEC: &str = "/usr/bin/sievec";
/// Longest wait for it.
const COMPILE_TIMEOUT_MS: u64 = 20_000;
/// The binary holds nothing secret, and is read by the owner of the mail.
const BINARY_MODE: u32 = 0o644;

/// There is no compiled script.
#[derive(Debug, thiserror::Error)]
pub enum SieveError {
    /// The compiler does not run.
    #[error("run {SIEVEC} (apt-get install dovecot-sieve)")]
    Run(#[source] io::Error),
    /// It refuses the script, or Dovecot's configuration.
    #[error("{SIEVEC} {} ended with {status}: {output}", script.display())]
    Refused {
        /// The script.
        script: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The binary cannot be made readable.
    #[error("set the mode of {}", path.display())]
    Mode {
        /// The binary.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Compiles a script for the Dovecot with this configuration file (sievec(1)).
pub(super) async fn compile(conf: &Path, script: &Path) -> Result<(), SieveError> {
    let ran = Command::new(SIEVEC)
        .arg("-c")
        .arg(conf)
        .arg(script)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_millis(COMPILE_TIMEOUT_MS), ran)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(SieveError::Run)?;
    if !output.status.success() {
        return Err(SieveError::Refused {
            script: script.to_owned(),
            status: output.status,
            output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
                .trim()
                .to_owned(),
        });
    }
    let path = script.with_extension("svbin");
    fs::set_permissions(&path, fs::Permissions::from_mode(BINARY_MODE))
        .map_err(|source| SieveError::Mode { path, source })
}
