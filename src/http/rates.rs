//! How often a client address, and a key, may call: quotas a minute for reads, writes and costly calls apart.
//!
//! A client address is counted before its key is looked at, so that guessing keys and asking for what needs no key have an
//! end, too; a key is counted when it has been found in force. A quota is a bucket that fills evenly (GCRA): all of it can
//! be used at once, and comes back little by little.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};

use super::{
    client_address::{ClientAddress, Peer},
    problem::{Code, Problem},
    settings::{Quotas, Settings},
};
use crate::{model::ids::KeyId, telemetry::metric};

/// The time of a quota.
const WINDOW_S: u32 = 60;
/// Calls that cost far more than others: they make RSA keys or ask DNS.
const COSTLY: [(Method, &str); 3] = [
    (Method::POST, "/v1/domains"),
    (Method::POST, "/v1/domains/{domain}/dkim/rotate"),
    (Method::GET, "/v1/domains/{domain}/verify"),
];
/// The policy of a quota, and what is left of it (draft-ietf-httpapi-ratelimit-headers-10, 3 and 4).
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What a call costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Read,
    Write,
    Costly,
}

impl Class {
    fn of(method: &Method, route: Option<&str>) -> Self {
        if COSTLY
            .iter()
            .any(|(costly, path)| costly == method && Some(*path) == route)
        {
            Self::Costly
        } else if method.is_safe() {
            Self::Read
        } else {
            Self::Write
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
            Self::Costly => "costly",
        }
    }
}

/// Who is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counted {
    Address,
    Key,
}

impl Counted {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Key => "key",
        }
    }
}

/// What is left of a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Standing {
    counted: Counted,
    class: Class,
    quota: u32,
    remaining: u32,
}

impl Standing {
    fn policy_name(self) -> String {
        format!("{}-{}", self.counted.as_str(), self.class.as_str())
    }

    /// Adds it to an answer.
    fn add_to(self, response: &mut Response) {
        let name = self.policy_name();
        let used = u64::from(self.quota.saturating_sub(self.remaining));
        let full_in = (used * u64::from(WINDOW_S)).div_ceil(u64::from(self.quota));
        for (header, value) in [
            (
                RATE_LIMIT_POLICY,
                format!("\"{name}\";q={};w={WINDOW_S}", self.quota),
            ),
            (RATE_LIMIT, format!("\"{name}\";r={};t={full_in}", self.remaining)),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(header, value);
            }
        }
    }
}

/// The buckets of one quota. There are 65,536 of them, and who is counted has one of them by a hash with a secret seed, which
/// cannot be computed outside: so they take no more memory however many there are, and two that share one are a rare accident.
struct Buckets {
    counted: Counted,
    class: Class,
    quota: u32,
    hasher: RandomState,
    limiter: RateLimiter<u16, HashMapStateStore<u16>, MonotonicClock, StateInformationMiddleware>,
}

impl Buckets {
    fn new(counted: Counted, class: Class, quota: u32) -> Option<Self> {
        let all = NonZeroU32::new(quota)?;
        let period = Duration::from_secs(WINDOW_S.into()) / quota;
        let quota_of_limiter = Quota::with_period(period)?.allow_burst(all);
        Some(Self {
            counted,
            class,
            quota,
            hasher: RandomState::new(),
            limiter: RateLimiter::hashmap_with_clock(quota_of_limiter, MonotonicClock).with_middleware(),
        })
    }

    /// Counts one call. Fails with what is to be answered when the quota is used up.
    fn count(&self, who: impl Hash) -> Result<Standing, RateLimited> {
        let [high, low, ..] = self.hasher.hash_one(who).to_be_bytes();
        let standing = |remaining| Standing {
            counted: self.counted,
            class: self.class,
            quota: self.quota,
            remaining,
        };
        match self.limiter.check_key(&u16::from_be_bytes([high, low])) {
            Ok(state) => Ok(standing(state.remaining_burst_capacity())),
            Err(not_until) => {
                metric::RATE_LIMITED_TOTAL.increment(&[self.counted.as_str(), self.class.as_str()]);
                let wait = not_until.wait_time_from(MonotonicClock.now());
                Err(RateLimited {
                    standing: standing(0),
                    retry_after_s: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
                })
            }
        }
    }
}

/// A call too many.
#[derive(Debug)]
struct RateLimited {
    standing: Standing,
    retry_after_s: u64,
}

impl RateLimited {
    fn problem(&self) -> Problem {
        let Standing {
            counted,
            class,
            quota,
            ..
        } = self.standing;
        let who = match counted {
            Counted::Address => "a client address",
            Counted::Key => "a key",
        };
        let what = match class {
            Class::Read => "read",
            Class::Write => "write",
            Class::Costly => "make costly calls",
        };
        Problem::new(
            Code::RateLimited,
            format!(
                "{who} may {what} {quota} times in {WINDOW_S} s; wait {} s",
                self.retry_after_s
            ),
        )
        .retry_after(self.retry_after_s)
    }
}

/// The buckets of a class of callers, by class of call; none where the quota is off.
struct ByClass {
    reads: Option<Buckets>,
    writes: Option<Buckets>,
    costly: Option<Buckets>,
}

