//! `inboxd signer` and `inboxd inbound`, as processes of their own.

use std::{
    fs,
    future::ready,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    daemon::{Daemon, INBOXD},
    wait::until,
};

/// A milter beside a daemon. It is killed when it is dropped.
#[derive(Debug)]
pub struct MilterProcess(Child);

impl MilterProcess {
    /// Starts what signs submitted mail.
    pub async fn signer(daemon: &Daemon) -> Self {
        Self::start(daemon, "signer", &daemon.signer_socket()).await
    }

    /// Starts what judges arriving mail.
    pub async fn inbound(daemon: &Daemon) -> Self {
        Self::start(daemon, "inbound", &daemon.inbound_socket()).await
    }

    /// Starts it and waits until it can be connected to.
    async fn start(daemon: &Daemon, command: &str, socket: &Path) -> Self {
        let log = daemon.folder.join(&format!("{command}.log"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let mut child = Command::new(INBOXD)
            .arg(command)
            .arg("--config")
            .arg(&daemon.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        until(&format!("inboxd {command} listens"), || {
            assert!(child.try_wait().unwrap().is_none(), "inboxd {command} ended");
            ready(UnixStream::connect(socket).ok())
        })
        .await;
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    /// Stops its process where it is, or lets it go on.
    pub fn hang(&self, hangs: bool) {
        let signal = if hangs { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(self.pid(), signal).unwrap();
    }

    /// Octets of memory that it holds now, and held at most.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
            kib * 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for MilterProcess {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
