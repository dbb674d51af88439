//! inboxd: a stock Dovecot + Postfix host as an inbox API.

pub mod clock;
pub mod mail;
pub mod model;
pub mod stack;
