//! `inboxd dev`: the daemon and a private Dovecot and Postfix, all in one folder.

mod folder;
mod instance;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use self::instance::Instance;
use super::{Failure, Source, block_on, inbound, note, print, serve::stop_signal, signer};
use crate::{
    clock::{Clock as _, Machine},
    config::Config,
    daemon::{self, bootstrap::Bootstrap},
    stack::{
        private::{DEFAULT_SESSIONS, Layout, Ports, PrivateStack, Settings},
        render::Reach,
        tls,
    },
    telemetry,
};

/// Folder, if `INBOXD_DEV_DIR` says nothing.
const DEFAULT_DIR: &str = "var/dev";
/// First port, if `INBOXD_DEV_PORT_BASE` says nothing.
const DEFAULT_PORT_BASE: u16 = 8080;
/// Name of the file that tells keys and addresses.
const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// Name of the socket at which Postfix has mail signed.
const SIGNER_SOCKET: &str = "signer";
/// Name of the socket at which Postfix has arriving mail judged.
const INBOUND_SOCKET: &str = "inbound";
/// How long the judge of arriving mail waits for an answer of DNS: a message must not be slow on a machine without any.
const INBOUND_DNS_TIMEOUT_MS: u64 = 1_000;
/// Where everything listens.
const HOST: &str = "127.0.0.1";
/// The domain of inboxes: one that no DNS ever has (RFC 6761, 6.2).
const DEFAULT_DOMAIN: &str = "inboxd.test";
/// The name that the mail servers greet with.
const HOSTNAME: &str = "mail.inboxd.test";

#[derive(Args, Debug)]
pub(super) struct DevArguments {
    /// Return when everything is ready; it goes on in the background
    #[arg(long, conflicts_with = "stop")]
    detach: bool,
    /// Stop the one that runs in the background, and its mail servers
    #[arg(long)]
    stop: bool,
    /// The background process itself
    #[arg(long, hide = true)]
    detached: bool,
    #[command(flatten)]
    source: Source,
}

/// The ports, counted from the base.
#[derive(Clone, Copy, Debug)]
struct DevPorts {
    api: u16,
    imaps: u16,
    submission: u16,
    inbound: u16,
    metrics: u16,
    login_policy: u16,
}

pub(super) fn dev(arguments: &DevArguments) -> Result<(), Failure> {
    let wanted = env::var_os("INBOXD_DEV_DIR").filter(|dir| !dir.is_empty());
    let wanted = wanted.map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from);
    if arguments.stop {
        return block_on(instance::stop(&wanted));
    }
    let ports = ports()?;
    let dir = folder::prepare(&wanted)?;
    if arguments.detach {
        return block_on(instance::detach(&dir, &arguments.source));
    }
    if arguments.detached {
        // Its own session: it outlives the terminal that it was started from.
        nix::unistd::setsid()?;
    }
    let config = configure(&dir, ports, &arguments.source)?;
    telemetry::start_logging(&config.logging)?;
    block_on(run(&dir, ports, config))
}

fn ports() -> Result<DevPorts, Failure> {
    let rule = "INBOXD_DEV_PORT_BASE: must be a number from 1 to 65530; six ports from it on are used";
    let base: u16 = match env::var("INBOXD_DEV_PORT_BASE") {
        Ok(text) if !text.is_empty() => text.parse().map_err(|_| rule)?,
        _ => DEFAULT_PORT_BASE,
    };
    if base == 0 || base > u16::MAX - 5 {
        return Err(rule.into());
    }
    Ok(DevPorts {
        api: base,
        imaps: base + 1,
        submission: base + 2,
        inbound: base + 3,
        metrics: base + 4,
        login_policy: base + 5,
    })
}

