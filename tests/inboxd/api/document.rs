//! The OpenAPI document and the reference page.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::daemon::{Daemon, Database};

/// Every call of the contract.
const CALLS: [&str; 41] = [
    "DELETE /v1/domains/{domain}",
    "DELETE /v1/inboxes/{id}",
    "DELETE /v1/inboxes/{id}/addresses/{address}",
    "DELETE /v1/tenants/{id}",
    "DELETE /v1/tenants/{id}/keys/{keyId}",
    "DELETE /v1/workspaces/{id}",
    "DELETE /v1/workspaces/{id}/keys/{keyId}",
    "GET /healthz",
    "GET /openapi.json",
    "GET /readyz",
    "GET /v1/domains",
    "GET /v1/domains/{domain}",
    "GET /v1/domains/{domain}/verify",
    "GET /v1/domains/{domain}/zone",
    "GET /v1/inboxes",
    "GET /v1/inboxes/{id}",
    "GET /v1/inboxes/{id}/addresses",
    "GET /v1/me",
    "GET /v1/tenants",
    "GET /v1/tenants/{id}",
    "GET /v1/tenants/{id}/keys",
    "GET /v1/workspaces",
    "GET /v1/workspaces/{id}",
    "GET /v1/workspaces/{id}/keys",
    "PATCH /v1/domains/{domain}",
    "PATCH /v1/inboxes/{id}",
    "PATCH /v1/tenants/{id}",
    "PATCH /v1/workspaces/{id}",
    "POST /v1/domains",
    "POST /v1/domains/{domain}/dkim/rotate",
    "POST /v1/domains/{domain}/release",
    "POST /v1/inboxes",
    "POST /v1/inboxes/{id}/addresses",
    "POST /v1/inboxes/{id}/rotate-key",
    "POST /v1/inboxes/{id}/rotate-password",
    "POST /v1/tenants",
    "POST /v1/tenants/{id}/keys",
    "POST /v1/workspaces",
    "POST /v1/workspaces/{id}/keys",
    "GET /docs",
    "GET /metrics",
];

fn calls(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

#[tokio::test]
async fn the_document_is_served_and_names_every_call() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let served = daemon.api("").get("/openapi.json").await;
    assert_eq!(
        served.text("openapi").split('.').take(2).collect::<Vec<_>>(),
        ["3", "1"]
    );
    let expected: BTreeSet<String> = CALLS.iter().map(|&call| call.to_owned()).collect();
    assert_eq!(calls(&served.body), expected);
    let printed = std::process::Command::new(crate::support::daemon::INBOXD)
        .arg("openapi")
        .output()
        .unwrap();
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed, served.body, "`inboxd openapi` prints another document");
}

#[test]
fn the_document_has_not_changed_unnoticed() {
    let document = serde_json::to_value(inboxd::http::openapi()).unwrap();
    insta::assert_json_snapshot!(document, { ".info.version" => "[version]" });
}

#[test]
fn bodies_of_requests_take_no_other_fields_than_those_described() {
    let document = serde_json::to_value(inboxd::http::openapi()).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        let is_change = name.starts_with("Update");
        let is_body = is_change
            || (name.starts_with("Create") && !name.starts_with("Created"))
            || ["AddAddress", "LimitsInput"].contains(&name.as_str());
        // `Updated` is an answer.
        let (is_change, is_body) = (is_change && name != "Updated", is_body && name != "Updated");
        assert_eq!(schema["additionalProperties"] == false, is_body, "{name}");
        assert_eq!(schema["minProperties"] == 1, is_change, "{name}");
    }
}

#[test]
fn headers_are_declared_on_the_answers_that_carry_them() {
    let document = serde_json::to_value(inboxd::http::openapi()).unwrap();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        if path == "/metrics" {
            continue;
        }
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let headers = &response["headers"];
                let declares = |name: &str| headers.get(name).is_some();
                let codes = response["x-codes"].as_array();
                let has = |code: &str| codes.is_some_and(|codes| codes.iter().any(|found| found == code));
                let call = format!("{method} {path} {status}");
                for (name, is_sent) in [
                    ("X-Request-Id", true),
                    ("RateLimit", status != "431"),
                    ("RateLimit-Policy", status != "431"),
                    (
                        "Retry-After",
                        ["429", "503"].contains(&status.as_str()) || has("IDEMPOTENCY_IN_PROGRESS"),
                    ),
                    ("WWW-Authenticate", status == "401"),
                    ("Accept-Encoding", status == "415"),
                    ("Location", status == "303"),
                    (
                        "Idempotent-Replayed",
                        operation["responses"].get("422").is_some() && status.starts_with('2'),
                    ),
                ] {
                    assert_eq!(declares(name), is_sent, "{name} of {call}");
                }
                if declares("ETag") {
                    assert!(["200", "304"].contains(&status.as_str()), "{call}");
                }
                let names = headers.as_object().into_iter().flat_map(|headers| headers.keys());
                for name in names {
                    seen.entry(name.clone()).or_default().insert(call.clone());
                }
            }
        }
    }
    assert_eq!(seen["ETag"].len(), 8, "{:?}", seen["ETag"]);
}

#[tokio::test]
async fn the_reference_page_needs_no_internet() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let page = reqwest::get(format!("{}/docs", daemon.base)).await.unwrap();
    assert_eq!(page.status(), 200);
    let html = page.text().await.unwrap();
    let mut linked = 0;
    for part in html.split(['"', '\'']) {
        assert!(
            !part.starts_with("http://") && !part.starts_with("https://") && !part.starts_with("//"),
            "{part}"
        );
        if part.starts_with("./") && !part.contains(' ') {
            let file = reqwest::get(format!("{}/docs/{part}", daemon.base))
                .await
                .unwrap();
            assert_eq!(file.status(), 200, "{part}");
            linked += 1;
        }
    }
    assert!(linked >= 3, "the page links nothing of its own:\n{html}");
}

#[tokio::test]
async fn the_reference_page_runs_scripts_from_files_of_its_own_only() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let page = reqwest::get(format!("{}/docs/", daemon.base)).await.unwrap();
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    let directives: Vec<&str> = policy.split("; ").collect();
    for needed in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&needed), "{needed}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let html = page.text().await.unwrap();
    // What the policy would block: scripts in the page itself.
    let mut scripts = 0;
    for script in html.split("<script").skip(1) {
        let (attributes, rest) = script.split_once('>').unwrap();
        let (inline, _) = rest.split_once("</script>").unwrap();
        assert!(
            attributes.contains(" src=\"./") && inline.trim().is_empty(),
            "<script{script}"
        );
        scripts += 1;
    }
    assert!(scripts >= 3, "{html}");
    for handler in [" onload=", " onerror=", " onclick=", "javascript:"] {
        assert!(!html.contains(handler), "{handler}");
    }
}

#[tokio::test]
async fn every_answer_says_what_browsers_must_not_do_with_it() {
    let daemon = Daemon::start(Database::Sqlite).await;
    for path in [
        "/docs/",
        "/docs/swagger-ui.css",
        "/openapi.json",
        "/healthz",
        "/v1/me",
        "/nowhere",
        "/docsx",
    ] {
        let answer = reqwest::get(format!("{}{path}", daemon.base)).await.unwrap();
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.headers()[name], value, "{path}");
        }
        let is_page = path.starts_with("/docs/");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert_eq!(policy.contains("script-src 'self'"), is_page, "{path}: {policy}");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
    }
}
