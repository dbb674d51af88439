//! Text from outside is UTF-8 without a byte order mark. What is in another encoding is named as what it is.

use std::fmt;

/// What octets are instead of text in UTF-8. Displayed, it goes behind "must be X in UTF-8".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherEncoding {
    what: String,
    /// Octets before the first one that is not UTF-8; 0 where all of them are in another encoding.
    pub at: usize,
}

impl fmt::Display for OtherEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The text of `octets`.
///
/// Its first character has to be ASCII, as that of a JSON document or of a list of addresses is: the zeros around it show
/// how wide characters are (RFC 4627, 3).
///
/// # Errors
///
/// What the octets are instead.
pub fn utf8(octets: &[u8]) -> Result<&str, OtherEncoding> {
    let whole = |what: String| OtherEncoding { what, at: 0 };
    let encoding = match octets {
        [0xff, 0xfe, 0, 0, ..]
        | [0, 0, 0xfe, 0xff, ..]
        | [0, 0, 0, 1..=0xff, ..]
        | [1..=0xff, 0, 0, 0, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0xff, ..] | [1..=0xff, 0, ..] => "UTF-16",
        [0xef, 0xbb, 0xbf, ..] => {
            let what = " without a byte order mark (BOM): it begins with EF BB BF";
            return Err(whole(what.to_owned()));
        }
        _ => {
            return std::str::from_utf8(octets).map_err(|error| {
                let at = error.valid_up_to();
                let what = format!(
                    ": octet {} is {:02X}, which is not; it may be ISO 8859-1 (Latin-1) or Windows-1252",
                    at + 1,
                    octets[at]
                );
                OtherEncoding { what, at }
            });
        }
    };
    Err(whole(format!(": it is {encoding}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_named() {
        let utf_16 = |order: fn(u16) -> [u8; 2], text: &str| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        let utf_32 = |order: fn(u32) -> [u8; 4], text: &str| -> Vec<u8> {
            text.chars().map(u32::from).flat_map(order).collect()
        };
        let (plain, marked) = ("{\"a\":\"\u{e9}\"}", "\u{feff}{\"a\":1}");
        for (octets, name) in [
            (marked.as_bytes().to_vec(), "byte order mark"),
            (b"{\"a\":\"\xe9\"}".to_vec(), "octet 7 is E9"),
            (b"\xff".to_vec(), "Latin-1"),
            (utf_16(u16::to_le_bytes, plain), "UTF-16"),
            (utf_16(u16::to_be_bytes, plain), "UTF-16"),
            (utf_16(u16::to_le_bytes, marked), "UTF-16"),
            (utf_16(u16::to_be_bytes, marked), "UTF-16"),
            (utf_32(u32::to_le_bytes, plain), "UTF-32"),
            (utf_32(u32::to_be_bytes, plain), "UTF-32"),
            (utf_32(u32::to_le_bytes, marked), "UTF-32"),
            (utf_32(u32::to_be_bytes, marked), "UTF-32"),
        ] {
            let error = utf8(&octets).unwrap_err().to_string();
            assert!(error.contains(name), "{octets:?}: {error}");
        }
        assert_eq!(utf8(plain.as_bytes()), Ok(plain));
        assert_eq!(utf8(b""), Ok(""));
    }
}
