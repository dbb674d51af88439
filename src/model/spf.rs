//! SPF records (RFC 7208): the whole grammar, read strictly, and what evaluating one can result in.
//!
//! An error anywhere in a record makes all of it an error (4.6), so parsing says which term is wrong and why, in the words
//! of whoever has to correct it. Nothing here asks DNS; `dns::spf` evaluates.

mod macros;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub use self::macros::{DomainSpec, MacroValues};
use super::shown;

const VERSION: &[u8] = b"v=spf1";

/// A record that follows the grammar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The mechanisms, in their order.
    pub directives: Vec<Directive>,
    /// The `redirect=`: whose record decides when no mechanism of this one does (6.1).
    pub redirect: Option<Redirect>,
}

/// A mechanism, and what follows when it matches (4.6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    /// What follows.
    pub qualifier: Qualifier,
    /// Which hosts it is about.
    pub mechanism: Mechanism,
    /// As it was published.
    pub text: String,
}

/// The modifier `redirect` (6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// The domain whose record decides.
    pub domain: DomainSpec,
    /// As it was published.
    pub text: String,
}

/// What a matching mechanism results in (4.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qualifier {
    /// `+`, or none.
    Pass,
    /// `-`
    Fail,
    /// `~`
    SoftFail,
    /// `?`
    Neutral,
}

impl Qualifier {
    /// In RFC 7208's words (2.6).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
        }
    }
}

/// Which hosts a directive is about (5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// All.
    All,
    /// Those that the record of this domain passes.
    Include(DomainSpec),
    /// Those with the addresses of a name; without one, of the domain itself.
    A(Option<DomainSpec>, PrefixLengths),
    /// Those with the addresses of the hosts that take the mail of a domain.
    Mx(Option<DomainSpec>, PrefixLengths),
    /// Those whose name, by reverse DNS, is below a domain.
    Ptr(Option<DomainSpec>),
    /// Those of a network.
    Network(Network),
    /// All, if the name has an IPv4 address.
    Exists(DomainSpec),
}

/// How much of an address counts: `/24//64` (5.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixLengths {
    /// Bits of an IPv4 address, up to 32.
    pub ipv4_bits: u32,
    /// Bits of an IPv6 address, up to 128.
    pub ipv6_bits: u32,
}

impl PrefixLengths {
    const FULL: Self = Self {
        ipv4_bits: Ipv4Addr::BITS,
        ipv6_bits: Ipv6Addr::BITS,
    };

    /// The network around an address.
    pub fn around(self, address: IpAddr) -> Network {
        let bits = match address {
            IpAddr::V4(_) => self.ipv4_bits,
            IpAddr::V6(_) => self.ipv6_bits,
        };
        Network { address, bits }
    }
}

/// An address, and how many of its first bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether an address belongs to it. One of the other family does not.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= self.bits
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = network.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

/// A term that breaks the grammar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    /// The term, short and plain.
    pub term: String,
    /// What is wrong with it: a predicate.
    pub why: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.term, self.why)
    }
}

impl std::error::Error for SyntaxError {}

/// What evaluating the record of a domain results in for one client (2.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The record says so.
    Decided {
        /// What.
        qualifier: Qualifier,
        /// By which term of the domain's own record; none: no term matched.
        by: Option<String>,
    },
    /// The domain has no record.
    None,
    /// DNS did not say all that it takes: why.
    TempError(String),
    /// The record cannot be evaluated.
    PermError(Fault),
}

impl Verdict {
    /// Whether the client may send.
    pub fn is_pass(&self) -> bool {
        matches!(
            self,
            Self::Decided {
                qualifier: Qualifier::Pass,
                ..
            }
        )
    }
}

/// Why a record cannot be evaluated, and in the record of which domain that showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The domain, which may be an included one.
    pub domain: String,
    /// What is wrong.
    pub kind: FaultKind,
}

/// Why a record cannot be evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// A term breaks the grammar (4.6).
    Syntax(SyntaxError),
    /// The domain has this many SPF records (4.5).
    SeveralRecords(usize),
    /// More than [`LOOKUPS_MAX`] terms ask DNS (4.6.4). This one is the first beyond.
    Lookups {
        /// The term.
        term: String,
    },
    /// More than [`VOID_LOOKUPS_MAX`] answers were empty (4.6.4): of these names.
    VoidLookups(Vec<String>),
    /// `mx` names more than [`MX_HOSTS_MAX`] hosts (4.6.4).
    MxHosts {
        /// The term.
        term: String,
    },
    /// An `include` or `redirect` leads to a domain without an SPF record (5.2, 6.1).
    NoRecord {
        /// The term.
        term: String,
    },
}

