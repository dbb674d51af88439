//! The store, one body run on SQLite and PostgreSQL.

mod addresses;
mod concurrency;
mod domain_lists;
mod domains;
mod group;
mod handover;
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
