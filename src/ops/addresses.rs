//! The addresses of an inbox: further names come and go, the canonical one stays.

use super::{
    Changed, Error, Service,
    deletions::{Deletion, Subject},
    inboxes::{READ, WRITE, reached, reached_to_change},
    place::is_usable,
    require,
    uncommitted::Uncommitted,
};
use crate::{
    model::{
        address::Address,
        api_key::{Caller, Scope},
        ids::{InboxId, WorkspaceId},
        inbox::{Inbox, InboxAddress},
        limits::Limited,
        maps::MapKey,
    },
    store::{Claimant, SessionsToEnd, Tx},
};

/// An address that an inbox has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// Whether the inbox did not have it before.
    pub is_new: bool,
    /// Whether it is the primary one now.
    pub is_primary: bool,
}

/// The addresses of an inbox, the primary one first.
pub async fn list(service: &Service, caller: &Caller, id: InboxId) -> Result<Vec<InboxAddress>, Error> {
    require(caller, READ)?;
    let inbox = reached(&mut service.db.read().await?, caller, id).await?;
    Ok(inbox.addresses)
}

/// Gives an inbox an address, and makes it the primary one or not. Of an address that it has already, only that changes;
/// when the primary one becomes an ordinary one, the canonical address is primary. `workspace` is the inbox's, where a
/// tenant's key says that it may have what another workspace of the tenant gave up.
pub async fn add(
    service: &Service,
    caller: &Caller,
    id: InboxId,
    address: &Address,
    primary: bool,
    workspace: Option<WorkspaceId>,
) -> Result<Uncommitted<Changed<Added>>, Error> {
    require(caller, WRITE)?;
    let mut tx = service.db.write().await?;
    let inbox = reached_to_change(&mut tx, caller, id).await?;
    let claimant = claimant_of(caller, &inbox, workspace)?;
    let own = inbox.addresses.iter().find(|entry| entry.address == *address);
    let publish = if own.is_some() {
        // It may have been written and not published, so that the caller was told to try again.
        vec![MapKey::Address(address.clone())]
    } else {
        claim(service, &mut tx, &inbox, address, claimant).await?;
        service
            .mark(&mut tx, [address.clone()], SessionsToEnd::None)
            .await?
    };
    let was_primary = inbox.primary() == address;
    let becomes = match (primary, was_primary) {
        (true, false) => Some(address),
        (false, true) => Some(&inbox.canonical),
        _ => None,
    };
    if let Some(becomes) = becomes
        && !tx.make_primary(id, becomes, service.now()).await?
    {
        return Err(Error::Task(
            "an address of an inbox has gone while it was changed",
        ));
    }
    let added = Changed {
        value: Added {
            is_new: own.is_none(),
            is_primary: primary || inbox.canonical == *address && was_primary,
        },
        publish,
    };
    Ok(Uncommitted::new(added, tx))
}

/// Which tombstones give way to a further address of an inbox. A tenant's key that names the inbox's workspace says which
/// one is to have what another one of the tenant gave up.
fn claimant_of(caller: &Caller, inbox: &Inbox, named: Option<WorkspaceId>) -> Result<Claimant, Error> {
    let Some(named) = named else {
        return Ok(Claimant::workspace(inbox.tenant, inbox.workspace));
    };
    match caller.scope {
        Scope::Tenant { tenant } if named == inbox.workspace => Ok(Claimant::tenant(tenant)),
        Scope::Workspace { workspace, .. } if named == workspace => {
            Ok(Claimant::workspace(inbox.tenant, inbox.workspace))
        }
        Scope::Workspace { .. } => Err(Error::Forbidden(
            "workspaceId: a workspace (wk_) key adds addresses in its own workspace only",
        )),
        _ => Err(Error::Invalid {
            field: "workspaceId",
            rule: "must be the workspace of this inbox".to_owned(),
        }),
    }
}

/// Claims an address that an inbox does not have yet, if it may have it.
async fn claim(
    service: &Service,
    tx: &mut Tx,
    inbox: &Inbox,
    address: &Address,
    claimant: Claimant,
) -> Result<(), Error> {
    let settings = &service.settings;
    if settings.is_reserved(&address.domain, &address.local_part) {
        return Err(Error::UsernameReserved {
            field: "email",
            local_part: address.local_part.clone(),
            domain: address.domain.clone(),
        });
    }
    is_usable(settings, tx, inbox.workspace, &address.domain, "email").await?;
    let (current, max) = (inbox.addresses.len(), settings.addresses_per_inbox);
    let current = u32::try_from(current).unwrap_or(u32::MAX);
    if current >= max {
        return Err(Error::PlanLimit {
            limit: Limited::Addresses,
            current,
            max,
        });
    }
    let now = service.now();
    if tx.claim_address(address, claimant, inbox.id, None, now).await? {
        Ok(())
    } else {
        Err(Error::AddressTaken(address.clone()))
    }
}

/// Takes an address from an inbox. If it was the primary one, the canonical address is primary from now on.
pub async fn remove(
    service: &Service,
    caller: &Caller,
    id: InboxId,
    address: &Address,
) -> Result<Changed<Deletion>, Error> {
    require(caller, WRITE)?;
    let subject = Subject::Address(id, address.clone());
    let deletion = service.deletions.claim(caller, subject).await;
    let mut tx = service.db.write().await?;
    let inbox = reached_to_change(&mut tx, caller, id).await?;
    if inbox.canonical == *address {
        return Err(Error::CanonicalAddress(address.clone()));
    }
    let was_primary = inbox.primary() == address;
    if !tx.leave_address(id, address, service.held_until()).await? {
        return deletion.resume(&mut tx, caller, "address of this inbox").await;
    }
    service.limit_tombstones(&mut tx, inbox.tenant, 1).await?;
    if was_primary && !tx.make_primary(id, &inbox.canonical, service.now()).await? {
        return Err(Error::Task("the canonical address of an inbox has gone"));
    }
    let publish = service
        .mark(&mut tx, [address.clone()], SessionsToEnd::None)
        .await?;
    deletion.commits(Some(inbox.workspace));
    tx.commit().await?;
    Ok(Changed {
        value: deletion,
        publish,
    })
}
