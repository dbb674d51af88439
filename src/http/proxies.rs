//! Proxies in front of the API, and whom they speak for.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// In which header a proxy names its client. Only that one is read: a proxy passes the other one on as its client sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239)
    Forwarded,
}

/// The proxies that are believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedProxies {
    /// Networks of their addresses.
    pub networks: Vec<IpNet>,
    /// In which header they name their client.
    pub header: ForwardedHeader,
}

impl TrustedProxies {
    /// Whether this is the address of a trusted proxy.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The address of the client of a request: its peer, or whom trusted proxies name. Each adds whom it was called by at
    /// the end, so the last that is no trusted proxy is the client; what stands before it anybody may have written.
    pub(super) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let named = match self.header {
            ForwardedHeader::XForwardedFor => named_in(headers, &X_FORWARDED_FOR, address),
            ForwardedHeader::Forwarded => named_in(headers, &header::FORWARDED, forwarded_for),
        };
        for name in named.into_iter().rev() {
            if !self.contain(client) {
                break;
            }
            match name {
                Some(address) => client = address,
                // Its proxy does not say, or what it says is no address.
                None => break,
            }
        }
        client
    }
}

fn named_in(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<IpAddr>,
) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&octet| octet == b','))
        .map(|element| std::str::from_utf8(element).ok().and_then(parse))
        .collect()
}

/// An address, which may have a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = plain.unwrap_or(text).parse().ok();
    address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

/// The `for` of an element (RFC 7239, 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        name.trim()
            .eq_ignore_ascii_case("for")
            .then(|| address(quoted.unwrap_or(value)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, name: &'static str, lines: &[&'static str], peer: &str) -> String {
        let proxies = TrustedProxies {
            networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            header,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        proxies.client_of(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_client_is_the_last_that_is_no_trusted_proxy() {
        let of = |lines: &[&'static str], peer| {
            client(ForwardedHeader::XForwardedFor, "x-forwarded-for", lines, peer)
        };
        assert_eq!(of(&["192.0.2.1"], "10.0.0.1"), "192.0.2.1");
        assert_eq!(of(&["192.0.2.1"], "::ffff:10.0.0.1"), "192.0.2.1");
        assert_eq!(of(&["192.0.2.1, 10.0.0.2"], "10.0.0.1"), "192.0.2.1");
        assert_eq!(of(&["192.0.2.1", "10.0.0.2"], "10.0.0.1"), "192.0.2.1");
        assert_eq!(
            of(&["198.51.100.9, 192.0.2.1"], "10.0.0.1"),
            "192.0.2.1",
            "it wrote the first itself"
        );
        assert_eq!(of(&["[2001:db8::1]:443"], "fd00::1"), "2001:db8::1");
        assert_eq!(of(&["192.0.2.1:5555"], "10.0.0.1"), "192.0.2.1");
        assert_eq!(
            of(&["192.0.2.1"], "203.0.113.5"),
            "203.0.113.5",
            "whoever this is, it is not believed"
        );
        assert_eq!(of(&[], "10.0.0.1"), "10.0.0.1");
        assert_eq!(of(&["192.0.2.1, unknown"], "10.0.0.1"), "10.0.0.1");
        assert_eq!(of(&["10.0.0.3"], "10.0.0.1"), "10.0.0.3");
    }

    #[test]
    fn forwarded_is_read_where_it_is_configured_and_the_other_header_is_not() {
        let of = |lines: &[&'static str]| client(ForwardedHeader::Forwarded, "forwarded", lines, "10.0.0.1");
        assert_eq!(of(&["for=192.0.2.1;proto=https"]), "192.0.2.1");
        assert_eq!(of(&["proto=https; For=\"[2001:db8::1]:443\""]), "2001:db8::1");
        assert_eq!(
            of(&["for=198.51.100.9, for=192.0.2.1, for=10.0.0.2"]),
            "192.0.2.1"
        );
        assert_eq!(of(&["for=_hidden"]), "10.0.0.1");
        assert_eq!(of(&["by=192.0.2.1"]), "10.0.0.1");
        let other = client(
            ForwardedHeader::XForwardedFor,
            "forwarded",
            &["for=192.0.2.1"],
            "10.0.0.1",
        );
        assert_eq!(other, "10.0.0.1");
    }
}
