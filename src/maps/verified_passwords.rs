//! The pipe through which Dovecot's workers hand over passwords that they have verified (`inboxd-costly.lua`), and the lease
//! that lets them.
//!
//! It is among the password entries, because that folder is all that a Dovecot in a container of its own has of the maps.
//! Nothing of a password is ever on a disk: what is in a pipe that no process has open is gone (fifo(7)).
//!
//! A worker that wrote into a full pipe would wait, and Lua cannot ask whether it is full. So a worker writes only while the
//! lease is recent, and only a few messages for one lease: they all fit into an empty pipe, and a new lease is given only when
//! the pipe is empty. If the daemon stops, hangs or is paused, workers go on without it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};

use super::{Error, Layout, file_error};

/// Its folder, beside those of the domains. No domain begins with a dot.
pub(super) const FOLDER: &str = ".verified-passwords";
const PIPE: &str = "pipe";
const LEASE: &str = "lease";
/// Room that the script counts on: 16 messages, each in a page of its own.
const PIPE_OCTETS_MIN: i32 = 64 * 1024;

/// The pipe with its name, and the lease. Dropped, the folder is removed.
#[derive(Debug)]
pub struct VerifiedPasswords {
    folder: PathBuf,
    /// Which file the pipe is.
    identity: (u64, u64),
    /// Counts the leases.
    leases: u64,
}

impl VerifiedPasswords {
    /// Makes the pipe, in place of one that an earlier process left, and returns the end to read from. There is no lease
    /// yet. Only the daemon's user and root may use it: Dovecot's workers are root.
    pub fn open(layout: &Layout) -> Result<(Self, File), Error> {
        Self::remove(layout)?;
        let folder = layout.passdb().join(FOLDER);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(file_error("make the folder", &folder))?;
        let path = folder.join(PIPE);
        let made = mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(io::Error::from);
        made.map_err(file_error("make the pipe", &path))?;
        // With an end to write to of our own, so that there is no end of file when a worker closes its own.
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(&path)
            .map_err(file_error("open the pipe", &path))?;
        // As much as it has anyway, unless this user has more pipes than fs.pipe-user-pages-soft allows (pipe(7)).
        let room = fcntl(&pipe, FcntlArg::F_GETPIPE_SZ).and_then(|octets| {
            if octets < PIPE_OCTETS_MIN {
                fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_OCTETS_MIN))
            } else {
                Ok(octets)
            }
        });
        room.map_err(io::Error::from)
            .map_err(file_error("make room in the pipe", &path))?;
        let metadata = pipe.metadata().map_err(file_error("open the pipe", &path))?;
        let passwords = Self {
            folder,
            identity: (metadata.dev(), metadata.ino()),
            leases: 0,
        };
        Ok((passwords, pipe))
    }

    /// Removes what another process left. A worker that has the pipe open goes on writing into one that no process reads.
    pub fn remove(layout: &Layout) -> Result<(), Error> {
        let folder = layout.passdb().join(FOLDER);
        let removed = match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&folder),
            Ok(_) => fs::remove_file(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(file_error("remove the folder", &folder))
    }

    /// Lets workers hand over a few passwords more, and for a few seconds more. To be called when the pipe has just been
    /// found empty. It is not flushed: it is worth nothing after a power cut.
    pub fn renew_lease(&mut self, now_seconds: i64) -> Result<(), Error> {
        self.leases += 1;
        let path = self.folder.join(LEASE);
        // Always as long, so that nothing of an earlier one is left.
        let text = format!("{now_seconds:020} {:020}\n", self.leases);
        // Opened each time, so that it keeps no file system from being made read-only or unmounted.
        let written = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .and_then(|mut lease| lease.write_all(text.as_bytes()));
        written.map_err(file_error("write the file", &path))
    }

    /// Whether the pipe has its name still: the maps may have been removed, or replaced.
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(self.folder.join(PIPE))
            .is_ok_and(|found| found.file_type().is_fifo() && (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for VerifiedPasswords {
    fn drop(&mut self) {
        // Left behind, workers find that the lease is over; the next process removes it.
        if self.is_in_place() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Whether this, at the root of the password entries, is the folder of the pipe.
pub(super) fn is_folder(path: &Path, kind: fs::FileType) -> bool {
    kind.is_dir() && path.file_name().is_some_and(|name| name == FOLDER)
}
