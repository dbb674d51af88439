//! `POST /v1/inboxes`: which inbox a request gets (contract, section 3).

use super::{
    Changed, Error, Service,
    in_flight::Claim,
    inboxes::mark_credentials,
    keys::issue,
    place::{Target, is_usable, target_of},
    secrets::FreshPassword,
    together::Fresh,
};
use crate::{
    clock::Timestamp,
    model::{
        address::{Address, DomainName, LocalPart},
        allocation,
        api_key::{ApiKey, Caller, KeyKind, Scope},
        ids::{InboxId, KeyId, TenantId, WorkspaceId},
        inbox::{Inbox, InboxAddress},
        limits::Limited,
        maps::MapKey,
        metadata::Metadata,
        names::DisplayName,
    },
    store::{NewInbox, Owner, SessionsToEnd, Tx},
};

/// Unfinished creations without a name that one request looks at.
const UNFINISHED_LOOKED_AT_MAX: u32 = 32;

/// What a caller asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The local part that it wants.
    pub username: Option<LocalPart>,
    /// The name shown beside the address.
    pub display_name: Option<DisplayName>,
    /// The domain, if not the default one.
    pub domain: Option<DomainName>,
    /// The workspace, if not the default one (or the key's own).
    pub workspace: Option<WorkspaceId>,
    /// The caller's own data. Of an inbox that the caller has already, it stays as it is.
    pub metadata: Metadata,
    /// Whether a taken name is an error instead of a reason to number it.
    pub strict: bool,
}

/// What a caller gets.
#[derive(Debug)]
pub enum Outcome {
    /// An inbox that it had already; nothing was written.
    Existing(Box<Inbox>),
    /// An inbox that is new for it, with credentials. To be published, then answered with 201; then the claim is to
    /// be told that the answer was sent.
    Created(Box<Changed<Created>>),
}

/// A new inbox.
#[derive(Debug)]
pub struct Created {
    /// The inbox.
    pub inbox: Inbox,
    /// Its password.
    pub password: FreshPassword,
    /// Its key.
    pub key: ApiKey,
    /// Whether this completes a creation that was never acknowledged.
    pub completed: bool,
    /// Held until the answer was sent.
    pub claim: Claim,
}

/// Allocates an inbox, or finds the one that the caller had already.
pub async fn create_inbox(service: &Service, caller: &Caller, request: &Request) -> Result<Outcome, Error> {
    let (target, has_history) = target_of(service, caller, request).await?;
    let Some(username) = &request.username else {
        return create_unnamed(service, &target, request).await;
    };
    let wanted = Address {
        local_part: username.clone(),
        domain: target.domain.clone(),
    };
    let mut may_exist = has_history;
    loop {
        let found = if may_exist {
            find_existing(&mut service.db.look().await?, &target, &wanted).await?
        } else {
            None
        };
        may_exist = true;
        let Some(inbox) = found else {
            match allocate(service, &target, request, Some(&wanted)).await? {
                Some(created) => return Ok(created),
                // Somebody else of this tenant asked for the same name in the same moment: it is there now.
                None => continue,
            }
        };
        if inbox.acknowledged_at.is_some() {
            return Ok(Outcome::Existing(Box::new(inbox)));
        }
        let claim = service.in_flight.claim(inbox.id).await;
        let was_sent = claim.was_sent();
        // Read before the match and not in its head, where the transaction would live, and occupy a connection, until
        // the creation is completed.
        let current = service.db.look().await?.inbox(inbox.id).await?;
        match current {
            // Deleted while we waited.
            None => {}
            Some(inbox) if was_sent || inbox.acknowledged_at.is_some() => {
                return Ok(Outcome::Existing(Box::new(inbox)));
            }
            Some(inbox) => {
                if let Some(created) = complete(service, inbox, request, claim).await? {
                    return Ok(created);
                }
            }
        }
    }
}

/// Without a username every call makes a new inbox, but a creation that was never acknowledged is not one yet: it
/// is completed first, so that retries do not pile up inboxes that nobody knows of.
async fn create_unnamed(service: &Service, target: &Target, request: &Request) -> Result<Outcome, Error> {
    let unfinished = service
        .db
        .look()
        .await?
        .unfinished_unnamed_inboxes(target.workspace, &target.domain, UNFINISHED_LOOKED_AT_MAX)
        .await?;
    for inbox in unfinished.into_iter().rev() {
        let Some(claim) = service.in_flight.try_claim(inbox.id) else {
            continue;
        };
        if claim.was_sent() {
            continue;
        }
        let current = service.db.look().await?.inbox(inbox.id).await?;
        if let Some(inbox) = current.filter(|inbox| inbox.acknowledged_at.is_none())
            && let Some(created) = complete(service, inbox, request, claim).await?
        {
            return Ok(created);
        }
    }
    loop {
        if let Some(created) = allocate(service, target, request, None).await? {
            return Ok(created);
        }
    }
}

