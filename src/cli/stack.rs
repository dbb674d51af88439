//! `inboxd stack`.

use std::process::Command as Process;

use clap::{Subcommand, ValueEnum};

use super::{Failure, Source, print};
use crate::{
    config::Config,
    stack::{
        DovecotVersion, MailPlane, RenderedFile,
        render::{self, Reach},
    },
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
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(super) enum Server {
    /// IMAP, LMTP, SASL
    Dovecot,
    /// SMTP and submission
    Postfix,
}

pub(super) fn stack(command: StackCommand) -> Result<(), Failure> {
    let StackCommand::Render {
        server,
        dovecot_version,
        source,
    } = command;
    let plane = plane_of(&source.load()?)?;
    let files = match server {
        Server::Dovecot => render::dovecot(version(dovecot_version)?, &plane)?,
        Server::Postfix => render::postfix(&plane)?,
    };
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
    let private = written.postfix.queue_dir.join("private");
    Ok(MailPlane {
        maps_dir: written.maps.dir.clone(),
        lua_script: written.dovecot.lua_script.clone(),
        mail_root: written.mail.root.clone(),
        mail_uid: written.mail.uid,
        mail_gid: written.mail.gid,
        hostname: written.mx.host.clone(),
        postmaster_address: config.postmaster()?.to_string(),
        queue_dir: written.postfix.queue_dir.clone(),
        auth_socket: private.join("inboxd-auth"),
        lmtp_socket: private.join("inboxd-lmtp"),
        dovecot_base_dir: written.dovecot.base_dir.clone(),
        doveadm_group: written.dovecot.doveadm_group.clone(),
        doveadm_key_file: written.dovecot.doveadm_key_file.clone(),
        tls_cert: config.certificate.cert_file.clone(),
        tls_key: config.certificate.key_file.clone(),
        imaps_port: written.imap.port,
        submission_service: match written.smtp.port {
            587 => "submission".to_owned(),
            port => port.to_string(),
        },
        submission_processes: None,
        reach: Reach::World,
        message_size_limit: written.mail.message_max_octets,
    })
}
