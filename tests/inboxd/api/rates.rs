//! How often an address and a key may call.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::connections::daemon_with;
use crate::support::{
    api::{Answer, Api},
    daemon::Daemon,
};

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

/// Calls until it is refused, which must say when the next call is possible. On a busy machine some of a quota comes back
/// between two calls.
async fn until_limited(policy: &str, call: impl AsyncFn() -> Answer) {
    const CALLS_MAX: usize = 100;
    for _ in 0..CALLS_MAX {
        let answer = call().await;
        if answer.status != 429 {
            continue;
        }
        assert_eq!(answer.code(), "RATE_LIMITED", "{answer:?}");
        let wait: u64 = header(&answer, "retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{answer:?}");
        assert_eq!(header(&answer, "ratelimit-policy"), policy);
        assert!(header(&answer, "ratelimit").contains(";r=0;t="), "{answer:?}");
        return;
    }
    panic!("{CALLS_MAX} calls were not too many for {policy}");
}

/// A call that changes something, without a key, from this client as a proxy names it.
fn forwarded(anybody: &Api, field: &'static str, client: &str) -> RequestBuilder {
    anybody.request(Method::POST, "/v1/inboxes").header(field, client)
}

/// How many calls were refused, by what is counted.
async fn limited_by(daemon: &Daemon, by: &str, class: &str) -> u64 {
    let name = format!("inboxd_http_rate_limited_total{{by=\"{by}\",class=\"{class}\"}}");
    daemon.metric(&name).await.unwrap_or(0)
}

#[tokio::test]
async fn a_key_has_quotas_of_its_own_for_each_kind_of_call() {
    let daemon = daemon_with(
        "rates.key_writes_per_minute = 3\nrates.key_reads_per_minute = 5\nrates.key_costly_per_minute = 2",
    )
    .await;
    let acme = daemon.tenant("Acme").await;
    for _ in 0..3 {
        let made = acme.post("/v1/inboxes", &json!({})).await;
        assert_eq!(made.status, 201);
        assert_eq!(header(&made, "ratelimit-policy"), "\"key-writes\";q=3;w=60");
        let left = header(&made, "ratelimit");
        assert!(
            left.starts_with("\"key-writes\";r=") && left.contains(";t="),
            "{left}"
        );
    }
    until_limited("\"key-writes\";q=3;w=60", async || {
        acme.post("/v1/inboxes", &json!({})).await
    })
    .await;
    for _ in 0..5 {
        assert_eq!(acme.get("/v1/me").await.status, 200);
    }
    until_limited("\"key-reads\";q=5;w=60", async || acme.get("/v1/inboxes").await).await;
    // What is refused for another reason counts, too.
    let domains = json!({"domain": "no domain"});
    for _ in 0..2 {
        assert_eq!(acme.post("/v1/domains", &domains).await.status, 400);
    }
    until_limited("\"key-costly\";q=2;w=60", async || {
        acme.get("/v1/domains/example.com/verify").await
    })
    .await;
    // Another key has all of its own, and what has no key has none to count.
    let other = daemon.tenant("Other").await;
    assert_eq!(other.post("/v1/inboxes", &json!({})).await.status, 201);
    let anybody = daemon.api("").get("/v1/me").await;
    assert_eq!(anybody.error(), (401, "MISSING_API_KEY"));
    assert!(header(&anybody, "ratelimit-policy").starts_with("\"address-reads\";"));
    for class in ["writes", "reads", "costly"] {
        assert_eq!(limited_by(&daemon, "key", class).await, 1, "{class}");
    }
}

#[tokio::test]
async fn an_address_has_a_quota_before_its_key_is_looked_up() {
    let daemon = daemon_with("rates.address_writes_per_minute = 5").await;
    let acme = daemon.tenant("Acme").await;
    let guess = acme.with_key("tk_wrong");
    for _ in 0..4 {
        assert_eq!(guess.post("/v1/inboxes", &json!({})).await.status, 401);
    }
    let policy = "\"address-writes\";q=5;w=60";
    until_limited(policy, async || guess.post("/v1/inboxes", &json!({})).await).await;
    until_limited(policy, async || acme.post("/v1/inboxes", &json!({})).await).await;
    until_limited(policy, async || acme.post("/no-such-call", &json!({})).await).await;
    // Reads are counted apart. A header that anybody can write changes nothing.
    assert_eq!(acme.get("/v1/me").await.status, 200);
    for field in ["X-Forwarded-For", "Forwarded"] {
        until_limited(policy, async || {
            acme.send(forwarded(&acme, field, "192.0.2.1")).await
        })
        .await;
    }
    assert_eq!(limited_by(&daemon, "address", "writes").await, 5);
    assert_eq!(limited_by(&daemon, "key", "writes").await, 0);
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_clients_are_counted_apart() {
    for (field, other, of) in [
        (
            "X-Forwarded-For",
            "Forwarded",
            &(|client: &str| client.to_owned()) as &dyn Fn(&str) -> String,
        ),
        ("Forwarded", "X-Forwarded-For", &|client: &str| {
            format!("for={client}")
        }),
    ] {
        let daemon = daemon_with(&format!(
            "rates.address_writes_per_minute = 3\nhttp.trusted_proxies = [\"127.0.0.0/8\"]\n\
             http.forwarded_header = \"{field}\"\nhttp.connections_per_address_max = 1"
        ))
        .await;
        let anybody = daemon.api("");
        let call = async |client: &str| {
            let request = forwarded(&anybody, field, &of(client)).header(other, of("198.51.100.77"));
            anybody.send(request).await
        };
        for _ in 0..3 {
            assert_eq!(call("192.0.2.1").await.status, 401);
        }
        let policy = "\"address-writes\";q=3;w=60";
        until_limited(policy, async || call("192.0.2.1").await).await;
        assert_eq!(call("192.0.2.2").await.status, 401, "another client");
        // What it wrote itself stands before what the proxy wrote.
        let both = format!("{}, {}", of("192.0.2.3"), of("192.0.2.1"));
        until_limited(policy, async || {
            anybody.send(forwarded(&anybody, field, &both)).await
        })
        .await;
        // The proxy may have more connections than one client.
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut stream = super::connections::connect(&daemon).await;
            let request = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, request)
                .await
                .unwrap();
            let head = super::connections::answer_on(&mut stream).await;
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            open.push(stream);
        }
    }
}

#[tokio::test]
async fn quotas_can_be_turned_off() {
    let keys = ["address_reads", "address_writes", "key_reads", "key_writes"];
    let off = keys.map(|key| format!("rates.{key}_per_minute = 0\n")).concat();
    let daemon = daemon_with(&off).await;
    let acme = daemon.tenant("Acme").await;
    for answer in [
        acme.post("/v1/inboxes", &json!({})).await,
        acme.get("/v1/me").await,
    ] {
        assert!(
            answer.status < 300 && !answer.headers.contains_key("ratelimit"),
            "{answer:?}"
        );
        assert!(!answer.headers.contains_key("ratelimit-policy"), "{answer:?}");
    }
}
