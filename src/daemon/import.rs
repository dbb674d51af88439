//! `inboxd import`: brings mailboxes in, and sees to it that the mail servers know them, with or without a daemon that
//! runs.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{doveadm_client, open_store};
use crate::{
    clock::{Clock, Entropy},
    config::Config,
    maps::{self, Maps},
    model::{
        address::{Address, DomainName},
        ids::{TenantId, WorkspaceId},
        passwd_file::{self, Entry},
        password_scheme::{CostLimits, HashCounts},
    },
    ops::{
        self, Settings,
        import::{BATCH_MAX, Import, target},
    },
    publish,
    store::{Claimant, Db},
};

/// Pause between two looks whether the daemon has published everything.
const LOOK_PAUSE_MS: u64 = 250;
/// How long the daemon may publish nothing before it counts as gone or stuck.
const STALLED_AFTER_MS: u64 = 120_000;

/// What to bring in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who is to have the inboxes.
    pub tenant: TenantId,
    /// Where they are to be; none: in the default workspace.
    pub workspace: Option<WorkspaceId>,
    /// Whether names that are kept for the operator may be among them.
    pub allow_reserved: bool,
    /// A passwd-file.
    pub text: &'a str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many inboxes are new, and known to the mail servers.
    pub new: u64,
    /// How many the workspace had already.
    pub already_there: u64,
    /// How many of all have hashes that are worth a warning.
    pub hashes: HashCounts,
    /// Those that somebody else has.
    pub taken: Vec<Address>,
}

/// Why nothing, or not everything, was brought in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Some lines cannot be imported, so none was.
    #[error("{} lines cannot be imported; nothing was", .0.len())]
    Lines(Vec<BadLine>),
    /// The store does not open, or the maps cannot be used.
    #[error("prepare to import")]
    Prepare(#[from] super::Error),
    /// The tenant may not have the inboxes, or the store failed.
    #[error("import")]
    Import(#[from] ops::Error),
    /// The inboxes are in the store, and the maps are behind it.
    #[error("publish what was imported: it is in the store, and the next start of the daemon publishes it")]
    Publish(#[source] super::Error),
    /// The daemon that has the maps does not publish.
    #[error(
        "the running daemon has published nothing for {} s; {left} changes wait in the store, and its next start publishes them",
        STALLED_AFTER_MS / 1000
    )]
    Stalled {
        /// Keys of the maps that are still to be published.
        left: u64,
    },
}

/// A line that cannot be imported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {number}: {rule}")]
pub struct BadLine {
    /// Its number; the first is 1.
    pub number: usize,
    /// What must be otherwise.
    pub rule: String,
}

/// Checks all of it, then brings it in, batch by batch, and returns when the mail servers know it.
///
/// After an interruption it can be done again: what is there is left as it is.
pub async fn import(
    config: &Config,
    request: &Request<'_>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Outcome, Error> {
    let checked = check_lines(request, &config.settings, &config.import_costs)?;
    let db = open_store(config).await?;
    let (tenant, workspace) = target(&db, request.tenant, request.workspace).await?;
    let import = Import {
        db: &db,
        settings: &config.settings,
        clock,
        entropy,
        tenant: tenant.id,
        workspace,
        // Whoever names the workspace says which one is to have what another one of the tenant gave up.
        claimant: match request.workspace {
            Some(_) => Claimant::tenant(tenant.id),
            None => Claimant::workspace(tenant.id, workspace),
        },
    };
    check_domains(&import, checked.domains).await?;
    // Each batch is held against the cap again as it is written; this is so that all fit, or none is brought in.
    if tenant.limits.inboxes.is_some() {
        let mut new = 0;
        for batch in batches(request.text) {
            new += import.count_new(&batch).await?;
        }
        import.require_room(new).await?;
    }

    // Before anything is written: so that no daemon starts in between and waits for maps that are being written.
    let maps = open_maps(config).await?;
    let mut outcome = Outcome {
        hashes: checked.hashes,
        ..Outcome::default()
    };
    for batch in batches(request.text) {
        let imported = import.import(&batch).await?;
        outcome.new += u64::from(imported.new);
        outcome.already_there += u64::from(imported.already_there);
        outcome.taken.extend(imported.taken);
    }
    match maps {
        Some(maps) => publish_here(config, &db, maps).await.map_err(Error::Publish)?,
        None => wait_until_published(&import).await?,
    }
    db.close().await;
    Ok(outcome)
}

