//! No file descriptors left.

use std::{fs, process::Command};

use tokio::net::TcpStream;

use super::{CALLERS, SOME};
use crate::support::{
    callers::Callers,
    daemon::{Daemon, Database},
    wait::until,
};

/// Connections that nobody sends anything on; more than the daemon may open files.
const IDLE_CONNECTIONS: usize = 200;
/// How many more files than it has open the daemon may open.
const SPARE: usize = 40;

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Sets the highest number of files that a running process may have open, as `ulimit -n` does for one to come.
fn limit(pid: u32, files: usize) {
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={files}:{files}")])
        .output()
        .expect("apt-get install util-linux");
    assert!(limited.status.success(), "{limited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_descriptors_refuses_and_recovers_when_connections_go() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let callers = Callers::start(&acme, "files", CALLERS);
    callers.until_created(SOME).await;

    let most = open_files(daemon.pid()) + SPARE;
    limit(daemon.pid(), most);
    let address = daemon.base.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    // Those that are not accepted wait in the kernel.
    for _ in 0..IDLE_CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    until("every descriptor is taken", || async {
        let complaint = "cannot accept connections";
        (open_files(daemon.pid()) + 1 >= most && daemon.log().contains(complaint)).then_some(())
    })
    .await;
    callers.until_refused(SOME).await;
    drop(idle);
    callers.until_created(SOME).await;
    assert_eq!(daemon.api("").get("/healthz").await.status, 200);
    callers.assert_all_hold(&daemon).await;
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}