impl ByClass {
    fn new(counted: Counted, quotas: Quotas) -> Self {
        Self {
            reads: Buckets::new(counted, Class::Read, quotas.reads),
            writes: Buckets::new(counted, Class::Write, quotas.writes),
            costly: Buckets::new(counted, Class::Costly, quotas.costly),
        }
    }

    fn of(&self, class: Class) -> Option<&Buckets> {
        match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
            Class::Costly => &self.costly,
        }
        .as_ref()
    }
}

/// All quotas, and whom the client address is taken from.
pub(super) struct RateLimits {
    settings: Settings,
    addresses: ByClass,
    keys: ByClass,
}

impl RateLimits {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            addresses: ByClass::new(Counted::Address, settings.address_quotas),
            keys: ByClass::new(Counted::Key, settings.key_quotas),
            settings,
        }
    }
}

/// Counts the calls of a request. It is an extension of the request, for what finds out whose key it has.
#[derive(Clone)]
pub(super) struct Meter {
    limits: Arc<RateLimits>,
    class: Class,
    standing: Arc<Mutex<Option<Standing>>>,
}

impl Meter {
    /// Counts a call of this key.
    pub(super) fn count_key(&self, key: KeyId) -> Result<(), Problem> {
        self.note(
            self.limits
                .keys
                .of(self.class)
                .map(|buckets| buckets.count(key.0)),
        )
    }

    fn count_address(&self, address: ClientAddress) -> Result<(), Problem> {
        self.note(
            self.limits
                .addresses
                .of(self.class)
                .map(|buckets| buckets.count(address)),
        )
    }

    /// Keeps what is left for the answer: of the key, or of the address where no key was counted.
    fn note(&self, counted: Option<Result<Standing, RateLimited>>) -> Result<(), Problem> {
        let (standing, result) = match counted {
            None => return Ok(()),
            Some(Ok(standing)) => (standing, Ok(())),
            Some(Err(limited)) => (limited.standing, Err(limited.problem())),
        };
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
        result
    }
}

/// Counts a request for its client's address, and says in the answer what is left of the quota that counts.
pub(super) async fn limit(
    State(limits): State<Arc<RateLimits>>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let meter = Meter {
        class: Class::of(request.method(), route),
        limits: Arc::clone(&limits),
        standing: Arc::default(),
    };
    // Without a peer there is no connection: the router is called by a program.
    let peer = request.extensions().get::<Peer>().copied();
    let counted = peer.map_or(Ok(()), |Peer(peer)| {
        let client = limits.settings.proxies.client_of(peer.ip(), request.headers());
        meter.count_address(client.into())
    });
    let mut response = match counted {
        Ok(()) => {
            request.extensions_mut().insert(meter.clone());
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let standing = *meter.standing.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(standing) = standing {
        standing.add_to(&mut response);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_reads_writes_or_costly() {
        for (method, route, class) in [
            (Method::GET, Some("/v1/inboxes"), Class::Read),
            (Method::HEAD, Some("/v1/inboxes"), Class::Read),
            (Method::OPTIONS, None, Class::Read),
            (Method::GET, None, Class::Read),
            (Method::POST, Some("/v1/inboxes"), Class::Write),
            (Method::DELETE, Some("/v1/domains/{domain}"), Class::Write),
            (Method::POST, None, Class::Write),
            (Method::POST, Some("/v1/domains"), Class::Costly),
            (Method::GET, Some("/v1/domains"), Class::Read),
            (Method::GET, Some("/v1/domains/{domain}/verify"), Class::Costly),
            (
                Method::POST,
                Some("/v1/domains/{domain}/dkim/rotate"),
                Class::Costly,
            ),
        ] {
            assert_eq!(Class::of(&method, route), class, "{method} {route:?}");
        }
    }

    #[test]
    fn a_quota_is_used_at_once_and_of_each_apart() {
        let buckets = Buckets::new(Counted::Key, Class::Write, 3).unwrap();
        let remaining = |who: &str| buckets.count(who).map(|standing| standing.remaining);
        assert_eq!([remaining("a").unwrap(), remaining("a").unwrap()], [2, 1]);
        assert_eq!(remaining("a").unwrap(), 0);
        let limited = buckets.count("a").unwrap_err();
        assert!((1..=20).contains(&limited.retry_after_s), "{limited:?}");
        assert_eq!(limited.standing.remaining, 0);
        assert_eq!(remaining("b").unwrap(), 2);
        assert!(Buckets::new(Counted::Key, Class::Write, 0).is_none());
    }

    #[test]
    fn strangers_do_not_make_the_buckets_grow_without_end() {
        let buckets = Buckets::new(Counted::Address, Class::Read, 1).unwrap();
        for who in 0..300_000_u32 {
            drop(buckets.count(who));
        }
        assert!(
            buckets.limiter.len() <= 1 << 16,
            "{} buckets",
            buckets.limiter.len()
        );
    }

    #[test]
    fn an_answer_says_what_is_left_and_when_it_is_all_there_again() {
        let mut response = Response::default();
        let standing = Standing {
            counted: Counted::Key,
            class: Class::Write,
            quota: 120,
            remaining: 100,
        };
        standing.add_to(&mut response);
        assert_eq!(response.headers()[RATE_LIMIT_POLICY], "\"key-writes\";q=120;w=60");
        assert_eq!(response.headers()[RATE_LIMIT], "\"key-writes\";r=100;t=10");
    }
}
