//! The processes of one server: it is started as the leader of a process group of its own, so the group's number is the
//! master's process id, and it stays reserved while any of its processes lives.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::Instant;

/// How long processes have to end by themselves before they are killed.
pub(super) const TERM_LIMIT_MS: u64 = 10_000;
/// How long killed processes have to go away.
const KILL_LIMIT_MS: u64 = 5_000;
/// How often is looked whether they are gone.
const LOOK_INTERVAL_MS: u64 = 20;

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

/// Waits for processes to go, so long at the most.
pub(super) async fn wait_until_gone(limit_ms: u64, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    while is_there() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
    }
}

/// The processes of a group that have not ended. Zombies have: they only wait for somebody to ask how.
pub(super) fn group(leader: i32) -> Vec<i32> {
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
