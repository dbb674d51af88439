//! The records of verified domains, looked at again and again.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch::Receiver, time::Instant};

use super::wait_until_closed;
use crate::{
    model::maps::MapKey,
    ops::{self, Service, domains},
    publish::{self, Publisher},
    telemetry,
};

/// Longest pause between two looks for domains whose turn it is.
const LOOK_PAUSE_MAX_S: u64 = 60;
/// Domains checked in one look.
const CHECKED_MAX: u32 = 32;

/// Why nothing could be done about domains.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store could not be read or written.
    #[error("read or write what is known of domains")]
    Store(#[from] ops::Error),
    /// The maps could not be written.
    #[error("publish what follows from it")]
    Publish(#[from] publish::Error),
}

/// Makes the keys that mail from the default domain is signed with, at the first start.
pub(super) async fn ensure_default_keys(service: &Service, publisher: &Publisher) -> Result<(), Error> {
    publish(publisher, domains::ensure_default_keys(service).await?.publish).await
}

/// Checks domains until it is stopped.
pub(super) async fn watch(service: Arc<Service>, publisher: Publisher, stopped: Receiver<()>) {
    let mut until = std::pin::pin!(wait_until_closed(stopped));
    let interval = Duration::from_secs(service.settings.domains.check_seconds.into());
    let pause = interval.min(Duration::from_secs(LOOK_PAUSE_MAX_S));
    // Custom domains say in the store when they were checked last.
    let mut default_due = Instant::now();
    // An earlier run may have ended between two steps of a hand-over.
    tokio::select! {
        () = &mut until => return,
        finished = finish_hand_overs(&service, &publisher) => if let Err(error) = finished {
            tracing::warn!(error = telemetry::chain(&error), "cannot finish handing over domains");
        },
    }
    loop {
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(pause) => {}
        }
        let is_default_due = Instant::now() >= default_due;
        if is_default_due {
            default_due = Instant::now() + interval;
        }
        tokio::select! {
            () = &mut until => return,
            looked = look(&service, &publisher, is_default_due) => if let Err(error) = looked {
                tracing::warn!(error = telemetry::chain(&error), "cannot check domains");
            },
        }
    }
}

async fn look(service: &Arc<Service>, publisher: &Publisher, is_default_due: bool) -> Result<(), Error> {
    if is_default_due {
        publish(publisher, domains::check_default(service).await?.publish).await?;
    }
    let check_seconds = i64::from(service.settings.domains.check_seconds);
    let checked_before = service.now().plus_seconds(-check_seconds);
    let contests = domains::recheck_contests(service, checked_before, CHECKED_MAX).await?;
    publish(publisher, contests.publish).await?;
    finish_hand_overs(service, publisher).await?;
    loop {
        let checked = domains::recheck(service, checked_before, CHECKED_MAX).await?;
        publish(publisher, checked.publish).await?;
        if checked.value < CHECKED_MAX as usize {
            return Ok(());
        }
    }
}

/// Publishes what is left of hand-overs, and then shows their domains as verified. One that cannot be published holds up
/// no other.
async fn finish_hand_overs(service: &Service, publisher: &Publisher) -> Result<(), Error> {
    for unfinished in domains::unfinished_hand_overs(service).await? {
        let domain = unfinished.value.domain.name.clone();
        match publish(publisher, unfinished.publish).await {
            Ok(()) => drop(domains::finish_hand_over(service, unfinished.value).await?),
            Err(error) => {
                tracing::warn!(%domain, error = telemetry::chain(&error), "cannot finish handing over a domain");
            }
        }
    }
    Ok(())
}

async fn publish(publisher: &Publisher, keys: Vec<MapKey>) -> Result<(), Error> {
    if !keys.is_empty() {
        publisher.publish(keys).await?;
    }
    Ok(())
}
