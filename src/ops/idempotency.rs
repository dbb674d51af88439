//! `Idempotency-Key`: for 24 hours the same key, caller, path and request gets the first answer again.
//!
//! What a call makes is committed together with its answer ([`super::uncommitted`]). Where nothing new is made, or where the
//! object can be found again by itself (an inbox without credentials that were sent, a rotation), the answer is kept behind
//! the work ([`finish`]): a crash in between leaves no record, and the same request completes the work.
//!
//! Kept are answers that say that something was done. A refusal did nothing, and what refused it may be lifted by then: the
//! same request runs again. The answer is sealed, because it may carry credentials.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Error, Service, in_flight::Running};
use crate::{
    model::{
        address::Address,
        api_key::{Caller, Scope},
        ids::{DomainId, InboxId, TenantId, WorkspaceId},
        made::{Made, Object, Stale, digest_of},
        sealing::Sealed,
    },
    store::{self, Db, KeptAnswer, Started, Tx},
};

/// How long an answer is kept.
const KEPT_SECONDS: i64 = 24 * 60 * 60;
/// Longest `Idempotency-Key`, in octets.
pub const KEY_MAX_OCTETS: usize = 255;

/// Answers that are kept for the keys of one tenant, those of one workspace, or one operator's key: beyond, the oldest go.
pub const KEPT_PER_OWNER_MAX: u32 = 10_000;
/// How often a request tries to begin while others write the same record.
const BEGIN_TRIES: usize = 3;

/// How a request with an `Idempotency-Key` begins.
pub enum Begin {
    /// It is the first of its kind: run it, then [`finish`] or [`abandon`] the record.
    First(Record),
    /// It was answered before: this is the answer.
    Again(Answer),
}

/// A request that is running, as long as this is held.
#[derive(Debug)]
pub struct Record(Running);

impl Record {
    pub(super) fn id(&self) -> uuid::Uuid {
        self.0.record()
    }
}

/// An answer as it was sent the first time.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
    /// What it is about.
    pub made: Made,
    /// What of it does not hold any more.
    pub stale: Vec<Stale>,
}

/// Begins a request. The key is 1 to 255 visible ASCII characters.
pub async fn begin(
    service: &Service,
    caller: &Caller,
    path: &str,
    idempotency_key: &str,
    request: &[&[u8]],
) -> Result<Begin, Error> {
    if !(1..=KEY_MAX_OCTETS).contains(&idempotency_key.len())
        || !idempotency_key.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(Error::Invalid {
            field: "Idempotency-Key",
            rule: format!("must be 1 to {KEY_MAX_OCTETS} visible ASCII characters without spaces"),
        });
    }
    let started = Started {
        id: service.new_id(),
        caller: caller.key,
        path: path.to_owned(),
        idempotency_key: idempotency_key.to_owned(),
        request_hash: hash_of(request),
        started_at: service.now(),
        owner: owner_of(caller),
    };
    for _ in 0..BEGIN_TRIES {
        if let Some(begin) = try_to_begin(service, &started).await? {
            return Ok(begin);
        }
    }
    Err(Error::IdempotencyInProgress)
}

/// Begins a request, unless its record is written by another transaction at the same moment: then the next try reads it. That
/// may be one of this process, of which no answer said whether it was committed.
async fn try_to_begin(service: &Service, started: &Started) -> Result<Option<Begin>, Error> {
    let mut tx = service.db.write().await?;
    if let Some(kept) = tx.kept_request(started).await? {
        // A record without an answer that no process works on is left of a request whose end could not be written down.
        let is_left_over = kept.answer.is_none() && !service.in_flight.is_running(kept.id);
        if is_left_over {
            // If its transaction ends only now, there is an answer: the record stays, and the next request is given that.
            tx.abandon_request(kept.id).await?;
        } else if kept.started_at.plus_seconds(KEPT_SECONDS) > started.started_at {
            if kept.request_hash != started.request_hash {
                return Err(Error::IdempotencyKeyReused);
            }
            let answer = kept.answer.ok_or(Error::IdempotencyInProgress)?;
            let body = service.sealing.open(Sealed::Answer(kept.id), &answer.sealed)?;
            return Ok(Some(Begin::Again(Answer {
                status: answer.status,
                body,
                stale: stale_of(&mut tx, &answer.made).await?,
                made: answer.made,
            })));
        } else {
            tx.forget_request(kept.id).await?;
        }
    }
    if !tx.start_idempotent(started, KEPT_PER_OWNER_MAX).await? {
        return Ok(None);
    }
    // Before another request can see the record.
    let running = service.in_flight.run(started.id);
    tx.commit().await?;
    Ok(Some(Begin::First(Record(running))))
}

