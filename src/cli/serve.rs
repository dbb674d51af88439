//! `inboxd serve`.

mod service_manager;

use tokio::signal::unix::{SignalKind, signal};

use self::service_manager::ServiceManager;
use super::{Failure, Source, block_on};
use crate::{daemon, telemetry};

pub(super) fn serve(source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    telemetry::start_logging(&config.logging)?;
    let manager = ServiceManager::told_of_the_start();
    let status = format!(
        "API on {}, default domain {}",
        config.api, config.settings.default_domain
    );
    block_on(async {
        let stop = stop_signal()?;
        let stop = async {
            stop.await;
            ServiceManager::stopping();
        };
        tokio::select! {
            ended = daemon::run(&config, stop, || manager.ready(&status)) => Ok(ended?),
            never = manager.keep_alive() => match never {},
        }
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
