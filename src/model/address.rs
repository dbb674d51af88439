//! Local parts, domains and addresses (RFC 5321, 4.1.2), in the narrow alphabet that inboxd hands out.
//!
//! A value of these types holds no separator of any map, no path separator, no white space and no control
//! character (invariant 7); that is why rendering a map needs no escaping.

use std::{fmt, net::IpAddr};

use super::Refused;

/// Longest local part in octets: RFC 5321, 4.5.3.1.1.
pub const LOCAL_PART_MAX_OCTETS: usize = 64;
/// Longest domain in octets: RFC 1035, 2.3.4, without the trailing dot.
pub const DOMAIN_MAX_OCTETS: usize = 253;

/// The part of an address before the `@`: `a-z 0-9 . _ -`, starting and ending with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalPart(String);

impl LocalPart {
    /// What a caller is told when a local part is refused.
    pub const RULE: &'static str = "must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-', start and end with a letter or digit, \
         and hold no '..'";

    /// Parses a local part. Upper case is refused, not folded: the caller gets the name that it asked for.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let bytes = text.as_bytes();
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let fits = (1..=LOCAL_PART_MAX_OCTETS).contains(&bytes.len())
            && bytes.iter().all(|&b| is_local_part_byte(b))
            && edge(bytes.first())
            && edge(bytes.last())
            && !text.contains("..");
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because(Self::RULE))
        }
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This local part with a number or other ending, the base cut where the whole would pass 64 octets.
    ///
    /// The ending must itself be made of letters and digits.
    pub fn with_ending(&self, ending: &str) -> Result<Self, Refused> {
        let room = LOCAL_PART_MAX_OCTETS.saturating_sub(ending.len());
        let base = &self.0[..self.0.len().min(room)];
        Self::parse(&format!("{base}{ending}"))
    }
}

fn is_local_part_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
}

/// A domain name with at least two labels, in its ASCII form (A-labels, RFC 5890), lower case, no trailing dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// What a caller is told when a domain is refused.
    pub const RULE: &'static str = "must be a domain name with at least two labels, at most 253 characters, each label 1 to 63 letters, \
         digits or '-' (or an internationalised label), not an IP address";

    /// Parses a domain name; Unicode labels become A-labels (UTS 46), upper case is folded (RFC 5321, 2.4).
    pub fn parse(text: &str) -> Result<Self, Refused> {
        use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
        let refused = || match what_is_no_domain(text) {
            Some(what) => Refused(format!("{}; {what}", Self::RULE)),
            None => Refused::because(Self::RULE),
        };
        // Four octets of UTF-8 a character at the most: longer text cannot become 253 octets of A-labels.
        if text.len() > DOMAIN_MAX_OCTETS * 4 {
            return Err(refused());
        }
        let ascii = Uts46::new()
            .to_ascii(
                text.as_bytes(),
                AsciiDenyList::STD3,
                Hyphens::CheckFirstLast,
                DnsLength::Verify,
            )
            .map_err(|_| refused())?;
        let last_label = ascii.rsplit('.').next().unwrap_or_default();
        let numeric = last_label.bytes().all(|b| b.is_ascii_digit()) || ascii.parse::<IpAddr>().is_ok();
        let plain = ascii
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
        if !ascii.contains('.') || numeric || !plain || ascii.len() > DOMAIN_MAX_OCTETS {
            return Err(refused());
        }
        Ok(Self(ascii.into_owned()))
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a subdomain of another one.
    pub fn is_below(&self, other: &Self) -> bool {
        self.0
            .strip_suffix(other.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
    }

    /// The domains above it, the nearest first, without those of one label.
    pub fn parents(&self) -> Vec<Self> {
        let above = |name: &Self| Self::parse(name.0.split_once('.')?.1).ok();
        std::iter::successors(above(self), above).collect()
    }
}

/// What a text that was refused as a domain name is instead, for whoever sent it.
fn what_is_no_domain(text: &str) -> Option<&'static str> {
    let has = |what: fn(char) -> bool| text.contains(what);
    Some(match text {
        "" => "this is empty",
        _ if text.contains("://") => "this is a URL: send the name of its host alone",
        _ if text.contains('@') => "this is an address: send what stands behind the \"@\"",
        _ if has(char::is_whitespace) => "this holds white space",
        _ if text.starts_with("*.") => "this is a wildcard: send the domain itself",
        _ if text.contains('/') => "this holds a \"/\"",
        _ if text.starts_with('.') || text.contains("..") => "this holds an empty label",
        // The others are dots, too (UTS 46, 2.3).
        _ if text.ends_with(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']) => {
            "this ends in a dot: send it without"
        }
        _ if text.contains('_') => "this holds a \"_\", which names of hosts do not have",
        _ => return None,
    })
}

/// An address: local part, `@`, domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Before the `@`.
    pub local_part: LocalPart,
    /// After the `@`.
    pub domain: DomainName,
}

impl Address {
    /// Parses `local@domain`.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let (local, domain) = text
            .rsplit_once('@')
            .ok_or_else(|| Refused::because("must be local-part@domain"))?;
        let local_part = LocalPart::parse(local).map_err(|rule| Refused(format!("the local part {rule}")))?;
        let domain = DomainName::parse(domain).map_err(|rule| Refused(format!("the domain {rule}")))?;
        Ok(Self { local_part, domain })
    }
}

