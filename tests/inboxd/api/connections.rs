//! Connections: how many there may be, how long they stay, and what callers that read nothing hold.

use std::{future::Future, net::SocketAddr};

use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::on_both_databases;
use crate::support::{
    Folder,
    api::Api,
    daemon::{Daemon, Database},
    wait::{LIMIT, until},
};

/// Octets of one page of a list, as the service promises.
const PAGE_OCTETS: usize = 1024 * 1024;
/// Octets that a caller who reads nothing has the kernel take.
const RECEIVE_BUFFER_OCTETS: u32 = 4096;
/// Callers that read nothing.
const UNREAD: usize = 12;
/// Agents behind one address.
const AGENTS: usize = 500;

pub(super) async fn daemon_with(extra: &str) -> Daemon {
    Daemon::with_config(Database::Sqlite, Folder::new(), extra).await
}

fn address(daemon: &Daemon) -> SocketAddr {
    daemon.base.strip_prefix("http://").unwrap().parse().unwrap()
}

pub(super) async fn connect(daemon: &Daemon) -> TcpStream {
    TcpStream::connect(address(daemon)).await.unwrap()
}

fn request(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-API-Key: {key}\r\n\r\n")
}

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(LIMIT, future).await;
    ended.unwrap_or_else(|_| panic!("waited {LIMIT:?} in vain: {what}"))
}

/// What comes until the connection ends, whichever way it ends.
pub(super) async fn everything_of(stream: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    let read = within("the end of the connection", stream.read_to_end(&mut octets)).await;
    drop(read);
    String::from_utf8(octets).unwrap()
}

/// The head of the next answer; its body is read, too.
pub(super) async fn answer_on(stream: &mut TcpStream) -> String {
    within("an answer", try_answer_on(stream)).await.unwrap()
}

async fn try_answer_on(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await?;
    Ok(head)
}

/// A connection on which a request was answered; there may have to be room for it first.
async fn served_connection(daemon: &Daemon) -> TcpStream {
    until("a connection is served", || async {
        let mut stream = connect(daemon).await;
        stream.write_all(request("/healthz", "").as_bytes()).await.ok()?;
        let head = try_answer_on(&mut stream).await.ok()?;
        head.starts_with("http/1.1 200 ").then_some(stream)
    })
    .await
}

/// Gives a tenant so many inboxes, each with this metadata.
async fn fill(acme: &Api, inboxes: usize, metadata: &Value) {
    let made = stream::iter(0..inboxes).map(|_| async {
        let inbox = acme.post("/v1/inboxes", &json!({})).await;
        let changed = json!({ "metadata": metadata });
        let path = format!("/v1/inboxes/{}", inbox.id());
        assert_eq!(acme.patch(&path, &changed).await.status, 200);
    });
    made.buffer_unordered(8).collect::<Vec<_>>().await;
}

on_both_databases! {
    async fn pages_are_bounded_in_octets_and_go_on(daemon) {
        const INBOXES: usize = 150;
        let acme = daemon.tenant("Acme").await;
        fill(&acme, INBOXES, &json!({"m": "x".repeat(16_000)})).await;
        let (mut seen, mut pages, mut path) = (Vec::new(), 0, "/v1/inboxes".to_owned());
        loop {
            let page = acme.get(&path).await;
            assert_eq!(page.status, 200);
            assert!(page.body.to_string().len() <= PAGE_OCTETS + 1024, "{}", page.body.to_string().len());
            let inboxes = page.body["inboxes"].as_array().unwrap();
            assert!(inboxes.len() > 10, "{} inboxes in a page", inboxes.len());
            assert_eq!(page.body["pagination"]["limit"], 1000);
            seen.extend(inboxes.iter().map(|inbox| inbox["id"].as_str().unwrap().to_owned()));
            pages += 1;
            match page.body["pagination"]["nextCursor"].as_str() {
                Some(cursor) => path = format!("/v1/inboxes?cursor={cursor}"),
                None => break,
            }
        }
        assert!(pages >= 3, "{pages} pages");
        assert_eq!(seen.len(), INBOXES);
        assert!(seen.is_sorted_by(|newer, older| newer > older), "an inbox comes twice, or out of order");
    }
}

#[tokio::test]
async fn many_addresses_of_an_inbox_count_too_and_the_metadata_comes_once() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let metadata = json!({"m": "x".repeat(16_000)});
    fill(&acme, 1, &metadata).await;
    let inbox = acme.get("/v1/inboxes").await.body["inboxes"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for n in 0..20 {
        let added = acme
            .post(
                &format!("/v1/inboxes/{inbox}/addresses"),
                &json!({"email": format!("a{n}@inboxd.test")}),
            )
            .await;
        assert_eq!(added.status, 201, "{added:?}");
    }
    // Another one than the oldest is primary.
    let primary = acme
        .post(
            &format!("/v1/inboxes/{inbox}/addresses"),
            &json!({"email": "zz@inboxd.test", "primary": true}),
        )
        .await;
    assert_eq!(primary.status, 201, "{primary:?}");
    for path in ["/v1/inboxes".to_owned(), format!("/v1/inboxes/{inbox}")] {
        let answer = acme.get(&path).await.body;
        let shown = answer["inboxes"].get(0).unwrap_or(&answer);
        assert_eq!(shown["metadata"], metadata, "{path}");
        assert_eq!(shown["addresses"].as_array().unwrap().len(), 22, "{path}");
    }
}

