//! What the operator decides about the HTTP side.

use std::{sync::Arc, time::Duration};

use super::{browsers::Origins, proxies::TrustedProxies};

/// What the operator decides about the HTTP side.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Limits of connections.
    pub connections: Connections,
    /// The path that everything is below, without a slash at its end; empty: `/`.
    pub base_path: String,
    /// Whose pages may call the API from a browser.
    pub origins: Origins,
    /// The proxies in front of the API.
    pub proxies: Arc<TrustedProxies>,
    /// How often a client address may call.
    pub address_quotas: Quotas,
    /// How often a key may call.
    pub key_quotas: Quotas,
}

/// Calls a minute; 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotas {
    /// Calls that change nothing.
    pub reads: u32,
    /// Calls that change something.
    pub writes: u32,
    /// Calls that make RSA keys or ask DNS; they are of neither other kind.
    pub costly: u32,
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
