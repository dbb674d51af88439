//! What DNS says of a domain, and what follows from it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::{
    super::{Changed, Error, Service},
    Registered,
    handover::{self, HoldersProofs, Standing, contested},
    register::require_below_cap,
    require_current, wanted,
};
use crate::{
    clock::Timestamp,
    model::{
        dns_records::{DnsRecord, Purpose, Wanted, judge::Judgement, records},
        domain::{Contest, DkimKey, Domain, Finding, RecordStatus, signing},
        ids::{DkimKeyId, DomainId},
        maps::MapKey,
    },
    store::{SessionsToEnd, Tx},
};

/// Domains that the service itself checks at the same time, beside those that callers let it check.
const OWN_CHECKS_AT_ONCE: usize = 4;
/// How long the record of a key that signs no more has to stay, so that mail that is under way can be verified: longer
/// than others try to deliver (RFC 5321, 4.5.4.1).
const RETIRED_DAYS: i64 = 7;
const SECONDS_A_DAY: i64 = 86_400;

/// What DNS said of the records that were wanted when it was asked.
pub(super) struct Judged(pub(super) Vec<(DnsRecord, Judgement)>);

impl Judged {
    /// Asks DNS for these records.
    pub(super) async fn ask(service: &Service, wanted: &Wanted) -> Self {
        let judgements = service.dns.check(wanted).await;
        Self(records(wanted).into_iter().zip(judgements).collect())
    }

    /// What DNS said now of the challenge.
    fn ownership(&self) -> RecordStatus {
        let mut found = self.0.iter();
        found
            .find(|(record, _)| record.purpose == Purpose::Ownership)
            .map_or(RecordStatus::Unknown, |(_, judgement)| judgement.status)
    }
}

/// What is left to do when the outcome of a check is written.
enum Then {
    /// Nothing.
    Nothing,
    /// The caller is refused: others have the domain, or one above it.
    Refuse(Error),
    /// The domain is handed over.
    HandOver,
}

/// Asks DNS for a registration's records, and writes what it says and what follows from it.
pub(super) async fn check(service: &Service, id: DomainId) -> Result<Changed<Registered>, Error> {
    let mut tx = service.db.read().await?;
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    let keys = tx.dkim_keys(Some(id)).await?;
    let holders = match domain.verified_at {
        Some(_) => Vec::new(),
        None => handover::holders(&mut tx, &domain).await?,
    };
    drop(tx);
    let wanted = wanted(&service.settings, &domain, &keys);
    let (judged, proofs) = tokio::join!(
        Judged::ask(service, &wanted),
        handover::proofs_of(service, &holders)
    );

    let mut tx = service.db.write().await?;
    tx.lock_tenant(domain.tenant).await?;
    // It may have been deleted, or have lapsed, while DNS was asked.
    let domain = tx.domain(id).await?.ok_or(Error::NotFound("domain"))?;
    require_current(service, &domain)?;
    let (changed, then) = apply(service, &mut tx, domain, &judged, &proofs).await?;
    tx.commit().await?;
    match then {
        Then::Nothing => Ok(changed),
        Then::Refuse(error) => Err(error),
        Then::HandOver => {
            let missing = proofs.into_iter().map(|(holder, _)| holder).collect();
            handover::hand_over(service, id, &missing).await
        }
    }
}

/// Checks verified domains that were last checked before this, as many as this at the most, a few at a time. Returns how
/// many were checked, and what is to be published. Those that a caller lets check right now are left to it.
pub async fn recheck(
    service: &Arc<Service>,
    checked_before: Timestamp,
    limit: u32,
) -> Result<Changed<usize>, Error> {
    let mut tx = service.db.read().await?;
    let due = tx.domains_to_check(checked_before, limit).await?;
    drop(tx);
    check_all(service, due).await
}

