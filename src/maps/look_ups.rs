//! Single names looked up in the tables, as Postfix looks them up: for our milters, beside a daemon that writes.

use super::{
    Error, Layout, Which,
    content::QUEUE_DOMAIN,
    signing_keys,
    table::{TableError, TableReader, with_nul},
};
use crate::model::{
    address::{Address, DomainName},
    dkim::SealedSigningKey,
    sasl_name::SaslName,
};

/// The tables that our milters read, opened for each look-up: what was published before it begins is found. Blocks on
/// files.
#[derive(Clone, Debug)]
pub struct LookUps {
    layout: Layout,
}

impl LookUps {
    /// In these maps.
    pub fn of(layout: Layout) -> Self {
        Self { layout }
    }

    /// What mail of a domain is signed with now; empty if there is no key.
    pub fn signing_keys(&self, domain: &DomainName) -> Result<Vec<SealedSigningKey>, Error> {
        let which = Which::SigningKeys;
        match self.value(which, domain.as_str())? {
            Some(text) => signing_keys::parse(&text).ok_or_else(|| self.failed(which, TableError::Damaged)),
            None => Ok(Vec::new()),
        }
    }

    /// The submission login that may send from an address now.
    pub fn sender_login(&self, address: &Address) -> Result<Option<SaslName>, Error> {
        let which = Which::SenderLogins;
        let login = self.value(which, &address.to_string())?;
        let parsed = login.map(|login| SaslName::parse(&login)).transpose();
        parsed.map_err(|_| self.failed(which, TableError::Damaged))
    }

    /// Whether addresses at a domain are ours: mail is accepted for it now, or recipients have it in Postfix's queue. The
    /// latter become addresses of ours at delivery, in header fields, too (generic(5)).
    pub fn is_ours(&self, domain: &DomainName) -> Result<bool, Error> {
        Ok(domain.as_str() == QUEUE_DOMAIN || self.value(Which::Domains, domain.as_str())?.is_some())
    }

    /// The canonical address of the mailbox that mail for an address goes to now: by the address itself, an alias or its
    /// domain's catch-all. The address is in lower case and has no detail; it may be one that inboxd would not hand out.
    pub fn mailbox_of(&self, address: &str) -> Result<Option<Address>, Error> {
        // In the order of virtual_alias_maps.
        let mut canonical = self.value(Which::Aliases, address)?;
        if canonical.is_none() && self.value(Which::Recipients, address)?.is_some() {
            canonical = Some(address.to_owned());
        }
        if let (None, Some((_, domain))) = (&canonical, address.rsplit_once('@')) {
            canonical = self.value(Which::Aliases, &format!("@{domain}"))?;
        }
        Ok(canonical.and_then(|canonical| Address::parse(&canonical).ok()))
    }

    /// What a table says of a name, as text.
    fn value(&self, which: Which, name: &str) -> Result<Option<String>, Error> {
        let read = || {
            let Some((_, value)) = TableReader::open(&self.layout.table(which))?.get(&with_nul(name))? else {
                return Ok(None);
            };
            let text = value.and_then(|value| String::from_utf8(value.strip_suffix(b"\0")?.to_vec()).ok());
            text.map(Some).ok_or(TableError::Damaged)
        };
        read().map_err(|source| self.failed(which, source))
    }

    fn failed(&self, which: Which, source: TableError) -> Error {
        Error::Table {
            doing: "look up a name in",
            path: self.layout.table(which),
            source,
        }
    }
}