/// Rules 1 and 2: the caller's inbox at exactly this address, or the one that was requested under this name and got
/// another.
async fn find_existing(tx: &mut Tx, target: &Target, wanted: &Address) -> Result<Option<Inbox>, Error> {
    let at_address = tx.inbox_at(wanted).await?.filter(|inbox| {
        inbox.tenant == target.tenant.id
            && target
                .sees_only
                .is_none_or(|workspace| workspace == inbox.workspace)
    });
    match at_address {
        Some(inbox) => Ok(Some(inbox)),
        None => Ok(tx
            .inbox_requested_as(target.tenant.id, target.sees_only, wanted)
            .await?),
    }
}

/// Rules 3 to 6: the first free name. `None` if rule 1 or 2 has come to apply meanwhile.
async fn allocate(
    service: &Service,
    target: &Target,
    request: &Request,
    wanted: Option<&Address>,
) -> Result<Option<Outcome>, Error> {
    let base = match wanted {
        Some(wanted) => wanted.local_part.clone(),
        None => allocation::base_from_tenant_name(target.tenant.name.as_str()),
    };
    let candidates = candidates_of(service, target, &base, wanted, request.strict)?;

    let id = InboxId(service.new_id());
    // Nobody knows the id yet, so this does not wait; whoever sees the row later does.
    let claim = service.in_flight.claim(id).await;
    let password = service.fresh_password(target.tenant.id, id).await?;
    let now = service.now();
    let draft = Draft {
        id,
        password,
        created_at: now,
    };
    let first_choice = candidates.first().filter(|first| **first == base);
    let is_at_home = target.domain == service.settings.default_domain;
    if let (Some(wanted), Some(_)) = (wanted, first_choice)
        && is_at_home
        && let Some(key) = write_together(service, target, request, wanted, &draft).await?
    {
        let publish = vec![MapKey::Address(wanted.clone())];
        return Ok(Some(created(
            target,
            request,
            wanted.clone(),
            draft,
            key,
            claim,
            publish,
        )));
    }

    let mut tx = service.db.write().await?;
    if !tx.count_new_inbox(target.tenant.id).await? {
        // The counting above makes creates of one tenant take turns; look again before refusing, too.
        if already_there(&mut tx, target, wanted).await? {
            return Ok(None);
        }
        return Err(limit_reached(&mut tx, target.tenant.id).await?);
    }
    if already_there(&mut tx, target, wanted).await? {
        return Ok(None);
    }
    // The counting above keeps others from deleting a domain of the tenant.
    is_usable(
        &service.settings,
        &mut tx,
        target.workspace,
        &target.domain,
        "domain",
    )
    .await?;
    let name = claim_name(service, &mut tx, target, &candidates, &base, wanted, id).await?;
    let canonical = Address {
        local_part: name,
        domain: target.domain.clone(),
    };
    let new = NewInbox {
        id,
        tenant: target.tenant.id,
        workspace: target.workspace,
        canonical: &canonical,
        requested: request.username.as_ref(),
        display_name: request.display_name.as_ref(),
        metadata: &request.metadata,
        secrets: draft.password.secrets(),
        created_at: now,
    };
    tx.insert_inbox(&new).await?;
    if !tx.count_inboxes_of_workspace(target.workspace, 1).await? {
        return Err(Error::NotFound("workspace"));
    }
    let scope = Scope::Inbox {
        tenant: target.tenant.id,
        workspace: target.workspace,
        inbox: id,
    };
    let key = issue(service, &mut tx, scope, None).await?.key;
    let publish = service
        .mark(&mut tx, [canonical.clone()], SessionsToEnd::None)
        .await?;
    tx.commit().await?;
    Ok(Some(created(
        target, request, canonical, draft, key, claim, publish,
    )))
}

/// What a new inbox has before it has a name.
struct Draft {
    id: InboxId,
    password: FreshPassword,
    created_at: Timestamp,
}

/// Rule 3, as it nearly always is: the name was never used. `None` if it is not as simple.
async fn write_together(
    service: &Service,
    target: &Target,
    request: &Request,
    wanted: &Address,
    draft: &Draft,
) -> Result<Option<ApiKey>, Error> {
    let key = ApiKey::generate(KeyKind::Inbox, &*service.entropy);
    let fresh = Fresh {
        id: draft.id,
        tenant: target.tenant.id,
        workspace: target.workspace,
        canonical: wanted.clone(),
        display_name: request.display_name.clone(),
        metadata: request.metadata.clone(),
        hash: draft.password.hash.clone(),
        sealed: draft.password.sealed.clone(),
        key: key.clone(),
        key_id: KeyId(service.new_id()),
        mark: service.new_id(),
        created_at: draft.created_at,
    };
    Ok(service.together.write(fresh).await?.then_some(key))
}

