//! The maps as somebody reads them who does not write, beside a daemon that does.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    Error, Expected, Layout, Which, file_error,
    files::Readers,
    passdb::{PassdbTree, Shown},
    passwd_line,
    table::{Entry, TableError, TableReader, with_nul},
};
use crate::model::maps::{AddressState, MapChange};

/// The maps, open for reading. Makes nothing, repairs nothing, and takes no lock but that of a look-up.
#[derive(Debug)]
pub struct Reader {
    layout: Layout,
    /// Whose the maps are.
    uid: u32,
    passdb: PassdbTree,
    /// One for each of [`Which::ALL`]; none that is missing or damaged.
    tables: [Option<TableReader>; Which::ALL.len()],
    /// What is wrong with whole tables and folders.
    whole: Mutex<Vec<Difference>>,
}

/// How something in the maps differs from what it should be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    /// The store asks for it, and it is not there.
    Missing,
    /// It says something else than the store.
    Wrong,
    /// Nothing in the store asks for it.
    Extra,
    /// It has another owner, group or mode than it must have.
    Mode,
    /// It is nothing that inboxd would write.
    Stray,
    /// Pages of it are missing or are no pages.
    Damaged,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Wrong => "says something else than the store",
            Self::Extra => "nothing in the store asks for it",
            Self::Mode => "has a wrong owner, group or mode",
            Self::Stray => "is nothing that inboxd writes",
            Self::Damaged => "is damaged",
        })
    }
}

/// One thing in the maps that is not as it should be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Difference {
    /// Which map: `passdb`, or the name of a table.
    pub map: &'static str,
    /// Which entry of it; none: the map itself.
    pub key: Option<String>,
    /// What is wrong with it.
    pub what: What,
}

/// What the folder of password entries is called.
const PASSDB: &str = "passdb";

