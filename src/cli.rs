//! The command line.

mod bootstrap;
mod dev;
mod domain;
mod healthcheck;
mod import;
mod inbound;
mod keys;
mod maps;
pub mod output;
mod serve;
mod signer;
mod stack;
mod verify;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::output::{note, print};
use crate::{
    config::{self, Config, Written},
    http, telemetry,
};

/// A stock Dovecot + Postfix host as an inbox API.
#[derive(Parser, Debug)]
#[command(name = "inboxd", version, about, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration comes from.
#[derive(Args, Clone, Debug)]
struct Source {
    /// The configuration file; without one, defaults and the environment
    #[arg(long, short, env = "INBOXD_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Sets one key, as `service.default_domain=example.com`; may be given more than once
    #[arg(long, value_name = "SECTION.KEY=VALUE", global = true)]
    set: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon beside an existing Dovecot and Postfix
    Serve {
        #[command(flatten)]
        source: Source,
    },
    /// Run the daemon with a private Dovecot and Postfix, all in one folder
    Dev(dev::DevArguments),
    /// Print what bootstrap.file tells: keys, addresses and the CA to trust
    Bootstrap {
        #[command(flatten)]
        source: Source,
    },
    /// Check that the API of the running daemon answers and its store and maps work, with --all every part; for supervisors
    Healthcheck(healthcheck::HealthcheckArguments),
    /// Sign what is submitted, for Postfix: a process beside the daemon
    Signer(signer::SignerArguments),
    /// Judge arriving mail for Postfix: SPF, DKIM, DMARC, ARC
    Inbound(inbound::InboundArguments),
    /// Print configuration for the mail servers
    Stack {
        #[command(subcommand)]
        command: stack::StackCommand,
    },
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print the OpenAPI document of the API
    Openapi,
    /// Manage keys without the API
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Look after the DNS records and signing keys of the default domain
    Domain {
        #[command(subcommand)]
        command: domain::DomainCommand,
    },
    /// Bring in mailboxes of another server, from a passwd-file with their password hashes
    Import(import::ImportArguments),
    /// Look at the maps, and write them anew
    Maps {
        #[command(subcommand)]
        command: maps::MapsCommand,
    },
    /// Prove that an inbox works: submit a message to it, wait for it, delete it
    Verify(verify::VerifyArguments),
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Check the configuration and print what is in force, secrets hidden
    Check {
        #[command(flatten)]
        source: Source,
    },
}

/// What a command fails with: printed with everything beneath it.
type Failure = Box<dyn Error + Send + Sync>;

/// Exit status of a configuration that cannot be used: `EX_CONFIG` of sysexits(3head). A service manager need not try
/// again.
const WRONG_CONFIGURATION: u8 = 78;

/// Runs a command; its exit status is 0 if it did what it was asked, 78 if the configuration is wrong, else 1. `maps check`
/// and `domain check` have a meaning of their own for 1, and the first has another one.
pub fn run(arguments: Arguments) -> ExitCode {
    let outcome = match arguments.command {
        Command::Serve { source } => serve::serve(&source),
        Command::Dev(arguments) => dev::dev(&arguments),
        Command::Bootstrap { source } => bootstrap::bootstrap(&source),
        Command::Healthcheck(arguments) => healthcheck::healthcheck(&arguments),
        Command::Signer(arguments) => signer::signer(&arguments),
        Command::Inbound(arguments) => inbound::inbound(&arguments),
        Command::Stack { command } => stack::stack(command),
        Command::Config {
            command: ConfigCommand::Check { source },
        } => check(&source),
        Command::Openapi => openapi(),
        Command::Keys { command } => keys::keys(command),
        Command::Import(arguments) => import::import(&arguments),
        Command::Domain { command } => return status(domain::domain(command)),
        Command::Maps { command } => return status(maps::maps(command)),
        Command::Verify(arguments) => verify::verify(&arguments),
    };
    status(outcome.map(|()| ExitCode::SUCCESS))
}

fn status(outcome: Result<ExitCode, Failure>) -> ExitCode {
    match outcome {
        Ok(status) => status,
        Err(failure) => {
            note(&format!("inboxd: {}", telemetry::chain(&*failure)));
            if failure.is::<config::Error>() {
                ExitCode::from(WRONG_CONFIGURATION)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

impl Source {
    /// The configuration as it is written, all sources together.
    fn written(&self) -> Result<Written, config::Error> {
        // A variable that is not UTF-8 is none of ours; if it has our prefix, its key is missing and said so.
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let foreign = config::foreign_variables(environment.iter().map(|(name, _)| name.as_str()));
        if !foreign.is_empty() {
            note(&format!(
                "inboxd: ignored environment variables, which are no keys (INBOXD_<SECTION>__<KEY>): {}",
                foreign.join(", ")
            ));
        }
        config::read(self.config.as_deref(), environment, &self.set)
    }

    /// The configuration in force.
    fn load(&self) -> Result<Config, config::Error> {
        self.written()?.check()
    }
}

/// Runs a command that talks to servers.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn check(source: &Source) -> Result<(), Failure> {
    let config = source.load()?;
    print(&config.written.shown()?)
}

fn openapi() -> Result<(), Failure> {
    print(
        &(http::openapi().to_pretty_json()?
            + "
"),
    )
}
