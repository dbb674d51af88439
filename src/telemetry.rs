//! Logs and metrics: how a log line looks, and the table of every metric.

use std::{
    error::Error,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::{
    EnvFilter, fmt::writer::BoxMakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

pub mod exposition;

/// Metrics: each is declared once, in one table, and what is recorded goes through it.
///
/// A label value that the table does not list is recorded as [`OTHER`](metric::OTHER), so what callers send cannot
/// make a series of its own.
pub mod metric {
    use std::time::Duration;

    use super::exposition::{self, Labels};

    /// The value of a label for everything that the table does not list.
    pub const OTHER: &str = "other";

    /// A metric, with all that is known of it before anything was measured.
    #[derive(Clone, Copy, Debug)]
    pub struct Metric {
        /// Its name: base unit last, `_total` for a counter.
        pub name: &'static str,
        /// How it is measured.
        pub kind: Kind,
        /// Its labels, in the order in which their values are given.
        pub labels: &'static [(&'static str, Values)],
        /// What it means, in one sentence.
        pub help: &'static str,
    }

    /// How a metric is measured.
    #[derive(Clone, Copy, Debug)]
    pub enum Kind {
        /// A number of events, which only grows.
        Counter,
        /// Observations in classic buckets, given by their upper bounds: the counts of several daemons can be added.
        Histogram(&'static [f64]),
    }

    /// The values that a label can have.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Values {
        /// These, and [`OTHER`].
        Listed(&'static [&'static str]),
        /// The patterns of the HTTP API's calls, and `none`.
        Routes,
    }

    /// Bounds for durations that callers wait for, in seconds, up to the time limit of a call.
    const DURATION_BUCKETS: &[f64] = &[
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ];
    /// Bounds for the readiness barrier, in seconds, up to its time limit.
    const BARRIER_BUCKETS: &[f64] = &[
        0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.000_75, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0,
        2.5,
    ];
    /// Bounds for the keys of a batch, up to the most that one takes.
    const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

    /// HTTP methods (RFC 9110, 9.3; RFC 5789). Any other is a caller's invention.
    const METHODS: Values = Values::Listed(&[
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
    ]);
    /// Statuses that the API answers.
    const STATUSES: Values = Values::Listed(&[
        "200", "201", "202", "204", "303", "304", "400", "401", "403", "404", "405", "406", "408", "409",
        "410", "411", "412", "413", "414", "415", "422", "428", "429", "431", "500", "503",
    ]);
    const BOOLEANS: Values = Values::Listed(&["false", "true"]);
    /// Why a login was not seen (`publish::barrier::NotSeen`).
    const NOT_SEEN_REASONS: Values = Values::Listed(&[
        "no_answer",
        "no_listener",
        "no_server",
        "other_entry",
        "postfix",
        "unknown",
        "unreadable",
    ]);

    /// Why a connection was ended (`http::server`).
    const CUT_REASONS: Values = Values::Listed(&["silent", "unread"]);
    /// Whose rate of calls is limited (`http::rates`), and of which calls.
    const RATE_OWNERS: Values = Values::Listed(&["address", "key"]);
    const RATE_CLASSES: Values = Values::Listed(&["costly", "reads", "writes"]);
    /// Whose sessions are limited (`model::session_share`).
    const SHARES: Values = Values::Listed(&["inbox", "tenant"]);
    /// What came of passwords that Dovecot handed over (`daemon::replace_hashes`).
    const COSTLY_HASH_OUTCOMES: Values =
        Values::Listed(&["dropped", "failed", "kept", "malformed", "replaced", "stale"]);
    /// Tables that deleted rows are removed from.
    const REMOVED_TABLES: Values =
        Values::Listed(&["addresses", "api_keys", "domains", "inboxes", "workspaces"]);

    macro_rules! declare {
        ($($constant:ident = $name:literal, $kind:expr, [$(($label:literal, $values:expr)),*], $help:literal;)+) => {
            $(
                #[doc = $help]
                pub const $constant: Metric =
                    Metric { name: $name, kind: $kind, labels: &[$(($label, $values)),*], help: $help };
            )+
            /// All metrics.
            pub const ALL: &[Metric] = &[$($constant),+];
        };
    }

    declare! {
        REQUESTS_TOTAL = "inboxd_http_requests_total", Kind::Counter,
            [("method", METHODS), ("route", Values::Routes), ("status", STATUSES)],
            "Requests answered.";
        REQUEST_DURATION_SECONDS = "inboxd_http_request_duration_seconds", Kind::Histogram(DURATION_BUCKETS),
            [("method", METHODS), ("route", Values::Routes)],
            "Time from the head of a request to its answer.";
        CONNECTIONS_REFUSED_TOTAL = "inboxd_http_connections_refused_total", Kind::Counter, [],
            "Connections that were refused because their client address has as many as it may.";
        CONNECTIONS_CUT_TOTAL = "inboxd_http_connections_cut_total", Kind::Counter, [("reason", CUT_REASONS)],
            "Connections that the daemon ended: an answer was not taken in time, or no request came on a new one.";
        RATE_LIMITED_TOTAL = "inboxd_http_rate_limited_total", Kind::Counter, [("by", RATE_OWNERS), ("class", RATE_CLASSES)],
            "Calls that were refused with 429, because a client address or a key called too often.";
        IMAP_LOGINS_REFUSED_TOTAL = "inboxd_imap_logins_refused_total", Kind::Counter, [("share", SHARES)],
            "IMAP logins with a right password that were refused because their inbox or tenant has as many sessions as it may.";
        INTERNAL_ERRORS_TOTAL = "inboxd_internal_errors_total", Kind::Counter, [],
            "Requests answered 500; each is a bug.";
        STORE_UNAVAILABLE_TOTAL = "inboxd_store_unavailable_total", Kind::Counter, [],
            "Requests that failed because the store did not answer.";
        PUBLISH_DURATION_SECONDS = "inboxd_publish_duration_seconds", Kind::Histogram(DURATION_BUCKETS), [],
            "Time that a change waits until the mail servers have it: queue, writing, flushing, ending sessions.";
        PUBLISH_FAILURES_TOTAL = "inboxd_publish_failures_total", Kind::Counter, [],
            "Batches that could not be written to the maps of the mail servers.";
        PUBLISH_BATCH_KEYS = "inboxd_publish_batch_keys", Kind::Histogram(BATCH_BUCKETS), [],
            "Keys of the maps that share one batch and its flushes.";
        BARRIER_DURATION_SECONDS = "inboxd_barrier_duration_seconds", Kind::Histogram(BARRIER_BUCKETS), [],
            "Time from the publication of new logins until they were visible through the mail servers, or given up.";
        BARRIER_NOT_SEEN_TOTAL = "inboxd_barrier_not_seen_total", Kind::Counter, [("reason", NOT_SEEN_REASONS)],
            "New logins that were not visible through the mail servers.";
        ROWS_REMOVED_TOTAL = "inboxd_rows_removed_total", Kind::Counter, [("table", REMOVED_TABLES)],
            "Rows of deleted things that nothing needed any more, removed from the store.";
        COSTLY_HASHES_TOTAL = "inboxd_costly_hashes_total", Kind::Counter, [("outcome", COSTLY_HASH_OUTCOMES)],
            "Logins with a costly password hash, by what became of the hash.";
        INBOXES_CREATED_TOTAL = "inboxd_inboxes_created_total", Kind::Counter, [("completed", BOOLEANS)],
            "Inboxes created (201); completed is true where an unacknowledged creation was completed.";
    }

    impl Metric {
        /// Counts one event. There are as many values as labels.
        pub fn increment(&self, values: &[&str]) {
            self.add(1, values);
        }

        /// Counts events. There are as many values as labels.
        pub fn add(&self, events: u64, values: &[&str]) {
            exposition::add(self.name, &self.labels_of(values), events);
        }

        /// Observes a duration. There are as many values as labels.
        pub fn observe(&self, elapsed: Duration, values: &[&str]) {
            exposition::observe(self.name, &self.labels_of(values), Some(elapsed.as_secs_f64()));
        }

        /// Observes a number of things.
        pub fn observe_count(&self, count: usize) {
            #[expect(
                clippy::cast_precision_loss,
                reason = "counts this large do not occur, and a metric may round"
            )]
            exposition::observe(self.name, &Labels::new(), Some(count as f64));
        }

        fn labels_of(&self, values: &[&str]) -> Labels {
            assert_eq!(self.labels.len(), values.len(), "labels of {}", self.name);
            self.labels
                .iter()
                .zip(values)
                .map(|((label, allowed), value)| (*label, allowed.closed(value)))
                .collect()
        }

        /// Makes the series exist, at zero, that can be named before anything happened: a rate over a counter that
        /// first appears at one would miss its first event.
        fn start(&self) {
            match (self.kind, self.labels) {
                (Kind::Histogram(..), []) => exposition::observe(self.name, &Labels::new(), None),
                (Kind::Histogram(..), _) => {}
                (Kind::Counter, labels) => {
                    let Some(values) = labels.iter().map(|(_, values)| values.listed()).collect() else {
                        return;
                    };
                    for values in combinations(values) {
                        self.add(0, &values);
                    }
                }
            }
        }
    }

    /// Every choice of one value of each list.
    fn combinations(lists: Vec<&'static [&'static str]>) -> Vec<Vec<&'static str>> {
        lists.into_iter().fold(vec![Vec::new()], |chosen, list| {
            let with = |value: &&'static str| {
                let value = *value;
                chosen
                    .iter()
                    .map(move |values| [values.as_slice(), &[value]].concat())
            };
            list.iter().flat_map(with).collect()
        })
    }

    impl Values {
        /// The values, if they are known before anything happened.
        fn listed(self) -> Option<&'static [&'static str]> {
            match self {
                Self::Listed(values) => Some(values),
                Self::Routes => None,
            }
        }

        fn closed(self, value: &str) -> String {
            match self {
                Self::Listed(values) if !values.contains(&value) => OTHER.to_owned(),
                Self::Listed(_) | Self::Routes => value.to_owned(),
            }
        }
    }

    /// Makes the series exist that start at zero.
    pub fn start() {
        for metric in ALL {
            metric.start();
        }
    }
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
        // A log that nobody reads any more must not end the program: it would be reported on standard error, which
        // may be the same closed pipe, and failing there is a panic.
        .log_internal_errors(false)
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
