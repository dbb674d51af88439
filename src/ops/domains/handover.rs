//! Domains that change hands: a tenant proves one that another has, while the challenge of that one is missing from DNS.
//!
//! Each step is one transaction, and may be the last thing that a process does:
//!
//! 1. A check finds the challenge of one registration, and not that of the holder: the contest begins
//!    ([`contested`]). A later check that finds the holder's challenge ends it.
//! 2. When the notice is over, a check that finds the same hands the domain over ([`hand_over`]): what the holder has at it
//!    is deleted, and the registration is verified in the store.
//! 3. When the mail servers see that, the registration is shown as verified ([`finish_hand_over`]).

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;

use super::{Registered, checked, register::require_below_cap, wanted};
use crate::{
    clock::Timestamp,
    model::{
        address::DomainName,
        api_key::{Caller, KeyKind},
        dns_records::{Purpose, records},
        domain::{Contest, Domain, RecordStatus},
        ids::{DomainId, TenantId},
        maps::MapKey,
    },
    ops::{
        Changed, Error, KeyRule, Service,
        deletions::{Deletion, Subject},
        require,
    },
    store::{ContestsDue, SessionsToEnd, Tx},
};

/// Who may take a domain from its holder.
pub const RELEASE: KeyRule = KeyRule {
    kinds: &[KeyKind::SuperAdmin],
    text: "domains are released with a super admin (sa_) key",
};
/// Hand-overs that are finished in one round.
const FINISHED_MAX: u32 = 32;
const MICROS_A_SECOND: i64 = 1_000_000;

/// What DNS said of the challenges of those who have a domain, or one above it.
pub(super) type HoldersProofs = Vec<(DomainId, RecordStatus)>;

/// What follows for a registration that is proved while others have the domain, or one above it.
pub(super) enum Standing {
    /// Their challenge is in DNS, too, or it is not known whether it is.
    Refused(Error),
    /// Their challenge is missing: the contest goes on until its notice is over.
    Contests(Contest),
    /// Their challenge is missing, and the notice is over.
    Due(Contest),
}

/// Of other tenants, the registrations that have proved a domain or one above it: the domain's own first, then from below.
/// Fails if a sibling workspace has the domain: its tenant decides between the two.
pub(super) async fn holders(tx: &mut Tx, domain: &Domain) -> Result<Vec<Domain>, Error> {
    let mut names = domain.name.parents();
    names.push(domain.name.clone());
    let mut holders = Vec::new();
    for holder in tx.verified_domains(&names).await? {
        let is_same = holder.name == domain.name;
        if holder.tenant != domain.tenant {
            holders.push(holder);
        } else if is_same && holder.id != domain.id {
            return Err(Error::DomainTaken(domain.name.clone()));
        }
    }
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.name.as_str().len()));
    Ok(holders)
}

/// Asks DNS for the challenges of holders.
pub(super) async fn proofs_of(service: &Service, holders: &[Domain]) -> HoldersProofs {
    let proofs = holders.iter().map(async |holder| {
        let records = records(&wanted(&service.settings, holder, &[]));
        let mut ownership = records
            .iter()
            .filter(|record| record.purpose == Purpose::Ownership);
        let status = match ownership.next() {
            Some(record) => service.dns.ownership(record).await.status,
            None => RecordStatus::Unknown,
        };
        (holder.id, status)
    });
    join_all(proofs).await
}

/// What follows for a proved registration from what DNS said of the holders that there are now.
pub(super) fn contested(
    domain: &Domain,
    holders: &[Domain],
    proofs: &HoldersProofs,
    now: Timestamp,
    notice_seconds: u32,
) -> Standing {
    let refused = |holder: &Domain| {
        Standing::Refused(if holder.name == domain.name {
            Error::DomainTaken(domain.name.clone())
        } else {
            Error::DomainBelow {
                domain: domain.name.clone(),
                above: holder.name.clone(),
            }
        })
    };
    let Some(first) = holders.first() else {
        // Nothing to contest; whoever calls this has holders.
        return Standing::Refused(Error::DomainTaken(domain.name.clone()));
    };
    let proof_of = |holder: &Domain| {
        let known = proofs.iter().find(|(id, _)| *id == holder.id);
        known.map_or(RecordStatus::Unknown, |(_, status)| *status)
    };
    if let Some(holder) = holders
        .iter()
        .find(|holder| proof_of(holder) == RecordStatus::Verified)
    {
        return refused(holder);
    }
    let known = domain.contest.filter(|contest| contest.holder == first.id);
    if let Some(holder) = holders
        .iter()
        .find(|holder| proof_of(holder) == RecordStatus::Unknown)
    {
        return known.map_or_else(|| refused(holder), Standing::Contests);
    }
    let contest = known.unwrap_or(Contest {
        holder: first.id,
        since: now,
    });
    if contest.due(notice_seconds) <= now {
        Standing::Due(contest)
    } else {
        Standing::Contests(contest)
    }
}

