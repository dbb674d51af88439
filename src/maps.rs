//! The maps: what Postfix and Dovecot see of the store, in the two formats that were measured to be fresh.
//!
//! - `passdb/<domain>/<local part>`: one file a mailbox, one line of passwd-file syntax, read on each look-up by
//!   a Lua passdb and userdb. Replaced by rename, so that a reader sees the old line or the new one.
//! - `postfix/{domains,recipients,aliases,sender_logins}.lmdb`: tables that Postfix looks up in place (`lmdb_table(5)`).
//! - `passdb/.verified-passwords`: through which Dovecot hands over passwords whose costly hash is to be replaced.
//! - `signer/signing_keys.lmdb`: the same, of what mail is signed with, sealed; for our own signer.
//!
//! The mail servers' groups may read theirs and nobody else, the signer runs as the daemon's user; nobody but the daemon
//! writes them. Everything here blocks on files: not for an async thread.

mod content;
mod expected;
mod files;
mod look_ups;
mod passdb;
mod reader;
mod render;
mod signing_keys;
mod survey;
mod table;
mod verified_passwords;

use std::{
    fs, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    thread,
};

use nix::unistd::geteuid;

use self::{content::PRESENT, files::Readers, passdb::PassdbTree, table::Table};
pub use self::{
    content::Which,
    expected::Expected,
    look_ups::LookUps,
    reader::{Difference, Reader, What},
    render::{MailHome, passwd_line},
    survey::{Leftover, Survey},
    table::TableError,
    verified_passwords::VerifiedPasswords,
};
use crate::model::{
    address::Address,
    maps::{AddressState, MapChange},
};

/// Tables of Postfix that earlier releases wrote. A Postfix whose configuration still names one must put mail off, not read
/// what is true no longer.
const FORMER_TABLES: [&str; 1] = ["mailboxes"];
/// The file of the control socket, in the folder of the maps.
const CONTROL_SOCKET: &str = ".control";
/// The file of the socket that says whose inboxes are, in the signer's folder.
const TENANTS_SOCKET: &str = ".tenants";

/// Where the maps are and who may read them.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The folder of the maps.
    pub root: PathBuf,
    /// Numeric id of the group that Dovecot's auth processes run in.
    pub passdb_gid: u32,
    /// Numeric id of the group that Postfix runs in.
    pub postfix_gid: u32,
    /// What a password entry says of the mailbox's place.
    pub home: MailHome,
}

impl Layout {
    /// The folder of the password entries.
    pub fn passdb(&self) -> PathBuf {
        self.root.join("passdb")
    }

    /// The folder of Postfix's tables.
    pub fn postfix(&self) -> PathBuf {
        self.root.join("postfix")
    }

    /// The folder of the signer's table.
    pub fn signer(&self) -> PathBuf {
        self.root.join("signer")
    }

    /// The file of one of the tables.
    pub fn table(&self, which: Which) -> PathBuf {
        let folder = match which {
            Which::SigningKeys => self.signer(),
            Which::SenderLogins | Which::Recipients | Which::Aliases | Which::Domains => self.postfix(),
        };
        folder.join(which.name()).with_extension("lmdb")
    }

    /// Who may read one of the tables, and its folder.
    fn readers(&self, which: Which) -> Readers {
        match which {
            Which::SigningKeys => Readers::Nobody,
            Which::SenderLogins | Which::Recipients | Which::Aliases | Which::Domains => {
                Readers::Group(self.postfix_gid)
            }
        }
    }

    /// Makes the folders of the tables, if they are missing, and removes tables of earlier releases.
    fn ensure_table_folders(&self) -> Result<(), Error> {
        files::ensure_folder(&self.postfix(), Readers::Group(self.postfix_gid))?;
        for name in FORMER_TABLES {
            let path = self.postfix().join(name).with_extension("lmdb");
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove the former table", &path)(error));
                }
                _ => {}
            }
        }
        files::ensure_folder(&self.signer(), Readers::Nobody)
    }

    /// The socket at which whoever has the maps open for writing can be asked to repair them.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join(CONTROL_SOCKET)
    }

    /// The socket at which the signer asks the daemon whose inboxes are: in the one folder that no one else may enter.
    pub fn tenants_socket(&self) -> PathBuf {
        self.signer().join(TENANTS_SOCKET)
    }
}

/// The maps, open for writing. One process has them at a time.
#[derive(Debug)]
pub struct Maps {
    layout: Layout,
    passdb: PassdbTree,
    /// One for each of [`Which::ALL`], in that order.
    tables: [Table; Which::ALL.len()],
    /// Held as long as the maps are open; the kernel lets it go when the process ends, however it ends.
    only_writer: RwLock<files::FolderLock>,
}

