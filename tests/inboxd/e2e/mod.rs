//! The whole program with its mail servers: what was answered is what IMAP and SMTP do.

mod bad_days;
mod cut_off;
mod dev;
mod mailbox;
mod service_manager;
mod stopping;
mod storm;
mod verify;
