//! The HTTP API without mail servers: what it answers, to whom, on both databases.

mod addresses;
mod authorization;
mod bad_input;
mod bootstrap;
mod certificate;
mod clients;
mod connections;
mod create;
mod deletions;
mod document;
mod domains;
mod etag;
mod faults;
mod fields;
mod fronts;
mod healthcheck;
mod http_edges;
mod idempotency;
mod inboxes;
mod metrics;
mod operation;
mod prometheus;
mod rates;
mod shapes;
mod tenants;
mod tombstones;
mod workspaces;

/// One test body, run against a daemon on each database.
macro_rules! on_both_databases {
    ($(async fn $name:ident($daemon:ident) $body:block)+) => {$(
        async fn $name($daemon: crate::support::daemon::Daemon) $body

        mod $name {
            use crate::support::daemon::{Daemon, Database};

            #[tokio::test]
            async fn sqlite() {
                super::$name(Daemon::start(Database::Sqlite).await).await;
            }

            #[tokio::test]
            async fn postgres() {
                super::$name(Daemon::start(Database::Postgres).await).await;
            }
        }
    )+};
}
use on_both_databases;
