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

/// Files: the daemon writes, the group reads.
pub(super) const FILE_MODE: u32 = 0o640;
/// Folders: the daemon writes, the group enters and lists.
pub(super) const FOLDER_MODE: u32 = 0o750;
/// The folder above: anybody may pass through it to what their group may read.
const ROOT_MODE: u32 = 0o755;
/// Of `st_mode`: permissions, without the type (inode(7)).
const MODE_BITS: u32 = 0o7777;
const LOCK_FILE: &str = ".writer.lock";

/// Makes a folder if it is missing, and gives it the group and mode that it must have. Without a group: one that
/// anybody may pass through.
pub(super) fn ensure_folder(folder: &Path, gid: Option<u32>) -> Result<(), Error> {
    let mode = if gid.is_some() { FOLDER_MODE } else { ROOT_MODE };
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(file_error("make the folder", folder)(error)),
    }
    let open = File::open(folder).map_err(file_error("open the folder", folder))?;
    own(&open, gid, mode).map_err(file_error("set group and mode of the folder", folder))?;
    flush_folder(folder.parent().unwrap_or(folder))
}

/// Gives an open file or folder the owner, group and mode that it must have, if it has not.
pub(super) fn own(file: &File, gid: Option<u32>, mode: u32) -> io::Result<()> {
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

/// Whether a file belongs to the daemon and may be read by the group, and by nobody else.
pub(super) fn is_file_of_group(file: &fs::Metadata, uid: u32, gid: u32) -> bool {
    file.is_file() && is_owned(file, uid, Some(gid)) && file.mode() & MODE_BITS == FILE_MODE
}

/// The same of a folder.
pub(super) fn is_folder_of_group(folder: &fs::Metadata, uid: u32, gid: u32) -> bool {
    folder.is_dir() && is_owned(folder, uid, Some(gid)) && folder.mode() & MODE_BITS == FOLDER_MODE
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