impl Address {
    /// Parses an address as arriving mail names it: upper case of the local part is folded, as Postfix does before it looks
    /// an address up.
    pub fn parse_folded(text: &str) -> Result<Self, Refused> {
        Self::parse(&text.to_ascii_lowercase())
    }
}

impl fmt::Display for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local_part, self.domain)
    }
}

impl fmt::Debug for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalPart({self})")
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainName({self})")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn local_parts_of_the_alphabet_are_taken() {
        for good in [
            "a",
            "0",
            "scout",
            "scout-1",
            "a.b_c-d",
            &"x".repeat(64),
            "signup-01890b6e-8c7d",
        ] {
            assert_eq!(LocalPart::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn local_parts_outside_the_alphabet_are_refused() {
        for bad in [
            "",
            ".a",
            "a.",
            "-a",
            "a-",
            "_a",
            "a_",
            "a..b",
            "Scout",
            "a:b",
            "a\nb",
            "../x",
            "a/b",
            "a b",
            "a+b",
            "ä",
            "a@b",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(LocalPart::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn endings_cut_the_base_to_64_octets() {
        let base = LocalPart::parse(&"x".repeat(64)).unwrap();
        let numbered = base.with_ending("12").unwrap();
        assert_eq!(numbered.as_str().len(), 64);
        assert!(numbered.as_str().ends_with("xx12"));
        assert_eq!(
            LocalPart::parse("scout")
                .unwrap()
                .with_ending("1")
                .unwrap()
                .as_str(),
            "scout1"
        );
    }

    #[test]
    fn domains_become_lower_case_a_labels() {
        assert_eq!(DomainName::parse("Example.COM").unwrap().as_str(), "example.com");
        assert_eq!(
            DomainName::parse("bücher.example").unwrap().as_str(),
            "xn--bcher-kva.example"
        );
        assert_eq!(
            DomainName::parse("日本語.example").unwrap().as_str(),
            "xn--wgv71a119e.example"
        );
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let long = format!("{}.example", "a.".repeat(150));
        let long_label = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            "example",
            "example.com.",
            ".example.com",
            "a..b",
            "-a.example",
            "a-.example",
            "a b.example",
            "a_b.example",
            "127.0.0.1",
            "[127.0.0.1]",
            "::1",
            "exa\nmple.com",
            "a/b.example",
            "../x.example",
            "a:b.example",
            "1.2.3",
            &long,
            &long_label,
        ] {
            assert!(DomainName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn what_stands_in_the_place_of_a_domain_is_named() {
        for (text, says) in [
            ("acme.example.", "ends in a dot"),
            ("B\u{fc}cher.example.", "ends in a dot"),
            ("acme.example\u{3002}", "ends in a dot"),
            ("acme.example..", "empty label"),
            (".acme.example", "empty label"),
            ("acme..example", "empty label"),
            (" acme.example", "white space"),
            ("acme.example\n", "white space"),
            ("acme\u{a0}.example", "white space"),
            ("*.acme.example", "wildcard"),
            ("https://acme.example/", "URL"),
            ("acme.example/", "\"/\""),
            ("ada@acme.example", "address"),
            ("_dmarc.acme.example", "\"_\""),
            ("", "empty"),
            ("acme", "at least two labels"),
            ("192.0.2.1", "not an IP address"),
        ] {
            let refused = DomainName::parse(text).unwrap_err().to_string();
            assert!(
                refused.contains(says) && refused.starts_with(DomainName::RULE),
                "{text:?}: {refused}"
            );
        }
        let refused = Address::parse("ada@acme.example.").unwrap_err().to_string();
        assert!(
            refused.contains("the domain") && refused.contains("ends in a dot"),
            "{refused}"
        );
    }

    #[test]
    fn addresses_split_at_the_last_at_sign() {
        let address = Address::parse("a.b@Example.com").unwrap();
        assert_eq!(address.to_string(), "a.b@example.com");
        for bad in ["", "a", "@example.com", "a@", "a@b@example.com", "A@example.com"] {
            assert!(Address::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn no_parsed_value_holds_a_separator(local in ".{0,80}", domain in ".{0,300}") {
            let forbidden = |text: &str| text.chars().any(|c| c.is_control() || c.is_whitespace() || ":/\\@,%$\"'".contains(c) || !c.is_ascii());
            if let Ok(parsed) = LocalPart::parse(&local) {
                prop_assert!(!forbidden(parsed.as_str()) && !parsed.as_str().starts_with('.'));
            }
            if let Ok(parsed) = DomainName::parse(&domain) {
                prop_assert!(!forbidden(parsed.as_str()) && !parsed.as_str().starts_with('.'));
                prop_assert_eq!(DomainName::parse(parsed.as_str()).unwrap(), parsed);
            }
        }

        #[test]
        fn every_name_of_the_alphabet_round_trips(text in "[a-z0-9]([a-z0-9_-]{0,60}[a-z0-9])?") {
            let parsed = LocalPart::parse(&text).unwrap();
            prop_assert_eq!(parsed.as_str(), text.as_str());
            prop_assert!(parsed.with_ending("99").unwrap().as_str().len() <= LOCAL_PART_MAX_OCTETS);
        }
    }
}
