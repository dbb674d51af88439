//! Stores that are held by others or go away.

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::{CALLERS, SOME};
use crate::support::{
    Folder,
    callers::Callers,
    daemon::{Daemon, Database},
    postgres::Server,
    wait::until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_another_process_writes_to_sqlite_creates_wait_or_are_refused() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let callers = Callers::start(&acme, "locked", CALLERS);
    callers.until_created(SOME).await;

    // This process is another one.
    let mut other = SqliteConnection::connect(&daemon.store_url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let created = callers.created();
    callers.until_refused(1).await;
    // A request that had committed may have been answered meanwhile.
    assert!(
        callers.created() <= created + CALLERS,
        "somebody wrote all the same"
    );
    assert_eq!(callers.codes(), ["STORE_UNAVAILABLE"]);
    assert_eq!(acme.get("/v1/inboxes").await.status, 200, "reading goes on");
    lock.rollback().await.unwrap();
    other.close().await.unwrap();

    callers.until_created(SOME).await;
    callers.assert_all_hold(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_postgresql_crashes_in_the_middle_requests_are_refused_and_complete_later() {
    let mut server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let daemon = Daemon::on_store(server.new_database().await, Folder::new(), "").await;
    let acme = daemon.tenant("Acme").await;
    let callers = Callers::start(&acme, "crash", CALLERS);
    for _ in 0..3 {
        callers.until_created(SOME).await;
        let refused = callers.refused();
        let cluster = tokio::task::spawn_blocking(|| server.crash()).await.unwrap();
        callers.until_refused(refused + 1).await;
        server = tokio::task::spawn_blocking(|| cluster.start_again())
            .await
            .unwrap();
        callers.until_created(SOME).await;
    }
    let codes = callers.codes();
    let of_the_store = ["MAIL_STACK_UNAVAILABLE", "STORE_UNAVAILABLE"];
    assert!(
        codes.iter().all(|code| of_the_store.contains(&code.as_str())),
        "{codes:?}"
    );
    callers.assert_all_hold(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_transaction_postgresql_takes_away_is_refused_and_completed_by_the_same_request() {
    let mut server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let daemon = Daemon::on_store(server.new_database().await, Folder::new(), "").await;
    let acme = daemon.tenant("Acme").await;
    let body = json!({"username": "scout"});
    for when in ["once", "again"] {
        // Every create counts in its tenant's row, so that it stands in the middle of its transaction now.
        let mut other = PgConnection::connect(&daemon.store_url).await.unwrap();
        let mut lock = other.begin().await.unwrap();
        sqlx::query("SELECT * FROM tenants FOR UPDATE")
            .execute(&mut *lock)
            .await
            .unwrap();
        let asked = tokio::spawn({
            let acme = acme.clone();
            let request = acme.request(Method::POST, "/v1/inboxes").json(&body);
            async move { acme.send(request).await }
        });
        let url = daemon.store_url.clone();
        until("the create stands in its transaction", || async {
            let mut looking = PgConnection::connect(&url).await.unwrap();
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'",
            )
            .fetch_one(&mut looking)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        })
        .await;
        server = tokio::task::spawn_blocking(|| server.crash().start_again())
            .await
            .unwrap();
        let refused = asked.await.unwrap();
        assert_eq!(refused.error(), (503, "STORE_UNAVAILABLE"), "{when}");
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    }
    let made = acme.post("/v1/inboxes", &body).await;
    assert_eq!((made.status, made.text("username")), (201, "scout"), "{made:?}");
    let list = acme.get("/v1/inboxes").await;
    assert_eq!(list.body["inboxes"].as_array().unwrap().len(), 1);
}
