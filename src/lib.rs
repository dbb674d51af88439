//! inboxd: a stock Dovecot + Postfix host as an inbox API.

pub mod mail;
pub mod stack;
