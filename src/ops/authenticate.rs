//! Who calls.

use super::{Error, Service};
use crate::model::api_key::{ApiKey, Caller};

/// Finds out who presents this key. Unknown, revoked and mistyped keys cannot be told apart by the answer.
///
/// Every call reads the store: a key that was revoked before this one began is refused.
pub async fn authenticate(service: &Service, presented: &str) -> Result<Caller, Error> {
    let key = ApiKey::parse(presented).ok_or(Error::InvalidApiKey)?;
    let found = service
        .db
        .look()
        .await?
        .key_by_hash(&key.hash())
        .await?
        .ok_or(Error::InvalidApiKey)?;
    if found.caller.scope.kind() != key.kind() {
        return Err(Error::InvalidApiKey);
    }
    match found.suspended_at {
        Some(_) => Err(Error::TenantSuspended),
        None => Ok(found.caller),
    }
}