/// Hands a domain over to a registration whose contest is due, from those whose challenge was just found missing. Nothing
/// happens if anything has changed since.
pub(super) async fn hand_over(
    service: &Service,
    id: DomainId,
    missing: &BTreeSet<DomainId>,
) -> Result<Changed<Registered>, Error> {
    let mut tx = service.db.write().await?;
    let (domain, holders) = locked(&mut tx, id).await?;
    let now = service.now();
    let is_due = domain.contest.is_some_and(|contest| {
        contest.due(service.settings.domains.handover_notice_seconds) <= now
            && holders.first().is_some_and(|first| first.id == contest.holder)
    });
    let keys = tx.dkim_keys(Some(id)).await?;
    if !is_due || domain.verified_at.is_some() || !holders.iter().all(|holder| missing.contains(&holder.id)) {
        return Ok(Changed {
            value: Registered::of(service, domain, &keys),
            publish: Vec::new(),
        });
    }
    let tenant = tx.tenant(domain.tenant).await?.ok_or(Error::InvalidApiKey)?;
    require_below_cap(&tenant, tx.count_verified_domains(domain.tenant).await?)?;

    let mut marks = BTreeSet::from([(MapKey::Domain(domain.name.clone()), false)]);
    let mut inboxes = 0;
    let own = holders.iter().find(|holder| holder.name == domain.name);
    if let Some(holder) = own {
        let taken = take_from(service, &mut tx, holder, now).await?;
        inboxes = taken.inboxes;
        marks.extend(taken.marks);
        // Others that contested it have another holder now, who may prove it.
        tx.end_contests_with(holder.id).await?;
    }
    if !tx.take_over_domain(id, now).await? {
        return Err(Error::DomainTaken(domain.name.clone()));
    }
    let publish = mark(service, &mut tx, marks).await?;
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    tx.commit().await?;
    tracing::warn!(
        domain = %domain.name,
        tenant = %domain.tenant,
        former_tenant = own.map(|holder| tracing::field::display(holder.tenant)),
        inboxes_deleted = inboxes,
        "a domain was handed over to the tenant that proved it"
    );
    Ok(Changed {
        value: Registered::of(service, domain, &keys),
        publish,
    })
}

/// A registration and the holders of its domain, as they are once all of their tenants are locked: in one order, whoever
/// takes from whom.
async fn locked(tx: &mut Tx, id: DomainId) -> Result<(Domain, Vec<Domain>), Error> {
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    let tenants: BTreeSet<TenantId> = holders(tx, &domain)
        .await?
        .iter()
        .map(|holder| holder.tenant)
        .chain([domain.tenant])
        .collect();
    for tenant in tenants {
        tx.lock_tenant(tenant).await?;
    }
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    let holders = holders(tx, &domain).await?;
    Ok((domain, holders))
}

/// What was taken from a holder.
struct Taken {
    /// How many inboxes were deleted.
    inboxes: u32,
    /// What is to be published, and of which logins the sessions have to end.
    marks: BTreeSet<(MapKey, bool)>,
}

/// Takes a domain from its holder, whose tenant is locked: the registration with its keys, the inboxes whose canonical
/// address is at it, and its addresses from the others. Mail that is stored stays where it is, under the inboxes' ids.
async fn take_from(service: &Service, tx: &mut Tx, holder: &Domain, now: Timestamp) -> Result<Taken, Error> {
    let taken = tx.take_inboxes_at(holder, service.held_until(), now).await?;
    for (inbox, canonical) in &taken.without_primary {
        tx.make_primary(*inbox, canonical, now).await?;
    }
    let mut inboxes = 0;
    for (workspace, count) in &taken.inboxes {
        tx.count_inboxes_of_workspace(*workspace, -i64::from(*count))
            .await?;
        inboxes += count;
    }
    tx.count_gone(holder.tenant, inboxes, 0).await?;
    let left = u32::try_from(taken.addresses_of_deleted.len()).unwrap_or(u32::MAX);
    service.limit_tombstones(tx, holder.tenant, left).await?;
    tx.delete_domain(holder.id, now).await?;
    tx.delete_dkim_keys(holder.id).await?;
    let deleted = taken.addresses_of_deleted.into_iter();
    let aliases = taken.aliases.into_iter();
    let catch_alls = taken.catch_alls.into_iter();
    let marks = deleted
        .map(|address| (MapKey::Address(address), true))
        .chain(aliases.map(|address| (MapKey::Address(address), false)))
        .chain(catch_alls.map(|name| (MapKey::Domain(name), false)))
        .chain([(MapKey::Domain(holder.name.clone()), false)])
        .collect();
    Ok(Taken { inboxes, marks })
}

