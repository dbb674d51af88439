//! Processes of our servers that no supervisor owns, found and stopped.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{layout::Layout, server::Kind};
use crate::stack::process_group::{TERM_LIMIT_MS, end_group, group, wait_until_gone};

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
