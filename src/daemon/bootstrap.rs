//! The bootstrap file: what a program needs to begin, where nobody is there to hand it a key.
//!
//! The first start makes a super admin key and a demo tenant. Later starts keep what still works and bring the rest
//! up to date. A demo tenant that its operator has deleted is not wanted: it does not come back, and the file says
//! `null`. To have another one, delete the file.

mod postmaster;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::postmaster::PostmasterInbox;

use crate::{
    config::Config,
    model::{
        api_key::{Caller, KeyKind, Scope},
        ids::TenantId,
        names::Label,
    },
    ops::{
        self, Service,
        authenticate::authenticate,
        keys::create_super_admin,
        tenants::{self, LimitsChange, Standing},
    },
    publish::{self, Publisher},
    stack::files::{FileError, write_atomically},
    store,
};

/// Name of the demo tenant.
const TENANT_NAME: &str = "Demo";

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// URL of the API.
    pub api: String,
    /// An `sa_` key.
    pub super_admin_key: String,
    /// The demo tenant; none: it was deleted.
    pub tenant: Option<DemoTenant>,
    /// The inbox of the demo tenant that gets the mail for postmaster and abuse; none: another address does.
    pub postmaster: Option<PostmasterInbox>,
    /// The domain of inboxes that name none.
    pub default_domain: String,
    /// IMAP with implicit TLS.
    pub imap: Imap,
    /// Submission with STARTTLS.
    pub smtp: Smtp,
    /// SMTP as other mail servers speak it.
    pub mx: Mx,
    /// URL of the metrics.
    pub metrics: String,
    /// PEM file of the CA to trust; none: the system's.
    pub ca_file: Option<PathBuf>,
}

/// The demo tenant.
#[derive(Serialize, Deserialize)]
pub struct DemoTenant {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// A `tk_` key.
    pub key: String,
}

/// Where IMAP is.
#[derive(Serialize, Deserialize)]
pub struct Imap {
    /// Host name, as in the certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Always: TLS from the first octet.
    pub tls: bool,
}

/// Where submission is.
#[derive(Serialize, Deserialize)]
pub struct Smtp {
    /// Host name, as in the certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Always: TLS after STARTTLS.
    pub starttls: bool,
}

/// Where other mail servers deliver.
#[derive(Serialize, Deserialize)]
pub struct Mx {
    /// Host name, as in the certificate.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What counts of an earlier file; the rest is made anew.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Earlier {
    super_admin_key: String,
    tenant: Option<DemoTenant>,
    /// Files of earlier releases do not have it.
    #[serde(default)]
    postmaster: Option<PostmasterInbox>,
}