/// Checks domains, a few at a time.
pub(super) async fn check_all(service: &Arc<Service>, due: Vec<Domain>) -> Result<Changed<usize>, Error> {
    let checks = due.into_iter().map(|domain| {
        let worker = Arc::clone(service);
        service
            .checks
            .run_unless_under_way(domain.id, move || async move { check(&worker, domain.id).await })
    });
    let mut checks = stream::iter(checks).buffer_unordered(OWN_CHECKS_AT_ONCE);
    let mut all = Changed {
        value: 0,
        publish: Vec::new(),
    };
    while let Some(checked) = checks.next().await {
        match checked {
            Ok(None) => {}
            Ok(Some(checked)) => {
                all.value += 1;
                all.publish.extend_from_slice(&checked.publish);
            }
            Err(Error::Shared(error)) if is_refusal(&error) => {
                tracing::debug!(reason = %error, "a check leaves a domain as it is");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Whether a check ends in a refusal, which is no failure: the registration was deleted while DNS was asked, others have the
/// domain, or the plan allows no more.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound(_)
            | Error::DomainTaken(_)
            | Error::DomainBelow { .. }
            | Error::DomainLapsed { .. }
            | Error::PlanLimit { .. }
    )
}

/// Writes what DNS said. The tenant is locked.
async fn apply(
    service: &Service,
    tx: &mut Tx,
    mut domain: Domain,
    judged: &Judged,
    proofs: &HoldersProofs,
) -> Result<(Changed<Registered>, Then), Error> {
    let now = service.now();
    let mut keys = tx.dkim_keys(Some(domain.id)).await?;
    let before = signing_ids(&keys);
    let was_verified = domain.verified_at.is_some();
    let findings = findings(&domain, judged);
    let mut then = Then::Nothing;
    match (was_verified, judged.ownership()) {
        (false, RecordStatus::Verified) => then = claim(service, tx, &mut domain, proofs, now).await?,
        // What was proved is not any more.
        (false, RecordStatus::Missing | RecordStatus::Wrong) => {
            contest(service, tx, &mut domain, None).await?;
        }
        (true, RecordStatus::Verified) => {
            if tx.end_contests_with(domain.id).await? > 0 {
                tracing::info!(domain = %domain.name, "a contest has ended: the holder's challenge is in DNS again");
            }
            domain.contested_since = None;
        }
        (true, RecordStatus::Missing | RecordStatus::Wrong) | (_, RecordStatus::Unknown) => {}
    }
    if domain.verified_at.is_some() {
        settle_keys(tx, &mut keys, judged, now).await?;
    }
    let is_degraded = domain.verified_at.is_some() && findings.iter().any(is_lost(judged));
    domain.degraded_since = match (is_degraded, domain.degraded_since) {
        (true, None) => Some(now),
        (true, since) => since,
        (false, _) => None,
    };
    if domain.findings != findings {
        domain.updated_at = now;
    }
    domain.findings = findings;
    domain.checked_at = Some(now);
    tx.write_findings(&domain).await?;
    let mut publish = if domain.verified_at.is_some() != was_verified || signing_ids(&keys) != before {
        let key = (MapKey::Domain(domain.name.clone()), SessionsToEnd::None);
        service.mark_each(tx, [key]).await?
    } else if was_verified {
        // An earlier check may have written what it could not publish.
        vec![MapKey::Domain(domain.name.clone())]
    } else {
        Vec::new()
    };
    if domain.taking_over_since.is_some() {
        publish.extend(tx.unpublished_at(&domain.name).await?);
    }
    let value = Registered::of(service, domain, &keys);
    Ok((Changed { value, publish }, then))
}

/// What follows from a challenge that is found: the domain is its tenant's, or it is contested, if others have it.
async fn claim(
    service: &Service,
    tx: &mut Tx,
    domain: &mut Domain,
    proofs: &HoldersProofs,
    now: Timestamp,
) -> Result<Then, Error> {
    let holders = handover::holders(tx, domain).await?;
    if holders.is_empty() {
        contest(service, tx, domain, None).await?;
        prove(tx, domain, now).await?;
        return Ok(Then::Nothing);
    }
    let notice = service.settings.domains.handover_notice_seconds;
    let (next, then) = match contested(domain, &holders, proofs, now, notice) {
        Standing::Refused(error) => (None, Then::Refuse(error)),
        Standing::Contests(next) => (Some(next), Then::Nothing),
        Standing::Due(next) => (Some(next), Then::HandOver),
    };
    contest(service, tx, domain, next).await?;
    Ok(then)
}

/// Writes whether a registration contests another one from now on.
async fn contest(
    service: &Service,
    tx: &mut Tx,
    domain: &mut Domain,
    next: Option<Contest>,
) -> Result<(), Error> {
    if domain.contest == next {
        return Ok(());
    }
    tx.write_contest(domain.id, next).await?;
    domain.contest = next;
    match next {
        Some(next) => tracing::warn!(
            event = "domain.contested",
            domain = %domain.name,
            tenant = %domain.tenant,
            holder = %next.holder,
            due = %next.due(service.settings.domains.handover_notice_seconds),
            "another tenant has proved a domain whose holder's challenge is missing from DNS"
        ),
        None => {
            tracing::info!(domain = %domain.name, tenant = %domain.tenant, "a contest of a domain has ended");
        }
    }
    Ok(())
}

/// Writes that a domain is its tenant's, unless another one proves it in the same moment, or the tenant has as many verified
/// domains as it may: its cap may have been lowered since the registration.
async fn prove(tx: &mut Tx, domain: &mut Domain, now: Timestamp) -> Result<(), Error> {
    let tenant = tx.tenant(domain.tenant).await?.ok_or(Error::InvalidApiKey)?;
    let current = tx.count_verified_domains(domain.tenant).await?;
    require_below_cap(&tenant, current)?;
    if !tx.verify_domain(domain.id, now).await? {
        return Err(Error::DomainTaken(domain.name.clone()));
    }
    domain.verified_at = Some(now);
    domain.updated_at = now;
    Ok(())
}

/// What is kept of a check. What DNS did not answer stays as it was known.
fn findings(domain: &Domain, judged: &Judged) -> Vec<Finding> {
    judged
        .0
        .iter()
        .map(|(record, judgement)| {
            let key = record.key();
            let known = domain.findings.iter().find(|finding| finding.record == key);
            let was_there = known.is_some_and(|known| known.was_there);
            match (judgement.status, known) {
                (RecordStatus::Unknown, Some(known)) => Finding {
                    reason: judgement.reason.clone(),
                    ..known.clone()
                },
                (status, _) => Finding {
                    record: key,
                    status,
                    reason: judgement.reason.clone(),
                    was_there: was_there || status == RecordStatus::Verified,
                },
            }
        })
        .collect()
}

/// Whether a record is missing or wrong that is required, and was there before.
fn is_lost(judged: &Judged) -> impl Fn(&Finding) -> bool {
    |finding| {
        let is_required = judged
            .0
            .iter()
            .any(|(record, _)| record.is_required && record.key() == finding.record);
        let is_gone = matches!(finding.status, RecordStatus::Missing | RecordStatus::Wrong);
        is_required && is_gone && finding.was_there
    }
}

/// Notes which keys were seen, retires those for which another one signs now, and forgets those that were retired long
/// ago.
pub(super) async fn settle_keys(
    tx: &mut Tx,
    keys: &mut Vec<DkimKey>,
    judged: &Judged,
    now: Timestamp,
) -> Result<(), Error> {
    for (record, judgement) in &judged.0 {
        if let Purpose::Dkim(public) = &record.purpose
            && judgement.status == RecordStatus::Verified
            && let Some(key) = keys
                .iter_mut()
                .find(|key| key.public == *public && key.seen_at.is_none())
        {
            key.seen_at = Some(now);
            tx.update_dkim_key(key).await?;
        }
    }
    let signing: Vec<(DkimKeyId, _, _)> = signing(keys)
        .into_iter()
        .map(|key| (key.id, key.public.algorithm, key.created_at))
        .collect();
    for key in keys.iter_mut() {
        let is_followed = signing.iter().any(|(id, algorithm, created_at)| {
            *id != key.id && *algorithm == key.public.algorithm && *created_at > key.created_at
        });
        if is_followed && key.retired_at.is_none() {
            key.retired_at = Some(now);
            tx.update_dkim_key(key).await?;
        }
    }
    let forgotten_before = now.plus_seconds(-RETIRED_DAYS * SECONDS_A_DAY);
    let (gone, left): (Vec<_>, Vec<_>) = keys
        .drain(..)
        .partition(|key| key.retired_at.is_some_and(|at| at < forgotten_before));
    for key in gone {
        tx.delete_dkim_key(key.id).await?;
    }
    *keys = left;
    Ok(())
}

pub(super) fn signing_ids(keys: &[DkimKey]) -> Vec<DkimKeyId> {
    signing(keys).into_iter().map(|key| key.id).collect()
}
