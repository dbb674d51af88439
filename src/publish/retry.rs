//! When what could not be published is tried again, without anybody asking.

use std::time::Duration;

/// The first pause, and the longest that it grows to.
const RETRY_PAUSE_MS: u64 = 1_000;
const RETRY_PAUSE_MAX_MS: u64 = 30_000;

/// When what failed is tried again: soon at first, then with growing pauses.
pub(super) struct Retry {
    at: tokio::time::Instant,
    pause: Duration,
}

impl Retry {
    pub(super) fn soon() -> Self {
        Self::in_(Duration::from_millis(RETRY_PAUSE_MS))
    }

    fn in_(pause: Duration) -> Self {
        Self {
            at: tokio::time::Instant::now() + pause,
            pause,
        }
    }

    pub(super) async fn due(&self) {
        tokio::time::sleep_until(self.at).await;
    }

    /// The next one, after a try that settled nothing.
    pub(super) fn later(&self) -> Self {
        Self::in_((self.pause * 2).min(Duration::from_millis(RETRY_PAUSE_MAX_MS)))
    }

    /// The same pause, counted from now.
    pub(super) fn restarted(&self) -> Self {
        Self::in_(self.pause)
    }
}
