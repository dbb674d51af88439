//! Who tried which login how often: pauses that grow with each wrong password, in bounded memory.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, Ipv6Addr},
};

use crate::clock::Timestamp;

/// Wrong passwords before the first pause.
const FREE_FAILURES: u32 = 5;
/// Tries that are under way at the same time before the first pause, where no right password is known.
const FREE_AT_A_TIME: u32 = 20;
/// The longest pause: clients wait for longer than that.
const PAUSE_MAX_S: u32 = 20;
/// After so long without a try, all is forgotten.
const FORGOTTEN_AFTER_S: i64 = 600;
/// Sources of one half of the memory. The older half is forgotten when the newer one is full.
const SOURCES_MAX: usize = 20_000;
/// Longest login that is told from others, in octets (RFC 5321, 4.5.3.1: 64, @, 255).
const LOGIN_MAX_OCTETS: usize = 320;

/// A login and where it is tried from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Source {
    login: Box<str>,
    remote: IpAddr,
}

/// What is known of a source.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    /// Wrong passwords since the last right one.
    failures: u32,
    /// Tries of which nothing has been reported yet.
    pending: u32,
    /// Whether the password was right there once.
    is_known: bool,
    last: Timestamp,
    /// When the last try that has to wait is let through: those that wait do so one after the other.
    let_through: Timestamp,
}

/// Every source that was seen of late.
#[derive(Default)]
pub(super) struct Throttle {
    newer: HashMap<Source, Attempts>,
    older: HashMap<Source, Attempts>,
}

impl Source {
    /// Of an IPv6 address, the network counts: everyone has 2^64 addresses in it.
    pub(super) fn new(login: &str, remote: IpAddr) -> Self {
        let mut login = login.to_lowercase();
        login.truncate(login.floor_char_boundary(LOGIN_MAX_OCTETS));
        let remote = match remote.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        Self {
            login: login.into(),
            remote,
        }
    }
}

impl Throttle {
    /// A try begins. Returns by how many seconds it is delayed.
    pub(super) fn allow(&mut self, source: Source, now: Timestamp) -> u32 {
        let attempts = self.attempts(source, now);
        let pause = attempts.pause();
        attempts.pending = attempts.pending.saturating_add(1);
        if pause == 0 {
            return 0;
        }
        let last = now.plus_seconds(i64::from(PAUSE_MAX_S));
        let turn = attempts
            .let_through
            .max(now)
            .plus_seconds(i64::from(pause))
            .min(last);
        attempts.let_through = turn;
        let micros = turn.as_micros() - now.as_micros();
        u32::try_from((micros + 999_999) / 1_000_000).unwrap_or(PAUSE_MAX_S)
    }

    /// What came of a try. Returns whether the pauses have reached their longest with it.
    pub(super) fn report(&mut self, source: Source, success: bool, now: Timestamp) -> bool {
        let attempts = self.attempts(source, now);
        let before = pause_after(attempts.failures, FREE_FAILURES);
        if success {
            *attempts = Attempts {
                is_known: true,
                ..Attempts::new(now)
            };
        } else {
            attempts.failures = attempts.failures.saturating_add(1);
            attempts.pending = attempts.pending.saturating_sub(1);
        }
        before < PAUSE_MAX_S && pause_after(attempts.failures, FREE_FAILURES) == PAUSE_MAX_S
    }

    fn attempts(&mut self, source: Source, now: Timestamp) -> &mut Attempts {
        let known = self.newer.remove(&source).or_else(|| self.older.remove(&source));
        if self.newer.len() >= SOURCES_MAX {
            self.older = mem::take(&mut self.newer);
        }
        let mut attempts = known
            .filter(|known| known.last.plus_seconds(FORGOTTEN_AFTER_S) >= now)
            .unwrap_or_else(|| Attempts::new(now));
        attempts.last = now;
        let entry = self.newer.entry(source).insert_entry(attempts);
        entry.into_mut()
    }
}

impl Attempts {
    fn new(now: Timestamp) -> Self {
        Self {
            failures: 0,
            pending: 0,
            is_known: false,
            last: now,
            let_through: now,
        }
    }

    fn pause(&self) -> u32 {
        let failed = pause_after(self.failures, FREE_FAILURES);
        if self.is_known {
            return failed;
        }
        // Tries that come all at once are answered before any of them is reported.
        failed.max(pause_after(
            self.failures.saturating_add(self.pending),
            FREE_AT_A_TIME,
        ))
    }
}