/// Writes the daemon's configuration into the folder, so that every other command can be used with it, too.
fn configure(dir: &Path, ports: DevPorts, source: &Source) -> Result<Config, Failure> {
    let layout = Layout::of(dir)?;
    let certificates = tls::ensure(&layout.tls_dir(), &[HOSTNAME], Machine.now())?;
    let store = dir.join("store");
    folder::make(&store, 0o700)?;
    // The key of Dovecot's administration socket comes before Dovecot's configuration.
    let key_file = layout.doveadm_key_file();
    folder::make(key_file.parent().unwrap_or(dir), 0o755)?;

    let mut written = Source {
        config: None,
        set: Vec::new(),
    }
    .written()?;
    written.api.listen = format!("{HOST}:{}", ports.api);
    written.metrics.listen = format!("{HOST}:{}", ports.metrics);
    written.login_policy.listen = format!("{HOST}:{}", ports.login_policy);
    written.service.default_domain = DEFAULT_DOMAIN.to_owned();
    written.store.url = format!("sqlite:{}", store.join("inboxd.db").display());
    written.store.sealing_key_file = store.join("sealing.key");
    written.maps.dir = dir.join("maps");
    written.mail.root = layout.mail_root();
    (written.mail.uid, written.mail.gid) = layout.mail_owner();
    for (host, port, actual) in [
        (&mut written.imap.host, &mut written.imap.port, ports.imaps),
        (&mut written.smtp.host, &mut written.smtp.port, ports.submission),
        (&mut written.mx.host, &mut written.mx.port, ports.inbound),
    ] {
        HOST.clone_into(host);
        *port = actual;
    }
    written.imap.sessions_max = DEFAULT_SESSIONS.imap;
    written.imap.sessions_per_inbox_max = DEFAULT_SESSIONS.imap_per_inbox;
    written.smtp.sessions_max = DEFAULT_SESSIONS.submission;
    written.smtp.sessions_per_address_max = DEFAULT_SESSIONS.submission_per_address;
    written.smtp.idle_timeout_s = DEFAULT_SESSIONS.smtp_idle_s;
    written.tls.ca_file = certificates.ca_cert;
    written.tls.cert_file = certificates.server_cert;
    written.tls.key_file = certificates.server_key;
    written.dovecot.base_dir = layout.doveadm_socket().parent().unwrap_or(dir).to_owned();
    written.dovecot.doveadm_key_file = key_file;

    written.signer.socket = dir.join(SIGNER_SOCKET);
    written.inbound.socket = dir.join(INBOUND_SOCKET);
    HOSTNAME.clone_into(&mut written.inbound.authserv_id);

    written.bootstrap.file = dir.join(BOOTSTRAP_FILE);

    let file = dir.join("inboxd.toml");
    let text = format!(
        "# Written by inboxd dev at each start. Use it as: inboxd --config {}\n\n",
        file.display()
    );
    fs::write(&file, text + &toml::to_string_pretty(&written)?)
        .map_err(|error| format!("write {}: {error}", file.display()))?;
    let own = Source {
        config: Some(source.config.clone().unwrap_or(file)),
        set: source.set.clone(),
    };
    let mut written = own.written()?;
    // Whatever file was named: here it is looked for.
    written.bootstrap.file = dir.join(BOOTSTRAP_FILE);
    Ok(written.check()?)
}

async fn run(dir: &Path, ports: DevPorts, config: Config) -> Result<(), Failure> {
    // Held until everything has ended: who waits for the folder waits for the daemon's last answers, too.
    let instance = Instance::claim(dir)?;
    let stop = stop_signal()?;
    let mut stop = std::pin::pin!(stop);
    let config = Arc::new(config);

    // The daemon first: Postfix does not start without the tables that the daemon makes.
    let (stop_daemon, mut stopping) = watch::channel(());
    let (ready, is_ready) = oneshot::channel();
    let served = Arc::clone(&config);
    let mut daemon = tokio::spawn(async move {
        let stop = async move { while stopping.changed().await.is_ok() {} };
        // Whoever waits for it has gone, if the daemon failed before.
        daemon::run(&served, stop, || {
            let _ = ready.send(());
        })
        .await
    });
    tokio::select! {
        Ok(()) = is_ready => {}
        ended = &mut daemon => {
            ended??;
            return Err("the daemon ended before it was ready".into());
        }
    }

    let (stop_milters, stopping) = watch::channel(());
    let outcome = match milters(&config, &stopping) {
        Err(failure) => Err(failure),
        Ok(milters) => {
            drop(stopping);
            let outcome = with_mail_servers(dir, ports, &config, &instance, &mut daemon, &mut stop).await;
            // No mail comes any more.
            drop(stop_milters);
            milters.join_all().await;
            outcome
        }
    };
    drop(stop_daemon);
    if !daemon.is_finished() {
        daemon.await??;
    }
    outcome
}

/// Starts the signer and the judge of arriving mail, which the mail servers ask.
fn milters(config: &Config, stopping: &watch::Receiver<()>) -> Result<JoinSet<()>, Failure> {
    let signer = signer::open(config)?;
    let inbound = inbound::open(config, Duration::from_millis(INBOUND_DNS_TIMEOUT_MS))?;
    let stopped =
        |mut stopping: watch::Receiver<()>| async move { while stopping.changed().await.is_ok() {} };
    let mut milters = JoinSet::new();
    if let Some(signer) = signer {
        milters.spawn(signer.serve(stopped(stopping.clone())));
    }
    if let Some(inbound) = inbound {
        milters.spawn(inbound.serve(stopped(stopping.clone())));
    }
    Ok(milters)
}

