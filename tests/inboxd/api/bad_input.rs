//! What is refused, and that refusing writes nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{api::Api, daemon::Daemon, maps::VERIFIED_PASSWORDS};

/// The parts of a daemon that a refused request must leave alone.
async fn nothing_written(api: &Api, daemon: &Daemon) {
    assert_eq!(api.get("/v1/inboxes").await.body["inboxes"], json!([]));
    let entries: Vec<_> = std::fs::read_dir(daemon.maps().join("passdb"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != VERIFIED_PASSWORDS)
        .collect();
    assert!(entries.is_empty(), "a password entry was written: {entries:?}");
}

async fn refused(api: &Api, body: &[u8]) -> Value {
    let request = api.request(Method::POST, "/v1/inboxes").body(body.to_vec());
    let answer = api.send(request).await;
    assert_eq!(
        answer.error(),
        (400, "VALIDATION_ERROR"),
        "{}",
        String::from_utf8_lossy(body)
    );
    answer.body
}

on_both_databases! {
    async fn bodies_that_are_no_json_object_are_refused(daemon) {
        let acme = daemon.tenant("Acme").await;
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
        for body in [
            &b"{"[..], b"[]", b"\"x\"", b"1", b"true", b"{]", b"{'username':'x'}", b"{\"username\":}", b"username=x",
            b"\xff\xfe", b"{\"username\":\"\xff\"}", b"{\"username\":\"x\"} {}", b"{\"username\":\"a\nb\"}", b"\0", deep.as_bytes(),
        ] {
            assert_eq!(refused(&acme, body).await["field"], "body");
        }
        nothing_written(&acme, &daemon).await;
    }

    async fn wrong_types_and_values_name_the_field(daemon) {
        let acme = daemon.tenant("Acme").await;
        let long_domain = format!("{}example", "a.".repeat(150));
        for (body, field) in [
            (json!({"username": 5}), "username"),
            (json!({"username": ["x"]}), "username"),
            (json!({"username": {}}), "username"),
            (json!({"username": true}), "username"),
            (json!({"username": ""}), "username"),
            (json!({"username": "Scout"}), "username"),
            (json!({"username": "a:b"}), "username"),
            (json!({"username": "a\nb"}), "username"),
            (json!({"username": "../../etc/passwd"}), "username"),
            (json!({"username": ".."}), "username"),
            (json!({"username": ".new-x"}), "username"),
            (json!({"username": "a..b"}), "username"),
            (json!({"username": "a b"}), "username"),
            (json!({"username": "a@b"}), "username"),
            (json!({"username": "a+b"}), "username"),
            (json!({"username": "é"}), "username"),
            (json!({"username": "a\u{0}"}), "username"),
            (json!({"username": "x".repeat(65)}), "username"),
            (json!({"displayName": "a\u{7}b"}), "displayName"),
            (json!({"displayName": "a\r\nBcc: x@y"}), "displayName"),
            (json!({"displayName": "Acme \u{202e}gro.knab"}), "displayName"),
            (json!({"displayName": "Acme\u{200b}"}), "displayName"),
            (json!({"displayName": "x".repeat(201)}), "displayName"),
            (json!({"displayName": 1}), "displayName"),
            (json!({"domain": long_domain}), "domain"),
            (json!({"domain": ""}), "domain"),
            (json!({"domain": "../x"}), "domain"),
            (json!({"domain": "a:b.example"}), "domain"),
            (json!({"domain": "[127.0.0.1]"}), "domain"),
            (json!({"domain": "127.0.0.1"}), "domain"),
            (json!({"domain": "localhost"}), "domain"),
            (json!({"domain": "a\nb.example"}), "domain"),
            (json!({"workspaceId": "default"}), "workspaceId"),
            (json!({"workspaceId": 7}), "workspaceId"),
        ] {
            let answer = refused(&acme, body.to_string().as_bytes()).await;
            assert_eq!(answer["field"], field, "{body}: {answer}");
            assert!(answer["error"].as_str().unwrap().starts_with(field), "{answer}");
        }
        nothing_written(&acme, &daemon).await;
    }

    async fn names_given_twice_are_refused(daemon) {
        let acme = daemon.tenant("Acme").await;
        for body in [&b"{\"username\":\"a\",\"username\":\"b\"}"[..], b"{\"x\":1,\"x\":2}", b"{\"x\":{\"y\":1,\"y\":1}}"] {
            let answer = refused(&acme, body).await;
            assert!(answer["error"].as_str().unwrap().contains("twice"), "{answer}");
        }
        nothing_written(&acme, &daemon).await;
    }

    async fn unknown_and_repeated_query_parameters_are_refused(daemon) {
        let acme = daemon.tenant("Acme").await;
        for (query, field) in [
            ("strict=1", "strict"), ("strict=", "strict"), ("strict", "strict"), ("strict=TRUE", "strict"), ("Strict=true", "Strict"),
            ("strict=true&strict=true", "strict"), ("strict=true&strict=false", "strict"), ("foo=bar", "foo"), ("%00=1", "\0"),
        ] {
            let answer = acme.post(&format!("/v1/inboxes?{query}"), &json!({"username": "scout"})).await;
            assert_eq!(answer.error(), (400, "VALIDATION_ERROR"), "{query}");
            assert_eq!(answer.body["field"], field, "{query}");
        }
        for (path, field) in [
            ("/v1/inboxes?limit=0", "limit"), ("/v1/inboxes?limit=1001", "limit"), ("/v1/inboxes?limit=x", "limit"),
            ("/v1/inboxes?limit=-1", "limit"), ("/v1/inboxes?cursor=x", "cursor"), ("/v1/inboxes?cursor=", "cursor"),
            ("/v1/inboxes?email=x", "email"), ("/v1/inboxes?username=A", "username"), ("/v1/inboxes?workspace=x", "workspace"),
            ("/v1/inboxes?offset=1", "offset"), ("/v1/me?x=1", "x"), ("/v1/workspaces?x=1", "x"), ("/healthz?x=1", "x"),
            ("/readyz?x=1", "x"), ("/readyz?parts=store,moon", "parts"), ("/readyz?parts=", "parts"), ("/openapi.json?x=1", "x"),
        ] {
            let answer = acme.get(path).await;
            assert_eq!(answer.error(), (400, "VALIDATION_ERROR"), "{path}");
            assert_eq!(answer.body["field"], field, "{path}");
        }
        nothing_written(&acme, &daemon).await;
    }
}

#[tokio::test]
async fn huge_bodies_are_refused() {
    let daemon = Daemon::start(crate::support::daemon::Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let body = json!({"username": "scout", "metadata": {"x": "x".repeat(64 * 1024)}}).to_string();
    let answer = acme
        .send(acme.request(Method::POST, "/v1/inboxes").body(body))
        .await;
    assert_eq!(answer.error(), (413, "PAYLOAD_TOO_LARGE"));
    let padded = format!("{}{}", json!({"username": "scout"}), " ".repeat(60 * 1024));
    assert_eq!(
        acme.send(acme.request(Method::POST, "/v1/inboxes").body(padded))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn every_content_type_and_an_empty_body_are_tolerated() {
    let daemon = Daemon::start(crate::support::daemon::Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let id = acme.post("/v1/inboxes", &json!({})).await.id().to_owned();
    // Api sends Content-Type: application/json on every call; these have no body.
    assert_eq!(acme.get(&format!("/v1/inboxes/{id}")).await.status, 200);
    assert_eq!(
        acme.send(acme.request(Method::POST, &format!("/v1/inboxes/{id}/rotate-key")))
            .await
            .status,
        200
    );
    assert_eq!(
        acme.send(acme.request(Method::POST, "/v1/inboxes").body("  \n "))
            .await
            .status,
        201
    );
    assert_eq!(
        acme.send(acme.request(Method::PATCH, &format!("/v1/inboxes/{id}")))
            .await
            .error(),
        (400, "VALIDATION_ERROR"),
        "nothing to change is named"
    );
    assert_eq!(acme.delete(&format!("/v1/inboxes/{id}")).await.status, 200);
    // What curl -d sends without being told otherwise.
    let plain = reqwest::Client::new()
        .post(format!("{}/v1/inboxes", acme.base))
        .header("Authorization", format!("bearer {}", acme.key));
    let answer = plain
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("{\"username\":\"scout\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn heads_without_end_are_refused() {
    let daemon = Daemon::start(crate::support::daemon::Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let many = (0..100).fold(acme.request(Method::GET, "/v1/me"), |request, n| {
        request.header(format!("x-{n}"), "x")
    });
    let large = acme
        .request(Method::GET, "/v1/me")
        .header("x-large", "x".repeat(40 * 1024));
    for request in [many, large] {
        assert_eq!(acme.send(request).await.error(), (431, "HEADERS_TOO_LARGE"));
    }
    assert_eq!(acme.get("/v1/me").await.status, 200);
}
