//! The daemon: opens everything in order, serves, and drains.

pub mod bootstrap;
mod certificate;
pub mod control;
mod domains;
pub mod import;
mod local_socket;
mod replace_hashes;
pub mod sealing_key;
mod tenants;

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use sqlx::postgres::PgConnectOptions;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use zeroize::Zeroizing;

use crate::{
    clock::{Clock, Machine},
    config::{self, Config, StoreUrl},
    dns::Dns,
    http::{self, App, Endpoints, Host, Part, Probe, ReadinessProbes, server},
    mail::{
        self,
        auth_socket::{AuthSocket, AuthSocketError},
        doveadm,
        doveadm::Doveadm,
        wire::Endpoint,
    },
    maps::{self, Maps},
    milter,
    model::{
        address::Address,
        ids::TenantId,
        maps::{Answer, BarrierMode},
    },
    ops::{Service, idempotency, removal},
    publish::{self, Barrier, Blind, LoginViewer, Publisher, SessionEnder, SessionsError},
    stack::{
        key,
        render::{ADMINISTRATION_SOCKET, LOOKUP_SOCKET},
        tls::TlsError,
    },
    store::{self, Db, OnlyDaemon},
    telemetry,
    throttle::{self, Shares},
};

/// How long a mail server may take to greet before `/readyz` calls it down.
const GREETING_TIMEOUT_MS: u64 = 2_000;
/// How long Dovecot may take to answer for a login before `/readyz` calls it down.
const LOOK_UP_TIMEOUT_MS: u64 = 2_000;
/// Where the kernel says how many inotify instances a user may have.
const INOTIFY_INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Pause between two clean-ups of expired answers.
const CLEANUP_PAUSE_S: u64 = 3_600;
/// Pause between two passes that remove deleted rows.
const REMOVAL_PAUSE_S: u64 = 30;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used on this system.
    #[error("use the configuration")]
    Config(#[from] config::Error),
    /// The private CA cannot make the mail servers' certificate.
    #[error("make the mail servers' certificate in tls.private_ca_dir")]
    Certificate(#[from] TlsError),
    /// The password for the store cannot be read.
    #[error("store.password_file: read {}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no password for the store.
    #[error("store.password_file: {} is empty", .0.display())]
    EmptyPassword(PathBuf),
    /// The store does not open.
    #[error("open the store {0}")]
    Store(String, #[source] store::Error),
    /// The store does not answer.
    #[error("use the store")]
    UseStore(#[from] store::Error),
    /// The sealing key cannot be used.
    #[error("use the sealing key")]
    SealingKey(#[from] sealing_key::Error),
    /// The maps do not open.
    #[error("open the maps")]
    Maps(#[from] maps::Error),
    /// The maps cannot be brought to the store's state.
    #[error("bring the maps to the store's state")]
    Publish(#[from] publish::Error),
    /// The key of Dovecot's administration socket cannot be used.
    #[error("prepare to end sessions")]
    DoveadmKey(#[from] key::KeyError),
    /// There is no client of Dovecot's administration socket.
    #[error("prepare to end sessions")]
    Doveadm(#[from] doveadm::DoveadmError),
    /// The default domain has no signing keys and none can be made.
    #[error("make the signing keys of the default domain")]
    DefaultKeys(#[from] domains::Error),
    /// The bootstrap file cannot be made.
    #[error("make the file that bootstrap.file names")]
    Bootstrap(#[from] bootstrap::Error),
    /// A listener cannot be opened.
    #[error("listen on {address} ({key})")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Which key says so.
        key: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A folder cannot be made.
    #[error("make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A task of the daemon failed.
    #[error("a task of the daemon failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Opens the store that the configuration names.
pub async fn open_store(config: &Config) -> Result<Db, Error> {
    let opened = match &config.store {
        StoreUrl::Sqlite(file) => Db::open_sqlite(file).await,
        StoreUrl::Postgres {
            options,
            password_file,
        } => Db::open_postgres(with_password(options, password_file.as_deref()).await?).await,
    };
    opened.map_err(|source| Error::Store(store_name(config), source))
}

/// Takes the store that the configuration names for this daemon alone.
async fn take_store(config: &Config) -> Result<OnlyDaemon, Error> {
    let taken = match &config.store {
        StoreUrl::Sqlite(file) => OnlyDaemon::of_sqlite(file),
        StoreUrl::Postgres {
            options,
            password_file,
        } => OnlyDaemon::of_postgres(with_password(options, password_file.as_deref()).await?).await,
    };
    taken.map_err(|source| Error::Store(store_name(config), source))
}

/// What the store is called in messages.
fn store_name(config: &Config) -> String {
    match &config.store {
        StoreUrl::Sqlite(file) => file.display().to_string(),
        StoreUrl::Postgres { options, .. } => {
            let host = options.get_socket().map_or_else(
                || options.get_host().to_owned(),
                |folder| folder.display().to_string(),
            );
            format!("{} on {host}", options.get_database().unwrap_or("postgres"))
        }
    }
}

async fn with_password(
    options: &PgConnectOptions,
    password_file: Option<&Path>,
) -> Result<PgConnectOptions, Error> {
    let options = options.clone();
    Ok(match password_file {
        Some(file) => options.password(&password_in(file).await?),
        None => options,
    })
}

/// The password in a file, without the newline that editors leave at its end.
async fn password_in(file: &Path) -> Result<Zeroizing<String>, Error> {
    let text = tokio::fs::read_to_string(file).await;
    let text = Zeroizing::new(text.map_err(|source| Error::PasswordFile {
        path: file.to_owned(),
        source,
    })?);
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::EmptyPassword(file.to_owned())),
        password => Ok(Zeroizing::new(password.to_owned())),
    }
}

/// Runs the daemon until `stop` completes; every request that was accepted by then is answered first. `ready` is
/// called once the maps are right and the API listens.
pub async fn run(config: &Config, stop: impl Future<Output = ()>, ready: impl FnOnce()) -> Result<(), Error> {
    let clock = Arc::new(Machine);
    telemetry::metric::start();
    // Before anything else that takes time: a port that is taken should be known at once.
    let api = listen("api.listen", config.api).await?;
    let metrics_listener = listen_at("metrics.listen", config.metrics).await?;
    let policy_address = config.login_policy.as_ref().map(|policy| policy.listen);
    let policy_listener = listen_at("login_policy.listen", policy_address).await?;

    let certificate = certificate::PrivateCertificate::of(config);
    if let Some(certificate) = &certificate {
        certificate.ensure(&*clock).await?;
    }
    let mut only_daemon = take_store(config).await?;
    let db = open_store(config).await?;
    let sealing = sealing_key::open(&config.sealing_key_file, &db, &*clock).await?;
    let layout = config.maps_layout()?;
    let (control_socket, tenants_socket) = (layout.control_socket(), layout.tenants_socket());
    let maps = Arc::new(tokio::task::spawn_blocking(move || Maps::open(&layout)).await??);
    let sessions: Arc<dyn SessionEnder> = Arc::new(doveadm_client(config)?);
    let (publisher, publishing) = publish::start(publish::Parts {
        db: db.clone(),
        maps: Arc::clone(&maps),
        default_domain: config.settings.default_domain.clone(),
        sessions: Some(sessions),
        barrier: Barrier::new(config.barrier, Arc::new(auth_client(config))),
    })
    .await?;
    forget_unfinished(&db, &clock).await?;
    let (service, writing) = Service::start(
        db.clone(),
        Arc::clone(&clock) as _,
        Arc::clone(&clock) as _,
        sealing,
        config.settings.clone(),
        Dns::new(&config.dns),
    );
    domains::ensure_default_keys(&service, &publisher).await?;
    bootstrap::ensure(config, &service, &publisher).await?;
    let rebuilder = publisher.rebuilder();
    let watcher = publisher.clone();
    let replacer = publisher.clone();
    let readiness = Arc::new(probes(config, &db, &maps)?);
    let app = App {
        service: Arc::clone(&service),
        publisher,
        endpoints: Arc::new(endpoints(config)),
        readiness,
        pages: Arc::default(),
    };

    let shares = imap_shares(config, &db, Arc::clone(&clock) as _)?;

    let (stop_side_tasks, stopped) = tokio::sync::watch::channel(());
    let cleaning = tokio::spawn(clean_up(Arc::clone(&service), stopped.clone()));
    let watching = tokio::spawn(domains::watch(Arc::clone(&service), watcher, stopped.clone()));
    let replacing = replace_hashes(config, service, replacer, &stopped).await?;
    let (router, serving_metrics) = with_metrics(app, metrics_listener, config, &stopped);
    let policy_router = throttle::router(Arc::clone(&clock) as _, shares);
    let serving_policy =
        policy_listener.map(|listener| serve_beside(listener, policy_router, config, &stopped));
    let renewing = tokio::spawn(certificate::renew(certificate, clock as _, stopped.clone()));
    let serving_locally = [
        control::socket(control_socket, rebuilder),
        tenants::socket(tenants_socket, db.clone()),
    ]
    .map(|socket| local_socket::serve(socket, stopped.clone()));

    tracing::info!(api = %config.api, default_domain = %config.settings.default_domain, "ready");
    ready();
    let mut taken = None;
    let until = async {
        tokio::select! {
            () = stop => {}
            error = only_daemon.lost() => {
                tracing::error!("another inboxd has taken the store; this one stops");
                taken = Some(error);
            }
        }
    };
    server::serve(api, router, &config.http, until).await;

    // Everything that holds a publisher or a claim is gone or going: what they asked for is finished first.
    drop(stop_side_tasks);
    cleaning.await?;
    watching.await?;
    renewing.await?;
    let serving = [serving_metrics, serving_policy].into_iter().flatten();
    for task in replacing.into_iter().chain(serving) {
        task.await?;
    }
    // A rebuild that is under way ends with the publisher, and its caller is told.
    publishing.await?;
    for task in serving_locally.into_iter().chain(writing) {
        task.await?;
    }
    db.close().await;
    if let Some(error) = taken {
        return Err(Error::Store(store_name(config), error));
    }
    tracing::info!("stopped");
    Ok(())
}

/// The tasks that replace costly password hashes, if they are to be replaced.
async fn replace_hashes(
    config: &Config,
    service: Arc<Service>,
    publisher: Publisher,
    stopped: &tokio::sync::watch::Receiver<()>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let layout = config.maps_layout()?;
    if !config.replace_costly_hashes {
        replace_hashes::remove_pipe(layout).await?;
        return Ok(Vec::new());
    }
    let parts = replace_hashes::Parts {
        layout,
        clock: Arc::clone(&service.clock),
        service,
        publisher,
    };
    Ok(replace_hashes::start(parts, stopped.clone()).into())
}

/// The API, and the metrics: on a listener of their own, which also says which parts work, or with the API.
fn with_metrics(
    app: App,
    listener: Option<TcpListener>,
    config: &Config,
    stopped: &tokio::sync::watch::Receiver<()>,
) -> (Router, Option<JoinHandle<()>>) {
    let metrics = http::metrics::router();
    let Some(listener) = listener else {
        return (http::router(app, &config.http, metrics), None);
    };
    let metrics = metrics.merge(http::readiness_in_detail(Arc::clone(&app.readiness)));
    (
        http::router(app, &config.http, Router::new()),
        Some(serve_beside(listener, metrics, config, stopped)),
    )
}

/// Serves beside the API until the side tasks are to stop.
fn serve_beside(
    listener: TcpListener,
    router: Router,
    config: &Config,
    stopped: &tokio::sync::watch::Receiver<()>,
) -> JoinHandle<()> {
    let until = wait_until_closed(stopped.clone());
    let settings = config.http.clone();
    tokio::spawn(async move { server::serve(listener, router, &settings, until).await })
}

/// A listener where the configuration names an address.
async fn listen_at(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Error> {
    match address {
        Some(address) => listen(key, address).await.map(Some),
        None => Ok(None),
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, key, source })
}

/// Requests that an earlier run did not finish can be made again.
async fn forget_unfinished(db: &Db, clock: &Machine) -> Result<(), Error> {
    let forgotten = idempotency::forget_unfinished(db, clock.now()).await?;
    if forgotten > 0 {
        tracing::info!(
            requests = forgotten,
            "forgot requests that an earlier run did not finish"
        );
    }
    Ok(())
}

fn endpoints(config: &Config) -> Endpoints {
    let host = |server: &Endpoint| Host {
        host: server.known_as.host.clone(),
        port: server.known_as.port,
    };
    Endpoints {
        imap: host(&config.imap),
        smtp: host(&config.smtp),
    }
}

/// A client of Dovecot's administration socket, and its key, which is made on first start.
fn doveadm_client(config: &Config) -> Result<Doveadm, Error> {
    let dovecot = &config.written.dovecot;
    let key = key::ensure(&dovecot.doveadm_key_file, &Machine)?;
    Ok(Doveadm::new(&dovecot.base_dir.join(ADMINISTRATION_SOCKET), &key)?)
}

impl SessionEnder for Doveadm {
    fn end_sessions<'a>(
        &'a self,
        login: &'a Address,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionsError>> + Send + 'a>> {
        Box::pin(async move {
            let ended = Doveadm::end_sessions(self, login).await;
            ended.map(drop).map_err(|error| SessionsError(error.into()))
        })
    }
}

/// What keeps IMAP sessions within their shares, where Dovecot asks.
fn imap_shares(config: &Config, db: &Db, clock: Arc<dyn Clock>) -> Result<Option<Shares>, Error> {
    let Some(limits) = config.imap_shares else {
        return Ok(None);
    };
    let directory = SessionDirectory {
        doveadm: doveadm_client(config)?,
        db: db.clone(),
    };
    Ok(Some(Shares::new(limits, Arc::new(directory), clock)))
}

/// Who is connected, by Dovecot, and whose they are, by the store.
struct SessionDirectory {
    doveadm: Doveadm,
    db: Db,
}

impl throttle::Directory for SessionDirectory {
    fn sessions(&self) -> throttle::DirectoryAnswer<'_, HashMap<Box<str>, u32>> {
        Box::pin(async move {
            let sessions = self.doveadm.sessions_by_login().await?;
            Ok(sessions.ok_or("no Dovecot listens on its administration socket")?)
        })
    }

    fn tenants<'a>(
        &'a self,
        logins: &'a [Box<str>],
    ) -> throttle::DirectoryAnswer<'a, HashMap<Box<str>, TenantId>> {
        Box::pin(async move {
            let addresses: Vec<Address> = logins
                .iter()
                .filter_map(|login| Address::parse(login).ok())
                .collect();
            let tenants = self.db.look().await?.tenants_at(&addresses).await?;
            let by_login = tenants
                .into_iter()
                .map(|(address, tenant)| (address.to_string().into(), tenant));
            Ok(by_login.collect())
        })
    }
}

/// A client of Dovecot's authentication service.
fn auth_client(config: &Config) -> AuthSocket {
    let base_dir = &config.written.dovecot.base_dir;
    AuthSocket::new(
        &base_dir.join(LOOKUP_SOCKET),
        &base_dir.join(ADMINISTRATION_SOCKET),
    )
}

/// Sees logins through Dovecot, for whoever checks what it answers.
pub fn login_viewer(config: &Config) -> Arc<dyn LoginViewer> {
    Arc::new(auth_client(config))
}

impl LoginViewer for AuthSocket {
    fn look_up<'a>(
        &'a self,
        logins: &'a [Address],
        deadline: Instant,
        told: &'a mut (dyn FnMut(usize, Answer) + Send),
    ) -> Pin<Box<dyn Future<Output = Result<(), Blind>> + Send + 'a>> {
        Box::pin(async move {
            let looked_up = AuthSocket::look_up(self, logins, deadline, told).await;
            looked_up.map_err(|error| match error {
                AuthSocketError::NoServer(_) => Blind::NoServer(Arc::new(error)),
                AuthSocketError::NoListener(_) => Blind::NoListener(Arc::new(error)),
                AuthSocketError::Exchange { .. }
                | AuthSocketError::Protocol { .. }
                | AuthSocketError::TimedOut { .. } => Blind::NoAnswer(Arc::new(error)),
            })
        })
    }
}

/// Whether logins can be looked up through Dovecot: whether it answers for one, whatever it answers.
async fn sees_logins(
    auth: &AuthSocket,
    login: Address,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut told = None;
    let deadline = Instant::now() + Duration::from_millis(LOOK_UP_TIMEOUT_MS);
    auth.look_up(&[login], deadline, |_, answer| told = Some(answer))
        .await?;
    match told {
        Some(Answer::Found(_) | Answer::Unknown) => Ok(()),
        Some(Answer::Failed) | None => Err("Dovecot cannot read password entries; its log says why".into()),
    }
}

/// Whether the kernel has an inotify instance (inotify(7)) for every session, all of which belong to one user. Without a Dovecot
/// it has; the part of Dovecot says that there is none.
async fn has_inotify_for_sessions(doveadm: &Doveadm) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let limit = tokio::fs::read_to_string(INOTIFY_INSTANCES).await?;
    let sessions = doveadm.sessions().await?.unwrap_or(0);
    Ok(require_inotify_for(sessions, limit.trim().parse()?)?)
}

/// A session without an inotify instance hears of new mail when Dovecot checks for it (`mailbox_idle_check_interval`).
fn require_inotify_for(sessions: u64, limit: u64) -> Result<(), String> {
    if sessions <= limit {
        return Ok(());
    }
    Err(format!(
        "{sessions} IMAP sessions, and fs.inotify.max_user_instances is {limit}: those beyond it hear of new mail seconds \
         late; raise it as packaging/inboxd.sysctl does"
    ))
}

/// What `/readyz` asks.
fn probes(config: &Config, db: &Db, maps: &Arc<Maps>) -> Result<ReadinessProbes, Error> {
    let greeting_limit = Duration::from_millis(GREETING_TIMEOUT_MS);
    let db = db.clone();
    let store: Probe = Box::new(move || {
        let db = db.clone();
        Box::pin(async move { Ok(db.ping().await?) })
    });
    let maps = Arc::clone(maps);
    let writable: Probe = Box::new(move || {
        let maps = Arc::clone(&maps);
        Box::pin(async move { Ok(tokio::task::spawn_blocking(move || maps.probe()).await??) })
    });
    let (imap, ca_file) = (config.imap.clone(), config.certificate.ca_file.clone());
    let auth = (config.barrier != BarrierMode::Off).then(|| auth_client(config));
    let domain = config.settings.default_domain.clone();
    let dovecot: Probe = Box::new(move || {
        let (imap, ca_file, auth) = (imap.clone(), ca_file.clone(), auth.clone());
        let login = Address::parse(&format!("readyz@{domain}"));
        Box::pin(async move {
            let tls = mail::tls::client_config(ca_file.as_deref()).await?;
            mail::imap::greeting(&imap, tls, greeting_limit).await?;
            match auth {
                Some(auth) => sees_logins(&auth, login?).await,
                None => Ok(()),
            }
        })
    });
    let (submission, inbound) = (config.smtp.clone(), config.mx.clone());
    let postfix: Probe = Box::new(move || {
        let (submission, inbound) = (submission.clone(), inbound.clone());
        Box::pin(async move {
            mail::smtp::banner(&submission, greeting_limit).await?;
            mail::smtp::banner(&inbound, greeting_limit).await?;
            Ok(())
        })
    });
    let mut parts = vec![
        Part::new("store", store),
        Part::new("maps", writable),
        Part::new("dovecot", dovecot),
        Part::new("postfix", postfix),
    ];
    let doveadm = doveadm_client(config)?;
    let inotify: Probe = Box::new(move || {
        let doveadm = doveadm.clone();
        Box::pin(async move { has_inotify_for_sessions(&doveadm).await })
    });
    parts.push(Part::new("inotify", inotify));
    let milters = [
        ("signer", &config.signer_socket),
        ("inbound", &config.inbound_socket),
    ];
    parts.extend(milters.into_iter().filter_map(|(name, socket)| {
        let socket = socket.clone()?;
        let probe: Probe = Box::new(move || {
            let socket = socket.clone();
            Box::pin(async move { Ok(milter::check(&socket).await?) })
        });
        Some(Part::new(name, probe))
    }));
    Ok(ReadinessProbes(parts))
}

async fn wait_until_closed(mut stopped: tokio::sync::watch::Receiver<()>) {
    // An error is the closing.
    while stopped.changed().await.is_ok() {}
}

/// Forgets answers that are no longer kept, and removes deleted rows that nothing needs, now and then.
async fn clean_up(service: Arc<Service>, stopped: tokio::sync::watch::Receiver<()>) {
    tokio::join!(
        forget_answers(&service, stopped.clone()),
        remove_deleted(&service, stopped)
    );
}

async fn remove_deleted(service: &Service, stopped: tokio::sync::watch::Receiver<()>) {
    let mut until = std::pin::pin!(wait_until_closed(stopped));
    let mut walk = removal::Walk::default();
    loop {
        match removal::remove_deleted(service, &mut walk).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "removed deleted rows that nothing needs"),
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "cannot remove deleted rows"),
        }
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(Duration::from_secs(REMOVAL_PAUSE_S)) => {}
        }
    }
}

async fn forget_answers(service: &Service, stopped: tokio::sync::watch::Receiver<()>) {
    let mut until = std::pin::pin!(wait_until_closed(stopped));
    loop {
        match idempotency::forget_expired(service).await {
            Ok(0) => {}
            Ok(answers) => tracing::info!(answers, "forgot expired answers of idempotent requests"),
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "cannot forget expired answers"),
        }
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(Duration::from_secs(CLEANUP_PAUSE_S)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::require_inotify_for;

    #[test]
    fn sessions_beyond_the_kernels_limit_are_named() {
        assert_eq!(require_inotify_for(128, 128), Ok(()));
        let down = require_inotify_for(129, 128).unwrap_err();
        assert!(
            down.starts_with("129 IMAP sessions, and fs.inotify.max_user_instances is 128"),
            "{down}"
        );
    }
}
