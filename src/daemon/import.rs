//! `inboxd import`: brings mailboxes in, and sees to it that the mail servers know them, with or without a daemon that
//! runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{doveadm_client, open_store};
use crate::{
    clock::{Clock, Entropy},
    config::Config,
    maps::{self, Maps},
    model::{
        Refused,
        address::{Address, DomainName},
        ids::{TenantId, WorkspaceId},
        name_map::{self, NameMap},
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
    /// Addresses of the file that are imported as others.
    pub names: &'a NameMap,
    /// Whether the good lines are imported where others are bad.
    pub skips_bad: bool,
}

/// How far an import is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Lines are being written to the store.
    Writing {
        /// How many are.
        done: u64,
        /// How many there are.
        of: u64,
    },
    /// What is in the store is being published.
    Publishing {
        /// How many changes are still to be, where the daemon publishes them.
        left: Option<u64>,
    },
}

/// Who is shown what an import does.
pub trait Observer {
    /// These lines are left out. Nothing has been written to the store yet; an error ends the import.
    fn skips(&mut self, lines: &[BadLine]) -> io::Result<()>;
    /// The import is this far.
    fn reached(&mut self, step: Step);
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
    /// How many lines were left out, because they are bad.
    pub skipped: u64,
    /// Addresses of the name map that are on no line.
    pub unused_names: Vec<String>,
    /// Those that somebody else has.
    pub taken: Vec<Address>,
}

/// Why nothing, or not everything, was brought in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Some lines cannot be imported, so none was.
    #[error("{} lines cannot be imported; nothing was", .0.len())]
    Lines(Vec<BadLine>),
    /// The lines that are left out cannot be written down.
    #[error("write down the bad lines")]
    Skip(#[source] io::Error),
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
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let mut checked = check_lines(request, &config.settings, &config.import_costs);
    if !request.skips_bad {
        checked.require_all_good()?;
    }
    let db = open_store(config).await?;
    let (import, room) = prepare(config, &db, request, clock, entropy).await?;
    let refused = refused_domains(&import, &checked.domains).await?;
    checked.refuse_domains(request, &refused);
    if !request.skips_bad {
        checked.require_all_good()?;
    }
    let bad = checked.bad_lines();
    let skipped: HashSet<usize> = bad.iter().map(|line| line.number).collect();
    // Each batch is held against the cap again as it is written; this is so that all fit, or none is brought in.
    if room.is_limited {
        let mut new = 0;
        for batch in batches(request, &skipped) {
            new += import.count_new(&batch).await?;
        }
        import.require_room(new).await?;
    }
    if !bad.is_empty() {
        observer.skips(&bad).map_err(Error::Skip)?;
    }

    // Before anything is written: so that no daemon starts in between and waits for maps that are being written.
    let maps = open_maps(config).await?;
    let mut outcome = Outcome {
        skipped: bad.len() as u64,
        unused_names: request
            .names
            .without(&checked.renamed)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        ..Outcome::default()
    };
    let mut done = 0;
    for batch in batches(request, &skipped) {
        let imported = import.import(&batch).await?;
        for entry in &batch {
            outcome.hashes.add(&entry.verification);
        }
        outcome.new += u64::from(imported.new);
        outcome.already_there += u64::from(imported.already_there);
        outcome.taken.extend(imported.taken);
        done += batch.len() as u64;
        observer.reached(Step::Writing {
            done,
            of: checked.lines - outcome.skipped,
        });
    }
    match maps {
        Some(maps) => {
            observer.reached(Step::Publishing { left: None });
            publish_here(config, &db, maps).await.map_err(Error::Publish)?;
        }
        None => wait_until_published(&import, observer).await?,
    }
    db.close().await;
    Ok(outcome)
}

/// Proposes a legal name for each address of a file that is refused for its local part alone. A proposal is on no other
/// line, is reserved for nobody, and is free in the store. The same file and store always give the same names.
pub async fn propose_names(
    config: &Config,
    request: &Request<'_>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<NameMap, Error> {
    let db = open_store(config).await?;
    let (import, _) = prepare(config, &db, request, clock, entropy).await?;
    let mut used: HashSet<Address> = users(request.text)
        .filter_map(|user| Address::parse(user).ok())
        .collect();
    let mut names = NameMap::default();
    for user in users(request.text) {
        let Some(nearest) = name_map::nearest(user).filter(|_| names.get(user).is_none()) else {
            continue;
        };
        for number in 0_u32.. {
            let Ok(name) = name_map::numbered(&nearest, number) else {
                continue;
            };
            let is_reserved =
                !request.allow_reserved && config.settings.is_reserved(&name.domain, &name.local_part);
            if !used.contains(&name) && !is_reserved && import.is_free(&name).await? {
                used.insert(name.clone());
                names.insert(user, name);
                break;
            }
        }
    }
    db.close().await;
    Ok(names)
}

/// Whether the tenant has a cap on inboxes.
struct Room {
    is_limited: bool,
}

