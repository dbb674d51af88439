//! Connections: accepted with limits, drained when the daemon stops.

use std::{future::Future, io, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::map_response,
    response::Response,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How long the head of a request may take to arrive.
const HEADER_TIMEOUT_MS: u64 = 10_000;
/// Most that is buffered of a connection, in octets, and most header lines that are parsed. Twice what a request may
/// have, which is checked where a refusal can be explained.
const BUFFER_MAX_OCTETS: usize = 64 * 1024;
const PARSED_LINES_MAX: usize = 128;
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
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let (stop_connections, stopping) = watch::channel(false);
    let says_so = stopping.clone();
    let router = router.layer(map_response(move |response| {
        std::future::ready(last_of_its_connection(response, *says_so.borrow()))
    }));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_TIMEOUT_MS))
        .max_headers(PARSED_LINES_MAX)
        .max_buf_size(BUFFER_MAX_OCTETS);
    let mut connections = JoinSet::new();
    let spawn = |connections: &mut JoinSet<()>, stream: TcpStream| {
        connections.spawn(serve_connection(
            builder.clone(),
            stream,
            router.clone(),
            stopping.clone(),
        ));
    };

    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => spawn(&mut connections, stream),
                Err(error) => pause_after(&error).await,
            },
            Some(ended) = connections.join_next() => log_panic(ended),
        }
    }
    stop_connections.send_replace(true);
    // Connections that the kernel has accepted for us count as accepted: take them all before closing the door.
    while let Some(Ok((stream, _))) = futures_util::FutureExt::now_or_never(listener.accept()) {
        spawn(&mut connections, stream);
    }
    drop(listener);
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

async fn serve_connection(
    builder: http1::Builder,
    stream: TcpStream,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    // Answers are small and whole: waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let lingered = async {
        // An error is a server that has gone, which is no reason to stay either.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(Duration::from_millis(LINGER_MS)).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = lingered => {
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

fn last_of_its_connection(mut response: Response, is_last: bool) -> Response {
    if is_last {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
