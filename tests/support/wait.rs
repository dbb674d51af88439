//! Waiting for a condition, with a limit.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// Longest wait for anything that has to happen by itself.
pub const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `look` finds something; fails with `what` after [`LIMIT`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    until_within(LIMIT, what, look).await
}

/// The same for what may take longer, or must not take so long.
pub async fn until_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
