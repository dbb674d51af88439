//! `[http]`: what callers of the API may use up.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::http::HeaderValue;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Error, list};
use crate::http::{self, Connections, ForwardedHeader, Origins, Quotas, TrustedProxies};

section! {
    /// Connections to the API.
    Http {
        /// Most connections at a time.
        connections_max: u32 = 2048,
        /// Most connections at a time from one client address.
        connections_per_address_max: u32 = 1024,
        /// Seconds that a connection without a request is kept open.
        keep_alive_s: u32 = 60,
        /// Seconds within which the caller has to take an answer.
        write_timeout_s: u32 = 30,
        /// Path that everything is below; empty: none.
        base_path: String = String::new(),
        /// Origins of pages that may call the API from a browser; `*`: every page.
        #[serde(deserialize_with = "list")]
        cors_origins: Vec<String> = Vec::new(),
        /// Addresses or networks of proxies whose word for the address of their client is taken.
        #[serde(deserialize_with = "list")]
        trusted_proxies: Vec<String> = Vec::new(),
        /// The header in which they name it: `X-Forwarded-For` or `Forwarded`.
        forwarded_header: String = "X-Forwarded-For".to_owned(),
    }
}
section! {
    /// How often a client address, and a key, may call: calls a minute, 0 for no limit.
    Rates {
        /// Calls of one client address that change nothing.
        address_reads_per_minute: u32 = 60_000,
        /// Calls of one client address that change something.
        address_writes_per_minute: u32 = 30_000,
        /// Calls of one client address that make RSA keys or ask DNS.
        address_costly_per_minute: u32 = 3_000,
        /// Calls with one key that change nothing.
        key_reads_per_minute: u32 = 30_000,
        /// Calls with one key that change something.
        key_writes_per_minute: u32 = 12_000,
        /// Calls with one key that make RSA keys or ask DNS.
        key_costly_per_minute: u32 = 600,
    }
}

impl Rates {
    const MAX_PER_MINUTE: u32 = 100_000_000;

    fn quotas(&self) -> Result<[Quotas; 2], Error> {
        let checked = |key, quota: u32| {
            if quota <= Self::MAX_PER_MINUTE {
                Ok(quota)
            } else {
                let rule = format!("must be at most {}; 0 is no limit", Self::MAX_PER_MINUTE);
                Err(Error::value(key, rule))
            }
        };
        Ok([
            Quotas {
                reads: checked("rates.address_reads_per_minute", self.address_reads_per_minute)?,
                writes: checked("rates.address_writes_per_minute", self.address_writes_per_minute)?,
                costly: checked("rates.address_costly_per_minute", self.address_costly_per_minute)?,
            },
            Quotas {
                reads: checked("rates.key_reads_per_minute", self.key_reads_per_minute)?,
                writes: checked("rates.key_writes_per_minute", self.key_writes_per_minute)?,
                costly: checked("rates.key_costly_per_minute", self.key_costly_per_minute)?,
            },
        ])
    }
}

impl Http {
    /// Checks the section.
    pub(super) fn settings(&self, rates: &Rates) -> Result<http::Settings, Error> {
        const SECONDS_MAX: u32 = 3600;
        if self.connections_max == 0 {
            return Err(Error::value("http.connections_max", "must be at least 1"));
        }
        if !(1..=self.connections_max).contains(&self.connections_per_address_max) {
            let rule = format!("must be 1 to {} (http.connections_max)", self.connections_max);
            return Err(Error::value("http.connections_per_address_max", rule));
        }
        let seconds = |key, seconds: u32| {
            if (1..=SECONDS_MAX).contains(&seconds) {
                Ok(Duration::from_secs(seconds.into()))
            } else {
                Err(Error::value(key, format!("must be 1 to {SECONDS_MAX}")))
            }
        };
        let [address_quotas, key_quotas] = rates.quotas()?;
        Ok(http::Settings {
            base_path: self.base_path()?,
            origins: self.origins()?,
            proxies: Arc::new(self.proxies()?),
            address_quotas,
            key_quotas,
            connections: Connections {
                max: self.connections_max as usize,
                per_address_max: self.connections_per_address_max as usize,
                keep_alive: seconds("http.keep_alive_s", self.keep_alive_s)?,
                write_timeout: seconds("http.write_timeout_s", self.write_timeout_s)?,
            },
        })
    }

    /// The base path, which may be written with a slash at its end.
    pub(super) fn base_path(&self) -> Result<String, Error> {
        let path = self.base_path.trim_end_matches('/');
        let is_plain = |segment: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        };
        let segments = path.strip_prefix('/');
        if path.is_empty() || segments.is_some_and(|rest| rest.split('/').all(is_plain)) {
            return Ok(path.to_owned());
        }
        let rule = "must be a path of letters, digits and - _ . ~, as /inboxd, or empty";
        Err(Error::value("http.base_path", rule))
    }

    fn origins(&self) -> Result<Origins, Error> {
        const KEY: &str = "http.cors_origins";
        match self.cors_origins.as_slice() {
            [] => return Ok(Origins::None),
            [any] if any == "*" => return Ok(Origins::Any),
            _ => {}
        }
        let parsed = |origin: &String| {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            let is_origin = rest.is_some_and(|host| {
                let plain = |b: u8| {
                    b.is_ascii_lowercase()
                        || b.is_ascii_digit()
                        || matches!(b, b'.' | b'-' | b':' | b'[' | b']')
                };
                !host.is_empty() && host.bytes().all(plain)
            });
            let value = HeaderValue::try_from(origin).ok().filter(|_| is_origin);
            value.ok_or_else(|| {
                let rule =
                    "as https://app.example.com or http://localhost:3000, in lower case and without a path";
                Error::value(
                    KEY,
                    format!("{origin:?} must be an origin, {rule}; or * alone, for every page"),
                )
            })
        };
        let origins: Result<_, _> = self.cors_origins.iter().map(parsed).collect();
        Ok(Origins::Listed(origins?))
    }

    fn proxies(&self) -> Result<TrustedProxies, Error> {
        let parsed = |text: &String| {
            let network = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                let rule = format!("{text:?} must be an IP address or a network, as 10.0.0.0/8 or fd00::/8");
                Error::value("http.trusted_proxies", rule)
            })
        };
        let header = match self.forwarded_header.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => ForwardedHeader::XForwardedFor,
            "forwarded" => ForwardedHeader::Forwarded,
            _ => {
                let rule = "must be X-Forwarded-For or Forwarded";
                return Err(Error::value("http.forwarded_header", rule));
            }
        };
        Ok(TrustedProxies {
            networks: self
                .trusted_proxies
                .iter()
                .map(parsed)
                .collect::<Result<_, _>>()?,
            header,
        })
    }
}
