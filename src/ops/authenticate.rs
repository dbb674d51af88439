//! Who calls.

use tokio::task::JoinHandle;

use super::{Error, Service, batched::Batched};
use crate::{
    model::api_key::{ApiKey, Caller},
    store::{Db, FoundKey},
};

/// Looks up keys by their hashes, those that are presented at the same time together.
pub(super) type Keys = Batched<[u8; 32], Option<FoundKey>>;

/// The task that looks up keys.
pub(super) fn start(db: Db) -> (Keys, JoinHandle<()>) {
    Batched::start(move |hashes: Vec<[u8; 32]>| {
        let db = db.clone();
        async move { db.look().await?.keys_by_hash(&hashes).await }
    })
}

/// Finds out who presents this key. Unknown, revoked and mistyped keys cannot be told apart by the answer.
///
/// Every call reads the store: a key that was revoked before this one began is refused.
pub async fn authenticate(service: &Service, presented: &str) -> Result<Caller, Error> {
    let key = ApiKey::parse(presented).ok_or(Error::InvalidApiKey)?;
    let hash = key.hash();
    let found = match service.keys.ask(hash).await? {
        Some(found) => found,
        None => service
            .db
            .look()
            .await?
            .keys_by_hash(&[hash])
            .await?
            .pop()
            .flatten(),
    };
    let found = found.ok_or(Error::InvalidApiKey)?;
    if found.caller.scope.kind() != key.kind() {
        return Err(Error::InvalidApiKey);
    }
    match found.suspended_at {
        Some(_) => Err(Error::TenantSuspended),
        None => Ok(found.caller),
    }
}
