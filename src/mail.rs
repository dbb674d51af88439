//! The mail servers as seen from outside.
