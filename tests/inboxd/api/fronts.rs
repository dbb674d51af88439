//! What is in front of the API: browsers, and proxies that pass a path on.

use reqwest::{Client, Method, Response, header::HeaderMap, redirect::Policy};
use serde_json::{Value, json};

use super::connections::daemon_with;
use crate::support::daemon::{Daemon, Database};

const PAGE: &str = "https://app.example.com";

/// What a browser asks before a page of this origin may create an inbox.
async fn preflight(daemon: &Daemon, origin: &str) -> Response {
    Client::new()
        .request(Method::OPTIONS, format!("{}/v1/inboxes", daemon.base))
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "x-api-key,content-type,idempotency-key",
        )
        .send()
        .await
        .unwrap()
}

fn allowed_origin(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("access-control-allow-origin")
        .map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_of_other_origins_may_call_where_they_are_listed() {
    for (origins, origin, allowed) in [
        (
            "[\"https://app.example.com\", \"http://localhost:3000\"]",
            PAGE,
            Some(PAGE),
        ),
        ("[\"https://app.example.com\"]", "https://evil.example", None),
        ("[\"*\"]", PAGE, Some("*")),
    ] {
        let daemon = daemon_with(&format!("http.cors_origins = {origins}")).await;
        let acme = daemon.tenant("Acme").await;
        let asked = preflight(&daemon, origin).await;
        assert_eq!(
            (asked.status().as_u16(), allowed_origin(asked.headers())),
            (200, allowed)
        );
        let list = |name: &str| asked.headers()[name].to_str().unwrap().to_lowercase();
        for header in ["x-api-key", "authorization", "content-type", "idempotency-key"] {
            assert!(list("access-control-allow-headers").contains(header), "{header}");
        }
        for method in ["get", "post", "patch", "delete"] {
            assert!(list("access-control-allow-methods").contains(method), "{method}");
        }
        assert!(!asked.headers().contains_key("access-control-allow-credentials"));
        // Of answers and of refusals.
        for (caller, status) in [(acme.clone(), 201), (acme.with_key(""), 401)] {
            let request = caller
                .request(Method::POST, "/v1/inboxes")
                .header("Origin", origin);
            let answer = caller.send(request.json(&json!({}))).await;
            assert_eq!(
                (answer.status, allowed_origin(&answer.headers)),
                (status, allowed)
            );
            let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
            assert!(
                exposed.contains("x-request-id") && exposed.contains("retry-after"),
                "{exposed}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_can_read_refusals_that_come_before_the_call_is_looked_for() {
    let daemon = daemon_with("http.cors_origins = [\"https://app.example.com\"]").await;
    for (name, value, refused) in [
        ("host", "a:port".to_owned(), (400, "VALIDATION_ERROR")),
        ("x-padding", "x".repeat(33 * 1024), (431, "HEADERS_TOO_LARGE")),
    ] {
        for path in ["/v1/inboxes", "/no-such-call"] {
            let send = async |method: Method| {
                Client::new()
                    .request(method, format!("{}{path}", daemon.base))
                    .header("Origin", PAGE)
                    .header("Access-Control-Request-Method", "GET")
                    .header(name, &value)
                    .send()
                    .await
                    .unwrap()
            };
            let answer = send(Method::GET).await;
            assert_eq!(allowed_origin(answer.headers()), Some(PAGE), "{name} {path}");
            let exposed = answer.headers()["access-control-expose-headers"]
                .to_str()
                .unwrap();
            assert!(exposed.contains("x-request-id"), "{exposed}");
            assert!(answer.headers().contains_key("x-request-id"));
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap();
            assert_eq!((status, body["code"].as_str().unwrap()), refused);
            // What a browser asks before is refused likewise; it reads no more than that.
            let asked = send(Method::OPTIONS).await;
            assert_eq!(asked.status().as_u16(), refused.0);
            assert!(asked.headers().contains_key("x-request-id"));
        }
    }
}

#[tokio::test]
async fn without_a_list_no_page_of_another_origin_may_call() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let asked = preflight(&daemon, PAGE).await;
    assert_eq!(
        (asked.status().as_u16(), allowed_origin(asked.headers())),
        (405, None)
    );
}

#[tokio::test]
async fn everything_is_below_the_base_path() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert!(daemon.stop().await.success());
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    std::fs::write(&daemon.config, format!("{text}\nhttp.base_path = \"/inboxd\"\n")).unwrap();
    let root = daemon.base.clone();
    daemon.base = format!("{root}/inboxd");
    daemon.up().await;
    let http = Client::builder().redirect(Policy::none()).build().unwrap();
    let get = async |url: String| http.get(url).send().await.unwrap();

    for path in ["/healthz", "/v1/me", "/docs/", "/inboxdx/healthz"] {
        let answer = get(format!("{root}{path}")).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert!(answer.headers().contains_key("x-request-id"), "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], "NOT_FOUND", "{path}");
    }
    let operator = Client::new().post(format!("{}/v1/tenants", daemon.base));
    let made = operator
        .header("X-API-Key", &daemon.super_admin)
        .json(&json!({"name": "Acme"}))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let page = get(format!("{}/docs", daemon.base)).await;
    assert_eq!(
        (page.status().as_u16(), &page.headers()["location"]),
        (303, &"/inboxd/docs/".parse().unwrap())
    );
    assert_eq!(get(format!("{}/docs/", daemon.base)).await.status(), 200);
    // The page finds the document where it is.
    let script = get(format!("{}/docs/swagger-initializer.js", daemon.base)).await;
    assert!(script.text().await.unwrap().contains("../openapi.json"));
    let document: Value = get(format!("{}/openapi.json", daemon.base))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(document["servers"], json!([{"url": "/inboxd"}]));
    // Metrics and logs know the call, wherever it is.
    let route = "inboxd_http_requests_total{method=\"POST\",route=\"/v1/tenants\",status=\"201\"}";
    assert_eq!(daemon.metric::<usize>(route).await, Some(1));
    let (status, printed) = daemon.command(&["healthcheck"]).await;
    assert_eq!(status, 0, "{printed}");
}
