//! The password entries: `<root>/<domain>/<local part>`, one file a mailbox.

use std::{
    collections::BTreeSet,
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::unistd::syncfs;

use super::{
    Error, file_error,
    files::{FILE_MODE, FOLDER_MODE, ensure_folder, flush_folder, is_file_of_group, own},
    in_parallel,
};
use crate::model::address::{Address, DomainName, LocalPart};

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
pub struct PassdbTree {
    root: PathBuf,
    gid: u32,
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

impl PassdbTree {
    pub(super) fn open(root: &Path, gid: u32) -> Result<Self, Error> {
        ensure_folder(root, Some(gid))?;
        Ok(Self {
            root: root.to_owned(),
            gid,
        })
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch {
            tree: self,
            touched: BTreeSet::new(),
        }
    }

    /// Whether the entry of an address is this line; `None`: whether there is no entry.
    pub(super) fn shows(&self, address: &Address, line: Option<&str>) -> Result<bool, Error> {
        let path = self.entry(address);
        let read = || {
            let mut file = File::open(&path)?;
            let readable = is_file_of_group(&file.metadata()?, self.gid);
            let mut found = Vec::new();
            file.read_to_end(&mut found)?;
            Ok((readable, found))
        };
        match read() {
            Ok((readable, found)) => Ok(line.is_some_and(|line| readable && found == line.as_bytes())),
            Err(error) if is_missing(&error) => Ok(line.is_none()),
            Err(error) => Err(file_error("read the password entry", &path)(error)),
        }
    }

    /// Removes what cannot be an entry: unfinished files, other things than files, names that no address has. Gives
    /// folders of domains their group and mode. Returns how many things it removed.
    pub(super) fn clean(&self) -> Result<usize, Error> {
        let mut removed = 0;
        let is_domain = |name: &str| DomainName::parse(name).is_ok_and(|domain| domain.as_str() == name);
        let is_local_part = |name: &str| LocalPart::parse(name).is_ok();
        for (path, name, kind) in entries(&self.root)? {
            if !kind.is_dir() || !name.is_some_and(|name| is_domain(&name)) {
                remove_stray(&path, kind)?;
                removed += 1;
                continue;
            }
            File::open(&path)
                .and_then(|folder| own(&folder, Some(self.gid), FOLDER_MODE))
                .map_err(file_error("set group and mode of the folder", &path))?;
            for (path, name, kind) in entries(&path)? {
                if !kind.is_file() || !name.is_some_and(|name| is_local_part(&name)) {
                    remove_stray(&path, kind)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> Result<u64, Error> {
        let mut count = 0;
        for domain in list(&self.root)? {
            count += list(&self.root.join(domain))?.len() as u64;
        }
        Ok(count)
    }

    /// A page of the addresses that have an entry, behind the given one. What cannot be an entry has been cleaned away.
    pub(super) fn names_after(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let (after_local_part, after_domain) =
            after.and_then(|name| name.split_once('@')).unwrap_or(("", ""));
        for domain in list(&self.root)? {
            if domain.as_str() < after_domain {
                continue;
            }
            let folder = self.root.join(&domain);
            for local_part in list(&folder)? {
                if domain == after_domain && local_part.as_str() <= after_local_part {
                    continue;
                }
                names.push(format!("{local_part}@{domain}"));
                if names.len() == limit {
                    return Ok(names);
                }
            }
        }
        Ok(names)
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
                ensure_folder(&folder, Some(self.gid))?;
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
            .mode(FILE_MODE)
            .open(path)
            .map_err(file_error("make the file", path))?;
        own(&file, Some(self.gid), FILE_MODE).map_err(file_error("set group and mode of the file", path))?;
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
            for path in &unfinished {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        for ((address, _), path) in entries.iter().zip(&unfinished) {
            let entry = self.tree.entry(address);
            fs::rename(path, &entry).map_err(file_error("put in place the password entry", &entry))?;
            self.touched.insert(self.tree.folder(&address.domain));
        }
        Ok(())
    }

    /// Writes some files and flushes each of them.
    fn begin_each(&self, entries: &[(&Address, String)], begun: &mut Vec<PathBuf>) -> Result<(), Error> {
        let mut files = Vec::with_capacity(entries.len());
        for (address, line) in entries {
            let file = self.tree.begin(address, line)?;
            begun.push(file.path.clone());
            files.push(file);
        }
        flush_files(&files)
    }

    /// Writes many files and flushes them all at once, with whatever else the file system has to write. syncfs(2)
    /// reports what could not be written since Linux 5.8.
    fn begin_all(&self, entries: &[(&Address, String)], begun: &mut Vec<PathBuf>) -> Result<(), Error> {
        for (address, line) in entries {
            begun.push(self.tree.begin(address, line)?.path);
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

/// What is in a folder: path, name if it is text, type.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, Option<String>, FileType)>, Error> {
    let doing = "list the folder";
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(file_error(doing, folder))? {
        let entry = entry.map_err(file_error(doing, folder))?;
        let kind = entry.file_type().map_err(file_error(doing, folder))?;
        found.push((entry.path(), entry.file_name().into_string().ok(), kind));
    }
    Ok(found)
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

/// The names in a folder, in order of their octets.
fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let doing = "list the folder";
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(file_error(doing, folder))? {
        let entry = entry.map_err(file_error(doing, folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}
