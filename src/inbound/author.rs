//! The domains that a message's From field shows to any of its readers.

use std::collections::BTreeSet;

use mail_parser::{Address as Field, HeaderValue, parsers::MessageStream};

use crate::{milter::authentication_results::decoded, model::address::DomainName};

/// Domains that the From fields of one message may show; each is looked up in the maps.
pub(super) const DOMAINS_MAX: usize = 20;
/// Domains that it may have as authors; the policy of each is looked up in DNS. A person writes from one.
pub(super) const AUTHORS_MAX: usize = 4;
/// What some readers take for an @ (Unicode compatibility forms).
const AT_SIGNS: [char; 3] = ['@', '\u{ff20}', '\u{fe6b}'];

/// Who a message says it is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Authors {
    /// The domains of the addresses that a lenient parser finds (RFC 5322, 3.6.2), in their order.
    pub(super) domains: Vec<DomainName>,
    /// Every domain that stands behind an @ anywhere, however the field is read.
    pub(super) mentioned: BTreeSet<DomainName>,
    /// How many From fields there are.
    pub(super) fields: usize,
}

impl Authors {
    /// Reads the values of all From fields. Returns `None` if they name more than [`AUTHORS_MAX`] authors'
    /// or [`DOMAINS_MAX`] other domains.
    pub(super) fn read(values: &[Vec<u8>]) -> Option<Self> {
        let mut domains: Vec<DomainName> = Vec::new();
        let mut mentioned = BTreeSet::new();
        for value in values {
            for domain in parsed(value) {
                if !domains.contains(&domain) {
                    domains.push(domain);
                }
            }
            let raw = String::from_utf8_lossy(value).into_owned();
            for text in [&raw, &decoded(value)] {
                mentioned.extend(self::mentioned(text)?);
            }
        }
        // Where the parser finds no address, another one may.
        if domains.is_empty() {
            domains.extend(mentioned.iter().cloned());
        }
        (domains.len() <= AUTHORS_MAX && mentioned.len() <= DOMAINS_MAX).then_some(Self {
            domains,
            mentioned,
            fields: values.len(),
        })
    }
}

fn parsed(value: &[u8]) -> Vec<DomainName> {
    let line = [value, b"\r\n"].concat();
    let mailboxes = match MessageStream::new(&line).parse_address() {
        HeaderValue::Address(Field::List(mailboxes)) => mailboxes,
        HeaderValue::Address(Field::Group(groups)) => {
            groups.into_iter().flat_map(|group| group.addresses).collect()
        }
        _ => Vec::new(),
    };
    mailboxes
        .iter()
        .filter_map(|mailbox| domain_of_address(mailbox.address.as_deref()?))
        .collect()
}

/// What stands behind every @ of a text.
fn collect(text: &str, found: &mut BTreeSet<DomainName>) -> Option<()> {
    for behind in text.split(AT_SIGNS).skip(1) {
        let end = behind.find(|c: char| !is_of_name(c)).unwrap_or(behind.len());
        if let Some(domain) = domain_of(&behind[..end]) {
            found.insert(domain);
            if found.len() > DOMAINS_MAX {
                return None;
            }
        }
    }
    Some(())
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || !c.is_ascii()
}

/// The domain of an envelope address.
pub(super) fn domain_of_address(address: &str) -> Option<DomainName> {
    domain_of(address.rsplit_once('@')?.1)
}

/// Every domain that a text may show as that of an address; `None` if there are more than [`DOMAINS_MAX`].
pub(super) fn mentioned(text: &str) -> Option<BTreeSet<DomainName>> {
    let mut found = BTreeSet::new();
    collect(text, &mut found)?;
    collect(&without_separators(text), &mut found)?;
    Some(found)
}

fn domain_of(text: &str) -> Option<DomainName> {
    DomainName::parse(text.trim().trim_end_matches('.')).ok()
}

