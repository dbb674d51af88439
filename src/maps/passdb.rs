//! The password entries: `<root>/<domain>/<local part>`, one file a mailbox.

mod reading;
mod walk;

use std::{
    collections::BTreeSet,
    fs::{self, File, FileType, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::unistd::syncfs;

pub(super) use self::{
    reading::Shown,
    walk::{Found, Walk},
};
use super::{
    Cleaned, Error, file_error,
    files::{Readers, ensure_folder, flush_folder},
    in_parallel,
};
use crate::model::address::{Address, DomainName};

/// What a file that is being written is called: no local part starts with a dot.
const UNFINISHED_PREFIX: &str = ".new-";
/// Files open at the same time.
const OPEN_MAX: usize = 64;
/// Files flushed at the same time.
const FLUSHES_AT_ONCE: usize = 8;
/// From this number of files on, the whole file system is flushed instead of each of them.
const FLUSH_ALL_FROM: usize = 512;

/// The tree of password entries.
#[derive(Debug)]
pub(super) struct PassdbTree {
    root: PathBuf,
    /// Whose the entries are.
    uid: u32,
    /// Who may read them.
    readers: Readers,
}

/// Some changes of the tree, made durable together.
pub(super) struct Batch<'a> {
    tree: &'a PassdbTree,
    touched: BTreeSet<PathBuf>,
}

/// A file under a name that nobody reads, written and perhaps not flushed yet.
struct Unfinished {
    path: PathBuf,
    open: File,
}

/// An entry, and its file under a name that nobody reads.
type Begun<'e> = (&'e Address, PathBuf);

impl PassdbTree {
    /// The tree in this folder, whose entries belong to this user.
    pub(super) fn at(root: &Path, uid: u32, gid: u32) -> Self {
        Self {
            root: root.to_owned(),
            uid,
            readers: Readers::Group(gid),
        }
    }

    /// Makes the folder, if it is missing.
    pub(super) fn ensure(&self) -> Result<(), Error> {
        ensure_folder(&self.root, self.readers)
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch {
            tree: self,
            touched: BTreeSet::new(),
        }
    }

    /// Removes what cannot be an entry: unfinished files, other things than files, names that no address has. Gives
    /// folders of domains their group and mode.
    pub(super) fn clean(&self) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        let mut walk = self.walk()?;
        while let Some(found) = walk.next()? {
            match found {
                Found::Entry { .. } => cleaned.entries += 1,
                Found::Folder(path) => {
                    File::open(&path)
                        .and_then(|folder| self.readers.own_folder(&folder))
                        .map_err(file_error("set group and mode of the folder", &path))?;
                }
                Found::Stray(path, kind) => {
                    remove_stray(&path, kind)?;
                    cleaned.removed += 1;
                }
            }
        }
        Ok(cleaned)
    }

    /// Writes, flushes and removes a file.
    pub(super) fn probe(&self) -> Result<(), Error> {
        let path = self.root.join(format!("{UNFINISHED_PREFIX}probe"));
        let written = self.write_file(&path, b"probe\n")?;
        written
            .sync_all()
            .map_err(file_error("flush the probe file", &path))?;
        fs::remove_file(&path).map_err(file_error("remove the probe file", &path))
    }

    fn folder(&self, domain: &DomainName) -> PathBuf {
        self.root.join(domain.as_str())
    }

    fn entry(&self, address: &Address) -> PathBuf {
        self.folder(&address.domain).join(address.local_part.as_str())
    }

    /// Writes a line under a name beside the entry's that nobody reads. Not durable yet.
    fn begin(&self, address: &Address, line: &str) -> Result<Unfinished, Error> {
        let folder = self.folder(&address.domain);
        let path = folder.join(format!("{UNFINISHED_PREFIX}{}", address.local_part));
        let open = match self.write_file(&path, line.as_bytes()) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                ensure_folder(&folder, self.readers)?;
                self.write_file(&path, line.as_bytes())?
            }
            other => other?,
        };
        Ok(Unfinished { path, open })
    }

    fn write_file(&self, path: &Path, contents: &[u8]) -> Result<File, Error> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(self.readers.file_mode())
            .open(path)
            .map_err(file_error("make the file", path))?;
        self.readers
            .own_file(&file)
            .map_err(file_error("set group and mode of the file", path))?;
        if let Err(error) = file.write_all(contents) {
            // Half a file of no name that anybody reads; if even this fails, the start-up check removes it.
            let _ = fs::remove_file(path);
            return Err(file_error("write the file", path)(error));
        }
        Ok(file)
    }
}

