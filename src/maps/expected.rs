//! Everything that the maps should hold, in eight octets an entry.
//!
//! The store lists names in another order than a table does, and a look-up for each of a million names costs more than
//! to read both sides once. So what the store asks for is kept as a hash of key and value; then a table is walked, and
//! what is not among the hashes does not belong there, and a hash that was not met says that something is missing. The
//! hash is keyed anew in each process: that two of a million entries have the same one, and that just this hides a
//! difference, happens to nobody.

use std::hash::{BuildHasher as _, RandomState};

use super::{Which, table::with_nul};
use crate::model::maps::{AddressState, MapChange};

/// What the maps should hold.
#[derive(Debug)]
pub struct Expected {
    hasher: RandomState,
    tables: [Entries; Which::ALL.len()],
    /// Of the addresses that have a mailbox; in order, once [`Expected::finish`] has been called.
    mailboxes: Vec<u64>,
}

#[derive(Debug, Default)]
struct Entries {
    /// In order, once [`Expected::finish`] has been called.
    hashes: Vec<u64>,
    /// One bit for each of them: it was met.
    met: Vec<u64>,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            tables: Default::default(),
            mailboxes: Vec::new(),
        }
    }
}

impl Expected {
    /// Adds what the tables should hold of these.
    pub fn add(&mut self, changes: &[MapChange]) {
        for change in changes {
            for (which, hash) in self.hashes_of(change).into_iter().flatten() {
                self.tables[which as usize].hashes.push(hash);
            }
            if let MapChange::Address(address, AddressState::Mailbox(_)) = change {
                self.mailboxes.push(self.hasher.hash_one(address.to_string()));
            }
        }
    }

    /// No more are added: from here on it can be asked.
    pub fn finish(&mut self) {
        for entries in &mut self.tables {
            entries.hashes.sort_unstable();
            entries.hashes.dedup();
            entries.met = vec![0; entries.hashes.len().div_ceil(u64::BITS as usize)];
        }
        self.mailboxes.sort_unstable();
    }

    /// How many entries a table should have. One that has a mailbox has a password entry.
    pub fn count(&self, which: Which) -> usize {
        self.tables[which as usize].hashes.len()
    }

    /// Whether nothing that a table should hold was not met.
    pub fn is_all_met(&self) -> bool {
        self.tables.iter().all(|entries| {
            let mut places = 0..entries.hashes.len();
            places.all(|place| entries.is_met(place))
        })
    }

    /// Whether all was met that the tables should hold of this.
    pub fn is_met(&self, change: &MapChange) -> bool {
        self.hashes_of(change).into_iter().flatten().all(|(which, hash)| {
            let entries = &self.tables[which as usize];
            entries.place(hash).is_some_and(|place| entries.is_met(place))
        })
    }

    /// Says that the tables hold all of this.
    pub fn meet_all(&mut self, change: &MapChange) {
        for (which, hash) in self.hashes_of(change).into_iter().flatten() {
            self.tables[which as usize].meet(hash);
        }
    }

    /// Says that a table holds everything, because it cannot be asked.
    pub(super) fn meet_table(&mut self, which: Which) {
        self.tables[which as usize].met.fill(u64::MAX);
    }

    /// Says that a table holds this, keys and values as in the table; whether it should.
    pub(super) fn meet(&mut self, which: Which, key: &[u8], value: &[u8]) -> bool {
        let hash = self.hash(key, value);
        self.tables[which as usize].meet(hash)
    }

    /// Whether an address of this name should have a password entry.
    pub(super) fn has_mailbox(&self, name: &str) -> bool {
        self.mailboxes.binary_search(&self.hasher.hash_one(name)).is_ok()
    }

    fn hashes_of(&self, change: &MapChange) -> [Option<(Which, u64)>; Which::ALL.len()] {
        Which::ALL.map(|which| {
            let (key, value) = which.entry(change)?;
            let (key, value) = (with_nul(&key), with_nul(&value?));
            Some((which, self.hash(&key, &value)))
        })
    }

    fn hash(&self, key: &[u8], value: &[u8]) -> u64 {
        self.hasher.hash_one((key, value))
    }
}

impl Entries {
    fn place(&self, hash: u64) -> Option<usize> {
        self.hashes.binary_search(&hash).ok()
    }

    fn is_met(&self, place: usize) -> bool {
        self.met[place / 64] & (1 << (place % 64)) != 0
    }

    fn meet(&mut self, hash: u64) -> bool {
        let Some(place) = self.place(hash) else {
            return false;
        };
        self.met[place / 64] |= 1 << (place % 64);
        true
    }
}
