//! How much mail from outside a mailbox gets in a time: a bucket for each, which every message fills and time empties.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
};

use crate::{clock::Timestamp, model::address::Address};

/// The time that a full bucket takes to become empty.
const EMPTY_AFTER_MICROS: i128 = 3_600 * 1_000_000;
/// Mailboxes of one half of the memory. The older half is forgotten when the newer one is full.
const MAILBOXES_MAX: usize = 50_000;

/// What has arrived for a mailbox, and when that was last counted.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    octets: u64,
    at: Timestamp,
}

/// The buckets of all mailboxes that got mail of late.
#[derive(Debug)]
pub(super) struct Flood {
    /// Octets of a full bucket; none: no limit.
    limit: Option<u64>,
    newer: HashMap<Address, Bucket>,
    older: HashMap<Address, Bucket>,
}

impl Flood {
    /// With so many octets an hour; none: no limit.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            newer: HashMap::new(),
            older: HashMap::new(),
        }
    }

    /// Counts a message for each of these mailboxes, unless the bucket of one is full: then it is returned, and nothing is
    /// counted. A message may be larger than what is left.
    pub(super) fn take<'a>(
        &mut self,
        mailboxes: &'a BTreeSet<Address>,
        octets: u64,
        now: Timestamp,
    ) -> Result<(), &'a Address> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        for mailbox in mailboxes {
            if self.bucket(mailbox, limit, now).octets >= limit {
                return Err(mailbox);
            }
        }
        for mailbox in mailboxes {
            let bucket = self.bucket(mailbox, limit, now);
            bucket.octets = bucket.octets.saturating_add(octets);
        }
        Ok(())
    }

    /// What was counted for a message that is refused after all is counted no longer.
    pub(super) fn give_back(&mut self, mailboxes: &BTreeSet<Address>, octets: u64, now: Timestamp) {
        let Some(limit) = self.limit else {
            return;
        };
        for mailbox in mailboxes {
            let bucket = self.bucket(mailbox, limit, now);
            bucket.octets = bucket.octets.saturating_sub(octets);
        }
    }

    /// The bucket of a mailbox as it is now.
    fn bucket(&mut self, mailbox: &Address, limit: u64, now: Timestamp) -> &mut Bucket {
        let known = self.newer.remove(mailbox).or_else(|| self.older.remove(mailbox));
        if self.newer.len() >= MAILBOXES_MAX {
            self.older = mem::take(&mut self.newer);
        }
        let before = known.unwrap_or(Bucket { octets: 0, at: now });
        let micros = i128::from(now.as_micros()) - i128::from(before.at.as_micros());
        let emptied = i128::from(limit) * micros.max(0) / EMPTY_AFTER_MICROS;
        let bucket = Bucket {
            octets: before
                .octets
                .saturating_sub(u64::try_from(emptied).unwrap_or(u64::MAX)),
            at: now,
        };
        let entry = self.newer.entry(mailbox.clone()).insert_entry(bucket);
        entry.into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn boxes(names: &[&str]) -> BTreeSet<Address> {
        let address = |name: &&str| Address::parse(&format!("{name}@a.test")).unwrap();
        names.iter().map(address).collect()
    }

    #[test]
    fn a_full_bucket_takes_nothing_until_time_has_emptied_it() {
        let mut flood = Flood::new(Some(100));
        let scout = boxes(&["scout"]);
        for _ in 0..4 {
            assert_eq!(flood.take(&scout, 30, NOW), Ok(()));
        }
        // 120 of 100.
        assert_eq!(flood.take(&scout, 1, NOW), Err(scout.first().unwrap()));
        assert_eq!(flood.take(&boxes(&["other"]), 1, NOW), Ok(()));
        let minutes = |count: i64| NOW.plus_seconds(60 * count);
        assert!(flood.take(&scout, 1, minutes(12)).is_err());
        assert_eq!(flood.take(&scout, 30, minutes(13)), Ok(()));
        assert!(flood.take(&scout, 1, minutes(13)).is_err());
        // A clock that goes back empties nothing, and fills nothing.
        assert!(flood.take(&scout, 1, NOW).is_err());
        assert_eq!(flood.take(&scout, u64::MAX, minutes(120)), Ok(()));
    }

    #[test]
    fn a_message_that_one_mailbox_has_no_room_for_is_counted_for_none() {
        let mut flood = Flood::new(Some(100));
        let (full, both) = (boxes(&["full"]), boxes(&["full", "empty"]));
        flood.take(&full, 100, NOW).unwrap();
        assert_eq!(flood.take(&both, 100, NOW), Err(full.first().unwrap()));
        assert_eq!(flood.take(&boxes(&["empty"]), 1, NOW), Ok(()));
        flood.give_back(&full, 1, NOW);
        assert_eq!(flood.take(&both, 1, NOW), Ok(()));
    }

    #[test]
    fn without_a_limit_nothing_is_counted_and_memory_is_bounded() {
        let mut unlimited = Flood::new(None);
        for _ in 0..3 {
            assert_eq!(unlimited.take(&boxes(&["scout"]), u64::MAX, NOW), Ok(()));
        }
        assert!(unlimited.newer.is_empty());
        let mut flood = Flood::new(Some(1));
        for number in 0..MAILBOXES_MAX * 3 {
            flood.take(&boxes(&[&number.to_string()]), 1, NOW).unwrap();
            assert!(flood.newer.len() <= MAILBOXES_MAX && flood.older.len() <= MAILBOXES_MAX);
        }
    }
}
