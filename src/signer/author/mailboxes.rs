//! A strict grammar of the mailboxes in an author field: the part of RFC 5322, 3.4, that all readers read alike.
//!
//! ```text
//! field   = mailbox *("," mailbox)                      ; with CFWS around each
//! mailbox = address / [name] "<" address ">"
//! name    = 1*word / address                            ; CFWS between words, no line end behind an address
//! word    = plain *("." plain) ["."] / quoted-string / encoded-word
//! plain   = 1*(atext / UTF-8)
//! address = local-part ["+" detail] "@" domain          ; in the alphabet of `Address`
//! ```
//!
//! Left out on purpose: groups, routes, domain literals, quoted local parts, white space and comments inside an address,
//! comments inside comments, empty list elements, and lines of nothing but white space: readers differ in them, or have no
//! need of them. `tests/inboxd/authors` holds what is left against ten readers.

use super::{
    encoded_word,
    fault::{AUTHOR_FIELD_MAX_OCTETS, AUTHORS_MAX, Fault},
    tokens::{Token, Word, is_atext, tokens},
};
use crate::model::address::{Address, DomainName, LOCAL_PART_MAX_OCTETS, LocalPart};

/// A mailbox of an author field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mailbox {
    /// In lower case, without detail.
    pub address: Address,
    /// The address that stands in the place of the display name without quotes.
    pub name: Option<Address>,
}

/// Parses the whole value of a field: at least one mailbox. In linear time.
pub(super) fn mailboxes(value: &[u8]) -> Result<Vec<Mailbox>, Fault> {
    if value.len() > AUTHOR_FIELD_MAX_OCTETS {
        return Err(Fault::TooLong);
    }
    let text = str::from_utf8(value).map_err(|_| Fault::NotUtf8)?;
    let tokens = tokens(text)?;
    let found: Vec<Mailbox> = tokens
        .split(|token| *token == Token::Comma)
        .map(mailbox)
        .collect::<Result<_, _>>()?;
    if found.len() > AUTHORS_MAX {
        return Err(Fault::TooMany);
    }
    let has_quoted_address = tokens.contains(&Token::Word(Word::QuotedAddress));
    let is_plain = !tokens.contains(&Token::Comment) && !tokens.contains(&Token::Word(Word::Encoded));
    if has_quoted_address && !(is_plain && found.len() == 1) {
        return Err(Fault::AddressInQuotes);
    }
    Ok(found)
}

/// What stands between two commas.
fn mailbox(tokens: &[Token<'_>]) -> Result<Mailbox, Fault> {
    let is_filler = |token: &Token<'_>| matches!(token, Token::Space | Token::Fold | Token::Comment);
    let start = tokens.iter().position(|token| !is_filler(token));
    let start = start.ok_or(Fault::NoAddress)?;
    let end = tokens.iter().rposition(|token| !is_filler(token));
    let (before, rest) = tokens.split_at(start);
    let (middle, after) = rest.split_at(end.map_or(0, |end| end + 1 - start));
    match *middle {
        [Token::Address(text)] => {
            if before.last() == Some(&Token::Comment) || after.first() == Some(&Token::Comment) {
                return Err(Fault::Adjacent);
            }
            let address = address(text)?;
            Ok(Mailbox { address, name: None })
        }
        [ref name @ .., Token::Open, Token::Address(text), Token::Close] => {
            let name = name_of(name)?;
            let address = address(text)?;
            Ok(Mailbox { address, name })
        }
        _ if middle
            .iter()
            .any(|token| matches!(token, Token::Address(_) | Token::Open)) =>
        {
            Err(Fault::Address)
        }
        _ => Err(Fault::NoAddress),
    }
}

/// The address in the place of a display name, if it is one. What is left of `tokens` begins with a word.
fn name_of(tokens: &[Token<'_>]) -> Result<Option<Address>, Fault> {
    if let [Token::Address(text)] | [Token::Address(text), Token::Space] = tokens {
        return address(text).map(Some).map_err(|_| Fault::AddressInName);
    }
    let words = tokens
        .iter()
        .filter(|token| matches!(token, Token::Word(_)))
        .count();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Word(Word::QuotedAddress) if words > 1 => return Err(Fault::AddressInQuotes),
            Token::Word(_) if matches!(tokens.get(index + 1), Some(Token::Word(_))) => {
                return Err(Fault::Adjacent);
            }
            Token::Space | Token::Fold | Token::Comment | Token::Word(_) => {}
            Token::Address(_) => return Err(Fault::AddressInName),
            Token::Open | Token::Close | Token::Comma => return Err(Fault::Address),
        }
    }
    Ok(None)
}

