//! All of the store against all of the maps, both ways, and what differs repaired in place.

use std::{collections::BTreeSet, sync::Arc};

use super::{Error, Parts, blocking};
use crate::{
    maps::{self, Differences, NamedIn},
    model::{
        address::Address,
        maps::{AddressState, MapChange, MapKey},
    },
};

/// Entries compared at a time.
const CHECK_PAGE: u32 = 2_000;

impl Parts {
    /// Compares all of the store with all of the maps, both ways, and repairs what differs.
    pub(super) async fn compare(&self) -> Result<Differences, Error> {
        let maps = Arc::clone(&self.maps);
        let mut differences = Differences {
            wrong: 0,
            extra: blocking(move || maps.clean()).await?,
        };
        let mut expected = maps::Counts::default();

        let mut domains = self.db.read().await?.verified_domains().await?;
        domains.push(self.default_domain.clone());
        expected.domains = domains.iter().collect::<BTreeSet<_>>().len() as u64;
        let served = domains
            .into_iter()
            .map(|domain| MapChange::Domain(domain, true))
            .collect();
        differences.wrong += self.repair(served).await?;

        let mut after: Option<Address> = None;
        loop {
            let page = self
                .db
                .read()
                .await?
                .address_states_after(after.as_ref(), CHECK_PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let changes: Vec<MapChange> = page
                .into_iter()
                .map(|(address, state)| MapChange::Address(address, state))
                .collect();
            let mailboxes = changes.iter().filter(|change| is_mailbox(change)).count() as u64;
            expected.passwords += mailboxes;
            expected.mailboxes += mailboxes;
            expected.sender_logins += changes.iter().filter(|change| may_send(change)).count() as u64;
            expected.aliases += changes.len() as u64 - mailboxes;
            differences.wrong += self.repair(changes).await?;
        }

        let maps = Arc::clone(&self.maps);
        let found = blocking(move || maps.counts()).await?;
        // Everything expected is there now; so there is more than that exactly if the numbers differ.
        if found != expected {
            differences.extra += self.remove_extra().await?;
        }
        Ok(differences)
    }

    async fn repair(&self, expected: Vec<MapChange>) -> Result<usize, Error> {
        let maps = Arc::clone(&self.maps);
        blocking(move || {
            let wrong = maps.wrong_of(&expected)?;
            if !wrong.is_empty() {
                maps.apply(&wrong)?;
            }
            Ok(wrong.len())
        })
        .await
    }

    async fn remove_extra(&self) -> Result<usize, Error> {
        let mut removed = 0;
        let mut after: Option<NamedIn> = None;
        loop {
            let maps = Arc::clone(&self.maps);
            let behind = after.clone();
            let (names, junk) =
                blocking(move || maps.names_after(behind.as_ref(), CHECK_PAGE as usize)).await?;
            removed += junk;
            let Some(last) = names.last() else {
                return Ok(removed);
            };
            after = Some(last.clone());
            let mut changes = Vec::with_capacity(names.len());
            let mut tx = self.db.read().await?;
            for key in names.iter().filter_map(|named| MapKey::parse(&named.name).ok()) {
                changes.push(self.current(&mut tx, &key).await?);
            }
            drop(tx);
            removed += self.repair(changes).await?;
        }
    }
}

fn may_send(change: &MapChange) -> bool {
    matches!(change, MapChange::Address(address, state) if maps::login_of(address, state).is_some())
}

fn is_mailbox(change: &MapChange) -> bool {
    matches!(change, MapChange::Address(_, AddressState::Mailbox(_)))
}