/// Doubles with each try beyond those that are free.
fn pause_after(tries: u32, free: u32) -> u32 {
    match tries.checked_sub(free) {
        None => 0,
        Some(beyond) => 1_u32.checked_shl(beyond).unwrap_or(u32::MAX).min(PAUSE_MAX_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(0);

    fn source(login: &str, remote: &str) -> Source {
        Source::new(login, remote.parse().unwrap())
    }

    fn wrong(throttle: &mut Throttle, source: &Source) -> u32 {
        let pause = throttle.allow(source.clone(), NOW);
        throttle.report(source.clone(), false, NOW);
        pause
    }

    #[test]
    fn pauses_grow_with_wrong_passwords_and_end_with_the_right_one() {
        let (mut throttle, source) = (Throttle::default(), source("a@b.test", "192.0.2.1"));
        let mut now = NOW;
        let pauses: Vec<u32> = (0..12)
            .map(|_| {
                let pause = throttle.allow(source.clone(), now);
                now = now.plus_seconds(i64::from(pause));
                throttle.report(source.clone(), false, now);
                pause
            })
            .collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(throttle.allow(source.clone(), now), PAUSE_MAX_S);
        throttle.report(source.clone(), true, now);
        assert_eq!(throttle.allow(source, now), 0);
    }

    #[test]
    fn tries_that_wait_do_so_one_after_the_other() {
        let (mut throttle, source) = (Throttle::default(), source("a@b.test", "192.0.2.1"));
        for _ in 0..FREE_AT_A_TIME {
            assert_eq!(throttle.allow(source.clone(), NOW), 0);
        }
        let pauses: Vec<u32> = (0..6).map(|_| throttle.allow(source.clone(), NOW)).collect();
        assert_eq!(pauses, [1, 3, 7, 15, 20, 20]);
        let later = Timestamp::from_micros(500_000);
        assert_eq!(throttle.allow(source, later), PAUSE_MAX_S);
    }

    #[test]
    fn other_logins_and_other_addresses_do_not_wait() {
        let (mut throttle, guessed) = (Throttle::default(), source("a@b.test", "2001:db8::1"));
        while wrong(&mut throttle, &guessed) < PAUSE_MAX_S {}
        assert_eq!(throttle.allow(source("c@b.test", "2001:db8::1"), NOW), 0);
        assert_eq!(throttle.allow(source("a@b.test", "2001:db8:1::1"), NOW), 0);
        assert_eq!(
            throttle.allow(source("A@B.test", "2001:db8::2:3:4:5"), NOW),
            PAUSE_MAX_S
        );
        let mapped = source("a@b.test", "::ffff:192.0.2.1");
        assert_eq!(mapped, source("a@b.test", "192.0.2.1"));
    }

    #[test]
    fn tries_at_a_time_count_until_a_password_was_right() {
        let (mut throttle, source) = (Throttle::default(), source("a@b.test", "192.0.2.1"));
        let free = (0..100).filter(|_| throttle.allow(source.clone(), NOW) == 0);
        assert_eq!(free.count(), FREE_AT_A_TIME as usize);
        throttle.report(source.clone(), true, NOW);
        for _ in 0..100 {
            assert_eq!(throttle.allow(source.clone(), NOW), 0);
        }
    }

    #[test]
    fn the_end_of_growth_is_reported_once() {
        let (mut throttle, source) = (Throttle::default(), source("a@b.test", "192.0.2.1"));
        let reported: Vec<bool> = (0..20)
            .map(|_| throttle.report(source.clone(), false, NOW))
            .collect();
        assert_eq!(reported.iter().filter(|reported| **reported).count(), 1);
    }

    #[test]
    fn what_is_old_is_forgotten_and_memory_is_bounded() {
        let (mut throttle, guessed) = (Throttle::default(), source("a@b.test", "192.0.2.1"));
        while wrong(&mut throttle, &guessed) < PAUSE_MAX_S {}
        let later = NOW.plus_seconds(FORGOTTEN_AFTER_S);
        assert_eq!(throttle.allow(guessed.clone(), later), PAUSE_MAX_S);
        let much_later = later.plus_seconds(FORGOTTEN_AFTER_S + 1);
        assert_eq!(throttle.allow(guessed, much_later), 0);
        for number in 0..SOURCES_MAX * 3 {
            throttle.allow(source(&format!("{number}@b.test"), "192.0.2.1"), NOW);
            assert!(throttle.newer.len() <= SOURCES_MAX && throttle.older.len() <= SOURCES_MAX);
        }
        let long = Source::new(&"ä".repeat(1000), "192.0.2.1".parse().unwrap());
        assert!(long.login.len() <= LOGIN_MAX_OCTETS);
    }
}
