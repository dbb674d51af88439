//! The DNS records of a custom domain: what its owner has to publish, and what DNS's answers say about that.
//!
//! Nothing here asks DNS. [`parse`] reads the text of records, [`judge`] holds answers against what is wanted.

pub mod judge;
pub mod parse;

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    Refused,
    address::DomainName,
    dkim::{Algorithm, PublicKey},
    domain::Challenge,
    shown,
    spf::{Directive, Mechanism, Record},
};

/// Below which name the challenge is published: no mail server looks there, and a CNAME at the domain does not hide it.
const CHALLENGE_LABEL: &str = "_inboxd-challenge";
/// What stands before the challenge in its record, so that its owner knows later what it was for.
const CHALLENGE_PREFIX: &str = "inboxd-verify=";
/// Preference of the MX record (RFC 5321, 5.1), where it is the only one.
const MX_PREFERENCE: u16 = 10;
/// Seconds for which others may keep a record of the zone file.
const TTL_SECONDS: u32 = 3600;
/// Octets of one string of a TXT record (RFC 1035, 3.3.14).
const TXT_STRING_MAX_OCTETS: usize = 255;
/// Longest text of [`SpfTerms`]: with what stands around them, they have to fit into one string.
const SPF_TERMS_MAX_OCTETS: usize = 200;

/// What records are made from.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The domain.
    pub domain: DomainName,
    /// What proves it; none: nobody has to, because it is the default domain.
    pub challenge: Option<Challenge>,
    /// The host that takes its mail.
    pub mx_host: String,
    /// The SPF terms that stand for the hosts that send its mail.
    pub spf: SpfTerms,
    /// What its mail is signed with, in the order in which the records are listed.
    pub keys: Vec<PublicKey>,
}

/// The terms of an SPF record between `v=spf1` and `~all` (RFC 7208, 4.6.1): `mx`, `a:mail.example.com`,
/// `include:_spf.example.com ip4:192.0.2.1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpfTerms {
    text: String,
    directives: Vec<Directive>,
}

impl SpfTerms {
    /// Parses mechanisms that stand for hosts; what decides about all others (`all`, `redirect=`) is ours.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let refused = |why: &str| {
            Refused(format!(
                "must be SPF mechanisms with a space between them, each of a, mx, ip4:, ip6:, include: or exists:, \
                 such as \"mx\" or \"include:_spf.example.com\": {why}"
            ))
        };
        if text.is_empty() || text.split(' ').any(str::is_empty) {
            return Err(refused("there is a term missing"));
        }
        if text.len() > SPF_TERMS_MAX_OCTETS {
            return Err(refused(&format!("it may have {SPF_TERMS_MAX_OCTETS} characters")));
        }
        // A sign in front of a mechanism, and modifiers, would decide about others.
        if let Some(term) = text
            .split(' ')
            .find(|term| term.contains('=') || !term.starts_with(|c: char| c.is_ascii_alphabetic()))
        {
            return Err(refused(&format!("{} is none", shown(term))));
        }
        let record = Record::parse(format!("v=spf1 {text}").as_bytes())
            .map_err(|error| refused(&error.to_string()))?;
        let is_for_all =
            |directive: &&Directive| matches!(directive.mechanism, Mechanism::All | Mechanism::Ptr(_));
        if let Some(directive) = record.directives.iter().find(is_for_all) {
            return Err(refused(&format!("{} is none", shown(&directive.text))));
        }
        Ok(Self {
            text: text.to_owned(),
            directives: record.directives,
        })
    }

    /// The text of them.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What they mean.
    pub fn directives(&self) -> &[Directive] {
        &self.directives
    }
}

/// What a record is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To prove that the domain is the tenant's.
    Ownership,
    /// So that mail for it comes here.
    Mx,
    /// So that others take mail from here for its mail.
    Spf,
    /// So that others can verify signatures of this key.
    Dkim(PublicKey),
    /// So that others know what to do with mail that is neither.
    Dmarc,
}

impl Purpose {
    /// As the API names it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ownership => "ownership",
            Self::Mx => "mx",
            Self::Spf => "spf",
            Self::Dkim(_) => "dkim",
            Self::Dmarc => "dmarc",
        }
    }
}

