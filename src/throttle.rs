//! Slows password guessing down: Dovecot's auth policy protocol (doc.dovecot.org, "Authentication Policy"), served to it.
//!
//! Dovecot asks before it verifies a password (`command=allow`), and reports what came of it (`command=report`). A login that
//! was tried with wrong passwords from an address is answered later and later there; the right password is never refused,
//! and other logins from that address, and the login from other addresses, notice nothing. If nothing answers, Dovecot goes
//! on without.

mod attempts;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    routing::post,
};
use serde::{Deserialize, Serialize};

use self::attempts::{Source, Throttle};
use crate::clock::Clock;

/// Largest request of Dovecot's.
const BODY_MAX_OCTETS: usize = 16 * 1024;

/// What all requests share.
struct Policy {
    clock: Arc<dyn Clock>,
    throttle: Mutex<Throttle>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Allow,
    Report,
}

#[derive(Deserialize)]
struct Asked {
    command: Command,
}

/// What Dovecot says of a login; other fields are its own affair.
#[derive(Deserialize)]
struct Attempt {
    login: String,
    remote: String,
    #[serde(default)]
    success: bool,
}

/// What Dovecot is answered.
#[derive(Serialize)]
struct Answer {
    /// Seconds by which the login is delayed.
    status: u32,
    /// What a client is told that is refused: none is.
    msg: &'static str,
}

/// What answers Dovecot's requests.
pub fn router(clock: Arc<dyn Clock>) -> Router {
    let policy = Arc::new(Policy {
        clock,
        throttle: Mutex::new(Throttle::default()),
    });
    Router::new()
        .route("/", post(decide))
        .layer(DefaultBodyLimit::max(BODY_MAX_OCTETS))
        .with_state(policy)
}

async fn decide(
    State(policy): State<Arc<Policy>>,
    Query(Asked { command }): Query<Asked>,
    Json(attempt): Json<Attempt>,
) -> Json<Answer> {
    let go_on = Json(Answer { status: 0, msg: "" });
    // A login that came over a socket of this host has no address.
    let Ok(remote) = attempt.remote.parse::<IpAddr>() else {
        return go_on;
    };
    let source = Source::new(&attempt.login, remote);
    let now = policy.clock.now();
    // Nothing panics while it is held.
    let mut throttle = policy.throttle.lock().unwrap_or_else(PoisonError::into_inner);
    match command {
        Command::Allow => Json(Answer {
            status: throttle.allow(source, now),
            msg: "",
        }),
        Command::Report => {
            if throttle.report(source, attempt.success, now) {
                let login = attempt.login;
                tracing::warn!(?login, %remote, "many wrong passwords; tries at this login from there are slowed down");
            }
            go_on
        }
    }
}
