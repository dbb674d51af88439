//! DNS as the owners of custom domains have it: their records, looked up with limits, and judged.
//!
//! Nothing is kept: whoever has just mended a record is told so by the next check.

pub mod spf;

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
    proto::rr::{Name, RData, RecordType},
};
use tokio::time::timeout;

use self::spf::{Client, Resolved};
use crate::model::{
    address::DomainName,
    dns_records::{
        DnsRecord, Purpose, Wanted,
        judge::{self, Answer, Judgement, Mx},
        records,
    },
    spf::{Record, Verdict},
    suffix::organizational_domain,
};

/// Times that a name server is asked before it counts as silent.
const ATTEMPTS: usize = 2;
/// Hosts of an MX answer whose addresses are compared with ours.
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

/// Checks the records of custom domains.
#[derive(Clone)]
pub struct Dns {
    lookup: Lookup,
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

/// Asks DNS for single names.
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

    /// The TXT records of a name. Their number has no limit but the 64 KiB of a DNS message (RFC 1035, 4.2.2).
    pub async fn txt(&self, name: &str) -> Txts {
        match self.records(name, RecordType::TXT).await {
            Answer::Records(records) => Txts::Records(
                records
                    .iter()
                    .filter_map(|data| match data {
                        RData::TXT(txt) => Some(txt.txt_data.concat()),
                        _ => None,
                    })
                    .collect(),
            ),
            Answer::Nothing => Txts::Nothing,
            Answer::Failed(_) => Txts::Failed,
        }
    }

    /// What the SPF record of a domain says of a client that sends mail (RFC 7208, 4).
    pub async fn spf(&self, client: &Client<'_>, domain: &str) -> Verdict {
        spf::check(&Resolved::new(self), client, domain).await
    }

    /// Whether a name server answers at all, whatever it answers: asked for the root of all names.
    pub async fn answers(&self) -> bool {
        let Ok(resolver) = &self.resolver else {
            return false;
        };
        let looked_up = timeout(self.timeout, resolver.lookup(Name::root(), RecordType::NS)).await;
        matches!(looked_up, Ok(Ok(_) | Err(NetError::Dns(_))))
    }

    /// The records of one type that a name has, those of other types and of aliases on the way left out.
    async fn records(&self, name: &str, record_type: RecordType) -> Answer<RData> {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(why) => return Answer::Failed(why.clone()),
        };
        // The name itself, none of a search list, and whatever octets are in it.
        let labels = name.strip_suffix('.').unwrap_or(name).split('.');
        let name = match Name::from_labels(labels.map(str::as_bytes)) {
            Ok(name) => name,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        match timeout(self.timeout, resolver.lookup(name, record_type)).await {
            Err(_) => Answer::Failed(format!("nothing came within {} ms", self.timeout.as_millis())),
            Ok(Ok(lookup)) => {
                let records: Vec<RData> = lookup
                    .answers()
                    .iter()
                    .filter(|record| record.record_type() == record_type)
                    .map(|record| record.data.clone())
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

impl Dns {
    /// Sets up a resolver. Asks nothing. Where the system names no server, every answer says so.
    pub fn new(settings: &Settings) -> Self {
        let lookup = Lookup::new(settings);
        if let Err(error) = &lookup.resolver {
            tracing::warn!(
                error,
                "domains cannot be verified; dns.servers names other servers"
            );
        }
        Self { lookup }
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
        let record = match judge::spf::record(&self.txt(domain).await) {
            Ok(record) => record,
            Err(judgement) => return judgement,
        };
        let addresses = match self.addresses(&wanted.mx_host).await {
            Answer::Failed(why) => return judge::unknown(&why),
            Answer::Nothing => return judge::spf::without_address(&wanted.spf, &record),
            Answer::Records(addresses) => addresses,
        };
        let resolved = Resolved::new(&self.lookup);
        let (address, verdict) = match self.spf_of(&resolved, wanted, &addresses, &record).await {
            Ok(()) => return judge::spf::passed(),
            Err(refusal) => refusal,
        };
        // What is advised is tried before.
        let amended = match judge::spf::amended(&record, &wanted.spf, &verdict) {
            Some(amended) => self.spf_of(&resolved, wanted, &addresses, &amended).await.err(),
            None => None,
        };
        judge::spf::refused(
            wanted,
            &record,
            address,
            &verdict,
            amended.as_ref().map(|(_, verdict)| verdict),
        )
    }

    /// Whether an SPF record of the domain lets every one of our host's addresses send; if not, the first that it does not,
    /// and what it says of that.
    async fn spf_of(
        &self,
        resolved: &Resolved<'_>,
        wanted: &Wanted,
        addresses: &[IpAddr],
        record: &Record,
    ) -> Result<(), (IpAddr, Verdict)> {
        let domain = wanted.domain.as_str();
        let sender = format!("postmaster@{domain}");
        for &address in addresses.iter().take(ADDRESSES_MAX) {
            let client = Client {
                address,
                helo: &wanted.mx_host,
                sender: &sender,
            };
            let limit = self.lookup.timeout * SPF_TIMEOUT_FACTOR;
            let verdict = timeout(limit, spf::check_record(resolved, &client, domain, record)).await;
            let verdict = verdict.unwrap_or_else(|_| {
                Verdict::TempError("not all that the SPF record names was found in time".to_owned())
            });
            if !verdict.is_pass() {
                return Err((address, verdict));
            }
        }
        Ok(())
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
        match self.lookup.records(name, record_type).await {
            Answer::Records(records) => Answer::Records(records.iter().filter_map(take).collect()),
            Answer::Nothing => Answer::Nothing,
            Answer::Failed(why) => Answer::Failed(why),
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
