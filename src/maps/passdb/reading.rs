//! What the entries say.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    panic::resume_unwind,
    path::Path,
    thread,
};

use nix::{
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use super::{PassdbTree, is_missing};
use crate::{
    maps::{Error, MailHome, WrongEntries, entry_of, file_error},
    model::{
        address::{Address, DomainName},
        maps::MapChange,
    },
};

/// Room for the longest line that an entry can have: an address, a hash, the path of a home. One that is longer is wrong
/// in any case.
const LINE_MAX_OCTETS: usize = 8 * 1024;

/// What is found where an entry belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::maps) enum Shown {
    /// There is none.
    Nothing,
    /// The line that is expected, which Dovecot's group may read and nobody else.
    Expected,
    /// The line that is expected, with another owner, group or mode.
    WrongMode,
    /// Another line, or something that is no file.
    Other,
}

/// The entries of one domain, by the folder that is open.
struct DomainReader<'a> {
    tree: &'a PassdbTree,
    domain: DomainName,
    /// None: there is no folder.
    folder: Option<File>,
}

impl PassdbTree {
    /// Writes the line of an entry over itself, where it is just that: a reader sees no difference, and the next flush
    /// brings it to the disk, also where an earlier flush failed and only memory has it. Whether it was that.
    pub(in crate::maps) fn write_again(&self, address: &Address, line: &str) -> Result<bool, Error> {
        let path = self.entry(address);
        let again = || {
            let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = File::from(open(&path, flags, Mode::empty())?);
            if self.read(&file, line)? != Shown::Expected {
                return Ok(false);
            }
            file.write_all_at(line.as_bytes(), 0)?;
            Ok(true)
        };
        again().or_else(|error| {
            let is_another = is_missing(&error) || is_no_file(&error);
            // A folder cannot be opened to be written.
            if is_another || error.kind() == io::ErrorKind::IsADirectory {
                Ok(false)
            } else {
                Err(file_error("write the password entry again", &path)(error))
            }
        })
    }

    /// What a file says, where this line is expected.
    fn read(&self, mut file: &File, line: &str) -> io::Result<Shown> {
        let metadata: fs::Metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != line.len() as u64 || line.len() > LINE_MAX_OCTETS {
            return Ok(Shown::Other);
        }
        let mut found = [0; LINE_MAX_OCTETS];
        let found = &mut found[..line.len()];
        match file.read_exact(found) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Shown::Other),
            Err(error) => return Err(error),
        }
        Ok(if *found != *line.as_bytes() {
            Shown::Other
        } else if self.readers.may_read_file(&metadata, self.uid) {
            Shown::Expected
        } else {
            Shown::WrongMode
        })
    }

    /// What there is of an address, where this line is expected.
    pub(in crate::maps) fn shown(&self, address: &Address, line: &str) -> Result<Shown, Error> {
        self.reader_of(&address.domain)?.shown(address, line)
    }

    /// Reads entries of one domain.
    fn reader_of(&self, domain: &DomainName) -> Result<DomainReader<'_>, Error> {
        let path = self.folder(domain);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = match open(&path, flags, Mode::empty()) {
            Ok(folder) => Some(File::from(folder)),
            Err(errno) => {
                let error = io::Error::from(errno);
                if !is_missing(&error) && !is_no_file(&error) {
                    return Err(file_error("open the folder", &path)(error));
                }
                None
            }
        };
        Ok(DomainReader {
            tree: self,
            domain: domain.clone(),
            folder,
        })
    }

    /// Of these expected states, those whose entries are not as they should be. Reads on all cores.
    pub(in crate::maps) fn wrong_entries(
        &self,
        expected: &[MapChange],
        home: &MailHome,
    ) -> Result<WrongEntries, Error> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let share = expected.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let reading: Vec<_> = expected
                .chunks(share)
                .map(|share| scope.spawn(|| self.wrong_entries_of(share, home)))
                .collect();
            let mut all = WrongEntries::default();
            for read in reading {
                let part = read.join().unwrap_or_else(|panicked| resume_unwind(panicked))?;
                all.wrong.extend(part.wrong);
                all.missing += part.missing;
            }
            Ok(all)
        })
    }

    fn wrong_entries_of(&self, expected: &[MapChange], home: &MailHome) -> Result<WrongEntries, Error> {
        let mut found = WrongEntries::default();
        let mut last: Option<DomainReader<'_>> = None;
        for change in expected {
            let Some((address, line)) = entry_of(change, home) else {
                continue;
            };
            let reader = match last.take().filter(|reader| reader.domain == address.domain) {
                Some(reader) => reader,
                None => self.reader_of(&address.domain)?,
            };
            let shown = reader.shown(address, &line)?;
            last = Some(reader);
            if shown != Shown::Expected {
                found.wrong.push(change.clone());
            }
            if shown == Shown::Nothing {
                found.missing += 1;
            }
        }
        Ok(found)
    }

    /// The root of the tree.
    pub(in crate::maps) fn root(&self) -> &Path {
        &self.root
    }
}

impl DomainReader<'_> {
    /// What there is of an address of this domain, where this line is expected.
    fn shown(&self, address: &Address, line: &str) -> Result<Shown, Error> {
        let Some(folder) = &self.folder else {
            return Ok(Shown::Nothing);
        };
        self.read(folder, address, line).or_else(|error| {
            if is_missing(&error) {
                Ok(Shown::Nothing)
            } else if is_no_file(&error) {
                Ok(Shown::Other)
            } else {
                let path = self.tree.entry(address);
                Err(file_error("read the password entry", &path)(error))
            }
        })
    }

    fn read(&self, folder: &File, address: &Address, line: &str) -> io::Result<Shown> {
        // Whatever lies there: a link is not followed, and a pipe not waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(folder, address.local_part.as_str(), flags, Mode::empty())?);
        self.tree.read(&file, line)
    }
}

/// Whether a link was not followed (open(2), `O_NOFOLLOW`), or what is there cannot be opened at all (a socket).
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::ENXIO))
}
