//! Facts about the store itself.

use super::{Error, Tx, on};

/// Name of the fact: which sealing key the sealed values were made under.
const SEALING_KEY_FINGERPRINT: &str = "sealing_key_fingerprint";

impl Tx {
    /// The fingerprint of the sealing key that this store's sealed values need, if any was ever used.
    pub async fn sealing_key_fingerprint(&mut self) -> Result<Option<Vec<u8>>, Error> {
        on!(self, db => sqlx::query_scalar("SELECT value FROM meta WHERE name = $1")
            .bind(SEALING_KEY_FINGERPRINT)
            .fetch_optional(db)
            .await)
        .map_err(Error::while_doing("read the sealing key's fingerprint"))
    }

    /// Remembers the sealing key's fingerprint; the first one stays.
    pub async fn remember_sealing_key(&mut self, fingerprint: &[u8]) -> Result<(), Error> {
        on!(self, db => sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(SEALING_KEY_FINGERPRINT)
            .bind(fingerprint)
            .execute(db)
            .await
            .map(drop))
        .map_err(Error::while_doing("remember the sealing key's fingerprint"))
    }
}
