//! What a service manager such as systemd is told, on a socket of the test's own: `sd_notify(3)`.

use std::{collections::VecDeque, fs, path::PathBuf, process::Command};

use inboxd::store::Db;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{net::UnixDatagram, time::timeout};

use crate::support::{
    Folder,
    api::Api,
    daemon::{Daemon, Database, INBOXD},
    free_ports,
    wait::LIMIT,
};

/// What the manager asks for: a sign of life at least this often, in microseconds.
const WATCHDOG_USEC: &str = "200000";
/// Signs of life that are waited for.
const SIGNS: usize = 3;

/// The end of the socket that a service manager listens on.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.join("notify");
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            path,
            _folder: folder,
        }
    }

    /// From the next start on, the daemon is told of it.
    fn supervises(&self, daemon: &mut Daemon) {
        daemon.environment = vec![
            ("NOTIFY_SOCKET", self.path.clone().into()),
            ("WATCHDOG_USEC", WATCHDOG_USEC.into()),
        ];
    }

    /// The assignments of the next datagram.
    async fn next(&self) -> VecDeque<String> {
        let mut buffer = [0; 4096];
        let octets = timeout(LIMIT, self.socket.recv(&mut buffer))
            .await
            .expect("a datagram in time")
            .unwrap();
        let text = std::str::from_utf8(&buffer[..octets]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next datagram that has this assignment, and those before it.
    async fn until(&self, assignment: &str) -> (VecDeque<String>, Vec<VecDeque<String>>) {
        let mut before = Vec::new();
        loop {
            let told = self.next().await;
            if told.iter().any(|line| line == assignment) {
                return (told, before);
            }
            before.push(told);
        }
    }

    /// Waits for signs of life, and returns everything that was told meanwhile.
    async fn signs_of_life(&self) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..SIGNS {
            let (sign, before) = self.until("WATCHDOG=1").await;
            told.extend(before.into_iter().flatten().chain(sign));
        }
        told
    }

    /// Everything that was told until now and not yet read.
    async fn left(&self) -> Vec<String> {
        const END: &str = "END";
        let own = UnixDatagram::unbound().unwrap();
        own.send_to(END.as_bytes(), &self.path).await.unwrap();
        self.until(END).await.1.into_iter().flatten().collect()
    }
}

/// A daemon that was there before and is stopped, with one inbox.
async fn stopped_daemon() -> (Daemon, Api) {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let made = acme.post("/v1/inboxes", &json!({"username": "ada"})).await;
    assert_eq!(made.status, 201);
    assert!(daemon.stop().await.success());
    (daemon, acme)
}

#[tokio::test]
async fn ready_is_told_when_the_maps_are_right_and_the_api_answers() {
    let (mut daemon, acme) = stopped_daemon().await;
    let entry = daemon.maps().join("passdb/inboxd.test/ada");
    fs::remove_file(&entry).unwrap();
    let manager = Manager::new();
    manager.supervises(&mut daemon);
    daemon.spawn();

    let (ready, before) = manager.until("READY=1").await;
    assert!(entry.exists(), "it was ready with wrong maps");
    // No second try: who waited for the service may call it.
    let made = acme.post("/v1/inboxes", &json!({"username": "bob"})).await;
    assert_eq!(made.status, 201);
    let status = format!(
        "STATUS=API on {}, default domain inboxd.test",
        daemon.base.strip_prefix("http://").unwrap()
    );
    assert_eq!(ready, ["READY=1", &status]);
    assert_eq!(
        before[0],
        ["STATUS=opening the store and comparing the maps with it"]
    );

    // No mail servers run here, and that is no reason to keep silent.
    let alive = manager.signs_of_life().await;
    assert_eq!(alive, ["WATCHDOG=1"; SIGNS]);

    daemon.signal(Signal::SIGTERM);
    let (stopping, before) = manager.until("STOPPING=1").await;
    assert_eq!(
        stopping,
        ["STOPPING=1", "STATUS=answering what was accepted before the stop"]
    );
    assert!(before.iter().flatten().all(|line| line == "WATCHDOG=1"));
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn a_store_that_does_not_answer_delays_ready_and_stops_no_sign_of_life() {
    let (mut daemon, acme) = stopped_daemon().await;
    let store = Db::open_sqlite(&daemon.folder.join("inboxd.db")).await.unwrap();
    let manager = Manager::new();
    manager.supervises(&mut daemon);

    let held = store.write().await.unwrap();
    daemon.spawn();
    let told = manager.signs_of_life().await;
    assert!(!told.contains(&"READY=1".to_owned()), "{told:?}");
    let extensions = told.iter().filter(|line| *line == "EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(extensions.count(), SIGNS, "start-up may take longer: {told:?}");
    drop(held);
    manager.until("READY=1").await;

    let held = store.write().await.unwrap();
    let body = json!({"username": "bob"});
    let (told, made) = tokio::join!(
        async {
            let told = manager.signs_of_life().await;
            drop(held);
            told
        },
        acme.post("/v1/inboxes", &body)
    );
    assert_eq!(made.status, 201);
    assert_eq!(told, ["WATCHDOG=1"; SIGNS], "only start-up may take longer");
}

#[tokio::test]
async fn a_start_that_fails_is_never_told_as_ready() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let manager = Manager::new();
    let [api, metrics] = free_ports();
    let second = |more: &str| {
        Command::new(INBOXD)
            .args(["serve", "--config"])
            .arg(&daemon.config)
            .args(["--set", &format!("api.listen=127.0.0.1:{api}")])
            .args(["--set", &format!("metrics.listen=127.0.0.1:{metrics}")])
            .args(["--set", more])
            .env("NOTIFY_SOCKET", &manager.path)
            .output()
            .unwrap()
    };
    let refused = second("log.filter=info");
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        complaint.contains("already used by another inboxd"),
        "{complaint}"
    );
    assert_eq!(refused.status.code(), Some(1), "another try may succeed");
    let told = manager.left().await;
    assert!(
        !told.is_empty() && !told.contains(&"READY=1".to_owned()),
        "{told:?}"
    );

    let refused = second("service.default_domain=");
    assert_eq!(
        refused.status.code(),
        Some(78),
        "no other try will: {:?}",
        String::from_utf8_lossy(&refused.stderr)
    );
    assert_eq!(manager.left().await, [""; 0]);
}

#[tokio::test]
async fn a_manager_that_has_gone_is_no_reason_to_stop() {
    let (mut daemon, acme) = stopped_daemon().await;
    let manager = Manager::new();
    manager.supervises(&mut daemon);
    drop(manager);
    daemon.up().await;
    let made = acme.post("/v1/inboxes", &json!({"username": "bob"})).await;
    assert_eq!(made.status, 201);
    let log = daemon.log();
    assert!(
        log.contains("cannot tell the service manager (NOTIFY_SOCKET)"),
        "{log}"
    );
    assert!(daemon.stop().await.success());
}
