//! `POST /v1/inboxes`: the allocation rules of the contract, one by one.

use serde_json::json;

use crate::support::daemon::{DEFAULT_DOMAIN, Daemon, Database};

#[tokio::test]
async fn a_free_name_is_created_with_credentials() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let made = acme
        .post(
            "/v1/inboxes",
            &json!({"username": "scout", "displayName": "Scout"}),
        )
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(made.text("email"), format!("scout@{DEFAULT_DOMAIN}"));
}
