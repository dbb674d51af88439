//! What `inboxd serve` tells the service manager that started it: `sd_notify(3)`.
//!
//! A daemon that nobody asked to tell anything (no `NOTIFY_SOCKET` in its environment) tells nothing. What cannot be
//! told is logged and is no reason to stop: the mail servers and callers are served all the same.

use std::{cell::Cell, convert::Infallible, io, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry;

/// How much longer start-up may take, counted from each sign of life. A repair of all maps may take longer than any
/// fixed limit, and must not be killed half-way for it.
const START_EXTENSION_S: u32 = 60;
/// Pause between two signs of life, at the most. The service manager may ask for shorter ones.
const PAUSE_MAX_S: u64 = 15;
/// Shortest pause, so that no environment makes a busy loop of it.
const PAUSE_MIN_MS: u64 = 10;

/// The service manager, as far as it wants to be told.
#[derive(Debug)]
pub(super) struct ServiceManager {
    /// It wants a sign of life at least this often.
    watchdog: Option<Duration>,
    starting: Cell<bool>,
}

impl ServiceManager {
    /// The one that the environment names, and tells it that start-up has begun.
    pub(super) fn told_of_the_start() -> Self {
        tell(&[NotifyState::Status(
            "opening the store and comparing the maps with it",
        )]);
        Self {
            watchdog: sd_notify::watchdog_enabled(),
            starting: Cell::new(true),
        }
    }

    /// The maps are right and the API listens.
    pub(super) fn ready(&self, status: &str) {
        self.starting.set(false);
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Nothing new is accepted.
    pub(super) fn stopping() {
        tell(&[
            NotifyState::Stopping,
            NotifyState::Status("answering what was accepted before the stop"),
        ]);
    }

    /// Gives signs of life for as long as it is polled, twice as often as they are asked for. To be polled by the task
    /// that accepts connections: each sign says that this task and the runtime's workers still run. It says nothing of
    /// the database and of the mail servers, because a new start would not bring them back.
    pub(super) async fn keep_alive(&self) -> Infallible {
        let longest = Duration::from_secs(PAUSE_MAX_S);
        let pause = self.watchdog.map_or(longest, |limit| longest.min(limit / 2));
        let mut ticks = interval(pause.max(Duration::from_millis(PAUSE_MIN_MS)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = tokio::spawn(std::future::ready(())).await {
                tracing::error!(%error, "the runtime does no work");
                continue;
            }
            let mut signs = Vec::new();
            if self.watchdog.is_some() {
                signs.push(NotifyState::Watchdog);
            }
            if self.starting.get() {
                signs.push(NotifyState::ExtendTimeoutUsec(START_EXTENSION_S * 1_000_000));
            }
            tell(&signs);
        }
    }
}

/// Sends it as one datagram, if anybody asked.
fn tell(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        let error: &io::Error = &error;
        tracing::warn!(
            error = telemetry::chain(error),
            "cannot tell the service manager (NOTIFY_SOCKET)"
        );
    }
}
