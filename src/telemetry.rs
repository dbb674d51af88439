//! Logs and metrics: how a log line looks, and every metric's name.

use std::{
    error::Error,
    io::{self, IsTerminal as _},
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, fmt::writer::BoxMakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Names of metrics, each with its unit last.
pub mod metric {
    /// Requests answered; labels `route`, `method`, `status`.
    pub const REQUESTS_TOTAL: &str = "inboxd_http_requests_total";
    /// Time from the first octet of a request to its answer; labels `route`, `method`.
    pub const REQUEST_SECONDS: &str = "inboxd_http_request_seconds";
    /// Connections that were refused because their client address has as many as it may.
    pub const CONNECTIONS_REFUSED_TOTAL: &str = "inboxd_http_connections_refused_total";
    /// Connections that the daemon ended; label `reason`: `unread` (an answer was not taken in time) or `silent` (no request
    /// came in time on a new connection).
    pub const CONNECTIONS_CUT_TOTAL: &str = "inboxd_http_connections_cut_total";
    /// Calls that were refused because there were too many; labels `by` (`address` or `key`) and `class` (`reads`, `writes` or
    /// `costly`).
    pub const RATE_LIMITED_TOTAL: &str = "inboxd_http_rate_limited_total";
    /// Time that a change waits until the mail servers see it.
    pub const PUBLISH_SECONDS: &str = "inboxd_publish_seconds";
    /// Keys of the maps that share one batch and its flushes.
    pub const PUBLISH_BATCH_KEYS: &str = "inboxd_publish_batch_keys";
    /// Time from the publication of new logins until they are seen through the mail servers, or are given up: one for all
    /// of a batch.
    pub const BARRIER_SECONDS: &str = "inboxd_barrier_seconds";
    /// New logins that were not seen through the mail servers; label `reason`.
    pub const BARRIER_NOT_SEEN_TOTAL: &str = "inboxd_barrier_not_seen_total";
    /// Inboxes created (201); label `completed` is `true` where an unfinished creation was completed.
    pub const INBOXES_CREATED_TOTAL: &str = "inboxd_inboxes_created_total";
    /// Times that the store could not be reached.
    pub const STORE_UNAVAILABLE_TOTAL: &str = "inboxd_store_unavailable_total";
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where log lines go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogOutput {
    /// Standard error, where a program's own output must not be disturbed.
    Stderr,
    /// Standard output, as containers have it.
    Stdout,
}

/// What is logged, how and where.
#[derive(Clone, Debug)]
pub struct Logging {
    /// A directive of tracing-subscriber's `EnvFilter`, as `info` or `inboxd=debug`.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
    /// Where they go.
    pub output: LogOutput,
}

/// What is never logged, whatever the filter says: async-imap writes whole commands, passwords included, at `trace`.
const NEVER: &str = "async_imap=off";

/// Starts logging.
pub fn start_logging(logging: &Logging) -> Result<(), LogFilterError> {
    let never = NEVER.parse().map_err(LogFilterError)?;
    let filter = EnvFilter::try_new(&logging.filter)
        .map_err(LogFilterError)?
        .add_directive(never);
    let registry = tracing_subscriber::registry().with(filter);
    let (writer, is_terminal) = match logging.output {
        LogOutput::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        LogOutput::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false);
    let started = match logging.format {
        LogFormat::Text => registry.with(lines.with_ansi(is_terminal)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    // Already started, by a test that runs two daemons in one process: the first one's choice stays.
    drop(started);
    Ok(())
}

/// A log filter does not parse.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.filter: must be a level (error, warn, info, debug, trace) or directives such as inboxd=debug,info"
)]
pub struct LogFilterError(#[source] tracing_subscriber::filter::ParseError);

/// An error and everything beneath it, in one line: for the boundary that logs or prints it.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Records a duration.
pub fn seconds(name: &'static str, elapsed: Duration) {
    metrics::histogram!(name).record(elapsed.as_secs_f64());
}

/// Records a number of things.
pub fn count_of(name: &'static str, count: usize) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts this large do not occur, and a metric may round"
    )]
    metrics::histogram!(name).record(count as f64);
}
