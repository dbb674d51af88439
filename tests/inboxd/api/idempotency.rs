//! `Idempotency-Key`.

use reqwest::Method;
use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::api::{Answer, Api};

async fn post(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    api.send(
        api.request(Method::POST, path)
            .header("Idempotency-Key", key)
            .json(body),
    )
    .await
}

on_both_databases! {
    async fn the_same_request_gets_the_first_answer_again_secrets_included(daemon) {
        let acme = daemon.tenant("Acme").await;
        let first = post(&acme, "/v1/inboxes", "k1", &json!({})).await;
        assert_eq!(first.status, 201);
        for _ in 0..3 {
            let again = post(&acme, "/v1/inboxes", "k1", &json!({})).await;
            assert_eq!((again.status, &again.body), (201, &first.body));
        }
        assert_eq!(acme.get("/v1/inboxes").await.body["inboxes"].as_array().unwrap().len(), 1);
        assert_eq!(post(&acme, "/v1/inboxes", "k2", &json!({})).await.text("username"), "acme1");
    }

    async fn another_body_or_query_is_refused(daemon) {
        let acme = daemon.tenant("Acme").await;
        post(&acme, "/v1/inboxes", "k", &json!({"username": "scout"})).await;
        for (path, body) in [("/v1/inboxes", json!({"username": "other"})), ("/v1/inboxes?strict=true", json!({"username": "scout"}))] {
            let refused = post(&acme, path, "k", &body).await;
            assert_eq!(refused.error(), (422, "IDEMPOTENCY_KEY_REUSED"), "{path}");
        }
    }

    async fn keys_of_different_callers_do_not_meet(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let first = post(&acme, "/v1/inboxes", "k", &json!({"username": "scout"})).await;
        let second = post(&other, "/v1/inboxes", "k", &json!({"username": "scout"})).await;
        assert_eq!((first.text("username"), second.text("username")), ("scout", "scout1"));
    }

    async fn refusals_are_kept_like_any_answer(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let first = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let refused = post(&other, "/v1/inboxes?strict=true", "k", &json!({"username": "scout"})).await;
        assert_eq!(refused.error(), (409, "USERNAME_TAKEN"));
        acme.delete(&format!("/v1/inboxes/{}", first.id())).await;
        let again = post(&other, "/v1/inboxes?strict=true", "k", &json!({"username": "scout"})).await;
        assert_eq!((again.status, &again.body), (409, &refused.body));
    }

    async fn concurrent_requests_give_one_inbox(daemon) {
        let acme = daemon.tenant("Acme").await;
        let body = json!({});
        let answers = futures_util::future::join_all((0..20).map(|_| post(&acme, "/v1/inboxes", "k", &body))).await;
        let created: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert!(!created.is_empty());
        for answer in &answers {
            match answer.status {
                201 => assert_eq!(answer.body, created[0].body),
                409 => {
                    assert_eq!(answer.code(), "IDEMPOTENCY_IN_PROGRESS");
                    assert!(answer.headers.contains_key("retry-after"));
                }
                _ => panic!("{answer:?}"),
            }
        }
        assert_eq!(acme.get("/v1/inboxes").await.body["inboxes"].as_array().unwrap().len(), 1);
    }

    async fn answers_outlive_the_daemon_sealed(daemon) {
        let mut daemon = daemon;
        let acme = daemon.tenant("Acme").await;
        let first = post(&acme, "/v1/inboxes", "k", &json!({})).await;
        assert!(daemon.stop().await.success());
        daemon.up().await;
        let again = post(&acme, "/v1/inboxes", "k", &json!({})).await;
        assert_eq!((again.status, &again.body), (201, &first.body));
    }
}

#[tokio::test]
async fn keys_that_cannot_be_kept_are_refused() {
    let daemon = crate::support::daemon::Daemon::start(crate::support::daemon::Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    for key in ["", "a b", "ü", &"x".repeat(256)] {
        let refused = post(&acme, "/v1/inboxes", key, &json!({})).await;
        assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{key:?}");
    }
    let twice = acme
        .request(Method::POST, "/v1/inboxes")
        .header("Idempotency-Key", "a")
        .header("Idempotency-Key", "b");
    assert_eq!(acme.send(twice).await.error(), (400, "VALIDATION_ERROR"));
    assert_eq!(
        post(&acme, "/v1/inboxes", &"x".repeat(255), &json!({}))
            .await
            .status,
        201
    );
    // Nothing of a kept answer can be read in the store.
    let made = post(&acme, "/v1/inboxes", "sealed", &json!({})).await;
    let secrets = [made.text("imapPassword"), made.text("apiKey")];
    for name in ["inboxd.db", "inboxd.db-wal"] {
        let octets = std::fs::read(daemon.folder.join(name)).unwrap();
        for secret in secrets {
            assert!(
                !octets
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes()),
                "{name} holds a secret"
            );
        }
    }
}