/// An address as it is known here: in lower case, without detail.
fn address(text: &str) -> Result<Address, Fault> {
    let parsed = || {
        let (local_part, domain) = text.split_once('@')?;
        let atoms = local_part.split('.');
        let is_dot_atom = atoms
            .into_iter()
            .all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
        let is_known = is_dot_atom
            && text.is_ascii()
            && local_part.len() <= LOCAL_PART_MAX_OCTETS
            && !text.contains(encoded_word::START);
        let (without_detail, _) = local_part.split_once('+').unwrap_or((local_part, ""));
        let local_part = LocalPart::parse(&without_detail.to_ascii_lowercase()).ok()?;
        let domain = DomainName::parse(domain).ok()?;
        is_known.then_some(Address { local_part, domain })
    };
    parsed().ok_or(Fault::Address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(value: &str) -> Result<Vec<String>, Fault> {
        let found = mailboxes(value.as_bytes())?;
        let shown = |mailbox: Mailbox| match mailbox.name {
            Some(name) => format!("{name} {}", mailbox.address),
            None => mailbox.address.to_string(),
        };
        Ok(found.into_iter().map(shown).collect())
    }

    #[test]
    fn a_mailbox_is_written_in_many_ways() {
        for value in [
            "scout@example.com",
            " scout@example.com",
            "\tscout@example.com ",
            "<scout@example.com>",
            "Scout <scout@example.com>",
            "Scout<scout@example.com>",
            "\"Scout, the dog\" <Scout@Example.COM>",
            "\"Scout\\\"s \\\\ dog\" <scout@example.com>",
            "J. R. Scout 3rd! <scout@example.com>",
            "=?utf-8?q?J=C3=B6rg?= <scout+detail@example.com>",
            "=?utf-8?q?J=C3=B6rg?= =?utf-8?b?SsO2cmc=?= <scout@example.com>",
            "\"=?utf-8?q?J=C3=B6rg?=\" <scout@example.com>",
            "J\u{f6}rg <scout@example.com>",
            "\"J\u{f6}rg\" <scout@example.com>",
            "(comment) scout@example.com (another)",
            "Scout (the, dog.) Dog <scout@example.com> (x)",
            "Scout\r\n <scout@example.com>",
            "\r\n\tScout\r\n Dog <scout@example.com>",
            "\"victim@example.com\" <scout@example.com>",
            "\"ceo@bank.example, Inc.\" <scout@example.com>",
            "<scout+a=b!c%d@example.com>",
        ] {
            assert_eq!(
                named(value),
                Ok(vec!["scout@example.com".to_owned()]),
                "{value:?}"
            );
        }
        assert_eq!(
            named("Scout@example.com <scout@example.com>, \"Ada\" <ada@example.com>"),
            Ok(vec![
                "scout@example.com scout@example.com".to_owned(),
                "ada@example.com".to_owned()
            ])
        );
    }

    /// Values that one reader or another takes otherwise, or that are of no use.
    const REFUSED: &[(&str, Fault)] = &[
        ("", Fault::NoAddress),
        (" ", Fault::NoAddress),
        ("(only a comment)", Fault::NoAddress),
        ("Scout", Fault::NoAddress),
        ("<>", Fault::Address),
        ("Scout <>", Fault::Address),
        ("Scout, <a@example.com>", Fault::NoAddress),
        ("a@example.com,", Fault::NoAddress),
        (",a@example.com", Fault::NoAddress),
        ("a@example.com,,a@example.com", Fault::NoAddress),
        ("undisclosed:;", Fault::Special(':')),
        ("friends: a@example.com;", Fault::Special(':')),
        ("a@example.com; b@example.com", Fault::Special(';')),
        ("a@", Fault::Address),
        ("@example.com", Fault::Address),
        ("a@[127.0.0.1]", Fault::Special('[')),
        ("[x] <a@example.com>", Fault::Special('[')),
        ("<@relay.example:a@example.com>", Fault::Special(':')),
        ("<@relay.example,@b.example:a@example.com>", Fault::Special(':')),
        ("\"a\"@example.com", Fault::Address),
        ("<\"a\"@example.com>", Fault::Address),
        ("\"a@b.example x\"@example.com", Fault::Address),
        ("a @ example.com", Fault::Address),
        ("a @ example.com <b@example.com>", Fault::AddressInName),
        ("a(x)@example.com", Fault::Address),
        ("a@(x)example.com", Fault::Address),
        ("a@example.com(x)", Fault::Adjacent),
        ("(x)a@example.com", Fault::Adjacent),
        ("a@example.com.", Fault::Address),
        ("a@example", Fault::Address),
        ("a@b@example.com", Fault::Address),
        ("a..b@example.com", Fault::Address),
        ("a+..b@example.com", Fault::Address),
        ("j\u{f6}rg@example.com", Fault::Address),
        ("a@b\u{fc}cher.example", Fault::Address),
        ("a+=?utf-8?q?x?=@example.com", Fault::Address),
        ("< a@example.com>", Fault::Address),
        ("<a@example.com >", Fault::Address),
        ("<(x)a@example.com>", Fault::Address),
        ("<<a@example.com>>", Fault::Address),
        ("<b@example.com> <a@example.com>", Fault::Address),
        ("<a@example.com", Fault::Address),
        ("a@example.com>", Fault::Address),
        ("<a@example.com> x", Fault::Address),
        ("a@example.com x", Fault::Address),
        ("b@example.com x <a@example.com>", Fault::AddressInName),
        ("x b@example.com <a@example.com>", Fault::AddressInName),
        ("b@example.com (x) <a@example.com>", Fault::AddressInName),
        ("a@example.com\r\n <a@example.com>", Fault::AddressInName),
        (".Scout <a@example.com>", Fault::Special('.')),
        ("J . Scout <a@example.com>", Fault::Special('.')),
        ("J..Scout <a@example.com>", Fault::Special('.')),
        ("b@ <a@example.com>", Fault::AddressInName),
        ("'b@example.com' <a@example.com>", Fault::AddressInName),
        ("b\u{ff20}example.com <a@example.com>", Fault::AddressInName),
        (
            "\"b\" \"c\"<a@example.com>, \"x\"y <a@example.com>",
            Fault::Adjacent,
        ),
        ("\"b@example.com\" x <a@example.com>", Fault::AddressInQuotes),
        ("\"<b@example.com>\" <a@example.com>", Fault::AddressInQuotes),
        ("\"b@example.com\\\"\" <a@example.com>", Fault::AddressInQuotes),
        ("\"b@example.com\" (x) <a@example.com>", Fault::AddressInQuotes),
        (
            "\"b@example.com\" <a@example.com>, a@example.com",
            Fault::AddressInQuotes,
        ),
        (
            "\"\\\"\" <a@example.com>, \"b@example.com\" <a@example.com>",
            Fault::AddressInQuotes,
        ),
        (
            "\"=?utf-8?q?x?= b@example.com\" <a@example.com>",
            Fault::AddressInQuotes,
        ),
        (
            "\"b@example.com\" <a@example.com>, =?utf-8?q?=28?= <a@example.com>",
            Fault::AddressInQuotes,
        ),
        ("\"x <a@example.com>", Fault::Unclosed),
        ("\"x\\", Fault::Unclosed),
        ("\"a\\b\" <a@example.com>", Fault::Special('\\')),
        ("a\\b <a@example.com>", Fault::Special('\\')),
        ("(x <a@example.com>", Fault::Comment),
        ("(x", Fault::Unclosed),
        ("x) <a@example.com>", Fault::Special(')')),
        ("(b@example.com) a@example.com", Fault::Comment),
        ("(\\)) a@example.com", Fault::Comment),
        ("(=?utf-8?q?b=40c?=) a@example.com", Fault::Encoded),
        ("a@example.com (x (y))", Fault::Comment),
        ("=?utf-8?q?b=40c?= <a@example.com>", Fault::Encoded),
        ("\"=?utf-8?q?=22?=\" <a@example.com>", Fault::Encoded),
        ("\"x=?utf-8?q?y?=\" <a@example.com>", Fault::EncodedWord),
        ("=?utf-8?q?b c?= <a@example.com>", Fault::EncodedWord),
        ("a@example.com\r\n", Fault::Folding),
        ("a@example.com\r\n ", Fault::Folding),
        ("x\r\n \r\n <a@example.com>", Fault::Folding),
        ("x\r\n<a@example.com>", Fault::Folding),
        ("x\n <a@example.com>", Fault::Folding),
        ("x\r <a@example.com>", Fault::Folding),
        ("x\0 <a@example.com>", Fault::Control),
        ("x\u{202e} <a@example.com>", Fault::Control),
        ("=?utf-8?q?x=E2=80=AE?= <a@example.com>", Fault::Encoded),
        ("(\u{2066}) <a@example.com>", Fault::Control),
        ("x\u{b} <a@example.com>", Fault::Control),
        ("\"x\u{85}\" <a@example.com>", Fault::Control),
        ("(x\u{7f}) <a@example.com>", Fault::Control),
    ];

    #[test]
    fn what_readers_read_otherwise_is_refused() {
        for &(value, fault) in REFUSED {
            assert_eq!(named(value), Err(fault), "{value:?}");
        }
        assert_eq!(mailboxes(b"J\xf6rg <a@example.com>"), Err(Fault::NotUtf8));
        let many = vec!["a@example.com"; AUTHORS_MAX + 1].join(",");
        assert_eq!(named(&many), Err(Fault::TooMany));
        assert!(named(&many[14..]).is_ok());
        let long = format!("{} <a@example.com>", "x".repeat(AUTHOR_FIELD_MAX_OCTETS));
        assert_eq!(named(&long), Err(Fault::TooLong));
    }

    /// Pieces of which the worst fields are made.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "(",
                ")",
                "\"",
                "\\",
                "<",
                ">",
                ",",
                "@",
                ".",
                ":",
                ";",
                "[",
                "]",
                " ",
                "\t",
                "\r\n ",
                "\r",
                "\n",
                "=?",
                "?=",
                "=?utf-8?q?x?=",
                "a@example.com",
                "<a@example.com>",
                "\u{f6}",
                "\u{ff20}",
                "\0",
            ])
            .prop_map(|piece| piece.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..400).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_input_panics_and_what_is_taken_holds_no_other_address(value in pieces()) {
            if let Ok(tokens) = tokens(&String::from_utf8_lossy(&value)) {
                // Each is made of octets of its own: the work is linear, and bounded by AUTHOR_FIELD_MAX_OCTETS.
                prop_assert!(tokens.len() <= value.len());
            }
            if let Ok(found) = mailboxes(&value) {
                prop_assert!(!found.is_empty() && found.len() <= AUTHORS_MAX);
                // Outside quotes, every at sign belongs to an address that was found.
                let text = String::from_utf8(value).unwrap();
                let unquoted: String = text.split('"').step_by(2).collect();
                if !text.contains('\\') {
                    let named = found.len() + found.iter().filter(|mailbox| mailbox.name.is_some()).count();
                    prop_assert_eq!(unquoted.matches('@').count(), named);
                }
            }
        }
    }
}
