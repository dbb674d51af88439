//! Another hash of the same password.

use super::{Error, Tx, on};
use crate::model::{password::PasswordHash, sasl_name::SaslName};

impl Tx {
    /// Replaces the password hash of a live inbox by another one of the same password. `false` if it has other credentials
    /// by now, or another hash than this one. The generation of its credentials stays, and so do its sessions.
    pub async fn replace_hash(
        &mut self,
        sasl_name: SaslName,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, Error> {
        let generation = i64::from(sasl_name.generation.0.get());
        let rows = on!(self, db => sqlx::query(
                "UPDATE inboxes SET password_hash = $4 WHERE id = $1 AND credential_generation = $2
                     AND password_hash = $3 AND deleted_at IS NULL",
            )
            .bind(sasl_name.inbox.0)
            .bind(generation)
            .bind(old.as_str())
            .bind(new.as_str())
            .execute(db)
            .await
            .map(|done| done.rows_affected()))
        .map_err(Error::while_doing("replace a password hash"))?;
        Ok(rows == 1)
    }
}