async fn mark(service: &Service, tx: &mut Tx, marks: BTreeSet<(MapKey, bool)>) -> Result<Vec<MapKey>, Error> {
    let keys = marks.into_iter().map(|(key, ends_sessions)| {
        let sessions = if ends_sessions {
            SessionsToEnd::All
        } else {
            SessionsToEnd::None
        };
        (key, sessions)
    });
    service.mark_each(tx, keys).await
}

/// Takes up what a hand-over that is published leaves to do: its domain is shown as verified from now on. Anything else is
/// returned as it is.
pub async fn finish_hand_over(service: &Service, registered: Registered) -> Result<Registered, Error> {
    if registered.domain.taking_over_since.is_none() {
        return Ok(registered);
    }
    let id = registered.domain.id;
    let mut tx = service.db.write().await?;
    tx.finish_take_over(id).await?;
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    let keys = tx.dkim_keys(Some(id)).await?;
    tx.commit().await?;
    Ok(Registered::of(service, domain, &keys))
}

/// Hand-overs that are in the store, each with what of it is still to be published; then they are to be finished.
pub async fn unfinished_hand_overs(service: &Service) -> Result<Vec<Changed<Registered>>, Error> {
    let mut tx = service.db.read().await?;
    let mut unfinished = Vec::new();
    for domain in tx.domains_taking_over(FINISHED_MAX).await? {
        let keys = tx.dkim_keys(Some(domain.id)).await?;
        let publish = tx.unpublished_at(&domain.name).await?;
        unfinished.push(Changed {
            value: Registered::of(service, domain, &keys),
            publish,
        });
    }
    Ok(unfinished)
}

/// Checks contests: those that were last checked before this, and those that have become due; as many as this at the most.
/// Returns what of them is to be published; then the hand-overs among them are to be finished.
pub async fn recheck_contests(
    service: &Arc<Service>,
    checked_before: Timestamp,
    limit: u32,
) -> Result<Changed<usize>, Error> {
    let notice = i64::from(service.settings.domains.handover_notice_seconds);
    let due = ContestsDue {
        checked_before,
        begun_before: service.now().plus_seconds(-notice),
        notice_micros: notice * MICROS_A_SECOND,
    };
    let due = service.db.read().await?.contests_due(due, limit).await?;
    checked::check_all(service, due).await
}

/// A domain that was taken from its holder.
struct Released {
    holder: Domain,
    inboxes: u32,
    publish: Vec<MapKey>,
}

impl Released {
    /// For the log, once it is committed: what was done, and with which key, or how else.
    fn audit(&self, by: &str) {
        tracing::warn!(
            domain = %self.holder.name,
            former_tenant = %self.holder.tenant,
            inboxes_deleted = self.inboxes,
            by,
            "a domain was released by the operator"
        );
    }
}

/// Takes a domain from its holder at once: whoever proves it next has it. None: no registration of it is verified.
///
/// What the holder has at the domain is deleted, as in a hand-over.
async fn release(service: &Service, tx: &mut Tx, name: &DomainName) -> Result<Option<Released>, Error> {
    let Some(holder) = holder_of(tx, name).await? else {
        return Ok(None);
    };
    tx.lock_tenant(holder.tenant).await?;
    // It may have changed hands before the turn.
    let Some(holder) = holder_of(tx, name).await?.filter(|now| now.id == holder.id) else {
        return Ok(None);
    };
    let taken = take_from(service, tx, &holder, service.now()).await?;
    let publish = mark(service, tx, taken.marks).await?;
    Ok(Some(Released {
        holder,
        inboxes: taken.inboxes,
        publish,
    }))
}

async fn holder_of(tx: &mut Tx, name: &DomainName) -> Result<Option<Domain>, Error> {
    Ok(tx.verified_domains(std::slice::from_ref(name)).await?.pop())
}

/// Takes a domain from its holder at once, with a super admin's key.
pub async fn release_with_key(
    service: &Service,
    caller: &Caller,
    name: &DomainName,
) -> Result<Changed<Deletion>, Error> {
    require(caller, RELEASE)?;
    let deletion = service
        .deletions
        .claim(caller, Subject::Domain(name.clone()))
        .await;
    let mut tx = service.db.write().await?;
    let Some(released) = release(service, &mut tx, name).await? else {
        return deletion.resume(&mut tx, caller, "verified domain").await;
    };
    deletion.commits(None);
    tx.commit().await?;
    released.audit(&format!("key {}", caller.key));
    Ok(Changed {
        value: deletion,
        publish: released.publish,
    })
}

/// Takes a domain from its holder at once, at a command of the operator on the host. `false` if no registration of it is
/// verified. The daemon publishes what follows.
pub async fn release_by_command(service: &Service, name: &DomainName) -> Result<bool, Error> {
    let mut tx = service.db.write().await?;
    let Some(released) = release(service, &mut tx, name).await? else {
        return Ok(false);
    };
    tx.commit().await?;
    released.audit("command line");
    Ok(true)
}
