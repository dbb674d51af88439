//! One LMDB table, changed in place under the lock that Postfix honours (`lmdb_table(5)`).
//!
//! Postfix opens the table without LMDB's own locking and takes an `fcntl` read lock on the file around each
//! look-up; so a writer must hold an `fcntl` write lock from begin to commit. `flock` is another lock and would
//! protect nothing. The commit is not flushed under the lock, because look-ups would wait for the disk; the flush
//! follows when the lock is gone, and only then has the change happened for a caller.
//!
//! Every key and value ends in a NUL, because Postfix remembers the first form that hits.

mod check;
mod pages;
mod reading;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use heed::{Database, Env, EnvFlags, EnvOpenOptions, RwTxn, WithoutTls, types::Bytes};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use self::pages::PagesError;
pub(super) use self::reading::TableReader;
use super::{
    Error, file_error,
    files::{Readers, flush_folder, remove_if_there},
};

/// Largest table, in octets of address space: forty million addresses. The file is as large as what is in it.
const MAP_SIZE_OCTETS: usize = 4 << 30;
/// How long a writer waits for Postfix's look-ups to let it in, and a look-up of ours for the writer.
const LOCK_TIMEOUT_MS: u64 = 5_000;
/// Pauses between tries for the lock, in microseconds: short at first, because look-ups are.
const LOCK_PAUSE_US: std::ops::RangeInclusive<u64> = 50..=2_000;
/// Names changed in one transaction, during which look-ups wait. More than a batch of the publisher has.
const TRANSACTION_NAMES: usize = 1_000;
/// What a damaged table is called from then on.
const DAMAGED_EXTENSION: &str = "lmdb.damaged";
/// What a table is called that is not whole yet.
const UNFINISHED_EXTENSION: &str = "lmdb.new";

/// A key and its value; no value if it is too long to be one that inboxd writes.
pub(super) type Entry = (Vec<u8>, Option<Vec<u8>>);

/// A look-up table, open for writing.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    readers: Readers,
    /// None if it could not be opened again.
    open: RwLock<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    env: Env<WithoutTls>,
    database: Database<Bytes, Bytes>,
    /// Whether something was committed that may not be flushed.
    unflushed: AtomicBool,
    /// Whether a commit failed. When LMDB could not write a meta page, it refuses everything until the file is opened
    /// anew (`MDB_PANIC`).
    broken: AtomicBool,
    /// Its own open file description: the lock belongs to it, not to the process, so that closing another
    /// descriptor of the file does not drop it.
    lock: File,
    /// Whether Postfix finds it. A table that was missing or damaged is made beside its place and put there when it
    /// is whole: an empty one would have Postfix refuse the mail of every mailbox.
    is_in_place: bool,
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
    /// Others held the lock all the time.
    #[error("no turn between look-ups within {LOCK_TIMEOUT_MS} ms")]
    Busy,
    /// The file could not be read.
    #[error("read its file")]
    Read(#[source] std::io::Error),
    /// Pages of it are missing or are no pages.
    #[error("it is damaged")]
    Damaged,
    /// Somebody removed or replaced the file.
    #[error(
        "its file was removed or replaced while inboxd had it open: `inboxd maps rebuild` writes it anew"
    )]
    Gone,
    /// It is being made anew.
    #[error("it is being made anew and not whole yet")]
    Unfinished,
}

impl From<PagesError> for TableError {
    fn from(error: PagesError) -> Self {
        match error {
            PagesError::Io(error) => Self::Read(error),
            PagesError::Damaged => Self::Damaged,
        }
    }
}

impl Table {
    /// Opens a table. One that is missing or damaged is made anew beside its place: when it is whole, it is to be
    /// [put in place](Self::put_in_place).
    pub(super) fn open(path: &Path, readers: Readers) -> Result<Self, Error> {
        let table = Self {
            path: path.to_owned(),
            readers,
            open: RwLock::new(None),
        };
        table.reopen()?;
        Ok(table)
    }

