//! Authentication-Results fields (RFC 8601, 2.2), read as far as we need: who says what.

use mail_parser::{HeaderValue, parsers::MessageStream};

/// Comments may stand in comments (RFC 5322, 3.2.2); deeper ones are not read.
const COMMENT_DEPTH_MAX: usize = 16;

/// What one field says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthenticationResults {
    /// Who says it: the authserv-id (RFC 8601, 2.5), as it is written, without a dot at its end.
    pub id: String,
    /// What it says.
    pub statements: Vec<Statement>,
}

/// One result: `dmarc=pass header.from=example.com`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The method in lower case, without its version.
    pub method: String,
    /// The result in lower case.
    pub result: String,
    /// Properties, such as `header.from`, in lower case, with their values as they are written.
    pub properties: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Semicolon,
    Equals,
}

impl AuthenticationResults {
    /// Parses the value of a field. Returns `None` for what is not of this form.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let tokens = tokens(value)?;
        let mut segments = tokens.split(|token| *token == Token::Semicolon);
        let id = match segments.next()? {
            [Token::Word(id)] => id,
            // The version follows the name.
            [Token::Word(id), Token::Word(version)] if version.bytes().all(|b| b.is_ascii_digit()) => id,
            _ => return None,
        };
        let statements = segments.filter_map(statement).collect();
        Some(Self {
            id: id.trim_end_matches('.').to_owned(),
            statements,
        })
    }
}

impl Statement {
    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        let found = self.properties.iter().find(|(property, _)| property == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Whether a field may be read as one that this host has written. What cannot be parsed, and names the host, may be.
pub fn may_be_ours(value: &[u8], host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let decoded = decoded(value);
    [value, decoded.as_bytes()]
        .iter()
        .any(|text| match AuthenticationResults::parse(text) {
            Some(results) => names(&results.id, host),
            None => String::from_utf8_lossy(text)
                .to_ascii_lowercase()
                .contains(&host.to_ascii_lowercase()),
        })
}

/// Whether an authserv-id is this host. RFC 5451 had the version behind a slash.
fn names(id: &str, host: &str) -> bool {
    let id = id.split('/').next().unwrap_or_default();
    id.trim().trim_end_matches('.').eq_ignore_ascii_case(host)
}

/// A value with its encoded words decoded (RFC 2047), as some readers show it.
pub(crate) fn decoded(value: &[u8]) -> String {
    // The parser ends a value at a newline that no white space follows.
    let line = [value, b"\r\n"].concat();
    match MessageStream::new(&line).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        HeaderValue::TextList(texts) => texts.join(" "),
        _ => String::new(),
    }
}

fn statement(tokens: &[Token]) -> Option<Statement> {
    let mut pairs = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            [Token::Word(name), Token::Equals, Token::Word(value), ..] => {
                pairs.push((name.to_ascii_lowercase(), value.clone()));
                at += 3;
            }
            _ => at += 1,
        }
    }
    let mut pairs = pairs.into_iter();
    let (method, result) = pairs.next()?;
    Some(Statement {
        method: method.split('/').next().unwrap_or_default().to_owned(),
        result: result.to_ascii_lowercase(),
        properties: pairs.collect(),
    })
}

/// Words, quoted strings and separators; comments and white space left out. `None` if a comment or a string does not end.
fn tokens(value: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut octets = value.iter().copied();
    while let Some(octet) = octets.next() {
        let separator = match octet {
            b';' => Some(Token::Semicolon),
            b'=' => Some(Token::Equals),
            _ => None,
        };
        let ends_word = separator.is_some() || octet == b'(' || octet.is_ascii_whitespace();
        if ends_word {
            tokens.extend(word.take().as_deref().map(text));
            tokens.extend(separator);
        }
        match octet {
            b'(' => skip_comment(&mut octets)?,
            b'"' => quoted(&mut octets, word.get_or_insert_default())?,
            _ if !ends_word => word.get_or_insert_default().push(octet),
            _ => {}
        }
    }
    tokens.extend(word.as_deref().map(text));
    Some(tokens)
}

fn text(word: &[u8]) -> Token {
    Token::Word(String::from_utf8_lossy(word).into_owned())
}

