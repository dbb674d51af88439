//! inboxd: a stock Dovecot + Postfix host as an inbox API.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod http;
pub mod mail;
pub mod maps;
pub mod model;
pub mod ops;
pub mod publish;
pub mod stack;
pub mod store;
pub mod telemetry;
