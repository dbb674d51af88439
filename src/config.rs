//! Configuration: file, environment and flags in, checked values out, once.
//!
//! Later sources win: the file (`config/inboxd.toml` is the reference), then `INBOXD_<SECTION>__<KEY>` from the
//! environment, then `--set section.key=value`. Unknown keys and impossible values are refused with the key's name
//! and what is allowed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Environment, File, FileFormat};
use nix::unistd::Group;
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::{
    dns, http as api,
    inbound::{self, DmarcAction, OwnSenders},
    mail::wire::{Endpoint, HostPort},
    maps::{Layout, MailHome},
    model::{
        Refused,
        address::{Address, DomainName, LocalPart},
        dns_records::SpfTerms,
        limits::Limits,
        maps::BarrierMode,
        password_scheme::CostLimits,
        session_share::ShareLimits,
    },
    ops::{DomainSettings, Settings},
    stack::{
        render::{Postmaster, Reach, Sessions},
        tls::Certificates,
    },
    telemetry::{LogFormat, LogOutput, Logging},
};

/// Prefix of environment variables that set keys.
const ENVIRONMENT_PREFIX: &str = "INBOXD_";
/// Variables with the prefix that mean something else: where the file is, and `inboxd dev`.
const OTHER_VARIABLES: [&str; 3] = ["INBOXD_CONFIG", "INBOXD_DEV_DIR", "INBOXD_DEV_PORT_BASE"];
/// Most sessions of one kind, so that the sums that follow from them fit.
const SESSIONS_MAX: u16 = 20_000;
/// Seconds of silence that connections to Postfix can be allowed. Below 10, which is what they have under stress, makes no sense.
const IDLE_TIMEOUTS_S: RangeInclusive<u16> = 10..=3600;
/// Most memory of one password hash: what Dovecot's workers have room for (`vsz_limit` in its fragment).
const HASH_MEMORY_MAX_MIB: u32 = 2048;
/// Longest name under which verdicts are given: a host name.
const AUTHSERV_ID_MAX_OCTETS: usize = 253;
/// What a secret is shown as.
const HIDDEN: &str = "***";

