//! One LMDB table, changed in place under the lock that Postfix honours (`lmdb_table(5)`).
//!
//! Postfix opens the table without LMDB's own locking and takes an `fcntl` read lock on the file around each
//! look-up; so a writer must hold an `fcntl` write lock from begin to commit. `flock` is another lock and would
//! protect nothing. The commit is not flushed under the lock, because look-ups would wait for the disk; the flush
//! follows when the lock is gone, and only then has the change happened for a caller.
//!
//! Every key and value ends in a NUL, because Postfix remembers the first form that hits.

mod check;

use std::{
    fs::{File, OpenOptions},
    ops::Bound,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use heed::{Database, Env, EnvFlags, EnvOpenOptions, RwTxn, WithoutTls, types::Bytes};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use super::{
    Belongs, Error, file_error,
    files::{FILE_MODE, own},
};
use crate::model::maps::MapKey;

/// Largest table, in octets of address space: forty million addresses. The file is as large as what is in it.
const MAP_SIZE_OCTETS: usize = 4 << 30;
/// How long a writer waits for Postfix's look-ups to let it in.
const LOCK_TIMEOUT_MS: u64 = 5_000;
/// Pauses between tries for the lock, in microseconds: short at first, because look-ups are.
const LOCK_PAUSE_US: std::ops::RangeInclusive<u64> = 50..=2_000;
/// What a damaged table is renamed to.
const DAMAGED_EXTENSION: &str = "lmdb.damaged";

/// One of Postfix's look-up tables.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    env: Env<WithoutTls>,
    database: Database<Bytes, Bytes>,
    /// Whether something was committed that may not be flushed.
    unflushed: AtomicBool,
    /// Its own open file description: the lock belongs to it, not to the process, so that closing another
    /// descriptor of the file does not drop it.
    lock: File,
}

/// What can go wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// LMDB failed.
    #[error("LMDB failed")]
    Lmdb(#[from] heed::Error),
    /// The lock could not be taken.
    #[error("lock it against look-ups")]
    Lock(#[source] std::io::Error),
    /// Look-ups held the lock all the time.
    #[error("no turn between look-ups within {LOCK_TIMEOUT_MS} ms")]
    Busy,
    /// Pages of it are missing or are no pages.
    #[error("it is damaged")]
    Damaged,
    /// Somebody removed or replaced the file.
    #[error(
        "its file was removed or replaced while inboxd had it open: restart inboxd, which writes it anew"
    )]
    Gone,
}

impl Table {
    /// Opens a table and makes it if it is missing. One that is damaged is set aside and made anew; open SMTP sessions
    /// keep the old file until they end, and what was in it is published again by the start-up check.
    pub(super) fn open(path: &Path, gid: u32) -> Result<Self, Error> {
        match Self::try_open(path, gid) {
            Err(Error::Table { source, .. }) if is_damage(&source) => {
                let aside = path.with_extension(DAMAGED_EXTENSION);
                tracing::error!(table = %path.display(), aside = %aside.display(), error = %source, "set a damaged table aside");
                std::fs::rename(path, &aside).map_err(file_error("set aside the damaged table", path))?;
                Self::try_open(path, gid)
            }
            other => other,
        }
    }