    /// Opens the file that has the table's name now: for whoever removed or replaced it, and to let go of the memory
    /// that LMDB has mapped. Whether it is another file than before.
    pub(super) fn reopen(&self) -> Result<bool, Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        self.reopen_as(&mut open)
    }

    fn reopen_as(&self, open: &mut Option<Open>) -> Result<bool, Error> {
        let was_in_place = open
            .as_ref()
            .is_some_and(|open| open.is_in_place && self.find(open, "look at").is_ok());
        // LMDB must not have a file open twice.
        *open = None;
        let opened = match self.open_in_place() {
            Err(Error::Table { source, .. }) if is_damage(&source) => {
                tracing::error!(table = %self.path.display(), error = %source, "a table is damaged and is made anew");
                self.open_beside()?
            }
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                self.open_beside()?
            }
            opened => opened?,
        };
        let is_another = !was_in_place || !opened.is_in_place;
        *open = Some(opened);
        Ok(is_another)
    }

    fn open_in_place(&self) -> Result<Open, Error> {
        let path = &self.path;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(file_error("open the table", path))?;
        // An empty file is a table without a name to Postfix, and to us one that somebody emptied.
        if lock.metadata().map_err(file_error("read the table", path))?.len() == 0 {
            return Err(self.failed("open", TableError::Damaged));
        }
        self.open_file(path, lock, true)
    }

    fn open_beside(&self) -> Result<Open, Error> {
        let path = self.path.with_extension(UNFINISHED_EXTENSION);
        let doing = "make the table";
        remove_if_there(&path).map_err(file_error("remove an unfinished table", &path))?;
        let lock = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(self.readers.file_mode())
            .open(&path)
            .map_err(file_error(doing, &path))?;
        self.open_file(&path, lock, false)
    }

    fn open_file(&self, path: &Path, lock: File, is_in_place: bool) -> Result<Open, Error> {
        let failed = |source: TableError| self.failed("open", source);
        self.readers
            .own_file(&lock)
            .map_err(file_error("set group and mode of the table", path))?;
        // Nobody else writes it; so look-ups need not wait while all of it is looked at.
        if !check::is_whole(&lock).map_err(file_error("read the table", path))? {
            return Err(failed(TableError::Damaged));
        }
        let held = Lock::take(&lock, libc::F_WRLCK).map_err(failed)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_SIZE_OCTETS);
        #[expect(
            unsafe_code,
            reason = "opening maps the file: sound while nobody else writes it, which the folder's lock ensures, and \
                      while it is not truncated, which nobody may; NO_LOCK is sound because whatever writes here \
                      does so under the write lock above, and nothing reads meanwhile: the publisher does one after \
                      the other, and whoever reads beside it holds a read lock"
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
        Ok(Open {
            env,
            database,
            unflushed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            lock,
            is_in_place,
        })
    }

    /// Gives a table that was made anew its name: Postfix finds the whole of it from now on. A damaged one that had
    /// the name is kept under another. Nothing to do for a table that is in place.
    pub(super) fn put_in_place(&self) -> Result<(), Error> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = open.as_mut().filter(|table| !table.is_in_place) else {
            return Ok(());
        };
        // All of it under the name, or nothing.
        self.flush_open(table)?;
        let unfinished = self.path.with_extension(UNFINISHED_EXTENSION);
        let aside = self.path.with_extension(DAMAGED_EXTENSION);
        let doing = "set aside the damaged table";
        remove_if_there(&aside).map_err(file_error(doing, &aside))?;
        // A second name, not another one: at no time is there no table.
        match fs::hard_link(&self.path, &aside) {
            Ok(()) => {
                tracing::warn!(table = %self.path.display(), aside = %aside.display(), "set a damaged table aside");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(doing, &self.path)(error)),
        }
        fs::rename(&unfinished, &self.path).map_err(file_error("put in place the table", &self.path))?;
        table.is_in_place = true;
        flush_folder(self.path.parent().unwrap_or(&self.path))
    }

    /// Sets (`Some`) or removes (`None`) names, not too many in one transaction. Not durable before [`Table::flush`].
    pub(super) fn change(
        &self,
        changes: impl Iterator<Item = (String, Option<String>)>,
    ) -> Result<(), Error> {
        let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = changes
            .map(|(name, value)| (with_nul(&name), value.as_deref().map(with_nul)))
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        let open = self.opened()?;
        for changes in changes.chunks(TRANSACTION_NAMES) {
            // A table that somebody replaced says the right thing to nobody: the look under the lock finds out.
            if self.shows_all(&open, changes)? && self.find(&open, "change").is_ok() {
                continue;
            }
            self.locked(&open, "change", |txn| {
                for (key, value) in changes {
                    match value {
                        Some(value) => {
                            if open.database.get(txn, key)? != Some(value.as_slice()) {
                                open.database.put(txn, key, value)?;
                            }
                        }
                        None => drop(open.database.delete(txn, key)?),
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether the table says all of this already.
    fn shows_all(&self, open: &Open, expected: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<bool, Error> {
        let read = || {
            let txn = open.env.read_txn()?;
            for (key, value) in expected {
                if open.database.get(&txn, key)? != value.as_deref() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        read().map_err(|error: heed::Error| self.failed("read", error.into()))
    }

    /// Whether there is something to flush.
    pub(super) fn is_unflushed(&self) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().is_some_and(Open::is_unflushed)
    }

    /// Makes durable what was committed, also by a change that failed before its flush.
    pub(super) fn flush(&self) -> Result<(), Error> {
        self.flush_open(&*self.opened()?)
    }

    /// Of some names, whether a Postfix that looks them up now finds these values (`None`: does not find the name): the
    /// file is opened by its name, and read as Postfix reads it, in a transaction that begins now, under a read lock.
    pub(super) fn shows_to_postfix(
        &self,
        expected: impl Iterator<Item = (String, Option<String>)>,
    ) -> Result<Vec<bool>, Error> {
        let doing = "look at";
        let open = self.opened()?;
        // A description of its own: the lock below must not be the writer's.
        let file = File::open(&self.path).map_err(file_error("open the table", &self.path))?;
        let there = file
            .metadata()
            .map_err(file_error("look at the table", &self.path))?;
        if !open.is(&there) {
            return Err(self.failed(doing, TableError::Gone));
        }
        let _held = Lock::take(&file, libc::F_RDLCK).map_err(|error| self.failed(doing, error))?;
        (|| {
            let txn = open.env.read_txn()?;
            expected
                .map(|(name, value)| {
                    let found = open.database.get(&txn, &with_nul(&name))?;
                    Ok(found == value.as_deref().map(with_nul).as_deref())
                })
                .collect::<Result<Vec<bool>, heed::Error>>()
        })()
        .map_err(|error: heed::Error| self.failed(doing, error.into()))
    }

    /// Removes keys that no name has.
    pub(super) fn remove(&self, keys: &[Vec<u8>]) -> Result<(), Error> {
        let open = self.opened()?;
        self.locked(&open, "clean", |txn| {
            keys.iter()
                .try_for_each(|key| open.database.delete(txn, key).map(drop))
        })?;
        self.flush_open(&open)
    }

    /// The entries behind a key, in order of their keys: what is in the file, by itself or beside its place. Not while
    /// it is changed.
    pub(super) fn entries_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error> {
        let open = self.opened()?;
        pages::entries_after(&open.lock, after, limit).map_err(|error| self.failed("list", error.into()))
    }

    /// Whether the table is the file that Postfix opens by its name.
    pub(super) fn probe(&self) -> Result<(), Error> {
        let open = self.opened()?;
        if !open.is_in_place {
            return Err(self.failed("look at", TableError::Unfinished));
        }
        self.find(&open, "look at")
    }

    /// The open table. One that is broken is opened anew first, if it still is the file that it was.
    fn opened(&self) -> Result<Opened<'_>, Error> {
        loop {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            match &*open {
                None => return Err(self.failed("use", TableError::Gone)),
                Some(table) if !table.is_broken() => return Ok(Opened(open)),
                Some(table) => self.find(table, "open again")?,
            }
            drop(open);
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been here meanwhile.
            if open.as_ref().is_some_and(Open::is_broken) {
                tracing::warn!(table = %self.path.display(), "a table could not be written and is opened anew");
                self.reopen_as(&mut open)?;
            }
        }
    }

    fn flush_open(&self, open: &Open) -> Result<(), Error> {
        if open.is_unflushed() {
            open.env
                .force_sync()
                .map_err(|error| self.failed("flush", error.into()))?;
            open.unflushed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Runs a transaction under the write lock, from begin to commit.
    fn locked<T>(
        &self,
        open: &Open,
        doing: &'static str,
        run: impl FnOnce(&mut RwTxn<'_>) -> Result<T, heed::Error>,
    ) -> Result<T, Error> {
        let _held = Lock::take(&open.lock, libc::F_WRLCK).map_err(|error| self.failed(doing, error))?;
        self.find(open, doing)?;
        (|| {
            let mut txn = open.env.write_txn()?;
            let result = run(&mut txn)?;
            // Before the commit: one that fails may have written all the same.
            open.unflushed.store(true, Ordering::Release);
            txn.commit()
                .inspect_err(|_| open.broken.store(true, Ordering::Release))?;
            Ok(result)
        })()
        .map_err(|error: heed::Error| self.failed(doing, error.into()))
    }

    /// Whether the file that is open here still has the name that it should have.
    fn find(&self, open: &Open, doing: &'static str) -> Result<(), Error> {
        let path = if open.is_in_place {
            self.path.clone()
        } else {
            self.path.with_extension(UNFINISHED_EXTENSION)
        };
        match fs::metadata(path) {
            Ok(there) if open.is(&there) => Ok(()),
            _ => Err(self.failed(doing, TableError::Gone)),
        }
    }

    fn failed(&self, doing: &'static str, source: TableError) -> Error {
        Error::Table {
            doing,
            path: self.path.clone(),
            source,
        }
    }
}

impl Open {
    fn is_unflushed(&self) -> bool {
        self.unflushed.load(Ordering::Acquire)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Whether this is the file that is open here.
    fn is(&self, there: &fs::Metadata) -> bool {
        let here = self.lock.metadata();
        here.is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
}

/// A table that is open, for as long as this is held.
struct Opened<'a>(RwLockReadGuard<'a, Option<Open>>);

impl std::ops::Deref for Opened<'_> {
    type Target = Open;

    fn deref(&self) -> &Open {
        match &*self.0 {
            Some(open) => open,
            None => unreachable!("`opened` has looked"),
        }
    }
}

/// As Postfix looks for it.
pub(super) fn with_nul(text: &str) -> Vec<u8> {
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

/// An `fcntl` lock on a whole file, to read or to write, of the kind that belongs to the open file description
/// (fcntl(2), `F_OFD_SETLK`); let go when dropped.
struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    /// `kind`: `F_RDLCK` or `F_WRLCK`.
    fn take(file: &'a File, kind: libc::c_int) -> Result<Self, TableError> {
        let begun = Instant::now();
        let mut pause_us = *LOCK_PAUSE_US.start();
        loop {
            match set_lock(file, kind) {
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

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if let Err(errno) = set_lock(self.0, libc::F_UNLCK) {
            tracing::error!(%errno, "cannot unlock a table; others wait for it until this process ends");
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
