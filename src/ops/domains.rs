//! Custom domains: registered, proved, watched, deleted.

mod checked;
mod default;
mod dkim;
mod handover;
mod register;

use std::sync::Arc;

use self::dkim::NewKey;
pub use self::{
    checked::recheck,
    default::{check_default, default_records, ensure_default_keys, rotate_default},
    handover::{
        RELEASE, finish_hand_over, recheck_contests, release_by_command, release_with_key,
        unfinished_hand_overs,
    },
    register::{Registration, register},
};
use super::{
    Changed, Error, KeyRule, PAGE_MAX, Service, Settings,
    condition::Condition,
    deletions::{Deletion, Subject},
    inboxes::{Page, reached as reached_inbox},
    require,
};
use crate::{
    clock::Timestamp,
    model::{
        address::DomainName,
        api_key::{Caller, KeyKind, Scope},
        dns_records::{self, DnsRecord, Wanted},
        domain::{DkimKey, Domain, DomainStatus, Finding, lapsed_before},
        ids::{DomainId, InboxId, WorkspaceId},
        maps::MapKey,
    },
    store::{DomainFilter, DomainSearch, SessionsToEnd, Tx},
};

/// Who may manage domains.
pub const MANAGE: KeyRule = KeyRule {
    kinds: &[KeyKind::Tenant, KeyKind::Workspace],
    text: "domains are managed with a tenant (tk_) or workspace (wk_) key",
};

/// A registration with all that is to be told of it.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The registration.
    pub domain: Domain,
    /// How far it is.
    pub status: DomainStatus,
    /// What is to be published, and what DNS said of each when it was asked last.
    pub records: Vec<(DnsRecord, Option<Finding>)>,
    /// Since when the registration contests another one or is contested by one, and when the domain is handed over.
    pub contest: Option<(Timestamp, Timestamp)>,
}

impl Registered {
    fn of(service: &Service, domain: Domain, keys: &[DkimKey]) -> Self {
        let records = dns_records::records(&wanted(&service.settings, &domain, keys))
            .into_iter()
            .map(|record| {
                let key = record.key();
                let finding = domain.findings.iter().find(|finding| finding.record == key);
                (record, finding.cloned())
            })
            .collect();
        let contest = domain
            .contest
            .map(|contest| contest.since)
            .or(domain.contested_since);
        let notice = i64::from(service.settings.domains.handover_notice_seconds);
        Self {
            contest: contest.map(|since| (since, since.plus_seconds(notice))),
            status: domain.status(service.now(), service.settings.domains.pending_days),
            records,
            domain,
        }
    }
}

/// What a registration's records are made from.
fn wanted(settings: &Settings, domain: &Domain, keys: &[DkimKey]) -> Wanted {
    Wanted {
        domain: domain.name.clone(),
        challenge: Some(domain.challenge.clone()),
        mx_host: settings.domains.mx_host.clone(),
        spf: settings.domains.spf.clone(),
        keys: keys.iter().map(|key| key.public.clone()).collect(),
    }
}

/// The tenant and, for a workspace's key or where one is asked for, the workspace whose domains a call is about.
async fn filter_of(
    tx: &mut Tx,
    caller: &Caller,
    workspace: Option<WorkspaceId>,
    refusal: &'static str,
) -> Result<DomainFilter, Error> {
    require(caller, MANAGE)?;
    match caller.scope {
        Scope::Tenant { tenant } => {
            if let Some(workspace) = workspace
                && tx.workspace(tenant, workspace).await?.is_none()
            {
                return Err(Error::NotFound("workspace"));
            }
            Ok(DomainFilter { tenant, workspace })
        }
        Scope::Workspace {
            tenant,
            workspace: own,
        } => {
            if workspace.is_some_and(|asked| asked != own) {
                return Err(Error::Forbidden(refusal));
            }
            Ok(DomainFilter {
                tenant,
                workspace: Some(own),
            })
        }
        Scope::SuperAdmin | Scope::Inbox { .. } => Err(Error::Forbidden(MANAGE.text)),
    }
}

/// A registration within the caller's reach; what is not does not exist.
async fn reached(tx: &mut Tx, caller: &Caller, name: &DomainName) -> Result<Domain, Error> {
    let filter = filter_of(tx, caller, None, MANAGE.text).await?;
    tx.domain_named(filter, name)
        .await?
        .ok_or(Error::NotFound("domain"))
}

/// The same for a change: nobody else changes anything of the tenant until the transaction ends.
async fn reached_to_change(tx: &mut Tx, caller: &Caller, name: &DomainName) -> Result<Domain, Error> {
    let filter = filter_of(tx, caller, None, MANAGE.text).await?;
    tx.lock_tenant(filter.tenant).await?;
    tx.domain_named(filter, name)
        .await?
        .ok_or(Error::NotFound("domain"))
}