/// What the lines say, all of which can be parsed.
struct Checked {
    /// Each domain, with the first line that has it.
    domains: HashMap<DomainName, usize>,
    hashes: HashCounts,
}

/// What can be said of the lines without the store.
fn check_lines(request: &Request<'_>, settings: &Settings, costs: &CostLimits) -> Result<Checked, Error> {
    let mut bad = Vec::new();
    let mut checked = Checked {
        domains: HashMap::new(),
        hashes: HashCounts::default(),
    };
    // Text and no addresses: of a million of them, this takes the most room.
    let mut first_with: HashMap<Box<str>, usize> = HashMap::new();
    for (number, line) in (1..).zip(request.text.lines()) {
        let mut refuse = |rule: String| bad.push(BadLine { number, rule });
        let entry = match passwd_file::parse_line(line) {
            Ok(Some(entry)) => entry,
            Ok(None) => continue,
            Err(rule) => {
                refuse(rule.0);
                continue;
            }
        };
        let Address { local_part, domain } = &entry.address;
        if !request.allow_reserved && settings.is_reserved(domain, local_part) {
            refuse(format!(
                "{local_part} is reserved on {domain}: --allow-reserved takes it all the same"
            ));
        }
        if let Some(first) = first_with.insert(entry.address.to_string().into(), number) {
            refuse(format!("{} is on line {first} already", entry.address));
        }
        if let Some(Err(rule)) = entry.verification.cost.map(|cost| costs.check(cost)) {
            refuse(rule.0);
        }
        checked.hashes.add(&entry.verification);
        if !checked.domains.contains_key(domain) {
            checked.domains.insert(domain.clone(), number);
        }
    }
    if bad.is_empty() {
        Ok(checked)
    } else {
        Err(Error::Lines(bad))
    }
}

/// Refuses domains that the workspace does not have, each by the first line that names it.
async fn check_domains(import: &Import<'_>, domains: HashMap<DomainName, usize>) -> Result<(), Error> {
    let mut bad = Vec::new();
    for (domain, number) in domains {
        match import.require_domain(&domain).await {
            Ok(()) => {}
            Err(error @ (ops::Error::DomainNotAllowed { .. } | ops::Error::DomainNotVerified { .. })) => {
                bad.push(BadLine {
                    number,
                    rule: error.to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    bad.sort_unstable_by_key(|line| line.number);
    Err(Error::Lines(bad))
}

/// The entries of lines that were checked, parsed again as they are needed: all of them at once would take several times
/// the room of the text.
fn batches(text: &str) -> impl Iterator<Item = Vec<Entry>> {
    let mut entries = text
        .lines()
        .filter_map(|line| passwd_file::parse_line(line).ok().flatten());
    std::iter::from_fn(move || {
        let batch: Vec<Entry> = entries.by_ref().take(BATCH_MAX).collect();
        (!batch.is_empty()).then_some(batch)
    })
}

/// The maps, if no daemon has them.
async fn open_maps(config: &Config) -> Result<Option<Arc<Maps>>, super::Error> {
    let layout = config.maps_layout()?;
    match tokio::task::spawn_blocking(move || Maps::open(&layout)).await? {
        Ok(maps) => Ok(Some(Arc::new(maps))),
        Err(maps::Error::Taken { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Brings the maps to the store's state, as the daemon does when it starts.
async fn publish_here(config: &Config, db: &Db, maps: Arc<Maps>) -> Result<(), super::Error> {
    let (publisher, publishing) = publish::start(publish::Parts {
        db: db.clone(),
        maps,
        default_domain: config.settings.default_domain.clone(),
        sessions: Some(Arc::new(doveadm_client(config)?)),
        // Nobody is answered.
        barrier: None,
    })
    .await?;
    drop(publisher);
    publishing.await?;
    Ok(())
}

/// Waits for the daemon, which finds by itself what is marked and nobody asked it to publish.
async fn wait_until_published(import: &Import<'_>) -> Result<(), Error> {
    let Some(last) = import.last_mark().await? else {
        return Ok(());
    };
    let mut fewest = u64::MAX;
    let mut progress = Instant::now();
    loop {
        let left = import.unpublished(last).await?;
        if left == 0 {
            return Ok(());
        }
        if left < fewest {
            (fewest, progress) = (left, Instant::now());
        }
        if progress.elapsed() >= Duration::from_millis(STALLED_AFTER_MS) {
            return Err(Error::Stalled { left });
        }
        tokio::time::sleep(Duration::from_millis(LOOK_PAUSE_MS)).await;
    }
}