    fn try_open(path: &Path, gid: u32) -> Result<Self, Error> {
        let doing = "open";
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(file_error("open the table", path))?;
        own(&lock, Some(gid), FILE_MODE).map_err(file_error("set group and mode of the table", path))?;
        let failed = |source: TableError| Error::Table {
            doing,
            path: path.to_owned(),
            source,
        };
        let held = WriteLock::take(&lock).map_err(failed)?;
        if !check::is_whole(&lock).map_err(file_error("read the table", path))? {
            return Err(failed(TableError::Damaged));
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_SIZE_OCTETS);
        #[expect(
            unsafe_code,
            reason = "opening maps the file: sound while nobody else writes it, which the folder's lock ensures, and \
                      while it is not truncated, which nobody may; NO_LOCK is sound because every transaction here \
                      happens under the write lock above, one at a time"
        )]
        let env = unsafe {
            options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_SYNC);
            options.open(path)
        }
        .map_err(|error| failed(error.into()))?;
        let database = (|| {
            let mut txn = env.write_txn()?;
            let database = env.create_database(&mut txn, None)?;
            txn.commit()?;
            Ok::<_, heed::Error>(database)
        })()
        .map_err(|error| failed(error.into()))?;
        drop(held);
        env.force_sync().map_err(|error| failed(error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            env,
            database,
            unflushed: AtomicBool::new(false),
            lock,
        })
    }

    /// Sets (`Some`) or removes (`None`) names, all in one transaction. Not durable before [`Table::flush`].
    pub(super) fn change(
        &self,
        changes: impl Iterator<Item = (String, Option<String>)>,
    ) -> Result<(), Error> {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return Ok(());
        }
        let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = changes
            .map(|(name, value)| (with_nul(&name), value.as_deref().map(with_nul)))
            .collect();
        // A table that somebody replaced says the right thing to nobody: the look under the lock finds out.
        if !self.shows_all(&changes)? || !self.is_in_place() {
            self.locked("change", |txn| {
                for (key, value) in &changes {
                    match value {
                        Some(value) => self.database.put(txn, key, value)?,
                        None => drop(self.database.delete(txn, key)?),
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether the table says all of this already.
    fn shows_all(&self, expected: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<bool, Error> {
        let read = || {
            let txn = self.env.read_txn()?;
            for (key, value) in expected {
                if self.database.get(&txn, key)? != value.as_deref() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        read().map_err(|error| self.failed("read", error))
    }

    /// Whether there is something to flush.
    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed.load(Ordering::Acquire)
    }

    /// Makes durable what was committed, also by a change that failed before its flush.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if self.is_unflushed() {
            self.env
                .force_sync()
                .map_err(|error| self.failed("flush", error))?;
            self.unflushed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the value of a name is this; `None`: whether there is no such name.
    pub(super) fn shows(&self, name: &str, value: Option<&str>) -> Result<bool, Error> {
        let txn = self.env.read_txn().map_err(|error| self.failed("read", error))?;
        let found = self
            .database
            .get(&txn, &with_nul(name))
            .map_err(|error| self.failed("read", error))?;
        Ok(found == value.map(with_nul).as_deref())
    }

    /// How many names there are.
    pub(super) fn count(&self) -> Result<u64, Error> {
        let txn = self.env.read_txn().map_err(|error| self.failed("read", error))?;
        self.database
            .len(&txn)
            .map_err(|error| self.failed("count", error))
    }

    /// A page of names behind the given one. Keys that inboxd does not write into this table are removed; the second
    /// value says how many there were.
    pub(super) fn names_after(
        &self,
        after: Option<&str>,
        limit: usize,
        belongs: Belongs,
    ) -> Result<(Vec<String>, usize), Error> {
        let (mut names, mut junk) = (Vec::new(), Vec::new());
        {
            let txn = self.env.read_txn().map_err(|error| self.failed("read", error))?;
            // From the very first key on: LMDB takes no empty key to begin behind.
            let start = after.map(with_nul);
            let range = (
                start.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
                Bound::Unbounded,
            );
            for entry in self
                .database
                .range(&txn, &range)
                .map_err(|error| self.failed("list", error))?
            {
                let (key, _) = entry.map_err(|error| self.failed("list", error))?;
                match key
                    .strip_suffix(b"\0")
                    .and_then(|name| std::str::from_utf8(name).ok())
                {
                    Some(name)
                        if MapKey::parse(name).is_ok_and(|key| belongs(&key) && key.to_string() == name) =>
                    {
                        names.push(name.to_owned());
                    }
                    _ => junk.push(key.to_vec()),
                }
                if names.len() == limit {
                    break;
                }
            }
        }
        if !junk.is_empty() {
            self.locked("clean", |txn| {
                junk.iter()
                    .try_for_each(|key| self.database.delete(txn, key).map(drop))
            })?;
            self.flush()?;
        }
        Ok((names, junk.len()))
    }

    /// Whether the table is still the file that Postfix opens by its name.
    pub(super) fn probe(&self) -> Result<(), Error> {
        if self.is_in_place() {
            return Ok(());
        }
        Err(Error::Table {
            doing: "look at",
            path: self.path.clone(),
            source: TableError::Gone,
        })
    }

    /// Runs a transaction under the write lock, from begin to commit.
    fn locked<T>(
        &self,
        doing: &'static str,
        run: impl FnOnce(&mut RwTxn<'_>) -> Result<T, heed::Error>,
    ) -> Result<T, Error> {
        let failed = |source: TableError| Error::Table {
            doing,
            path: self.path.clone(),
            source,
        };
        let _held = WriteLock::take(&self.lock).map_err(failed)?;
        if !self.is_in_place() {
            return Err(failed(TableError::Gone));
        }
        (|| {
            let mut txn = self.env.write_txn()?;
            let result = run(&mut txn)?;
            // Before the commit: one that fails may have written all the same.
            self.unflushed.store(true, Ordering::Release);
            txn.commit()?;
            Ok(result)
        })()
        .map_err(|error: heed::Error| failed(error.into()))
    }

    /// Whether Postfix, which opens the path, gets the file that is open here.
    fn is_in_place(&self) -> bool {
        let identity = |file: std::fs::Metadata| (file.dev(), file.ino());
        let there = std::fs::metadata(&self.path).map(identity);
        let here = self.lock.metadata().map(identity);
        matches!((there, here), (Ok(there), Ok(here)) if there == here)
    }

    fn failed(&self, doing: &'static str, error: heed::Error) -> Error {
        Error::Table {
            doing,
            path: self.path.clone(),
            source: error.into(),
        }
    }
}

fn with_nul(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn is_damage(error: &TableError) -> bool {
    use heed::MdbError::{Corrupted, Invalid, PageNotFound, Panic, VersionMismatch};
    matches!(
        error,
        TableError::Damaged
            | TableError::Lmdb(heed::Error::Mdb(
                Corrupted | Invalid | PageNotFound | Panic | VersionMismatch
            ))
    )
}

/// An `fcntl` write lock on a whole file, of the kind that belongs to the open file description (fcntl(2),
/// `F_OFD_SETLK`); let go when dropped.
struct WriteLock<'a>(&'a File);

impl<'a> WriteLock<'a> {
    fn take(file: &'a File) -> Result<Self, TableError> {
        let begun = Instant::now();
        let mut pause_us = *LOCK_PAUSE_US.start();
        loop {
            match set_lock(file, libc::F_WRLCK) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) => {}
                Err(errno) => return Err(TableError::Lock(errno.into())),
            }
            if begun.elapsed() > Duration::from_millis(LOCK_TIMEOUT_MS) {
                return Err(TableError::Busy);
            }
            // Waiting in the kernel (F_OFD_SETLKW) has no deadline, and readers could starve a writer for ever.
            thread::sleep(Duration::from_micros(pause_us));
            pause_us = (pause_us * 2).min(*LOCK_PAUSE_US.end());
        }
    }
}

impl Drop for WriteLock<'_> {
    fn drop(&mut self) {
        if let Err(errno) = set_lock(self.0, libc::F_UNLCK) {
            tracing::error!(%errno, "cannot unlock a table; look-ups wait until the daemon ends");
        }
    }
}

fn set_lock(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    // The C type of these two members is narrower than that of their constants, which are all below 8.
    let narrow = |number: libc::c_int| libc::c_short::try_from(number).unwrap_or_default();
    let lock = libc::flock {
        l_type: narrow(kind),
        l_whence: narrow(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}
