//! Evaluates SPF records: `check_host()` of RFC 7208, 4, with all its limits. The explanation (6.2) is not fetched, because
//! no answer of ours shows it.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::{Lookup, plain};
use crate::model::{
    address::DOMAIN_MAX_OCTETS,
    dns_records::judge::Answer,
    spf::{
        DomainSpec, Fault, FaultKind, LOOKUPS_MAX, MX_HOSTS_MAX, MacroValues, Mechanism, PTR_NAMES_MAX,
        Qualifier, Record, SyntaxError, VOID_LOOKUPS_MAX, Verdict, is_record,
    },
};

/// Longest label (RFC 1035, 2.3.4).
const LABEL_MAX_OCTETS: usize = 63;
/// What stands for the local part of a sender that has none (4.3).
const POSTMASTER: &str = "postmaster";
/// What `%{p}` is where no name is valid (7.3).
const NO_VALIDATED_NAME: &str = "unknown";

/// Who sends.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub address: IpAddr,
    /// As it greets.
    pub helo: &'a str,
    /// The envelope sender, or `postmaster@` and the name of HELO where there is none (2.4).
    pub sender: &'a str,
}

impl Client<'_> {
    fn local_part(&self) -> &str {
        let local_part = self.sender.rsplit_once('@').map(|(local_part, _)| local_part);
        local_part
            .filter(|local_part| !local_part.is_empty())
            .unwrap_or(POSTMASTER)
    }

    fn sender_domain(&self) -> &str {
        self.sender
            .rsplit_once('@')
            .map_or(self.sender, |(_, domain)| domain)
    }
}

/// What DNS has of a name: none is an answer, too; an error says why there was no answer.
pub type Found<T> = Result<Vec<T>, String>;

/// Asks DNS. Names come in lower case or not, without the last dot, and are valid.
pub trait Names: Sync {
    /// TXT records, the strings of each joined.
    fn txt(&self, name: &str) -> impl Future<Output = Found<Vec<u8>>> + Send;
    /// IPv4 addresses.
    fn ipv4(&self, name: &str) -> impl Future<Output = Found<Ipv4Addr>> + Send;
    /// IPv6 addresses.
    fn ipv6(&self, name: &str) -> impl Future<Output = Found<Ipv6Addr>> + Send;
    /// The hosts of MX records, the preferred first.
    fn mx(&self, name: &str) -> impl Future<Output = Found<String>> + Send;
    /// The names of PTR records, of a name below `in-addr.arpa` or `ip6.arpa`.
    fn ptr(&self, name: &str) -> impl Future<Output = Found<String>> + Send;
}

/// What the record of a domain says of a client.
pub async fn check(names: &impl Names, client: &Client<'_>, domain: &str) -> Verdict {
    if !domain.contains('.') {
        return Verdict::None;
    }
    let mut evaluation = Evaluation::new(names, client);
    let decision = evaluation.domain(domain).await;
    verdict(decision)
}

/// The same, for a record that need not be published.
pub async fn check_record(names: &impl Names, client: &Client<'_>, domain: &str, record: &Record) -> Verdict {
    let mut evaluation = Evaluation::new(names, client);
    let decision = evaluation.record(domain, record).await;
    verdict(decision.map(Some))
}

fn verdict(decision: Result<Option<Decision>, Stop>) -> Verdict {
    match decision {
        Ok(Some(Decision { qualifier, by })) => Verdict::Decided { qualifier, by },
        Ok(None) => Verdict::None,
        Err(Stop::Temporary(why)) => Verdict::TempError(why),
        Err(Stop::Permanent(fault)) => Verdict::PermError(fault),
    }
}

/// What a record says, and by which of its terms.
struct Decision {
    qualifier: Qualifier,
    by: Option<String>,
}

/// Why an evaluation ends before its end.
enum Stop {
    Temporary(String),
    Permanent(Fault),
}