/// Terms of one evaluation that ask DNS, those of included records counted (4.6.4).
pub const LOOKUPS_MAX: usize = 10;
/// Answers of one evaluation without a record in them (4.6.4).
pub const VOID_LOOKUPS_MAX: usize = 2;
/// Hosts of one `mx` (4.6.4).
pub const MX_HOSTS_MAX: usize = 10;
/// Names of one address that `ptr` and `%{p}` use; others are left out (4.6.4).
pub const PTR_NAMES_MAX: usize = 10;

/// Whether a TXT record is an SPF record, however broken (4.5): the version, followed by a space or the end.
pub fn is_record(text: &[u8]) -> bool {
    let head = text.get(..VERSION.len()).unwrap_or_default();
    head.eq_ignore_ascii_case(VERSION) && matches!(text.get(VERSION.len()), None | Some(b' '))
}

impl Record {
    /// Parses a record for which [`is_record`] holds. Fails with the first term that breaks the grammar (4.6, 12).
    pub fn parse(text: &[u8]) -> Result<Self, SyntaxError> {
        let mut record = Self {
            directives: Vec::new(),
            redirect: None,
        };
        let mut has_explanation = false;
        let terms = text.get(VERSION.len()..).unwrap_or_default();
        for octets in terms
            .split(|&octet| octet == b' ')
            .filter(|term| !term.is_empty())
        {
            let fail = |why: String| SyntaxError {
                term: shown(&String::from_utf8_lossy(octets)),
                why,
            };
            let Ok(term) = visible(octets) else {
                return Err(fail(
                    "holds a character that is no visible ASCII; terms are separated by spaces only"
                        .to_owned(),
                ));
            };
            match modifier(term) {
                Some((name, value)) if name.eq_ignore_ascii_case("redirect") => {
                    if record.redirect.is_some() {
                        return Err(fail(TWICE.to_owned()));
                    }
                    record.redirect = Some(Redirect {
                        domain: DomainSpec::parse(value).map_err(fail)?,
                        text: term.to_owned(),
                    });
                }
                Some((name, value)) if name.eq_ignore_ascii_case("exp") => {
                    if has_explanation {
                        return Err(fail(TWICE.to_owned()));
                    }
                    has_explanation = true;
                    DomainSpec::parse(value).map_err(fail)?;
                }
                // An unknown modifier is ignored (6), but its macros have to be macros.
                Some((_, value)) => macros::require_macro_string(value).map_err(fail)?,
                None => record.directives.push(directive(term).map_err(fail)?),
            }
        }
        Ok(record)
    }

    /// Whether the record lets every host of the world send.
    pub fn passes_all_hosts(&self) -> bool {
        let all = self
            .directives
            .iter()
            .find(|directive| directive.mechanism == Mechanism::All);
        all.is_some_and(|all| all.qualifier == Qualifier::Pass)
    }
}

const TWICE: &str = "is there a second time, and must not be";

fn visible(octets: &[u8]) -> Result<&str, ()> {
    let is_visible = octets.iter().all(u8::is_ascii_graphic);
    str::from_utf8(octets).ok().filter(|_| is_visible).ok_or(())
}

/// `name=value`, if a term is a modifier: the sign comes behind the name, before any other (4.6.1).
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    is_name.then_some((name, value))
}

fn directive(term: &str) -> Result<Directive, String> {
    let qualifier = match term.as_bytes().first() {
        Some(b'+') => Some(Qualifier::Pass),
        Some(b'-') => Some(Qualifier::Fail),
        Some(b'~') => Some(Qualifier::SoftFail),
        Some(b'?') => Some(Qualifier::Neutral),
        _ => None,
    };
    let body = if qualifier.is_some() { &term[1..] } else { term };
    let end = body.find([':', '/']).unwrap_or(body.len());
    let (name, argument) = body.split_at(end);
    Ok(Directive {
        qualifier: qualifier.unwrap_or(Qualifier::Pass),
        mechanism: mechanism(&name.to_ascii_lowercase(), argument)?,
        text: term.to_owned(),
    })
}

