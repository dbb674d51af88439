//! The keys of domains: made in pairs of algorithms, away from the async threads.

use std::sync::Arc;

use super::super::{
    Error, Service,
    costly::{Turn, compute},
};
use crate::model::{
    dkim::{self, Algorithm, PublicKey},
    domain::{DkimKey, new_selector},
    ids::DkimKeyId,
    sealing::Sealed,
};

/// A key that is still to be written.
pub(super) struct NewKey {
    pub(super) key: DkimKey,
    pub(super) sealed: Vec<u8>,
}

/// Whether there are keys that wait for their records to be seen, while others sign.
pub(super) fn is_rotating(keys: &[DkimKey]) -> bool {
    let rsa = || {
        keys.iter()
            .filter(|key| key.public.algorithm == Algorithm::RsaSha256 && key.retired_at.is_none())
    };
    rsa().count() > 1 && rsa().any(|key| key.seen_at.is_none())
}

impl Service {
    /// A new key of each algorithm, made in this turn.
    pub(super) async fn new_dkim_keys(&self, turn: &Arc<Turn>) -> Result<Vec<NewKey>, Error> {
        let mut keys = Vec::with_capacity(Algorithm::ALL.len());
        for algorithm in Algorithm::ALL {
            let entropy = Arc::clone(&self.entropy);
            let generated = compute(Arc::clone(turn), move || dkim::generate(algorithm, &*entropy))
                .await?
                .map_err(Error::Dkim)?;
            let id = DkimKeyId(self.new_id());
            let selector =
                new_selector(algorithm, &*self.entropy).map_err(|_| Error::Task("a new selector is none"))?;
            keys.push(NewKey {
                sealed: self
                    .sealing
                    .seal(Sealed::DkimKey(id.0), &generated.private, &*self.entropy)?,
                key: DkimKey {
                    id,
                    public: PublicKey {
                        selector,
                        algorithm,
                        octets: generated.public,
                    },
                    created_at: self.now(),
                    seen_at: None,
                    retired_at: None,
                },
            });
        }
        Ok(keys)
    }
}