/// One evaluation, with what it has used up.
struct Evaluation<'a, N> {
    names: &'a N,
    client: &'a Client<'a>,
    address: IpAddr,
    lookups: usize,
    /// The names whose answers were empty.
    void: Vec<String>,
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<'a, N: Names> Evaluation<'a, N> {
    fn new(names: &'a N, client: &'a Client<'a>) -> Self {
        Self {
            names,
            client,
            // An IPv4 address in the form of IPv6 is the IPv4 address (5).
            address: client.address.to_canonical(),
            lookups: 0,
            void: Vec::new(),
        }
    }

    /// Evaluates the record that a domain publishes (4.4, 4.5). `None`: it has none.
    fn domain<'s>(&'s mut self, domain: &'s str) -> Boxed<'s, Result<Option<Decision>, Stop>> {
        Box::pin(async move {
            if !is_name(domain) {
                return Ok(None);
            }
            let texts = self.names.txt(domain).await.map_err(Stop::Temporary)?;
            let records: Vec<&Vec<u8>> = texts.iter().filter(|text| is_record(text)).collect();
            match records[..] {
                [] => Ok(None),
                [text] => {
                    let record = Record::parse(text).map_err(|error| syntax(domain, error))?;
                    self.record(domain, &record).await.map(Some)
                }
                _ => Err(fault(domain, FaultKind::SeveralRecords(records.len()))),
            }
        })
    }

    /// Evaluates a record (4.6).
    async fn record(&mut self, domain: &str, record: &Record) -> Result<Decision, Stop> {
        for directive in &record.directives {
            if self
                .matches(domain, &directive.mechanism, &directive.text)
                .await?
            {
                return Ok(Decision {
                    qualifier: directive.qualifier,
                    by: Some(directive.text.clone()),
                });
            }
        }
        let Some(redirect) = &record.redirect else {
            return Ok(Decision {
                qualifier: Qualifier::Neutral,
                by: None,
            });
        };
        let by = &redirect.text;
        self.count_lookup(domain, by)?;
        let target = self.target(domain, Some(&redirect.domain)).await;
        let decision = self.domain(&target).await?;
        let decision = decision.ok_or_else(|| no_record(domain, by))?;
        Ok(Decision {
            by: Some(by.clone()),
            ..decision
        })
    }

    /// Whether a mechanism is about the client (5).
    async fn matches(&mut self, domain: &str, mechanism: &Mechanism, text: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Network(network) => Ok(network.contains(self.address)),
            Mechanism::Include(of) => {
                self.count_lookup(domain, text)?;
                let target = self.target(domain, Some(of)).await;
                let decision = self.domain(&target).await?;
                let decision = decision.ok_or_else(|| no_record(domain, text))?;
                Ok(decision.qualifier == Qualifier::Pass)
            }
            Mechanism::A(of, lengths) => {
                self.count_lookup(domain, text)?;
                let target = self.target(domain, of.as_ref()).await;
                let found = self.addresses(&target).await;
                let found = self.counted(domain, &target, found)?;
                Ok(found
                    .iter()
                    .any(|&address| lengths.around(address).contains(self.address)))
            }
            Mechanism::Mx(of, lengths) => {
                self.count_lookup(domain, text)?;
                let target = self.target(domain, of.as_ref()).await;
                let found = self.mx_addresses(domain, &target, text).await?;
                Ok(found
                    .iter()
                    .any(|&address| lengths.around(address).contains(self.address)))
            }
            Mechanism::Ptr(of) => {
                self.count_lookup(domain, text)?;
                let target = self.target(domain, of.as_ref()).await.to_ascii_lowercase();
                let reverse = reverse_name(self.address);
                // DNS that does not answer is no match (5.5).
                let names = self.names.ptr(&reverse).await;
                let names = match names {
                    Ok(names) => self.counted(domain, &reverse, Ok(names))?,
                    Err(_) => Vec::new(),
                };
                let names = self.validated(names).await;
                Ok(names.iter().any(|name| is_at_or_below(name, &target)))
            }
            Mechanism::Exists(of) => {
                self.count_lookup(domain, text)?;
                let target = self.target(domain, Some(of)).await;
                let found = if is_name(&target) {
                    self.names.ipv4(&target).await
                } else {
                    Ok(Vec::new())
                };
                let found = self.counted(domain, &target, found)?;
                Ok(!found.is_empty())
            }
        }
    }

    /// Notes that a term asks DNS (4.6.4).
    fn count_lookup(&mut self, domain: &str, term: &str) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            let term = term.to_owned();
            return Err(fault(domain, FaultKind::Lookups { term }));
        }
        Ok(())
    }

    /// Notes whether an answer was empty (4.6.4). A name that cannot be asked for was not.
    fn counted<T>(&mut self, domain: &str, name: &str, found: Found<T>) -> Result<Vec<T>, Stop> {
        let found = found.map_err(Stop::Temporary)?;
        if found.is_empty() && is_name(name) {
            self.void.push(name.to_owned());
            if self.void.len() > VOID_LOOKUPS_MAX {
                let names = std::mem::take(&mut self.void);
                return Err(fault(domain, FaultKind::VoidLookups(names)));
            }
        }
        Ok(found)
    }

    /// The name that a term is about (4.8).
    async fn target(&self, domain: &str, of: Option<&DomainSpec>) -> String {
        let Some(spec) = of else {
            return domain.to_owned();
        };
        let validated_name = if spec.needs_validated_name() {
            self.validated_name(domain).await
        } else {
            String::new()
        };
        spec.expand(&MacroValues {
            client: self.address,
            local_part: self.client.local_part(),
            sender_domain: self.client.sender_domain(),
            domain,
            helo: self.client.helo,
            validated_name: &validated_name,
        })
    }

    /// The addresses of a name that are of the client's family.
    async fn addresses(&self, name: &str) -> Found<IpAddr> {
        if !is_name(name) {
            return Ok(Vec::new());
        }
        Ok(if self.address.is_ipv4() {
            let found = self.names.ipv4(name).await?;
            found.into_iter().map(IpAddr::V4).collect()
        } else {
            let found = self.names.ipv6(name).await?;
            found.into_iter().map(IpAddr::V6).collect()
        })
    }

    /// The addresses of all hosts of a domain's MX records (5.4).
    async fn mx_addresses(&mut self, domain: &str, target: &str, text: &str) -> Result<Vec<IpAddr>, Stop> {
        let hosts = if is_name(target) {
            self.names.mx(target).await
        } else {
            Ok(Vec::new())
        };
        let hosts = self.counted(domain, target, hosts)?;
        if hosts.len() > MX_HOSTS_MAX {
            let term = text.to_owned();
            return Err(fault(domain, FaultKind::MxHosts { term }));
        }
        let found = join_all(hosts.iter().map(|host| self.addresses(host))).await;
        let mut addresses = Vec::new();
        for (host, found) in hosts.iter().zip(found) {
            addresses.extend(self.counted(domain, host, found)?);
        }
        Ok(addresses)
    }

    /// Those of the client's names that lead back to it, in lower case (5.5). Answers about them are not counted: they are
    /// for the client's network to give, and not for the domain.
    async fn validated(&self, mut names: Vec<String>) -> Vec<String> {
        names.truncate(PTR_NAMES_MAX);
        let found = join_all(names.iter().map(|name| self.addresses(name))).await;
        names
            .iter()
            .zip(found)
            .filter(|(_, found)| found.as_ref().is_ok_and(|found| found.contains(&self.address)))
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect()
    }

    /// What `%{p}` is: the domain itself, else a name below it, else any (7.3).
    async fn validated_name(&self, domain: &str) -> String {
        let names = self.names.ptr(&reverse_name(self.address)).await;
        let names = self.validated(names.unwrap_or_default()).await;
        let domain = domain.to_ascii_lowercase();
        let best = names
            .iter()
            .find(|name| **name == domain)
            .or_else(|| names.iter().find(|name| is_at_or_below(name, &domain)))
            .or_else(|| names.first());
        best.map_or(NO_VALIDATED_NAME, String::as_str).to_owned()
    }
}