/// `argument` is empty, or begins with `:` or `/`.
fn mechanism(name: &str, argument: &str) -> Result<Mechanism, String> {
    let value = argument.strip_prefix(':');
    let required = || value.ok_or_else(|| format!("needs a domain: \"{name}:\" and its name"));
    match name {
        "all" if argument.is_empty() => Ok(Mechanism::All),
        "all" => Err("is wrong, because nothing may follow \"all\"".to_owned()),
        "include" => Ok(Mechanism::Include(DomainSpec::parse(required()?)?)),
        "exists" => Ok(Mechanism::Exists(DomainSpec::parse(required()?)?)),
        "a" | "mx" => {
            let (domain, prefix) = match value.map(|value| value.split_at(prefix_start(value))) {
                Some((domain, prefix)) => (Some(DomainSpec::parse(domain)?), prefix),
                None => (None, argument),
            };
            let lengths = prefix_lengths(prefix)?;
            Ok(if name == "a" {
                Mechanism::A(domain, lengths)
            } else {
                Mechanism::Mx(domain, lengths)
            })
        }
        "ptr" if argument.starts_with('/') => Err("takes no prefix length".to_owned()),
        "ptr" => Ok(Mechanism::Ptr(value.map(DomainSpec::parse).transpose()?)),
        "ip4" => network(value, "IPv4", Ipv4Addr::BITS, |text| {
            text.parse().ok().map(IpAddr::V4)
        }),
        "ip6" => network(value, "IPv6", Ipv6Addr::BITS, |text| {
            text.parse().ok().map(IpAddr::V6)
        }),
        "ip" | "ipv4" | "ipv6" => {
            Err("is no mechanism: addresses are named by \"ip4:\" or \"ip6:\"".to_owned())
        }
        "redirect" | "exp" => Err(format!("is no mechanism: the modifier is \"{name}=\"")),
        _ => Err("is no mechanism and no modifier".to_owned()),
    }
}

/// Where the prefix lengths of `domain/24//64` begin: a domain may itself hold slashes (7.1), but not behind its last
/// label.
fn prefix_start(argument: &str) -> usize {
    let tail = argument
        .rfind(|c: char| !(c.is_ascii_digit() || c == '/'))
        .map_or(0, |last| last + 1);
    argument[tail..]
        .find('/')
        .map_or(argument.len(), |slash| tail + slash)
}

fn prefix_lengths(text: &str) -> Result<PrefixLengths, String> {
    let (ipv4, ipv6) = match text.split_once("//") {
        Some((ipv4, ipv6)) => (ipv4, Some(ipv6)),
        None => (text, None),
    };
    let mut lengths = PrefixLengths::FULL;
    if !ipv4.is_empty() {
        let bits = ipv4.strip_prefix('/').unwrap_or(ipv4);
        lengths.ipv4_bits = prefix_length(bits, "IPv4", Ipv4Addr::BITS)?;
    }
    if let Some(bits) = ipv6 {
        lengths.ipv6_bits = prefix_length(bits, "IPv6", Ipv6Addr::BITS)?;
    }
    Ok(lengths)
}

/// `"0" / %x31-39 0*1DIGIT`, and no more than the address has bits.
fn prefix_length(text: &str, family: &str, max_bits: u32) -> Result<u32, String> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let bits = text.parse().ok().filter(|&bits| is_plain && bits <= max_bits);
    bits.ok_or_else(|| {
        format!("has a wrong prefix length: behind the \"/\" of an {family} address stands a number from 0 to {max_bits}")
    })
}

fn network(
    value: Option<&str>,
    family: &str,
    max_bits: u32,
    parse: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Mechanism, String> {
    let value = value.ok_or_else(|| format!("needs an {family} address behind a \":\""))?;
    let (text, bits) = match value.split_once('/') {
        Some((text, bits)) => (text, Some(bits)),
        None => (value, None),
    };
    let address =
        parse(text).ok_or_else(|| format!("holds {}, which is no {family} address", shown(text)))?;
    let bits = bits.map_or(Ok(max_bits), |bits| prefix_length(bits, family, max_bits))?;
    Ok(Mechanism::Network(Network { address, bits }))
}

#[cfg(test)]
mod tests;
