//! Slows password guessing down, and keeps IMAP sessions within their shares: Dovecot's auth policy protocol (doc.dovecot.org,
//! "Authentication Policy"), served to it.
//!
//! Dovecot asks before it verifies a password (`command=allow`), and reports what came of it (`command=report`). A login that
//! was tried with wrong passwords from an address is answered later and later there; the right password is never refused for
//! that, and other logins from that address, and the login from other addresses, notice nothing.
//!
//! It asks again when the password was right ([`Attempt::verified`]). Then an IMAP login is refused whose inbox or tenant has as
//! many sessions as it may ([`Shares`]); whoever has no password learns nothing of that. If nothing answers, Dovecot goes on
//! without.

mod attempts;
mod sessions;
mod shares;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    routing::post,
};
use serde::{Deserialize, Serialize};

use self::attempts::{Source, Throttle};
pub use self::shares::{Answer as DirectoryAnswer, Directory, LOGINS_MAX, Shares, Unanswered};
use crate::{clock::Clock, model::session_share::Share, telemetry::metric};

/// Largest request of Dovecot's.
const BODY_MAX_OCTETS: usize = 16 * 1024;

/// The name that Dovecot has for IMAP.
const IMAP: &str = "imap";

/// What all requests share.
struct Policy {
    clock: Arc<dyn Clock>,
    throttle: Mutex<Throttle>,
    shares: Option<Shares>,
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
    /// `imap` or `smtp`.
    #[serde(default)]
    protocol: String,
    /// Not empty once the password was right: a field that only the password database sets (`inboxd.lua`).
    #[serde(default)]
    verified: String,
    #[serde(default)]
    success: bool,
    /// Whether the login was refused because the answer said so, and not for its password.
    #[serde(default)]
    policy_reject: bool,
}

/// What Dovecot is answered.
#[derive(Serialize)]
struct Answer {
    /// Seconds by which the login is delayed; [`REFUSED`]: it is refused.
    status: i64,
    /// What the client of a refused login reads.
    msg: &'static str,
}

/// The status that refuses a login.
const REFUSED: i64 = -1;

impl Answer {
    const GO_ON: Self = Self { status: 0, msg: "" };

    fn refusal(share: Share) -> Self {
        Self {
            status: REFUSED,
            msg: share.refusal(),
        }
    }
}

/// What answers Dovecot's requests.
pub fn router(clock: Arc<dyn Clock>, shares: Option<Shares>) -> Router {
    let policy = Arc::new(Policy {
        clock,
        throttle: Mutex::new(Throttle::default()),
        shares,
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
    match command {
        Command::Allow if !attempt.verified.is_empty() => Json(policy.begin(&attempt).await),
        Command::Allow => Json(policy.pause(&attempt)),
        Command::Report => {
            policy.report(&attempt);
            Json(Answer::GO_ON)
        }
    }
}

impl Attempt {
    /// What tries are counted by. A login that came over a socket of this host has no address, and is not counted.
    fn source(&self) -> Option<Source> {
        let remote = self.remote.parse::<IpAddr>().ok()?;
        Some(Source::new(&self.login, remote))
    }
}

impl Policy {
    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // Nothing panics while it is held.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a login waits whose password has not been verified yet.
    fn pause(&self, attempt: &Attempt) -> Answer {
        let pause = attempt.source().map_or(0, |source| {
            let now = self.clock.now();
            self.throttle().allow(source, now)
        });
        Answer {
            status: i64::from(pause),
            ..Answer::GO_ON
        }
    }

    /// Whether a session may begin whose password was right. Submission has a limit of its own (`signer`).
    async fn begin(&self, attempt: &Attempt) -> Answer {
        let shares = self.shares.as_ref().filter(|_| attempt.protocol == IMAP);
        let Some(shares) = shares else {
            return Answer::GO_ON;
        };
        match shares.let_in(&attempt.login).await {
            Ok(()) => Answer::GO_ON,
            Err(share) => {
                metric::IMAP_LOGINS_REFUSED_TOTAL.increment(&[share.name()]);
                let login = &attempt.login;
                tracing::info!(
                    ?login,
                    share = share.name(),
                    "refused an IMAP session beyond a share"
                );
                Answer::refusal(share)
            }
        }
    }

    fn report(&self, attempt: &Attempt) {
        let Some(source) = attempt.source() else {
            return;
        };
        // Only right passwords are refused.
        let was_right = attempt.success || attempt.policy_reject;
        let now = self.clock.now();
        if self.throttle().report(source, was_right, now) {
            let Attempt { login, remote, .. } = attempt;
            tracing::warn!(?login, %remote, "many wrong passwords; tries at this login from there are slowed down");
        }
    }
}
