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

pub(super) use self::{
    reading::Shown,
    walk::{Found, Walk},
};
use super::{
    Cleaned, Error, file_error,
    files::{FILE_MODE, FOLDER_MODE, ensure_folder, flush_folder, own},
};
use crate::model::address::{Address, DomainName};

/// What a file that is being written is called: no local part starts with a dot.
const UNFINISHED_PREFIX: &str = ".new-";

/// The tree of password entries.
#[derive(Debug)]
pub(super) struct PassdbTree {
    root: PathBuf,
    /// Whose the entries are.
    uid: u32,
    /// Who may read them.
    gid: u32,
}

/// Some changes of the tree, made durable together.
pub(super) struct Batch<'a> {
    tree: &'a PassdbTree,
    touched: BTreeSet<PathBuf>,
}

impl PassdbTree {
    /// The tree in this folder, whose entries belong to this user.
    pub(super) fn at(root: &Path, uid: u32, gid: u32) -> Self {
        Self {
            root: root.to_owned(),
            uid,
            gid,
        }
    }

    /// Makes the folder, if it is missing.
    pub(super) fn ensure(&self) -> Result<(), Error> {
        ensure_folder(&self.root, Some(self.gid))
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
                        .and_then(|folder| own(&folder, Some(self.gid), FOLDER_MODE))
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
        self.write_file(&path, b"probe\n")?;
        fs::remove_file(&path).map_err(file_error("remove the probe file", &path))
    }

    fn folder(&self, domain: &DomainName) -> PathBuf {
        self.root.join(domain.as_str())
    }

    fn entry(&self, address: &Address) -> PathBuf {
        self.folder(&address.domain).join(address.local_part.as_str())
    }

    fn write_file(&self, path: &Path, contents: &[u8]) -> Result<(), Error> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(file_error("make the file", path))?;
        own(&file, Some(self.gid), FILE_MODE).map_err(file_error("set group and mode of the file", path))?;
        let written = file.write_all(contents).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a file of no name that anybody reads; if even this fails, the start-up check removes it.
            let _ = fs::remove_file(path);
            return Err(file_error("write the file", path)(error));
        }
        Ok(())
    }
}

impl Batch<'_> {
    /// Writes an entry: a reader sees the old line or the new one, whole.
    pub(super) fn write(&mut self, address: &Address, line: &str) -> Result<(), Error> {
        let folder = self.tree.folder(&address.domain);
        let unfinished = folder.join(format!("{UNFINISHED_PREFIX}{}", address.local_part));
        match self.tree.write_file(&unfinished, line.as_bytes()) {
            Ok(()) => {}
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                ensure_folder(&folder, Some(self.tree.gid))?;
                self.tree.write_file(&unfinished, line.as_bytes())?;
            }
            Err(error) => return Err(error),
        }
        let entry = self.tree.entry(address);
        fs::rename(&unfinished, &entry).map_err(file_error("put in place the password entry", &entry))?;
        self.touched.insert(folder);
        Ok(())
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

    /// Makes the batch durable: one flush a folder.
    pub(super) fn flush(self) -> Result<(), Error> {
        self.touched.iter().try_for_each(|folder| flush_folder(folder))
    }
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
