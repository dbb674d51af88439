//! `inboxd maps`: look at the maps, and write them anew.

use std::{
    os::unix::fs::MetadataExt as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Source, block_on, note, print};
use crate::{
    config::{self, Config, StoreUrl},
    daemon::{self, control},
    mail::doveadm::has_no_server,
    maps::{self, Layout, Maps, Reader},
    publish::{self, Checked, Rebuilt, Report},
    telemetry,
};

/// Exit status of a check that found a difference, and of one that could not be done.
const DIFFERENT: u8 = 1;
const NOT_CHECKED: u8 = 2;
/// How long a daemon that has the maps open may take until it listens for commands, and the pause between two tries.
const CONTROL_TIMEOUT_MS: u64 = 5_000;
const CONTROL_PAUSE_MS: u64 = 200;

#[derive(Subcommand, Debug)]
pub(super) enum MapsCommand {
    /// Compare the store, the maps and what Dovecot answers, and change nothing; while the daemon runs, or without it
    ///
    /// Exit status: 0 if nothing differs, 1 if something does, 2 if it could not be found out, 78 if the configuration
    /// is wrong.
    Check(CheckArguments),
    /// Write all maps anew, in place, from the store; while the daemon runs, or without it
    Rebuild {
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Args, Debug)]
pub(super) struct CheckArguments {
    /// Do not ask Dovecot
    #[arg(long)]
    no_dovecot: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) fn maps(command: MapsCommand) -> Result<ExitCode, Failure> {
    match command {
        MapsCommand::Check(arguments) => {
            let config = arguments.source.load()?;
            match block_on(check(&config, &arguments)) {
                Ok(status) => Ok(status),
                Err(failure) if failure.is::<config::Error>() => Err(failure),
                Err(failure) => {
                    note(&format!(
                        "inboxd: cannot check the maps: {}",
                        telemetry::chain(&*failure)
                    ));
                    Ok(ExitCode::from(NOT_CHECKED))
                }
            }
        }
        MapsCommand::Rebuild { source } => {
            let config = source.load()?;
            block_on(rebuild(&config)).map(|()| ExitCode::SUCCESS)
        }
    }
}

async fn check(config: &Config, arguments: &CheckArguments) -> Result<ExitCode, Failure> {
    if let StoreUrl::Sqlite(file) = &config.store
        && !file.exists()
    {
        return Err(format!("there is no store {} (store.url)", file.display()).into());
    }
    let layout = config.maps_layout()?;
    let maps = Arc::new(tokio::task::spawn_blocking(move || Reader::open(&layout)).await??);
    let db = daemon::open_store(config).await?;
    let checked = Checked {
        db: db.clone(),
        maps,
        default_domain: config.settings.default_domain.clone(),
        dovecot: (!arguments.no_dovecot).then(|| daemon::login_viewer(config)),
    };
    let report = checked.check().await?;
    db.close().await;
    print(&if arguments.json {
        as_json(&report)
    } else {
        as_lines(&report, arguments.no_dovecot)
    })?;
    Ok(match (report.is_clean(), &report.blind) {
        (false, _) => ExitCode::from(DIFFERENT),
        (true, Some(_)) => ExitCode::from(NOT_CHECKED),
        (true, None) => ExitCode::SUCCESS,
    })
}

fn as_lines(report: &Report, no_dovecot: bool) -> String {
    let of_maps = report.maps.iter().map(|found| match &found.key {
        Some(key) => format!("{} {key}: {}", found.map, found.what),
        None => format!("{}: {}", found.map, found.what),
    });
    let of_dovecot = report
        .dovecot
        .iter()
        .map(|(address, misread)| format!("dovecot {address}: {misread}"));
    let blind = report
        .blind
        .iter()
        .map(|blind| format!("Dovecot was not asked on: {}", telemetry::chain(blind)));
    let differences = report.maps.len() + report.dovecot.len();
    let dovecot = match (no_dovecot, &report.blind) {
        (true, _) => "Dovecot not asked".to_owned(),
        (false, None) => format!("{} asked of Dovecot", report.asked),
        (false, Some(_)) => format!("only {} asked of Dovecot", report.asked),
    };
    let summary = format!(
        "{differences} differences in {} addresses and {} domains; {dovecot}; {} being published",
        report.addresses, report.domains, report.in_flight
    );
    let lines = of_maps.chain(of_dovecot).chain(blind).chain([summary]);
    lines.map(|line| line + "\n").collect()
}

