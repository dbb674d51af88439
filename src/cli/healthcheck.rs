//! `inboxd healthcheck`: the question of a supervisor, which has to be answered quickly and in one line.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;

use super::{Failure, Source, block_on, print};
use crate::telemetry;

/// How long the daemon may take to answer; it gives its parts 3 s.
const ANSWER_TIMEOUT_MS: u64 = 5_000;
/// The parts without which nothing is created.
const NEEDED: [&str; 2] = ["store", "maps"];
/// What a part says of itself that works.
const OK: &str = "ok";

#[derive(Args, Debug)]
pub(super) struct HealthcheckArguments {
    /// Check every part of /readyz: store, maps, dovecot, postfix, inotify, and where they have a socket signer and inbound;
    /// without it, store and maps only
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: Source,
}

/// What is used of the answer of `/readyz`.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    parts: Option<BTreeMap<String, String>>,
}

pub(super) fn healthcheck(arguments: &HealthcheckArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    block_on(async {
        // The API, because it is what has to work; it does not say which parts are down.
        let api = Listener {
            key: "api.listen",
            address: config.api,
            base_path: &config.http.base_path,
        };
        let at_api = api.readiness(arguments.all).await?;
        if at_api.ready && !arguments.all {
            return print(&working(&NEEDED));
        }
        let Some(address) = config.metrics else {
            return if at_api.ready {
                print("ok: the API answers, and all parts work that it has\n")
            } else {
                Err(unnamed(arguments.all).into())
            };
        };
        let metrics = Listener {
            key: "metrics.listen",
            address,
            base_path: "",
        };
        let in_detail = metrics.readiness(arguments.all).await?;
        let parts = in_detail.parts.unwrap_or_default();
        let down = down(&parts);
        if !down.is_empty() {
            return Err(down.join("; ").into());
        }
        if !at_api.ready {
            return Err(unnamed(arguments.all).into());
        }
        print(&working(&parts.keys().map(String::as_str).collect::<Vec<_>>()))
    })
}

/// The line that says which parts were checked.
fn working(parts: &[&str]) -> String {
    let parts = match parts {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => parts.join(""),
    };
    format!("ok: the API answers, {parts} work\n")
}

/// What is said where the reason is not known.
fn unnamed(all: bool) -> String {
    format!(
        "not ready: one of {} is down; GET /readyz at metrics.listen, or with a super admin (sa_) key, says which and why",
        if all {
            "all parts".to_owned()
        } else {
            NEEDED.join(", ")
        }
    )
}

/// A listener of the daemon.
struct Listener<'a> {
    key: &'static str,
    address: SocketAddr,
    /// What is before `/readyz`.
    base_path: &'a str,
}

impl Listener<'_> {
    async fn readiness(&self, all: bool) -> Result<Readiness, Failure> {
        let Self {
            key,
            address,
            base_path,
        } = self;
        let silent = |error: reqwest::Error| {
            let why = telemetry::chain(&error.without_url());
            format!("no answer from the daemon at {address} ({key}): {why}")
        };
        // The name is not looked up: it stands for the addresses.
        let name = "inboxd.localhost";
        let http = reqwest::Client::builder()
            .timeout(Duration::from_millis(ANSWER_TIMEOUT_MS))
            .no_proxy()
            .resolve_to_addrs(name, &reached_at(*address))
            .build()?;
        // Only what matters: each question is a line in the log of a mail server.
        let parts = if all {
            String::new()
        } else {
            format!("?parts={}", NEEDED.join(","))
        };
        let answer = http
            .get(format!(
                "http://{name}:{}{base_path}/readyz{parts}",
                address.port()
            ))
            .send()
            .await
            .map_err(silent)?;
        let status = answer.status();
        let text = answer.text().await.map_err(silent)?;
        match serde_json::from_str(&text) {
            Ok(readiness) if matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) => {
                Ok(readiness)
            }
            _ => Err(format!(
                "what answers at {address} ({key}) says {status}, and nothing of its readiness"
            )
            .into()),
        }
    }
}

/// Where a listener is reached from its own machine. One for every IPv6 address takes IPv4 connections, too, on most
/// systems, and there need not be an IPv6 loopback.
fn reached_at(listen: SocketAddr) -> Vec<SocketAddr> {
    let hosts: &[IpAddr] = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
        }
        _ => return vec![listen],
    };
    let with_port = |&host: &IpAddr| SocketAddr::new(host, listen.port());
    hosts.iter().map(with_port).collect()
}

/// The parts that do not work, each with the reason.
fn down(parts: &BTreeMap<String, String>) -> Vec<String> {
    let failed = parts.iter().filter(|(_, state)| *state != OK);
    failed
        .map(|(name, state)| format!("{name} is {}", state.replace('\n', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_down_are_named_in_one_line() {
        let down_of = |parts: &[(&str, &str)]| {
            let parts = parts
                .iter()
                .map(|&(name, state)| (name.to_owned(), state.to_owned()));
            down(&parts.collect())
        };
        assert_eq!(down_of(&[("store", "ok"), ("maps", "ok")]), [""; 0]);
        assert_eq!(
            down_of(&[
                ("store", "down: a\nb"),
                ("maps", "down: read-only"),
                ("dovecot", "ok")
            ]),
            ["maps is down: read-only", "store is down: a b"]
        );
    }

    #[test]
    fn the_parts_that_work_are_named() {
        assert_eq!(
            working(&["store", "maps"]),
            "ok: the API answers, store and maps work\n"
        );
        let all = ["dovecot", "maps", "store"];
        assert_eq!(
            working(&all),
            "ok: the API answers, dovecot, maps and store work\n"
        );
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_the_loopback() {
        for (listen, reached) in [
            ("10.0.0.2:8080", "[10.0.0.2:8080]"),
            ("0.0.0.0:8080", "[127.0.0.1:8080]"),
            ("[::]:8080", "[[::1]:8080, 127.0.0.1:8080]"),
        ] {
            assert_eq!(format!("{:?}", reached_at(listen.parse().unwrap())), reached);
        }
    }
}
