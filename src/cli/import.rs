//! `inboxd import`.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

use clap::Args;
use uuid::Uuid;

use super::{Failure, Source, block_on, note, print};
use crate::{
    clock::Machine,
    daemon::import::{self as bulk, Error, Outcome, Request},
    model::ids::{TenantId, WorkspaceId},
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
    #[command(flatten)]
    source: Source,
}

pub(super) fn import(arguments: &ImportArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    let text = read(&arguments.file)?;
    let request = Request {
        tenant: TenantId(arguments.tenant),
        workspace: arguments.workspace.map(WorkspaceId),
        allow_reserved: arguments.allow_reserved,
        text: &text,
    };
    let outcome = block_on(async { Ok(bulk::import(&config, &request, &Machine, &Machine).await) })?;
    match outcome {
        Ok(outcome) => tell(&outcome),
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

fn read(file: &PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(file).map(|contents| text = contents)
    };
    read.map_err(|error| format!("read {}: {error}", file.display()))?;
    Ok(text)
}

fn tell(outcome: &Outcome) -> Result<(), Failure> {
    let Outcome {
        new,
        already_there,
        hashes,
        taken,
    } = outcome;
    print(&format!("imported {new}, already there {already_there}\n"))?;
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
