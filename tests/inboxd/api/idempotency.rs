//! `Idempotency-Key`.

use reqwest::Method;
use serde_json::{Value, json};

use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::on_both_databases;
use crate::support::{
    api::{Answer, Api},
    daemon::Daemon,
};

async fn post(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    api.send(
        api.request(Method::POST, path)
            .header("Idempotency-Key", key)
            .json(body),
    )
    .await
}

/// How many records the store holds.
async fn records(daemon: &Daemon) -> i64 {
    let sql = "SELECT COUNT(*) FROM idempotent_requests";
    if let Some(file) = daemon.store_url.strip_prefix("sqlite:") {
        let mut connection = SqliteConnection::connect(file).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    } else {
        let mut connection = PgConnection::connect(&daemon.store_url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }
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

    async fn a_refusal_is_not_kept_and_leaves_no_record(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme", "limits": {"inboxes": 0}})).await;
        let (acme, tenant) = (daemon.api(made.text("key")), format!("/v1/tenants/{}", made.id()));
        let other = daemon.tenant("Other").await;
        let body = json!({"username": "scout"});
        let refused = post(&acme, "/v1/inboxes", "k", &body).await;
        assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
        admin.patch(&tenant, &json!({"limits": {"inboxes": 1}})).await;
        // Another body, too: nothing is left of the refused one.
        assert_eq!(post(&acme, "/v1/inboxes", "k", &json!({"username": "ranger"})).await.status, 201);

        let taken = acme.get("/v1/inboxes").await.body["inboxes"][0]["id"].clone();
        let strict = "/v1/inboxes?strict=true";
        let body = json!({"username": "ranger"});
        assert_eq!(post(&other, strict, "k", &body).await.error(), (409, "USERNAME_TAKEN"));
        assert_eq!(post(&other, "/v1/inboxes", "k", &json!({"domain": "acme.example"})).await.error(), (403, "DOMAIN_NOT_ALLOWED"));
        assert_eq!(post(&other, strict, "k", &json!({"username": "root"})).await.error(), (400, "USERNAME_RESERVED"));
        acme.delete(&format!("/v1/inboxes/{}", taken.as_str().unwrap())).await;
        assert_eq!(records(&daemon).await, 1, "only the answer that made something is kept");
    }

    async fn every_post_that_makes_something_is_given_again(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = post(&admin, "/v1/tenants", "k", &json!({"name": "Acme"})).await;
        let acme = daemon.api(tenant.text("key"));
        let inbox = post(&acme, "/v1/inboxes", "k", &json!({"username": "scout"})).await;
        let inbox_path = format!("/v1/inboxes/{}", inbox.id());
        let workspace = format!("/v1/workspaces/{}", tenant.text("defaultWorkspaceId"));
        acme.post("/v1/domains", &json!({"domain": "rotated.example"})).await;
        let calls = [
            (&admin, "/v1/tenants".to_owned(), json!({"name": "Acme"}), 201),
            (&admin, format!("/v1/tenants/{}/keys", tenant.id()), json!({"name": "CI"}), 201),
            (&acme, "/v1/inboxes".to_owned(), json!({"username": "scout"}), 201),
            (&acme, format!("{inbox_path}/addresses"), json!({"email": "desk@inboxd.test"}), 201),
            (&acme, "/v1/domains".to_owned(), json!({"domain": "acme.example"}), 201),
            (&acme, "/v1/domains/rotated.example/dkim/rotate".to_owned(), json!({}), 200),
            (&acme, "/v1/workspaces".to_owned(), json!({"name": "Second"}), 201),
            (&acme, format!("{workspace}/keys"), json!({}), 201),
            (&acme, format!("{inbox_path}/rotate-password"), json!({}), 200),
            (&acme, format!("{inbox_path}/rotate-key"), json!({}), 200),
        ];
        for (api, path, body, status) in &calls {
            let first = post(api, path, "k", body).await;
            assert_eq!(first.status, *status, "{path}: {first:?}");
            let again = post(api, path, "k", body).await;
            let mut expected = first.body.clone();
            // Of the two that were given before: what was rotated since.
            if let Some(stale) = again.body.get("stale") {
                expected["stale"] = stale.clone();
            }
            assert_eq!((again.status, &again.body), (first.status, &expected), "{path}");
            assert_eq!(again.headers["idempotent-replayed"], "true", "{path}");
            // Another wish makes another one, or is what it is without the header.
            let other = post(api, path, "k2", body).await;
            assert!(!other.headers.contains_key("idempotent-replayed"), "{path}");
        }
        assert_eq!(acme.get("/v1/workspaces").await.body["workspaces"].as_array().unwrap().len(), 3);
        assert_eq!(admin.get("/v1/tenants").await.body["tenants"].as_array().unwrap().len(), 2);
        assert_eq!(acme.get(&format!("{workspace}/keys")).await.body["keys"].as_array().unwrap().len(), 2);
    }

    async fn bodies_are_compared_as_json_values(daemon) {
        let acme = daemon.tenant("Acme").await;
        let send = async |body: &'static str| {
            acme.send(acme.request(Method::POST, "/v1/inboxes").header("Idempotency-Key", "k").body(body)).await
        };
        let first = send(r#"{"username":"scout","metadata":{"a":1,"b":[1,2]}}"#).await;
        assert_eq!((first.status, first.headers.get("idempotent-replayed")), (201, None));
        for same in [
            "{ \"metadata\" : {\"b\":[1, 2.0],\n\"a\":1}, \"username\" : \"scout\" }",
            r#"{"user\u006eame":"scout","metadata":{"a":1e0,"b":[1,2]}}"#,
        ] {
            let again = send(same).await;
            assert_eq!((again.status, &again.body), (201, &first.body), "{same}");
            assert_eq!(again.headers["idempotent-replayed"], "true");
        }
        for other in [r#"{"username":"scout","metadata":{"a":1,"b":[2,1]}}"#, r#"{"username":"scout","metadata":{"a":"1","b":[1,2]}}"#] {
            assert_eq!(send(other).await.error(), (422, "IDEMPOTENCY_KEY_REUSED"), "{other}");
        }
    }

    async fn a_replay_says_what_of_it_does_not_hold_any_more(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = post(&admin, "/v1/tenants", "k", &json!({"name": "Acme"})).await;
        let acme = daemon.api(tenant.text("key"));
        let (body, path) = (json!({"username": "scout"}), "/v1/inboxes");
        let inbox = post(&acme, path, "k", &body).await;
        let inbox_path = format!("/v1/inboxes/{}", inbox.id());
        let stale = async |api: &Api, path: &str, body: &Value| post(api, path, "k", body).await.body["stale"].clone();
        assert_eq!(stale(&acme, path, &body).await, Value::Null);

        acme.post(&format!("{inbox_path}/rotate-password"), &json!({})).await;
        let again = post(&acme, path, "k", &body).await;
        assert_eq!((again.status, &again.body["stale"]), (201, &json!(["password"])));
        assert_eq!(again.text("imapPassword"), inbox.text("imapPassword"), "the first answer");
        acme.post(&format!("{inbox_path}/rotate-key"), &json!({})).await;
        assert_eq!(stale(&acme, path, &body).await, json!(["password", "key"]));

        let alias = json!({"email": "desk@inboxd.test"});
        let addresses = format!("{inbox_path}/addresses");
        post(&acme, &addresses, "k", &alias).await;
        assert_eq!(stale(&acme, &addresses, &alias).await, Value::Null);
        acme.delete(&format!("{addresses}/desk@inboxd.test")).await;
        assert_eq!(stale(&acme, &addresses, &alias).await, json!(["deleted"]));
        // Suspending changes no password.
        let rotate = format!("{inbox_path}/rotate-password");
        post(&acme, &rotate, "k", &json!({})).await;
        let tenant_path = format!("/v1/tenants/{}", tenant.id());
        for suspended in [true, false] {
            admin.patch(&tenant_path, &json!({"suspended": suspended})).await;
        }
        assert_eq!(stale(&acme, &rotate, &json!({})).await, Value::Null);
        acme.delete(&inbox_path).await;
        assert_eq!(stale(&acme, path, &body).await, json!(["deleted"]));

        let keys = format!("/v1/workspaces/{}/keys", tenant.text("defaultWorkspaceId"));
        let key = post(&acme, &keys, "k", &json!({})).await;
        acme.delete(&format!("{keys}/{}", key.id())).await;
        assert_eq!(stale(&acme, &keys, &json!({})).await, json!(["key"]));
        let second = post(&acme, "/v1/workspaces", "k", &json!({"name": "Second"})).await;
        acme.delete(&format!("/v1/workspaces/{}", second.id())).await;
        assert_eq!(stale(&acme, "/v1/workspaces", &json!({"name": "Second"})).await, json!(["deleted"]));
        let domain = json!({"domain": "acme.example"});
        post(&acme, "/v1/domains", "k", &domain).await;
        acme.delete("/v1/domains/acme.example").await;
        assert_eq!(stale(&acme, "/v1/domains", &domain).await, json!(["deleted"]));
        admin.delete(&tenant_path).await;
        assert_eq!(stale(&admin, "/v1/tenants", &json!({"name": "Acme"})).await, json!(["deleted"]));
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