fn created(
    target: &Target,
    request: &Request,
    canonical: Address,
    draft: Draft,
    key: ApiKey,
    claim: Claim,
    publish: Vec<MapKey>,
) -> Outcome {
    let inbox = Inbox {
        id: draft.id,
        tenant: target.tenant.id,
        workspace: target.workspace,
        addresses: vec![InboxAddress {
            address: canonical.clone(),
            is_primary: true,
        }],
        canonical,
        requested: request.username.clone(),
        display_name: request.display_name.clone(),
        metadata: request.metadata.clone(),
        created_at: draft.created_at,
        acknowledged_at: None,
    };
    let value = Created {
        inbox,
        password: draft.password,
        key,
        completed: false,
        claim,
    };
    Outcome::Created(Box::new(Changed { value, publish }))
}

async fn already_there(tx: &mut Tx, target: &Target, wanted: Option<&Address>) -> Result<bool, Error> {
    match wanted {
        Some(wanted) => Ok(find_existing(tx, target, wanted).await?.is_some()),
        None => Ok(false),
    }
}

/// The names that this request may get, in order of preference.
fn candidates_of(
    service: &Service,
    target: &Target,
    base: &LocalPart,
    wanted: Option<&Address>,
    strict: bool,
) -> Result<Vec<LocalPart>, Error> {
    let is_reserved = |name: &LocalPart| service.settings.is_reserved(&target.domain, name);
    if wanted.is_some() && is_reserved(base) {
        return Err(Error::UsernameReserved {
            field: "username",
            local_part: base.clone(),
            domain: target.domain.clone(),
        });
    }
    if wanted.is_some() && strict {
        return Ok(vec![base.clone()]);
    }
    Ok(allocation::candidates(base)
        .into_iter()
        .filter(|name| !is_reserved(name))
        .collect())
}

/// Claims the first free candidate for the inbox; beyond the last, a request without a name gets a random ending.
async fn claim_name(
    service: &Service,
    tx: &mut Tx,
    target: &Target,
    candidates: &[LocalPart],
    base: &LocalPart,
    wanted: Option<&Address>,
    id: InboxId,
) -> Result<LocalPart, Error> {
    let now = service.now();
    let address_of = |local_part: &LocalPart| Address {
        local_part: local_part.clone(),
        domain: target.domain.clone(),
    };
    // Most names that are wanted are free: the others are looked at if this one is not.
    if let Some(first) = candidates.first() {
        let address = address_of(first);
        if tx
            .claim_address(&address, target.claimant, id, Some(now), now)
            .await?
        {
            return Ok(address.local_part);
        }
    }
    loop {
        let taken = tx
            .taken_names(&target.domain, candidates, target.claimant, now)
            .await?;
        let name = match (allocation::first_free(candidates, &taken), wanted) {
            (Some(free), _) => free.clone(),
            (None, None) => allocation::with_random_ending(base, &*service.entropy),
            (None, Some(wanted)) => {
                return Err(match candidates {
                    [_only] => Error::UsernameTaken {
                        wanted: wanted.clone(),
                    },
                    _ => Error::UsernameExhausted {
                        wanted: wanted.clone(),
                        last: candidates.last().unwrap_or(base).clone(),
                    },
                });
            }
        };
        let address = address_of(&name);
        // On PostgreSQL another transaction may have taken it since the look: then look again.
        if tx
            .claim_address(&address, target.claimant, id, Some(now), now)
            .await?
        {
            return Ok(address.local_part);
        }
    }
}

async fn limit_reached(tx: &mut Tx, tenant: TenantId) -> Result<Error, Error> {
    let tenant = tx.tenant(tenant).await?.ok_or(Error::InvalidApiKey)?;
    let max = tenant.limits.inboxes.unwrap_or(u32::MAX);
    Ok(Error::PlanLimit {
        limit: Limited::Inboxes,
        current: tenant.inbox_count,
        max,
    })
}

/// Completes a creation that was never acknowledged: the same inbox with fresh credentials. `None` if it was
/// deleted meanwhile.
async fn complete(
    service: &Service,
    mut inbox: Inbox,
    request: &Request,
    claim: Claim,
) -> Result<Option<Outcome>, Error> {
    let password = service.fresh_password(inbox.tenant, inbox.id).await?;
    let now = service.now();
    let mut tx = service.db.write().await?;
    tx.lock_tenant(inbox.tenant).await?;
    if !tx.renew_secrets(inbox.id, password.secrets()).await? {
        return Ok(None);
    }
    inbox.display_name.clone_from(&request.display_name);
    inbox.metadata.clone_from(&request.metadata);
    tx.describe_inbox(inbox.id, inbox.display_name.as_ref(), &inbox.metadata)
        .await?;
    tx.revoke_keys_of(Owner::Inbox(inbox.id), now).await?;
    let key = issue(service, &mut tx, inbox.scope(), None).await?.key;
    // Nobody was given the credentials that no longer hold, so no session can be open with them.
    let publish = mark_credentials(service, &mut tx, &inbox, SessionsToEnd::None).await?;
    tx.commit().await?;
    let created = Created {
        inbox,
        password,
        key,
        completed: true,
        claim,
    };
    Ok(Some(Outcome::Created(Box::new(Changed {
        value: created,
        publish,
    }))))
}
