//! The text of TXT records that are tag lists (RFC 6376, 3.2): DKIM keys and DMARC policies.
//!
//! What arrives here was published by anybody: every octet sequence is taken or refused, none is trusted.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::super::Refused;

/// Tags of a DKIM or DMARC record, in their order, their values without white space around them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tags(Vec<(String, String)>);

impl Tags {
    /// Parses `name=value; name=value`. A tag that is there twice makes the whole list invalid (RFC 6376, 3.2).
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let mut tags: Vec<(String, String)> = Vec::new();
        let text = text.trim_matches(is_white);
        let specs = text.strip_suffix(';').unwrap_or(text);
        for spec in specs.split(';') {
            let (name, value) = spec
                .split_once('=')
                .ok_or_else(|| Refused::because("a tag has no \"=\""))?;
            let (name, value) = (name.trim_matches(is_white), value.trim_matches(is_white));
            let is_name = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_name {
                return Err(Refused::because("a tag has no name of letters, digits and \"_\""));
            }
            if tags.iter().any(|(known, _)| known == name) {
                return Err(Refused(format!("the tag \"{name}\" is there twice")));
            }
            tags.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(tags))
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first tag.
    pub fn first(&self) -> Option<(&str, &str)> {
        self.0
            .first()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// White space of a tag list: blanks, tabs, and the line ends of folding.
fn is_white(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// A DKIM key record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DkimRecord {
    /// The `k=`, `rsa` if there is none.
    pub key_type: String,
    /// The `p=`, decoded; empty: the key is revoked.
    pub public: Vec<u8>,
    /// Whether verifiers are asked to take signatures for tests (`t=y`).
    pub is_testing: bool,
}

impl DkimRecord {
    /// Parses a record. `None`: it is something else, such as the answer of a wildcard.
    pub fn parse(text: &str) -> Option<Result<Self, Refused>> {
        let tags = match Tags::parse(text) {
            Ok(tags) => tags,
            // "v=DKIM1" says what it is meant to be, however broken.
            Err(refused) if starts_as(text, "v=DKIM1") => return Some(Err(refused)),
            Err(_) => return None,
        };
        match (tags.first(), tags.get("v")) {
            (Some(("v", "DKIM1")), _) => {}
            (Some(("v", _)), _) => return None,
            (_, Some(_)) => return Some(Err(Refused::because("\"v=DKIM1\" must come first"))),
            (_, None) if tags.get("p").is_none() => return None,
            (_, None) => {}
        }
        Some(Self::of(&tags))
    }

    fn of(tags: &Tags) -> Result<Self, Refused> {
        let public = tags
            .get("p")
            .ok_or_else(|| Refused::because("there is no \"p=\""))?;
        // Published with breaks and blanks in it, as some forms make it.
        let compact: String = public.chars().filter(|c| !is_white(*c)).collect();
        let public = BASE64_STANDARD
            .decode(compact)
            .map_err(|_| Refused::because("what stands behind \"p=\" is no base64"))?;
        let names_sha256 = |list: &str| {
            list.split(':')
                .any(|hash| hash.trim_matches(is_white) == "sha256")
        };
        if !tags.get("h").is_none_or(names_sha256) {
            return Err(Refused::because("\"h=\" does not allow sha256"));
        }
        let is_for_mail = |list: &str| {
            list.split(':')
                .any(|service| matches!(service.trim_matches(is_white), "*" | "email"))
        };
        if !tags.get("s").is_none_or(is_for_mail) {
            return Err(Refused::because("\"s=\" does not allow email"));
        }
        Ok(Self {
            key_type: tags.get("k").unwrap_or("rsa").to_ascii_lowercase(),
            public,
            is_testing: tags
                .get("t")
                .is_some_and(|flags| flags.split(':').any(|flag| flag.trim_matches(is_white) == "y")),
        })
    }
}

/// The policy of a DMARC record (RFC 9989, 4.7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DmarcRecord {
    /// The `p=`; none: it is not there, and others take it for `none`, because reports are asked for (4.10.1).
    pub policy: Option<String>,
    /// The `sp=`, for subdomains that have no record.
    pub subdomain_policy: Option<String>,
    /// Whether others are asked to go one step below the policy (`t=y`).
    pub is_testing: bool,
}

impl DmarcRecord {
    /// Parses a record. `None`: it is something else, because the version does not come first (4.7). Unknown tags
    /// are ignored; one that is there twice makes the list invalid (RFC 6376, 3.2).
    pub fn parse(text: &str) -> Option<Result<Self, Refused>> {
        starts_as(text, "v=DMARC1").then(|| Self::of(&Tags::parse(text)?))
    }

