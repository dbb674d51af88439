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
//! comments inside comments, empty list elements, and lines of nothing but white space. For each of them there is a reader
//! that shows another address than the rest: `tests/inboxd/authors` holds what is left against ten of them.

use std::{iter::Peekable, str::CharIndices};

use super::encoded_word::{self, Place};
use crate::model::address::{Address, DomainName, LOCAL_PART_MAX_OCTETS, LocalPart};

/// Longest author field in octets, folding included.
pub const AUTHOR_FIELD_MAX_OCTETS: usize = 8 * 1024;
/// Addresses in one author field.
pub const AUTHORS_MAX: usize = 16;

/// What is wrong with the value of an author field. It reads on after "the From field".
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// More than [`AUTHOR_FIELD_MAX_OCTETS`].
    #[error("must have no more than {AUTHOR_FIELD_MAX_OCTETS} octets")]
    TooLong,
    /// More than [`AUTHORS_MAX`].
    #[error("must name no more than {AUTHORS_MAX} addresses")]
    TooMany,
    /// There is no address, or an empty list element.
    #[error("must name an address, such as user@example.com, in each of its parts between commas")]
    NoAddress,
    /// Sender and Resent-Sender (RFC 5322, 3.6.2).
    #[error("must name one address, not several")]
    Several,
    /// Raw octets that are no text.
    #[error("must be ASCII or UTF-8; names in other charsets are written as encoded words (RFC 2047)")]
    NotUtf8,
    /// Control characters, and the line separators of Unicode.
    #[error("must have no control characters")]
    Control,
    /// A line end that is no folding (RFC 5322, 2.2.3), or a folded line of white space alone.
    #[error("must be folded before white space that other text follows")]
    Folding,
    /// A special outside quotes (RFC 5322, 3.2.3).
    #[error("must have the name in double quotes if it has the character '{0}'")]
    Special(char),
    /// An `@` outside an address.
    #[error("must have no address in the name, other than \"in quotes\" or that of this login")]
    AddressInName,
    /// Something that is no address where one has to stand.
    #[error(
        "must name addresses as user@example.com or Name <user@example.com>, without white space, quotes, \
         comments or brackets in the address"
    )]
    Address,
    /// A quoted name with an address, and something in the field that readers may take apart otherwise.
    #[error(
        "may have an address in a quoted name only as \"other@example.com\" <user@example.com>, with no second address and \
         no comments, escapes, brackets or encoded words"
    )]
    AddressInQuotes,
    /// A quoted string or a comment without its end.
    #[error("must have an end to each quote and comment")]
    Unclosed,
    /// A character that comments may not have here.
    #[error("must have no addresses, quotes, brackets or other comments inside comments")]
    Comment,
    /// Words that touch each other.
    #[error("must have white space between the words of a name, and between an address and a comment")]
    Adjacent,
    /// Not of the form of RFC 2047.
    #[error(
        "must have encoded words (RFC 2047) in their right form, each on its own and of whole characters"
    )]
    EncodedWord,
    /// A charset that is not known to be a superset of ASCII.
    #[error("must have its encoded words in UTF-8")]
    Charset,
    /// It stands for what would be a special if it were not encoded.
    #[error("must have no address, quote, bracket, '=' or control character inside encoded words")]
    Encoded,
}

/// A mailbox of an author field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mailbox {
    /// In lower case, without detail.
    pub address: Address,
    /// The address that stands in the place of the display name without quotes.
    pub name: Option<Address>,
}

/// A character that compatibility mappings (NFKC) turn into `@`.
pub(super) fn is_lookalike(character: char) -> bool {
    matches!(character, '\u{ff20}' | '\u{fe6b}')
}

