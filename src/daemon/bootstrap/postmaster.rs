//! The inbox that gets the mail for postmaster and abuse (`mail.postmaster`): made at the first start where a bootstrap
//! file is written, and missed in the log where it is not there.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    config::Config,
    model::{address::Address, ids::TenantId, maps::MapKey, passwd_file::Entry, password::MailPassword},
    ops::{
        self, Service,
        import::{Import, target},
    },
    publish::Publisher,
    stack::render::Postmaster,
    store::Claimant,
};

/// The postmaster's inbox, as the bootstrap file shows it.
#[derive(Clone, Serialize, Deserialize)]
pub struct PostmasterInbox {
    /// Its address, which is the login.
    pub email: String,
    /// The password that it was made with; none: it is not known, and `rotate-password` gives another one.
    pub password: Option<String>,
}

/// Returns the postmaster's inbox of the demo tenant, which is made if it is missing. None where the operator has named
/// another address, or where another tenant has the inbox.
pub(super) async fn ensure(
    config: &Config,
    service: &Service,
    publisher: &Publisher,
    tenant: TenantId,
    earlier: Option<PostmasterInbox>,
) -> Result<Option<PostmasterInbox>, Error> {
    let Some(address) = inbox_address(config) else {
        return Ok(None);
    };
    // Any other name is for the operator's own tenants to create.
    if !config.settings.is_reserved(&address.domain, &address.local_part) {
        return Ok(None);
    }
    let email = address.to_string();
    if let Some(inbox) = service.db.look().await?.inbox_at(&address).await? {
        let password = earlier
            .filter(|earlier| earlier.email == email)
            .and_then(|earlier| earlier.password);
        return Ok((inbox.tenant == tenant).then_some(PostmasterInbox { email, password }));
    }
    let password = MailPassword::generate(&*service.entropy);
    if !make(service, tenant, &address, &password).await? {
        return Ok(None);
    }
    publisher.publish(vec![MapKey::Address(address)]).await?;
    let password = Some(password.expose().to_owned());
    Ok(Some(PostmasterInbox { email, password }))
}

/// Writes the inbox. `false`: the address of a deleted one is still kept for another tenant.
async fn make(
    service: &Service,
    tenant: TenantId,
    address: &Address,
    password: &MailPassword,
) -> Result<bool, Error> {
    let (clear, entropy) = (password.clone(), service.entropy.clone());
    let hash = tokio::task::spawn_blocking(move || clear.hash(&*entropy)).await?;
    let hash = hash.map_err(|_| ops::Error::Task("the postmaster's password cannot be hashed"))?;
    let (tenant, workspace) = target(&service.db, tenant, None).await?;
    let import = Import {
        db: &service.db,
        settings: &service.settings,
        clock: &*service.clock,
        entropy: &*service.entropy,
        tenant: tenant.id,
        workspace,
        claimant: Claimant::tenant(tenant.id),
    };
    let entry = Entry::new(address.clone(), hash);
    let entry = entry.map_err(|_| ops::Error::Task("the postmaster's hash is none that Dovecot takes"))?;
    Ok(import.import(&[entry]).await?.new == 1)
}

/// Says in the log when mail for postmaster and abuse reaches no inbox.
pub(super) async fn warn_if_missing(config: &Config, service: &Service) -> Result<(), Error> {
    let Some(address) = inbox_address(config) else {
        return Ok(());
    };
    if service.db.look().await?.inbox_at(&address).await?.is_none() {
        tracing::warn!(
            %address,
            "mail for postmaster and abuse is refused, because there is no inbox at this address: create it, or set mail.postmaster"
        );
    }
    Ok(())
}

/// The address of the postmaster's inbox; none: the mail goes to another host.
fn inbox_address(config: &Config) -> Option<Address> {
    match &config.postmaster {
        Postmaster::Inbox(address) => Address::parse(address).ok(),
        Postmaster::Elsewhere(_) => None,
    }
}
