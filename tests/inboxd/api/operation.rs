//! What operators and their programs ask: health, readiness, metrics, logs, request ids.

use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;

use crate::support::daemon::{Daemon, Database};

#[tokio::test]
async fn readiness_names_the_part_that_is_down() {
    // No mail servers run here.
    let daemon = Daemon::start(Database::Sqlite).await;
    let anybody = daemon.api("");
    assert_eq!(anybody.get("/healthz").await.body, json!({"status": "ok"}));
    let (status, ready) = daemon.readiness("").await;
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert_eq!(
        (&ready["parts"]["store"], &ready["parts"]["maps"]),
        (&json!("ok"), &json!("ok"))
    );
    for part in ["dovecot", "postfix", "signer"] {
        assert!(
            ready["parts"][part].as_str().unwrap().starts_with("down: "),
            "{ready:?}"
        );
    }
    let all_well = json!({"ready": true, "parts": {"store": "ok", "maps": "ok"}});
    assert_eq!(daemon.readiness("?parts=store,maps").await, (200, all_well));
    let acme = daemon.tenant("Acme").await;
    assert_eq!(
        acme.post("/v1/inboxes", &json!({})).await.status,
        201,
        "creates need no mail server"
    );
}

#[tokio::test]
async fn strangers_see_whether_it_is_ready_and_operators_see_why_not() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let basic = acme
        .with_key("")
        .request(Method::GET, "/readyz")
        .basic_auth("proxy", Some("x"));
    let basic = acme.send(basic).await;
    let strangers = [
        daemon.api("").get("/readyz").await,
        daemon.api("sa_wrong").get("/readyz").await,
        acme.get("/readyz").await,
        basic,
    ];
    for answer in strangers {
        assert_eq!((answer.status, &answer.body), (503, &json!({"ready": false})));
    }
    let working = daemon.api("").get("/readyz?parts=store,maps").await;
    assert_eq!((working.status, working.body), (200, json!({"ready": true})));
    let operator = daemon.api(&daemon.super_admin);
    let answer = operator.get("/readyz?parts=store,postfix").await;
    assert_eq!(
        (answer.status, &answer.body["parts"]["store"]),
        (503, &json!("ok"))
    );
    assert!(
        answer.body["parts"]["postfix"]
            .as_str()
            .unwrap()
            .starts_with("down: ")
    );
}

#[tokio::test]
async fn readiness_is_the_same_however_many_ask() {
    const ASKING: usize = 400;
    const AT_A_TIME: usize = 40;
    let daemon = Daemon::start(Database::Sqlite).await;
    let anybody = daemon.api("");
    let asked = stream::iter(0..ASKING).map(|_| anybody.get("/readyz?parts=store,maps"));
    let answers: Vec<_> = asked.buffer_unordered(AT_A_TIME).collect().await;
    for answer in answers {
        assert_eq!((answer.status, answer.body), (200, json!({"ready": true})));
    }
}

#[tokio::test]
async fn metrics_have_their_own_listener_and_count_what_happens() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    acme.post("/v1/inboxes", &json!({})).await;
    acme.get("/v1/inboxes/x").await;
    let text = reqwest::get(&daemon.metrics).await.unwrap().text().await.unwrap();
    for line in [
        r#"inboxd_http_requests_total{method="POST",route="/v1/inboxes",status="201"} 1"#,
        r#"inboxd_http_requests_total{method="GET",route="/v1/inboxes/{id}",status="404"} 1"#,
        r#"inboxd_inboxes_created_total{completed="false"} 1"#,
        // The default domain's first keys, and the create.
        "inboxd_publish_duration_seconds_count 2",
    ] {
        assert!(text.contains(line), "no {line} in:\n{text}");
    }
    assert_eq!(daemon.api("").get("/metrics").await.status, 404);
}

#[tokio::test]
async fn metrics_can_be_served_with_the_api() {
    let folder = crate::support::Folder::new();
    let mut daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    assert!(daemon.stop().await.success());
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    let own: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("metrics.listen"))
        .collect();
    std::fs::write(
        &daemon.config,
        format!("{}\nmetrics.listen = \"\"\n", own.join("\n")),
    )
    .unwrap();
    daemon.up().await;
    let text = reqwest::get(format!("{}/metrics", daemon.base))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains("inboxd_http_requests_total"), "{text}");
}

#[tokio::test]
async fn every_log_line_of_a_request_has_its_id_and_no_secret() {
    let folder = crate::support::Folder::new();
    let daemon = Daemon::with_config(
        Database::Sqlite,
        folder,
        "log.format = \"json\"\nlog.filter = \"trace\"",
    )
    .await;
    let acme = daemon.tenant("Acme").await;
    let made = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
    let id = made.headers["x-request-id"].to_str().unwrap();
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(id)).collect();
    assert!(lines.iter().any(|line| line.contains("\"status\":201")), "{log}");
    for secret in [
        made.text("imapPassword"),
        made.text("apiKey"),
        &acme.key,
        &daemon.super_admin,
    ] {
        assert!(!log.contains(secret), "the log holds a secret");
    }
    assert!(!log.contains("$6$rounds"), "the log holds a password hash");
}

#[tokio::test]
async fn the_files_of_secrets_are_for_the_daemon_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut daemon = Daemon::start(Database::Sqlite).await;
    let mode = |name: &str| {
        std::fs::metadata(daemon.folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("sealing.key"), 0o600);
    assert_eq!(mode("doveadm.key"), 0o600);
    assert_eq!(mode("inboxd.db") & 0o077, 0, "others can read the store");
    // Another key than the one that the store was sealed with is noticed at once.
    assert!(daemon.stop().await.success());
    std::fs::remove_file(daemon.folder.join("sealing.key")).unwrap();
    daemon.spawn();
    assert!(!daemon.ended().await.success());
    assert!(
        daemon
            .log()
            .contains("is not the key that the store's passwords are sealed with"),
        "{}",
        daemon.log()
    );
    assert!(
        !daemon.folder.join("sealing.key").exists(),
        "a new key was made although the store needs the old one"
    );
}