/// Why there is no bootstrap file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there and cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file holds something else. What exactly is wrong is not told: it might be a key.
    #[error("{} is not what inboxd writes there: move it away, or name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("write it")]
    Write(#[from] FileError),
    /// A key or the tenant cannot be looked up or made.
    #[error("make its keys")]
    Keys(#[from] ops::Error),
    /// The store does not answer.
    #[error("make its keys")]
    Store(#[from] store::Error),
    /// The postmaster's inbox cannot be published.
    #[error("make the postmaster's inbox")]
    Publish(#[from] publish::Error),
    /// A task of the daemon failed.
    #[error("a task of the daemon failed")]
    Task(#[from] tokio::task::JoinError),
}

/// What the file holds; none, where there is no file.
pub fn read(file: &Path) -> Result<Option<Bootstrap>, Error> {
    parse(file)
}

fn parse<T: for<'de> Deserialize<'de>>(file: &Path) -> Result<Option<T>, Error> {
    let path = || file.to_owned();
    match fs::read(file) {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(Error::Foreign { path: path() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path(), source }),
    }
}

/// Creates or repairs the file, if the configuration names one, and reports in the log if the postmaster has no inbox.
pub(super) async fn ensure(config: &Config, service: &Service, publisher: &Publisher) -> Result<(), Error> {
    if let Some(file) = &config.bootstrap_file {
        ensure_file(file, config, service, publisher).await?;
    }
    postmaster::warn_if_missing(config, service).await
}

async fn ensure_file(
    file: &Path,
    config: &Config,
    service: &Service,
    publisher: &Publisher,
) -> Result<(), Error> {
    let path = file.to_owned();
    let earlier: Option<Earlier> = tokio::task::spawn_blocking(move || parse(&path)).await??;
    let is_first = earlier.is_none();
    let (earlier_key, earlier_tenant, earlier_postmaster) = match earlier {
        Some(earlier) => (
            Some(earlier.super_admin_key),
            Some(earlier.tenant),
            earlier.postmaster,
        ),
        None => (None, None, None),
    };

    let (super_admin_key, operator) = super_admin(service, earlier_key).await?;
    let tenant = match earlier_tenant {
        None => Some(new_tenant(service, &operator).await?),
        Some(None) => None,
        Some(Some(tenant)) => standing_tenant(service, &operator, tenant).await?,
    };
    let postmaster = match &tenant {
        Some(tenant) => {
            let tenant = TenantId(tenant.id);
            postmaster::ensure(config, service, publisher, tenant, earlier_postmaster).await?
        }
        None => None,
    };
    let bootstrap = Bootstrap {
        postmaster,
        ..told(config, super_admin_key, tenant)
    };
    let text = serde_json::to_string_pretty(&bootstrap).map_err(|error| FileError {
        path: file.to_owned(),
        source: error.into(),
    })? + "\n";
    let path = file.to_owned();
    tokio::task::spawn_blocking(move || write_atomically(&path, text.as_bytes(), 0o600)).await??;
    if is_first {
        tracing::info!(file = %file.display(), "made a super admin key and a demo tenant");
    }
    Ok(())
}

/// A super admin key, the earlier one if it works, and who calls with it.
async fn super_admin(service: &Service, earlier: Option<String>) -> Result<(String, Caller), Error> {
    if let Some(key) = earlier {
        match authenticate(service, &key).await {
            Ok(caller) if caller.scope.kind() == KeyKind::SuperAdmin => return Ok((key, caller)),
            Ok(_) | Err(ops::Error::InvalidApiKey | ops::Error::TenantSuspended) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let made = create_super_admin(&service.db, &*service.clock, &*service.entropy).await?;
    let caller = authenticate(service, made.expose()).await?;
    Ok((made.expose().to_owned(), caller))
}

async fn new_tenant(service: &Service, operator: &Caller) -> Result<DemoTenant, Error> {
    let name = Label::parse(TENANT_NAME).map_err(|_| ops::Error::Task("the demo tenant has no name"))?;
    let made = tenants::create(service, operator, name, LimitsChange::default()).await?;
    let (tenant, key) = made.commit().await?;
    Ok(DemoTenant {
        id: tenant.id.0,
        name: tenant.name.to_string(),
        key: key.expose().to_owned(),
    })
}

/// What to write of the tenant of an earlier start: the same, with another key if its own works no more; none, if it
/// was deleted; a new one, if this is another store.
async fn standing_tenant(
    service: &Service,
    operator: &Caller,
    earlier: DemoTenant,
) -> Result<Option<DemoTenant>, Error> {
    let id = TenantId(earlier.id);
    let tenant = match tenants::standing(service, operator, id).await? {
        Standing::There(tenant) => tenant,
        Standing::Deleted => return Ok(None),
        Standing::Unknown => return Ok(Some(new_tenant(service, operator).await?)),
    };
    let key = match authenticate(service, &earlier.key).await {
        // A suspended tenant's key works again when it is resumed.
        Err(ops::Error::TenantSuspended) => earlier.key,
        Ok(caller) if caller.scope == (Scope::Tenant { tenant: id }) => earlier.key,
        Ok(_) | Err(ops::Error::InvalidApiKey) => {
            let made = tenants::create_key(service, operator, id).await?;
            made.expose().to_owned()
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Some(DemoTenant {
        id: earlier.id,
        name: tenant.name.to_string(),
        key,
    }))
}

fn told(config: &Config, super_admin_key: String, tenant: Option<DemoTenant>) -> Bootstrap {
    let [imap, smtp, mx] = [&config.imap, &config.smtp, &config.mx].map(|server| server.known_as.clone());
    Bootstrap {
        api: config.api_url.clone(),
        super_admin_key,
        tenant,
        postmaster: None,
        default_domain: config.settings.default_domain.to_string(),
        imap: Imap {
            host: imap.host,
            port: imap.port,
            tls: true,
        },
        smtp: Smtp {
            host: smtp.host,
            port: smtp.port,
            starttls: true,
        },
        mx: Mx {
            host: mx.host,
            port: mx.port,
        },
        metrics: config.metrics_url.clone(),
        ca_file: config.certificate.ca_file.clone(),
    }
}