async fn write_keys(
    service: &Service,
    tx: &mut Tx,
    domain: DomainId,
    new: Vec<NewKey>,
) -> Result<Vec<DkimKey>, Error> {
    let created_at = service.now();
    let mut keys = Vec::with_capacity(new.len());
    for NewKey { key, sealed } in new {
        let key = DkimKey { created_at, ..key };
        tx.insert_dkim_key(Some(domain), &key, &sealed).await?;
        keys.push(key);
    }
    Ok(keys)
}

/// A page of the registrations that the caller reaches, newest first: those with this name and this status, where they
/// are given.
pub async fn list(
    service: &Service,
    caller: &Caller,
    workspace: Option<WorkspaceId>,
    (name, status): (Option<&DomainName>, Option<DomainStatus>),
    before: Option<DomainId>,
    limit: Option<u32>,
) -> Result<Page<Registered, DomainId>, Error> {
    let limit = limit.unwrap_or(PAGE_MAX);
    let mut tx = service.db.read().await?;
    let filter = filter_of(
        &mut tx,
        caller,
        workspace,
        "workspace: a workspace (wk_) key lists its own workspace only",
    )
    .await?;
    let search = DomainSearch {
        name,
        status,
        lapsed_before: lapsed_before(service.now(), service.settings.domains.pending_days),
    };
    let mut items = Vec::new();
    for domain in tx.domains(filter, search, before, limit + 1).await? {
        let keys = tx.dkim_keys(Some(domain.id)).await?;
        items.push(Registered::of(service, domain, &keys));
    }
    Ok(Page::cut(items, limit, |registered| registered.domain.id))
}

/// One registration.
pub async fn read(service: &Service, caller: &Caller, name: &DomainName) -> Result<Registered, Error> {
    let mut tx = service.db.read().await?;
    let domain = reached(&mut tx, caller, name).await?;
    let keys = tx.dkim_keys(Some(domain.id)).await?;
    Ok(Registered::of(service, domain, &keys))
}

/// Asks DNS now, and writes what it says. A domain whose challenge is found is verified from then on, unless another tenant
/// has it, or one above it: while the challenge of that one is missing, the domain is contested, and handed over when the
/// notice is over. When what comes with a hand-over is published, [`finish_hand_over`] is to be called.
///
/// Fails with [`Error::DomainTaken`] or [`Error::DomainBelow`] while the other one's challenge is in DNS.
///
/// Those who ask for the same registration at the same time share one check. It is written also when all of them have
/// hung up.
pub async fn verify(
    service: &Arc<Service>,
    caller: &Caller,
    name: &DomainName,
) -> Result<Changed<Registered>, Error> {
    let domain = reached(&mut service.db.read().await?, caller, name).await?;
    require_current(service, &domain)?;
    let (turn, worker) = (service.turn_to_check(domain.tenant), Arc::clone(service));
    let checked = service.checks.share(domain.id, turn, move |turn| async move {
        let outcome = checked::check(&worker, domain.id).await;
        drop(turn);
        outcome
    });
    Ok(Changed::clone(&*checked.await?))
}

/// Requires a registration that is proved, or may still be.
fn require_current(service: &Service, domain: &Domain) -> Result<(), Error> {
    let pending_days = service.settings.domains.pending_days;
    match domain.status(service.now(), pending_days) {
        DomainStatus::Failed => Err(Error::DomainLapsed {
            domain: domain.name.clone(),
            pending_days,
        }),
        DomainStatus::Pending | DomainStatus::Contested | DomainStatus::Verified | DomainStatus::Degraded => {
            Ok(())
        }
    }
}

/// Makes keys that sign when their records have been seen. While keys wait for that, no others are made.
pub async fn rotate_dkim(service: &Service, caller: &Caller, name: &DomainName) -> Result<Registered, Error> {
    let mut tx = service.db.read().await?;
    let domain = reached(&mut tx, caller, name).await?;
    let known = tx.dkim_keys(Some(domain.id)).await?;
    drop(tx);
    if dkim::is_rotating(&known) {
        return Ok(Registered::of(service, domain, &known));
    }
    let turn = service.turn_to_make_keys(Some(domain.tenant)).await?;
    let known = service.db.look().await?.dkim_keys(Some(domain.id)).await?;
    if dkim::is_rotating(&known) {
        return Ok(Registered::of(service, domain, &known));
    }
    let new = service.new_dkim_keys(&turn).await?;
    let mut tx = service.db.write().await?;
    let domain = reached_to_change(&mut tx, caller, name).await?;
    let mut keys = tx.dkim_keys(Some(domain.id)).await?;
    if !dkim::is_rotating(&keys) {
        keys.extend(write_keys(service, &mut tx, domain.id, new).await?);
    }
    tx.commit().await?;
    Ok(Registered::of(service, domain, &keys))
}

