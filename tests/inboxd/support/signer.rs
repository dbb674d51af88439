//! `inboxd signer`, as a process of its own.

use std::{
    fs,
    future::ready,
    os::unix::net::UnixStream,
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

/// The signer beside a daemon. It is killed when it is dropped.
#[derive(Debug)]
pub struct Signer(Child);

impl Signer {
    /// Starts it and waits until it can be connected to.
    pub async fn start(daemon: &Daemon) -> Self {
        let log = fs::File::create(daemon.folder.join("signer.log")).unwrap();
        let mut child = Command::new(INBOXD)
            .arg("signer")
            .arg("--config")
            .arg(&daemon.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = daemon.signer_socket();
        until("the signer listens", || {
            assert!(child.try_wait().unwrap().is_none(), "the signer ended");
            ready(UnixStream::connect(&socket).ok())
        })
        .await;
        Self(child)
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        kill(
            Pid::from_raw(i32::try_from(self.0.id()).unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
