//! DNS as the owners of custom domains have it: their records, looked up with limits, and judged.
//!
//! Nothing is kept: whoever has just mended a record is told so by the next check.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use mail_auth::{MessageAuthenticator, SpfResult, spf::verify::SpfParameters};
use tokio::time::timeout;

use crate::model::{
    address::DomainName,
    dns_records::{
        DnsRecord, Purpose, Wanted,
        judge::{self, Answer, Judgement, Mx, SpfVerdict},
        records,
    },
    suffix::organizational_domain,
};

/// Times that a name server is asked before it counts as silent.
const ATTEMPTS: usize = 2;
/// Records of one answer that are looked at, and hosts whose addresses are compared.
const RECORDS_MAX: usize = 50;
const EXCHANGES_COMPARED_MAX: usize = 8;
/// Addresses of our host for which SPF is evaluated.
const ADDRESSES_MAX: usize = 8;
/// So many times the limit of one answer may all look-ups of an SPF evaluation take, of which there are ten at most
/// (RFC 7208, 4.6.4).
const SPF_TIMEOUT_FACTOR: u32 = 2;

/// Whom to ask, and how long to wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Name servers that answer for every domain; none: those of the system (resolv.conf(5)).
    pub servers: Vec<SocketAddr>,
    /// How long to wait for an answer, all attempts included.
    pub timeout: Duration,
}

/// Asks DNS.
#[derive(Clone)]
pub struct Dns {
    /// Or why there is none.
    resolver: Result<TokioResolver, String>,
    timeout: Duration,
}

/// What the TXT records of a name are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Txts {
    /// Each with its strings joined (RFC 7208, 3.3).
    Records(Vec<Vec<u8>>),
    /// There are none, or there is no such name.
    Nothing,
    /// No name server has said.
    Failed,
}

/// Single names, as those need them that judge mail.
#[derive(Clone)]
pub struct Lookup {
    /// Or why there is none.
    resolver: Result<TokioResolver, String>,
    timeout: Duration,
}

impl Lookup {
    /// Sets up a resolver. Asks nothing.
    pub fn new(settings: &Settings) -> Self {
        Self {
            resolver: resolver(settings)
                .map_err(|error| format!("which name servers the system asks cannot be read: {error}")),
            timeout: settings.timeout,
        }
    }

    /// The resolver, for those who evaluate records themselves, or why there is none.
    pub fn resolver(&self) -> Result<TokioResolver, String> {
        self.resolver.clone()
    }

    /// The TXT records of a name.
    pub async fn txt(&self, name: &str) -> Txts {
        let Ok(resolver) = &self.resolver else {
            return Txts::Failed;
        };
        let looked_up = resolver.lookup(format!("{name}."), RecordType::TXT);
        match timeout(self.timeout, looked_up).await {
            Ok(Ok(lookup)) => {
                let records = lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::TXT(txt) => Some(txt.txt_data.concat()),
                    _ => None,
                });
                Txts::Records(records.take(RECORDS_MAX).collect())
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => Txts::Nothing,
            Ok(Err(_)) | Err(_) => Txts::Failed,
        }
    }

    /// Whether a name server answers at all, whatever it answers: asked for the root of all names.
    pub async fn answers(&self) -> bool {
        let Ok(resolver) = &self.resolver else {
            return false;
        };
        let looked_up = timeout(self.timeout, resolver.lookup(".", RecordType::NS)).await;
        matches!(looked_up, Ok(Ok(_) | Err(NetError::Dns(_))))
    }
}

impl Dns {
    /// Sets up a resolver. Asks nobody. Where the system names no server, every answer says so.
    pub fn new(settings: &Settings) -> Self {
        let resolver = resolver(settings).map_err(|error| {
            let why = format!("which name servers the system asks cannot be read: {error}");
            tracing::warn!(
                error = why,
                "domains cannot be verified; dns.servers names other servers"
            );
            why
        });
        Self {
            resolver,
            timeout: settings.timeout,
        }
    }

    /// What DNS says now of the records of a domain, in the order of [`records`]. How many domains are checked at a time is
    /// for the caller to limit.
    pub async fn check(&self, wanted: &Wanted) -> Vec<Judgement> {
        let records = records(wanted);
        let checks = records.iter().map(async |record| match &record.purpose {
            Purpose::Ownership => self.ownership(record).await,
            Purpose::Mx => self.mx(wanted).await,
            Purpose::Spf => self.spf(wanted).await,
            Purpose::Dkim(key) => judge::dkim(key, &self.txt(&record.name).await),
            Purpose::Dmarc => self.dmarc(wanted).await,
        });
        join_all(checks).await
    }

    /// What DNS says now of a record that proves who owns a domain.
    pub async fn ownership(&self, record: &DnsRecord) -> Judgement {
        judge::ownership(&record.value, &self.txt(&record.name).await)
    }