impl Batch<'_> {
    /// Writes entries and makes them durable: a reader sees the old line or the new one, whole, also after a power
    /// cut. All are written and flushed under names that nobody reads before the first of them is put in place.
    pub(super) fn write(&mut self, entries: &[(&Address, String)]) -> Result<(), Error> {
        let mut unfinished = Vec::with_capacity(entries.len());
        let written = if entries.len() >= FLUSH_ALL_FROM {
            self.begin_all(entries, &mut unfinished)
        } else {
            entries
                .chunks(OPEN_MAX)
                .try_for_each(|entries| self.begin_each(entries, &mut unfinished))
        };
        if let Err(error) = written {
            // Files of names that nobody reads; what even this leaves, the start-up check removes.
            for (_, path) in &unfinished {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        for (address, path) in unfinished {
            let entry = self.tree.entry(address);
            fs::rename(path, &entry).map_err(file_error("put in place the password entry", &entry))?;
            self.touched.insert(self.tree.folder(&address.domain));
        }
        Ok(())
    }

    /// Writes some files and flushes each of them.
    fn begin_each<'e>(
        &self,
        entries: &[(&'e Address, String)],
        begun: &mut Vec<Begun<'e>>,
    ) -> Result<(), Error> {
        let mut files = Vec::with_capacity(entries.len());
        for (address, line) in entries {
            let file = self.tree.begin(address, line)?;
            begun.push((address, file.path.clone()));
            files.push(file);
        }
        flush_files(&files)
    }

    /// Writes many files and flushes them all at once, with whatever else the file system has to write. syncfs(2)
    /// reports what could not be written since Linux 5.8. An entry that is right already is written over itself: a
    /// new file beside it costs ten times as much.
    fn begin_all<'e>(
        &self,
        entries: &[(&'e Address, String)],
        begun: &mut Vec<Begun<'e>>,
    ) -> Result<(), Error> {
        for (address, line) in entries {
            if !self.tree.write_again(address, line)? {
                begun.push((address, self.tree.begin(address, line)?.path));
            }
        }
        let root = &self.tree.root;
        File::open(root)
            .and_then(|open| Ok(syncfs(&open)?))
            .map_err(file_error("flush the file system of", root))
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&mut self, address: &Address) -> Result<(), Error> {
        let entry = self.tree.entry(address);
        match fs::remove_file(&entry) {
            Ok(()) => {
                self.touched.insert(self.tree.folder(&address.domain));
                Ok(())
            }
            Err(error) if is_missing(&error) => {
                // Perhaps removed by a batch that failed before its flush.
                let folder = self.tree.folder(&address.domain);
                if folder.is_dir() {
                    self.touched.insert(folder);
                }
                Ok(())
            }
            Err(error) => Err(file_error("remove the password entry", &entry)(error)),
        }
    }

    /// Makes durable what the batch put in place and removed: one flush a folder.
    pub(super) fn flush(self) -> Result<(), Error> {
        self.touched.iter().try_for_each(|folder| flush_folder(folder))
    }
}

/// Flushes the contents of files, several at a time, because the file system makes one commit of flushes that wait
/// together.
fn flush_files(files: &[Unfinished]) -> Result<(), Error> {
    let flush = |file: &Unfinished| {
        file.open
            .sync_all()
            .map_err(file_error("flush the file", &file.path))
    };
    let share = files.len().div_ceil(FLUSHES_AT_ONCE).max(1);
    let mut shares = files.chunks(share);
    let own = shares.next().unwrap_or_default();
    in_parallel(
        || own.iter().try_for_each(flush),
        shares.map(|share| move || share.iter().try_for_each(flush)),
    )
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Removes something that does not belong into the tree, whatever it is; a link, not what it points to.
fn remove_stray(path: &Path, kind: FileType) -> Result<(), Error> {
    let removed = if kind.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(file_error(
        "remove what does not belong among the password entries",
        path,
    ))
}
