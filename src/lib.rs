//! inboxd: a stock Dovecot + Postfix host as an inbox API.
//!
//! This is the map of the crate, from what is true to whom it is told.
//!
//! - [`clock`]: time and randomness, as arguments. Nothing else asks the machine for either, so a test can say what both
//!   are.
//! - [`model`]: tenants, inboxes, names, keys, passwords: types that cannot hold a wrong value, and the decisions that need
//!   nothing but values, such as which name a request gets. No I/O, no async, no SQL.
//! - [`telemetry`]: how a log line looks, and the table of every metric.
//! - [`store`]: what is true, in SQLite or PostgreSQL. The only module with SQL; one file per aggregate, one text per
//!   statement for both databases.
//! - [`maps`]: what Dovecot and Postfix see of the store: a file a mailbox and four LMDB tables. The only `unsafe` is the
//!   opening of a table.
//! - [`publish`]: from the store to the maps, before the answer; what could not be published later; the comparison of all
//!   of both, at start and on demand; all of the maps written anew.
//! - [`ops`]: the use cases, one function each: a caller, a typed request, one transaction. They say what is to be
//!   published, and leave the publishing to whoever answers.
//! - [`mail`]: the mail servers as a client sees them: IMAP, SMTP, Dovecot's administration socket, and the probe of one
//!   inbox end to end.
//! - [`dns`]: what DNS says of the records of custom domains, asked with limits; what that means is the model's to say.
//! - [`stack`]: configuration for Dovecot and Postfix, rendered, and the private stack made of it. Knows nothing of the
//!   maps but where they are.
//! - [`milter`]: what every milter of ours needs: socket, sessions, health check.
//! - [`signer`]: signs submitted mail for Postfix, with what the maps say; a process of its own.
//! - [`inbound`]: judges arriving mail for Postfix: SPF, DKIM, DMARC, ARC; a process of its own.
//! - [`throttle`]: answers Dovecot, which asks how long a login has to wait and whether its session may begin: password
//!   guessing is slowed down, and IMAP sessions keep within their shares.
//! - [`http`]: JSON in, JSON out. One place turns errors into statuses; the OpenAPI document is generated from the code.
//! - [`config`]: file, environment and flags in, checked values out, once.
//! - [`daemon`]: opens everything in order, serves, and drains.
//! - [`cli`]: the commands.
//!
//! # The import law
//!
//! What a module may import of ours; a test reads the code and this table (`tests/inboxd/law.rs`). The mail plane never
//! knows HTTP, the model never knows the database, and nobody but the commands knows the daemon.
//!
//! ```text
//! clock      nothing
//! telemetry  nothing
//! model      clock
//! store      clock, model
//! maps       model
//! mail       model
//! dns        model
//! stack      clock, telemetry
//! milter     maps, model, telemetry
//! publish    maps, model, store, telemetry
//! signer     clock, maps, milter, model, telemetry
//! inbound    clock, dns, maps, milter, model, telemetry
//! throttle   clock, model, telemetry
//! ops        clock, dns, model, store, telemetry
//! http       clock, model, ops, publish, store, telemetry
//! config     dns, http, inbound, mail, maps, model, ops, stack, telemetry
//! daemon     clock, config, dns, http, mail, maps, milter, model, ops, publish, signer, stack, store, telemetry, throttle
//! cli        clock, config, daemon, dns, http, inbound, mail, maps, milter, model, ops, publish, signer, stack, telemetry
//! ```

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dns;
pub mod http;
pub mod inbound;
pub mod mail;
pub mod maps;
pub mod milter;
pub mod model;
pub mod ops;
pub mod publish;
pub mod signer;
pub mod stack;
pub mod store;
pub mod telemetry;
pub mod throttle;
