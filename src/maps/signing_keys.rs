//! What mail of a domain is signed with, as a table says it: sealed keys.
//!
//! `<domain>` → `<selector> <algorithm> <id> <sealed key in base64>`, one such group a key, with a space between. The keys
//! are sealed as they are in the store, so a copy of the maps is no copy of the keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use uuid::Uuid;

use crate::model::{
    dkim::{Algorithm, SealedSigningKey, Selector},
    ids::DkimKeyId,
};

/// Words that tell of one key.
const WORDS_A_KEY: usize = 4;

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

/// The keys that a text tells of; none if it is no such text.
pub(super) fn parse(text: &str) -> Option<Vec<SealedSigningKey>> {
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
