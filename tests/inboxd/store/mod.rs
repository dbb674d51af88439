//! The store, one body run on SQLite and PostgreSQL.

mod addresses;
mod concurrency;
mod group;
mod idempotency;
mod inboxes;
mod keys;
mod opening;
mod plans;
mod pooler;
mod races;
mod removal;
mod schema;
mod tenants;
mod together;
mod tombstones;
mod unpublished;
mod workspaces;