impl Reader {
    /// Opens the maps in this folder, which has to be there.
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        let root = fs::metadata(&layout.root).map_err(file_error("look at the folder", &layout.root))?;
        let uid = root.uid();
        let mut reader = Self {
            layout: layout.clone(),
            uid,
            passdb: PassdbTree::at(&layout.passdb(), uid, layout.passdb_gid),
            tables: [const { None }; Which::ALL.len()],
            whole: Mutex::default(),
        };
        reader.look_at_folder(PASSDB, &layout.passdb(), Readers::Group(layout.passdb_gid))?;
        reader.look_at_folder("postfix", &layout.postfix(), Readers::Group(layout.postfix_gid))?;
        reader.look_at_folder("signer", &layout.signer(), Readers::Nobody)?;
        for which in Which::ALL {
            reader.tables[which as usize] = reader.open_table(which)?;
        }
        Ok(reader)
    }

    /// What is wrong with whole tables and folders, as far as it was seen.
    pub fn whole(&self) -> Vec<Difference> {
        self.found().clone()
    }

    /// Whether the file of a table can be read, so that its entries can be told.
    pub fn has(&self, which: Which) -> bool {
        let is_broken = |found: &Difference| {
            found.map == which.name() && matches!(found.what, What::Missing | What::Damaged)
        };
        !self.found().iter().any(is_broken)
    }

    /// Whether there is a tree of password entries.
    pub fn has_entries(&self) -> bool {
        let is_broken = |found: &Difference| {
            found.map == PASSDB && found.key.is_none() && matches!(found.what, What::Missing | What::Stray)
        };
        !self.found().iter().any(is_broken)
    }

    /// Everything that the maps say otherwise of a key than this.
    pub fn differences_of(&self, change: &MapChange) -> Result<Vec<Difference>, Error> {
        let mut found = Vec::new();
        for which in Which::ALL {
            let Some((key, value)) = which.entry(change).filter(|_| self.has(which)) else {
                continue;
            };
            let there = self.value(which, &with_nul(&key))?;
            let should = value.map(|value| with_nul(&value));
            let what = match (there, should) {
                (None, Some(_)) => What::Missing,
                (Some(_), None) => What::Extra,
                (Some((_, Some(value))), Some(should)) if value == should => continue,
                (Some(_), Some(_)) => What::Wrong,
                (None, None) => continue,
            };
            found.push(Difference {
                map: which.name(),
                key: Some(key),
                what,
            });
        }
        if let MapChange::Address(address, state) = change
            && self.has_entries()
        {
            let line = match state {
                AddressState::Mailbox(mailbox) => passwd_line(address, mailbox, &self.layout.home),
                AddressState::Absent | AddressState::Alias { .. } => String::new(),
            };
            let what = match (self.passdb.shown(address, &line)?, line.is_empty()) {
                (Shown::Nothing, true) | (Shown::Expected, false) => None,
                (Shown::Nothing, false) => Some(What::Missing),
                (_, true) => Some(What::Extra),
                (Shown::Other, false) => Some(What::Wrong),
                (Shown::WrongMode, false) => Some(What::Mode),
            };
            found.extend(what.map(|what| Difference {
                map: PASSDB,
                key: Some(address.to_string()),
                what,
            }));
        }
        Ok(found)
    }

    /// Of these keys of a table, those that are still there.
    pub fn is_there(&self, which: Which, key: &[u8]) -> Result<bool, Error> {
        Ok(self.value(which, key)?.is_some())
    }

    /// Of these expected states, how many password entries are not as they should be, and which.
    pub fn wrong_entries(&self, expected: &[MapChange]) -> Result<super::WrongEntries, Error> {
        if self.has_entries() {
            self.passdb.wrong_entries(expected, &self.layout.home)
        } else {
            Ok(super::WrongEntries::default())
        }
    }

    /// A folder of password entries that a mail server may not be able to read.
    pub fn look_at_domain(&self, folder: &Path) -> Option<Difference> {
        let found = fs::symlink_metadata(folder).ok()?;
        let readers = Readers::Group(self.layout.passdb_gid);
        (!readers.may_read_folder(&found, self.uid)).then(|| Difference {
            map: PASSDB,
            key: Some(self.name_of(folder)),
            what: What::Mode,
        })
    }

    /// Something among the password entries that does not belong there, and which file it is: one that is being
    /// written has soon gone, or is another. None if it has gone.
    pub fn stray(&self, path: &Path) -> Option<(Difference, (u64, u64))> {
        let found = fs::symlink_metadata(path).ok()?;
        let stray = Difference {
            map: PASSDB,
            key: Some(self.name_of(path)),
            what: What::Stray,
        };
        Some((stray, (found.dev(), found.ino())))
    }

    /// Tables that cannot be read count as met: they are told of as a whole.
    pub fn meet_broken(&self, expected: &mut Expected) {
        for which in Which::ALL.into_iter().filter(|&which| !self.has(which)) {
            expected.meet_table(which);
        }
    }

    pub(super) fn passdb(&self) -> &PassdbTree {
        &self.passdb
    }

    pub(super) fn table_entries_after(
        &self,
        which: Which,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let Some(table) = self.readable(which) else {
            return Ok(Vec::new());
        };
        self.or_damaged(which, table.entries_after(after, limit), Vec::new())
    }

    fn value(&self, which: Which, key: &[u8]) -> Result<Option<Entry>, Error> {
        let Some(table) = self.readable(which) else {
            return Ok(None);
        };
        self.or_damaged(which, table.get(key), None)
    }

    fn readable(&self, which: Which) -> Option<&TableReader> {
        self.tables[which as usize].as_ref().filter(|_| self.has(which))
    }

    fn or_damaged<T>(&self, which: Which, read: Result<T, TableError>, nothing: T) -> Result<T, Error> {
        match read {
            Ok(read) => Ok(read),
            Err(TableError::Damaged) => {
                self.tell_of(which.name(), What::Damaged);
                Ok(nothing)
            }
            Err(source) => Err(self.table_error(which, source)),
        }
    }

    fn open_table(&self, which: Which) -> Result<Option<TableReader>, Error> {
        let path = self.layout.table(which);
        match TableReader::open(&path) {
            Ok(table) => {
                let file = table
                    .file()
                    .metadata()
                    .map_err(file_error("look at the table", &path))?;
                if file.len() == 0 {
                    self.tell_of(which.name(), What::Damaged);
                    return Ok(None);
                }
                if !self.layout.readers(which).may_read_file(&file, self.uid) {
                    self.tell_of(which.name(), What::Mode);
                }
                Ok(Some(table))
            }
            Err(TableError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.tell_of(which.name(), What::Missing);
                Ok(None)
            }
            Err(source) => Err(self.table_error(which, source)),
        }
    }

    fn look_at_folder(&self, map: &'static str, path: &Path, readers: Readers) -> Result<(), Error> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_dir() => self.tell_of(map, What::Stray),
            Ok(found) if !readers.may_read_folder(&found, self.uid) => self.tell_of(map, What::Mode),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.tell_of(map, What::Missing),
            Err(error) => return Err(file_error("look at the folder", path)(error)),
        }
        Ok(())
    }

    fn tell_of(&self, map: &'static str, what: What) {
        self.found().push(Difference { map, key: None, what });
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Vec<Difference>> {
        self.whole
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn name_of(&self, path: &Path) -> String {
        let name: PathBuf = path.strip_prefix(self.passdb.root()).unwrap_or(path).to_owned();
        name.display().to_string()
    }

    fn table_error(&self, which: Which, source: TableError) -> Error {
        Error::Table {
            doing: "read",
            path: self.layout.table(which),
            source,
        }
    }
}
