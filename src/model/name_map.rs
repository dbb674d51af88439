//! Legal names for addresses that other servers allow and this one does not: proposed, written down for review, and read
//! back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Refused,
    address::{Address, DomainName, LocalPart},
};

/// What a local part becomes of which no letter and no digit is left.
const BASE_OF_LAST_RESORT: &str = "inbox";
/// What stands at the top of a written map.
const HEADING: &str = "# address of the file<TAB>address that it is imported as; edit the second, and give the file to --names\n";

/// Addresses as another server wrote them, and what each is called here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NameMap(BTreeMap<String, Address>);

/// A line of a map that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {number}: {rule}")]
pub struct BadMapLine {
    /// Its number; the first is 1.
    pub number: usize,
    /// What must be otherwise.
    pub rule: String,
}

impl NameMap {
    /// Reads a map: two addresses a line with a tab between them, comments behind `#`. Fails with the first line that
    /// is none, that names an address twice, or whose second address is not allowed.
    pub fn parse(text: &str) -> Result<Self, BadMapLine> {
        let mut names = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let bad = |rule: String| BadMapLine { number, rule };
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split('\t');
            let (Some(from), Some(to), None) = (fields.next(), fields.next(), fields.next()) else {
                return Err(bad("must be two addresses with a tab between them".to_owned()));
            };
            let to = Address::parse(to.trim()).map_err(|rule| bad(format!("{to}: {rule}")))?;
            if names.insert(from.to_owned(), to).is_some() {
                return Err(bad(format!("{from} is on an earlier line already")));
            }
        }
        Ok(Self(names))
    }

    /// The map as text, which [`NameMap::parse`] reads.
    pub fn to_text(&self) -> String {
        let lines = self.0.iter().map(|(from, to)| format!("{from}\t{to}\n"));
        HEADING.to_owned() + &lines.collect::<String>()
    }

    /// What an address of the other server is called here.
    pub fn get(&self, from: &str) -> Option<&Address> {
        self.0.get(from)
    }

    /// Adds a name.
    pub fn insert(&mut self, from: &str, to: Address) {
        self.0.insert(from.to_owned(), to);
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses of the other server that are none of these.
    pub fn without<'a>(&'a self, seen: &BTreeSet<String>) -> Vec<&'a str> {
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| !seen.contains(*name)).collect()
    }
}

/// The legal address that comes nearest to one that is refused for its local part alone: lower case, without quotes and
/// apostrophes, with `-` for every other run of characters that are not allowed, cut to the length of a local part.
/// None for an address that is legal, or whose domain is none. The same text always gives the same address; two texts may
/// give the same one.
pub fn nearest(text: &str) -> Option<Address> {
    let (local, domain) = text.rsplit_once('@')?;
    let domain = DomainName::parse(domain).ok()?;
    if LocalPart::parse(local).is_ok() {
        return None;
    }
    let mut name = String::new();
    for character in local.chars().flat_map(char::to_lowercase) {
        match character {
            'a'..='z' | '0'..='9' => name.push(character),
            '.' | '_' | '-' if !name.ends_with(['.', '_', '-']) => name.push(character),
            '.' | '_' | '-' | '\'' | '"' | '\u{2019}' => {}
            _ if !name.ends_with(['.', '_', '-']) => name.push('-'),
            _ => {}
        }
    }
    let is_edge = |c: char| !c.is_ascii_alphanumeric();
    let name = name.trim_matches(is_edge);
    let name = &name[..name.len().min(super::address::LOCAL_PART_MAX_OCTETS)];
    let name = name.trim_matches(is_edge);
    let local_part = LocalPart::parse(name)
        .or_else(|_| LocalPart::parse(BASE_OF_LAST_RESORT))
        .ok()?;
    Some(Address { local_part, domain })
}

/// A proposal with a number behind its local part: the first is the proposal itself, then `name1`, `name2`.
pub fn numbered(proposal: &Address, number: u32) -> Result<Address, Refused> {
    let local_part = match number {
        0 => proposal.local_part.clone(),
        number => proposal.local_part.with_ending(&number.to_string())?,
    };
    Ok(Address {
        local_part,
        domain: proposal.domain.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<String> {
        nearest(text).map(|address| address.to_string())
    }

    #[test]
    fn names_that_other_servers_allow_get_the_nearest_legal_one() {
        for (text, expected) in [
            ("o'brien@example.com", "obrien@example.com"),
            ("O\u{2019}Brien@Example.com", "obrien@example.com"),
            ("_x@example.com", "x@example.com"),
            ("x_@example.com", "x@example.com"),
            ("Scout@example.com", "scout@example.com"),
            ("john+news@example.com", "john-news@example.com"),
            ("a..b@example.com", "a.b@example.com"),
            ("a..-b@example.com", "a.b@example.com"),
            ("\"john doe\"@example.com", "john-doe@example.com"),
            ("r&d/test@example.com", "r-d-test@example.com"),
            ("jos\u{e9}@example.com", "jos@example.com"),
            ("\u{65e5}\u{672c}@example.com", "inbox@example.com"),
            ("__@example.com", "inbox@example.com"),
        ] {
            assert_eq!(named(text).as_deref(), Some(expected), "{text}");
        }
        let long = format!("{}.X@example.com", "x".repeat(63));
        assert_eq!(named(&long), Some(format!("{}@example.com", "x".repeat(63))));
        for (text, why) in [
            ("scout@example.com", "it is legal"),
            ("o'brien", "there is no domain"),
            ("o'brien@localhost", "the domain is none"),
        ] {
            assert_eq!(named(text), None, "{text}: {why}");
        }
    }

    #[test]
    fn numbers_keep_names_apart_and_legal() {
        let long = nearest(&format!("{}Y@example.com", "x".repeat(63))).unwrap();
        let text = |number| numbered(&long, number).unwrap().local_part.to_string();
        assert_eq!(text(0), "x".repeat(63) + "y");
        assert_eq!(text(12), "x".repeat(62) + "12");
    }

    #[test]
    fn a_written_map_is_read_back() {
        let mut map = NameMap::default();
        map.insert("o'brien@example.com", nearest("o'brien@example.com").unwrap());
        map.insert("_x@example.com", nearest("_x@example.com").unwrap());
        let text = map.to_text();
        assert!(text.ends_with("_x@example.com\tx@example.com\no'brien@example.com\tobrien@example.com\n"));
        assert_eq!(NameMap::parse(&text).unwrap(), map);
        let seen = BTreeSet::from(["_x@example.com".to_owned()]);
        assert_eq!(map.without(&seen), ["o'brien@example.com"]);
        for (text, why) in [
            (
                "a@b.example",
                "line 1: must be two addresses with a tab between them",
            ),
            (
                "\nA@b.example\tA@b.example",
                "line 2: A@b.example: the local part must be",
            ),
            (
                "x\ty@b.example\nx\tz@b.example",
                "line 2: x is on an earlier line already",
            ),
        ] {
            let error = NameMap::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
