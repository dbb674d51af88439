//! What DNS says of a domain, and what follows from it.

use super::{
    super::{Changed, Error, Service},
    Registered, wanted,
};
use crate::{
    clock::Timestamp,
    model::{
        dns_records::{DnsRecord, Purpose, Wanted, judge::Judgement, records},
        domain::{DkimKey, Domain, Finding, RecordStatus, signing},
        ids::DkimKeyId,
        maps::MapKey,
    },
    store::{DomainFilter, SessionsToEnd, Tx},
};

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
}

/// Asks DNS for a domain's records.
pub(super) async fn ask(service: &Service, domain: &Domain, keys: &[DkimKey]) -> Judged {
    Judged::ask(service, &wanted(&service.settings, domain, keys)).await
}

/// Checks domains again that were last checked longer ago than this, as many as this at the most. Returns how many there
/// were, and what is to be published.
pub async fn recheck(
    service: &Service,
    checked_before: Timestamp,
    limit: u32,
) -> Result<Changed<usize>, Error> {
    let due = service
        .db
        .read()
        .await?
        .domains_to_check(checked_before, limit)
        .await?;
    let mut publish = Vec::new();
    for domain in &due {
        let keys = service.db.look().await?.dkim_keys(Some(domain.id)).await?;
        let judged = ask(service, domain, &keys).await;
        let mut tx = service.db.write().await?;
        tx.lock_tenant(domain.tenant).await?;
        // Deleted while DNS was asked.
        let Some(current) = tx.domain(domain.id).await? else {
            continue;
        };
        publish.extend(apply(service, &mut tx, current, &judged).await?.publish);
        tx.commit().await?;
    }
    Ok(Changed {
        value: due.len(),
        publish,
    })
}

/// Writes what DNS said. The tenant is locked.
pub(super) async fn apply(
    service: &Service,
    tx: &mut Tx,
    mut domain: Domain,
    judged: &Judged,
) -> Result<Changed<Registered>, Error> {
    let now = service.now();
    let mut keys = tx.dkim_keys(Some(domain.id)).await?;
    let before = signing_ids(&keys);
    let was_verified = domain.verified_at.is_some();
    let findings = findings(&domain, judged);
    if !was_verified && is_verified(&findings, "ownership") {
        prove(tx, &mut domain, now).await?;
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
    let publish = if domain.verified_at.is_some() != was_verified || signing_ids(&keys) != before {
        let key = (MapKey::Domain(domain.name.clone()), SessionsToEnd::None);
        service.mark_each(tx, [key]).await?
    } else if was_verified {
        // An earlier check may have written what it could not publish.
        vec![MapKey::Domain(domain.name.clone())]
    } else {
        Vec::new()
    };
    Ok(Changed {
        value: Registered::of(service, domain, &keys),
        publish,
    })
}

/// Writes that a domain is its tenant's, unless somebody else has proved it, or one above it, before.
async fn prove(tx: &mut Tx, domain: &mut Domain, now: Timestamp) -> Result<(), Error> {
    let filter = DomainFilter {
        tenant: domain.tenant,
        workspace: Some(domain.workspace),
    };
    super::require_free(tx, filter, &domain.name).await?;
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

fn is_verified(findings: &[Finding], purpose: &str) -> bool {
    findings.iter().any(|finding| {
        finding.status == RecordStatus::Verified && finding.record.split(' ').next() == Some(purpose)
    })
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