fn fault(domain: &str, kind: FaultKind) -> Stop {
    Stop::Permanent(Fault {
        domain: domain.to_owned(),
        kind,
    })
}

fn syntax(domain: &str, error: SyntaxError) -> Stop {
    fault(domain, FaultKind::Syntax(error))
}

fn no_record(domain: &str, term: &str) -> Stop {
    let term = term.to_owned();
    fault(domain, FaultKind::NoRecord { term })
}

/// Whether DNS can be asked for a name (4.3): what macros make need not be one.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= DOMAIN_MAX_OCTETS
        && name
            .split('.')
            .all(|label| (1..=LABEL_MAX_OCTETS).contains(&label.len()))
}

fn is_at_or_below(name: &str, domain: &str) -> bool {
    let rest = name.strip_suffix(domain);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Where the names of an address are (RFC 1035, 3.5; RFC 3596, 2.5).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let digits = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let digits: Vec<String> = digits.map(|digit| format!("{digit:x}")).collect();
            format!("{}.ip6.arpa", digits.join("."))
        }
    }
}

/// DNS, with every answer kept for as long as this lives: for the addresses of one host, or one message.
pub(super) struct Resolved<'a> {
    lookup: &'a Lookup,
    known: Mutex<HashMap<(RecordType, String), Found<RData>>>,
}

impl<'a> Resolved<'a> {
    pub(super) fn new(lookup: &'a Lookup) -> Self {
        Self {
            lookup,
            known: Mutex::default(),
        }
    }

    async fn records<T>(
        &self,
        name: &str,
        record_type: RecordType,
        take: impl Fn(RData) -> Option<T>,
    ) -> Found<T> {
        let key = (record_type, name.to_ascii_lowercase());
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&key).cloned()
        };
        let found = if let Some(found) = known {
            found
        } else {
            let found = match self.lookup.records(&key.1, record_type).await {
                Answer::Records(records) => Ok(records),
                Answer::Nothing => Ok(Vec::new()),
                Answer::Failed(why) => Err(format!("{} of {}: {why}", record_type, key.1)),
            };
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, found.clone());
            found
        };
        Ok(found?.into_iter().filter_map(take).collect())
    }
}

impl Names for Resolved<'_> {
    async fn txt(&self, name: &str) -> Found<Vec<u8>> {
        let text = |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        };
        self.records(name, RecordType::TXT, text).await
    }

    async fn ipv4(&self, name: &str) -> Found<Ipv4Addr> {
        let address = |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        };
        self.records(name, RecordType::A, address).await
    }

    async fn ipv6(&self, name: &str) -> Found<Ipv6Addr> {
        let address = |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        };
        self.records(name, RecordType::AAAA, address).await
    }

    async fn mx(&self, name: &str) -> Found<String> {
        let exchange = |data| match data {
            RData::MX(mx) => Some((mx.preference, plain(&mx.exchange.to_ascii()))),
            _ => None,
        };
        let mut found = self.records(name, RecordType::MX, exchange).await?;
        found.sort();
        Ok(found.into_iter().map(|(_, exchange)| exchange).collect())
    }

    async fn ptr(&self, name: &str) -> Found<String> {
        let pointer = |data| match data {
            RData::PTR(name) => Some(plain(&name.0.to_ascii())),
            _ => None,
        };
        self.records(name, RecordType::PTR, pointer).await
    }
}