/// Everything between the start and the stop of the mail servers. They are stopped on every way out.
async fn with_mail_servers(
    dir: &Path,
    ports: DevPorts,
    config: &Config,
    instance: &Instance,
    daemon: &mut tokio::task::JoinHandle<Result<(), daemon::Error>>,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), Failure> {
    let settings = Settings {
        dir: dir.to_owned(),
        maps_dir: config.written.maps.dir.clone(),
        hostname: HOSTNAME.to_owned(),
        postmaster_address: config.postmaster_address()?.to_string(),
        postmaster: config.postmaster.clone(),
        ports: Ports {
            imaps: ports.imaps,
            submission: ports.submission,
            inbound: ports.inbound,
        },
        signer_socket: config.signer_socket.clone(),
        inbound_socket: config.inbound_socket.clone(),
        login_policy_url: config.login_policy.as_ref().map(|policy| policy.url.clone()),
        sessions: config.sessions,
        // No mail leaves the machine, unless it is said where to.
        reach: match &config.reach {
            Reach::World | Reach::OwnDomains => Reach::OwnDomains,
            relay @ Reach::Relay { .. } => relay.clone(),
        },
        message_size_limit: config.written.mail.message_max_octets,
    };
    let mut stack = PrivateStack::start(&settings, &Machine, &Machine).await?;
    let outcome = async {
        let bootstrap = daemon::bootstrap::read(&dir.join(BOOTSTRAP_FILE))?
            .ok_or("the daemon has not written what it should")?;
        instance.ready()?;
        greet(dir, ports, &bootstrap)?;
        tokio::select! {
            () = stop => Ok(()),
            failure = stack.failed() => Err(failure.into()),
            ended = &mut *daemon => match ended? {
                Ok(()) => Err("the daemon ended by itself".into()),
                Err(error) => Err(error.into()),
            },
        }
    }
    .await;
    note("stopping");
    stack.stop().await;
    outcome
}

/// What a person needs, once. No key is among it: where this goes to may be a log.
fn greet(dir: &Path, ports: DevPorts, bootstrap: &Bootstrap) -> Result<(), Failure> {
    let DevPorts {
        imaps,
        submission,
        inbound,
        ..
    } = ports;
    let Bootstrap {
        api,
        tenant,
        ca_file,
        metrics,
        default_domain,
        ..
    } = bootstrap;
    let trust = ca_file
        .as_ref()
        .map_or_else(String::new, |file| format!(" --cacert {}", file.display()));
    let ca = ca_file
        .as_ref()
        .map_or_else(|| "the system's".to_owned(), |file| file.display().to_string());
    let keys = dir.join(BOOTSTRAP_FILE);
    let keys = keys.display();
    let demo = match tenant {
        Some(_) => format!("its key is in {keys}"),
        None => "none: it was deleted".to_owned(),
    };
    print(&format!(
        "
inboxd is ready. Everything is in {dir}; Ctrl-C stops it.

  API          {api}   reference: {api}/docs   metrics: {metrics}
  IMAP         {HOST}:{imaps}, TLS
  submission   {HOST}:{submission}, STARTTLS and login
  inbound      {HOST}:{inbound}, for mail to {default_domain}
  CA           {ca}
  demo tenant  {demo}

Create an inbox:

  curl -sS -X POST {api}/v1/inboxes -H \"X-API-Key: $(sed -n 's/.*\"key\": \"\\(tk_[^\"]*\\)\".*/\\1/p' {keys})\" \\
    -H 'Content-Type: application/json' -d '{{\"username\":\"scout\"}}'

Use it, with the imapPassword of the answer as PASSWORD:

  curl -sS{trust} -u scout@{default_domain}:PASSWORD imaps://{HOST}:{imaps}/
  printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -sS --ssl-reqd{trust} -u scout@{default_domain}:PASSWORD \\
    --mail-from scout@{default_domain} --mail-rcpt scout@{default_domain} -T - smtp://{HOST}:{submission}
  curl -sS{trust} -u scout@{default_domain}:PASSWORD 'imaps://{HOST}:{imaps}/INBOX;UID=1'

Prove that it works:  {program} verify scout@{default_domain} --config {config}
",
        dir = dir.display(),
        program = env::args().next().unwrap_or_else(|| "inboxd".to_owned()),
        config = dir.join("inboxd.toml").display(),
    ))
}
