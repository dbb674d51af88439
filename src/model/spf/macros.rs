//! Macros (RFC 7208, 7): names that are made from who sends.

use std::{fmt::Write as _, net::IpAddr};

use super::super::{address::DOMAIN_MAX_OCTETS, shown};

/// A domain in a term, with macros in it: `_spf.%{d2}` (7.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainSpec(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Macro(Macro),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Macro {
    letter: Letter,
    /// Whether the result is URL-escaped: the letter is in upper case (7.3).
    is_escaped: bool,
    /// How many parts from the right stay.
    kept: Option<usize>,
    is_reversed: bool,
    /// What parts are separated by, a dot if there is none.
    delimiters: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Letter {
    Sender,
    LocalPart,
    SenderDomain,
    Domain,
    Client,
    ValidatedName,
    Family,
    Helo,
}

/// What macros stand for (7.2).
#[derive(Clone, Debug)]
pub struct MacroValues<'a> {
    /// `%{i}` and `%{v}`.
    pub client: IpAddr,
    /// `%{l}`
    pub local_part: &'a str,
    /// `%{o}`
    pub sender_domain: &'a str,
    /// `%{d}`
    pub domain: &'a str,
    /// `%{h}`
    pub helo: &'a str,
    /// `%{p}`: only where [`DomainSpec::needs_validated_name`] says so.
    pub validated_name: &'a str,
}

impl DomainSpec {
    /// Parses a domain-spec. Fails with what is wrong with it, as a predicate of its term.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts = parts(text)?;
        let is_whole = match parts.last() {
            None => return Err("lacks a domain".to_owned()),
            Some(Part::Macro(_)) => true,
            Some(Part::Literal(literal)) => ends_in_label(literal) || ends_in_escape(text),
        };
        if is_whole {
            return Ok(Self(parts));
        }
        Err(if text.parse::<IpAddr>().is_ok() {
            "takes a name; addresses are named by \"ip4:\" or \"ip6:\"".to_owned()
        } else {
            format!("names {}, which is no full domain name", shown(text))
        })
    }

    /// Whether `%{p}` is in it, which has to be looked up.
    pub fn needs_validated_name(&self) -> bool {
        let is_one =
            |part: &Part| matches!(part, Part::Macro(found) if found.letter == Letter::ValidatedName);
        self.0.iter().any(is_one)
    }

    /// The name that it stands for, without the last dot, cut from the left to 253 octets (7.3). It need not be a valid
    /// one.
    pub fn expand(&self, values: &MacroValues<'_>) -> String {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => name += text,
                Part::Macro(found) => name += &found.expand(values),
            }
        }
        let mut name = name.strip_suffix('.').unwrap_or(&name);
        while name.len() > DOMAIN_MAX_OCTETS
            && let Some((_, rest)) = name.split_once('.')
        {
            name = rest;
        }
        name.to_owned()
    }
}

/// Whether a text is made of characters and macros as the grammar has them.
pub(super) fn require_macro_string(text: &str) -> Result<(), String> {
    parts(text).map(drop)
}

/// `text` is visible ASCII.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('%') {
        literal += before;
        let bad = |what: &str| {
            let found = shown(&format!("%{what}"));
            format!("holds {found}, which is no macro of a domain (RFC 7208, 7.1 and 7.2)")
        };
        match behind.as_bytes().first() {
            Some(b'%') => literal.push('%'),
            Some(b'_') => literal.push(' '),
            Some(b'-') => literal += "%20",
            Some(b'{') => {
                let (inner, behind) = behind[1..].split_once('}').ok_or_else(|| bad(behind))?;
                let found = Macro::parse(inner).ok_or_else(|| bad(&format!("{{{inner}}}")))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Macro(found));
                rest = behind;
                continue;
            }
            _ => return Err(bad(behind.get(..1).unwrap_or_default())),
        }
        rest = &behind[1..];
    }
    literal += rest;
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// `"." toplabel [ "." ]`
fn ends_in_label(literal: &str) -> bool {
    let Some((_, label)) = literal.strip_suffix('.').unwrap_or(literal).rsplit_once('.') else {
        return false;
    };
    let is_inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    label.bytes().all(is_inside)
        && label.starts_with(|c: char| c.is_ascii_alphanumeric())
        && label.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !label.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the last two characters are a `%%`, `%_` or `%-` of their own.
fn ends_in_escape(text: &str) -> bool {
    let Some(before) = text.strip_suffix(['%', '_', '-']) else {
        return false;
    };
    let signs = before.len() - before.trim_end_matches('%').len();
    signs % 2 == 1
}

impl Macro {
    /// What stands between the braces. `c`, `r` and `t` belong to explanations only (7.2).
    fn parse(text: &str) -> Option<Self> {
        let first = text.chars().next()?;
        let letter = match first.to_ascii_lowercase() {
            's' => Letter::Sender,
            'l' => Letter::LocalPart,
            'o' => Letter::SenderDomain,
            'd' => Letter::Domain,
            'i' => Letter::Client,
            'p' => Letter::ValidatedName,
            'v' => Letter::Family,
            'h' => Letter::Helo,
            _ => return None,
        };
        let rest = text.strip_prefix(first)?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = rest.split_at(digits);
        // More parts than a usize counts are all parts.
        let kept = (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX));
        let delimiters = rest.strip_prefix(['r', 'R']);
        let is_reversed = delimiters.is_some();
        let delimiters = delimiters.unwrap_or(rest);
        let is_valid = kept != Some(0) && delimiters.bytes().all(|b| b".-+,/_=".contains(&b));
        is_valid.then(|| Self {
            letter,
            is_escaped: first.is_ascii_uppercase(),
            kept,
            is_reversed,
            delimiters: delimiters.to_owned(),
        })
    }

    fn expand(&self, values: &MacroValues<'_>) -> String {
        let value = self.letter.value(values);
        let is_delimiter = |c: char| {
            if self.delimiters.is_empty() {
                c == '.'
            } else {
                self.delimiters.contains(c)
            }
        };
        let mut parts: Vec<&str> = value.split(is_delimiter).collect();
        if self.is_reversed {
            parts.reverse();
        }
        let kept = self.kept.unwrap_or(parts.len()).min(parts.len());
        let text = parts[parts.len() - kept..].join(".");
        if self.is_escaped { escaped(&text) } else { text }
    }
}

impl Letter {
    fn value(self, values: &MacroValues<'_>) -> String {
        match self {
            Self::Sender => format!("{}@{}", values.local_part, values.sender_domain),
            Self::LocalPart => values.local_part.to_owned(),
            Self::SenderDomain => values.sender_domain.to_owned(),
            Self::Domain => values.domain.to_owned(),
            Self::Client => dotted(values.client),
            Self::ValidatedName => values.validated_name.to_owned(),
            Self::Family => if values.client.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            Self::Helo => values.helo.to_owned(),
        }
    }
}

/// An address as `%{i}` has it: of IPv6, half an octet a label.
fn dotted(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let digits: Vec<String> = address
                .octets()
                .iter()
                .flat_map(|octet| [octet >> 4, octet & 15])
                .map(|digit| format!("{digit:x}"))
                .collect();
            digits.join(".")
        }
    }
}

/// URL-escaped (RFC 3986, 2.3).
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, octet| {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            escaped.push(char::from(octet));
        } else {
            // Writing to a String does not fail.
            let _ = write!(escaped, "%{octet:02X}");
        }
        escaped
    })
}
