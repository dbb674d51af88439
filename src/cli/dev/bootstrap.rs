//! The keys and the demo tenant of `inboxd dev`, made once, and the file that tells them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Failure, HOST};
use crate::{
    clock::Machine, config::Config, daemon, ops::keys::create_super_admin, stack::files::write_atomically,
};

/// Name of the file.
const FILE: &str = "bootstrap.json";
/// Name of the demo tenant.
const TENANT_NAME: &str = "Demo";
/// How long the daemon may take to answer one of our calls.
const CALL_TIMEOUT_S: u64 = 30;

/// What `bootstrap.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bootstrap {
    pub(super) api: String,
    pub(super) super_admin_key: String,
    pub(super) tenant: Tenant,
    pub(super) default_domain: String,
    pub(super) imap: Imap,
    pub(super) smtp: Smtp,
    pub(super) mx: Mx,
    pub(super) metrics: String,
    pub(super) ca_file: PathBuf,
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct Tenant {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) key: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Imap {
    host: String,
    port: u16,
    tls: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Smtp {
    host: String,
    port: u16,
    starttls: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Mx {
    host: String,
    port: u16,
}

/// The keys and the tenant of earlier starts, where they still work, or new ones; written to the file.
pub(super) async fn ensure(dir: &Path, config: &Config) -> Result<Bootstrap, Failure> {
    let written = &config.written;
    let api = Api {
        base: format!("http://{}", config.api),
        http: reqwest::Client::builder()
            .timeout(Duration::from_secs(CALL_TIMEOUT_S))
            .build()?,
    };
    let file = dir.join(FILE);
    let earlier: Option<Bootstrap> = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());

    let super_admin_key = match &earlier {
        Some(earlier) if api.works(&earlier.super_admin_key).await? => earlier.super_admin_key.clone(),
        _ => {
            let db = daemon::open_store(config).await?;
            let key = create_super_admin(&db, &Machine, &Machine).await?;
            db.close().await;
            key.expose().to_owned()
        }
    };
    let tenant = match earlier {
        Some(earlier) if api.works(&earlier.tenant.key).await? => earlier.tenant,
        _ => api.create_tenant(&super_admin_key).await?,
    };
    let bootstrap = Bootstrap {
        super_admin_key,
        tenant,
        default_domain: config.settings.default_domain.to_string(),
        imap: Imap {
            host: written.imap.host.clone(),
            port: written.imap.port,
            tls: true,
        },
        smtp: Smtp {
            host: written.smtp.host.clone(),
            port: written.smtp.port,
            starttls: true,
        },
        mx: Mx {
            host: written.mx.host.clone(),
            port: written.mx.port,
        },
        metrics: format!("http://{}/metrics", config.metrics.unwrap_or(config.api)),
        ca_file: config
            .certificate
            .ca_file
            .clone()
            .ok_or_else(|| format!("tls.ca_file: must be set for {HOST}"))?,
        api: api.base,
    };
    let text = serde_json::to_string_pretty(&bootstrap)? + "\n";
    write_atomically(&file, text.as_bytes(), 0o600)?;
    Ok(bootstrap)
}

/// The daemon's own API, as any caller has it.
struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    /// Whether a key is in force.
    async fn works(&self, key: &str) -> Result<bool, Failure> {
        let answer = self
            .http
            .get(format!("{}/v1/me", self.base))
            .header("X-API-Key", key)
            .send()
            .await?;
        Ok(answer.status().is_success())
    }

    async fn create_tenant(&self, super_admin_key: &str) -> Result<Tenant, Failure> {
        let request = self
            .http
            .post(format!("{}/v1/tenants", self.base))
            .header("X-API-Key", super_admin_key);
        let answer = request.json(&json!({ "name": TENANT_NAME })).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        if !status.is_success() {
            return Err(format!("create the demo tenant: {body}").into());
        }
        Ok(serde_json::from_value(body)?)
    }
}
