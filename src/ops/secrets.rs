//! Passwords of mailboxes: made, hashed away from the async threads, sealed.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Error, Service, costly::compute};
use crate::{
    model::{
        ids::{InboxId, TenantId},
        password::{MailPassword, PasswordHash},
        sealing::Sealed,
    },
    store::{NewSecrets, Secrets},
};

/// A new password in its three forms.
#[derive(Debug)]
pub struct FreshPassword {
    /// In clear, for the one answer.
    pub clear: MailPassword,
    /// For Dovecot.
    pub hash: PasswordHash,
    /// For GET; none if the service keeps no recoverable copy.
    pub sealed: Option<Vec<u8>>,
}

impl FreshPassword {
    /// As the store takes it.
    pub fn secrets(&self) -> NewSecrets<'_> {
        NewSecrets {
            password_hash: &self.hash,
            sealed_password: self.sealed.as_deref(),
        }
    }
}

impl Service {
    /// Makes a new password for an inbox, in the tenant's turn.
    pub(super) async fn fresh_password(
        &self,
        tenant: TenantId,
        inbox: InboxId,
    ) -> Result<FreshPassword, Error> {
        let clear = MailPassword::generate(&*self.entropy);
        let sealed = if self.settings.reveal_passwords {
            let secret = clear.expose().as_bytes();
            Some(
                self.sealing
                    .seal(Sealed::MailPassword(inbox.0), secret, &*self.entropy)?,
            )
        } else {
            None
        };
        let (password, entropy) = (clear.clone(), Arc::clone(&self.entropy));
        let turn = self.turn_to_hash(tenant).await?;
        let hash = compute(turn, move || password.hash(&*entropy)).await??;
        Ok(FreshPassword { clear, hash, sealed })
    }

    /// Opens the recoverable password of an inbox, if there is one and the service reveals it.
    pub fn reveal(&self, inbox: InboxId, secrets: &Secrets) -> Result<Option<MailPassword>, Error> {
        let Some(sealed) = secrets
            .sealed_password
            .as_deref()
            .filter(|_| self.settings.reveal_passwords)
        else {
            return Ok(None);
        };
        let opened: Zeroizing<Vec<u8>> = self.sealing.open(Sealed::MailPassword(inbox.0), sealed)?;
        Ok(std::str::from_utf8(&opened)
            .ok()
            .map(|clear| MailPassword::from_clear(clear.to_owned())))
    }
}