/// The maps could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A table could not be read or written.
    #[error("{doing} the table {}", path.display())]
    Table {
        /// What was being done.
        doing: &'static str,
        /// The table's file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: TableError,
    },
    /// Another process has the maps open for writing.
    #[error("the maps in {} are already written by another inboxd: stop it first, or give this one another folder (maps.dir)", folder.display())]
    Taken {
        /// The folder of the maps.
        folder: PathBuf,
    },
    /// Somebody removed or replaced the folder of the maps.
    #[error("the folder {} was removed or replaced while inboxd had it open: `inboxd maps rebuild` writes the maps anew", folder.display())]
    Gone {
        /// The folder of the maps.
        folder: PathBuf,
    },
}

/// How far the maps were from the store, and what was done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Differences {
    /// Password entries, and names in the tables, that were missing or said something else.
    pub wrong: usize,
    /// Entries that nothing in the store asks for.
    pub extra: usize,
}

/// What was found among the password entries, and done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleaned {
    /// Things that cannot be entries, which are no more.
    pub removed: usize,
    /// Files that may be entries.
    pub entries: usize,
}

/// How password entries differ from what is expected of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WrongEntries {
    /// Those that are missing or say something else.
    pub wrong: Vec<MapChange>,
    /// How many of them are missing.
    pub missing: usize,
}