/// Fails with `PreconditionFailed` if the domain is not in the state that a change is meant for.
async fn require_state(
    service: &Service,
    tx: &mut Tx,
    domain: &Domain,
    condition: &Condition<Registered>,
) -> Result<(), Error> {
    if !condition.is_some() {
        return Ok(());
    }
    let keys = tx.dkim_keys(Some(domain.id)).await?;
    condition.require(&Registered::of(service, domain.clone(), &keys))
}

/// Sets the inbox that gets mail to what is no address of a domain; none: it is refused.
pub async fn set_catch_all(
    service: &Service,
    caller: &Caller,
    name: &DomainName,
    inbox: Option<InboxId>,
    condition: &Condition<Registered>,
) -> Result<Changed<Registered>, Error> {
    let mut tx = service.db.write().await?;
    let mut domain = reached_to_change(&mut tx, caller, name).await?;
    require_state(service, &mut tx, &domain, condition).await?;
    if domain.catch_all == inbox {
        let keys = tx.dkim_keys(Some(domain.id)).await?;
        // It may have been written and not published, so that the caller was asked to try again.
        let publish = if domain.is_usable() {
            vec![MapKey::Domain(name.clone())]
        } else {
            Vec::new()
        };
        return Ok(Changed {
            value: Registered::of(service, domain, &keys),
            publish,
        });
    }
    if !domain.is_usable() {
        return Err(Error::DomainNotVerified {
            field: "domain",
            domain: name.clone(),
        });
    }
    if let Some(inbox) = inbox {
        let found = reached_inbox(&mut tx, caller, inbox).await;
        let is_in_workspace = matches!(&found, Ok(inbox) if inbox.workspace == domain.workspace);
        if !is_in_workspace {
            return Err(Error::Invalid {
                field: "catchAll",
                rule: "must be the id of an inbox of the domain's workspace, or null".to_owned(),
            });
        }
    }
    let now = service.now();
    tx.set_catch_all(domain.id, inbox, now).await?;
    (domain.catch_all, domain.updated_at) = (inbox, now);
    let keys = tx.dkim_keys(Some(domain.id)).await?;
    let key = (MapKey::Domain(name.clone()), SessionsToEnd::None);
    let publish = service.mark_each(&mut tx, [key]).await?;
    tx.commit().await?;
    Ok(Changed {
        value: Registered::of(service, domain, &keys),
        publish,
    })
}

/// Deletes a registration. Its addresses are taken from the inboxes that have them as further ones; an inbox whose
/// canonical address is at the domain has to be deleted first.
///
/// None of its addresses leaves a tombstone that holds: whoever owns the domain next gets all of its names.
pub async fn delete(
    service: &Service,
    caller: &Caller,
    name: &DomainName,
    condition: &Condition<Registered>,
) -> Result<Changed<Deletion>, Error> {
    require(caller, MANAGE)?;
    let subject = Subject::Domain(name.clone());
    let deletion = service.deletions.claim(caller, subject).await;
    let mut tx = service.db.write().await?;
    let domain = match reached_to_change(&mut tx, caller, name).await {
        Ok(domain) => domain,
        Err(Error::NotFound(what)) => return deletion.resume(&mut tx, caller, what).await,
        Err(error) => return Err(error),
    };
    require_state(service, &mut tx, &domain, condition).await?;
    let now = service.now();
    let mut keys = Vec::new();
    if domain.verified_at.is_some() {
        let inboxes = tx.count_inboxes_at(domain.tenant, name).await?;
        if inboxes > 0 {
            return Err(Error::DomainInUse {
                domain: name.clone(),
                inboxes,
            });
        }
        let (left, without_primary) = tx.leave_domain(name, now).await?;
        for (inbox, canonical) in without_primary {
            tx.make_primary(inbox, &canonical, now).await?;
        }
        keys.push(MapKey::Domain(name.clone()));
        keys.extend(left.into_iter().map(MapKey::Address));
    }
    tx.delete_domain(domain.id, now).await?;
    tx.delete_dkim_keys(domain.id).await?;
    let keys = keys.into_iter().map(|key| (key, SessionsToEnd::None));
    let publish = service.mark_each(&mut tx, keys).await?;
    deletion.commits(Some(domain.workspace));
    tx.commit().await?;
    Ok(Changed {
        value: deletion,
        publish,
    })
}

/// The zone file of a registration.
pub async fn zone(service: &Service, caller: &Caller, name: &DomainName) -> Result<String, Error> {
    let registered = read(service, caller, name).await?;
    let records: Vec<DnsRecord> = registered.records.into_iter().map(|(record, _)| record).collect();
    Ok(dns_records::zone(name, &records))
}
