//! The whole configuration of a Dovecot and a Postfix that serve inboxd and nothing else: the fragments of
//! [`render`](super::render), and above them what a system's own configuration would hold.

use std::path::{Path, PathBuf};

use super::render::{self, DovecotVersion, MailPlane, Reach, RenderError, RenderedFile, fill, path, word};

/// Most inbound SMTP sessions at a time.
const INBOUND_PROCESSES: u16 = 300;

/// The last of the places where the postmaster's mail may go. The parameter is set in the preamble.
const POSTMASTER_FALLBACK: &str = ", $inboxd_postmaster_fallback";

/// The tables that Postfix opens at its start.
const TABLES: [&str; 4] = [
    "domains.lmdb",
    "recipients.lmdb",
    "aliases.lmdb",
    "sender_logins.lmdb",
];

/// Who can connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// This machine only.
    Loopback,
    /// Everybody, over IPv4: for a container, whose ports are published one by one.
    Everywhere,
}

impl Listen {
    fn dovecot(self) -> &'static str {
        match self {
            Self::Loopback => "127.0.0.1",
            Self::Everywhere => "*",
        }
    }

    fn postfix(self) -> &'static str {
        match self {
            Self::Loopback => "127.0.0.1",
            Self::Everywhere => "all",
        }
    }

    /// The name of a service in `master.cf`.
    pub fn service(self, port: u16) -> String {
        match self {
            Self::Loopback => format!("127.0.0.1:{port}"),
            Self::Everywhere => port.to_string(),
        }
    }
}

/// What a server that is ours alone needs to know besides the [`MailPlane`].
#[derive(Clone, Debug)]
pub struct Premises {
    /// Where Dovecot's configuration is written: `dovecot.conf`, and the fragment beside it.
    pub dovecot_conf_dir: PathBuf,
    /// Dovecot's `state_dir`.
    pub dovecot_state_dir: PathBuf,
    /// Dovecot's log; `/dev/stderr` for the standard error of its master.
    pub dovecot_log: PathBuf,
    /// Whether IMAP sessions go on when Dovecot reads its configuration, and with it its certificate, again. If so, its
    /// master does not end them when it stops either.
    pub sessions_outlive_reload: bool,
    /// Where `main.cf` and `master.cf` are written.
    pub postfix_conf_dir: PathBuf,
    /// Postfix's `data_directory`.
    pub postfix_data_dir: PathBuf,
    /// Postfix's log; `/dev/stdout` for the standard output of its master.
    pub postfix_log: PathBuf,
    /// Who can connect.
    pub listen: Listen,
    /// Port of SMTP as other mail servers speak it.
    pub inbound_port: u16,
}

impl Premises {
    /// Dovecot's main configuration file.
    pub fn dovecot_conf(&self) -> PathBuf {
        self.dovecot_conf_dir.join("dovecot.conf")
    }
}

/// Everything that Dovecot reads.
pub fn dovecot(
    version: DovecotVersion,
    plane: &MailPlane,
    premises: &Premises,
) -> Result<Vec<RenderedFile>, RenderError> {
    let fragment = premises.dovecot_conf_dir.join("inboxd.conf");
    let preamble = match version {
        DovecotVersion::V2_3 => include_str!("templates/whole-dovecot-2.3.conf"),
        DovecotVersion::V2_4 => include_str!("templates/whole-dovecot-2.4.conf"),
    };
    let contents = fill(
        preamble,
        &[
            ("BASE_DIR", path("dovecot_base_dir", &plane.dovecot_base_dir)?),
            (
                "STATE_DIR",
                path("dovecot_state_dir", &premises.dovecot_state_dir)?,
            ),
            ("LOG_FILE", path("dovecot_log", &premises.dovecot_log)?),
            ("HOSTNAME", word("hostname", &plane.hostname)?),
            ("LISTEN", premises.listen.dovecot().to_owned()),
            (
                "SHUTDOWN_CLIENTS",
                if premises.sessions_outlive_reload {
                    "no"
                } else {
                    "yes"
                }
                .to_owned(),
            ),
            ("FRAGMENT", path("dovecot_conf_dir", &fragment)?),
        ],
    )?;
    let mut files = vec![RenderedFile {
        path: premises.dovecot_conf(),
        contents,
    }];
    let fragments = render::dovecot(version, plane)?;
    files.extend(fragments.into_iter().map(|file| {
        // The scripts are where the fragment names them.
        let is_fragment = file.path.extension().is_some_and(|extension| extension == "conf");
        RenderedFile {
            path: if is_fragment { fragment.clone() } else { file.path },
            contents: file.contents,
        }
    }));
    Ok(files)
}

/// Everything that Postfix reads.
pub fn postfix(plane: &MailPlane, premises: &Premises) -> Result<Vec<RenderedFile>, RenderError> {
    let (main_outbound, master_outbound) = match &plane.reach {
        Reach::World => (
            include_str!("templates/whole-postfix-main-world.cf").to_owned(),
            include_str!("templates/whole-postfix-master-world.cf"),
        ),
        Reach::Relay { host, port } => {
            let relay = [
                ("RELAY_HOST", word("relay", host)?),
                ("RELAY_PORT", port.to_string()),
            ];
            (
                fill(include_str!("templates/whole-postfix-main-relay.cf"), &relay)?,
                include_str!("templates/whole-postfix-master-world.cf"),
            )
        }
        Reach::OwnDomains => (
            include_str!("templates/whole-postfix-main-own-domains.cf").to_owned(),
            "",
        ),
    };
    let log_dir = premises.postfix_log.parent().unwrap_or(Path::new("/"));
    let mut files = Vec::with_capacity(2);
    for fragment in render::postfix_with_fallback(plane, POSTMASTER_FALLBACK)? {
        let (name, contents) = if fragment.path.ends_with("main.cf") {
            let values = [
                ("QUEUE_DIR", path("queue_dir", &plane.queue_dir)?),
                ("DATA_DIR", path("postfix_data_dir", &premises.postfix_data_dir)?),
                ("LOG_FILE", path("postfix_log", &premises.postfix_log)?),
                ("LOG_DIR", path("postfix_log", log_dir)?),
                ("INTERFACES", premises.listen.postfix().to_owned()),
                ("OUTBOUND", main_outbound.clone()),
                ("FRAGMENT", fragment.contents),
            ];
            (
                "main.cf",
                fill(include_str!("templates/whole-postfix-main.cf"), &values)?,
            )
        } else {
            let values = [
                ("INBOUND_SERVICE", premises.listen.service(premises.inbound_port)),
                ("INBOUND_PROCESSES", INBOUND_PROCESSES.to_string()),
                ("OUTBOUND", master_outbound.to_owned()),
                ("FRAGMENT", fragment.contents),
            ];
            (
                "master.cf",
                fill(include_str!("templates/whole-postfix-master.cf"), &values)?,
            )
        };
        files.push(RenderedFile {
            path: premises.postfix_conf_dir.join(name),
            contents,
        });
    }
    Ok(files)
}

/// The first of Postfix's tables that is not there.
pub(super) fn missing_table(maps_dir: &Path) -> Option<PathBuf> {
    TABLES
        .iter()
        .map(|table| maps_dir.join("postfix").join(table))
        .find(|table| !table.is_file())
}