    async fn mx(&self, wanted: &Wanted) -> Judgement {
        let host = wanted.mx_host.as_str();
        let answer = self
            .look_up(wanted.domain.as_str(), RecordType::MX, |data| match data {
                RData::MX(mx) => Some(Mx {
                    preference: mx.preference,
                    exchange: plain(&mx.exchange.to_ascii()),
                    is_ours_by_address: false,
                }),
                _ => None,
            })
            .await;
        let Answer::Records(mut exchanges) = answer else {
            return judge::mx(host, &answer);
        };
        if !exchanges.iter().any(|mx| mx.exchange == host) {
            let ours = self.addresses(host).await;
            let others = exchanges.iter().take(EXCHANGES_COMPARED_MAX);
            let theirs = join_all(others.map(|mx| self.addresses(&mx.exchange))).await;
            for (mx, addresses) in exchanges.iter_mut().zip(theirs) {
                mx.is_ours_by_address = match (&addresses, &ours) {
                    (Answer::Records(theirs), Answer::Records(ours)) => {
                        theirs.iter().collect::<BTreeSet<_>>() == ours.iter().collect()
                    }
                    _ => false,
                };
            }
        }
        judge::mx(host, &Answer::Records(exchanges))
    }

    async fn spf(&self, wanted: &Wanted) -> Judgement {
        let domain = wanted.domain.as_str();
        let terms = match judge::spf_record(&self.txt(domain).await) {
            Ok(terms) => terms,
            Err(judgement) => return judgement,
        };
        let verdict = match self.addresses(&wanted.mx_host).await {
            Answer::Failed(why) => SpfVerdict::Failed(why),
            Answer::Nothing => SpfVerdict::NoAddress,
            Answer::Records(addresses) => self.spf_of(domain, &wanted.mx_host, &addresses).await,
        };
        judge::spf(&wanted.spf, &terms, &verdict)
    }

    /// Whether the SPF record lets every one of these addresses send.
    async fn spf_of(&self, domain: &str, host: &str, addresses: &[IpAddr]) -> SpfVerdict {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver.clone(),
            Err(why) => return SpfVerdict::Failed(why.clone()),
        };
        let evaluator = MessageAuthenticator(resolver);
        let sender = format!("postmaster@{domain}");
        for address in addresses.iter().take(ADDRESSES_MAX) {
            let asked = SpfParameters::verify_mail_from(*address, host, host, &sender);
            let limit = self.timeout * SPF_TIMEOUT_FACTOR;
            let Ok(output) = timeout(limit, evaluator.verify_spf(asked)).await else {
                return SpfVerdict::Failed("not all that the SPF record names was found in time".to_owned());
            };
            let result = match output.result() {
                SpfResult::Pass => continue,
                SpfResult::TempError => {
                    return SpfVerdict::Failed(
                        "not all that the SPF record names could be looked up".to_owned(),
                    );
                }
                SpfResult::Fail => "fail",
                SpfResult::SoftFail => "softfail",
                SpfResult::Neutral => "neutral",
                SpfResult::PermError => "permerror",
                SpfResult::None => "none",
            };
            return SpfVerdict::Refused {
                address: address.to_string(),
                result: result.to_owned(),
            };
        }
        SpfVerdict::Pass
    }

    async fn dmarc(&self, wanted: &Wanted) -> Judgement {
        let at = |domain: &DomainName| format!("_dmarc.{domain}");
        let own = self.txt(&at(&wanted.domain)).await;
        let above = organizational_domain(&wanted.domain).filter(|above| *above != wanted.domain);
        match above {
            Some(above) => {
                let answer = self.txt(&at(&above)).await;
                judge::dmarc(&own, Some((&above, &answer)))
            }
            None => judge::dmarc(&own, None),
        }
    }

    /// The addresses of a host, IPv4 and IPv6.
    async fn addresses(&self, host: &str) -> Answer<IpAddr> {
        if let Ok(address) = host.parse() {
            return Answer::Records(vec![address]);
        }
        let of_type = |record_type| {
            self.look_up(host, record_type, |data| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
        };
        match tokio::join!(of_type(RecordType::A), of_type(RecordType::AAAA)) {
            (Answer::Records(mut v4), Answer::Records(v6)) => {
                v4.extend(v6);
                Answer::Records(v4)
            }
            (found @ Answer::Records(_), Answer::Nothing) | (Answer::Nothing, found) => found,
            (failed @ Answer::Failed(_), _) | (_, failed) => failed,
        }
    }

    /// The TXT records of a name, the strings of each joined (RFC 6376, 3.6.2.2; RFC 7208, 3.3).
    async fn txt(&self, name: &str) -> Answer<String> {
        self.look_up(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
        .await
    }

    async fn look_up<T>(
        &self,
        name: &str,
        record_type: RecordType,
        take: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T> {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(why) => return Answer::Failed(why.clone()),
        };
        // A name that ends in a dot is the name itself, and none of a search list.
        let looked_up = resolver.lookup(format!("{name}."), record_type);
        match timeout(self.timeout, looked_up).await {
            Err(_) => Answer::Failed(format!("nothing came within {} ms", self.timeout.as_millis())),
            Ok(Ok(lookup)) => {
                let records: Vec<T> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| take(&record.data))
                    .take(RECORDS_MAX)
                    .collect();
                if records.is_empty() {
                    Answer::Nothing
                } else {
                    Answer::Records(records)
                }
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if none.soa.is_some() || none.ns.is_none() =>
            {
                Answer::Nothing
            }
            Ok(Err(error)) => Answer::Failed(error.to_string()),
        }
    }
}

fn resolver(settings: &Settings) -> Result<TokioResolver, NetError> {
    let builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = settings.servers.iter().map(|server| {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let mut options = ResolverOpts::default();
    options.attempts = ATTEMPTS;
    options.timeout = settings.timeout / u32::try_from(ATTEMPTS).unwrap_or(1);
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.use_hosts_file = ResolveHosts::Never;
    builder.with_options(options).build()
}

/// A host's name as it is compared: lower case, without the last dot.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
