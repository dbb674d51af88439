//! Files and folders of the maps: made with the right group and mode, locked against a second writer.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

use super::{Error, file_error};

/// Of `st_mode`: permissions, without the type (inode(7)).
const MODE_BITS: u32 = 0o7777;
const LOCK_FILE: &str = ".writer.lock";

/// Who may read, besides the user whose process writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Readers {
    /// Nobody: what is secret.
    Nobody,
    /// A group, by its number.
    Group(u32),
    /// Everybody: a folder that is passed through to what one's group may read.
    Everybody,
}

impl Readers {
    fn gid(self) -> Option<u32> {
        match self {
            Self::Group(gid) => Some(gid),
            Self::Nobody | Self::Everybody => None,
        }
    }

    /// The mode of a file.
    pub(super) fn file_mode(self) -> u32 {
        match self {
            Self::Nobody => 0o600,
            Self::Group(_) => 0o640,
            Self::Everybody => 0o644,
        }
    }

    /// The mode of a folder: who may read enters and lists.
    fn folder_mode(self) -> u32 {
        match self {
            Self::Nobody => 0o700,
            Self::Group(_) => 0o750,
            Self::Everybody => 0o755,
        }
    }

    /// Gives an open file the owner, group and mode that it must have, if it has not.
    pub(super) fn own_file(self, file: &File) -> io::Result<()> {
        own(file, self.gid(), self.file_mode())
    }

    /// The same of a folder.
    pub(super) fn own_folder(self, folder: &File) -> io::Result<()> {
        own(folder, self.gid(), self.folder_mode())
    }

    /// Whether a file is of this user and may be read by these, and by nobody else.
    pub(super) fn may_read_file(self, file: &fs::Metadata, uid: u32) -> bool {
        file.is_file() && is_owned(file, uid, self.gid()) && file.mode() & MODE_BITS == self.file_mode()
    }

    /// The same of a folder.
    pub(super) fn may_read_folder(self, folder: &fs::Metadata, uid: u32) -> bool {
        folder.is_dir()
            && is_owned(folder, uid, self.gid())
            && folder.mode() & MODE_BITS == self.folder_mode()
    }
}

/// Makes a folder if it is missing, and gives it the group and mode that it must have.
pub(super) fn ensure_folder(folder: &Path, readers: Readers) -> Result<(), Error> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(file_error("make the folder", folder)(error)),
    }
    let open = File::open(folder).map_err(file_error("open the folder", folder))?;
    readers
        .own_folder(&open)
        .map_err(file_error("set group and mode of the folder", folder))?;
    flush_folder(folder.parent().unwrap_or(folder))
}

fn own(file: &File, gid: Option<u32>, mode: u32) -> io::Result<()> {
    let now = file.metadata()?;
    let uid = geteuid().as_raw();
    if !is_owned(&now, uid, gid) {
        fchown(file, Some(uid), gid)?;
    }
    if now.mode() & MODE_BITS != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn is_owned(now: &fs::Metadata, uid: u32, gid: Option<u32>) -> bool {
    now.uid() == uid && gid.is_none_or(|gid| now.gid() == gid)
}

/// Removes a file, if it is there.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(super) fn flush_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(file_error("flush the folder", folder))
}

/// Keeps a second daemon from writing the same maps.
#[derive(Debug)]
pub(super) struct FolderLock {
    path: PathBuf,
    lock: Flock<File>,
}

impl FolderLock {
    pub(super) fn take(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(file_error("open the lock file", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::Taken {
                folder: folder.to_owned(),
            }),
            Err((_, errno)) => Err(file_error("lock the file", &path)(errno.into())),
        }
    }
    /// Whether a second daemon would meet this lock: nobody removed or replaced its file.
    pub(super) fn is_in_place(&self) -> bool {
        let identity = |file: fs::Metadata| (file.dev(), file.ino());
        let there = fs::metadata(&self.path).map(identity);
        let here = self.lock.metadata().map(identity);
        matches!((there, here), (Ok(there), Ok(here)) if there == here)
    }
}
