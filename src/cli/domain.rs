//! `inboxd domain`: the default domain, which is the operator's own, and custom domains that an operator releases; all
//! else of custom domains is the API's.

use std::{fmt::Write as _, process::ExitCode, sync::Arc};

use clap::Subcommand;

use super::{Failure, Source, block_on, note, print};
use crate::{
    clock::Machine,
    config::Config,
    daemon::{self, sealing_key},
    dns::Dns,
    model::{
        address::DomainName,
        dns_records::{DnsRecord, judge::Judgement, zone},
        domain::RecordStatus,
    },
    ops::{Service, domains},
};

#[derive(Subcommand, Debug)]
pub(super) enum DomainCommand {
    /// Print the DNS records that the default domain needs, as a zone file
    Zone {
        #[command(flatten)]
        source: Source,
    },
    /// Ask DNS for them; a signing key whose record is seen is used from then on
    ///
    /// Exit status: 0 if everything is there that mail needs, 1 if not.
    Check {
        #[command(flatten)]
        source: Source,
    },
    /// Take a custom domain from the tenant that has it, at once; whoever proves it next has it
    ///
    /// Deletes that tenant's inboxes at the domain, as a hand-over does. The daemon takes it up within seconds. Exit status:
    /// 0 if it was released, 1 if no tenant has it.
    Release {
        /// The domain
        name: String,
        #[command(flatten)]
        source: Source,
    },
    /// Make new signing keys and print what DNS needs then; they sign once their records have been seen
    RotateDkim {
        #[command(flatten)]
        source: Source,
    },
}

pub(super) fn domain(command: DomainCommand) -> Result<ExitCode, Failure> {
    match command {
        DomainCommand::Zone { source } => {
            let config = source.load()?;
            let records = block_on(with_service(&config, async |service| {
                Ok(domains::default_records(&service).await?)
            }))?;
            print_zone(&config, &records)
        }
        DomainCommand::Check { source } => {
            let config = source.load()?;
            let checked = block_on(with_service(&config, async |service| {
                Ok(domains::check_default(&service).await?)
            }))?;
            let (text, is_complete) = as_lines(&checked.value);
            print(&text)?;
            if !checked.publish.is_empty() {
                note("inboxd: other keys sign from now on; the daemon takes them up within seconds");
            }
            Ok(ExitCode::from(u8::from(!is_complete)))
        }
        DomainCommand::Release { name, source } => {
            let config = source.load()?;
            let name = DomainName::parse(&name).map_err(|rule| format!("NAME: {rule}"))?;
            let released = block_on(with_service(&config, async |service| {
                Ok(domains::release_by_command(&service, &name).await?)
            }))?;
            if released {
                print(&format!("released {name}\n"))?;
            } else {
                note(&format!("inboxd: no tenant has verified {name}"));
            }
            Ok(ExitCode::from(u8::from(!released)))
        }
        DomainCommand::RotateDkim { source } => {
            let config = source.load()?;
            let records = block_on(with_service(&config, async |service| {
                Ok(domains::rotate_default(&service).await?)
            }))?;
            print_zone(&config, &records)
        }
    }
}

/// Works on the store beside a daemon, or without one.
async fn with_service<T>(
    config: &Config,
    work: impl AsyncFnOnce(Arc<Service>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let db = daemon::open_store(config).await?;
    let sealing = sealing_key::open(&config.sealing_key_file, &db, &Machine).await?;
    let (service, tasks) = Service::start(
        db.clone(),
        Arc::new(Machine),
        Arc::new(Machine),
        sealing,
        config.settings.clone(),
        Dns::new(&config.dns),
    );
    domains::ensure_default_keys(&service).await?;
    let outcome = work(service).await;
    for task in tasks {
        task.await?;
    }
    db.close().await;
    outcome
}

fn print_zone(config: &Config, records: &[DnsRecord]) -> Result<ExitCode, Failure> {
    print(&zone(&config.settings.default_domain, records))?;
    Ok(ExitCode::SUCCESS)
}

/// A line a record, and whether all are there that mail needs.
fn as_lines(checked: &[(DnsRecord, Judgement)]) -> (String, bool) {
    let mut text = String::new();
    for (record, judgement) in checked {
        let status = match judgement.status {
            RecordStatus::Verified => "ok",
            RecordStatus::Missing => "missing",
            RecordStatus::Wrong => "wrong",
            RecordStatus::Unknown => "unknown",
        };
        let (kind, name, reason) = (record.record_type(), &record.name, &judgement.reason);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{status:8} {kind:4} {name}: {reason}");
    }
    let is_there = |(record, judgement): &(DnsRecord, Judgement)| {
        !record.is_required || judgement.status == RecordStatus::Verified
    };
    (text, checked.iter().all(is_there))
}
