//! What the operator decides about the HTTP side.

use std::time::Duration;

/// What the operator decides about the HTTP side.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Limits of connections.
    pub connections: Connections,
}

/// Limits of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connections {
    /// Most connections at a time. More wait in the kernel until one ends.
    pub max: usize,
    /// Most connections at a time from one client address. More are refused.
    pub per_address_max: usize,
    /// How long a connection without a request under way is kept open, as `Keep-Alive` promises it.
    pub keep_alive: Duration,
    /// Within which time the caller has to take an answer.
    pub write_timeout: Duration,
}
