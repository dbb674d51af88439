//! What the figures were measured on.

use std::{fmt, fs, path::Path, process::Command, thread};

use inboxd::clock::{self, Clock as _};
use serde_json::{Value, json};

/// The machine, its software, and the moment.
pub struct Machine(Vec<(&'static str, String)>);

impl Machine {
    /// Looks at everything that the figures depend on. Data lies in this folder.
    pub fn look(folder: &Path) -> Self {
        let cores = thread::available_parallelism().unwrap();
        let file_system = file_system(folder);
        assert!(
            !["tmpfs", "ramfs", "devtmpfs"].contains(&&*file_system),
            "{} is on {file_system}, where a flush costs nothing: set TMPDIR to a folder on a disk",
            folder.display()
        );
        Self(vec![
            ("date", clock::Machine.now().to_string()),
            ("inboxd_commit", commit()),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("cpu", field("/proc/cpuinfo", "model name")),
            ("cores", cores.to_string()),
            ("memory", field("/proc/meminfo", "MemTotal")),
            ("file_system", file_system),
            ("dovecot", said("dovecot", &["--version"])),
            ("postfix", said("postconf", &["-dh", "mail_version"])),
            ("load_average_before", read("/proc/loadavg")),
        ])
    }

    pub fn json(&self) -> Value {
        self.0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, value)| writeln!(f, "- {}: {value}", name.replace('_', " ")))
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// The first `name : value` of a file.
fn field(file: &str, name: &str) -> String {
    let text = read(file);
    let found = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == name);
    found.map_or("unknown", |(_, value)| value.trim()).to_owned()
}

/// The type of the file system that a folder lies on: the last mount on the longest mount point above it.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap();
    let mounts = read("/proc/mounts");
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    above.max_by_key(|(length, _)| *length).unwrap().1.to_owned()
}

/// The commit that this was built from, and whether anything differs from it.
fn commit() -> String {
    said(
        "git",
        &[
            "-C",
            env!("CARGO_MANIFEST_DIR"),
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
        ],
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
