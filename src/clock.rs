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

/// A new identifier, RFC 9562 version 7: sorts by creation time.
pub fn new_id(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0_u8; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(clock.now().as_micros() / 1000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
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
    fn identifiers_are_version_7_and_sort_by_time() {
        struct At(i64);
        impl Clock for At {
            fn now(&self) -> Timestamp {
                Timestamp::from_micros(self.0)
            }
        }
        let earlier = new_id(&At(1_000_000_000), &Machine);
        let later = new_id(&At(1_000_002_000), &Machine);
        assert_eq!(earlier.get_version_num(), 7);
        assert!(earlier < later);
    }
}
