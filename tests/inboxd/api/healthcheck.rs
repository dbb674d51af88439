//! `inboxd healthcheck`, as a supervisor runs it.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::support::{
    daemon::{Daemon, Database, INBOXD},
    postgres,
    wait::until,
    world::World,
};

/// Longer than a check may take.
const LIMIT: Duration = Duration::from_secs(10);

fn check(daemon: &Daemon, arguments: &[&str]) -> Output {
    let began = Instant::now();
    let output = Command::new(INBOXD)
        .arg("healthcheck")
        .args(arguments)
        .arg("--config")
        .arg(&daemon.config)
        // A proxy is none of its business.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(began.elapsed() < LIMIT, "it took {:?}", began.elapsed());
    output
}

fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"ok: the API answers, store and maps work\n");
    assert_eq!(output.stderr, b"");
}

/// It must fail with one line, which is returned.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[tokio::test]
async fn without_mail_servers_inboxes_can_be_created_but_not_everything_works() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert_ok(&check(&daemon, &[]));
    let told = complaint(&check(&daemon, &["--all"]));
    assert!(
        told.contains("dovecot is down: ") && told.contains("postfix is down: "),
        "{told}"
    );
    assert!(!told.contains("store") && !told.contains("maps"), "{told}");

    let help = Command::new(INBOXD)
        .args(["healthcheck", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for checked in [
        "store", "maps", "dovecot", "postfix", "inotify", "signer", "inbound",
    ] {
        assert!(help.contains(checked), "{checked} is not in {help}");
    }

    assert!(daemon.stop().await.success());
    let told = complaint(&check(&daemon, &[]));
    assert!(told.contains("no answer from the daemon at 127.0.0.1:"), "{told}");
    assert!(told.contains("refused"), "{told}");
}

#[tokio::test]
async fn all_parts_that_were_checked_are_named() {
    World::run(async |world| {
        let ready = until("every part is ready", || async {
            let (status, body) = world.daemon.readiness("").await;
            (status == 200).then_some(body)
        })
        .await;
        let names: Vec<&String> = ready["parts"].as_object().unwrap().keys().collect();
        for part in ["dovecot", "inotify", "maps", "postfix", "store"] {
            assert!(names.iter().any(|name| *name == part), "{part}: {names:?}");
        }
        let output = check(&world.daemon, &["--all"]);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let checked = said
            .strip_prefix("ok: the API answers, ")
            .and_then(|rest| rest.strip_suffix(" work\n"))
            .unwrap_or_else(|| panic!("{said}"));
        assert_eq!(
            checked.replace(" and ", ", ").split(", ").collect::<Vec<_>>(),
            names
        );
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_listens_everywhere_is_asked_on_the_loopback() {
    for anywhere in ["0.0.0.0", "[::]"] {
        let mut daemon = Daemon::start(Database::Sqlite).await;
        assert!(daemon.stop().await.success());
        let text = fs::read_to_string(&daemon.config).unwrap();
        let everywhere = text.replace(
            "api.listen = \"127.0.0.1:",
            &format!("api.listen = \"{anywhere}:"),
        );
        assert_ne!(everywhere, text);
        fs::write(&daemon.config, everywhere).unwrap();
        daemon.up().await;
        assert_ok(&check(&daemon, &[]));
    }
}

#[tokio::test]
async fn maps_that_have_gone_are_named() {
    let daemon = Daemon::start(Database::Sqlite).await;
    fs::remove_dir_all(daemon.maps()).unwrap();
    let told = complaint(&check(&daemon, &[]));
    assert!(told.contains("maps is down: "), "{told}");
    assert!(!told.contains("store") && !told.contains("dovecot"), "{told}");
}

#[tokio::test]
async fn without_a_listener_for_metrics_the_reason_is_elsewhere() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert!(daemon.stop().await.success());
    let text = fs::read_to_string(&daemon.config).unwrap();
    let own: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("metrics.listen"))
        .collect();
    fs::write(
        &daemon.config,
        format!("{}\nmetrics.listen = \"\"\n", own.join("\n")),
    )
    .unwrap();
    daemon.up().await;
    assert_ok(&check(&daemon, &[]));
    let complained = complaint(&check(&daemon, &["--all"]));
    assert!(
        complained.contains("not ready") && complained.contains("sa_"),
        "{complained}"
    );
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_named() {
    let daemon = Daemon::start(Database::Postgres).await;
    assert_ok(&check(&daemon, &[]));
    postgres::refuse(&daemon.store_url).await;
    // The answer before is shared for a second.
    until("the check fails", || async {
        (!check(&daemon, &[]).status.success()).then_some(())
    })
    .await;
    let told = complaint(&check(&daemon, &[]));
    assert!(
        told.contains("store is down: ") && !told.contains("maps"),
        "{told}"
    );
}

#[tokio::test]
async fn something_else_on_the_port_is_not_taken_for_the_daemon() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert!(daemon.stop().await.success());
    // It takes connections and says nothing.
    let address = daemon.base.strip_prefix("http://").unwrap().to_owned();
    let silent = TcpListener::bind(&address).unwrap();
    let told = complaint(&check(&daemon, &[]));
    assert!(
        told.contains("no answer from the daemon") && told.contains("timed out"),
        "{told}"
    );
    drop(silent);

    let other = axum::Router::new();
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let serving = tokio::spawn(async { axum::serve(listener, other).await });
    let told = tokio::task::spawn_blocking(move || complaint(&check(&daemon, &[])));
    let told = told.await.unwrap();
    assert!(told.contains("says 404") && told.contains(&address), "{told}");
    serving.abort();
}
