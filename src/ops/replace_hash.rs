//! Replacing the costly hash of an imported inbox by one of our own scheme, when Dovecot has verified its password.

use std::sync::Arc;

use super::{Changed, Error, Service, costly::compute};
use crate::{
    model::{
        password::{HashError, PasswordHash, hash_chosen},
        verified_password::VerifiedPassword,
    },
    store::SessionsToEnd,
};

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The inbox has a hash of our own scheme of the same password.
    Replaced,
    /// The inbox has another hash, or other credentials, than the login that the password is from; or there is none any
    /// more.
    Stale,
    /// The hash stays: a password that it takes would be refused by one of our own scheme, or it is no costly one.
    Kept,
}

/// Replaces the hash that a password was verified against, if the inbox still has it. Its credentials stay the same ones:
/// sessions go on, and no recoverable copy of a password that its owner chose is made. The password is hashed in a turn of
/// the service's own, so whoever creates inboxes waits for one hash at the most.
pub async fn replace_hash(service: &Service, verified: VerifiedPassword) -> Result<Changed<Outcome>, Error> {
    let unchanged = |value| Changed {
        value,
        publish: Vec::new(),
    };
    if !verified.is_replaceable() {
        return Ok(unchanged(Outcome::Kept));
    }
    // Of many logins of one inbox, only the first gets to be hashed.
    if !has_hash(service, &verified).await? {
        return Ok(unchanged(Outcome::Stale));
    }
    let VerifiedPassword {
        sasl_name,
        hash,
        password,
    } = verified;
    let turn = service.turn_to_hash_for_the_service().await?;
    let entropy = Arc::clone(&service.entropy);
    let new: Result<PasswordHash, HashError> =
        compute(turn, move || hash_chosen(&password, &*entropy)).await?;
    let new = new?;
    let mut tx = service.db.write().await?;
    if !tx.replace_hash(sasl_name, &hash, &new).await? {
        return Ok(unchanged(Outcome::Stale));
    }
    let Some(inbox) = tx.inbox(sasl_name.inbox).await? else {
        return Ok(unchanged(Outcome::Stale));
    };
    let publish = service
        .mark(&mut tx, [inbox.canonical], SessionsToEnd::None)
        .await?;
    tx.commit().await?;
    Ok(Changed {
        value: Outcome::Replaced,
        publish,
    })
}

/// Whether the inbox still has the hash that the password was verified against.
async fn has_hash(service: &Service, verified: &VerifiedPassword) -> Result<bool, Error> {
    let mut tx = service.db.read().await?;
    let secrets = tx.inbox_secrets(verified.sasl_name.inbox).await?;
    Ok(secrets.is_some_and(|secrets| secrets.password_hash == verified.hash))
}
