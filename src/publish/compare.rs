//! All of the store against all of the maps, both ways, and what differs repaired in place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Error, Parts, blocking};
use crate::{
    maps::{Differences, Expected, Leftover, Survey, Which},
    model::{
        address::{Address, DomainName},
        ids::InboxId,
        maps::{AddressState, DomainState, MapChange, MapKey},
    },
    store::{self, Db, Tx},
};

/// Entries compared at a time.
pub(super) const CHECK_PAGE: u32 = 4_000;
/// Entries of the maps looked at in one go.
pub(super) const SURVEY_PAGE: usize = 20_000;

impl Parts {
    /// Compares all of the store with all of the maps, both ways, and repairs what differs. Nothing else may write the
    /// maps meanwhile.
    ///
    /// The store is read once, beside the password entries; what the tables should hold is [kept](Expected) and held
    /// against one walk through them. What they lack is written in the order of names, which is nearly theirs.
    pub(super) async fn compare(&self) -> Result<Differences, Error> {
        let maps = Arc::clone(&self.maps);
        let cleaned = blocking(move || maps.clean()).await?;
        let mut differences = Differences {
            wrong: 0,
            extra: cleaned.removed,
        };
        let mut expected = Expected::default();
        expected.add(&self.served().await?);
        let mut missing = 0;
        let (mut page, mut last) = page_by_inbox(&self.db, None).await?;
        while last.is_some() {
            let maps = Arc::clone(&self.maps);
            let compare = blocking(move || {
                expected.add(&page);
                let found = maps.wrong_entries(&page)?;
                if !found.wrong.is_empty() {
                    maps.write_entries(&found.wrong)?;
                }
                Ok((expected, found.wrong.len(), found.missing))
            });
            // The next page is read from the store while this one is compared.
            let (next, compared) = tokio::join!(page_by_inbox(&self.db, last), compare);
            let (added, wrong, without) = compared?;
            expected = added;
            differences.wrong += wrong;
            missing += without;
            (page, last) = next?;
        }

        // Of so many entries, so many are expected: there are others exactly if the numbers differ.
        let has_other_entries = cleaned.entries + missing != expected.count(Which::Recipients);
        let mut survey = Survey::new(expected);
        while has_other_entries || !survey.is_through_the_tables() {
            let (going_on, found) = self.survey(survey).await?;
            survey = going_on;
            let Some(found) = found else { break };
            let resolved = self.resolve(found).await?;
            resolved
                .written
                .iter()
                .for_each(|change| survey.expected().meet_all(change));
            differences.wrong += resolved.wrong;
            differences.extra += resolved.extra;
        }
        if !survey.expected().is_all_met() {
            differences.wrong += self.write_what_was_not_met(&survey).await?;
        }
        let maps = Arc::clone(&self.maps);
        let is_repaired = differences != Differences::default();
        blocking(move || {
            maps.put_in_place()?;
            if is_repaired {
                // Whatever was written is mapped; it need not count as this process's memory from now on.
                maps.reopen()?;
            }
            Ok(())
        })
        .await?;
        Ok(differences)
    }

    /// Walks on through the maps.
    pub(super) async fn survey(&self, mut survey: Survey) -> Result<(Survey, Option<Leftover>), Error> {
        let maps = Arc::clone(&self.maps);
        blocking(move || {
            let found = maps.survey(&mut survey, SURVEY_PAGE)?;
            Ok((survey, found))
        })
        .await
    }

