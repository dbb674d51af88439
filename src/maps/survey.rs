//! A walk through everything that the maps hold, beside what they should hold.

use std::path::PathBuf;

use super::{
    Error, Expected, Maps, Reader, Which,
    passdb::{self, Found},
    table::Entry,
};
use crate::model::{
    address::Address,
    maps::{MapChange, MapKey},
};

/// Where the walk is, and what it has met.
#[derive(Debug)]
pub struct Survey {
    expected: Expected,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// In a table, behind this key.
    Table(usize, Option<Vec<u8>>),
    Entries(Option<Box<passdb::Walk>>),
    Over,
}

/// What some of the maps hold that is not expected.
#[derive(Debug, Default)]
pub struct Leftover {
    /// Keys that are not expected, or not with what the maps say of them.
    pub keys: Vec<MapKey>,
    /// Keys of tables that no inboxd would write.
    pub junk: Vec<(Which, Vec<u8>)>,
    /// What cannot be a password entry, and folders of them.
    pub strays: Vec<PathBuf>,
    /// Folders of password entries.
    pub folders: Vec<PathBuf>,
}

/// Maps that can be walked through.
trait Source {
    fn entries_after(&self, which: Which, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error>;
    /// None: there is no tree of password entries.
    fn walk(&self) -> Result<Option<passdb::Walk>, Error>;
}

impl Source for Maps {
    fn entries_after(&self, which: Which, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.table(which).entries_after(after, limit)
    }

    fn walk(&self) -> Result<Option<passdb::Walk>, Error> {
        self.passdb.walk().map(Some)
    }
}

impl Source for Reader {
    fn entries_after(&self, which: Which, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.table_entries_after(which, after, limit)
    }

    fn walk(&self) -> Result<Option<passdb::Walk>, Error> {
        self.has_entries().then(|| self.passdb().walk()).transpose()
    }
}

impl Maps {
    /// Walks on through this many entries; `None` when all have been met. Not while something is written.
    pub fn survey(&self, survey: &mut Survey, limit: usize) -> Result<Option<Leftover>, Error> {
        survey.page(self, limit)
    }
}

impl Reader {
    /// Walks on through this many entries; `None` when all have been met.
    pub fn survey(&self, survey: &mut Survey, limit: usize) -> Result<Option<Leftover>, Error> {
        survey.page(self, limit)
    }
}

impl Survey {
    /// A walk that begins. It goes through the tables, and then through the password entries.
    pub fn new(mut expected: Expected) -> Self {
        expected.finish();
        Self {
            expected,
            stage: Stage::Table(0, None),
        }
    }

    /// What is expected, and what of it was met in the tables.
    pub fn expected(&mut self) -> &mut Expected {
        &mut self.expected
    }

    /// Whether the tables are behind it, and the password entries come next.
    pub fn is_through_the_tables(&self) -> bool {
        !matches!(self.stage, Stage::Table(..))
    }

    fn page(&mut self, source: &impl Source, limit: usize) -> Result<Option<Leftover>, Error> {
        let mut found = Leftover::default();
        match &mut self.stage {
            Stage::Over => return Ok(None),
            Stage::Table(index, after) => {
                let which = Which::ALL[*index];
                let entries = source.entries_after(which, after.as_deref(), limit)?;
                match entries.last() {
                    Some((last, _)) => *after = Some(last.clone()),
                    None if *index + 1 < Which::ALL.len() => self.stage = Stage::Table(*index + 1, None),
                    None => self.stage = Stage::Entries(None),
                }
                for (key, value) in entries {
                    if value.is_some_and(|value| self.expected.meet(which, &key, &value)) {
                        continue;
                    }
                    match parse(which, &key) {
                        Some(parsed) => found.keys.push(parsed),
                        None => found.junk.push((which, key)),
                    }
                }
            }
            Stage::Entries(walk) => {
                if walk.is_none() {
                    *walk = source.walk()?.map(Box::new);
                }
                let Some(walk) = walk else {
                    self.stage = Stage::Over;
                    return Ok(Some(found));
                };
                for _ in 0..limit {
                    match walk.next()? {
                        None => {
                            self.stage = Stage::Over;
                            break;
                        }
                        Some(Found::Folder(path)) => found.folders.push(path),
                        Some(Found::Stray(path, _)) => found.strays.push(path),
                        Some(Found::Entry { local_part, domain }) => {
                            let address = Address { local_part, domain };
                            if !self.expected.has_mailbox(&address.to_string()) {
                                found.keys.push(MapKey::Address(address));
                            }
                        }
                    }
                }
            }
        }
        Ok(Some(found))
    }

    /// Of these expected states, those that the tables did not show.
    pub fn not_met(&self, expected: Vec<MapChange>) -> Vec<MapChange> {
        expected
            .into_iter()
            .filter(|change| !self.expected.is_met(change))
            .collect()
    }
}

/// The key of the maps that a key of a table stands for, if inboxd would write it there.
fn parse(which: Which, key: &[u8]) -> Option<MapKey> {
    which.parse(std::str::from_utf8(key.strip_suffix(b"\0")?).ok()?)
}
