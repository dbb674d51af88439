//! Whom a connection counts for, and how many connections that client has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

/// Who a request comes from: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The part of an IPv6 address that one client is given whole (RFC 6177, 2): it has every address that differs in the
/// rest only.
const IPV6_CLIENT_MASK: u128 = !(u64::MAX as u128);

/// The address that a client's use is counted under: an IPv4 address, or the /64 network of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct ClientAddress(IpAddr);

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        // An IPv4 client of a listener for IPv6 has an address of ::ffff:0:0/96 (RFC 4291, 2.5.5.2).
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_CLIENT_MASK)),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// How many connections each client address has. It holds an entry for an address only while that has a connection.
#[derive(Debug)]
pub(super) struct ConnectionCounts {
    max: usize,
    open: Mutex<HashMap<ClientAddress, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection {
    counts: Arc<ConnectionCounts>,
    address: ClientAddress,
}

impl ConnectionCounts {
    /// Counts for at most `max` connections of one address.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: Mutex::default(),
        })
    }

    /// Counts one more connection; none if the address has as many as it may.
    pub(super) fn one_more(self: &Arc<Self>, address: ClientAddress) -> Option<CountedConnection> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(CountedConnection {
            counts: Arc::clone(self),
            address,
        })
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ClientAddress {
        ClientAddress::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(address("2001:db8:0:1::1"), address("2001:db8:0:1:ffff::2"));
        assert_ne!(address("2001:db8:0:1::1"), address("2001:db8:0:2::1"));
    }

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_no_entry_without_any() {
        let counts = ConnectionCounts::new(2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = counts.one_more(one).unwrap();
        let second = counts.one_more(one).unwrap();
        assert!(counts.one_more(one).is_none());
        assert!(counts.one_more(other).is_some());
        drop(first);
        let third = counts.one_more(one).unwrap();
        assert!(counts.one_more(one).is_none());
        drop((second, third));
        assert_eq!(counts.open.lock().unwrap().len(), 0);
    }
}
