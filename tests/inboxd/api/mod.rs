//! The HTTP API without mail servers: what it answers, to whom, on both databases.

mod create;
