//! Stores on both databases, and things in them.

use std::{str::FromStr as _, sync::Arc};

use inboxd::{
    clock::{Clock as _, Machine, Timestamp, new_id},
    model::{
        address::{Address, DomainName, LocalPart},
        ids::{InboxId, TenantId, WorkspaceId},
        limits::Limits,
        made::Made,
        maps::AddressState,
        metadata::Metadata,
        names::{Label, Slug},
        password::PasswordHash,
        tenant::Tenant,
        workspace::Workspace,
    },
    store::{Claimant, Db, KeptAnswer, NewInbox, NewSecrets, Tx},
};
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use super::{Folder, daemon::Database};

/// A store of a test, empty at first.
#[derive(Clone, Debug)]
pub struct Store {
    pub db: Db,
    pub url: String,
    _folder: Arc<Folder>,
}

impl Store {
    pub async fn new(database: Database) -> Self {
        let folder = Folder::new();
        let url = database.url(folder.path()).await;
        Self {
            db: open(&url).await,
            url,
            _folder: Arc::new(folder),
        }
    }

    /// A tenant with its default workspace, written.
    pub async fn tenant(&self, name: &str, limits: Limits) -> Tenant {
        let mut tx = self.db.write().await.unwrap();
        let tenant = add_tenant(&mut tx, name, limits).await;
        tx.commit().await.unwrap();
        tenant
    }

    /// A further workspace, written. Not counted by its tenant.
    pub async fn workspace(&self, tenant: &Tenant, slug: &str) -> Workspace {
        let workspace = workspace_of(tenant.id, WorkspaceId(fresh_id()), slug);
        let mut tx = self.db.write().await.unwrap();
        assert!(tx.insert_workspace(&workspace).await.unwrap());
        tx.commit().await.unwrap();
        workspace
    }

    /// An inbox with its address in a workspace, written.
    pub async fn inbox(&self, tenant: &Tenant, workspace: WorkspaceId, email: &str) -> InboxId {
        self.inbox_requested(tenant, workspace, email, None).await
    }

    /// The same, for a request that named this username.
    pub async fn inbox_requested(
        &self,
        tenant: &Tenant,
        workspace: WorkspaceId,
        email: &str,
        requested: Option<&str>,
    ) -> InboxId {
        let mut tx = self.db.write().await.unwrap();
        let id = add_inbox(&mut tx, tenant, workspace, email, requested).await;
        tx.commit().await.unwrap();
        id
    }
}

/// A claim for a tenant's default workspace.
pub fn at_home(tenant: &Tenant) -> Claimant {
    Claimant::workspace(tenant.id, tenant.default_workspace)
}

/// Opens a store by its URL.
pub async fn open(url: &str) -> Db {
    match url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(file.as_ref()).await.unwrap(),
        None => Db::open_postgres(PgConnectOptions::from_str(url).unwrap())
            .await
            .unwrap(),
    }
}

/// Runs a test on a new store of each database.
pub async fn on_both(test: impl AsyncFn(Store)) {
    for database in Database::ALL {
        // Shown only if the test fails.
        println!("on {database:?}");
        test(Store::new(database).await).await;
    }
}

pub async fn add_tenant(tx: &mut Tx, name: &str, limits: Limits) -> Tenant {
    let tenant = Tenant {
        id: TenantId(fresh_id()),
        name: Label::parse(name).unwrap(),
        default_workspace: WorkspaceId(fresh_id()),
        limits,
        inbox_count: 0,
        workspace_count: 1,
        suspended_at: None,
        created_at: Machine.now(),
    };
    tx.insert_tenant(&tenant).await.unwrap();
    let default = workspace_of(tenant.id, tenant.default_workspace, "default");
    assert!(tx.insert_workspace(&default).await.unwrap());
    tenant
}

/// A workspace that is not written yet.
pub fn workspace_of(tenant: TenantId, id: WorkspaceId, slug: &str) -> Workspace {
    Workspace {
        id,
        tenant,
        name: Label::parse(slug).unwrap(),
        slug: Slug::parse(slug).unwrap(),
        is_default: false,
        inbox_count: 0,
        domain_count: 0,
        created_at: Machine.now(),
    }
}

pub async fn add_inbox(
    tx: &mut Tx,
    tenant: &Tenant,
    workspace: WorkspaceId,
    email: &str,
    requested: Option<&str>,
) -> InboxId {
    let (id, now, canonical) = (InboxId(fresh_id()), Machine.now(), address(email));
    assert!(
        tx.claim_address(
            &canonical,
            Claimant::workspace(tenant.id, workspace),
            id,
            Some(now),
            now
        )
        .await
        .unwrap(),
        "{email} is taken"
    );
    insert_inbox(tx, tenant, workspace, &canonical, requested, id, now).await;
    id
}

/// The row alone; the address is claimed elsewhere.
pub async fn insert_inbox(
    tx: &mut Tx,
    tenant: &Tenant,
    workspace: WorkspaceId,
    canonical: &Address,
    requested: Option<&str>,
    id: InboxId,
    created_at: Timestamp,
) {
    let requested = requested.map(local_part);
    tx.insert_inbox(&NewInbox {
        id,
        tenant: tenant.id,
        workspace,
        canonical,
        requested: requested.as_ref(),
        display_name: None,
        metadata: &Metadata::default(),
        secrets: NewSecrets {
            password_hash: &hash(1),
            sealed_password: Some(b"sealed"),
        },
        created_at,
    })
    .await
    .unwrap();
}

/// A password hash, another for every number.
pub fn hash(number: u32) -> PasswordHash {
    PasswordHash::parse(&format!("{{SHA512-CRYPT}}$6$rounds=1000$salt${number}")).unwrap()
}

pub fn fresh_id() -> Uuid {
    new_id(&Machine, &Machine)
}

pub fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub fn local_part(text: &str) -> LocalPart {
    LocalPart::parse(text).unwrap()
}

pub fn domain(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

/// What the maps should say of one address.
pub async fn state_of(tx: &mut Tx, address: &Address) -> AddressState {
    let found = tx.address_states(&[address]).await.unwrap();
    match found.as_slice() {
        [] => AddressState::Absent,
        [(found, state)] if found == address => state.clone(),
        other => panic!("asked for {address}: {other:?}"),
    }
}

/// An answer of 201, to be kept for a request.
pub fn kept_answer(made: Made) -> KeptAnswer {
    KeptAnswer {
        status: 201,
        sealed: b"x".to_vec(),
        made,
    }
}
