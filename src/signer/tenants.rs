//! Whose the inboxes are that have sessions: asked of the daemon, because the maps do not say it.
//!
//! HTTP over a UNIX socket in the signer's folder of the maps ([`Layout::tenants_socket`]). So the signer needs no network, and
//! only the daemon's user and root may connect.
//!
//! [`Layout::tenants_socket`]: crate::maps::Layout::tenants_socket

use std::{collections::HashMap, path::Path};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::ids::{InboxId, TenantId};

/// The path of the one request, a POST.
pub const PATH: &str = "/tenants";
/// Inboxes in one request.
pub const INBOXES_MAX: usize = 256;

/// What is asked: at most [`INBOXES_MAX`] inboxes.
#[derive(Serialize, Deserialize, Debug)]
pub struct Question {
    /// Their ids.
    pub inboxes: Vec<Uuid>,
}

/// The answer.
#[derive(Serialize, Deserialize, Debug)]
pub struct Found {
    /// The tenant's id by the inbox's. Inboxes that the store does not have are left out.
    pub tenants: HashMap<Uuid, Uuid>,
}

/// A question that was not answered.
pub type Unanswered = Box<dyn std::error::Error + Send + Sync>;

/// Knows whose inboxes are.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// The tenants of at most [`INBOXES_MAX`] inboxes; those that do not exist are left out.
    async fn tenants_of(&self, inboxes: &[InboxId]) -> Result<HashMap<InboxId, TenantId>, Unanswered>;
}

/// Asks the daemon.
#[derive(Debug)]
pub struct Daemon {
    http: reqwest::Client,
}

impl Daemon {
    /// A client of the daemon's socket. Connects when it is used, so the daemon need not be running.
    pub fn new(socket: &Path) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            // A connection that is kept is of no use to a daemon that was started again.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { http })
    }
}

#[async_trait]
impl Tenants for Daemon {
    async fn tenants_of(&self, inboxes: &[InboxId]) -> Result<HashMap<InboxId, TenantId>, Unanswered> {
        let question = Question {
            inboxes: inboxes.iter().map(|inbox| inbox.0).collect(),
        };
        let request = self.http.post(format!("http://localhost{PATH}")).json(&question);
        let found: Found = request.send().await?.error_for_status()?.json().await?;
        let tenants = found.tenants.into_iter();
        Ok(tenants
            .map(|(inbox, tenant)| (InboxId(inbox), TenantId(tenant)))
            .collect())
    }
}
