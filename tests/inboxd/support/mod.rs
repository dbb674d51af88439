//! What tests start and talk to.

#[path = "../../support/api.rs"]
pub mod api;
pub mod daemon;
pub mod domains;
#[path = "../../support/inbox.rs"]
pub mod inbox;
#[path = "../../support/mail.rs"]
pub mod mail;
pub mod maps;
pub mod mount;
pub mod postgres;
pub mod service;
pub mod store;
#[path = "../../support/wait.rs"]
pub mod wait;
pub mod world;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

/// A folder of a test, removed at its end. Everybody may pass through it, as the mail servers' users must.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("inboxd-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Ports in a row that nobody listens on, and that no other test of this run is given. They lie below those that the
/// kernel hands out by itself (`ip_local_port_range`), so that no client takes one in between.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    const RANGE: std::ops::Range<u16> = 10_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at the same time begin at different places.
    let begin = u16::try_from(std::process::id() % 200).unwrap() * 100;
    for _ in 0..RANGE.len() {
        let offset =
            begin.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed)) % (RANGE.end - RANGE.start - count);
        let first = RANGE.start + offset;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free in {RANGE:?}");
}

/// Some such ports.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let count = u16::try_from(N).unwrap();
    let first = free_ports_in_a_row(count);
    std::array::from_fn(|index| first + u16::try_from(index).unwrap())
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
