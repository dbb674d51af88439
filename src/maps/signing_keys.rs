//! What mail of a domain is signed with, as the signer reads it: a table of sealed keys.
//!
//! `<domain>` → `<selector> <algorithm> <id> <sealed key in base64>`, one such group a key, with a space between. The keys
//! are sealed as they are in the store, so a copy of the maps is no copy of the keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use uuid::Uuid;

use super::{
    Error, Layout, Which,
    table::{TableError, TableReader, with_nul},
};
use crate::model::{
    address::DomainName,
    dkim::{Algorithm, SealedSigningKey, Selector},
    ids::DkimKeyId,
};

/// Words that tell of one key.
const WORDS_A_KEY: usize = 4;

/// The signing keys, opened for each look-up: what was published before it begins is found.
#[derive(Clone, Debug)]
pub struct SigningKeys {
    layout: Layout,
}

impl SigningKeys {
    /// The table in these maps.
    pub fn of(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
        }
    }

    /// What mail of a domain is signed with now; empty if there is no key. Blocks on files.
    pub fn of_domain(&self, domain: &DomainName) -> Result<Vec<SealedSigningKey>, Error> {
        let value = self.layout.value(Which::SigningKeys, domain.as_str())?;
        let Some(text) = value else { return Ok(Vec::new()) };
        parse(&text).ok_or_else(|| self.layout.table_error(Which::SigningKeys, TableError::Damaged))
    }
}

impl Layout {
    /// What a table says of a name now, as text.
    pub(super) fn value(&self, which: Which, name: &str) -> Result<Option<String>, Error> {
        let read = || {
            let Some((_, value)) = TableReader::open(&self.table(which))?.get(&with_nul(name))? else {
                return Ok(None);
            };
            let text = value.and_then(|value| String::from_utf8(value.strip_suffix(b"\0")?.to_vec()).ok());
            text.map(Some).ok_or(TableError::Damaged)
        };
        read().map_err(|source| self.table_error(which, source))
    }

    pub(super) fn table_error(&self, which: Which, source: TableError) -> Error {
        Error::Table {
            doing: "look up a name in",
            path: self.table(which),
            source,
        }
    }
}

/// What the table says of these keys.
pub(super) fn to_text(keys: &[SealedSigningKey]) -> String {
    let of_one = |key: &SealedSigningKey| {
        let sealed = STANDARD.encode(&key.sealed);
        format!(
            "{} {} {} {sealed}",
            key.selector,
            key.algorithm.as_str(),
            key.id.0
        )
    };
    keys.iter().map(of_one).collect::<Vec<_>>().join(" ")
}

fn parse(text: &str) -> Option<Vec<SealedSigningKey>> {
    let words: Vec<&str> = text.split(' ').collect();
    words
        .chunks(WORDS_A_KEY)
        .map(|words| {
            let [selector, algorithm, id, sealed] = words else {
                return None;
            };
            Some(SealedSigningKey {
                id: DkimKeyId(Uuid::parse_str(id).ok()?),
                selector: Selector::parse(selector).ok()?,
                algorithm: Algorithm::parse(algorithm).ok()?,
                sealed: STANDARD.decode(sealed).ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let key = |selector: &str, algorithm, octets| SealedSigningKey {
            id: DkimKeyId(Uuid::from_u128(7)),
            selector: Selector::parse(selector).unwrap(),
            algorithm,
            sealed: vec![222; octets],
        };
        let keys = vec![
            key("ibr-1", Algorithm::RsaSha256, 1300),
            key("ibe-1", Algorithm::Ed25519Sha256, 88),
        ];
        assert_eq!(parse(&to_text(&keys)), Some(keys));
        for damaged in ["", "a", "a rsa-sha256 x y", "ibr-1 rsa-sha256"] {
            assert_eq!(parse(damaged), None, "{damaged:?}");
        }
    }
}