impl Maps {
    /// Opens the maps for writing and makes what is missing of folders. A table that is missing or damaged is not in
    /// place until it was [written whole](Self::put_in_place).
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        files::ensure_folder(&layout.root, Readers::Everybody)?;
        let only_writer = files::FolderLock::take(&layout.root)?;
        let passdb = PassdbTree::at(&layout.passdb(), geteuid().as_raw(), layout.passdb_gid);
        passdb.ensure()?;
        layout.ensure_table_folders()?;
        let table = |which: Which| Table::open(&layout.table(which), layout.readers(which));
        let [first, second, third, fourth, fifth] = Which::ALL;
        Ok(Self {
            passdb,
            tables: [
                table(first)?,
                table(second)?,
                table(third)?,
                table(fourth)?,
                table(fifth)?,
            ],
            only_writer: RwLock::new(only_writer),
            layout: layout.clone(),
        })
    }

    /// Opens everything anew by its name: after somebody has removed or replaced folders and tables, the maps can be
    /// written again. Also lets go of the memory that the tables have mapped. Returns how many tables are other files
    /// than before.
    pub fn reopen(&self) -> Result<usize, Error> {
        files::ensure_folder(&self.layout.root, Readers::Everybody)?;
        let mut only_writer = self.only_writer.write().unwrap_or_else(PoisonError::into_inner);
        if !only_writer.is_in_place() {
            *only_writer = files::FolderLock::take(&self.layout.root)?;
        }
        drop(only_writer);
        self.passdb.ensure()?;
        self.layout.ensure_table_folders()?;
        let mut others = 0;
        for table in &self.tables {
            others += usize::from(table.reopen()?);
        }
        Ok(others)
    }

    /// Publishes changes and flushes them: when this returns, a new connection to either mail server sees all of
    /// them, and a power cut takes none of them back. Applying a change twice does no harm.
    pub fn apply(&self, changes: &[MapChange]) -> Result<(), Error> {
        self.find()?;
        self.write(changes)
    }

    /// Writes changes, like [`Self::apply`], also into tables that are not in place yet, where nobody sees them.
    ///
    /// Password entries are written before Postfix's keys, and removed after them, so that Dovecot knows every
    /// mailbox that Postfix accepts mail for.
    pub fn write(&self, changes: &[MapChange]) -> Result<(), Error> {
        self.write_entries(changes)?;
        self.write_tables(changes)?;
        let mut removed = self.passdb.batch();
        for change in changes {
            if let MapChange::Address(address, AddressState::Absent | AddressState::Alias { .. }) = change {
                removed.remove(address)?;
            }
        }
        removed.flush()
    }

    /// The first part of [`Self::write`]: the password entries that there should be.
    pub fn write_entries(&self, changes: &[MapChange]) -> Result<(), Error> {
        self.find_folder()?;
        let entries: Vec<_> = changes
            .iter()
            .filter_map(|change| entry_of(change, &self.layout.home))
            .collect();
        let mut written = self.passdb.batch();
        written.write(&entries)?;
        written.flush()
    }

    /// The part of [`Self::write`] that is for Postfix: where the password entries are known to be right.
    pub fn write_tables(&self, changes: &[MapChange]) -> Result<(), Error> {
        self.find_folder()?;
        for which in Which::ALL {
            let entries = changes.iter().filter_map(|change| which.entry(change));
            self.table(which).change(entries)?;
        }
        self.flush_tables()
    }

    /// Makes the changes of the tables durable, all at the same time, so that the file system makes one commit of it.
    fn flush_tables(&self) -> Result<(), Error> {
        let mut unflushed = self.tables.iter().filter(|table| table.is_unflushed());
        let Some(own) = unflushed.next() else {
            return Ok(());
        };
        in_parallel(|| own.flush(), unflushed.map(|table| || table.flush()))
    }

    /// Whether the tables are those that Postfix opens, every one of them.
    pub fn is_in_place(&self) -> bool {
        self.find().is_ok()
    }

    /// Gives the tables that were made anew their names, now that they hold everything.
    pub fn put_in_place(&self) -> Result<(), Error> {
        self.tables.iter().try_for_each(Table::put_in_place)
    }

    /// Of these expected states, those whose password entries are not as they should be. Reads on all cores.
    pub fn wrong_entries(&self, expected: &[MapChange]) -> Result<WrongEntries, Error> {
        self.passdb.wrong_entries(expected, &self.layout.home)
    }

    /// Of these addresses, in their order, whether a Postfix that looks them up now finds what their states say: the
    /// mailbox or alias, who may send from it, and its domain. To be asked also while changes are applied.
    pub fn show_to_postfix(&self, expected: &[(Address, AddressState)]) -> Result<Vec<bool>, Error> {
        let mut shown = vec![true; expected.len()];
        for which in Which::OF_POSTFIX {
            let of_table = expected.iter().map(|(address, state)| match which {
                Which::Domains => (address.domain.to_string(), Some(PRESENT.to_owned())),
                _ => (address.to_string(), which.value_of(address, state)),
            });
            let found = self.table(which).shows_to_postfix(of_table)?;
            for (index, found) in found.into_iter().enumerate() {
                // Of an address that is none, the domain may have gone, too.
                let needs_none = which == Which::Domains && expected[index].1 == AddressState::Absent;
                shown[index] &= found || needs_none;
            }
        }
        Ok(shown)
    }

    /// Removes what nobody reads and no inboxd would leave among the password entries, and gives folders their group
    /// and mode: before the maps are compared with the store. Not while something is written.
    pub fn clean(&self) -> Result<Cleaned, Error> {
        self.passdb.clean()
    }

    /// Removes keys from a table that no inboxd would write.
    pub fn remove_junk(&self, which: Which, keys: &[Vec<u8>]) -> Result<(), Error> {
        self.table(which).remove(keys)
    }

    /// Learns whether the maps can be written now: writes and removes a file, and looks whether folder and tables are
    /// still the ones that the mail servers open.
    pub fn probe(&self) -> Result<(), Error> {
        self.find()?;
        self.passdb.probe()
    }

    /// Looks whether folder and tables are still the ones that the mail servers open.
    fn find(&self) -> Result<(), Error> {
        self.find_folder()?;
        self.tables.iter().try_for_each(Table::probe)
    }

    /// In a folder that was removed or replaced, another inboxd may be writing.
    fn find_folder(&self) -> Result<(), Error> {
        let only_writer = self.only_writer.read().unwrap_or_else(PoisonError::into_inner);
        if only_writer.is_in_place() {
            return Ok(());
        }
        Err(Error::Gone {
            folder: self.layout.root.clone(),
        })
    }

    fn table(&self, which: Which) -> &Table {
        &self.tables[which as usize]
    }
}

/// The password entry that a change asks for.
fn entry_of<'a>(change: &'a MapChange, home: &MailHome) -> Option<(&'a Address, String)> {
    match change {
        MapChange::Address(address, AddressState::Mailbox(mailbox)) => {
            Some((address, passwd_line(address, mailbox, home)))
        }
        MapChange::Address(..) | MapChange::Domain(..) => None,
    }
}

/// Runs something here and the others each on a thread of its own, and returns the first failure of all.
fn in_parallel<F: FnOnce() -> Result<(), Error> + Send>(
    own: impl FnOnce() -> Result<(), Error>,
    others: impl Iterator<Item = F>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let others: Vec<_> = others.map(|other| scope.spawn(other)).collect();
        others.into_iter().fold(own(), |done, other| {
            done.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    })
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
