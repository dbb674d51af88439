//! A table as somebody reads it who does not write: by its name, under the lock of a look-up.

use std::{fs::File, path::Path};

use nix::libc;

use super::{Entry, Lock, TableError, pages};

/// A table's file, open for reading beside a daemon that writes it.
#[derive(Debug)]
pub(in crate::maps) struct TableReader(File);

impl TableReader {
    pub(in crate::maps) fn open(path: &Path) -> Result<Self, TableError> {
        File::open(path).map(Self).map_err(TableError::Read)
    }

    pub(in crate::maps) fn file(&self) -> &File {
        &self.0
    }

    /// The entries behind a key, in order of their keys. The daemon waits meanwhile: not too many at a time.
    pub(in crate::maps) fn entries_after(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, TableError> {
        self.locked(|file| pages::entries_after(file, after, limit).map_err(TableError::from))
    }

    /// The value of one key.
    pub(in crate::maps) fn get(&self, key: &[u8]) -> Result<Option<Entry>, TableError> {
        // Every key ends in a NUL, so the one without it comes just before.
        let before = key.strip_suffix(b"\0").unwrap_or(key);
        let behind = self.entries_after(Some(before), 1)?;
        Ok(behind.into_iter().find(|(found, _)| found == key))
    }

    fn locked<T>(&self, read: impl FnOnce(&File) -> Result<T, TableError>) -> Result<T, TableError> {
        let _held = Lock::take(&self.0, libc::F_RDLCK)?;
        read(&self.0)
    }
}