/// Parses the whole value of a field: at least one mailbox. In linear time.
pub(super) fn mailboxes(value: &[u8]) -> Result<Vec<Mailbox>, Fault> {
    if value.len() > AUTHOR_FIELD_MAX_OCTETS {
        return Err(Fault::TooLong);
    }
    let text = str::from_utf8(value).map_err(|_| Fault::NotUtf8)?;
    let tokens = Lexer::new(text).tokens()?;
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

/// A word of a display name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Plain,
    /// An encoded word, or a quoted string with one.
    Encoded,
    /// A quoted string with an `@`.
    QuotedAddress,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'a> {
    Space,
    /// White space with a line end.
    Fold,
    Comment,
    Word(Word),
    /// A run without white space that has an `@`.
    Address(&'a str),
    Open,
    Close,
    Comma,
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

/// RFC 5322, 3.2.3.
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// What may stand in text of a name outside ASCII.
fn is_other_text(character: char) -> bool {
    !character.is_ascii()
        && !character.is_control()
        && !is_lookalike(character)
        && !matches!(character, '\u{2028}' | '\u{2029}')
}

struct Lexer<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            rest: text.char_indices().peekable(),
        }
    }

    fn tokens(mut self) -> Result<Vec<Token<'a>>, Fault> {
        let mut tokens = Vec::new();
        while let Some(&(start, first)) = self.rest.peek() {
            tokens.push(match first {
                ' ' | '\t' | '\r' | '\n' => self.space()?,
                '"' => self.quoted()?,
                '(' => self.comment()?,
                '<' | '>' | ',' => {
                    self.rest.next();
                    match first {
                        '<' => Token::Open,
                        '>' => Token::Close,
                        _ => Token::Comma,
                    }
                }
                _ => self.run(start)?,
            });
        }
        Ok(tokens)
    }

    /// Where the next character stands.
    fn offset(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |&(offset, _)| offset)
    }

    /// Folding white space without its obsolete form: at most one line end, and white space behind it (RFC 5322, 3.2.2).
    fn space(&mut self) -> Result<Token<'a>, Fault> {
        let mut folds = 0;
        let mut needs_space = false;
        while let Some(&(_, character)) = self.rest.peek() {
            match character {
                ' ' | '\t' => needs_space = false,
                '\r' | '\n' => {
                    let is_return = self.rest.next().is_some_and(|(_, character)| character == '\r');
                    let is_line_end = is_return && self.rest.peek().is_some_and(|&(_, next)| next == '\n');
                    folds += 1;
                    if !is_line_end || folds > 1 || needs_space {
                        return Err(Fault::Folding);
                    }
                    needs_space = true;
                }
                _ => break,
            }
            self.rest.next();
        }
        let is_last_line = self.rest.peek().is_none() && folds > 0;
        if needs_space || is_last_line {
            return Err(Fault::Folding);
        }
        Ok(if folds == 0 { Token::Space } else { Token::Fold })
    }

    /// An atom, an encoded word or an address.
    fn run(&mut self, start: usize) -> Result<Token<'a>, Fault> {
        while let Some(&(_, character)) = self.rest.peek() {
            match character {
                '@' | '.' => {}
                _ if is_atext(character) || is_other_text(character) => {}
                ' ' | '\t' | '\r' | '\n' | '"' | '(' | '<' | '>' | ',' => break,
                ':' | ';' | '[' | ']' | ')' | '\\' => return Err(Fault::Special(character)),
                _ if is_lookalike(character) => return Err(Fault::AddressInName),
                _ => return Err(Fault::Control),
            }
            self.rest.next();
        }
        let run = &self.text[start..self.offset()];
        if run.contains('@') {
            return Ok(Token::Address(run));
        }
        // RFC 5322, 4.1 has dots in names, but not in front.
        let words = run.strip_suffix('.').unwrap_or(run).split('.');
        if words.into_iter().any(str::is_empty) {
            return Err(Fault::Special('.'));
        }
        if run.contains(encoded_word::START) {
            encoded_word::check(run, Place::Name)?;
            return Ok(Token::Word(Word::Encoded));
        }
        Ok(Token::Word(Word::Plain))
    }

    /// RFC 5322, 3.2.4.
    fn quoted(&mut self) -> Result<Token<'a>, Fault> {
        self.rest.next();
        let start = self.offset();
        let (mut has_at, mut has_other) = (false, false);
        loop {
            let &(offset, character) = self.rest.peek().ok_or(Fault::Unclosed)?;
            match character {
                ' ' | '\t' | '\r' | '\n' => {
                    self.space()?;
                    continue;
                }
                '"' => {
                    self.rest.next();
                    return quoted_word(&self.text[start..offset], has_at, has_other);
                }
                '\\' => {
                    has_other = true;
                    self.rest.next();
                    let &(_, escaped) = self.rest.peek().ok_or(Fault::Unclosed)?;
                    // RFC 5322, 3.2.1: only what has to be escaped. Of another one, readers differ in what is left.
                    if !matches!(escaped, '"' | '\\') {
                        return Err(Fault::Special('\\'));
                    }
                }
                '@' => has_at = true,
                '<' | '>' | '(' | ')' | '[' | ']' | ':' | ';' => has_other = true,
                '!'..='~' => {}
                _ if is_other_text(character) => {}
                _ if is_lookalike(character) => has_at = true,
                _ => return Err(Fault::Control),
            }
            self.rest.next();
        }
    }

    /// RFC 5322, 3.2.2, of a narrow alphabet.
    fn comment(&mut self) -> Result<Token<'a>, Fault> {
        self.rest.next();
        let mut word = self.offset();
        loop {
            let &(offset, character) = self.rest.peek().ok_or(Fault::Unclosed)?;
            if matches!(character, ' ' | '\t' | '\r' | '\n' | ')') {
                let text = &self.text[word..offset];
                if text.contains(encoded_word::START) {
                    encoded_word::check(text, Place::Comment)?;
                }
            }
            match character {
                ' ' | '\t' | '\r' | '\n' => {
                    self.space()?;
                    word = self.offset();
                    continue;
                }
                ')' => {
                    self.rest.next();
                    return Ok(Token::Comment);
                }
                '.' | ',' => {}
                _ if is_atext(character) || is_other_text(character) => {}
                _ if character.is_control() => return Err(Fault::Control),
                _ => return Err(Fault::Comment),
            }
            self.rest.next();
        }
    }
}

/// What a quoted string is as a word. Readers decode encoded words in it, though RFC 2047, 5 has none there.
fn quoted_word<'a>(inside: &str, has_at: bool, has_other: bool) -> Result<Token<'a>, Fault> {
    if has_at {
        if has_other || inside.contains(encoded_word::START) {
            return Err(Fault::AddressInQuotes);
        }
        return Ok(Token::Word(Word::QuotedAddress));
    }
    if !inside.contains(encoded_word::START) {
        return Ok(Token::Word(Word::Plain));
    }
    for word in inside.split_ascii_whitespace() {
        if word.contains(encoded_word::START) {
            encoded_word::check(word, Place::Name)?;
        }
    }
    Ok(Token::Word(Word::Encoded))
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
