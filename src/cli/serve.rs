//! `inboxd serve`.

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Source, block_on};
use crate::{daemon, telemetry};

pub(super) fn serve(source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    telemetry::start_logging(&config.written.log.filter, config.log_format)?;
    block_on(async {
        let stop = stop_signal()?;
        daemon::run(&config, stop, || ()).await?;
        Ok(())
    })
}

/// Completes when the process is asked to stop: SIGTERM, or SIGINT from a terminal.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>, std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
