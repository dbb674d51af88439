//! Connections: accepted with limits, drained when the daemon stops.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Version, header},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tower_service::Service as _;

use super::{
    client_address::{ClientAddress, ConnectionCounts, CountedConnection, Peer},
    problem::{Code, Problem, RETRY_AFTER_SECONDS},
    proxies::TrustedProxies,
    settings::Settings,
    unread::TimedWrites,
    unread_body::RequestBody,
    watch::{REQUEST_ID, request_id},
};
use crate::telemetry::metric;

/// How long the head of the first request may take to arrive on a new connection.
const FIRST_HEAD_TIMEOUT_MS: u64 = 10_000;
/// How much longer than promised a connection without a request is kept open, so that a request that its caller sends at the
/// last moment still arrives. The head of every further request has to arrive in the same time.
const KEEP_ALIVE_MARGIN_MS: u64 = 5_000;
/// Says how long the connection is kept open without a request (RFC 2068, 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Most that is buffered of a connection, in octets, and most header lines that are parsed. Twice what a request may
/// have, which is checked where a refusal can be explained.
const BUFFER_MAX_OCTETS: usize = 64 * 1024;
const PARSED_LINES_MAX: usize = 128;
/// What the kernel takes of an answer before its caller takes it, in octets. The kernel doubles it for its own needs
/// (socket(7)); without a limit it takes several MiB.
const SEND_BUFFER_OCTETS: usize = 64 * 1024;
/// Most connections that are answered with a refusal at a time; more are closed without an answer.
const REFUSALS_MAX: usize = 64;
/// How long a refused connection is read from, so that its caller can read the refusal.
const REFUSAL_LINGER_MS: u64 = 1_000;
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;
/// How long a connection on which nothing is under way stays open when the daemon stops: a request that was sent before
/// its caller could know may have been received by the kernel, and not read yet.
const LINGER_MS: u64 = 300;
/// How long requests that are under way may take to finish when the daemon stops; longer than any of them may.
const DRAIN_TIMEOUT_MS: u64 = 35_000;

/// Serves until `stop` completes, then answers every request that was accepted, and returns.
///
/// From then on new connections are refused, and every answer says that it is the last of its connection (RFC 9112, 9.6).
/// Connections without a request are closed a little later, so that what was sent on them meanwhile is still read.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &Settings,
    stop: impl Future<Output = ()>,
) {
    let (stop_connections, stopping) = watch::channel(false);
    let limits = settings.connections;
    let mut acceptor = Acceptor::new(router, settings, stopping);
    let mut stop = std::pin::pin!(stop);
    loop {
        let has_room = acceptor.connections.len() < limits.max;
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, peer)) => acceptor.accept(stream, peer),
                Err(error) => pause_after(&error).await,
            },
            Some(ended) = acceptor.connections.join_next() => log_panic(ended),
            Some(ended) = acceptor.refusals.join_next() => log_panic(ended),
        }
    }
    stop_connections.send_replace(true);
    // Connections that the kernel has accepted for us count as accepted: take them all before closing the door.
    while let Some(Ok((stream, peer))) = futures_util::FutureExt::now_or_never(listener.accept()) {
        acceptor.accept(stream, peer);
    }
    drop(listener);
    let mut connections = acceptor.connections;
    let drained = tokio::time::timeout(Duration::from_millis(DRAIN_TIMEOUT_MS), async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "some connections did not end in time and are cut"
        );
    }
}

/// Makes a task of each connection.
struct Acceptor {
    server: Arc<Server>,
    counts: Arc<ConnectionCounts>,
    proxies: Arc<TrustedProxies>,
    connections: JoinSet<()>,
    refusals: JoinSet<()>,
}

impl Acceptor {
    fn new(router: Router, settings: &Settings, stopping: watch::Receiver<bool>) -> Self {
        let limits = settings.connections;
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.keep_alive + Duration::from_millis(KEEP_ALIVE_MARGIN_MS))
            .max_headers(PARSED_LINES_MAX)
            .max_buf_size(BUFFER_MAX_OCTETS);
        let promise = format!("timeout={}", limits.keep_alive.as_secs());
        Self {
            server: Arc::new(Server {
                builder,
                router,
                write_timeout: limits.write_timeout,
                keep_alive: HeaderValue::try_from(promise).unwrap_or(HeaderValue::from_static("timeout=1")),
                stopping,
            }),
            counts: ConnectionCounts::new(limits.per_address_max),
            proxies: Arc::clone(&settings.proxies),
            connections: JoinSet::new(),
            refusals: JoinSet::new(),
        }
    }

    fn accept(&mut self, stream: TcpStream, peer: SocketAddr) {
        // Connections of a proxy are those of all its clients.
        let is_counted = !self.proxies.contain(peer.ip());
        let counted = is_counted.then(|| self.counts.one_more(ClientAddress::from(peer.ip())));
        if !matches!(counted, Some(None)) {
            let server = Arc::clone(&self.server);
            let connection = server.serve_connection(stream, peer, counted.flatten());
            self.connections.spawn(connection);
            return;
        }
        metric::CONNECTIONS_REFUSED_TOTAL.increment(&[]);
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.spawn(refuse(stream));
        }
    }
}

