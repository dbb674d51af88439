//! Inboxes that exist: list, read, describe, delete, rotate.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Changed, Error, KeyRule, PAGE_MAX, PAGE_MAX_OCTETS, Service,
    condition::Condition,
    deletions::{Deletion, Subject},
    edit::Edit,
    keys::issue,
    require,
    secrets::FreshPassword,
};
use crate::{
    model::{
        address::DomainName,
        api_key::{ApiKey, Caller, KeyKind, Scope},
        ids::{InboxId, TenantId},
        inbox::Inbox,
        maps::MapKey,
        metadata::Metadata,
        names::DisplayName,
        password::MailPassword,
    },
    store::{InboxFilter, InboxSearch, Owner, SEARCHED_MAX, Secrets, SessionsToEnd, Tx},
};

/// Who may read inboxes and rotate the password of one.
pub const READ: KeyRule = KeyRule {
    kinds: &[KeyKind::Tenant, KeyKind::Workspace, KeyKind::Inbox],
    text: "this needs a tenant (tk_), workspace (wk_) or inbox (ak_) key",
};
/// Who may create, change and delete inboxes.
pub const WRITE: KeyRule = KeyRule {
    kinds: &[KeyKind::Tenant, KeyKind::Workspace],
    text: "this needs a tenant (tk_) or workspace (wk_) key",
};

/// A page of a list.
#[derive(Debug)]
pub struct Page<T, Id> {
    /// The objects, newest first.
    pub items: Vec<T>,
    /// At most this many were asked for.
    pub limit: u32,
    /// Where the next page begins; none on the last one.
    pub next: Option<Id>,
}

impl<T, Id> Page<T, Id> {
    /// Cuts one more object than was asked for into a page and where the next begins.
    pub(super) fn cut(mut items: Vec<T>, limit: u32, id_of: impl Fn(&T) -> Id) -> Self {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(id_of);
        Self { items, limit, next }
    }
}

/// What to change of an inbox.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Another display name, or none.
    pub display_name: Edit<DisplayName>,
    /// A JSON merge patch of the metadata, or none of it any more.
    pub metadata: Edit<Map<String, Value>>,
}

/// An inbox within the caller's reach; what is not does not exist.
pub(super) async fn reached(tx: &mut Tx, caller: &Caller, id: InboxId) -> Result<Inbox, Error> {
    let inbox = tx.inbox(id).await?.ok_or(Error::NotFound("inbox"))?;
    let reaches = match caller.scope {
        Scope::SuperAdmin => false,
        Scope::Tenant { tenant } => inbox.tenant == tenant,
        Scope::Workspace { workspace, .. } => inbox.workspace == workspace,
        Scope::Inbox { inbox: own, .. } => inbox.id == own,
    };
    if reaches {
        Ok(inbox)
    } else {
        Err(Error::NotFound("inbox"))
    }
}

/// The same for a change: nobody else changes it, or anything of its tenant, until the transaction ends.
pub(super) async fn reached_to_change(tx: &mut Tx, caller: &Caller, id: InboxId) -> Result<Inbox, Error> {
    let (Scope::Tenant { tenant } | Scope::Workspace { tenant, .. } | Scope::Inbox { tenant, .. }) =
        caller.scope
    else {
        return Err(Error::NotFound("inbox"));
    };
    tx.lock_tenant(tenant).await?;
    reached(tx, caller, id).await
}