fn as_json(report: &Report) -> String {
    let of_maps = report
        .maps
        .iter()
        .map(|found| json!({ "map": found.map, "key": found.key, "what": found.what.to_string() }));
    let of_dovecot = report.dovecot.iter().map(|(address, misread)| {
        json!({ "map": "dovecot", "key": address.to_string(), "what": misread.to_string() })
    });
    let object = json!({
        "differences": of_maps.chain(of_dovecot).collect::<Vec<_>>(),
        "addresses": report.addresses,
        "domains": report.domains,
        "askedOfDovecot": report.asked,
        "notAskedBecause": report.blind.as_ref().map(|blind| telemetry::chain(blind)),
        "beingPublished": report.in_flight,
    });
    format!("{object}\n")
}

async fn rebuild(config: &Config) -> Result<(), Failure> {
    let layout = config.maps_layout()?;
    let begun = Instant::now();
    let (rebuilt, by_daemon) = loop {
        if let Some(rebuilt) = ask(&layout).await? {
            break (rebuilt, true);
        }
        if let Some(rebuilt) = alone(config, &layout).await? {
            break (rebuilt, false);
        }
        if begun.elapsed() > Duration::from_millis(CONTROL_TIMEOUT_MS) {
            return Err(format!(
                "an inboxd has the maps in {} open and does not answer at its control socket: is it still starting?",
                layout.root.display()
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(CONTROL_PAUSE_MS)).await;
    };
    let Rebuilt {
        mailboxes,
        aliases,
        domains,
        removed,
        new_tables,
    } = rebuilt;
    let by = if by_daemon {
        "by the daemon"
    } else {
        "without a daemon"
    };
    print(&format!(
        "written anew {by}: {mailboxes} mailboxes, {aliases} aliases, {domains} domains; {removed} removed that did not \
         belong\n"
    ))?;
    if new_tables > 0 {
        print(&format!(
            "{new_tables} tables are new files, which a Postfix that runs does not see by itself: postfix reload\n"
        ))?;
    }
    Ok(())
}

/// Asks the daemon; `None` if none runs.
async fn ask(layout: &Layout) -> Result<Option<Rebuilt>, Failure> {
    let socket = layout.control_socket();
    let http = reqwest::Client::builder().unix_socket(&*socket).build()?;
    let call = format!("http://localhost{}", control::REBUILD);
    let answer = match http.post(call).send().await {
        Ok(answer) => answer,
        Err(error) if has_no_server(&error) => return Ok(None),
        Err(error) => {
            let why = telemetry::chain(&error.without_url());
            return Err(format!("ask the daemon at {}: {why}", socket.display()).into());
        }
    };
    match answer.json().await? {
        control::Outcome::Rebuilt(rebuilt) => Ok(Some(rebuilt)),
        control::Outcome::Failed(why) => {
            Err(format!("the daemon could not write the maps anew: {why}").into())
        }
    }
}

/// Does what the daemon would do, where none runs; `None` if one does.
async fn alone(config: &Config, layout: &Layout) -> Result<Option<Rebuilt>, Failure> {
    let me = nix::unistd::geteuid().as_raw();
    if let Ok(root) = std::fs::metadata(&layout.root)
        && root.uid() != me
    {
        let (folder, owner) = (layout.root.display(), root.uid());
        return Err(
            format!("{folder} belongs to the user with the id {owner}: run this as that user").into(),
        );
    }
    let opening = layout.clone();
    let maps = match tokio::task::spawn_blocking(move || Maps::open(&opening)).await? {
        Err(maps::Error::Taken { .. }) => return Ok(None),
        opened => Arc::new(opened?),
    };
    let db = daemon::open_store(config).await?;
    let rebuilt = publish::rebuild(&publish::Parts {
        db: db.clone(),
        maps,
        default_domain: config.settings.default_domain.clone(),
        sessions: None,
        barrier: None,
    })
    .await?;
    db.close().await;
    Ok(Some(rebuilt))
}
