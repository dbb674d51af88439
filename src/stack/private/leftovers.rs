//! Processes of our servers that no supervisor owns, found and stopped.
//!
//! Each server is started as the leader of a process group of its own, so the group's number is the master's process id,
//! and it stays reserved while any of its processes lives.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::time::Instant;

use super::{layout::Layout, server::Kind};

/// How long processes have to end by themselves before they are killed.
const TERM_LIMIT_MS: u64 = 10_000;
/// How long killed processes have to go away.
const KILL_LIMIT_MS: u64 = 5_000;
/// How often is looked whether they are gone.
const LOOK_INTERVAL_MS: u64 = 20;

/// Stops the server that an earlier run in this folder left; `Err` is a process that would not go.
pub(super) async fn stop(kind: Kind, layout: &Layout) -> Result<(), i32> {
    let pid_file = kind.pid_file(layout);
    let Some(leader) = fs::read_to_string(&pid_file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    else {
        return Ok(());
    };
    if is_master(leader, kind, layout) {
        tracing::warn!(server = %kind, pid = leader, "stopping a mail server that an earlier run left");
        // Only the master is told; it stops its own children.
        let _ = kill(Pid::from_raw(leader), Signal::SIGTERM);
        wait_until_gone(TERM_LIMIT_MS, || is_master(leader, kind, layout)).await;
        end_group(leader).await?;
    } else if group(leader).iter().any(|&pid| belongs_to(pid, layout)) {
        end_group(leader).await?;
    }
    // The number may belong to anybody by now, and Dovecot does not start while a process has it. A file that cannot be
    // removed is one that the server itself will complain about.
    let _ = fs::remove_file(&pid_file);
    Ok(())
}

/// Ends what is left of a process group, first kindly; `Err` is a process that would not go.
pub(super) async fn end_group(leader: i32) -> Result<(), i32> {
    for (signal, limit) in [(Signal::SIGTERM, TERM_LIMIT_MS), (Signal::SIGKILL, KILL_LIMIT_MS)] {
        if group(leader).is_empty() {
            return Ok(());
        }
        // Fails only when the group is gone meanwhile.
        let _ = killpg(Pid::from_raw(leader), signal);
        wait_until_gone(limit, || !group(leader).is_empty()).await;
    }
    group(leader).first().map_or(Ok(()), |&pid| Err(pid))
}

async fn wait_until_gone(limit_ms: u64, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    while is_there() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
    }
}

/// Whether this process is the server of this folder: its program's name, and our configuration among its arguments.
fn is_master(pid: i32, kind: Kind, layout: &Layout) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut arguments = line.split(|&byte| byte == 0);
    let program = arguments
        .next()
        .map(|program| Path::new(std::ffi::OsStr::from_bytes(program)));
    let configuration = kind.configuration(layout);
    program.and_then(Path::file_name) == Some(kind.program_name().as_ref())
        && arguments.any(|argument| argument == configuration.as_os_str().as_bytes())
}

/// Whether this process works in our folder, as both servers' children do.
fn belongs_to(pid: i32, layout: &Layout) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder.starts_with(layout.dir()))
}

/// The processes of a group that have not ended. Zombies have: they only wait for somebody to ask how.
fn group(leader: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return false;
        };
        // proc(5): pid (comm) state ppid pgrp ...; comm may hold anything, also parentheses.
        let Some((_, behind)) = stat.rsplit_once(')') else {
            return false;
        };
        let mut fields = behind.split_ascii_whitespace();
        let state = fields.next();
        let pgrp = fields.nth(1).and_then(|field| field.parse::<i32>().ok());
        pgrp == Some(leader) && !matches!(state, Some("Z" | "X"))
    })
    .collect()
}
