//! `inboxd signer`.

use std::sync::Arc;

use clap::Args;
use tokio::net::UnixListener;

use super::{Failure, Source, block_on, serve::stop_signal};
use crate::{
    clock::Machine,
    config::Config,
    daemon::sealing_key,
    maps::LookUps,
    milter,
    signer::{self, Parts, SessionLimits, tenants::Daemon},
    telemetry,
};

#[derive(Args, Debug)]
pub(super) struct SignerArguments {
    /// Exit with 0 if the signer that runs answers as Postfix expects: its health check
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) fn signer(arguments: &SignerArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    if arguments.check {
        let socket = config.signer_socket.as_deref().ok_or(NO_SOCKET)?;
        return block_on(async { Ok(milter::check(socket).await?) });
    }
    telemetry::start_logging(&config.logging)?;
    block_on(async {
        let signer = open(&config)?.ok_or(NO_SOCKET)?;
        signer.serve(stop_signal()?).await;
        Ok(())
    })
}

/// Why there is no signer.
const NO_SOCKET: &str = "signer.socket is empty: Postfix is told to have nothing signed";

/// A signer that Postfix can connect to.
pub(super) struct Open {
    listener: UnixListener,
    parts: Parts,
}

/// Opens the socket, if the configuration names one.
pub(super) fn open(config: &Config) -> Result<Option<Open>, Failure> {
    let Some(socket) = &config.signer_socket else {
        return Ok(None);
    };
    let layout = config.maps_layout()?;
    let sealing = sealing_key::read(&config.sealing_key_file)?.ok_or_else(|| {
        format!(
            "there is no {} (store.sealing_key_file): start inboxd first, which makes it",
            config.sealing_key_file.display()
        )
    })?;
    let listener = milter::listen(socket, layout.postfix_gid)?;
    let tenants = Arc::new(Daemon::new(&layout.tenants_socket())?);
    let parts = Parts {
        maps: LookUps::of(layout),
        sealing,
        host: config.authserv_id.clone(),
        sessions: SessionLimits {
            all: config.sessions.submission.into(),
            shares: config.submission_shares,
        },
        tenants,
        clock: Arc::new(Machine),
    };
    tracing::info!(socket = %socket.display(), "signing what is submitted");
    Ok(Some(Open { listener, parts }))
}

impl Open {
    /// Signs until it is asked to stop.
    pub(super) async fn serve(self, stop: impl Future<Output = ()>) {
        signer::serve(self.listener, self.parts, stop).await;
    }
}