    fn of(tags: &Tags) -> Result<Self, Refused> {
        // Of a record with one of these that is no policy, others take none (4.10.1).
        for name in ["p", "sp", "np"] {
            if let Some(policy) = tags.get(name)
                && !is_policy(policy)
            {
                return Err(Refused(format!(
                    "\"{name}=\" must be none, quarantine or reject; others apply no policy of this record"
                )));
            }
        }
        let policy = tags.get("p").map(str::to_ascii_lowercase);
        if policy.is_none() && !tags.get("rua").is_some_and(has_address) {
            return Err(Refused::because(
                "there is no \"p=\": without it, and without an address for reports (\"rua=mailto:...\"), others apply nothing",
            ));
        }
        Ok(Self {
            policy,
            subdomain_policy: tags.get("sp").map(str::to_ascii_lowercase),
            is_testing: tags.get("t").is_some_and(|t| t.eq_ignore_ascii_case("y")),
        })
    }
}

fn is_policy(text: &str) -> bool {
    ["none", "quarantine", "reject"]
        .iter()
        .any(|policy| text.eq_ignore_ascii_case(policy))
}

/// Whether one of the URIs of a list is one that reports can be sent to.
fn has_address(uris: &str) -> bool {
    uris.split(',').any(|uri| {
        let uri = uri.trim_matches(is_white);
        let (scheme, rest) = uri.split_once(':').unwrap_or_default();
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_graphic())
    })
}

