//! `inboxd stack`.

use std::{path::PathBuf, process::Command as Process};

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, Source, block_on, print, serve::stop_signal};
use crate::{
    clock::Machine,
    config::Config,
    stack::{
        DovecotVersion, MailPlane, RenderedFile,
        container::{self, Settings},
        key,
        private::Kind,
        render,
    },
    telemetry,
};

#[derive(Subcommand, Debug)]
pub(super) enum StackCommand {
    /// Print the fragments that make an existing server serve inboxd's maps
    Render {
        /// Which server
        server: Server,
        /// For which Dovecot; without it, the installed one is asked
        #[arg(long, value_name = "2.3|2.4")]
        dovecot_version: Option<String>,
        #[command(flatten)]
        source: Source,
    },
    /// Run one server that serves inboxd and nothing else, in the foreground: the command of its container
    Run(ContainerArguments),
    /// Exit with 0 if the server that `stack run` runs does its work: the health check of its container
    Health(ContainerArguments),
}

#[derive(Args, Debug)]
pub(super) struct ContainerArguments {
    /// Which server
    server: Server,
    /// Folder of its configuration, which is written at each start
    #[arg(long, value_name = "DIR", default_value = "/run/inboxd")]
    dir: PathBuf,
    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(super) enum Server {
    /// IMAP, LMTP, SASL
    Dovecot,
    /// SMTP and submission
    Postfix,
}

pub(super) fn stack(command: StackCommand) -> Result<(), Failure> {
    match command {
        StackCommand::Render {
            server,
            dovecot_version,
            source,
        } => {
            let plane = plane_of(&source.load()?)?;
            print_fragments(match server {
                Server::Dovecot => render::dovecot(version(dovecot_version)?, &plane)?,
                Server::Postfix => render::postfix(&plane)?,
            })
        }
        StackCommand::Run(arguments) => {
            let config = arguments.source.load()?;
            telemetry::start_logging(&config.logging)?;
            let settings = arguments.settings(&config)?;
            block_on(async { Ok(container::run(&settings, &Machine, stop_signal()?).await?) })
        }
        StackCommand::Health(arguments) => {
            let settings = arguments.settings(&arguments.source.load()?)?;
            block_on(async { Ok(container::check(&settings).await?) })
        }
    }
}

impl ContainerArguments {
    fn settings(&self, config: &Config) -> Result<Settings, Failure> {
        Ok(Settings {
            server: match self.server {
                Server::Dovecot => Kind::Dovecot,
                Server::Postfix => Kind::Postfix,
            },
            dir: self.dir.clone(),
            plane: plane_of(config)?,
            submission_port: config.written.smtp.port,
            inbound_port: config.written.mx.port,
        })
    }
}

fn print_fragments(files: Vec<RenderedFile>) -> Result<(), Failure> {
    for RenderedFile { path, contents } in files {
        // A Lua comment begins otherwise than one of a configuration file.
        let comment = if path.extension().is_some_and(|extension| extension == "lua") {
            "--"
        } else {
            "#"
        };
        print(&format!("{comment} ==> {} <==\n{contents}\n", path.display()))?;
    }
    Ok(())
}

fn version(asked: Option<String>) -> Result<DovecotVersion, Failure> {
    if let Some(text) = asked {
        return Ok(DovecotVersion::parse(&text)?);
    }
    let output = Process::new("dovecot")
        .arg("--version")
        .output()
        .map_err(|error| {
            format!("ask the installed Dovecot for its version (or say it with --dovecot-version): {error}")
        })?;
    Ok(DovecotVersion::parse(&String::from_utf8_lossy(&output.stdout))?)
}

/// What the fragments are rendered from: the configuration in force.
fn plane_of(config: &Config) -> Result<MailPlane, Failure> {
    let written = &config.written;
    let sockets = &written.postfix.sockets_dir;
    Ok(MailPlane {
        maps_dir: written.maps.dir.clone(),
        lua_script: written.dovecot.lua_script.clone(),
        mail_root: written.mail.root.clone(),
        mail_uid: written.mail.uid,
        mail_gid: written.mail.gid,
        hostname: written.mx.host.clone(),
        postmaster_address: config.postmaster_address()?.to_string(),
        postmaster: config.postmaster.clone(),
        double_bounce_sender: key::double_bounce_sender(&Machine),
        queue_dir: written.postfix.queue_dir.clone(),
        auth_socket: sockets.join("inboxd-auth"),
        lmtp_socket: sockets.join("inboxd-lmtp"),
        dovecot_base_dir: written.dovecot.base_dir.clone(),
        doveadm_group: written.dovecot.doveadm_group.clone(),
        doveadm_key_file: written.dovecot.doveadm_key_file.clone(),
        signer_socket: config.signer_socket.clone(),
        inbound_socket: config.inbound_socket.clone(),
        tls_cert: config.certificate.cert_file.clone(),
        tls_key: config.certificate.key_file.clone(),
        imaps_port: written.imap.port,
        submission_service: match written.smtp.port {
            587 => "submission".to_owned(),
            port => port.to_string(),
        },
        login_policy_url: config.login_policy.as_ref().map(|policy| policy.url.clone()),
        sessions: config.sessions,
        reach: config.reach.clone(),
        message_size_limit: written.mail.message_max_octets,
    })
}