/// A record that the owner of a domain is to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsRecord {
    /// What it is for.
    pub purpose: Purpose,
    /// Its absolute name, without the last dot.
    pub name: String,
    /// The text of a TXT record, or the host of an MX record.
    pub value: String,
    /// Of an MX record.
    pub priority: Option<u16>,
    /// Whether mail suffers without it; the others are recommended.
    pub is_required: bool,
}

impl DnsRecord {
    /// `TXT` or `MX`.
    pub fn record_type(&self) -> &'static str {
        match self.purpose {
            Purpose::Mx => "MX",
            Purpose::Ownership | Purpose::Spf | Purpose::Dkim(_) | Purpose::Dmarc => "TXT",
        }
    }

    /// Tells it from the other records of the domain: what it is for, and where it is.
    pub fn key(&self) -> String {
        format!("{} {}", self.purpose.as_str(), self.name)
    }
}

/// The records of a domain: ownership, if it has to be proved, MX, SPF, DKIM in the order of the keys, DMARC.
pub fn records(wanted: &Wanted) -> Vec<DnsRecord> {
    let domain = wanted.domain.as_str();
    let txt = |purpose, name: String, value: String, is_required| DnsRecord {
        purpose,
        name,
        value,
        priority: None,
        is_required,
    };
    let ownership = wanted.challenge.iter().map(|challenge| {
        let name = format!("{CHALLENGE_LABEL}.{domain}");
        let value = format!("{CHALLENGE_PREFIX}{}", challenge.as_str());
        txt(Purpose::Ownership, name, value, true)
    });
    let mut records: Vec<DnsRecord> = ownership.collect();
    records.extend([
        DnsRecord {
            purpose: Purpose::Mx,
            name: domain.to_owned(),
            value: wanted.mx_host.clone(),
            priority: Some(MX_PREFERENCE),
            is_required: true,
        },
        txt(
            Purpose::Spf,
            domain.to_owned(),
            format!("v=spf1 {} ~all", wanted.spf.as_str()),
            true,
        ),
    ]);
    records.extend(wanted.keys.iter().map(|key| {
        txt(
            Purpose::Dkim(key.clone()),
            format!("{}._domainkey.{domain}", key.selector),
            dkim_value(key),
            // Few verifiers know Ed25519, and all that do know RSA.
            key.algorithm == Algorithm::RsaSha256,
        )
    }));
    let dmarc = "v=DMARC1; p=none".to_owned();
    records.push(txt(Purpose::Dmarc, format!("_dmarc.{domain}"), dmarc, false));
    records
}

/// The text of a DKIM record (RFC 6376, 3.6.1).
fn dkim_value(key: &PublicKey) -> String {
    format!(
        "v=DKIM1; k={}; p={}",
        key.algorithm.key_type(),
        BASE64_STANDARD.encode(&key.octets)
    )
}

/// The records as a zone file (RFC 1035, 5), to be imported or included.
pub fn zone(domain: &DomainName, records: &[DnsRecord]) -> String {
    let mut text = format!("; What {domain} needs for mail, from inboxd. Names are absolute.\n");
    for record in records {
        let what = match record.purpose {
            Purpose::Ownership => "proves that the domain is yours; leave it there",
            Purpose::Mx => "brings mail for the domain here",
            Purpose::Spf => "lets this server send mail of the domain; there must be one SPF record only",
            Purpose::Dkim(_) => "verifies signatures",
            Purpose::Dmarc => "says what others are to do with mail that is neither signed nor from here",
        };
        let value = match record.priority {
            Some(preference) => format!("{preference} {}.", record.value),
            None => quoted(&record.value),
        };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "; {what}\n{}. {TTL_SECONDS} IN {} {value}\n",
            record.name,
            record.record_type()
        );
    }
    text
}

/// A text in the strings of a TXT record. What inboxd publishes is ASCII without control characters.
fn quoted(text: &str) -> String {
    let strings: Vec<String> = text
        .as_bytes()
        .chunks(TXT_STRING_MAX_OCTETS)
        .map(|part| {
            let escaped = String::from_utf8_lossy(part)
                .replace('\\', "\\\\")
                .replace('"', "\\\"");
            format!("\"{escaped}\"")
        })
        .collect();
    strings.join(" ")
}
