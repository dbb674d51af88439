//! Everything in the maps written anew, in place, while changes go on being published.
//!
//! Where a start compares and writes what differs, this writes every password entry, whatever is there, and every key
//! of the tables that does not say just that; what does not belong is removed. Tables and folders that somebody
//! removed or replaced are opened by their names again, and a table that is damaged is made anew beside its place.
//!
//! It goes step by step, between the publisher's batches and in the same task: the state of a page is read and
//! written with nothing published in between, so nothing older than what is published can come over it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    Error, Parts, blocking,
    compare::{CHECK_PAGE, last_of, page_of, served},
};
use crate::{
    maps::{Expected, Survey, Which},
    model::{address::Address, maps::MapChange},
    telemetry,
};

/// How long a step may take, as whoever asks for a change then waits for it: the next one is of fewer entries if it took
/// longer, and of more if it took less than half of it.
const STEP_AIM_MS: u64 = 200;
/// The fewest entries written in a step, and those of the first, which are enough to be flushed all at once; also the most
/// after a step beside which others published.
const STEP_MIN: u32 = 64;
const STEP_FIRST: u32 = 512;

/// What a rebuild wrote and removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Password entries and mailboxes.
    pub mailboxes: usize,
    /// Further addresses.
    pub aliases: usize,
    /// Domains that mail is accepted for.
    pub domains: usize,
    /// Things that nothing in the store asks for.
    pub removed: usize,
    /// Tables that were missing, replaced or damaged, and are other files now: Postfix has to be told, because it has
    /// the old ones open.
    pub new_tables: usize,
}

/// A rebuild that is asked for.
pub(super) struct RebuildRequest {
    pub(super) done: oneshot::Sender<Result<Rebuilt, Error>>,
}

/// A rebuild that is under way.
pub(super) struct Rebuild {
    request: RebuildRequest,
    work: Work,
    /// Entries that the next step writes.
    limit: u32,
}

/// The work of it, step by step.
#[derive(Default)]
struct Work {
    rebuilt: Rebuilt,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Open,
    Addresses(Box<Addresses>),
    Survey(Box<Survey>),
    Over,
}

/// How far the addresses have been written.
struct Addresses {
    expected: Expected,
    /// The last one that was written.
    after: Option<Address>,
    /// The page behind it, if it was read already.
    ahead: Option<Vec<MapChange>>,
}

/// What goes on beside a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beside {
    /// Nothing was published since the step before, and nobody waited.
    Nothing,
    /// Others published meanwhile: what was read before may be older than what they wrote.
    Others,
}

impl Rebuild {
    pub(super) fn new(request: RebuildRequest) -> Self {
        tracing::info!("the maps are written anew");
        Self {
            request,
            work: Work::default(),
            limit: STEP_FIRST,
        }
    }

    /// Goes one step further; gives itself back if there is more to do.
    pub(super) async fn step(mut self, parts: &Parts, beside: Beside) -> Option<Self> {
        if beside == Beside::Others {
            self.limit = self.limit.min(STEP_FIRST);
        }
        let begun = Instant::now();
        let outcome = match self.work.step(parts, beside, self.limit).await {
            Ok(true) => {
                let (took, aim) = (begun.elapsed(), Duration::from_millis(STEP_AIM_MS));
                if took > aim {
                    self.limit = (self.limit / 2).max(STEP_MIN);
                } else if took < aim / 2 {
                    self.limit = (self.limit * 2).min(CHECK_PAGE);
                }
                return Some(self);
            }
            Ok(false) => {
                let rebuilt = self.work.rebuilt;
                tracing::info!(
                    mailboxes = rebuilt.mailboxes,
                    removed = rebuilt.removed,
                    new_tables = rebuilt.new_tables,
                    "the maps have been written anew"
                );
                Ok(rebuilt)
            }
            Err(error) => {
                tracing::error!(error = telemetry::chain(&error), "cannot write the maps anew");
                Err(error)
            }
        };
        // Whoever asked and has gone away needs no answer.
        let _ = self.request.done.send(outcome);
        None
    }
}

/// Writes everything anew, without a publisher: nobody else may have the maps open for writing.
pub async fn rebuild(parts: &Parts) -> Result<Rebuilt, Error> {
    let mut work = Work::default();
    while work.step(parts, Beside::Nothing, CHECK_PAGE).await? {}
    Ok(work.rebuilt)
}

impl Work {
    /// Whether there is more to do.
    async fn step(&mut self, parts: &Parts, beside: Beside, limit: u32) -> Result<bool, Error> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Open => self.open(parts).await?,
            Stage::Addresses(addresses) => self.addresses(parts, *addresses, beside, limit).await?,
            Stage::Survey(survey) => self.survey(parts, *survey).await?,
            Stage::Over => Stage::Over,
        };
        Ok(!matches!(self.stage, Stage::Over))
    }

    async fn open(&mut self, parts: &Parts) -> Result<Stage, Error> {
        let maps = Arc::clone(&parts.maps);
        let (new_tables, removed) = blocking(move || {
            let new_tables = maps.reopen()?;
            Ok((new_tables, maps.clean()?.removed))
        })
        .await?;
        self.rebuilt.new_tables = new_tables;
        self.rebuilt.removed = removed;
        let mut expected = Expected::default();
        expected.add(
            &parts
                .write(served(&parts.db, &parts.default_domain).await?)
                .await?,
        );
        self.rebuilt.domains = expected.count(Which::Domains);
        Ok(Stage::Addresses(Box::new(Addresses {
            expected,
            after: None,
            ahead: None,
        })))
    }

    async fn addresses(
        &mut self,
        parts: &Parts,
        mut addresses: Addresses,
        beside: Beside,
        limit: u32,
    ) -> Result<Stage, Error> {
        let page = match addresses.ahead.take().filter(|_| beside == Beside::Nothing) {
            Some(page) => page,
            None => page_of(&parts.db, addresses.after.as_ref(), limit).await?,
        };
        let Some(last) = last_of(&page) else {
            let expected = addresses.expected;
            self.rebuilt.mailboxes = expected.count(Which::Recipients);
            self.rebuilt.aliases = expected.count(Which::Aliases);
            return Ok(Stage::Survey(Box::new(Survey::new(expected))));
        };
        let (written, ahead) = match beside {
            // The next page is read from the store while this one is written.
            Beside::Nothing => {
                let ahead = page_of(&parts.db, Some(&last), limit);
                let (written, ahead) = tokio::join!(parts.write(page), ahead);
                (written?, Some(ahead?))
            }
            Beside::Others => (parts.write(page).await?, None),
        };
        addresses.expected.add(&written);
        Ok(Stage::Addresses(Box::new(Addresses {
            after: Some(last),
            ahead,
            ..addresses
        })))
    }

    /// What was created or deleted since its page was written looks unexpected, too: what the store says of it now is
    /// written once more.
    async fn survey(&mut self, parts: &Parts, survey: Survey) -> Result<Stage, Error> {
        let (survey, found) = parts.survey(survey).await?;
        if let Some(found) = found {
            self.rebuilt.removed += parts.resolve(found).await?.extra;
            return Ok(Stage::Survey(Box::new(survey)));
        }
        let maps = Arc::clone(&parts.maps);
        blocking(move || {
            maps.put_in_place()?;
            // Everything was written; it need not count as this process's memory from now on.
            maps.reopen()
        })
        .await?;
        Ok(Stage::Over)
    }
}
