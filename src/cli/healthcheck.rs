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
    /// Ask that every part works, the mail servers too; without it, what creating inboxes needs is enough
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: Source,
}

/// What is used of the answer of `/readyz`.
#[derive(Deserialize)]
struct Readiness {
    parts: BTreeMap<String, String>,
}

pub(super) fn healthcheck(arguments: &HealthcheckArguments) -> Result<(), Failure> {
    let listen = arguments.source.load()?.api;
    let readiness = block_on(ask(listen))?;
    let down = down(&readiness.parts, arguments.all);
    if down.is_empty() {
        print("ok\n")
    } else {
        Err(down.join("; ").into())
    }
}

async fn ask(listen: SocketAddr) -> Result<Readiness, Failure> {
    let silent = |error: reqwest::Error| {
        let why = telemetry::chain(&error.without_url());
        format!("no answer from the daemon at {listen} (api.listen): {why}")
    };
    // The name is not looked up: it stands for the addresses.
    let name = "inboxd.localhost";
    let http = reqwest::Client::builder()
        .timeout(Duration::from_millis(ANSWER_TIMEOUT_MS))
        .no_proxy()
        .resolve_to_addrs(name, &reached_at(listen))
        .build()?;
    let answer = http
        .get(format!("http://{name}:{}/readyz", listen.port()))
        .send()
        .await
        .map_err(silent)?;
    let status = answer.status();
    let text = answer.text().await.map_err(silent)?;
    match serde_json::from_str(&text) {
        Ok(readiness) if matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) => Ok(readiness),
        _ => Err(
            format!("what answers at {listen} (api.listen) says {status}, and nothing of its parts").into(),
        ),
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

/// The parts that are asked for and do not work, each with the reason.
fn down(parts: &BTreeMap<String, String>, all: bool) -> Vec<String> {
    let missing = NEEDED
        .iter()
        .filter(|&&name| !parts.contains_key(name))
        .map(|name| format!("{name} is not told of"));
    let failed = parts
        .iter()
        .filter(|(name, state)| *state != OK && (all || NEEDED.contains(&name.as_str())))
        .map(|(name, state)| format!("{name} is {}", state.replace('\n', " ")));
    missing.chain(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(&str, &str)]) -> BTreeMap<String, String> {
        parts
            .iter()
            .map(|&(name, state)| (name.to_owned(), state.to_owned()))
            .collect()
    }

    #[test]
    fn creating_needs_the_store_and_the_maps_and_all_is_all() {
        let works = parts(&[("store", "ok"), ("maps", "ok"), ("dovecot", "ok")]);
        assert_eq!(down(&works, true), [""; 0]);
        let no_mail = parts(&[("store", "ok"), ("maps", "ok"), ("dovecot", "down: refused")]);
        assert_eq!(down(&no_mail, false), [""; 0]);
        assert_eq!(down(&no_mail, true), ["dovecot is down: refused"]);
        let no_maps = parts(&[("store", "down: a\nb"), ("maps", "down: read-only")]);
        assert_eq!(
            down(&no_maps, false),
            ["maps is down: read-only", "store is down: a b"]
        );
        assert_eq!(down(&parts(&[("store", "ok")]), false), ["maps is not told of"]);
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
