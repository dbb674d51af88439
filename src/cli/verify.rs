//! `inboxd verify`.

use std::{io::Read as _, path::PathBuf};

use clap::Args;

use super::{Failure, Source, block_on, print};
use crate::{
    clock::{Clock as _, Entropy as _, Machine},
    config::Config,
    daemon::{self, sealing_key},
    mail::verify::{self as probe, Credentials, Event, Limits, Target, Token},
    model::{address::Address, password::MailPassword, sealing::Sealed},
    telemetry,
};

/// Width of the column of step names.
const STEP_COLUMNS: usize = 20;

#[derive(Args, Debug)]
pub(super) struct VerifyArguments {
    /// The inbox's canonical address
    email: String,
    /// File with the inbox's password, - for standard input; without it, the store's sealed copy is used
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

pub(super) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let config = arguments.source.load()?;
    let address = Address::parse(&arguments.email).map_err(|rule| format!("{}: {rule}", arguments.email))?;
    let given = arguments.password_file.as_ref().map(read_password).transpose()?;
    block_on(async {
        let password = match given {
            Some(password) => password,
            None => stored_password(&config, &address).await?,
        };
        let credentials = Credentials {
            address: address.to_string().parse()?,
            login: address.to_string(),
            password: password.expose().to_owned().into(),
        };
        run(&config, &credentials).await
    })
}

fn read_password(file: &PathBuf) -> Result<MailPassword, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|contents| text = contents)
    };
    read.map_err(|error| format!("read the password from {}: {error}", file.display()))?;
    Ok(MailPassword::from_clear(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// The password that the store keeps for the inbox.
async fn stored_password(config: &Config, address: &Address) -> Result<MailPassword, Failure> {
    let db = daemon::open_store(config).await?;
    let mut tx = db.read().await?;
    let inbox = tx
        .inbox_at(address)
        .await?
        .ok_or_else(|| format!("there is no inbox whose canonical address is {address}"))?;
    let secrets = tx
        .inbox_secrets(inbox.id)
        .await?
        .ok_or("the inbox was deleted just now")?;
    drop(tx);
    let key = sealing_key::open(&config.sealing_key_file, &db, &Machine).await?;
    db.close().await;
    let sealed = secrets
        .sealed_password
        .ok_or("the store keeps no recoverable password for it (service.reveal_passwords): give it with --password-file")?;
    let clear = key.open(Sealed::MailPassword(inbox.id.0), &sealed)?;
    Ok(MailPassword::from_clear(std::str::from_utf8(&clear)?.to_owned()))
}

async fn run(config: &Config, credentials: &Credentials) -> Result<(), Failure> {
    let target = Target {
        submission: config.smtp.clone(),
        imap: config.imap.clone(),
        ca_file: config.certificate.ca_file.clone(),
    };
    let mut random = [0_u8; 16];
    Machine.fill(&mut random);
    let sent_at = jiff::Timestamp::from_microsecond(Machine.now().as_micros())?;
    let mut reported = Ok(());
    let outcome = probe::verify(
        &target,
        credentials,
        Token::from_bytes(random),
        sent_at,
        &Limits::default(),
        &mut |event| {
            if reported.is_ok() {
                reported = report(&event);
            }
        },
    )
    .await;
    reported?;
    match outcome {
        Ok(took) => print(&format!(
            "{} works: {} ms in all\n",
            credentials.login,
            took.as_millis()
        )),
        Err(failure) => {
            let hint = failure.hint();
            Err(format!(
                "{} does not work: {}\n{hint}",
                credentials.login,
                telemetry::chain(&failure)
            )
            .into())
        }
    }
}

fn report(event: &Event<'_>) -> Result<(), Failure> {
    match event {
        Event::Started { .. } => Ok(()),
        Event::Passed { step, server, took } => print(&format!(
            "ok    {step:STEP_COLUMNS$} {server}  {:.1} ms\n",
            took.as_secs_f64() * 1000.0
        )),
        Event::Failed(failure) => {
            let (step, server, took) = (failure.step, &failure.server, failure.took);
            print(&format!(
                "FAIL  {step:STEP_COLUMNS$} {server}  {:.1} ms\n",
                took.as_secs_f64() * 1000.0
            ))
        }
    }
}
