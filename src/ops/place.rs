//! Where a new inbox is to be: tenant, workspace and domain.

use tokio::task::JoinHandle;

use super::{Error, Service, Settings, batched::Batched, create_inbox::Request, inboxes::WRITE, require};
use crate::{
    model::{
        address::{Address, DomainName},
        api_key::{Caller, Scope},
        ids::{TenantId, WorkspaceId},
        tenant::Tenant,
    },
    store::{self, Claimant, Db, Place, Tx},
};

/// Where an inbox is to be.
pub(super) struct Target {
    /// The tenant that creates it.
    pub(super) tenant: Tenant,
    /// The workspace that will own it.
    pub(super) workspace: WorkspaceId,
    /// The domain of its address.
    pub(super) domain: DomainName,
    /// The workspace that bounds which inboxes the caller sees; none for a tenant's key.
    pub(super) sees_only: Option<WorkspaceId>,
    /// Which tombstones give way to the new inbox.
    pub(super) claimant: Claimant,
}

/// Where the inbox that a request asks for is to be, and whether the address that it asks for has a history.
pub(super) async fn target_of(
    service: &Service,
    caller: &Caller,
    request: &Request,
) -> Result<(Target, bool), Error> {
    require(caller, WRITE)?;
    let (tenant_id, sees_only) = match caller.scope {
        Scope::Tenant { tenant } => (tenant, None),
        Scope::Workspace { tenant, workspace } => {
            if request.workspace.is_some_and(|asked| asked != workspace) {
                return Err(Error::Forbidden(
                    "workspaceId: a workspace (wk_) key creates inboxes in its own workspace only",
                ));
            }
            (tenant, Some(workspace))
        }
        Scope::SuperAdmin | Scope::Inbox { .. } => {
            return Err(Error::Forbidden("this key creates no inboxes"));
        }
    };
    let domain = request
        .domain
        .clone()
        .unwrap_or_else(|| service.settings.default_domain.clone());
    let asked = Asked {
        tenant: tenant_id,
        workspace: sees_only.or(request.workspace),
        wanted: request.username.clone().map(|local_part| Address {
            local_part,
            domain: domain.clone(),
        }),
    };
    let place = match service.places.ask(asked.clone()).await? {
        Some(place) => place,
        None => asked.look_up(&mut service.db.look().await?).await?,
    };
    let Place {
        tenant,
        workspace,
        has_history,
    } = place.ok_or(Error::InvalidApiKey)?;
    let workspace = workspace.ok_or(Error::NotFound("workspace"))?;
    if domain != service.settings.default_domain {
        is_usable(
            &service.settings,
            &mut service.db.look().await?,
            workspace,
            &domain,
            "domain",
        )
        .await?;
    }
    // A tenant's key that names the workspace says which one is to have what another one of the tenant gave up.
    let claimant = match (caller.scope, request.workspace) {
        (Scope::Tenant { tenant }, Some(_)) => Claimant::tenant(tenant),
        _ => Claimant::workspace(tenant_id, workspace),
    };
    let target = Target {
        tenant,
        workspace,
        domain,
        sees_only,
        claimant,
    };
    Ok((target, has_history))
}

/// Whether a workspace may have addresses at a domain; `field` is the one that names it.
pub(super) async fn is_usable(
    settings: &Settings,
    tx: &mut Tx,
    workspace: WorkspaceId,
    domain: &DomainName,
    field: &'static str,
) -> Result<(), Error> {
    if *domain == settings.default_domain {
        return Ok(());
    }
    let domain = domain.clone();
    match tx.domain_of_workspace(workspace, &domain).await? {
        Some(Some(_verified_at)) => Ok(()),
        Some(None) => Err(Error::DomainNotVerified { field, domain }),
        None => Err(Error::DomainNotAllowed { field, domain }),
    }
}

/// Where an inbox is to be, as a caller asks.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    tenant: TenantId,
    workspace: Option<WorkspaceId>,
    wanted: Option<Address>,
}

impl Asked {
    async fn look_up(&self, tx: &mut Tx) -> Result<Option<Place>, store::Error> {
        tx.place(self.tenant, self.workspace, self.wanted.as_ref()).await
    }
}

/// Looks up where inboxes are to be, those that are asked for at the same time on one connection.
pub(super) type Places = Batched<Asked, Option<Place>>;

/// The task that looks up places.
pub(super) fn start(db: Db) -> (Places, JoinHandle<()>) {
    Batched::start(move |asked: Vec<Asked>| {
        let db = db.clone();
        async move {
            let mut tx = db.look().await?;
            let mut places = Vec::with_capacity(asked.len());
            for asked in &asked {
                places.push(asked.look_up(&mut tx).await?);
            }
            Ok(places)
        }
    })
}
