//! Public suffixes: below which names anybody can have a domain (the list of publicsuffix.org, in the form that crate
//! `psl` has of it).

use super::address::DomainName;

/// Whether anybody can have a name directly below this one, so that nobody owns all of it: `com`, `co.uk`, `github.io`.
pub fn is_public_suffix(domain: &DomainName) -> bool {
    psl::domain_str(domain.as_str()).is_none()
}

/// The domain that somebody has registered, of which this is one or one below (RFC 7489, 3.2). `None` for a public suffix.
pub fn organizational_domain(domain: &DomainName) -> Option<DomainName> {
    DomainName::parse(psl::domain_str(domain.as_str())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_told_from_what_is_below_them() {
        let domain = |text: &str| DomainName::parse(text).unwrap();
        for suffix in ["co.uk", "github.io", "com.au"] {
            assert!(is_public_suffix(&domain(suffix)), "{suffix}");
        }
        for (name, organization) in [
            ("example.com", "example.com"),
            ("mail.example.co.uk", "example.co.uk"),
            ("a.b.acme.github.io", "acme.github.io"),
            // A top-level domain that nobody has heard of is one all the same.
            ("acme.example", "acme.example"),
        ] {
            assert!(!is_public_suffix(&domain(name)), "{name}");
            assert_eq!(organizational_domain(&domain(name)), Some(domain(organization)));
        }
    }
}