/// Finds out who is to have the inboxes.
async fn prepare<'a>(
    config: &'a Config,
    db: &'a Db,
    request: &Request<'_>,
    clock: &'a dyn Clock,
    entropy: &'a dyn Entropy,
) -> Result<(Import<'a>, Room), Error> {
    let (tenant, workspace) = target(db, request.tenant, request.workspace).await?;
    let import = Import {
        db,
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
    let is_limited = tenant.limits.inboxes.is_some();
    Ok((import, Room { is_limited }))
}

/// What the lines say.
struct Checked {
    /// Lines that cannot be imported, by number, each with the rules that it breaks.
    bad: BTreeMap<usize, Vec<String>>,
    /// Each domain, with the first line that has it.
    domains: HashMap<DomainName, usize>,
    /// How many lines name a mailbox, or try to.
    lines: u64,
    /// The addresses of the name map that are on a line.
    renamed: BTreeSet<String>,
}

impl Checked {
    fn bad_lines(&self) -> Vec<BadLine> {
        let lines = self.bad.iter().flat_map(|(&number, rules)| {
            // One line of the file is one bad line, whatever is wrong with it.
            let rule = rules.join("; ");
            [BadLine { number, rule }]
        });
        lines.collect()
    }

    fn require_all_good(&self) -> Result<(), Error> {
        if self.bad.is_empty() {
            return Ok(());
        }
        Err(Error::Lines(self.bad_lines()))
    }

    /// Counts lines as bad whose domain is refused: the first of each domain, or, where bad lines are left out, all of
    /// them.
    fn refuse_domains(&mut self, request: &Request<'_>, refused: &HashMap<DomainName, String>) {
        if refused.is_empty() {
            return;
        }
        for (number, line) in (1..).zip(request.text.lines()) {
            let Ok(Some(entry)) = entry_of(line, request.names) else {
                continue;
            };
            let domain = &entry.address.domain;
            let Some(rule) = refused.get(domain) else { continue };
            if request.skips_bad || self.domains.get(domain) == Some(&number) {
                self.bad.entry(number).or_default().push(rule.clone());
            }
        }
    }
}

/// What can be said of the lines without the store.
fn check_lines(request: &Request<'_>, settings: &Settings, costs: &CostLimits) -> Checked {
    let mut checked = Checked {
        bad: BTreeMap::new(),
        domains: HashMap::new(),
        lines: 0,
        renamed: BTreeSet::new(),
    };
    // Text and no addresses: of a million of them, this takes the most room.
    let mut first_with: HashMap<Box<str>, usize> = HashMap::new();
    for (number, line) in (1..).zip(request.text.lines()) {
        if let Some(user) = user_of(line).filter(|user| request.names.get(user).is_some()) {
            checked.renamed.insert(user.to_owned());
        }
        let mut refuse = |rule: String| checked.bad.entry(number).or_default().push(rule);
        let entry = match entry_of(line, request.names) {
            Ok(Some(entry)) => entry,
            Ok(None) => continue,
            Err(rule) => {
                checked.lines += 1;
                refuse(rule.0);
                continue;
            }
        };
        checked.lines += 1;
        let Address { local_part, domain } = &entry.address;
        if !request.allow_reserved && settings.is_reserved(domain, local_part) {
            refuse(format!(
                "{local_part} is reserved on {domain}: --allow-reserved takes it all the same"
            ));
        }
        if let Some(Err(rule)) = entry.verification.cost.map(|cost| costs.check(cost)) {
            refuse(rule.0);
        }
        match first_with.get(&*entry.address.to_string()) {
            Some(first) => refuse(format!("{} is on line {first} already", entry.address)),
            // A line that is left out takes its address from no other one.
            None if request.skips_bad && checked.bad.contains_key(&number) => {}
            None => {
                first_with.insert(entry.address.to_string().into(), number);
            }
        }
        if !checked.domains.contains_key(domain) {
            checked.domains.insert(domain.clone(), number);
        }
    }
    checked
}

/// The address of a line, as it is written; none for a comment and for a line without one.
fn user_of(line: &str) -> Option<&str> {
    let (user, _) = line.split_once(':').filter(|_| !line.starts_with('#'))?;
    Some(user)
}

fn users(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(user_of)
}

/// What a line says, under the name that it gets. None for an empty line and for a comment.
fn entry_of(line: &str, names: &NameMap) -> Result<Option<Entry>, Refused> {
    let user = user_of(line);
    if let Some(user) = user
        && let Some(name) = names.get(user)
    {
        return passwd_file::parse_line(&format!("{name}{}", &line[user.len()..]));
    }
    passwd_file::parse_line(line).map_err(|rule| match user.and_then(name_map::nearest) {
        Some(nearest) => Refused(format!("{rule}; --map-names proposes {nearest}")),
        None => rule,
    })
}

/// Domains that the workspace does not have, each with the reason.
async fn refused_domains(
    import: &Import<'_>,
    domains: &HashMap<DomainName, usize>,
) -> Result<HashMap<DomainName, String>, Error> {
    let mut refused = HashMap::new();
    for domain in domains.keys() {
        match import.require_domain(domain).await {
            Ok(()) => {}
            Err(error @ (ops::Error::DomainNotAllowed { .. } | ops::Error::DomainNotVerified { .. })) => {
                refused.insert(domain.clone(), error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(refused)
}

/// The entries of good lines, parsed again as they are needed: all of them at once would take several times the room of
/// the text.
fn batches<'a>(
    request: &'a Request<'a>,
    skipped: &'a HashSet<usize>,
) -> impl Iterator<Item = Vec<Entry>> + 'a {
    let mut entries = (1..)
        .zip(request.text.lines())
        .filter(|(number, _)| !skipped.contains(number))
        .filter_map(|(_, line)| entry_of(line, request.names).ok().flatten());
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
async fn wait_until_published(import: &Import<'_>, observer: &mut dyn Observer) -> Result<(), Error> {
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
        observer.reached(Step::Publishing { left: Some(left) });
        if left < fewest {
            (fewest, progress) = (left, Instant::now());
        }
        if progress.elapsed() >= Duration::from_millis(STALLED_AFTER_MS) {
            return Err(Error::Stalled { left });
        }
        tokio::time::sleep(Duration::from_millis(LOOK_PAUSE_MS)).await;
    }
}