/// Whether a text begins with `name=value` as its first tag, with white space where it may be.
fn starts_as(text: &str, tag: &str) -> bool {
    let first: String = text
        .split(';')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !is_white(*c))
        .collect();
    first == tag
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::*, *};
    use crate::model::dkim::Selector;

    fn key(algorithm: Algorithm, octets: Vec<u8>) -> PublicKey {
        PublicKey {
            selector: Selector::parse("s1").unwrap(),
            algorithm,
            octets,
        }
    }

    /// White space that may stand around names, values and signs.
    fn white() -> impl Strategy<Value = String> {
        "[ \t]{0,3}(\r\n[ \t]{1,2})?"
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_fail_otherwise_than_by_refusing(text in "\\PC{0,300}|[a-z0-9=;: \t\"\\\\.]{0,80}") {
            let _ = (Tags::parse(&text), DkimRecord::parse(&text), DmarcRecord::parse(&text));
        }

        #[test]
        fn no_octets_do_either(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&octets);
            let _ = (Tags::parse(&text), DkimRecord::parse(&text), DmarcRecord::parse(&text));
        }

        #[test]
        fn what_is_published_is_read_back(octets in proptest::collection::vec(any::<u8>(), 1..400), is_rsa in any::<bool>()) {
            let algorithm = if is_rsa { Algorithm::RsaSha256 } else { Algorithm::Ed25519Sha256 };
            let read = DkimRecord::parse(&dkim_value(&key(algorithm, octets.clone()))).unwrap().unwrap();
            prop_assert_eq!(read, DkimRecord { key_type: algorithm.key_type().to_owned(), public: octets, is_testing: false });
        }

        #[test]
        fn white_space_where_it_may_be_changes_nothing(
            octets in proptest::collection::vec(any::<u8>(), 1..100),
            spaces in proptest::collection::vec(white(), 12),
            breaks in proptest::collection::vec(0_usize..100, 0..4),
            last in any::<bool>(),
        ) {
            let mut p = BASE64_STANDARD.encode(&octets);
            for at in breaks {
                p.insert(at.min(p.len()), ' ');
            }
            let [a, b, c, d, e, f, g, h, i, j, k, l] = &spaces[..] else { unreachable!() };
            let end = if last { ";" } else { "" };
            let text = format!("{a}v{b}={c}DKIM1{d};{e}k{f}={g}ed25519{h};{i}n=x y; p{j}={k}{p}{l}{end}");
            let read = DkimRecord::parse(&text).unwrap().unwrap();
            prop_assert_eq!((read.key_type.as_str(), read.public), ("ed25519", octets));
        }

        #[test]
        fn tags_may_come_in_any_order_behind_the_version(order in Just(vec!["k=ed25519", "p=AAAA", "t=y", "x=unknown"]).prop_shuffle()) {
            let read = DkimRecord::parse(&format!("v=DKIM1; {}", order.join("; "))).unwrap().unwrap();
            prop_assert_eq!(read, DkimRecord { key_type: "ed25519".into(), public: vec![0; 3], is_testing: true });
        }

        #[test]
        fn a_record_is_the_same_however_it_is_cut_into_strings(value in "[ -~]{1,900}", cuts in proptest::collection::vec(1_usize..255, 1..12)) {
            // The strings of a TXT record are joined without anything between them (RFC 6376, 3.6.2.2).
            let mut strings = Vec::new();
            let mut rest = value.as_bytes();
            for cut in cuts {
                let (string, behind) = rest.split_at(cut.min(rest.len()));
                strings.push(string);
                rest = behind;
            }
            strings.push(rest);
            prop_assert_eq!(strings.concat(), value.as_bytes());
            // And a zone file says it in strings that are short enough.
            let text = quoted(&value);
            let read: Vec<u8> = unquoted(&text).concat();
            prop_assert_eq!(read, value.as_bytes());
            prop_assert!(unquoted(&text).iter().all(|string| string.len() <= TXT_STRING_MAX_OCTETS));
        }
    }

    /// The strings of a zone file's text (RFC 1035, 5.1).
    fn unquoted(text: &str) -> Vec<Vec<u8>> {
        let (mut strings, mut open) = (Vec::new(), None::<Vec<u8>>);
        let mut octets = text.bytes();
        while let Some(octet) = octets.next() {
            match (octet, &mut open) {
                (b'"', Some(_)) => strings.extend(open.take()),
                (b'"', None) => open = Some(Vec::new()),
                (b'\\', Some(string)) => string.extend(octets.next()),
                (other, Some(string)) => string.push(other),
                (_, None) => {}
            }
        }
        strings
    }

    #[test]
    fn what_is_no_record_of_the_kind_is_none() {
        for text in [
            "",
            "v=spf1 -all",
            "hello",
            "v=DMARC1; p=none",
            "google-site-verification=x",
            "v=DKIM2; p=AAAA",
        ] {
            assert!(DkimRecord::parse(text).is_none(), "{text}");
        }
        for text in [
            "",
            "v=spf1 -all",
            "v=DMARC2; p=none",
            "p=none; v=DMARC1",
            "v=dmarc1; p=none",
            "v=DMARC1 p=none",
            "v=DMARC1.0; p=none",
        ] {
            assert!(DmarcRecord::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn policies_are_read_as_receivers_read_them() {
        let of = |policy: Option<&str>, subdomains: Option<&str>, is_testing| DmarcRecord {
            policy: policy.map(str::to_owned),
            subdomain_policy: subdomains.map(str::to_owned),
            is_testing,
        };
        for (text, record) in [
            ("v=DMARC1; p=none", of(Some("none"), None, false)),
            ("v=DMARC1;p=none;", of(Some("none"), None, false)),
            (" v = DMARC1 ; p = Reject ; ", of(Some("reject"), None, false)),
            // Any order behind the version, unknown tags, tags of the past.
            (
                "v=DMARC1; rua=mailto:x@acme.example; pct=5; x=y; ri=1; p=quarantine",
                of(Some("quarantine"), None, false),
            ),
            (
                "v=DMARC1; sp=none; np=reject; p=reject",
                of(Some("reject"), Some("none"), false),
            ),
            ("v=DMARC1; p=reject; t=y", of(Some("reject"), None, true)),
            (
                "v=DMARC1; p=reject; t=n; adkim=q; fo=9",
                of(Some("reject"), None, false),
            ),
            // Without "p=".
            ("v=DMARC1; rua=mailto:x@acme.example", of(None, None, false)),
            (
                "v=DMARC1; rua=x, https://acme.example/r; sp=reject",
                of(None, Some("reject"), false),
            ),
        ] {
            assert_eq!(DmarcRecord::parse(text).unwrap().unwrap(), record, "{text}");
        }
    }

    #[test]
    fn records_of_the_kind_that_are_broken_are_told() {
        for text in [
            "v=DKIM1; k=rsa",
            "v=DKIM1; p=AAAA; p=BBBB",
            "v=DKIM1; p=###",
            "k=rsa; v=DKIM1; p=AAAA",
            "v=DKIM1; h=sha1; p=AAAA",
            "v=DKIM1; s=tls; p=AAAA",
            "v=DKIM1; p",
        ] {
            assert!(DkimRecord::parse(text).unwrap().is_err(), "{text}");
        }
        for text in [
            "v=DMARC1",
            "v=DMARC1; p=maybe",
            "v=DMARC1;; p=none",
            "v=DMARC1; p=",
            "v=DMARC1; p=none; p=reject",
            "v=DMARC1; x=1; p=none; x=1",
            "v=DMARC1; p=reject; sp=maybe",
            "v=DMARC1; p=reject; np=maybe; rua=mailto:x@acme.example",
            "v=DMARC1; p=none rua=mailto:x@acme.example",
            "v=DMARC1; rua=x@acme.example",
            "v=DMARC1; rua=",
            "v=DMARC1; ruf=mailto:x@acme.example",
            "v=DMARC1; p",
        ] {
            assert!(DmarcRecord::parse(text).unwrap().is_err(), "{text}");
        }
        assert_eq!(
            DkimRecord::parse("p=").unwrap().unwrap().public,
            [0; 0],
            "revoked"
        );
    }

    #[test]
    fn terms_for_hosts_are_taken_and_others_refused() {
        for good in [
            "mx",
            "a",
            "a:mail.example.com",
            "include:_spf.example.com",
            "mx ip4:192.0.2.0/24 ip6:2001:db8::/32",
            "mx/24",
        ] {
            assert_eq!(SpfTerms::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "all",
            "-all",
            "mx ~all",
            "redirect=example.com",
            "include:",
            "mx  a",
            "mx\n",
            "v=spf1 mx",
            "ptr",
            "\"mx\"",
        ] {
            assert!(SpfTerms::parse(bad).is_err(), "{bad:?}");
        }
    }
}
