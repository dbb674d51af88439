//! What store, maps and Dovecot say differently of the same names: looked for, and left as it is.
//!
//! It works beside a daemon that goes on publishing, so what looks like a difference may be a change that is under way.
//! Everything that is found is therefore looked at again by itself: the store and its mark, then the maps, then the
//! store and its mark once more. Only what differs while the store stood still, and was not marked as to be published,
//! is told.

use std::{collections::BTreeSet, fmt, path::PathBuf, slice, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Blind, Error, LoginViewer, blocking,
    compare::{CHECK_PAGE, current, last_of, page_by_inbox, page_of, served},
};
use crate::{
    maps::{self, Difference, Expected, Reader, Survey, Which},
    model::{
        address::{Address, DomainName},
        maps::{AddressState, Answer, Login, MapChange, MapKey},
    },
    store::Db,
};

/// Entries of a table read at a time: the daemon cannot write it meanwhile.
const SURVEY_PAGE: usize = 1_000;
/// Logins that Dovecot is asked for at a time, and how long it may take to answer for them.
const LOGINS_AT_ONCE: usize = 500;
const ANSWERS_TIMEOUT_MS: u64 = 15_000;
/// How often something that is being published is looked at again, and the pause between two looks.
const LOOKS_MAX: u32 = 10;
const LOOK_PAUSE_MS: u64 = 100;
/// How long a file that is being written may be there before it is renamed.
const STRAY_PAUSE_MS: u64 = 1_000;

/// What is checked.
pub struct Checked {
    /// What is true.
    pub db: Db,
    /// What the mail side sees.
    pub maps: Arc<Reader>,
    /// The domain that is served although no workspace owns it.
    pub default_domain: DomainName,
    /// Asks Dovecot; none if it is not to be asked.
    pub dovecot: Option<Arc<dyn LoginViewer>>,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Addresses that the store has.
    pub addresses: usize,
    /// Domains that mail is accepted for.
    pub domains: usize,
    /// Logins that Dovecot was asked for.
    pub asked: usize,
    /// Names that were being published while they were looked at, or still are to be. No differences.
    pub in_flight: usize,
    /// What differs in the maps.
    pub maps: Vec<Difference>,
    /// What Dovecot answers differently from the store.
    pub dovecot: Vec<(Address, Misread)>,
    /// Why Dovecot could not be asked; no more questions were put from then on.
    pub blind: Option<Blind>,
}

/// How an answer of Dovecot differs from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misread {
    /// There is such a login, and Dovecot knows none.
    Unknown,
    /// Dovecot knows a login, and there is none or it is locked.
    Known,
    /// Dovecot knows it with another password, or cannot say which.
    OtherEntry,
    /// Dovecot cannot read or understand the entry.
    Unreadable,
}

/// Candidates: what looked different at first sight.
#[derive(Default)]
struct Suspects {
    keys: BTreeSet<MapKey>,
    junk: BTreeSet<(Which, Vec<u8>)>,
    strays: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    logins: BTreeSet<Address>,
}

impl Report {
    /// Whether anything differs.
    pub fn is_clean(&self) -> bool {
        self.maps.is_empty() && self.dovecot.is_empty()
    }
}

impl Checked {
    /// Compares everything, both ways.
    pub async fn check(&self) -> Result<Report, Error> {
        let mut report = Report::default();
        let mut suspects = Suspects::default();
        let mut expected = Expected::default();
        let domains = served(&self.db, &self.default_domain).await?;
        report.domains = domains.len();
        expected.add(&domains);
        let (mut page, mut last) = page_by_inbox(&self.db, None).await?;
        while last.is_some() {
            report.addresses += page.len();
            expected.add(&page);
            let (next, compared) = tokio::join!(
                page_by_inbox(&self.db, last),
                self.compare(page, &mut report, &mut suspects)
            );
            compared?;
            (page, last) = next?;
        }
        self.survey(expected, domains, &mut suspects).await?;
        self.look_again(suspects, &mut report).await?;
        report.maps.extend(self.maps.whole());
        report.maps.sort_unstable();
        report.maps.dedup();
        Ok(report)
    }

    /// Compares the password entries of a page, and what Dovecot says of it.
    async fn compare(
        &self,
        page: Vec<MapChange>,
        report: &mut Report,
        suspects: &mut Suspects,
    ) -> Result<(), Error> {
        let states: Vec<(Address, AddressState)> = page
            .iter()
            .filter_map(|change| match change {
                MapChange::Address(address, state) => Some((address.clone(), state.clone())),
                MapChange::Domain(..) => None,
            })
            .collect();
        let maps = Arc::clone(&self.maps);
        let wrong = blocking(move || Ok(maps.wrong_entries(&page)?.wrong)).await?;
        suspects.keys.extend(wrong.iter().map(MapChange::key));
        for states in states.chunks(LOGINS_AT_ONCE) {
            for (address, _) in self.ask(states, report).await {
                suspects.logins.insert(address);
            }
        }
        Ok(())
    }

    /// Asks Dovecot for these logins, and returns those that it has otherwise. After the first failure nothing is asked
    /// any more.
    async fn ask(&self, states: &[(Address, AddressState)], report: &mut Report) -> Vec<(Address, Misread)> {
        let Some(dovecot) = self.dovecot.as_ref().filter(|_| report.blind.is_none()) else {
            return Vec::new();
        };
        let logins: Vec<Address> = states.iter().map(|(address, _)| address.clone()).collect();
        let deadline = Instant::now() + Duration::from_millis(ANSWERS_TIMEOUT_MS);
        let (mut asked, mut misread) = (0, Vec::new());
        let mut told = |index: usize, answer: Answer| {
            asked += 1;
            let (address, state): &(Address, AddressState) = &states[index];
            misread.extend(Misread::of(state, &answer).map(|misread| (address.clone(), misread)));
        };
        if let Err(blind) = dovecot.look_up(&logins, deadline, &mut told).await {
            report.blind = Some(blind);
        }
        report.asked += asked;
        misread
    }

