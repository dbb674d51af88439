//! The store, one body run on SQLite and PostgreSQL.

mod addresses;
mod concurrency;
mod idempotency;
mod inboxes;
mod keys;
mod opening;
mod plans;
mod races;
mod schema;
mod tenants;
mod unpublished;
mod workspaces;
