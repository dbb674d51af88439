//! What tests start and talk to.

#[path = "../../support/api.rs"]
pub mod api;
#[path = "../../support/attempt.rs"]
pub mod attempt;
pub mod callers;
pub mod daemon;
#[path = "../../support/dns.rs"]
pub mod dns;
pub mod dns_relay;
pub mod domains;
#[path = "../../support/inbox.rs"]
pub mod inbox;
#[path = "../../support/mail.rs"]
pub mod mail;
pub mod maps;
pub mod milter_client;
pub mod milters;
pub mod mount;
#[path = "../../support/ports.rs"]
pub mod ports;
pub mod postgres;
pub mod service;
pub mod shim;
#[path = "../../support/show.rs"]
pub mod show;
pub mod sink;
pub mod store;
#[path = "../../support/wait.rs"]
pub mod wait;
pub mod world;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

pub use ports::{free_ports, free_ports_in_a_row};

use self::mount::SmallDisk;

/// The most that a folder in memory takes.
const IN_MEMORY_SIZE: &str = "256m";

/// A folder of a test, removed at its end. Everybody may pass through it, as the mail servers' users must.
#[derive(Debug)]
pub struct Folder {
    // Before the folder: it is unmounted, then the folder removed.
    _memory: Option<SmallDisk>,
    dir: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("inboxd-test-").tempdir().unwrap();
        Self::open_to_all(folder)
    }

    /// One inside another folder, such as that of a file system of the test's own.
    pub fn inside(parent: &Path) -> Self {
        Self::open_to_all(
            tempfile::Builder::new()
                .prefix("inboxd-")
                .tempdir_in(parent)
                .unwrap(),
        )
    }

    fn open_to_all(folder: tempfile::TempDir) -> Self {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            _memory: None,
            dir: folder,
        }
    }

    /// One in memory, for a test that flushes very often and cuts no power.
    pub fn in_memory() -> Self {
        let folder = Self::new();
        Self {
            _memory: Some(SmallDisk::at(folder.path(), IN_MEMORY_SIZE)),
            ..folder
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The processes that work in a folder or were told of it.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !is_process {
            continue;
        }
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if inside || line.contains(&*folder.to_string_lossy()) {
            found.push(format!("{} {line}", entry.file_name().display()));
        }
    }
    found
}

/// The last lines of a log, for a test that fails.
pub fn end_of(log: &str) -> String {
    const LINES_SHOWN: usize = 60;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}