/// What every connection is served with.
struct Server {
    builder: http1::Builder,
    router: Router,
    write_timeout: Duration,
    /// What every answer says whose connection is kept open.
    keep_alive: HeaderValue,
    stopping: watch::Receiver<bool>,
}

impl Server {
    async fn serve_connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        _counted: Option<CountedConnection>,
    ) {
        if let Err(error) = prepare(&stream, self.write_timeout) {
            tracing::debug!(%error, "cannot set an option of a connection");
        }
        let has_begun = AtomicBool::new(false);
        let service = service_fn(|mut request: Request<Incoming>| {
            has_begun.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Peer(peer));
            self.answer(request)
        });
        let stream = TokioIo::new(TimedWrites::new(stream, self.write_timeout));
        let mut connection = std::pin::pin!(self.builder.serve_connection(stream, service));
        let mut stopping = self.stopping.clone();
        let mut lingered = std::pin::pin!(async {
            // An error is a server that has gone, which is no reason to stay either.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            tokio::time::sleep(Duration::from_millis(LINGER_MS)).await;
        });
        let mut first_head = std::pin::pin!(async {
            tokio::time::sleep(Duration::from_millis(FIRST_HEAD_TIMEOUT_MS)).await;
            if has_begun.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        });
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = &mut first_head => {
                metric::CONNECTIONS_CUT_TOTAL.increment(&["silent"]);
                return;
            }
            () = &mut lingered => {
                // Closes it now, or after the request that is under way.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // The caller went away, or sent what is no HTTP; either is its business.
            tracing::debug!(error = %error, "a connection ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let is_kept = is_kept_alive(request.version(), request.headers());
        let (parts, incoming) = request.into_parts();
        let (body, left_unread) = RequestBody::new(incoming, &parts.headers);
        let mut response = self.router.clone().call(Request::from_parts(parts, body)).await?;
        let is_last = *self.stopping.borrow() || left_unread.get();
        let headers = response.headers_mut();
        if is_last {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if is_kept && !headers.contains_key(header::CONNECTION) {
            headers.insert(KEEP_ALIVE, self.keep_alive.clone());
        }
        Ok(response)
    }
}

/// Sets what no answer may wait for, and how much of it the kernel may hold, and for how long.
fn prepare(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    // Answers are whole when they are written: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER_OCTETS)?;
    socket.set_tcp_user_timeout(Some(write_timeout))
}

/// Whether a request leaves its connection open (RFC 9112, 9.3).
fn is_kept_alive(version: Version, headers: &HeaderMap) -> bool {
    let has = |wanted: &str| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case(wanted))
    };
    !has("close") && (version >= Version::HTTP_11 || has("keep-alive"))
}

/// Answers a connection that is refused, whatever it asks, and closes it. What it sends is read for a while: otherwise the
/// closing would take the answer with it (RFC 9112, 9.6).
async fn refuse(mut stream: TcpStream) {
    let body = Problem::new(
        Code::TooManyConnections,
        "this client address has as many connections as it may; use those again, or fewer",
    )
    .body()
    .to_string();
    let length = body.len();
    let id = request_id();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         retry-after: {RETRY_AFTER_SECONDS}\r\n{REQUEST_ID}: {id}\r\nconnection: close\r\n\r\n{body}"
    );
    let answered = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut octets = [0; 1024];
        while stream.read(&mut octets).await? > 0 {}
        io::Result::Ok(())
    };
    let limit = Duration::from_millis(REFUSAL_LINGER_MS);
    if let Ok(Err(error)) = tokio::time::timeout(limit, answered).await {
        tracing::debug!(%error, "a refused connection ended early");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a connection failed");
    }
}

async fn pause_after(error: &io::Error) {
    let of_one_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if !of_one_connection {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_kept_as_the_version_and_the_caller_say() {
        for (version, connection, is_kept) in [
            (Version::HTTP_11, None, true),
            (Version::HTTP_11, Some("keep-alive"), true),
            (Version::HTTP_11, Some("x, Close"), false),
            (Version::HTTP_10, None, false),
            (Version::HTTP_10, Some("Keep-Alive"), true),
            (Version::HTTP_10, Some("close"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(connection) = connection {
                headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            }
            assert_eq!(
                is_kept_alive(version, &headers),
                is_kept,
                "{version:?} {connection:?}"
            );
        }
    }
}