    /// Writes what the store says now of keys that the maps have otherwise than expected, and removes junk.
    pub(super) async fn resolve(&self, found: Leftover) -> Result<Resolved, Error> {
        let mut resolved = Resolved {
            extra: found.junk.len(),
            ..Resolved::default()
        };
        if !found.junk.is_empty() {
            let maps = Arc::clone(&self.maps);
            let junk = found.junk;
            blocking(move || {
                for which in Which::ALL {
                    let of_table = junk.iter().filter(|(of, _)| *of == which);
                    let keys: Vec<Vec<u8>> = of_table.map(|(_, key)| key.clone()).collect();
                    if !keys.is_empty() {
                        maps.remove_junk(which, &keys)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        for keys in found.keys.chunks(CHECK_PAGE as usize) {
            let mut tx = self.db.read().await?;
            let changes = self.current(&mut tx, keys).await?;
            drop(tx);
            let extra = changes.iter().filter(|change| is_nothing(change)).count();
            resolved.extra += extra;
            resolved.wrong += changes.len() - extra;
            resolved.written.extend(self.write(changes).await?);
        }
        Ok(resolved)
    }

    /// The tables alone: the password entries have been compared.
    async fn write_what_was_not_met(&self, survey: &Survey) -> Result<usize, Error> {
        let mut page = self.served().await?;
        let mut after = None;
        let mut written = 0;
        loop {
            let changes = survey.not_met(page);
            written += changes.len();
            if !changes.is_empty() {
                let maps = Arc::clone(&self.maps);
                blocking(move || maps.write_tables(&changes)).await?;
            }
            page = self.page(after.as_ref()).await?;
            after = last_of(&page);
            if after.is_none() {
                return Ok(written);
            }
        }
    }

    /// Writes these, in place or beside it, and gives them back.
    pub(super) async fn write(&self, changes: Vec<MapChange>) -> Result<Vec<MapChange>, Error> {
        if changes.is_empty() {
            return Ok(changes);
        }
        let maps = Arc::clone(&self.maps);
        blocking(move || {
            maps.write(&changes)?;
            Ok(changes)
        })
        .await
    }

    async fn served(&self) -> Result<Vec<MapChange>, Error> {
        served(&self.db, &self.default_domain).await
    }

    async fn page(&self, after: Option<&Address>) -> Result<Vec<MapChange>, Error> {
        page_of(&self.db, after, CHECK_PAGE).await
    }
}

/// Everything that the tables should hold of domains, in order of their names.
pub(super) async fn served(db: &Db, default_domain: &DomainName) -> Result<Vec<MapChange>, Error> {
    let domains = db.read().await?.all_domain_states(default_domain).await?;
    let in_order: BTreeMap<_, _> = domains.into_iter().collect();
    Ok(in_order
        .into_iter()
        .map(|(domain, state)| MapChange::Domain(domain, state))
        .collect())
}

/// A page of what the maps should say of addresses.
pub(super) async fn page_of(db: &Db, after: Option<&Address>, limit: u32) -> Result<Vec<MapChange>, Error> {
    let page = db.read().await?.address_states_after(after, limit).await?;
    Ok(page
        .into_iter()
        .map(|(address, state)| MapChange::Address(address, state))
        .collect())
}

/// The same in the order that is read fastest, and within a page in order of names; with the last inbox of the page.
pub(super) async fn page_by_inbox(
    db: &Db,
    after: Option<InboxId>,
) -> Result<(Vec<MapChange>, Option<InboxId>), Error> {
    let mut tx = db.read().await?;
    let (mut page, last) = tx.address_states_after_inbox(after, CHECK_PAGE).await?;
    page.sort_unstable_by(|(one, _), (other, _)| one.domain.cmp(&other.domain));
    let page = page
        .into_iter()
        .map(|(address, state)| MapChange::Address(address, state));
    Ok((page.collect(), last))
}

/// What the maps should say of these keys now, in their order.
pub(super) async fn current(
    tx: &mut Tx,
    default_domain: &DomainName,
    keys: &[MapKey],
) -> Result<Vec<MapChange>, store::Error> {
    let (mut addresses, mut domains) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            MapKey::Address(address) => addresses.push(address),
            MapKey::Domain(domain) => domains.push(domain),
        }
    }
    let mut states: HashMap<Address, AddressState> = HashMap::with_capacity(addresses.len());
    for addresses in addresses.chunks(store::ROWS_MAX) {
        states.extend(tx.address_states(addresses).await?);
    }
    let mut served: HashMap<DomainName, DomainState> = HashMap::with_capacity(domains.len());
    for domains in domains.chunks(store::ROWS_MAX) {
        served.extend(tx.domain_states(domains, default_domain).await?);
    }
    let changes = keys.iter().map(|key| match key {
        MapKey::Address(address) => {
            let state = states.get(address).cloned().unwrap_or(AddressState::Absent);
            MapChange::Address(address.clone(), state)
        }
        MapKey::Domain(domain) => {
            let state = served.get(domain).cloned().unwrap_or(DomainState::Absent);
            MapChange::Domain(domain.clone(), state)
        }
    });
    Ok(changes.collect())
}

/// What was done about keys that the maps had otherwise than expected.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Those that the store asks for, with something else.
    pub wrong: usize,
    /// Those that nothing asks for.
    pub extra: usize,
    /// What was written instead.
    pub written: Vec<MapChange>,
}

/// The last address of a page; none of one that is empty.
pub(super) fn last_of(page: &[MapChange]) -> Option<Address> {
    match page.last()? {
        MapChange::Address(address, _) => Some(address.clone()),
        MapChange::Domain(..) => None,
    }
}

fn is_nothing(change: &MapChange) -> bool {
    matches!(
        change,
        MapChange::Domain(_, DomainState::Absent) | MapChange::Address(_, AddressState::Absent)
    )
}
