//! `inboxd import`.

mod progress;

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use uuid::Uuid;

use self::progress::Progress;
use super::{Failure, Source, block_on, note, print};
use crate::{
    clock::Machine,
    daemon::import::{self as bulk, BadLine, Error, Observer, Outcome, Request, Step},
    model::{
        ids::{TenantId, WorkspaceId},
        name_map::NameMap,
        text_encoding::utf8,
    },
};

#[derive(Args, Debug)]
pub(super) struct ImportArguments {
    /// The passwd-file, one `address:{SCHEME}hash` a line; - for standard input
    file: PathBuf,
    /// The tenant that is to have the inboxes, by its id
    #[arg(long, value_name = "ID")]
    tenant: Uuid,
    /// The workspace; without it, the tenant's default one
    #[arg(long, value_name = "ID")]
    workspace: Option<Uuid>,
    /// Take names, too, that are reserved on the default domain (`service.reserved_usernames`)
    #[arg(long)]
    allow_reserved: bool,
    /// Import the good lines, and write the bad ones, each with its reason, to this new file
    #[arg(long, value_name = "FILE")]
    skip_bad: Option<PathBuf>,
    /// Import nothing; write a legal name for each one that is not allowed to this new file, for review
    #[arg(long, value_name = "FILE", conflicts_with_all = ["skip_bad", "names"])]
    map_names: Option<PathBuf>,
    /// Import addresses under the names of this file, which --map-names wrote
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

pub(super) fn import(arguments: &ImportArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    let text = read(&arguments.file)?;
    let names = match &arguments.names {
        Some(file) => {
            NameMap::parse(&read(file)?).map_err(|error| format!("--names {}: {error}", file.display()))?
        }
        None => NameMap::default(),
    };
    let request = Request {
        tenant: TenantId(arguments.tenant),
        workspace: arguments.workspace.map(WorkspaceId),
        allow_reserved: arguments.allow_reserved,
        text: &text,
        names: &names,
        skips_bad: arguments.skip_bad.is_some(),
    };
    if let Some(file) = &arguments.map_names {
        let proposed =
            block_on(async { Ok(bulk::propose_names(&config, &request, &Machine, &Machine).await?) })?;
        return write_names(file, &proposed);
    }
    let mut shown = Shown {
        text: &text,
        skip_bad: arguments.skip_bad.as_deref(),
        progress: Progress::start(Instant::now())?,
    };
    let outcome =
        block_on(async { Ok(bulk::import(&config, &request, &Machine, &Machine, &mut shown).await) })?;
    shown.progress.end();
    match outcome {
        Ok(outcome) => tell(arguments, &outcome),
        Err(error) => {
            if let Error::Lines(bad) = &error {
                for line in bad {
                    note(&format!("inboxd: {line}"));
                }
            }
            Err(error.into())
        }
    }
}

/// Where the steps of an import are shown, and its bad lines are written.
struct Shown<'a> {
    text: &'a str,
    skip_bad: Option<&'a Path>,
    progress: Progress,
}

impl Observer for Shown<'_> {
    fn skips(&mut self, lines: &[BadLine]) -> io::Result<()> {
        let Some(file) = self.skip_bad else { return Ok(()) };
        let mut written = Vec::new();
        let mut bad = lines.iter().peekable();
        for (number, line) in (1..).zip(self.text.lines()) {
            if let Some(reason) = bad.next_if(|bad| bad.number == number) {
                // As a comment, so that the file can be corrected and imported.
                written.push(format!("# {reason}\n{line}\n"));
            }
        }
        write_new(file, &written.concat())
    }

    fn reached(&mut self, step: Step) {
        self.progress.show(step, Instant::now());
    }
}

/// Writes a file that is not there yet, for its owner alone: it may hold hashes.
fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let mut options = OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(named)?;
    opened.write_all(text.as_bytes()).map_err(named)?;
    opened.sync_all().map_err(named)
}

fn write_names(file: &Path, names: &NameMap) -> Result<(), Failure> {
    if names.is_empty() {
        return print("every name is allowed; no file was written\n");
    }
    write_new(file, &names.to_text())?;
    print(&format!(
        "proposed {} names in {}; review them, and import with --names {}\n",
        names.len(),
        file.display(),
        file.display()
    ))
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut octets = Vec::new();
    let (name, read) = if file.as_os_str() == "-" {
        let read = io::stdin().read_to_end(&mut octets).map(drop);
        ("standard input".into(), read)
    } else {
        let read = fs::read(file).map(|contents| octets = contents);
        (file.to_string_lossy(), read)
    };
    read.map_err(|error| format!("read {name}: {error}"))?;
    match utf8(&octets) {
        Ok(text) => Ok(text.to_owned()),
        Err(other) => {
            let line = octets[..other.at].split(|octet| *octet == b'\n').count();
            Err(format!("{name}: line {line}: must be text in UTF-8{other}").into())
        }
    }
}

fn tell(arguments: &ImportArguments, outcome: &Outcome) -> Result<(), Failure> {
    let Outcome {
        new,
        already_there,
        hashes,
        skipped,
        unused_names,
        taken,
    } = outcome;
    let left_out = match arguments.skip_bad {
        Some(_) => format!(", left out {skipped}"),
        None => String::new(),
    };
    print(&format!(
        "imported {new}, already there {already_there}{left_out}\n"
    ))?;
    if let Some(file) = arguments.skip_bad.as_deref().filter(|_| *skipped > 0) {
        note(&format!(
            "inboxd: the lines that were left out are in {}, each with its reason",
            file.display()
        ));
    }
    if let Some(first) = unused_names.first() {
        note(&format!(
            "inboxd: {} addresses of --names are on no line, such as {first}",
            unused_names.len()
        ));
    }
    for warning in hashes.warnings() {
        note(&format!("inboxd: {warning}"));
    }
    for address in taken {
        note(&format!("inboxd: {address}: somebody else has this address"));
    }
    if taken.is_empty() {
        Ok(())
    } else {
        Err(format!("{} addresses were not imported", taken.len()).into())
    }
}
