//! The maps: what Postfix and Dovecot see of the store, in the two formats that were measured to be fresh.
//!
//! - `passdb/<domain>/<local part>`: one file a mailbox, one line of passwd-file syntax, read on each look-up by
//!   a Lua passdb and userdb. Replaced by rename, so that a reader sees the old line or the new one.
//! - `postfix/{domains,mailboxes,aliases,sender_logins}.lmdb`: tables that Postfix looks up in place (`lmdb_table(5)`).
//!
//! The mail servers' groups may read them and nobody else; nobody but the daemon writes them. Everything here
//! blocks on files: not for an async thread.

mod files;
mod passdb;
mod render;
mod table;

use std::{
    io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

pub use self::{
    passdb::PassdbTree,
    render::{MailHome, passwd_line},
    table::{Table, TableError},
};
use crate::model::{
    address::Address,
    maps::{AddressState, Login, MapChange, MapKey},
};

/// Value of a table whose keys alone say everything. Postfix asks only whether there is one.
const PRESENT: &str = "1";

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
}

/// The maps, open for writing. One process has them at a time.
#[derive(Debug)]
pub struct Maps {
    home: MailHome,
    passdb: PassdbTree,
    domains: Table,
    mailboxes: Table,
    aliases: Table,
    sender_logins: Table,
    /// Held as long as the maps are open; the kernel lets it go when the process ends, however it ends.
    _only_writer: files::FolderLock,
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
}

/// How far the maps were from the store, and what was done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Differences {
    /// Entries that were missing or said something else.
    pub wrong: usize,
    /// Entries that nothing in the store asks for.
    pub extra: usize,
}

impl Maps {
    /// Opens the maps for writing and makes what is missing of folders and tables.
    pub fn open(layout: &Layout) -> Result<Self, Error> {
        files::ensure_folder(&layout.root, None)?;
        let only_writer = files::FolderLock::take(&layout.root)?;
        let postfix = layout.postfix();
        files::ensure_folder(&postfix, Some(layout.postfix_gid))?;
        let table = |name: &str| Table::open(&postfix.join(name).with_extension("lmdb"), layout.postfix_gid);
        Ok(Self {
            home: layout.home.clone(),
            passdb: PassdbTree::open(&layout.passdb(), layout.passdb_gid)?,
            domains: table("domains")?,
            mailboxes: table("mailboxes")?,
            aliases: table("aliases")?,
            sender_logins: table("sender_logins")?,
            _only_writer: only_writer,
        })
    }

    /// Publishes changes and flushes them: when this returns, a new connection to either mail server sees all of
    /// them, and a power cut takes none of them back. Applying a change twice does no harm.
    ///
    /// Password entries are written before Postfix's keys, and removed after them, so that Dovecot knows every
    /// mailbox that Postfix accepts mail for.
    pub fn apply(&self, changes: &[MapChange]) -> Result<(), Error> {
        let mut written = self.passdb.batch();
        let entries: Vec<(&Address, String)> = changes
            .iter()
            .filter_map(|change| match change {
                MapChange::Address(address, AddressState::Mailbox(mailbox)) => {
                    Some((address, passwd_line(address, mailbox, &self.home)))
                }
                _ => None,
            })
            .collect();
        written.write(&entries)?;
        written.flush()?;

        self.sender_logins
            .change(changes.iter().filter_map(|change| match change {
                MapChange::Address(address, state) => Some((address.to_string(), login_of(address, state))),
                MapChange::Domain(..) => None,
            }))?;
        self.mailboxes
            .change(changes.iter().filter_map(|change| match change {
                MapChange::Address(address, state) => {
                    let present = matches!(state, AddressState::Mailbox(_)).then(|| PRESENT.to_owned());
                    Some((address.to_string(), present))
                }
                MapChange::Domain(..) => None,
            }))?;
        self.aliases
            .change(changes.iter().filter_map(|change| match change {
                MapChange::Address(address, state) => Some((address.to_string(), alias_of(state))),
                MapChange::Domain(..) => None,
            }))?;
        self.domains
            .change(changes.iter().filter_map(|change| match change {
                MapChange::Domain(domain, served) => {
                    Some((domain.to_string(), served.then(|| PRESENT.to_owned())))
                }
                MapChange::Address(..) => None,
            }))?;
        self.flush_tables()?;

        let mut removed = self.passdb.batch();
        for change in changes {
            if let MapChange::Address(address, AddressState::Absent | AddressState::Alias(_)) = change {
                removed.remove(address)?;
            }
        }
        removed.flush()
    }

    /// Makes the changes of the tables durable, all at the same time, so that the file system makes one commit of it.
    fn flush_tables(&self) -> Result<(), Error> {
        let mut unflushed = [&self.domains, &self.mailboxes, &self.aliases, &self.sender_logins]
            .into_iter()
            .filter(|table| table.is_unflushed());
        let Some(own) = unflushed.next() else {
            return Ok(());
        };
        in_parallel(|| own.flush(), unflushed.map(|table| || table.flush()))
    }