/// A page of the inboxes that the caller reaches, newest first. A search reads a bounded number of inboxes for one page,
/// which may so hold fewer than asked for, or none, while there is a next one.
pub async fn list(
    service: &Service,
    caller: &Caller,
    mut filter: InboxFilter,
    search: &InboxSearch,
    limit: Option<u32>,
) -> Result<Page<Inbox, InboxId>, Error> {
    require(caller, READ)?;
    let limit = limit.unwrap_or(PAGE_MAX);
    let mut tx = service.db.read().await?;
    let tenant = match caller.scope {
        Scope::Tenant { tenant } => {
            if let Some(workspace) = filter.workspace
                && tx.workspace(tenant, workspace).await?.is_none()
            {
                return Err(Error::NotFound("workspace"));
            }
            tenant
        }
        Scope::Workspace { tenant, workspace } => {
            if filter.workspace.is_some_and(|asked| asked != workspace) {
                return Err(Error::Forbidden(
                    "workspace: a workspace (wk_) key lists its own workspace only",
                ));
            }
            filter.workspace = Some(workspace);
            tenant
        }
        Scope::Inbox {
            tenant,
            workspace,
            inbox,
        } => {
            if filter.workspace.is_some_and(|asked| asked != workspace) {
                return Err(Error::Forbidden(
                    "workspace: an inbox (ak_) key lists its own inbox only",
                ));
            }
            let own = tx
                .inbox(inbox)
                .await?
                .filter(|own| own.tenant == tenant && matches(own, &filter, search));
            return Ok(Page {
                items: own.into_iter().collect(),
                limit,
                next: None,
            });
        }
        Scope::SuperAdmin => return Err(Error::Forbidden(READ.text)),
    };
    if search.is_some() {
        let found = tx
            .search_inboxes(tenant, &filter, search, limit, PAGE_MAX_OCTETS, SEARCHED_MAX)
            .await?;
        let last = found.inboxes.last().map(|inbox| inbox.id);
        return Ok(Page {
            items: found.inboxes,
            limit,
            next: last.filter(|_| found.more).or(found.stopped_at),
        });
    }
    let page = tx.inboxes(tenant, &filter, limit, PAGE_MAX_OCTETS).await?;
    let last = page.inboxes.last().map(|inbox| inbox.id);
    Ok(Page {
        items: page.inboxes,
        limit,
        next: last.filter(|_| page.more),
    })
}

fn matches(inbox: &Inbox, filter: &InboxFilter, search: &InboxSearch) -> bool {
    let name = inbox.display_name.as_ref().map_or("", DisplayName::as_str);
    let is_found = search
        .domain
        .as_ref()
        .is_none_or(|domain| inbox.canonical.domain == *domain)
        && search
            .text
            .as_ref()
            .is_none_or(|text| text.is_in(inbox.canonical.local_part.as_str()) || text.is_in(name));
    is_found
        && filter
            .username
            .as_ref()
            .is_none_or(|username| inbox.canonical.local_part == *username)
        && filter
            .email
            .as_ref()
            .is_none_or(|email| inbox.addresses.iter().any(|entry| entry.address == *email))
        && filter.before.is_none_or(|before| inbox.id < before)
}

/// All that is known of an inbox: what its representation is made of.
#[derive(Debug)]
pub struct State {
    /// The inbox.
    pub inbox: Inbox,
    /// Its secrets, as they are stored.
    pub secrets: Secrets,
}

async fn state_of(tx: &mut Tx, inbox: Inbox) -> Result<State, Error> {
    let secrets = tx
        .inbox_secrets(inbox.id)
        .await?
        .ok_or(Error::NotFound("inbox"))?;
    Ok(State { inbox, secrets })
}

/// An inbox with its password, if the service reveals it.
pub async fn read(
    service: &Service,
    caller: &Caller,
    id: InboxId,
) -> Result<(State, Option<MailPassword>), Error> {
    require(caller, READ)?;
    let mut tx = service.db.read().await?;
    let inbox = reached(&mut tx, caller, id).await?;
    let state = state_of(&mut tx, inbox).await?;
    let password = service.reveal(id, &state.secrets)?;
    Ok((state, password))
}

/// Fails with `PreconditionFailed` if the inbox is not in the state that a change is meant for.
async fn require_state(tx: &mut Tx, inbox: &Inbox, condition: &Condition<State>) -> Result<(), Error> {
    if !condition.is_some() {
        return Ok(());
    }
    condition.require(&state_of(tx, inbox.clone()).await?)
}

/// Changes the display name and the metadata. Fails with `Invalid` if the metadata would take more than 16 KiB.
pub async fn describe(
    service: &Service,
    caller: &Caller,
    id: InboxId,
    change: &Description,
    condition: &Condition<State>,
) -> Result<(), Error> {
    require(caller, WRITE)?;
    let mut tx = service.db.write().await?;
    let inbox = reached_to_change(&mut tx, caller, id).await?;
    require_state(&mut tx, &inbox, condition).await?;
    let metadata = match &change.metadata {
        Edit::Set(patch) => inbox.metadata.patched(patch).map_err(|rule| Error::Invalid {
            field: "metadata",
            rule: rule.to_string(),
        })?,
        Edit::Clear => Metadata::default(),
        Edit::Keep => inbox.metadata,
    };
    let display_name = change.display_name.clone().applied_to(inbox.display_name);
    tx.describe_inbox(id, display_name.as_ref(), &metadata).await?;
    Ok(tx.commit().await?)
}

