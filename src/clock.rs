//! The only sources of time and randomness.
//!
//! Everything that needs "now" or random bytes takes a [`Clock`] or an [`Entropy`] as an argument, so that
//! tests can say what both are. `clippy.toml` forbids the globals behind them everywhere else.

use std::fmt;

use uuid::Uuid;

/// A point in time: microseconds since the Unix epoch, UTC. Stored as this integer, shown as RFC 3339 with
/// milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The stored form, microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From the stored form.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Whole seconds since the Unix epoch.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This instant moved by a number of milliseconds, into the past when negative.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000)))
    }

    /// This instant moved by a number of seconds, into the past when negative.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds: `2026-11-23T12:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            // Outside the years that RFC 3339 can write; only a broken clock gets here.
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// Where "now" comes from.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;
}

/// Where random bytes come from; they must be fit for keys.
pub trait Entropy: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's own clock and random number generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that asks the machine for the time"
        )]
        let now = jiff::Timestamp::now();
        Timestamp(now.as_microsecond())
    }
}

impl Entropy for Machine {
    fn fill(&self, buffer: &mut [u8]) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that asks the machine for randomness"
        )]
        let filled = getrandom::fill(buffer);
        // getrandom(2) on Linux fails only for a kernel without it; a key made of anything else would be a lie.
        assert!(filled.is_ok(), "the kernel has no random number generator");
    }
}

/// A new identifier, RFC 9562 version 7: sorts by creation time to the microsecond.
///
/// Lists are paged "newest first" by the identifier, and two requests fit into one millisecond, so the twelve bits
/// behind the milliseconds hold the fraction of the millisecond (section 6.2, method 3). The other 62 bits
/// are random.
pub fn new_id(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let micros = u64::try_from(clock.now().as_micros()).unwrap_or(0);
    let (millis, fraction) = (micros / 1000, (micros % 1000) * 4096 / 1000);
    let mut tail = [0_u8; 10];
    entropy.fill(&mut tail);
    [_, _, _, _, _, _, tail[0], tail[1]] = fraction.to_be_bytes();
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}

/// A clock that tests move.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Hand(std::sync::atomic::AtomicI64);

#[cfg(test)]
impl Hand {
    /// Moves it on.
    pub(crate) fn advance_millis(&self, millis: i64) {
        let moved = self.now().plus_millis(millis);
        self.0
            .store(moved.as_micros(), std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_in_utc_with_milliseconds() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            Timestamp::from_micros(1_795_436_412_345_678).to_string(),
            "2026-11-23T12:20:12.345Z"
        );
    }

    #[test]
    fn identifiers_are_version_7_and_sort_by_time_to_the_microsecond() {
        struct At(i64);
        impl Clock for At {
            fn now(&self) -> Timestamp {
                Timestamp::from_micros(self.0)
            }
        }
        let start = 1_795_436_412_345_000;
        let ids: Vec<Uuid> = (start..start + 3000)
            .map(|micros| new_id(&At(micros), &Machine))
            .collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        for id in ids {
            assert_eq!(
                (id.get_version_num(), id.get_variant()),
                (7, uuid::Variant::RFC4122)
            );
        }
        let [one, other] = [0, 1].map(|_| new_id(&At(start), &Machine));
        assert_ne!(one, other, "the rest is random");
    }
}
