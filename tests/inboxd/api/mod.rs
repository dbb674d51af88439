//! The HTTP API without mail servers: what it answers, to whom, on both databases.

mod authorization;
mod bad_input;
mod create;
mod document;
mod faults;
mod idempotency;
mod inboxes;
mod operation;
mod shapes;
mod tenants;
mod workspaces;

/// One test body, run against a daemon on each database.
macro_rules! on_both_databases {
    ($(async fn $name:ident($daemon:ident) $body:block)+) => {$(
        mod $name {
            #[allow(unused_imports, clippy::allow_attributes, reason = "not every body names something of its file")]
            use super::*;

            async fn body($daemon: crate::support::daemon::Daemon) $body

            #[tokio::test]
            async fn sqlite() {
                body(crate::support::daemon::Daemon::start(crate::support::daemon::Database::Sqlite).await).await;
            }

            #[tokio::test]
            async fn postgres() {
                body(crate::support::daemon::Daemon::start(crate::support::daemon::Database::Postgres).await).await;
            }
        }
    )+};
}
use on_both_databases;