    /// Walks through the maps, and then through the store again if something that it asks for was not met.
    async fn survey(
        &self,
        expected: Expected,
        mut page: Vec<MapChange>,
        suspects: &mut Suspects,
    ) -> Result<(), Error> {
        let mut survey = Survey::new(expected);
        loop {
            let maps = Arc::clone(&self.maps);
            let (going_on, found) = blocking(move || {
                let found = maps.survey(&mut survey, SURVEY_PAGE)?;
                Ok((survey, found))
            })
            .await?;
            survey = going_on;
            let Some(found) = found else { break };
            suspects.keys.extend(found.keys);
            suspects.junk.extend(found.junk);
            suspects.strays.extend(found.strays);
            suspects.folders.extend(found.folders);
        }
        self.maps.meet_broken(survey.expected());
        if survey.expected().is_all_met() {
            return Ok(());
        }
        let mut after = None;
        loop {
            suspects
                .keys
                .extend(survey.not_met(page).iter().map(MapChange::key));
            page = page_of(&self.db, after.as_ref(), CHECK_PAGE).await?;
            after = last_of(&page);
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn look_again(&self, suspects: Suspects, report: &mut Report) -> Result<(), Error> {
        for key in suspects.keys {
            match self
                .settled(&key, |change| self.maps.differences_of(change))
                .await?
            {
                Some((_, found)) => report.maps.extend(found),
                None => report.in_flight += 1,
            }
        }
        for login in suspects.logins {
            let key = MapKey::Address(login.clone());
            // What Dovecot answers is asked between two looks at the store, as the maps are.
            let Some((before, ())) = self.settled(&key, |_| Ok(())).await? else {
                report.in_flight += 1;
                continue;
            };
            let MapChange::Address(_, state) = &before else {
                continue;
            };
            report.asked = report.asked.saturating_sub(1);
            let misread = self.ask(&[(login, state.clone())], report).await;
            match self.settled(&key, |_| Ok(())).await? {
                Some((after, ())) if after == before => report.dovecot.extend(misread),
                _ => report.in_flight += 1,
            }
        }
        for (which, key) in suspects.junk {
            if self.maps.is_there(which, &key)? {
                report.maps.push(Difference {
                    map: which.name(),
                    key: Some(String::from_utf8_lossy(&key).escape_debug().to_string()),
                    what: maps::What::Stray,
                });
            }
        }
        let found = suspects
            .folders
            .iter()
            .filter_map(|folder| self.maps.look_at_domain(folder));
        report.maps.extend(found);
        // A file that is being written has gone soon, or is another one.
        let strays = |maps: &Reader| -> Vec<_> {
            let strays = suspects.strays.iter();
            strays.filter_map(|path| maps.stray(path)).collect()
        };
        let before = strays(&self.maps);
        if !before.is_empty() {
            tokio::time::sleep(Duration::from_millis(STRAY_PAUSE_MS)).await;
            let after = strays(&self.maps);
            let lasting = after.into_iter().filter(|stray| before.contains(stray));
            report.maps.extend(lasting.map(|(stray, _)| stray));
        }
        Ok(())
    }

    /// Looks at a key while the store does not change it, and gives what it should say. None if it is being published,
    /// or still is to be.
    async fn settled<T>(
        &self,
        key: &MapKey,
        look: impl Fn(&MapChange) -> Result<T, maps::Error>,
    ) -> Result<Option<(MapChange, T)>, Error> {
        for attempt in 0..LOOKS_MAX {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(LOOK_PAUSE_MS)).await;
            }
            let before = self.state(key).await?;
            if before.1 {
                continue;
            }
            let found = look(&before.0)?;
            if self.state(key).await? == before {
                return Ok(Some((before.0, found)));
            }
        }
        Ok(None)
    }

    /// What the store says of a key, and whether it is marked as to be published.
    async fn state(&self, key: &MapKey) -> Result<(MapChange, bool), Error> {
        let mut tx = self.db.read().await?;
        let key = slice::from_ref(key);
        let change = current(&mut tx, &self.default_domain, key).await?.swap_remove(0);
        let is_marked = !tx.unpublished_keys(key).await?.is_empty();
        Ok((change, is_marked))
    }
}

impl Misread {
    /// How an answer differs from this state, if it does.
    fn of(state: &AddressState, answer: &Answer) -> Option<Self> {
        if state.is_seen_in(answer) {
            return None;
        }
        let is_open = matches!(state, AddressState::Mailbox(mailbox) if mailbox.login != Login::Locked);
        Some(match answer {
            Answer::Failed => Self::Unreadable,
            Answer::Unknown => Self::Unknown,
            Answer::Found(_) if is_open => Self::OtherEntry,
            Answer::Found(_) => Self::Known,
        })
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Dovecot knows no such login",
            Self::Known => "Dovecot lets it log in, and the store does not",
            Self::OtherEntry => "Dovecot reads another password than the store's",
            Self::Unreadable => "Dovecot cannot read its entry; its log says why",
        })
    }
}