/// Deletes an inbox: its addresses become tombstones, its key stops working.
pub async fn delete(
    service: &Service,
    caller: &Caller,
    id: InboxId,
    condition: &Condition<State>,
) -> Result<Changed<Deletion>, Error> {
    require(caller, WRITE)?;
    let deletion = service.deletions.claim(caller, Subject::Inbox(id)).await;
    let mut tx = service.db.write().await?;
    let inbox = match reached_to_change(&mut tx, caller, id).await {
        Ok(inbox) => inbox,
        Err(Error::NotFound(what)) => return deletion.resume(&mut tx, caller, what).await,
        Err(error) => return Err(error),
    };
    require_state(&mut tx, &inbox, condition).await?;
    let publish = delete_all_of(service, &mut tx, inbox.tenant, Owner::Inbox(id))
        .await?
        .publish;
    tx.count_gone(inbox.tenant, 1, 0).await?;
    tx.count_inboxes_of_workspace(inbox.workspace, -1).await?;
    deletion.commits(Some(inbox.workspace));
    tx.commit().await?;
    Ok(Changed {
        value: deletion,
        publish,
    })
}

/// Deletes every inbox and domain of an owner within a tenant and revokes the keys that reach them. Returns how many
/// inboxes there were.
pub(super) async fn delete_all_of(
    service: &Service,
    tx: &mut Tx,
    tenant: TenantId,
    owner: Owner,
) -> Result<Changed<u32>, Error> {
    let now = service.now();
    let mut domains = tx.clear_catch_alls_of(owner, now).await?;
    tx.delete_dkim_keys_of(owner).await?;
    domains.extend(tx.delete_domains_of(owner, now).await?);
    let (addresses, value) = tx.delete_inboxes_of(owner, service.held_until(), now).await?;
    let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    service.limit_tombstones(tx, tenant, left).await?;
    tx.revoke_keys_of(owner, now).await?;
    let addresses = addresses
        .into_iter()
        .map(|address| (MapKey::Address(address), SessionsToEnd::All));
    let domains: BTreeSet<DomainName> = domains.into_iter().collect();
    let domains = domains
        .into_iter()
        .map(|domain| (MapKey::Domain(domain), SessionsToEnd::None));
    let publish = service.mark_each(tx, addresses.chain(domains)).await?;
    Ok(Changed { value, publish })
}

/// Gives an inbox a new password. Once published, the old one is refused and no session lives on with it.
pub async fn rotate_password(
    service: &Service,
    caller: &Caller,
    id: InboxId,
) -> Result<Changed<(Inbox, FreshPassword)>, Error> {
    require(caller, READ)?;
    // Hashing takes a while: not for a caller that does not reach the inbox, and not while others wait.
    let tenant = reached(&mut service.db.read().await?, caller, id).await?.tenant;
    let password = service.fresh_password(tenant, id).await?;
    let mut tx = service.db.write().await?;
    let inbox = reached_to_change(&mut tx, caller, id).await?;
    if !tx.renew_secrets(id, password.secrets()).await? {
        return Err(Error::NotFound("inbox"));
    }
    let publish = mark_credentials(service, &mut tx, &inbox, SessionsToEnd::All).await?;
    tx.commit().await?;
    Ok(Changed {
        value: (inbox, password),
        publish,
    })
}

/// Marks what the maps say of an inbox's credentials as to be published: its password entry, and for each of its
/// addresses which login may send from it. IMAP sessions are of the canonical address alone.
pub(super) async fn mark_credentials(
    service: &Service,
    tx: &mut Tx,
    inbox: &Inbox,
    sessions: SessionsToEnd,
) -> Result<Vec<MapKey>, Error> {
    let keys = inbox.addresses.iter().map(|entry| {
        let is_login = entry.address == inbox.canonical;
        let sessions = if is_login { sessions } else { SessionsToEnd::None };
        (MapKey::Address(entry.address.clone()), sessions)
    });
    service.mark_each(tx, keys).await
}

/// Gives an inbox a new key; the old one stops working with the commit.
pub async fn rotate_key(service: &Service, caller: &Caller, id: InboxId) -> Result<ApiKey, Error> {
    require(caller, WRITE)?;
    let now = service.now();
    let mut tx = service.db.write().await?;
    let inbox = reached_to_change(&mut tx, caller, id).await?;
    tx.revoke_keys_of(Owner::Inbox(id), now).await?;
    let key = issue(service, &mut tx, inbox.scope(), None).await?.key;
    tx.commit().await?;
    Ok(key)
}
