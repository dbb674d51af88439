//! A second daemon on a store that has one.

use std::process::{Command, Output};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::support::{
    Folder,
    daemon::{Daemon, Database, INBOXD},
    free_ports,
    postgres::Server,
    wait::{LIMIT, until},
};

/// Starts a second daemon on the store of the first, with maps of its own, and waits for its end.
async fn second(daemon: &Daemon) -> Output {
    let [api, metrics] = free_ports();
    let mut command = tokio::process::Command::from(Command::new(INBOXD));
    command
        .args(["serve", "--config"])
        .arg(&daemon.config)
        .args(["--set", &format!("api.listen=127.0.0.1:{api}")])
        .args(["--set", &format!("metrics.listen=127.0.0.1:{metrics}")])
        .args([
            "--set",
            &format!("maps.dir={}", daemon.folder.join("other-maps").display()),
        ])
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, command.output());
    ended.await.expect("it runs").unwrap()
}

/// Fails unless a second daemon is refused, before it writes anything.
async fn assert_second_is_refused(daemon: &Daemon) {
    let refused = second(daemon).await;
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("it is already used by another inboxd: stop it first"),
        "{complaint}"
    );
    assert!(!daemon.folder.join("other-maps").exists(), "it wrote maps");
    let made = daemon.tenant("Acme").await.post("/v1/inboxes", &json!({})).await;
    assert_eq!(made.status, 201, "{made:?}");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_store_is_refused_whatever_its_maps() {
    for database in Database::ALL {
        // Shown only if the test fails.
        println!("on {database:?}");
        let mut daemon = Daemon::start(database).await;
        assert_second_is_refused(&daemon).await;
        // The lock goes with its process, however that ends.
        daemon.kill();
        daemon.up().await;
        assert_second_is_refused(&daemon).await;
        daemon.stop().await;
        daemon.up().await;
    }
}

/// The sessions that have or want an advisory lock of this number.
async fn holders(connection: &mut PgConnection) -> i64 {
    let text = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1::bigint & 4294967295";
    sqlx::query_scalar(text)
        .bind(ADVISORY_LOCK)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// The number in the documentation: "inboxd" in ASCII.
const ADVISORY_LOCK: i64 = 0x696e_626f_7864;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_on_postgresql_is_taken_again_after_a_restart_or_the_daemon_ends() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let mut daemon = Daemon::on_store(server.new_database().await, Folder::new(), "").await;
    let server = tokio::task::spawn_blocking(|| server.crash().start_again())
        .await
        .unwrap();
    let url = daemon.store_url.clone();
    until("the lock is taken again", || async {
        let mut looking = PgConnection::connect(&url).await.unwrap();
        (holders(&mut looking).await == 1).then_some(())
    })
    .await;
    assert_second_is_refused(&daemon).await;

    // Somebody is faster.
    let server = tokio::task::spawn_blocking(|| server.crash().start_again())
        .await
        .unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let is_faster: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(ADVISORY_LOCK)
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert!(
        is_faster,
        "the daemon was faster, which it looks for every two seconds only"
    );
    assert_eq!(daemon.ended().await.code(), Some(1), "{}", daemon.log());
    assert!(
        daemon.log().contains("it is already used by another inboxd"),
        "{}",
        daemon.log()
    );
    other.close().await.unwrap();
    daemon.up().await;
    daemon.stop().await;
    tokio::task::spawn_blocking(|| drop(server.crash()))
        .await
        .unwrap();
}
