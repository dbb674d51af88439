//! `inboxd keys`.

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{Failure, Source, block_on, print};
use crate::{
    clock::Machine,
    daemon,
    model::{
        ids::{KeyId, TenantId},
        names::Label,
    },
    ops::keys::{create_for_tenant, create_super_admin, list_all, revoke_any},
};

#[derive(Subcommand, Debug)]
pub(super) enum KeysCommand {
    /// Make a key and print it; it is shown only now
    Create {
        #[command(flatten)]
        kind: NewKeyKind,
        /// A name for a tenant's key, to tell keys apart
        #[arg(long, requires = "tenant")]
        name: Option<String>,
        #[command(flatten)]
        source: Source,
    },
    /// List the keys in force: id, how the key begins, when it was made, name
    List {
        /// The keys of this tenant instead of the super admin keys
        #[arg(long, value_name = "ID")]
        tenant: Option<Uuid>,
        #[command(flatten)]
        source: Source,
    },
    /// Revoke a key of any kind: it is refused from now on
    Revoke {
        /// The id that the list shows, not the key
        id: Uuid,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct NewKeyKind {
    /// A super admin (sa_) key, which manages tenants
    #[arg(long)]
    super_admin: bool,
    /// A key (tk_) of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<Uuid>,
}

pub(super) fn keys(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Create { kind, name, source } => {
            create(kind.tenant.map(TenantId), name.as_deref(), &source)
        }
        KeysCommand::List { tenant, source } => list(tenant.map(TenantId), &source),
        KeysCommand::Revoke { id, source } => revoke(KeyId(id), &source),
    }
}

/// Without a tenant, a super admin key.
fn create(tenant: Option<TenantId>, name: Option<&str>, source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    let name = name.map(Label::parse).transpose();
    let name = name.map_err(|rule| format!("--name: {rule}"))?;
    block_on(async {
        let db = daemon::open_store(&config).await?;
        let key = match tenant {
            None => create_super_admin(&db, &Machine, &Machine).await?,
            Some(tenant) => create_for_tenant(&db, &Machine, &Machine, tenant, name).await?,
        };
        db.close().await;
        print(&format!("{}\n", key.expose()))
    })
}

fn list(tenant: Option<TenantId>, source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    block_on(async {
        let db = daemon::open_store(&config).await?;
        let mut text = String::new();
        for key in list_all(&db, tenant).await? {
            let name = key.name.as_ref().map_or("", Label::as_str);
            let line = format!("{}  {}...  {}  {name}", key.id, key.fragment, key.created_at);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        db.close().await;
        print(&text)
    })
}

fn revoke(id: KeyId, source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    block_on(async {
        let db = daemon::open_store(&config).await?;
        revoke_any(&db, &Machine, id).await?;
        db.close().await;
        print(&format!("revoked {id}\n"))
    })
}