    /// Of these expected states, in any order, those that the maps do not show.
    pub fn wrong_of(&self, expected: &[MapChange]) -> Result<Vec<MapChange>, Error> {
        let mut wrong = Vec::new();
        for change in expected {
            if !self.shows(change)? {
                wrong.push(change.clone());
            }
        }
        Ok(wrong)
    }

    /// Removes what nobody reads and no inboxd would leave among the password entries, gives folders their group and
    /// mode, and returns how much it removed: before the maps are compared with the store.
    pub fn clean(&self) -> Result<usize, Error> {
        self.passdb.clean()
    }

    /// Everything that the maps name, in pages: to find what the store does not ask for. Names that no inboxd
    /// would write are removed on the way; their number is the second value.
    pub fn names_after(&self, after: Option<&NamedIn>, limit: usize) -> Result<(Vec<NamedIn>, usize), Error> {
        let place = after.map_or(Place::Passdb, |name| name.place);
        let mut removed = 0;
        for place in Place::ALL.into_iter().skip_while(|&candidate| candidate != place) {
            let start = after
                .filter(|name| name.place == place)
                .map(|name| name.name.as_str());
            let (names, junk) = match place {
                Place::Passdb => (self.passdb.names_after(start, limit)?, 0),
                Place::Table(index) => {
                    let (table, belongs) = self.table(index);
                    table.names_after(start, limit, belongs)?
                }
            };
            removed += junk;
            if !names.is_empty() {
                return Ok((
                    names.into_iter().map(|name| NamedIn { place, name }).collect(),
                    removed,
                ));
            }
        }
        Ok((Vec::new(), removed))
    }

    /// How many entries the maps have: of password entries, mailboxes, aliases and domains.
    pub fn counts(&self) -> Result<Counts, Error> {
        Ok(Counts {
            passwords: self.passdb.count()?,
            mailboxes: self.mailboxes.count()?,
            aliases: self.aliases.count()?,
            sender_logins: self.sender_logins.count()?,
            domains: self.domains.count()?,
        })
    }

    /// Learns whether the maps can be written now: writes and removes a file, and looks whether the tables are still
    /// the ones that Postfix opens.
    pub fn probe(&self) -> Result<(), Error> {
        for table in [&self.domains, &self.mailboxes, &self.aliases, &self.sender_logins] {
            table.probe()?;
        }
        self.passdb.probe()
    }

    fn shows(&self, change: &MapChange) -> Result<bool, Error> {
        match change {
            MapChange::Domain(domain, served) => {
                self.domains.shows(domain.as_str(), served.then_some(PRESENT))
            }
            MapChange::Address(address, state) => {
                let name = address.to_string();
                let line = match state {
                    AddressState::Mailbox(mailbox) => Some(passwd_line(address, mailbox, &self.home)),
                    AddressState::Absent | AddressState::Alias(_) => None,
                };
                let present = line.is_some().then_some(PRESENT);
                Ok(self.passdb.shows(address, line.as_deref())?
                    && self.mailboxes.shows(&name, present)?
                    && self.aliases.shows(&name, alias_of(state).as_deref())?
                    && self
                        .sender_logins
                        .shows(&name, login_of(address, state).as_deref())?)
            }
        }
    }

    /// A table, and which keys belong into it.
    fn table(&self, index: usize) -> (&Table, Belongs) {
        let is_address = |key: &MapKey| matches!(key, MapKey::Address(_));
        let is_domain = |key: &MapKey| matches!(key, MapKey::Domain(_));
        let tables: [(&Table, Belongs); 4] = [
            (&self.mailboxes, is_address),
            (&self.aliases, is_address),
            (&self.sender_logins, is_address),
            (&self.domains, is_domain),
        ];
        tables[index]
    }
}

/// Whether a key is of the kind that a table holds.
type Belongs = fn(&MapKey) -> bool;

/// Entries of each map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Password entries.
    pub passwords: u64,
    /// Virtual mailboxes.
    pub mailboxes: u64,
    /// Virtual aliases.
    pub aliases: u64,
    /// Sender logins.
    pub sender_logins: u64,
    /// Virtual mailbox domains.
    pub domains: u64,
}

/// A name that one of the maps holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedIn {
    place: Place,
    /// The name: an address or a domain.
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Passdb,
    Table(usize),
}

impl Place {
    const ALL: [Self; 5] = [
        Self::Passdb,
        Self::Table(0),
        Self::Table(1),
        Self::Table(2),
        Self::Table(3),
    ];
}

/// The login that may send from an address. None for a locked mailbox: a submission session that was logged in before
/// cannot be ended, but it can name no sender any more.
pub fn login_of(address: &Address, state: &AddressState) -> Option<String> {
    match state {
        AddressState::Absent => None,
        AddressState::Mailbox(mailbox) => (mailbox.login != Login::Locked).then(|| address.to_string()),
        AddressState::Alias(canonical) => Some(canonical.to_string()),
    }
}

/// Where mail for an address goes instead.
fn alias_of(state: &AddressState) -> Option<String> {
    match state {
        AddressState::Alias(canonical) => Some(canonical.to_string()),
        AddressState::Absent | AddressState::Mailbox(_) => None,
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
