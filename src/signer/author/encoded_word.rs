//! Encoded words (RFC 2047) in display names and comments.
//!
//! Some readers decode a whole field first and take it apart then, so what an encoded word stands for must not be able to
//! change what the field says. Charsets that are not supersets of ASCII could hide an `@` from this check; they are refused.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    fault::Fault,
    tokens::{is_control, is_lookalike},
};

/// Where an encoded word begins, wherever a reader may find it.
pub(super) const START: &str = "=?";
/// Charsets, besides UTF-8, in which an octet below 128 is that ASCII character and nothing else.
const SINGLE_OCTET_CHARSETS: [&str; 28] = [
    "us-ascii",
    "iso-8859-1",
    "iso-8859-2",
    "iso-8859-3",
    "iso-8859-4",
    "iso-8859-5",
    "iso-8859-6",
    "iso-8859-7",
    "iso-8859-8",
    "iso-8859-9",
    "iso-8859-10",
    "iso-8859-11",
    "iso-8859-13",
    "iso-8859-14",
    "iso-8859-15",
    "iso-8859-16",
    "koi8-r",
    "koi8-u",
    "windows-1250",
    "windows-1251",
    "windows-1252",
    "windows-1253",
    "windows-1254",
    "windows-1255",
    "windows-1256",
    "windows-1257",
    "windows-1258",
    "tis-620",
];

/// Where an encoded word stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A word of a display name, or inside a quoted one.
    Name,
    /// Inside a comment, where a decoded parenthesis would end it.
    Comment,
}

/// Checks that a word, which has [`START`] in it, is one whole encoded word that stands for harmless text.
pub(super) fn check(word: &str, place: Place) -> Result<(), Fault> {
    let inner = word
        .strip_prefix(START)
        .and_then(|rest| rest.strip_suffix("?="))
        .ok_or(Fault::EncodedWord)?;
    let parts: Vec<&str> = inner.split('?').collect();
    let [charset, encoding, text] = parts[..] else {
        return Err(Fault::EncodedWord);
    };
    let octets = match encoding {
        "q" | "Q" => from_q(text),
        "b" | "B" => BASE64_STANDARD.decode(text).ok(),
        _ => None,
    };
    let octets = octets.ok_or(Fault::EncodedWord)?;
    let charset = charset.to_ascii_lowercase();
    let harmless = if charset == "utf-8" {
        let text = str::from_utf8(&octets).map_err(|_| Fault::EncodedWord)?;
        text.chars().all(|character| is_harmless(character, place))
    } else if SINGLE_OCTET_CHARSETS.contains(&charset.as_str()) {
        // What is above ASCII is no special in any of them.
        let ascii = octets.iter().filter(|octet| octet.is_ascii());
        ascii
            .map(|&octet| char::from(octet))
            .all(|character| is_harmless(character, place))
    } else {
        return Err(Fault::Charset);
    };
    if harmless { Ok(()) } else { Err(Fault::Encoded) }
}

/// The Q encoding (RFC 2047, 4.2).
fn from_q(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        decoded.push(match first {
            b'=' => {
                let (digits, behind) = rest.split_at_checked(2)?;
                rest = behind;
                let [high, low] = [digits[0], digits[1]].map(|digit| char::from(digit).to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            b'_' => b' ',
            0x21..=0x7e => *first,
            _ => return None,
        });
    }
    Some(decoded)
}

/// Whether a decoded character can be no part of an address, of quotes, or of another encoded word.
fn is_harmless(character: char, place: Place) -> bool {
    if is_control(character) || is_lookalike(character) {
        return false;
    }
    match place {
        Place::Name => !matches!(character, '@' | '<' | '>' | '"' | '\\' | '='),
        Place::Comment => {
            !character.is_ascii() || character.is_ascii_alphanumeric() || " -'.,!&/".contains(character)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_other_scripts_are_encoded_words() {
        for word in [
            "=?utf-8?q?J=C3=B6rg?=",
            "=?UTF-8?Q?M=C3=BCller=2C_J=C3=B6rg_=28Sales=29?=",
            "=?utf-8?B?SsO2cmc=?=",
            "=?iso-8859-1?q?J=F6rg?=",
            "=?utf-8?q??=",
        ] {
            assert_eq!(check(word, Place::Name), Ok(()), "{word}");
        }
    }

    #[test]
    fn what_a_reader_could_decode_into_an_address_is_refused() {
        for (word, fault) in [
            ("=?utf-8?q?a=40b.example?=", Fault::Encoded),
            ("=?utf-8?b?YUBiLmV4YW1wbGU=?=", Fault::Encoded),
            ("=?us-ascii?q?=3Ca?=", Fault::Encoded),
            ("=?iso-8859-1?q?a=22?=", Fault::Encoded),
            ("=?utf-8?q?=3D=3Futf-8?=", Fault::Encoded),
            ("=?utf-8?q?a=00?=", Fault::Encoded),
            ("=?utf-8?q?a=0D=0AFrom?=", Fault::Encoded),
            ("=?utf-8?q?a=EF=BC=A0b?=", Fault::Encoded),
            ("=?utf-7?q?a+AEA-b?=", Fault::Charset),
            ("=?utf-16?b?AEA=?=", Fault::Charset),
            ("=?iso-2022-jp?b?GyRC?=", Fault::Charset),
            ("=?cp037?q?=7C?=", Fault::Charset),
            ("=?utf-8?q?=C1=80?=", Fault::EncodedWord),
            ("=?utf-8?q?=C3?=", Fault::EncodedWord),
            ("=?utf-8?q?=4?=", Fault::EncodedWord),
            ("=?utf-8?b?YUBi=?=", Fault::EncodedWord),
            ("=?utf-8?x?a?=", Fault::EncodedWord),
            ("=?utf-8?q?a", Fault::EncodedWord),
            ("x=?utf-8?q?a?=", Fault::EncodedWord),
            ("=?utf-8?q?a?=x", Fault::EncodedWord),
            ("=?utf-8?q?a?==?utf-8?q?b?=", Fault::EncodedWord),
            ("=?", Fault::EncodedWord),
            ("=?=", Fault::EncodedWord),
        ] {
            assert_eq!(check(word, Place::Name), Err(fault), "{word}");
        }
        assert_eq!(check("=?utf-8?q?a=29b?=", Place::Comment), Err(Fault::Encoded));
    }
}