/// Every key as it is written, with its default.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Written {
    /// `[api]`
    pub api: Api,
    /// `[http]`
    pub http: Http,
    /// `[rates]`
    pub rates: Rates,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[service]`
    pub service: ServiceKeys,
    /// `[domains]`
    pub domains: DomainKeys,
    /// `[dns]`
    pub dns: DnsKeys,
    /// `[limits]`
    pub limits: LimitKeys,
    /// `[store]`
    pub store: Store,
    /// `[maps]`
    pub maps: MapKeys,
    /// `[mail]`
    pub mail: Mail,
    /// `[imap]`
    pub imap: Imap,
    /// `[smtp]`
    pub smtp: Smtp,
    /// `[mx]`
    pub mx: Mx,
    /// `[publish]`
    pub publish: Publish,
    /// `[tls]`
    pub tls: Tls,
    /// `[dovecot]`
    pub dovecot: Dovecot,
    /// `[postfix]`
    pub postfix: Postfix,
    /// `[signer]`
    pub signer: Signer,
    /// `[inbound]`
    pub inbound: Inbound,
    /// `[login_policy]`
    pub login_policy: LoginPolicyKeys,
    /// `[import]`
    pub import: ImportKeys,
    /// `[bootstrap]`
    pub bootstrap: Bootstrap,
    /// `[log]`
    pub log: Log,
}

/// A section of the file: its keys with their defaults.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty = $default:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$key_doc])* pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }
    };
}

mod http;

pub use self::http::{Http, Rates};

section! {
    /// The API's listener.
    Api {
        /// Address and port.
        listen: String = "127.0.0.1:8080".to_owned(),
        /// URL by which callers reach it; empty: made of the address.
        url: String = String::new(),
    }
}
section! {
    /// The metrics' listener.
    Metrics {
        /// Address and port; empty: `/metrics` is served with the API.
        listen: String = "127.0.0.1:8084".to_owned(),
        /// URL by which callers reach them; empty: made of the address.
        url: String = String::new(),
    }
}
section! {
    /// What the operator decides about inboxes.
    ServiceKeys {
        /// Domain of inboxes that name none.
        default_domain: String = String::new(),
        /// Local parts that nobody gets at the default domain.
        #[serde(deserialize_with = "list")]
        reserved_usernames: Vec<String> = RESERVED.iter().map(|&name| name.to_owned()).collect(),
        /// Days that an address that was given up is kept for the workspace that had it.
        tombstone_days: u32 = 90,
        /// Most such addresses of one tenant.
        tombstones_per_tenant: u32 = 10_000,
        /// Most addresses of one inbox.
        addresses_per_inbox: u32 = 100,
        /// Whether a recoverable copy of passwords is kept.
        reveal_passwords: bool = true,
    }
}
section! {
    /// What the operator decides about custom domains.
    DomainKeys {
        /// Host that their MX records name; empty: `mx.host`.
        mx_host: String = String::new(),
        /// SPF mechanisms that stand for the hosts that send their mail.
        spf: String = "mx".to_owned(),
        /// Days within which a registration has to be proved.
        pending_days: u32 = 14,
        /// Seconds in which a holder can publish its challenge again when another tenant has proved its domain.
        handover_notice_s: u32 = 259_200,
        /// Seconds between two checks of a verified domain.
        check_interval_s: u32 = 3600,
    }
}
section! {
    /// Whom DNS is asked of.
    DnsKeys {
        /// Address and port of each name server; empty: the system's.
        #[serde(deserialize_with = "list")]
        servers: Vec<String> = Vec::new(),
        /// How long to wait for an answer.
        timeout_ms: u64 = 3_000,
    }
}
section! {
    /// Caps of a tenant that is made without any; absent: none.
    LimitKeys {
        /// Live inboxes.
        #[serde(skip_serializing_if = "Option::is_none")]
        inboxes: Option<u32> = None,
        /// Custom domains.
        #[serde(skip_serializing_if = "Option::is_none")]
        domains: Option<u32> = None,
        /// Workspaces.
        #[serde(skip_serializing_if = "Option::is_none")]
        workspaces: Option<u32> = None,
    }
}
section! {
    /// Where what is true is kept.
    Store {
        /// `sqlite:<path>` or a PostgreSQL URL.
        url: String = "sqlite:/var/lib/inboxd/inboxd.db".to_owned(),
        /// File with the password for PostgreSQL; empty: it is in the URL, or none is needed.
        password_file: PathBuf = PathBuf::new(),
        /// File with the key that seals passwords.
        sealing_key_file: PathBuf = "/var/lib/inboxd/sealing.key".into(),
    }
}
section! {
    /// What the mail servers read.
    MapKeys {
        /// Folder of the maps.
        dir: PathBuf = "/var/lib/inboxd/maps".into(),
        /// Group that reads the password entries.
        passdb_group: String = "dovecot".to_owned(),
        /// Group that reads Postfix's tables.
        postfix_group: String = "postfix".to_owned(),
    }
}
section! {
    /// Where mail lies.
    Mail {
        /// Folder that holds one folder an inbox.
        root: PathBuf = "/var/vmail".into(),
        /// Owner of the mail.
        uid: u32 = 5000,
        /// Group of the mail.
        gid: u32 = 5000,
        /// Who gets the mail for postmaster and abuse; empty: postmaster at the default domain.
        postmaster: String = String::new(),
        /// Largest message, in octets.
        message_max_octets: u64 = 25 * 1024 * 1024,
    }
}

section! {
    /// What is done before a change is answered.
    Publish {
        /// `require`, `report` or `off`.
        barrier: String = "require".to_owned(),
    }
}

section! {
    /// IMAP as callers reach it.
    Imap {
        /// Host name, as in the certificate.
        host: String = "localhost".to_owned(),
        /// TCP port.
        port: u16 = 993,
        /// `host:port` where the daemon itself connects to; empty: host and port.
        connect: String = String::new(),
        /// Most sessions at a time.
        sessions_max: u16 = 4000,
        /// Most sessions of one inbox from one address.
        sessions_per_inbox_max: u16 = 50,
        /// Most sessions of one inbox from all addresses together; 0: a tenth of `sessions_max`, and at least twice
        /// `sessions_per_inbox_max`.
        sessions_per_inbox_total_max: u16 = 0,
        /// Most sessions of all inboxes of a tenant; 0: half of `sessions_max`.
        sessions_per_tenant_max: u16 = 0,
    }
}
section! {
    /// Submission as callers reach it.
    Smtp {
        /// Host name, as in the certificate.
        host: String = "localhost".to_owned(),
        /// TCP port.
        port: u16 = 587,
        /// `host:port` where the daemon itself connects to; empty: host and port.
        connect: String = String::new(),
        /// Most sessions at a time.
        sessions_max: u16 = 600,
        /// Most sessions from one address.
        sessions_per_address_max: u16 = 500,
        /// Most sessions of one inbox that have begun a message.
        sessions_per_inbox_max: u16 = 50,
        /// Most such sessions of all inboxes of a tenant; 0: half of `sessions_max`.
        sessions_per_tenant_max: u16 = 0,
        /// Seconds of silence after which a connection is given up, to submission and to port 25.
        idle_timeout_s: u16 = 60,
    }
}
section! {
    /// SMTP as other mail servers reach it.
    Mx {
        /// Host name, as in the certificate.
        host: String = "localhost".to_owned(),
        /// TCP port.
        port: u16 = 25,
        /// `host:port` where the daemon itself connects to; empty: host and port.
        connect: String = String::new(),
    }
}
section! {
    /// Certificates.
    Tls {
        /// PEM file of the mail servers' certificate chain; empty: the private CA signs one.
        cert_file: PathBuf = PathBuf::new(),
        /// PEM file of its key; empty if and only if `cert_file` is.
        key_file: PathBuf = PathBuf::new(),
        /// Folder of the private CA.
        private_ca_dir: PathBuf = "/var/lib/inboxd/tls".into(),
        /// Folder of the certificate that it signs, and of its key; empty: `private_ca_dir`.
        private_cert_dir: PathBuf = PathBuf::new(),
        /// PEM file of the CA that signed the certificate; empty: the private CA's, or else the system's.
        ca_file: PathBuf = PathBuf::new(),
    }
}
section! {
    /// The Dovecot beside the daemon.
    Dovecot {
        /// Its `base_dir`.
        base_dir: PathBuf = "/run/dovecot".into(),
        /// Where the Lua script is installed.
        lua_script: PathBuf = "/etc/dovecot/inboxd.lua".into(),
        /// File with the key of its administration socket.
        doveadm_key_file: PathBuf = "/var/lib/inboxd/doveadm.key".into(),
        /// Group that may connect to its administration socket and to the one for look-ups.
        doveadm_group: String = "root".to_owned(),
    }
}
section! {
    /// The Postfix beside the daemon.
    Postfix {
        /// Its `queue_directory`.
        queue_dir: PathBuf = "/var/spool/postfix".into(),
        /// Folder of Dovecot's SASL and LMTP sockets.
        sockets_dir: PathBuf = "/var/spool/postfix/private".into(),
        /// Whether submitted messages go to mailboxes of our own domains only.
        own_domains_only: bool = false,
        /// `host:port` that takes what is for other domains; empty: their own servers do.
        relay: String = String::new(),
    }
}
section! {
    /// The signer beside Postfix.
    Signer {
        /// Its socket; empty: nothing is signed.
        socket: PathBuf = "/run/inboxd-signer/milter".into(),
    }
}
section! {
    /// What is done about arriving mail.
    Inbound {
        /// Where it is judged; empty: it is not.
        socket: PathBuf = "/run/inboxd-inbound/milter".into(),
        /// The name under which verdicts are given; empty: `mx.host`.
        authserv_id: String = String::new(),
        /// `report`, `quarantine` or `reject`.
        dmarc: String = "quarantine".to_owned(),
        /// `reject`, `quarantine` or `accept`.
        own_senders: String = "reject".to_owned(),
        /// Domains of forwarders whose seal is trusted.
        #[serde(deserialize_with = "list")]
        trusted_arc_sealers: Vec<String> = Vec::new(),
        /// Most octets that an inbox gets from outside in an hour; 0: no limit.
        octets_per_inbox_per_hour_max: u64 = 128 * 1024 * 1024,
    }
}
section! {
    /// Where Dovecot asks how long a login has to wait.
    LoginPolicyKeys {
        /// Address and port; empty: nothing slows password guessing down.
        listen: String = "127.0.0.1:8085".to_owned(),
        /// URL by which Dovecot reaches it; empty: made of the address.
        url: String = String::new(),
    }
}
section! {
    /// The most that hashes may cost which are imported, and what becomes of the costly ones.
    ImportKeys {
        /// Whether the first login replaces a hash that takes long to verify by one of our own scheme.
        replace_costly_hashes: bool = true,
        /// bcrypt's cost.
        bcrypt_cost_max: u32 = 12,
        /// Memory of Argon2, and of yescrypt and scrypt.
        argon2_memory_max_mib: u32 = 256,
        /// Passes of Argon2.
        argon2_passes_max: u32 = 10,
        /// Rounds of SHA-crypt.
        sha_crypt_rounds_max: u32 = 1_000_000,
        /// Iterations of PBKDF2 and SCRAM.
        pbkdf2_iterations_max: u32 = 1_000_000,
    }
}
section! {
    /// What a first start makes for its callers.
    Bootstrap {
        /// File with a super admin key and a demo tenant; empty: none is made.
        file: PathBuf = PathBuf::new(),
    }
}
section! {
    /// Logging.
    Log {
        /// Level or directives.
        filter: String = "info".to_owned(),
        /// `text` or `json`.
        format: String = "text".to_owned(),
        /// `stderr` or `stdout`.
        output: String = "stderr".to_owned(),
    }
}

/// RFC 2142's names and those that certificate authorities mail to (CA/Browser Forum, 3.2.2.4.4), and some that
/// people take for the operator.
const RESERVED: [&str; 32] = [
    "abuse",
    "admin",
    "administrator",
    "billing",
    "dmarc",
    "dns",
    "ftp",
    "help",
    "hostmaster",
    "info",
    "mailer-daemon",
    "marketing",
    "news",
    "nobody",
    "noc",
    "noreply",
    "no-reply",
    "operator",
    "postmaster",
    "root",
    "sales",
    "security",
    "ssladmin",
    "ssladministrator",
    "sslwebmaster",
    "support",
    "sysadmin",
    "trouble",
    "usenet",
    "uucp",
    "webmaster",
    "www",
];

/// The configuration in force, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where `/metrics` listens; none: with the API.
    pub metrics: Option<SocketAddr>,
    /// What callers of the API may use up.
    pub http: api::Settings,
    /// The URL by which callers reach the API, without a slash at its end.
    pub api_url: String,
    /// The URL by which callers reach `/metrics`.
    pub metrics_url: String,
    /// What the operator decided about inboxes.
    pub settings: Settings,
    /// Which database.
    pub store: StoreUrl,
    /// File with the key that seals passwords.
    pub sealing_key_file: PathBuf,
    /// Where mail lies and whose it is.
    pub home: MailHome,
    /// Who gets the mail for postmaster and abuse.
    pub postmaster: Postmaster,
    /// IMAP with implicit TLS.
    pub imap: Endpoint,
    /// Submission with STARTTLS.
    pub smtp: Endpoint,
    /// SMTP as other mail servers speak it.
    pub mx: Endpoint,
    /// Most sessions of both at a time.
    pub sessions: Sessions,
    /// Most submission sessions of one inbox and of one tenant that have begun a message.
    pub submission_shares: ShareLimits,
    /// Most IMAP sessions of one inbox and of one tenant; none where Dovecot asks nothing that counts them.
    pub imap_shares: Option<ShareLimits>,
    /// What is done about a new login before its creation is answered.
    pub barrier: BarrierMode,
    /// Whom DNS is asked of.
    pub dns: dns::Settings,
    /// The mail servers' certificate, and whom this side trusts.
    pub certificate: Certificate,
    /// Whom submitted messages may go to.
    pub reach: Reach,
    /// Where the signer listens; none: nothing is signed.
    pub signer_socket: Option<PathBuf>,
    /// Where arriving mail is judged; none: it is not.
    pub inbound_socket: Option<PathBuf>,
    /// The name under which verdicts are given (RFC 8601, 2.5).
    pub authserv_id: String,
    /// What follows from the verdicts.
    pub inbound_policy: inbound::Policy,
    /// Where Dovecot asks how long a login has to wait; none: nothing slows password guessing down.
    pub login_policy: Option<LoginPolicy>,
    /// The most that hashes may cost which are imported.
    pub import_costs: CostLimits,
    /// Whether the first login replaces a hash that takes long to verify.
    pub replace_costly_hashes: bool,
    /// Where the first start writes keys and addresses; none: it makes no keys.
    pub bootstrap_file: Option<PathBuf>,
    /// What is logged, how and where.
    pub logging: Logging,
    /// Everything as it was written, for what needs no check.
    pub written: Written,
}

/// Where Dovecot asks how long a login has to wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginPolicy {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How Dovecot reaches it, with a slash at its end.
    pub url: String,
}

/// The mail servers' certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// PEM file of the chain.
    pub cert_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
    /// PEM file of the CA that vouches for it; none: the system's roots do.
    pub ca_file: Option<PathBuf>,
    /// Folder of the private CA that signs the certificate; none: the operator brings it.
    pub private_ca_dir: Option<PathBuf>,
}

/// Which database.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres {
        /// All but the password that is in a file.
        options: Box<PgConnectOptions>,
        /// File with the password, which is read when the store is opened.
        password_file: Option<PathBuf>,
    },
}

/// Configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source could not be read, holds an unknown key or a value of the wrong type.
    #[error("read the configuration")]
    Sources(#[source] Box<config::ConfigError>),
    /// A variable of the environment names no key, or has a value of the wrong type.
    #[error("environment variable {name}")]
    Variable {
        /// The variable's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<config::ConfigError>,
    },
    /// A flag is not `section.key=value`.
    #[error("--set {flag}: must be section.key=value")]
    Flag {
        /// The flag's value.
        flag: String,
    },
    /// A value is not allowed.
    #[error("{key}: {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is allowed.
        rule: String,
    },
}

impl Error {
    fn value(key: &'static str, rule: impl fmt::Display) -> Self {
        Self::Value {
            key,
            rule: rule.to_string(),
        }
    }
}

impl From<config::ConfigError> for Error {
    fn from(error: config::ConfigError) -> Self {
        Self::Sources(Box::new(error))
    }
}

/// Reads the sources, in their order. `environment` holds all variables of the process.
pub fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> Result<Written, Error> {
    let variables: HashMap<String, String> = environment
        .into_iter()
        .filter(|(name, _)| variable_of(name) == Variable::Key)
        .collect();
    check_variables(&variables)?;
    let mut builder = config::Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    builder = builder.add_source(environment_source(variables));
    for flag in flags {
        let (key, value) = flag
            .split_once('=')
            .ok_or_else(|| Error::Flag { flag: flag.clone() })?;
        if !key.contains('.') {
            return Err(Error::Flag { flag: flag.clone() });
        }
        builder = builder.set_override(key, value)?;
    }
    Ok(builder.build()?.try_deserialize()?)
}

/// What a variable of the environment is to this program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variable {
    /// `INBOXD_<SECTION>__<KEY>`: it sets a key.
    Key,
    /// It has our prefix, and neither a key's form nor a meaning. Kubernetes makes such ones in every pod beside a
    /// Service that is named `inboxd` (`INBOXD_SERVICE_HOST`, `INBOXD_PORT`).
    Foreign,
    /// It means something else, or nothing here.
    Other,
}

fn variable_of(name: &str) -> Variable {
    match name.strip_prefix(ENVIRONMENT_PREFIX) {
        None => Variable::Other,
        Some(_) if OTHER_VARIABLES.contains(&name) => Variable::Other,
        Some(rest) if rest.contains("__") => Variable::Key,
        Some(_) => Variable::Foreign,
    }
}

/// The variables with our prefix that nothing reads, sorted: for a warning.
pub fn foreign_variables<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut foreign: Vec<&str> = names
        .into_iter()
        .filter(|name| variable_of(name) == Variable::Foreign)
        .collect();
    foreign.sort_unstable();
    foreign
}

/// Without `try_parsing` a secret such as 007 stays what it is; serde turns text into numbers where a key is one.
fn environment_source(variables: HashMap<String, String>) -> Environment {
    Environment::with_prefix("INBOXD")
        .prefix_separator("_")
        .separator("__")
        .source(Some(variables))
}

/// Fails with the name of the first variable that is no key, or whose value has the wrong type.
fn check_variables(variables: &HashMap<String, String>) -> Result<(), Error> {
    let sorted: BTreeMap<&String, &String> = variables.iter().collect();
    for (name, value) in sorted {
        let alone = HashMap::from([(name.clone(), value.clone())]);
        let built = config::Config::builder()
            .add_source(environment_source(alone))
            .build();
        built
            .and_then(config::Config::try_deserialize::<Written>)
            .map_err(|source| Error::Variable {
                name: name.clone(),
                source: Box::new(source),
            })?;
    }
    Ok(())
}

/// A share of all sessions as it is written under its key: 0 is this default, at least one and at most all.
fn share(
    (written, key): (u16, &'static str),
    default: u16,
    (all, all_key): (u16, &str),
) -> Result<u32, Error> {
    match written {
        0 => Ok(default.min(all).max(1).into()),
        share if share <= all => Ok(share.into()),
        _ => Err(Error::value(key, format!("must be at most {all_key}"))),
    }
}

impl Written {
    /// Checks every value.
    pub fn check(self) -> Result<Config, Error> {
        let settings = self.settings()?;
        for (key, path) in [
            ("mail.root", &self.mail.root),
            ("maps.dir", &self.maps.dir),
            ("store.sealing_key_file", &self.store.sealing_key_file),
            ("dovecot.base_dir", &self.dovecot.base_dir),
            ("dovecot.lua_script", &self.dovecot.lua_script),
            ("dovecot.doveadm_key_file", &self.dovecot.doveadm_key_file),
            ("postfix.queue_dir", &self.postfix.queue_dir),
            ("postfix.sockets_dir", &self.postfix.sockets_dir),
        ] {
            absolute(key, path)?;
        }
        let (imap, smtp, mx) = (&self.imap, &self.smtp, &self.mx);
        let imap = endpoint(
            ["imap.host", "imap.connect"],
            &imap.host,
            imap.port,
            &imap.connect,
        )?;
        let smtp = endpoint(
            ["smtp.host", "smtp.connect"],
            &smtp.host,
            smtp.port,
            &smtp.connect,
        )?;
        let mx = endpoint(["mx.host", "mx.connect"], &mx.host, mx.port, &mx.connect)?;
        if !self.postfix.sockets_dir.starts_with(&self.postfix.queue_dir) {
            return Err(Error::value(
                "postfix.sockets_dir",
                "must be in postfix.queue_dir: Postfix names sockets from there",
            ));
        }
        if self.mail.uid == 0 || self.mail.gid == 0 {
            return Err(Error::value(
                "mail.uid",
                "must not be 0, nor mail.gid: Dovecot refuses mail that belongs to root",
            ));
        }
        let metrics = match self.metrics.listen.as_str() {
            "" => None,
            listen => Some(socket("metrics.listen", listen)?),
        };
        let api = socket("api.listen", &self.api.listen)?;
        let base_path = self.http.base_path()?;
        let api_url = url("api.url", &self.api.url)?.unwrap_or_else(|| format!("http://{api}{base_path}"));
        let metrics_url = url("metrics.url", &self.metrics.url)?.unwrap_or_else(|| match metrics {
            Some(address) => format!("http://{address}/metrics"),
            None => format!("{api_url}/metrics"),
        });
        let bootstrap_file = given(&self.bootstrap.file);
        if let Some(file) = &bootstrap_file {
            absolute("bootstrap.file", file)?;
        }
        let signer_socket = given(&self.signer.socket);
        if let Some(socket) = &signer_socket {
            absolute("signer.socket", socket)?;
        }
        let reach = self.postfix.reach()?;
        let postmaster = self.postmaster(&settings.default_domain, &reach)?;
        let inbound_socket = given(&self.inbound.socket);
        if let Some(socket) = &inbound_socket {
            absolute("inbound.socket", socket)?;
        }
        Ok(Config {
            api,
            http: self.http.settings(&self.rates)?,
            metrics,
            api_url,
            metrics_url,
            settings,
            store: self.store.database()?,
            sealing_key_file: self.store.sealing_key_file.clone(),
            home: MailHome {
                root: self.mail.root.clone(),
                uid: self.mail.uid,
                gid: self.mail.gid,
            },
            imap,
            smtp,
            mx,
            sessions: self.sessions()?,
            submission_shares: self.submission_shares()?,
            imap_shares: self.imap_shares()?,
            barrier: self.publish.barrier()?,
            dns: self.dns.settings()?,
            certificate: self.tls.certificate()?,
            reach,
            postmaster,
            signer_socket,
            inbound_socket,
            authserv_id: self.inbound.authserv_id(&self.mx.host)?,
            inbound_policy: self.inbound.policy()?,
            login_policy: self.login_policy.checked()?,
            import_costs: self.import.costs()?,
            replace_costly_hashes: self.import.replace_costly_hashes,
            bootstrap_file,
            logging: self.log.logging()?,
            written: self,
        })
    }

    /// The configuration as a file, without its secrets.
    pub fn shown(&self) -> Result<String, toml::ser::Error> {
        let mut shown = self.clone();
        shown.store.url = hide_password(&self.store.url);
        toml::to_string_pretty(&shown)
    }

    /// Most sessions at a time: a share is at least one session, and at most all.
    fn sessions(&self) -> Result<Sessions, Error> {
        let Self { imap, smtp, .. } = self;
        for (all, share, key) in [
            (
                imap.sessions_max,
                imap.sessions_per_inbox_max,
                "imap.sessions_per_inbox_max",
            ),
            (
                smtp.sessions_max,
                smtp.sessions_per_address_max,
                "smtp.sessions_per_address_max",
            ),
            (
                smtp.sessions_max,
                smtp.sessions_per_inbox_max,
                "smtp.sessions_per_inbox_max",
            ),
        ] {
            if !(1..=all).contains(&share) {
                return Err(Error::value(key, "must be 1 to sessions_max of its section"));
            }
        }
        for (all, key) in [
            (imap.sessions_max, "imap.sessions_max"),
            (smtp.sessions_max, "smtp.sessions_max"),
        ] {
            if all > SESSIONS_MAX {
                return Err(Error::value(key, "must be at most 20000"));
            }
        }
        if !IDLE_TIMEOUTS_S.contains(&smtp.idle_timeout_s) {
            return Err(Error::value("smtp.idle_timeout_s", "must be 10 to 3600"));
        }
        Ok(Sessions {
            imap: imap.sessions_max,
            imap_per_inbox: imap.sessions_per_inbox_max,
            submission: smtp.sessions_max,
            submission_per_address: smtp.sessions_per_address_max,
            smtp_idle_s: smtp.idle_timeout_s,
        })
    }

    /// Most submission sessions of one inbox and of one tenant: at least one, and at most all.
    fn submission_shares(&self) -> Result<ShareLimits, Error> {
        let smtp = &self.smtp;
        let all = (smtp.sessions_max, "smtp.sessions_max");
        Ok(ShareLimits {
            inbox: smtp.sessions_per_inbox_max.into(),
            tenant: share(
                (smtp.sessions_per_tenant_max, "smtp.sessions_per_tenant_max"),
                smtp.sessions_max / 2,
                all,
            )?,
        })
    }

    /// Most IMAP sessions of one inbox and of one tenant: at least one, and at most all.
    fn imap_shares(&self) -> Result<Option<ShareLimits>, Error> {
        let imap = &self.imap;
        let inbox = (
            imap.sessions_per_inbox_total_max,
            "imap.sessions_per_inbox_total_max",
        );
        let tenant = (imap.sessions_per_tenant_max, "imap.sessions_per_tenant_max");
        let all = (imap.sessions_max, "imap.sessions_max");
        let of_inbox = (imap.sessions_max / 10).max(imap.sessions_per_inbox_max.saturating_mul(2));
        let shares = ShareLimits {
            inbox: share(inbox, of_inbox, all)?,
            tenant: share(tenant, imap.sessions_max / 2, all)?,
        };
        if !self.login_policy.listen.is_empty() {
            return Ok(Some(shares));
        }
        for (written, key) in [inbox, tenant] {
            if written != 0 {
                return Err(Error::value(
                    key,
                    "must be 0 where login_policy.listen is empty: Dovecot asks there",
                ));
            }
        }
        Ok(None)
    }

    /// Who gets the mail for postmaster and abuse. Postfix must not return such mail to a sender that may be false, so what
    /// it could not deliver is refused here.
    fn postmaster(&self, default_domain: &DomainName, reach: &Reach) -> Result<Postmaster, Error> {
        const KEY: &str = "mail.postmaster";
        let text = match self.mail.postmaster.as_str() {
            "" => &format!("postmaster@{default_domain}"),
            text => text,
        };
        let rule =
            "must be the address of an inbox at service.default_domain, an address on another host, or empty";
        let address = Address::parse(text).map_err(|why| Error::value(KEY, format!("{rule}; {why}")))?;
        if address.domain == *default_domain {
            return Ok(Postmaster::Inbox(address.to_string()));
        }
        if address.domain.as_str() == self.mx.host.trim_end_matches('.').to_ascii_lowercase() {
            return Err(Error::value(KEY, format!("{rule}; not one at mx.host")));
        }
        if *reach == Reach::OwnDomains {
            let why = "with postfix.own_domains_only no mail leaves this host";
            return Err(Error::value(KEY, format!("{rule}; {why}")));
        }
        Ok(Postmaster::Elsewhere(address.to_string()))
    }

    fn settings(&self) -> Result<Settings, Error> {
        let service = &self.service;
        if service.default_domain.is_empty() {
            return Err(Error::value(
                "service.default_domain",
                "must be set: the domain of inboxes that name none",
            ));
        }
        if service.addresses_per_inbox == 0 {
            return Err(Error::value(
                "service.addresses_per_inbox",
                "must be at least 1: the canonical address is one of them",
            ));
        }
        let reserved: Result<BTreeSet<LocalPart>, Refused> = service
            .reserved_usernames
            .iter()
            .map(|name| LocalPart::parse(name))
            .collect();
        Ok(Settings {
            default_domain: DomainName::parse(&service.default_domain)
                .map_err(|rule| Error::value("service.default_domain", rule))?,
            reserved_usernames: reserved
                .map_err(|rule| Error::value("service.reserved_usernames", format!("each {rule}")))?,
            tombstone_days: service.tombstone_days,
            tombstones_per_tenant: service.tombstones_per_tenant,
            addresses_per_inbox: service.addresses_per_inbox,
            domains: self.domains.settings(&self.mx.host)?,
            default_limits: Limits {
                inboxes: self.limits.inboxes,
                domains: self.limits.domains,
                workspaces: self.limits.workspaces,
            },
            reveal_passwords: service.reveal_passwords,
        })
    }
}

impl DomainKeys {
    fn settings(&self, mx_host: &str) -> Result<DomainSettings, Error> {
        let zero = [
            ("domains.pending_days", self.pending_days),
            ("domains.check_interval_s", self.check_interval_s),
        ];
        if let Some((key, _)) = zero.into_iter().find(|(_, number)| *number == 0) {
            return Err(Error::value(key, "must be at least 1"));
        }
        let mx_host = match self.mx_host.as_str() {
            "" => mx_host.trim_end_matches('.').to_ascii_lowercase(),
            host => DomainName::parse(host)
                .map_err(|rule| Error::value("domains.mx_host", rule))?
                .to_string(),
        };
        Ok(DomainSettings {
            mx_host,
            spf: SpfTerms::parse(&self.spf).map_err(|rule| Error::value("domains.spf", rule))?,
            pending_days: self.pending_days,
            handover_notice_seconds: self.handover_notice_s,
            check_seconds: self.check_interval_s,
        })
    }
}

impl DnsKeys {
    fn settings(&self) -> Result<dns::Settings, Error> {
        const TIMEOUT_MAX_MS: u64 = 60_000;
        if !(100..=TIMEOUT_MAX_MS).contains(&self.timeout_ms) {
            return Err(Error::value("dns.timeout_ms", "must be 100 to 60000"));
        }
        let servers: Result<_, _> = self
            .servers
            .iter()
            .map(|server| socket("dns.servers", server))
            .collect();
        Ok(dns::Settings {
            servers: servers?,
            timeout: Duration::from_millis(self.timeout_ms),
        })
    }
}

impl Postfix {
    fn reach(&self) -> Result<Reach, Error> {
        match (self.own_domains_only, self.relay.as_str()) {
            (true, "") => Ok(Reach::OwnDomains),
            (false, "") => Ok(Reach::World),
            (true, _) => Err(Error::value(
                "postfix.relay",
                "must be empty, because postfix.own_domains_only is true",
            )),
            (false, relay) => {
                let relay = HostPort::parse(relay).ok_or_else(|| {
                    Error::value("postfix.relay", "must be host:port, as smtp.example.com:587")
                })?;
                Ok(Reach::Relay {
                    host: relay.host,
                    port: relay.port,
                })
            }
        }
    }
}

impl Inbound {
    fn authserv_id(&self, mx_host: &str) -> Result<String, Error> {
        let name = match self.authserv_id.as_str() {
            "" => mx_host,
            name => name,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > AUTHSERV_ID_MAX_OCTETS || !name.bytes().all(plain) {
            return Err(Error::value(
                "inbound.authserv_id",
                "must be 1 to 253 letters, digits and . - _; empty: mx.host",
            ));
        }
        Ok(name.trim_end_matches('.').to_owned())
    }

    fn policy(&self) -> Result<inbound::Policy, Error> {
        let sealers: Result<_, Refused> = self
            .trusted_arc_sealers
            .iter()
            .map(|domain| DomainName::parse(domain))
            .collect();
        Ok(inbound::Policy {
            dmarc: match self.dmarc.as_str() {
                "report" => DmarcAction::Report,
                "quarantine" => DmarcAction::Quarantine,
                "reject" => DmarcAction::Reject,
                _ => {
                    let rule = "must be report, quarantine or reject";
                    return Err(Error::value("inbound.dmarc", rule));
                }
            },
            own_senders: match self.own_senders.as_str() {
                "reject" => OwnSenders::Reject,
                "quarantine" => OwnSenders::Quarantine,
                "accept" => OwnSenders::Accept,
                _ => {
                    let rule = "must be reject, quarantine or accept";
                    return Err(Error::value("inbound.own_senders", rule));
                }
            },
            trusted_arc_sealers: sealers
                .map_err(|rule| Error::value("inbound.trusted_arc_sealers", format!("each {rule}")))?,
        })
    }
}

impl Publish {
    fn barrier(&self) -> Result<BarrierMode, Error> {
        match self.barrier.as_str() {
            "require" => Ok(BarrierMode::Require),
            "report" => Ok(BarrierMode::Report),
            "off" => Ok(BarrierMode::Off),
            _ => Err(Error::value("publish.barrier", "must be require, report or off")),
        }
    }
}

impl LoginPolicyKeys {
    fn checked(&self) -> Result<Option<LoginPolicy>, Error> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let listen = socket("login_policy.listen", &self.listen)?;
        let url = url("login_policy.url", &self.url)?.unwrap_or_else(|| format!("http://{listen}"));
        Ok(Some(LoginPolicy {
            listen,
            url: format!("{url}/"),
        }))
    }
}

impl ImportKeys {
    fn costs(&self) -> Result<CostLimits, Error> {
        if !(1..=HASH_MEMORY_MAX_MIB).contains(&self.argon2_memory_max_mib) {
            return Err(Error::value(
                "import.argon2_memory_max_mib",
                "must be 1 to 2048: more is more than Dovecot's workers have room for",
            ));
        }
        if !(4..=31).contains(&self.bcrypt_cost_max) {
            return Err(Error::value("import.bcrypt_cost_max", "must be 4 to 31"));
        }
        Ok(CostLimits {
            bcrypt_cost: self.bcrypt_cost_max,
            memory_mib: self.argon2_memory_max_mib,
            argon2_passes: self.argon2_passes_max,
            sha_crypt_rounds: self.sha_crypt_rounds_max,
            pbkdf2_iterations: self.pbkdf2_iterations_max,
        })
    }
}

impl Log {
    fn logging(&self) -> Result<Logging, Error> {
        tracing_subscriber::EnvFilter::try_new(&self.filter).map_err(|_| {
            Error::value(
                "log.filter",
                "must be error, warn, info, debug or trace, or directives such as inboxd=debug,info",
            )
        })?;
        Ok(Logging {
            filter: self.filter.clone(),
            format: match self.format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(Error::value("log.format", "must be text or json")),
            },
            output: match self.output.as_str() {
                "stderr" => LogOutput::Stderr,
                "stdout" => LogOutput::Stdout,
                _ => return Err(Error::value("log.output", "must be stderr or stdout")),
            },
        })
    }
}

impl Tls {
    /// The operator's own certificate, or that of the private CA.
    fn certificate(&self) -> Result<Certificate, Error> {
        absolute("tls.private_ca_dir", &self.private_ca_dir)?;
        let ca_file = given(&self.ca_file);
        let files = [
            ("tls.cert_file", given(&self.cert_file)),
            ("tls.key_file", given(&self.key_file)),
        ];
        match files {
            [(cert, Some(cert_file)), (key, Some(key_file))] => {
                absolute(cert, &cert_file)?;
                absolute(key, &key_file)?;
                Ok(Certificate {
                    cert_file,
                    key_file,
                    ca_file,
                    private_ca_dir: None,
                })
            }
            [(_, None), (_, None)] => {
                let server = given(&self.private_cert_dir).unwrap_or_else(|| self.private_ca_dir.clone());
                absolute("tls.private_cert_dir", &server)?;
                let made = Certificates::in_folders(&self.private_ca_dir, &server);
                Ok(Certificate {
                    cert_file: made.server_cert,
                    key_file: made.server_key,
                    ca_file: ca_file.or(Some(made.ca_cert)),
                    private_ca_dir: Some(self.private_ca_dir.clone()),
                })
            }
            [(missing, None), (set, Some(_))] | [(set, Some(_)), (missing, None)] => Err(Error::value(
                missing,
                format!("must be set, because {set} is; or neither, for a certificate of the private CA"),
            )),
        }
    }
}

impl Config {
    /// The names that the mail servers' certificate must hold.
    pub fn certificate_names(&self) -> [&str; 3] {
        [&self.imap, &self.smtp, &self.mx].map(|server| server.known_as.host.as_str())
    }

    /// Where the maps are and who may read them. Asks the system for the groups, so they must exist.
    pub fn maps_layout(&self) -> Result<Layout, Error> {
        Ok(Layout {
            root: self.written.maps.dir.clone(),
            passdb_gid: group_id("maps.passdb_group", &self.written.maps.passdb_group)?,
            postfix_gid: group_id("maps.postfix_group", &self.written.maps.postfix_group)?,
            home: self.home.clone(),
        })
    }

    /// The address that Dovecot gives as the sender of what it would send.
    pub fn postmaster_address(&self) -> Result<Address, Error> {
        let text = format!("postmaster@{}", self.settings.default_domain);
        Address::parse(&text).map_err(|rule| Error::value("service.default_domain", rule))
    }
}

fn socket(key: &'static str, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        Error::value(
            key,
            "must be an IP address and a port, as 127.0.0.1:8080 or [::1]:8080",
        )
    })
}

/// A path that may be left empty.
fn given(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}

/// A URL that may be left empty, and to which paths are appended.
fn url(key: &'static str, text: &str) -> Result<Option<String>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'\\');
    if rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.ends_with('/'))
        && text.bytes().all(is_plain)
    {
        Ok(Some(text.to_owned()))
    } else {
        let rule = "must be a URL, as https://inbox.example.com, without a slash at its end, or empty";
        Err(Error::value(key, rule))
    }
}

/// A mail server; `keys` are those of its host and of where to connect to.
fn endpoint(keys: [&'static str; 2], host: &str, port: u16, connect: &str) -> Result<Endpoint, Error> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    if host.is_empty() || !host.bytes().all(is_allowed) {
        return Err(Error::value(keys[0], "must be a host name or an IP address"));
    }
    let known = Endpoint::new(host, port);
    if connect.is_empty() {
        return Ok(known);
    }
    let rule = "must be host:port, as dovecot:993 or [::1]:993, or empty";
    let connect = HostPort::parse(connect).ok_or_else(|| Error::value(keys[1], rule))?;
    Ok(Endpoint { connect, ..known })
}

/// A folder or file that ends up in the mail servers' configuration and in passwd-file lines.
fn absolute(key: &'static str, path: &Path) -> Result<(), Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+');
    if path.is_absolute() && path.to_str().is_some_and(|text| text.bytes().all(plain)) {
        Ok(())
    } else {
        Err(Error::value(
            key,
            "must be an absolute path of letters, digits and / . _ - +",
        ))
    }
}

impl Store {
    fn database(&self) -> Result<StoreUrl, Error> {
        let url = self.url.as_str();
        let password_file = given(&self.password_file);
        if let Some(file) = &password_file {
            absolute("store.password_file", file)?;
        }
        let unneeded = |why| {
            Err(Error::value(
                "store.password_file",
                format!("must be empty: {why}"),
            ))
        };
        let wrong = || {
            let rule = "must be sqlite:<absolute path> or postgres://user:password@host:port/database";
            Error::value("store.url", rule)
        };
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if !path.is_absolute() {
                return Err(wrong());
            }
            return match password_file {
                None => Ok(StoreUrl::Sqlite(path)),
                Some(_) => unneeded("SQLite has no password"),
            };
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // The parser's own message would show the password.
            let options = url.parse().map(Box::new).map_err(|_| wrong())?;
            if password_file.is_some() && hide_password(url) != url {
                return unneeded("a password is in store.url");
            }
            return Ok(StoreUrl::Postgres {
                options,
                password_file,
            });
        }
        Err(wrong())
    }
}

/// A URL without the password in it.
fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let hidden = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    // A password may also stand in the query.
    let path = match path.split_once('?') {
        Some((path, query)) => {
            let hide = |pair: &str| match pair.split_once('=') {
                Some((name, _)) if name.contains("password") => format!("{name}={HIDDEN}"),
                _ => pair.to_owned(),
            };
            format!(
                "{path}?{}",
                query.split('&').map(hide).collect::<Vec<_>>().join("&")
            )
        }
        None => path.to_owned(),
    };
    format!("{scheme}://{hidden}{path}")
}

fn group_id(key: &'static str, group: &str) -> Result<u32, Error> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(Error::value(
            key,
            format!("there is no group {group:?} on this system; a number is allowed, too"),
        )),
        Err(errno) => Err(Error::value(
            key,
            format!("cannot look up the group {group:?}: {errno}"),
        )),
    }
}

/// A list, or one text with commas as the environment and flags have it.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct ListVisitor;

    impl<'de> serde::de::Visitor<'de> for ListVisitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts, or one text with commas")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect())
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(ListVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(environment: &[(&str, &str)], flags: &[&str]) -> Result<Written, String> {
        let environment = environment
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        read(None, environment, &flags).map_err(|error| crate::telemetry::chain(&error))
    }

    #[test]
    fn the_reference_file_holds_every_key_with_its_default_and_the_documentation_each_key() {
        let text = include_str!("../config/inboxd.toml");
        let parsed: Written = toml::from_str(text).unwrap();
        assert_eq!(parsed, Written::default());
        for line in toml::to_string(&Written::default()).unwrap().lines() {
            let name = line.split(" = ").next().unwrap();
            assert!(text.contains(name), "config/inboxd.toml lacks {name}");
        }
        let documented = include_str!("../docs/configuration.md");
        for (section, keys) in toml::Table::try_from(Written::default()).unwrap() {
            for key in keys.as_table().unwrap().keys() {
                let name = format!("`{section}.{key}`");
                assert!(documented.contains(&name), "docs/configuration.md lacks {name}");
            }
        }
        for optional in ["inboxes", "domains", "workspaces"] {
            assert!(
                text.contains(&format!("# {optional} = ")),
                "config/inboxd.toml lacks {optional}"
            );
        }
    }

    #[test]
    fn shares_of_imap_sessions_are_parts_of_all_or_refused_by_name() {
        let shares = |flags: &[&str]| {
            let flags = [&["service.default_domain=a.example"], flags].concat();
            let checked = read_with(&[], &flags).unwrap().check();
            checked
                .map(|config| config.imap_shares.map(|shares| (shares.inbox, shares.tenant)))
                .map_err(|error| crate::telemetry::chain(&error))
        };
        assert_eq!(shares(&[]), Ok(Some((400, 2000))));
        let few = ["imap.sessions_max=60", "imap.sessions_per_inbox_max=50"];
        assert_eq!(shares(&few), Ok(Some((60, 30))));
        let set = [
            "imap.sessions_per_inbox_total_max=7",
            "imap.sessions_per_tenant_max=9",
        ];
        assert_eq!(shares(&set), Ok(Some((7, 9))));
        assert_eq!(shares(&["login_policy.listen="]), Ok(None));
        for key in [
            "imap.sessions_per_inbox_total_max",
            "imap.sessions_per_tenant_max",
        ] {
            let refused = shares(&[&format!("{key}=4001")]).unwrap_err();
            assert_eq!(refused, format!("{key}: must be at most imap.sessions_max"));
            let refused = shares(&[&format!("{key}=1"), "login_policy.listen="]).unwrap_err();
            assert!(refused.starts_with(&format!("{key}: must be 0 where login_policy.listen is empty")));
        }
    }

    #[test]
    fn a_tenants_share_of_submission_is_a_part_of_all_or_refused_by_name() {
        let share = |flags: &[&str]| {
            let flags = [&["service.default_domain=a.example"], flags].concat();
            let checked = read_with(&[], &flags).unwrap().check();
            checked
                .map(|config| config.submission_shares.tenant)
                .map_err(|error| crate::telemetry::chain(&error))
        };
        assert_eq!(share(&[]), Ok(300));
        assert_eq!(share(&["smtp.sessions_per_tenant_max=600"]), Ok(600));
        let one = [
            "smtp.sessions_max=1",
            "smtp.sessions_per_address_max=1",
            "smtp.sessions_per_inbox_max=1",
        ];
        assert_eq!(share(&one), Ok(1));
        assert_eq!(
            share(&["smtp.sessions_per_tenant_max=601"]),
            Err("smtp.sessions_per_tenant_max: must be at most smtp.sessions_max".to_owned())
        );
    }

    #[test]
    fn flags_win_over_the_environment() {
        let environment = [
            ("INBOXD_SERVICE__DEFAULT_DOMAIN", "a.example"),
            ("INBOXD_IMAP__PORT", "1993"),
            ("INBOXD_DEV_DIR", "/x"),
        ];
        let written = read_with(
            &environment,
            &["service.default_domain=b.example", "limits.inboxes=7"],
        )
        .unwrap();
        assert_eq!(written.service.default_domain, "b.example");
        assert_eq!(written.imap.port, 1993);
        assert_eq!(written.limits.inboxes, Some(7));
    }

    #[test]
    fn variables_that_kubernetes_makes_are_ignored_and_named() {
        // enableServiceLinks, in a pod beside a Service that is named inboxd.
        let made = [
            ("INBOXD_SERVICE_HOST", "10.0.0.1"),
            ("INBOXD_SERVICE_PORT", "8080"),
            ("INBOXD_SERVICE_PORT_HTTP", "8080"),
            ("INBOXD_PORT", "tcp://10.0.0.1:8080"),
            ("INBOXD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("INBOXD_PORT_8080_TCP_PROTO", "tcp"),
            ("INBOXD_PORT_8080_TCP_PORT", "8080"),
            ("INBOXD_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("INBOXD_BOOTSTRAP", "/srv/bootstrap.json"),
        ];
        assert_eq!(read_with(&made, &[]).unwrap(), Written::default());
        let ours = ["INBOXD_DEV_DIR", "INBOXD_CONFIG", "INBOXD_IMAP__PORT", "PATH"];
        let named = foreign_variables(made.iter().map(|(name, _)| *name).chain(ours));
        let mut expected = made.map(|(name, _)| name);
        expected.sort_unstable();
        assert_eq!(named, expected);
    }

    #[test]
    fn values_from_the_environment_keep_their_text() {
        let written = read_with(&[("INBOXD_SERVICE__RESERVED_USERNAMES", "root, 007")], &[]).unwrap();
        assert_eq!(written.service.reserved_usernames, ["root", "007"]);
        let written = read_with(
            &[
                ("INBOXD_STORE__URL", "007"),
                ("INBOXD_SERVICE__REVEAL_PASSWORDS", "false"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(written.store.url, "007");
        assert!(!written.service.reveal_passwords);
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused_by_name() {
        let error = read_with(&[], &["api.listne=127.0.0.1:1"]).unwrap_err();
        assert!(error.contains("listne") && error.contains("listen"), "{error}");
        let error = read_with(&[("INBOXD_APPI__LISTEN", "x")], &[]).unwrap_err();
        assert!(error.contains("appi"), "{error}");
        for (name, value, why) in [
            ("INBOXD_APPI__LISTEN", "x", "appi"),
            ("INBOXD_IMAP__PROT", "993", "prot"),
            ("INBOXD_IMAP__PORT", "many", "many"),
            ("INBOXD_SERVICE__HOST", "10.0.0.1", "host"),
        ] {
            let environment = [("INBOXD_IMAP__HOST", "a.example"), (name, value)];
            let error = read_with(&environment, &[]).unwrap_err();
            assert!(
                error.starts_with(&format!("environment variable {name}: ")) && error.contains(why),
                "{error}"
            );
        }
        let error = read_with(&[], &["imap.port=many"]).unwrap_err();
        assert!(error.contains("imap.port") || error.contains("port"), "{error}");
        let error = read_with(&[], &["imap.port=70000"]).unwrap_err();
        assert!(error.contains("port"), "{error}");
        assert!(
            read_with(&[], &["imap"])
                .unwrap_err()
                .contains("section.key=value")
        );
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (flag, key) in [
            ("service.default_domain=localhost", "service.default_domain"),
            ("service.reserved_usernames=Root", "service.reserved_usernames"),
            ("api.listen=localhost", "api.listen"),
            ("http.connections_max=0", "http.connections_max"),
            ("http.connections_max=9", "http.connections_per_address_max"),
            (
                "http.connections_per_address_max=0",
                "http.connections_per_address_max",
            ),
            ("http.keep_alive_s=0", "http.keep_alive_s"),
            ("http.trusted_proxies=proxy.example.com", "http.trusted_proxies"),
            ("http.trusted_proxies=10.0.0.0/33", "http.trusted_proxies"),
            ("http.forwarded_header=X-Real-IP", "http.forwarded_header"),
            ("http.base_path=inboxd", "http.base_path"),
            ("http.base_path=/a/../b", "http.base_path"),
            ("http.base_path=/{x}", "http.base_path"),
            ("http.cors_origins=*,https://a.example", "http.cors_origins"),
            ("http.cors_origins=https://a.example/", "http.cors_origins"),
            ("http.cors_origins=a.example", "http.cors_origins"),
            (
                "rates.key_reads_per_minute=4000000000",
                "rates.key_reads_per_minute",
            ),
            ("http.write_timeout_s=4000", "http.write_timeout_s"),
            ("metrics.listen=1", "metrics.listen"),
            ("store.url=mysql://x", "store.url"),
            ("store.url=sqlite:relative.db", "store.url"),
            ("store.password_file=/run/secrets/db", "store.password_file"),
            ("mail.root=relative", "mail.root"),
            ("mail.root=/a:b", "mail.root"),
            ("mail.uid=0", "mail.uid"),
            ("mail.postmaster=postmaster", "mail.postmaster"),
            ("mail.postmaster=Ops@example.com", "mail.postmaster"),
            ("imap.host=a b", "imap.host"),
            ("postfix.sockets_dir=/run/postfix", "postfix.sockets_dir"),
            ("imap.connect=dovecot", "imap.connect"),
            ("smtp.connect=postfix:0", "smtp.connect"),
            ("mx.connect=:25", "mx.connect"),
            ("api.url=inbox.example.com", "api.url"),
            ("api.url=https://inbox.example.com/", "api.url"),
            ("metrics.url=http:///metrics", "metrics.url"),
            ("bootstrap.file=bootstrap.json", "bootstrap.file"),
            ("tls.cert_file=/etc/ssl/mail.pem", "tls.key_file"),
            ("tls.key_file=/etc/ssl/mail.key", "tls.cert_file"),
            ("tls.private_ca_dir=tls", "tls.private_ca_dir"),
            ("tls.private_cert_dir=tls", "tls.private_cert_dir"),
            ("publish.barrier=on", "publish.barrier"),
            ("log.filter=a=b=c", "log.filter"),
            ("log.format=xml", "log.format"),
            ("log.output=syslog", "log.output"),
        ] {
            let written = read_with(&[], &["service.default_domain=example.com", flag]).unwrap();
            let error = written.check().unwrap_err().to_string();
            assert!(error.starts_with(key), "{flag}: {error}");
        }
        assert!(
            Written::default()
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("service.default_domain")
        );
    }

    #[test]
    fn the_daemon_connects_where_callers_do_unless_it_is_told_otherwise() {
        let flags = [
            "service.default_domain=example.com",
            "imap.host=mail.example.com",
            "imap.connect=dovecot:1993",
            "mx.host=mail.example.com",
        ];
        let config = read_with(&[], &flags).unwrap().check().unwrap();
        assert_eq!(config.imap.to_string(), "mail.example.com:993 via dovecot:1993");
        assert_eq!(config.smtp, Endpoint::new("localhost", 587));
        assert_eq!(config.mx, Endpoint::new("mail.example.com", 25));
    }

    #[test]
    fn without_a_certificate_of_the_operators_the_private_ca_makes_one() {
        let certificate = |flags: &[&str]| {
            let flags = [&["service.default_domain=example.com"], flags].concat();
            read_with(&[], &flags).unwrap().check().unwrap().certificate
        };
        let private = Certificate {
            cert_file: "/x/server.pem".into(),
            key_file: "/x/server.key".into(),
            ca_file: Some("/x/ca.pem".into()),
            private_ca_dir: Some("/x".into()),
        };
        assert_eq!(certificate(&["tls.private_ca_dir=/x"]), private);
        let apart = certificate(&["tls.private_ca_dir=/x", "tls.private_cert_dir=/s"]);
        let files = (apart.cert_file, apart.key_file, apart.ca_file);
        let expected = (
            "/s/server.pem".into(),
            "/s/server.key".into(),
            Some("/x/ca.pem".into()),
        );
        assert_eq!(files, expected);
        let trusting = certificate(&["tls.private_ca_dir=/x", "tls.ca_file=/y.pem"]);
        assert_eq!(trusting.ca_file, Some("/y.pem".into()));
        let own = Certificate {
            cert_file: "/c.pem".into(),
            key_file: "/c.key".into(),
            ca_file: None,
            private_ca_dir: None,
        };
        assert_eq!(certificate(&["tls.cert_file=/c.pem", "tls.key_file=/c.key"]), own);
    }

    #[test]
    fn urls_are_those_of_the_listeners_unless_callers_have_others() {
        let urls = |flags: &[&str]| {
            let flags = [&["service.default_domain=example.com"], flags].concat();
            let config = read_with(&[], &flags).unwrap().check().unwrap();
            [config.api_url, config.metrics_url]
        };
        let (api, metrics) = ("https://inbox.example.com", "http://10.0.0.1:9/m");
        assert_eq!(
            urls(&[]),
            ["http://127.0.0.1:8080", "http://127.0.0.1:8084/metrics"]
        );
        assert_eq!(
            urls(&["api.listen=[::1]:80", "metrics.listen="]),
            ["http://[::1]:80", "http://[::1]:80/metrics"]
        );
        assert_eq!(
            urls(&["http.base_path=/inboxd/", "metrics.listen="]),
            [
                "http://127.0.0.1:8080/inboxd",
                "http://127.0.0.1:8080/inboxd/metrics"
            ]
        );
        let own = [&*format!("api.url={api}"), &*format!("metrics.url={metrics}")];
        assert_eq!(urls(&own), [api, metrics]);
        assert_eq!(
            urls(&[own[0], "metrics.listen="]),
            [api.to_owned(), format!("{api}/metrics")]
        );
    }

    #[test]
    fn a_password_is_in_the_url_or_in_a_file() {
        let database = |url: &str, file: &str| {
            let keys = [format!("store.url={url}"), format!("store.password_file={file}")];
            let flags = ["service.default_domain=example.com", &keys[0], &keys[1]];
            let checked = read_with(&[], &flags).unwrap().check();
            checked
                .map(|config| config.store)
                .map_err(|error| error.to_string())
        };
        let StoreUrl::Postgres {
            options,
            password_file,
        } = database("postgres:///inboxd?host=/run/pg&user=me", "/run/secrets/db").unwrap()
        else {
            panic!("not PostgreSQL")
        };
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/run/pg")));
        assert_eq!(
            (options.get_username(), options.get_database()),
            ("me", Some("inboxd"))
        );
        assert_eq!(password_file, Some("/run/secrets/db".into()));
        for url in [
            "postgres://me:s3cret@db/inboxd",
            "postgres://db/inboxd?user=me&password=s3cret",
        ] {
            database(url, "").unwrap();
            let error = database(url, "/run/secrets/db").unwrap_err();
            assert!(
                error.starts_with("store.password_file") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            (
                "postgres://inboxd:s3cret@db:5432/inboxd",
                "postgres://inboxd:***@db:5432/inboxd",
            ),
            (
                "postgres://inboxd:s3:c@ret@db/inboxd",
                "postgres://inboxd:***@db/inboxd",
            ),
            (
                "postgres://db/inboxd?password=s3cret&sslmode=require",
                "postgres://db/inboxd?password=***&sslmode=require",
            ),
            ("postgres://inboxd@db/inboxd", "postgres://inboxd@db/inboxd"),
            ("sqlite:/var/lib/inboxd.db", "sqlite:/var/lib/inboxd.db"),
        ] {
            assert_eq!(hide_password(url), shown);
        }
    }
}
