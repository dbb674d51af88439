//! What the mail side should see: the desired state of one key of the maps, read from the store.

use std::fmt;

use super::{
    Refused,
    address::{Address, DomainName},
    dkim::SealedSigningKey,
    ids::InboxId,
    password::PasswordHash,
    sasl_name::SaslName,
};

/// A key of the maps: what is marked when the store changes, and what is published.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MapKey {
    /// One address: its password entry, its mailbox or alias, its sender login.
    Address(Address),
    /// One domain that mail is accepted for.
    Domain(DomainName),
}

impl MapKey {
    /// From the text that [`fmt::Display`] writes: an address holds an `@`, a domain does not.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if text.contains('@') {
            Address::parse(text).map(Self::Address)
        } else {
            DomainName::parse(text).map(Self::Domain)
        }
    }
}

impl fmt::Display for MapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Domain(domain) => domain.fmt(f),
        }
    }
}

/// What the maps should say of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AddressState {
    /// Nothing: mail is refused, no login has this name.
    Absent,
    /// It is the canonical address of a mailbox.
    Mailbox(Mailbox),
    /// It is a further address of a mailbox.
    Alias {
        /// The canonical address of the mailbox.
        canonical: Address,
        /// The submission login that may send from it; none while its tenant is suspended.
        sender: Option<SaslName>,
    },
}

/// What the maps should say of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DomainState {
    /// Nothing: mail for it is not ours.
    Absent,
    /// Mail for it is accepted.
    Served {
        /// The canonical address of the mailbox that gets what no address of the domain gets; none: it is refused.
        catch_all: Option<Address>,
        /// What mail from it is signed with; none: nobody may send from it until there is a key.
        keys: Vec<SealedSigningKey>,
    },
}

/// A mailbox as Dovecot should know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mailbox {
    /// The inbox, which names the mail folder, and the generation of its credentials: what Postfix gets as the name of
    /// a login.
    pub sasl_name: SaslName,
    /// How its password is checked.
    pub login: Login,
}

impl Mailbox {
    /// The inbox; names the mail folder.
    pub fn inbox(&self) -> InboxId {
        self.sasl_name.inbox
    }

    /// The submission login that may send from the mailbox's addresses; none while the mailbox is locked.
    pub fn sender(&self) -> Option<SaslName> {
        (self.login != Login::Locked).then_some(self.sasl_name)
    }

    /// What Dovecot shows of the password entry; none for a locked mailbox, of which it shows nothing.
    pub fn entry_mark(&self) -> Option<EntryMark> {
        match &self.login {
            Login::Open(hash) => Some(EntryMark(format!(
                "{} {}",
                self.sasl_name,
                hash.without_digest().unwrap_or_default()
            ))),
            Login::Locked => None,
        }
    }
}

/// Which password entry Dovecot has read: the SASL name, and the hash without its digest. So it differs between any two
/// entries of a name, and holds no secret. Dovecot's Lua script makes it in the same way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryMark(String);

impl EntryMark {
    /// As Dovecot shows it.
    pub fn from_shown(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Whether a mailbox can be logged in to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    /// With the password of this hash.
    Open(PasswordHash),
    /// Not at all, while deliveries go on: its tenant is suspended.
    Locked,
}

impl AddressState {
    /// Whether this is what Dovecot says of the name of an address in this state.
    pub fn is_seen_in(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Self::Mailbox(mailbox), Answer::Found(Some(mark))) => {
                mailbox.entry_mark().as_ref() == Some(mark)
            }
            (Self::Mailbox(mailbox), Answer::Unknown) => mailbox.login == Login::Locked,
            (Self::Absent | Self::Alias { .. }, Answer::Unknown) => true,
            _ => false,
        }
    }
}

/// What Dovecot says of a login that it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It can log in with the password of this entry. `None` where Dovecot's Lua script is older than this inboxd.
    Found(Option<EntryMark>),
    /// Nobody can log in with this name: there is no entry, or it is locked.
    Unknown,
    /// Dovecot could not read or understand the entry. Its log says why; 2.4 waits about three seconds before it says so.
    Failed,
}

/// What is done about a new login before its creation is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarrierMode {
    /// It must have been seen through the mail servers.
    Require,
    /// It is looked at, and what is not seen is reported.
    Report,
    /// Nothing is asked.
    Off,
}

/// What is to be published: a key and the state that the store says it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapChange {
    /// An address and its state.
    Address(Address, AddressState),
    /// A domain and its state.
    Domain(DomainName, DomainState),
}

impl MapChange {
    /// The key that this is the state of.
    pub fn key(&self) -> MapKey {
        match self {
            Self::Address(address, _) => MapKey::Address(address.clone()),
            Self::Domain(domain, _) => MapKey::Domain(domain.clone()),
        }
    }
}
