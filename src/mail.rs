//! The mail servers as seen from outside.

pub mod doveadm;
