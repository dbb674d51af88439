//! The `inboxd` program: parse arguments, run a command, turn an error into an exit status.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Two providers in one binary would make rustls panic where a library asks for "the" provider.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        inboxd::cli::output::note("inboxd: another TLS provider is installed");
        return ExitCode::FAILURE;
    }
    inboxd::cli::run(inboxd::cli::Arguments::parse())
}
