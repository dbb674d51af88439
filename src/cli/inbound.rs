//! `inboxd inbound`.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio::net::UnixListener;

use super::{Failure, Source, block_on, serve::stop_signal};
use crate::{
    clock::Machine,
    config::Config,
    inbound::{self, Parts},
    maps::LookUps,
    milter, telemetry,
};

#[derive(Args, Debug)]
pub(super) struct InboundArguments {
    /// Exit with 0 if the one that runs answers as Postfix expects: its health check
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) fn inbound(arguments: &InboundArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    if arguments.check {
        let socket = config.inbound_socket.as_deref().ok_or(NO_SOCKET)?;
        return block_on(async { Ok(milter::check(socket).await?) });
    }
    telemetry::start_logging(&config.logging)?;
    block_on(async {
        let inbound = open(&config, config.dns.timeout)?.ok_or(NO_SOCKET)?;
        inbound.serve(stop_signal()?).await;
        Ok(())
    })
}

/// Why nothing is judged.
const NO_SOCKET: &str = "inbound.socket is empty: Postfix has no arriving mail judged";

/// A milter that Postfix can connect to.
pub(super) struct Open {
    listener: UnixListener,
    parts: Parts,
}

/// Opens the socket, if the configuration names one. A DNS answer is waited for as long as `dns_timeout`.
pub(super) fn open(config: &Config, dns_timeout: Duration) -> Result<Option<Open>, Failure> {
    let Some(socket) = &config.inbound_socket else {
        return Ok(None);
    };
    let layout = config.maps_layout()?;
    let listener = milter::listen(socket, layout.postfix_gid)?;
    let mut dns = config.dns.clone();
    dns.timeout = dns_timeout;
    let parts = Parts {
        maps: LookUps::of(layout),
        dns,
        host: config.authserv_id.clone(),
        policy: config.inbound_policy.clone(),
        octets_per_hour_max: match config.written.inbound.octets_per_inbox_per_hour_max {
            0 => None,
            limit => Some(limit),
        },
        clock: Arc::new(Machine),
    };
    tracing::info!(socket = %socket.display(), host = parts.host, "judging what arrives");
    Ok(Some(Open { listener, parts }))
}

impl Open {
    /// Judges until it is asked to stop.
    pub(super) async fn serve(self, stop: impl Future<Output = ()>) {
        inbound::serve(self.listener, self.parts, stop).await;
    }
}
