//! Files that are there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::clock::Clock;

/// See [`backdate`].
const BACKDATE_SECONDS: i64 = 5;

/// A file or folder that could not be read or made.
#[derive(Debug, thiserror::Error)]
#[error("use {}", path.display())]
pub struct FileError {
    /// Which one.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// Replaces a file by one with these contents and this mode: temporary file, fsync, rename, fsync of the folder.
pub fn write_atomically(path: &Path, contents: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file");
        let folder = path.parent().ok_or_else(invalid)?;
        let name = path.file_name().ok_or_else(invalid)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let temporary = folder.join(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // The process's umask may have taken bits away that the mail servers need.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(FileError::at(path))
}

/// Makes a folder, if it is missing, with this mode and owner (user, group).
pub(super) fn folder(path: &Path, mode: u32, owner: (u32, u32)) -> Result<(), FileError> {
    let make = || -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        chown(path, Some(owner.0), Some(owner.1))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().map_err(FileError::at(path))
}

/// Makes a file look a little older than it is: Postfix's master takes a configuration file that was changed within the
/// last second for one that is still being written, and waits.
pub(super) fn backdate(file: &Path, clock: &dyn Clock) -> Result<(), FileError> {
    let since_epoch = clock.now().plus_seconds(-BACKDATE_SECONDS).as_micros();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since_epoch).unwrap_or(0));
    let set = || fs::File::options().write(true).open(file)?.set_modified(modified);
    set().map_err(FileError::at(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_atomically(&path, b"one", 0o600).unwrap();
        write_atomically(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
