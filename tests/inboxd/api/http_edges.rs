//! Requests at the edges of HTTP: hosts, content codings, bodies that no call reads.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connections::{connect, everything_of, within};
use crate::support::daemon::{Daemon, Database};

/// Octets of a body that is far too large.
const LARGE: usize = 5_000_000;
/// Octets of a body without an end, of which the daemon must have had enough.
const ENDLESS_MAX: usize = 256 * 1024 * 1024;
/// Tries of a client that sends before it reads: which of both wins is a matter of luck.
const TRIES: usize = 24;

/// Sends this on a connection of its own: status, head in lower case, body.
async fn exchange(daemon: &Daemon, octets: &[u8]) -> (u16, String, Value) {
    let mut stream = connect(daemon).await;
    stream.write_all(octets).await.unwrap();
    parse(&everything_of(&mut stream).await)
}

fn parse(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    (status, head.to_lowercase(), body)
}

#[tokio::test]
async fn a_request_has_exactly_one_valid_host() {
    let daemon = Daemon::start(Database::Sqlite).await;
    for (hosts, status) in [
        ("Host: a\r\n", 200),
        ("Host: inbox.example.com:8080\r\n", 200),
        ("Host: [::1]:8080\r\n", 200),
        ("", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host: a\r\nHost: a\r\n", 400),
        ("Host: a b/c\r\n", 400),
        ("Host: \r\n", 400),
        ("Host: user@a\r\n", 400),
        ("Host: a:port\r\n", 400),
    ] {
        for target in ["/healthz", "/no-such-call", "http://a/healthz"] {
            let request = format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
            let (answered, head, body) = exchange(&daemon, request.as_bytes()).await;
            let expected = if status == 200 && target == "/no-such-call" {
                404
            } else {
                status
            };
            assert_eq!(answered, expected, "{request}{body}");
            assert!(head.contains("\r\nx-request-id: "), "{head}");
            if status == 400 {
                assert_eq!(
                    (&body["code"], &body["field"]),
                    (&json!("VALIDATION_ERROR"), &json!("host"))
                );
            }
        }
    }
    let old = "GET /healthz HTTP/1.0\r\n\r\n";
    assert_eq!(
        exchange(&daemon, old.as_bytes()).await.0,
        200,
        "HTTP/1.0 knows no Host"
    );
}

#[tokio::test]
async fn bodies_in_a_content_coding_are_refused_by_name() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let inbox = acme.post("/v1/inboxes", &json!({})).await.id().to_owned();
    for coding in [
        "gzip",
        "br",
        "deflate",
        "zstd",
        "x-made-up",
        "identity, gzip",
        "GZIP",
    ] {
        for (method, path) in [
            (Method::POST, "/v1/inboxes".to_owned()),
            (Method::PATCH, format!("/v1/inboxes/{inbox}")),
        ] {
            let request = acme.request(method, &path).header("Content-Encoding", coding);
            let answer = acme.send(request.body(vec![0x1f, 0x8b, 8, 0])).await;
            assert_eq!(answer.error(), (415, "UNSUPPORTED_CONTENT_ENCODING"), "{coding}");
            assert_eq!(answer.headers["accept-encoding"], "identity");
        }
    }
    for coding in ["identity", "Identity", ""] {
        let request = acme
            .request(Method::POST, "/v1/inboxes")
            .header("Content-Encoding", coding);
        assert_eq!(acme.send(request.body("{}")).await.status, 201, "{coding}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_read_to_its_end_so_that_its_answer_can_be() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    for (key, expected) in [
        (acme.key.as_str(), (413, "PAYLOAD_TOO_LARGE")),
        ("tk_no", (401, "INVALID_API_KEY")),
    ] {
        let mut stream = connect(&daemon).await;
        let head = format!(
            "POST /v1/inboxes HTTP/1.1\r\nHost: test\r\nX-API-Key: {key}\r\nContent-Length: {LARGE}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // All of it can be sent before anything is read.
        stream.write_all(&vec![b'x'; LARGE]).await.unwrap();
        let (status, head, body) = parse(&everything_of(&mut stream).await);
        assert_eq!((status, body["code"].as_str().unwrap()), expected);
        assert!(
            head.contains("\r\nconnection: close") && !head.contains("keep-alive"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_caller_that_asks_first_is_refused_before_it_sends() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    for (key, length, expected) in [
        (acme.key.as_str(), LARGE, 413),
        ("tk_no", LARGE, 401),
        ("tk_no", 10, 401),
    ] {
        let request = format!(
            "POST /v1/inboxes HTTP/1.1\r\nHost: test\r\nX-API-Key: {key}\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\n\r\n"
        );
        // `100 Continue` would be the first status.
        let (status, head, _) = exchange(&daemon, request.as_bytes()).await;
        assert_eq!(status, expected);
        assert!(head.contains("\r\nconnection: close"), "{head}");
    }
}

#[tokio::test]
async fn a_body_without_an_end_is_cut() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let mut stream = connect(&daemon).await;
    let head = "POST /v1/inboxes HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let mut answer = vec![0; 13];
    within("an answer", reading.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 401 ");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    let cut = within("the end of the connection", async {
        while sent < ENDLESS_MAX {
            if writing.write_all(chunk.as_bytes()).await.is_err() {
                return true;
            }
            sent += chunk.len();
        }
        false
    })
    .await;
    assert!(cut, "{sent} octets were taken");
    assert_eq!(daemon.api("").get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_small_body_that_no_call_reads_leaves_the_connection_open() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let mut stream = connect(&daemon).await;
    for _ in 0..3 {
        let request = "GET /healthz HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(b"{}").await.unwrap();
        let head = super::connections::answer_on(&mut stream).await;
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains("keep-alive: "),
            "{head}"
        );
    }
}

#[tokio::test]
async fn fetch_of_node_reads_the_refusal_of_a_large_body() {
    const SCRIPT: &str = r"
        const [url, key, tries, octets] = process.argv.slice(1);
        (async () => {
            const seen = {};
            for (let i = 0; i < Number(tries); i++) {
                let what;
                try {
                    const answer = await fetch(url, {method: 'POST', headers: {'X-API-Key': key}, body: 'x'.repeat(Number(octets))});
                    what = `${answer.status} ${(await answer.json()).code}`;
                } catch (error) {
                    what = String(error.cause ?? error);
                }
                seen[what] = (seen[what] ?? 0) + 1;
            }
            console.log(JSON.stringify(seen));
        })();
    ";
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    for (key, expected) in [
        (acme.key.as_str(), "413 PAYLOAD_TOO_LARGE"),
        ("tk_no", "401 INVALID_API_KEY"),
    ] {
        let output = Command::new("node")
            .args(["-e", SCRIPT, &format!("{}/v1/inboxes", daemon.base), key])
            .args([TRIES.to_string(), LARGE.to_string()])
            .output()
            .expect("apt-get install nodejs");
        assert!(output.status.success(), "{output:?}");
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen, json!({ expected: TRIES }));
    }
}