/// A text without comments, white space, quotes and backslashes: an address as those readers put it together that allow
/// them within it.
fn without_separators(text: &str) -> String {
    let mut depth = 0_usize;
    let mut without = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '"' | '\\' => {}
            c if c.is_whitespace() || depth > 0 => {}
            c => without.push(c),
        }
    }
    without
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read(values: &[&str]) -> Option<Authors> {
        let values: Vec<Vec<u8>> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        Authors::read(&values)
    }

    #[test]
    fn every_way_to_show_our_address_is_found() {
        let ours = DomainName::parse("ours.test").unwrap();
        for value in [
            "me@ours.test",
            "Me <ME@OURS.TEST>",
            "\"me@ours.test\" <x@evil.test>",
            "me@ours.test <x@evil.test>",
            "x@evil.test, me@ours.test",
            "x@evil.test (me@ours.test)",
            "group: x@evil.test, me@ours.test;",
            "<@ours.test:x@evil.test>",
            "me @ ours . test",
            "me@(c)ours.(c)test",
            "me@\"ours\".test",
            "me@ours.te\r\n st",
            "me@ours.test.",
            "=?utf-8?q?me=40ours=2Etest?= <x@evil.test>",
            "=?utf-8?b?bWVAb3Vycy50ZXN0?= <x@evil.test>",
            "me@=?utf-8?q?ours=2Etest?=",
            "me\u{ff20}ours.test <x@evil.test>",
            "me@ours\u{3002}test",
            "me@ou\u{ad}rs.test",
            "<me@ours.test",
            "me@ours.test>",
        ] {
            let authors = read(&[value]).unwrap();
            assert!(authors.mentioned.contains(&ours), "{value:?}: {authors:?}");
        }
    }

    #[test]
    fn other_domains_are_not_ours() {
        let ours = DomainName::parse("ours.test").unwrap();
        for value in [
            "me@xours.test",
            "me@ours.test.evil.test",
            "ours.test <x@evil.test>",
            "me@sub.ours.test",
        ] {
            assert!(!read(&[value]).unwrap().mentioned.contains(&ours), "{value:?}");
        }
    }

    #[test]
    fn the_parser_names_the_authors_and_the_scan_helps_out() {
        let domains = |value: &str| -> Vec<String> {
            let authors = read(&[value]).unwrap().domains;
            authors.iter().map(DomainName::to_string).collect()
        };
        assert_eq!(domains("\"a@b.test\" <x@evil.test>"), ["evil.test"]);
        assert_eq!(domains("a@b.test, c@d.test"), ["b.test", "d.test"]);
        assert_eq!(read(&[]).unwrap().domains, []);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_fail_otherwise(values in vec(vec(any::<u8>(), 0..200), 0..3)) {
            let _ = Authors::read(&values);
        }

        #[test]
        fn no_decoration_hides_an_address(
            before in "[ -~\\t]{0,12}",
            after in "([ ,;<>()\"\\\\:=?/*][ -~]{0,12})?",
        ) {
            let value = format!("{before}@ours.test{after}");
            let ours = DomainName::parse("ours.test").unwrap();
            // A further @ directly behind it makes it the local part of another address.
            prop_assume!(!after.starts_with('@'));
            prop_assert!(read(&[&value]).unwrap().mentioned.contains(&ours), "{value:?}");
        }
    }

    #[test]
    fn too_many_domains_are_not_read() {
        let many = |count: usize| {
            let addresses: Vec<String> = (0..count).map(|number| format!("a@d{number}.test")).collect();
            addresses.join(", ")
        };
        assert!(read(&[&many(AUTHORS_MAX)]).is_some());
        assert!(read(&[&many(AUTHORS_MAX + 1)]).is_none());
        let names = |count: usize| format!("\"{}\" <a@b.test>", many(count));
        assert!(read(&[&names(DOMAINS_MAX - 1)]).is_some());
        assert!(read(&[&names(DOMAINS_MAX)]).is_none());
    }
}
