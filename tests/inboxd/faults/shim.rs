//! The tool of the other tests here does what they rely on.

use nix::errno::Errno;
use serde_json::json;

use crate::support::{
    daemon::{Daemon, Database},
    shim::{Action, CONNECT, FLUSH, Fault, LOCK, NAME, OPEN, READ, Shim, WRITE},
};

async fn rig() -> (Daemon, Shim) {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    let shim = Shim::new(daemon.folder.path());
    daemon.stop().await;
    daemon.environment.extend(shim.environment());
    daemon.up().await;
    (daemon, shim)
}

#[tokio::test]
async fn a_step_of_each_kind_is_found_and_named() {
    let (daemon, shim) = rig().await;
    let acme = daemon.tenant("Acme").await;
    for (kinds, word) in [
        (OPEN, "open"),
        (READ, "read"),
        (WRITE, "write"),
        (FLUSH, "sync"),
        (NAME, "rename"),
        (LOCK, "fcntl"),
    ] {
        // The first rename comes behind other changes of names.
        let mut at = 0;
        let found = loop {
            at += 1;
            let fault = Fault {
                kinds,
                action: Action::Fail(Errno::EIO),
                lasts: false,
            };
            shim.arm(fault, at);
            acme.post("/v1/inboxes", &json!({"username": format!("scout-{word}-{at}")}))
                .await;
            let found = shim
                .hit()
                .unwrap_or_else(|| panic!("no {word} within {at} steps"));
            if found.contains(word) {
                break found;
            }
        };
        let folder = daemon.folder.path().display().to_string();
        assert!(found.contains(&folder), "{found}");
    }
    shim.disarm();
    let made = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
    assert_eq!(made.status, 201, "disarmed, nothing fails");
}

#[tokio::test]
async fn connections_to_the_api_are_no_steps() {
    let (daemon, shim) = rig().await;
    let kinds = OPEN | READ | WRITE | FLUSH | NAME | LOCK | CONNECT;
    let fault = Fault {
        kinds,
        action: Action::Kill,
        lasts: true,
    };
    shim.arm(fault, 1);
    assert_eq!(daemon.api("").get("/healthz").await.status, 200);
    assert_eq!(shim.hit(), None);
}

#[tokio::test]
async fn the_daemon_sees_the_clock_that_it_is_given() {
    const YEAR_S: i64 = 365 * 24 * 60 * 60;
    let (daemon, shim) = rig().await;
    let acme = daemon.tenant("Acme").await;
    let mut years = Vec::new();
    for ahead_s in [0, YEAR_S, -YEAR_S, 0] {
        shim.set_clock_ahead_s(ahead_s);
        let made = acme.post("/v1/inboxes", &json!({})).await;
        years.push(made.text("createdAt")[..4].parse::<i32>().unwrap());
    }
    assert_eq!(years, [years[0], years[0] + 1, years[0] - 1, years[0]]);
}