/// What follows the opening parenthesis of a comment.
fn skip_comment(octets: &mut impl Iterator<Item = u8>) -> Option<()> {
    let mut depth = 1;
    while depth > 0 {
        match octets.next()? {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b'\\' => {
                octets.next()?;
            }
            _ => {}
        }
        if depth > COMMENT_DEPTH_MAX {
            return None;
        }
    }
    Some(())
}

/// What follows the opening quote of a quoted string.
fn quoted(octets: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Option<()> {
    loop {
        match octets.next()? {
            b'"' => return Some(()),
            b'\\' => word.push(octets.next()?),
            octet => word.push(octet),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HOST: &str = "mail.t.test";

    #[test]
    fn every_spelling_of_our_name_is_found() {
        for value in [
            "mail.t.test; dkim=pass",
            " mail.t.test;dkim=pass",
            "MAIL.T.Test; none",
            "mail.t.test",
            "mail.t.test.; spf=pass",
            "mail.t.test 1; spf=pass",
            "mail.t.test/1; spf=pass",
            "(c) mail.t.test; spf=pass",
            "(a (nested \\) one)) mail.t.test (c) 1 (d) ; spf=pass",
            "\"mail.t.test\"; spf=pass",
            "\"mail.t\\.test\"; spf=pass",
            "mail\".t.test\"; spf=pass",
            "\r\n\tmail.t.test\r\n\t; spf=pass",
            "\n mail.t.test;\n spf=pass",
            "=?utf-8?q?mail=2Et=2Etest?=; spf=pass",
            "=?utf-8?b?bWFpbC50LnRlc3Q=?=; spf=pass",
            // Not of the form, and readers differ about what they make of it.
            "(unclosed mail.t.test; spf=pass",
            "\"mail.t.test; spf=pass",
            "i=1; mail.t.test; spf=pass",
            "x mail.t.test; spf=pass",
            "; mail.t.test; spf=pass",
        ] {
            assert!(may_be_ours(value.as_bytes(), HOST), "{value:?}");
        }
    }

    #[test]
    fn what_others_have_written_stays() {
        for value in [
            "mx.example.org; dkim=pass header.d=mail.t.test",
            "mx.example.org; spf=pass (mail.t.test: ok) smtp.mailfrom=a@mail.t.test",
            "xmail.t.test; spf=pass",
            "mail.t.test.example.org; spf=pass",
            "(mail.t.test) mx.example.org; none",
            "\"mx.example.org\" 1; none",
            "",
        ] {
            assert!(!may_be_ours(value.as_bytes(), HOST), "{value:?}");
        }
    }

    #[test]
    fn statements_are_read() {
        let value = b" mx.example.org 1; dmarc/1 = Pass (p=none dis=none) header.from=Example.com;\r\n\tspf=fail reason=\"a; b\" smtp.mailfrom=x@y.example; none";
        let results = AuthenticationResults::parse(value).unwrap();
        assert_eq!(results.id, "mx.example.org");
        let [dmarc, spf] = &results.statements[..] else {
            panic!("{results:?}")
        };
        assert_eq!((dmarc.method.as_str(), dmarc.result.as_str()), ("dmarc", "pass"));
        assert_eq!(dmarc.property("header.from"), Some("Example.com"));
        assert_eq!((spf.method.as_str(), spf.result.as_str()), ("spf", "fail"));
        assert_eq!(spf.property("smtp.mailfrom"), Some("x@y.example"));
        assert_eq!(spf.property("reason"), Some("a; b"));
    }

    proptest! {
        #[test]
        fn no_octets_make_it_fail_otherwise(value in vec(any::<u8>(), 0..300)) {
            let _ = AuthenticationResults::parse(&value);
            let _ = may_be_ours(&value, HOST);
        }

        #[test]
        fn comments_and_white_space_hide_no_name(
            comment in "\\(([a-z0-9 .;=\"]|\\\\[ -~]){0,20}\\)",
            space in "[ \t]{0,3}",
            version in "( 1)?",
        ) {
            let value = format!("{space}{comment}{space}mail.t.test{version}{space}{comment};{space}dkim=pass");
            prop_assert!(may_be_ours(value.as_bytes(), HOST), "{value:?}");
        }
    }

    #[test]
    fn comments_that_are_too_deep_are_not_read() {
        let deep = "(".repeat(100_000);
        assert_eq!(AuthenticationResults::parse(deep.as_bytes()), None);
        assert!(may_be_ours(format!("{deep} mail.t.test").as_bytes(), HOST));
    }
}