/// Whose quota a caller's records count against. The keys of a workspace share one, apart from those of its tenant and of
/// other workspaces, which belong to strangers.
fn owner_of(caller: &Caller) -> uuid::Uuid {
    match caller.scope {
        Scope::SuperAdmin => caller.key.0,
        Scope::Tenant { tenant } => tenant.0,
        Scope::Workspace { workspace, .. } | Scope::Inbox { workspace, .. } => workspace.0,
    }
}

/// What of an answer does not hold any more. Of an object that is gone nothing else is said.
async fn stale_of(tx: &mut Tx, made: &Made) -> Result<Vec<Stale>, Error> {
    let is_there = match &made.object {
        Object::Inbox(id) => tx.inbox(InboxId(*id)).await?.is_some(),
        Object::Address { inbox, address } => {
            let inbox = tx.inbox(InboxId(*inbox)).await?;
            let address = Address::parse(address).ok();
            inbox
                .zip(address)
                .is_some_and(|(inbox, address)| inbox.addresses.iter().any(|entry| entry.address == address))
        }
        Object::Domain(id) => tx.domain(DomainId(*id)).await?.is_some(),
        Object::Workspace { tenant, workspace } => tx
            .workspace(TenantId(*tenant), WorkspaceId(*workspace))
            .await?
            .is_some(),
        Object::Tenant(id) => tx.tenant(TenantId(*id)).await?.is_some(),
        // The answer shows it, so it is looked up below.
        Object::Key(_) => true,
    };
    if !is_there {
        return Ok(vec![Stale::Deleted]);
    }
    let mut stale = Vec::new();
    if let (Some(shown), Object::Inbox(id)) = (made.password, &made.object) {
        let now = tx.inbox_secrets(InboxId(*id)).await?;
        if now.is_none_or(|now| digest_of(&now.password_hash) != shown) {
            stale.push(Stale::Password);
        }
    }
    if let Some(hash) = made.key
        && tx.keys_by_hash(&[hash]).await?.iter().all(Option::is_none)
    {
        stale.push(Stale::Key);
    }
    Ok(stale)
}

/// The answer to a request, sealed for the store.
pub fn sealed_answer(
    service: &Service,
    record: &Record,
    status: u16,
    body: &[u8],
    made: &Made,
) -> Result<KeptAnswer, Error> {
    let sealed = service
        .sealing
        .seal(Sealed::Answer(record.id()), body, &*service.entropy)?;
    Ok(KeptAnswer {
        status,
        sealed,
        made: made.clone(),
    })
}

/// Keeps the answer to a request whose work is done.
pub async fn finish(service: &Service, record: &Record, answer: &KeptAnswer) -> Result<(), Error> {
    let mut tx = service.db.write().await?;
    tx.keep_answer(record.id(), answer).await?;
    Ok(tx.commit().await?)
}

/// Forgets a request, so that the same one can run again, unless its answer is kept. It is where a commit failed in a way
/// that does not tell whether it happened, and where the work behind the commit failed.
pub async fn abandon(service: &Service, record: &Record) -> Result<(), Error> {
    let mut tx = service.db.write().await?;
    tx.abandon_request(record.id()).await?;
    Ok(tx.commit().await?)
}

/// At start: forgets the requests that an earlier process did not finish. Nobody runs them any more.
pub async fn forget_unfinished(db: &Db, now: crate::clock::Timestamp) -> Result<u64, store::Error> {
    let mut tx = db.write().await?;
    // A clock that was ahead may have begun them "later" than now.
    let forgotten = tx
        .forget_requests_before(now.plus_seconds(i64::from(i32::MAX)), true)
        .await?;
    tx.commit().await?;
    Ok(forgotten)
}

/// Now and then: forgets the answers that are no longer kept.
pub async fn forget_expired(service: &Service) -> Result<u64, store::Error> {
    let mut tx = service.db.write().await?;
    let forgotten = tx
        .forget_requests_before(service.now().plus_seconds(-KEPT_SECONDS), false)
        .await?;
    tx.commit().await?;
    Ok(forgotten)
}

/// SHA-256 of the parts, each with its length, so that no two lists of parts give the same octets.
fn hash_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