#[tokio::test]
async fn answers_that_are_not_read_are_cut_and_delay_no_other_tenant() {
    let daemon = daemon_with("http.write_timeout_s = 1").await;
    let acme = daemon.tenant("Acme").await;
    let other = daemon.tenant("Other").await;
    fill(&acme, 70, &json!({"m": "x".repeat(16_000)})).await;
    fill(&other, 2, &json!({"m": "x".repeat(16_000)})).await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER_OCTETS).unwrap();
        let mut stream = socket.connect(address(&daemon)).await.unwrap();
        stream
            .write_all(request("/v1/inboxes", &acme.key).as_bytes())
            .await
            .unwrap();
        unread.push(stream);
    }
    // Acme's callers have taken all pages that Acme may have; the other tenant has its own.
    assert_eq!(other.get("/v1/inboxes").await.status, 200);
    until("all are cut", || async {
        let cut = daemon
            .metric::<usize>("inboxd_http_connections_cut_total{reason=\"unread\"}")
            .await;
        (cut == Some(UNREAD)).then_some(())
    })
    .await;
    drop(unread);
    let whole = acme.get("/v1/inboxes").await;
    assert_eq!(whole.status, 200);
    assert!(whole.body["inboxes"].as_array().unwrap().len() > 10);
}

#[tokio::test]
async fn answers_that_are_read_slowly_arrive_whole() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    fill(&acme, 70, &json!({"m": "x".repeat(16_000)})).await;
    let expected = acme.get("/v1/inboxes").await.body;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_OCTETS).unwrap();
    let mut stream = socket.connect(address(&daemon)).await.unwrap();
    let last = request("/v1/inboxes", &acme.key).replace("Host", "Connection: close\r\nHost");
    stream.write_all(last.as_bytes()).await.unwrap();
    let answer = everything_of(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("keep-alive"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
}

#[tokio::test]
async fn connections_are_kept_for_the_time_that_their_answers_say() {
    let daemon = daemon_with("http.keep_alive_s = 1").await;
    let mut stream = connect(&daemon).await;
    for _ in 0..2 {
        stream
            .write_all(request("/healthz", "").as_bytes())
            .await
            .unwrap();
        let head = answer_on(&mut stream).await;
        assert!(head.contains("\r\nkeep-alive: timeout=1\r\n"), "{head}");
    }
    // Nothing more comes; the end does.
    assert_eq!(everything_of(&mut stream).await, "");

    let daemon = Daemon::start(Database::Sqlite).await;
    let mut stream = connect(&daemon).await;
    stream.write_all(request("/v1/me", "").as_bytes()).await.unwrap();
    let head = answer_on(&mut stream).await;
    assert!(head.starts_with("http/1.1 401 "), "{head}");
    assert!(head.contains("\r\nkeep-alive: timeout=60\r\n"), "{head}");
    let http_1_0 = "GET /healthz HTTP/1.0\r\n\r\n";
    let mut stream = connect(&daemon).await;
    stream.write_all(http_1_0.as_bytes()).await.unwrap();
    let answer = everything_of(&mut stream).await.to_lowercase();
    assert!(
        answer.starts_with("http/1.") && !answer.contains("keep-alive:"),
        "{answer}"
    );
}

#[tokio::test]
async fn connections_on_which_no_request_comes_are_cut() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let mut silent = connect(&daemon).await;
    let mut begun = connect(&daemon).await;
    begun
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: te")
        .await
        .unwrap();
    for stream in [&mut silent, &mut begun] {
        assert_eq!(everything_of(stream).await, "");
    }
    let cut = daemon
        .metric::<usize>("inboxd_http_connections_cut_total{reason=\"silent\"}")
        .await;
    assert_eq!(cut, Some(2));
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_more_are_refused() {
    let daemon = daemon_with("http.connections_per_address_max = 3").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(served_connection(&daemon).await);
    }
    let mut refused = connect(&daemon).await;
    refused
        .write_all(request("/healthz", "").as_bytes())
        .await
        .unwrap();
    let answer = everything_of(&mut refused).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    for name in [
        "\r\nx-request-id: ",
        "\r\nretry-after: 1",
        "\r\nconnection: close",
    ] {
        assert!(head.contains(name), "no {name} in {head}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "TOO_MANY_CONNECTIONS");
    assert!(!body["error"].as_str().unwrap().is_empty());
    // Those that are open are served, and one that ends makes room.
    open[0]
        .write_all(request("/healthz", "").as_bytes())
        .await
        .unwrap();
    assert!(answer_on(&mut open[0]).await.starts_with("http/1.1 200 "));
    open.pop();
    served_connection(&daemon).await;
}

#[tokio::test]
async fn more_connections_than_there_may_be_wait_for_one_to_end() {
    let daemon = daemon_with("http.connections_max = 2\nhttp.connections_per_address_max = 2").await;
    let mut first = served_connection(&daemon).await;
    let second = served_connection(&daemon).await;
    // The kernel takes it; the daemon does when it has room.
    let mut waiting = connect(&daemon).await;
    waiting
        .write_all(request("/healthz", "").as_bytes())
        .await
        .unwrap();
    first.write_all(request("/healthz", "").as_bytes()).await.unwrap();
    answer_on(&mut first).await;
    drop(second);
    assert!(answer_on(&mut waiting).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn five_hundred_agents_behind_one_address_are_served_at_a_time() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let agents = (0..AGENTS).map(|_| async {
        let mut stream = connect(&daemon).await;
        stream
            .write_all(request("/v1/me", &acme.key).as_bytes())
            .await
            .unwrap();
        let head = answer_on(&mut stream).await;
        (head, stream)
    });
    let answered = join_all(agents).await;
    for (head, _) in &answered {
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    }
    // All of them are connected still.
    assert_eq!(acme.get("/v1/me").await.status, 200);
}
