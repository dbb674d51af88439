//! Judges arriving mail: a milter that Postfix's smtpd on port 25 calls for every message.
//!
//! - [`session`]: one SMTP session as Postfix reports it, and its answers.
//! - [`message`]: a message on its way through: header fields kept, body hashed ([`body`]), nothing else held.
//! - [`author`]: the domains that its From field shows.
//! - [`flood`]: how much a mailbox gets in a time.
//! - [`judge`]: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 9989) and ARC (RFC 8617), asked of DNS with limits; [`answers`]
//!   are those of one message.
//! - [`findings`]: what was found out, and what follows from it: pure decisions.
//! - [`report`]: the header fields that say so.
//!
//! What cannot be judged, because the maps cannot be read, is not let through: the sending server tries again later. What
//! DNS does not answer is `temperror`, and never a reason to refuse a message or to file it to Junk.

mod answers;
mod author;
mod body;
mod findings;
mod flood;
mod judge;
mod message;
mod report;
mod session;

use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;

pub use self::findings::{DmarcAction, OwnSenders, Policy};
use self::{flood::Flood, judge::Judge, session::Session};
use crate::{clock::Clock, dns, maps::LookUps, milter};

/// What arriving mail is judged with.
pub struct Parts {
    /// Which domains are ours, and which mailbox an address stands for.
    pub maps: LookUps,
    /// Whom DNS is asked of.
    pub dns: dns::Settings,
    /// The name under which verdicts are given (the authserv-id of RFC 8601, 2.5).
    pub host: String,
    /// What follows from the verdicts.
    pub policy: Policy,
    /// Most octets that a mailbox gets in an hour; none: no limit.
    pub octets_per_hour_max: Option<u64>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// What all sessions share.
struct Shared {
    maps: LookUps,
    host: String,
    policy: Policy,
    judge: Judge,
    flood: Mutex<Flood>,
    clock: Arc<dyn Clock>,
}

/// Judges until it is asked to stop. Messages that are under way then are finished, if that does not take long.
pub async fn serve(listener: UnixListener, parts: Parts, stop: impl Future<Output = ()>) {
    let Parts {
        maps,
        dns,
        host,
        policy,
        octets_per_hour_max,
        clock,
    } = parts;
    let judge = Judge::new(&dns, policy.trusted_arc_sealers.clone());
    let shared = Arc::new(Shared {
        maps,
        host,
        policy,
        judge,
        flood: Mutex::new(Flood::new(octets_per_hour_max)),
        clock,
    });
    milter::serve(listener, || Session::new(Arc::clone(&shared)), stop).await;
}
