//! Whether the caller of an operation still waits for its answer.
//!
//! What an operation has begun is finished when its caller hangs up. What it only waits for is given up, so that work
//! whose answer goes nowhere takes no turn from others.

use std::future::{Future, pending};

use tokio_util::sync::{CancellationToken, DropGuard};

tokio::task_local! {
    /// Cancelled when the caller of the operation that this task runs has hung up.
    static HUNG_UP: CancellationToken;
}

/// A caller that waits for as long as the guard lives, and the token that says when it has hung up.
pub fn caller() -> (DropGuard, CancellationToken) {
    let hung_up = CancellationToken::new();
    (hung_up.clone().drop_guard(), hung_up)
}

/// Runs an operation of a caller in a task of its own, which may outlive the caller.
pub async fn run_for<T>(hung_up: CancellationToken, operation: impl Future<Output = T>) -> T {
    HUNG_UP.scope(hung_up, operation).await
}

/// Completes when the caller of the current operation has hung up. An operation that runs in the caller's own task, or
/// that has no caller, never sees it: it is dropped instead, or runs to its end.
pub(super) async fn hung_up() {
    match HUNG_UP.try_with(CancellationToken::clone) {
        Ok(hung_up) => hung_up.cancelled_owned().await,
        Err(_) => pending().await,
    }
}
