//! The use cases without HTTP: a [`Service`] on a store.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use inboxd::{
    clock::{Clock, Entropy, Machine},
    dns::{self, Dns},
    model::{
        address::LocalPart,
        api_key::{Caller, Scope},
        dns_records::SpfTerms,
        ids::{KeyId, TenantId, WorkspaceId},
        limits::Limits,
        maps::MapKey,
        names::Label,
        sealing::SealingKey,
        tenant::Tenant,
    },
    ops::{
        DomainSettings, Error, Service, Settings,
        create_inbox::{Created, Outcome, Request, create_inbox},
        tenants,
    },
    store::Db,
};

use super::{
    daemon::DEFAULT_DOMAIN,
    store::{domain, fresh_id},
};

/// What a service of a test works with beside its store.
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub dns: dns::Settings,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            clock: Arc::new(Machine),
            entropy: Arc::new(Machine),
            dns: dns::Settings {
                // No server is there, for tests that ask no DNS.
                servers: vec![([127, 0, 0, 1], 9).into()],
                timeout: Duration::from_millis(100),
            },
        }
    }
}

pub fn service(db: &Db) -> Arc<Service> {
    service_of(db, Parts::default())
}

/// The same with these parts.
pub fn service_of(db: &Db, parts: Parts) -> Arc<Service> {
    let settings = Settings {
        default_domain: domain(DEFAULT_DOMAIN),
        reserved_usernames: BTreeSet::new(),
        tombstone_days: 90,
        tombstones_per_tenant: 10_000,
        addresses_per_inbox: 100,
        domains: DomainSettings {
            mx_host: "mail.inboxd.test".to_owned(),
            spf: SpfTerms::parse("mx").unwrap(),
            pending_days: 14,
            handover_notice_seconds: 259_200,
            check_seconds: 3600,
        },
        default_limits: Limits::default(),
        reveal_passwords: true,
    };
    let sealing = SealingKey::generate(&Machine);
    let (service, _writing) = Service::start(
        db.clone(),
        parts.clock,
        parts.entropy,
        sealing,
        settings,
        Dns::new(&parts.dns),
    );
    service
}

pub fn super_admin() -> Caller {
    caller(Scope::SuperAdmin)
}

pub fn tenant_caller(tenant: TenantId) -> Caller {
    caller(Scope::Tenant { tenant })
}

fn caller(scope: Scope) -> Caller {
    Caller {
        key: KeyId(fresh_id()),
        scope,
    }
}

pub async fn tenant(service: &Service, name: &str) -> Tenant {
    let name = Label::parse(name).unwrap();
    let made = tenants::create(service, &super_admin(), name, tenants::LimitsChange::default()).await;
    made.unwrap().commit().await.unwrap().0
}

/// Asks for an inbox.
pub async fn create(
    service: &Service,
    tenant: TenantId,
    workspace: Option<WorkspaceId>,
    username: &str,
) -> Result<Outcome, Error> {
    let request = Request {
        username: Some(LocalPart::parse(username).unwrap()),
        workspace,
        ..Request::default()
    };
    create_inbox(service, &tenant_caller(tenant), &request).await
}

/// A new inbox, acknowledged, and what is to be published.
pub async fn created(service: &Service, tenant: TenantId, username: &str) -> (Created, Vec<MapKey>) {
    match create(service, tenant, None, username).await.unwrap() {
        Outcome::Created(changed) => (changed.value, changed.publish),
        Outcome::Existing(inbox) => panic!("existed: {inbox:?}"),
    }
}
