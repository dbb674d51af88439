//! Connections: accepted with limits, drained when the daemon stops.

use std::{future::Future, io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

/// How long the head of a request may take to arrive.
const HEADER_TIMEOUT_MS: u64 = 10_000;
/// Largest head of a request, and most that is buffered of a connection, in octets.
const HEADERS_MAX_OCTETS: usize = 32 * 1024;
/// Most header lines of a request.
const HEADERS_MAX_LINES: usize = 64;
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 50;
/// How long requests that are under way may take to finish when the daemon stops; longer than any of them may.
const DRAIN_TIMEOUT_MS: u64 = 35_000;

/// Serves until `stop` completes, then answers every request that was accepted, and returns.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_TIMEOUT_MS))
        .max_headers(HEADERS_MAX_LINES)
        .max_buf_size(HEADERS_MAX_OCTETS);
    let connections = GracefulShutdown::new();
    let spawn = |stream: TcpStream| {
        // Answers are small and whole: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let service = TowerToHyperService::new(router.clone());
        let watched = connections.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                // The caller went away, or sent what is no HTTP; either is its business.
                tracing::debug!(error = %error, "a connection ended early");
            }
        });
    };

    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => spawn(stream),
                Err(error) => pause_after(&error).await,
            },
        }
    }
    // Connections that the kernel has accepted for us count as accepted: take them all before closing the door.
    while let Some(Ok((stream, _))) = futures_util::FutureExt::now_or_never(listener.accept()) {
        spawn(stream);
    }
    drop(listener);
    let drained = tokio::time::timeout(Duration::from_millis(DRAIN_TIMEOUT_MS), connections.shutdown()).await;
    if drained.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
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
