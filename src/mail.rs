//! The mail servers as seen from outside.

pub mod auth_socket;
pub mod doveadm;
pub mod imap;
pub mod smtp;
pub mod tls;
pub mod verify;
pub mod wire;
