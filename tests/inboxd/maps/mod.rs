//! The maps and their publisher on a real store: read as Postfix reads them, damaged, filled up, crashed.

mod barrier;
mod check;
mod failures;
mod properties;
mod published;
mod rebuild;
mod repair;

use std::sync::Arc;

use inboxd::{maps::Layout, model::tenant::Tenant, ops::Service};

use crate::support::{
    Folder,
    daemon::Database,
    maps::layout,
    service::{service, tenant},
    store::Store,
};

/// A service with one tenant, and a place for its maps.
pub struct Rig {
    pub store: Store,
    pub service: Arc<Service>,
    pub acme: Tenant,
    pub layout: Layout,
    pub folder: Folder,
}

impl Rig {
    pub async fn new() -> Self {
        let store = Store::new(Database::Sqlite).await;
        let service = service(&store.db);
        let folder = Folder::new();
        Self {
            acme: tenant(&service, "Acme").await,
            layout: layout(&folder),
            service,
            store,
            folder,
        }
    }

    async fn create(&self, username: &str) -> inboxd::model::ids::InboxId {
        let (created, _) = crate::support::service::created(&self.service, self.acme.id, username).await;
        created.inbox.id
    }
}
