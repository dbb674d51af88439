//! The fragments that make Dovecot and Postfix serve what the maps say: pure functions from values to text.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The name of Dovecot's administration socket. It is no choice: 2.3 knows by it that HTTP is spoken there.
pub const ADMINISTRATION_SOCKET: &str = "http";
/// The name of the socket through which logins are looked up. What stands behind its dash is no choice: Dovecot knows by
/// it what is spoken there, and of the two kinds that answer such look-ups this one may do less.
pub const LOOKUP_SOCKET: &str = "inboxd-userdb";

/// Login processes of Dovecot.
const LOGIN_PROCESSES: u16 = 20;
/// IMAP connections without a login, beside all sessions, before the oldest are given up.
const SILENT_CONNECTIONS: u16 = 1000;
/// Connections that Dovecot's shared services have besides those of sessions: logins, deliveries.
const OTHER_CLIENTS: u16 = 100;

/// The Dovecot releases whose configuration languages differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DovecotVersion {
    /// 2.3, as in Debian 12.
    V2_3,
    /// 2.4, as in Debian 13.
    V2_4,
}

/// A Dovecot whose configuration we do not know how to write.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Dovecot {found:?} is not supported: 2.3 and 2.4 are")]
pub struct UnsupportedVersion {
    /// What `dovecot --version` printed.
    pub found: String,
}

impl DovecotVersion {
    /// From what `dovecot --version` prints, for example `2.3.19.1 (9b53102964)` or `2.4.1-4 (7d8c0e5759)`.
    pub fn parse(output: &str) -> Result<Self, UnsupportedVersion> {
        let mut numbers = output.trim().split(['.', '-', ' ']);
        match (numbers.next(), numbers.next()) {
            (Some("2"), Some("3")) => Ok(Self::V2_3),
            (Some("2"), Some("4")) => Ok(Self::V2_4),
            _ => Err(UnsupportedVersion {
                found: output.trim().chars().take(80).collect(),
            }),
        }
    }
}

impl fmt::Display for DovecotVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2_3 => "2.3",
            Self::V2_4 => "2.4",
        })
    }
}

/// Whom a submitted message may go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Everybody: an ordinary mail server.
    World,
    /// Everybody, through one host that takes what is for other domains (`relayhost` in postconf(5)).
    Relay {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Mailboxes of our own domains; other recipients are refused at RCPT. For the private stack.
    OwnDomains,
}

/// Who gets the mail for postmaster and abuse (RFC 5321, 4.5.1; RFC 2142).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Postmaster {
    /// An inbox, by its canonical address. While there is none, such mail is refused.
    Inbox(String),
    /// An address on another host.
    Elsewhere(String),
}

impl Postmaster {
    /// The address.
    pub fn address(&self) -> &str {
        match self {
            Self::Inbox(address) | Self::Elsewhere(address) => address,
        }
    }
}

/// Most sessions at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sessions {
    /// IMAP sessions; each is a process, and two file descriptors of shared ones.
    pub imap: u16,
    /// IMAP sessions of one inbox from one address.
    pub imap_per_inbox: u16,
    /// Submission sessions; each is a process.
    pub submission: u16,
    /// Submission sessions from one address.
    pub submission_per_address: u16,
    /// Seconds of silence after which Postfix gives a connection up, to submission and to port 25.
    pub smtp_idle_s: u16,
}

impl Sessions {
    /// Clients of Dovecot's shared services: IMAP and submission sessions, logins, deliveries.
    fn clients(self) -> u16 {
        self.imap
            .saturating_add(self.submission)
            .saturating_add(OTHER_CLIENTS)
    }

    /// Connections of one login process, of which sessions keep one each, too.
    fn login_clients(self) -> u16 {
        self.imap
            .saturating_add(SILENT_CONNECTIONS)
            .div_ceil(LOGIN_PROCESSES)
    }
}

/// Everything the fragments need to know.
///
/// All paths are absolute and hold letters, digits and `/ . _ - +` only, because no two of the languages they end up in
/// quote alike.
#[derive(Clone, Debug)]
pub struct MailPlane {
    /// The folder of the maps: `passdb/<domain>/<local part>` and `postfix/{domains,recipients,aliases,sender_logins}.lmdb`.
    pub maps_dir: PathBuf,
    /// Where the Lua script is, which is Dovecot's passdb and userdb.
    pub lua_script: PathBuf,
    /// The folder of all mail: `<inbox id>/Maildir` for each inbox.
    pub mail_root: PathBuf,
    /// Owner of all mail; needs no entry in the system's users.
    pub mail_uid: u32,
    /// Group of all mail.
    pub mail_gid: u32,
    /// The name that the servers greet with.
    pub hostname: String,
    /// Sender of what Dovecot itself would send.
    pub postmaster_address: String,
    /// Who gets the mail for postmaster and abuse of the host and its domains.
    pub postmaster: Postmaster,
    /// The local part of the address that Postfix itself sends from: one that strangers cannot guess.
    pub double_bounce_sender: String,
    /// Postfix's `queue_directory`.
    pub queue_dir: PathBuf,
    /// Dovecot's SASL socket, in Postfix's queue folder.
    pub auth_socket: PathBuf,
    /// Dovecot's LMTP socket, in Postfix's queue folder.
    pub lmtp_socket: PathBuf,
    /// Dovecot's `base_dir`; the administration socket is in it.
    pub dovecot_base_dir: PathBuf,
    /// The group that may connect to the administration socket, besides root.
    pub doveadm_group: String,
    /// The file that holds the key of the administration socket, without a newline. See [`super::key`].
    pub doveadm_key_file: PathBuf,
    /// The signer's socket, which submission hands every message to; none: nothing is signed.
    pub signer_socket: Option<PathBuf>,
    /// The socket of the milter that judges arriving mail; none: nothing is judged.
    pub inbound_socket: Option<PathBuf>,
    /// The servers' certificate (chain), PEM.
    pub tls_cert: PathBuf,
    /// Its key, PEM.
    pub tls_key: PathBuf,
    /// Port of IMAP over TLS; 993 is the standard one.
    pub imaps_port: u16,
    /// Postfix's name of the submission service: `submission`, `587`, `127.0.0.1:8082`.
    pub submission_service: String,
    /// URL at which Dovecot asks how long a login has to wait (`login_policy.url`); none: nothing slows guesses down.
    pub login_policy_url: Option<String>,
    /// How many sessions there can be.
    pub sessions: Sessions,
    /// Whom a submitted message may go to.
    pub reach: Reach,
    /// Largest message in octets.
    pub message_size_limit: u64,
}

impl MailPlane {
    /// Where the Lua script is that verifies what takes long, in workers of Dovecot: beside the other one.
    pub fn costly_lua_script(&self) -> PathBuf {
        self.lua_script.with_file_name("inboxd-costly.lua")
    }

    /// Where the Sieve script is that files messages to Junk: beside the Lua script. `sievec` makes a binary of it.
    pub fn sieve_script(&self) -> PathBuf {
        sieve_script(&self.lua_script)
    }
}

/// Where the Sieve script is if the Lua script is there.
pub(super) fn sieve_script(lua_script: &Path) -> PathBuf {
    lua_script.with_file_name("inboxd.sieve")
}

/// One rendered file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenderedFile {
    /// Where it belongs on a Debian system. Postfix's two have no file of their own: append them there.
    pub path: PathBuf,
    /// The text of it.
    pub contents: String,
}

/// Why nothing was rendered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RenderError {
    /// A value of the [`MailPlane`] cannot be written into configuration files.
    #[error("{name} cannot be {value:?}: {rule}")]
    Value {
        /// The field of [`MailPlane`].
        name: &'static str,
        /// What it is.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A template names a value that it is not given.
    #[error("fill a template: nothing is known about @{0}@")]
    UnknownPlaceholder(String),
    /// A template is given a value that it does not use.
    #[error("fill a template: @{0}@ is not used")]
    UnusedPlaceholder(&'static str),
}

/// Dovecot's fragment, its two Lua scripts and its Sieve script, for an existing server of this version.
pub fn dovecot(version: DovecotVersion, plane: &MailPlane) -> Result<Vec<RenderedFile>, RenderError> {
    let template = match version {
        DovecotVersion::V2_3 => include_str!("templates/dovecot-2.3.conf"),
        DovecotVersion::V2_4 => include_str!("templates/dovecot-2.4.conf"),
    };
    let conf = fill(
        template,
        &[
            ("LUA_SCRIPT", path("lua_script", &plane.lua_script)?),
            (
                "COSTLY_LUA_SCRIPT",
                path("lua_script", &plane.costly_lua_script())?,
            ),
            ("SIEVE_SCRIPT", path("lua_script", &plane.sieve_script())?),
            ("AUTH_SOCKET", path("auth_socket", &plane.auth_socket)?),
            ("LMTP_SOCKET", path("lmtp_socket", &plane.lmtp_socket)?),
            ("DOVEADM_GROUP", word("doveadm_group", &plane.doveadm_group)?),
            (
                "DOVEADM_KEY_FILE",
                path("doveadm_key_file", &plane.doveadm_key_file)?,
            ),
            (
                "POSTMASTER_ADDRESS",
                word("postmaster_address", &plane.postmaster_address)?,
            ),
            ("TLS_CERT", path("tls_cert", &plane.tls_cert)?),
            ("TLS_KEY", path("tls_key", &plane.tls_key)?),
            ("LOGIN_POLICY", login_policy(version, plane)?),
            ("IMAPS_PORT", plane.imaps_port.to_string()),
            ("LOGIN_PROCESSES", LOGIN_PROCESSES.to_string()),
            ("LOGIN_CLIENTS", plane.sessions.login_clients().to_string()),
            ("IMAP_SESSIONS", plane.sessions.imap.to_string()),
            ("CLIENTS", plane.sessions.clients().to_string()),
            ("SESSIONS_PER_INBOX", plane.sessions.imap_per_inbox.to_string()),
            ("MAIL_ROOT", path("mail_root", &plane.mail_root)?),
            ("MAIL_UID", plane.mail_uid.to_string()),
            ("MAIL_GID", plane.mail_gid.to_string()),
        ],
    )?;
    let passdb_dir = path("maps_dir", &plane.maps_dir.join("passdb"))?;
    let lua = |costly_are_verified_next: bool| {
        let values = [
            ("PASSDB_DIR", passdb_dir.clone()),
            ("COSTLY_ARE_VERIFIED_NEXT", costly_are_verified_next.to_string()),
        ];
        fill(include_str!("templates/inboxd.lua"), &values)
    };
    Ok(vec![
        RenderedFile {
            path: PathBuf::from("/etc/dovecot/conf.d/99-inboxd.conf"),
            contents: conf,
        },
        RenderedFile {
            path: plane.lua_script.clone(),
            contents: lua(true)?,
        },
        RenderedFile {
            path: plane.costly_lua_script(),
            contents: lua(false)? + include_str!("templates/inboxd-costly.lua"),
        },
        RenderedFile {
            path: plane.sieve_script(),
            contents: include_str!("templates/inboxd.sieve").to_owned(),
        },
    ])
}

/// Postfix's two fragments, to be appended to `main.cf` and `master.cf` of an existing server.
pub fn postfix(plane: &MailPlane) -> Result<Vec<RenderedFile>, RenderError> {
    postfix_with_fallback(plane, "")
}

/// The same with a parameter of `main.cf` that names where mail for the postmaster goes while there is no inbox for it.
pub(super) fn postfix_with_fallback(
    plane: &MailPlane,
    postmaster_fallback: &str,
) -> Result<Vec<RenderedFile>, RenderError> {
    // Postfix's processes work in the queue folder, some of them chrooted: sockets are named relative to it.
    let in_queue = |name: &'static str, socket: &Path| match socket.strip_prefix(&plane.queue_dir) {
        Ok(relative) => path(name, socket).map(|_| relative.display().to_string()),
        Err(_) => Err(RenderError::Value {
            name,
            value: socket.display().to_string(),
            rule: "must be in Postfix's queue folder",
        }),
    };
    let main = fill(
        include_str!("templates/postfix-main.cf"),
        &[
            ("HOSTNAME", word("hostname", &plane.hostname)?),
            (
                "POSTFIX_MAPS_DIR",
                path("maps_dir", &plane.maps_dir.join("postfix"))?,
            ),
            ("LMTP_SERVICE", in_queue("lmtp_socket", &plane.lmtp_socket)?),
            ("AUTH_SERVICE", in_queue("auth_socket", &plane.auth_socket)?),
            ("TLS_CERT", path("tls_cert", &plane.tls_cert)?),
            ("TLS_KEY", path("tls_key", &plane.tls_key)?),
            ("INBOUND", inbound(plane)?),
            ("SMTP_IDLE", plane.sessions.smtp_idle_s.to_string()),
            ("MESSAGE_SIZE_LIMIT", plane.message_size_limit.to_string()),
            ("POSTMASTER", word("postmaster", plane.postmaster.address())?),
            ("POSTMASTER_CHECK", postmaster_check(plane)?),
            ("POSTMASTER_FALLBACK", postmaster_fallback.to_owned()),
            (
                "DOUBLE_BOUNCE_SENDER",
                word("double_bounce_sender", &plane.double_bounce_sender)?,
            ),
        ],
    )?;
    let master = fill(
        include_str!("templates/postfix-master.cf"),
        &[
            (
                "SUBMISSION_SERVICE",
                word("submission_service", &plane.submission_service)?,
            ),
            ("SUBMISSION_PROCESSES", plane.sessions.submission.to_string()),
            (
                "SUBMISSION_PER_ADDRESS",
                plane.sessions.submission_per_address.to_string(),
            ),
            (
                "SUBMISSION_RELAY",
                match plane.reach {
                    Reach::World | Reach::Relay { .. } => "permit_sasl_authenticated,reject",
                    // The parameter is set in the preamble of main.cf.
                    Reach::OwnDomains => {
                        "permit_auth_destination,$inboxd_postmaster_access,$own_domains_refusal,reject"
                    }
                }
                .to_owned(),
            ),
            ("SIGNER", signer(plane)?),
        ],
    )?;
    Ok(vec![
        RenderedFile {
            path: PathBuf::from("/etc/postfix/main.cf"),
            contents: main,
        },
        RenderedFile {
            path: PathBuf::from("/etc/postfix/master.cf"),
            contents: master,
        },
    ])
}

/// How Dovecot slows password guessing down.
fn login_policy(version: DovecotVersion, plane: &MailPlane) -> Result<String, RenderError> {
    let Some(url) = &plane.login_policy_url else {
        return Ok("# Password guessing is not slowed down: login_policy.listen is empty.".to_owned());
    };
    let template = match version {
        DovecotVersion::V2_3 => include_str!("templates/dovecot-2.3-login-policy.conf"),
        DovecotVersion::V2_4 => include_str!("templates/dovecot-2.4-login-policy.conf"),
    };
    // A URL holds slashes besides what a word does.
    word("login_policy_url", &url.replace('/', "."))?;
    let filled = fill(template, &[("LOGIN_POLICY_URL", url.clone())])?;
    Ok(filled.trim_end().to_owned())
}

/// The table that must know the postmaster's address before mail is accepted for it.
fn postmaster_check(plane: &MailPlane) -> Result<String, RenderError> {
    match plane.postmaster {
        Postmaster::Inbox(_) => {
            let maps = path("maps_dir", &plane.maps_dir.join("postfix"))?;
            Ok(format!(",lmdb:{maps}/recipients"))
        }
        Postmaster::Elsewhere(_) => Ok(String::new()),
    }
}

/// What submission does with every message that it takes: has it signed, or has the client try again later. Without a
/// signer it has none judged either, as the other smtpd has.
fn signer(plane: &MailPlane) -> Result<String, RenderError> {
    match (&plane.signer_socket, &plane.inbound_socket) {
        (Some(socket), _) => {
            let socket = path("signer_socket", socket)?;
            Ok(format!(
                "  -o {{ smtpd_milters = {{ unix:{socket}, default_action=tempfail, connect_timeout=5s }} }}\n"
            ))
        }
        (None, Some(_)) => Ok("  -o smtpd_milters=\n".to_owned()),
        (None, None) => Ok(String::new()),
    }
}

/// What the other smtpd does with every message: has it judged, or has the sending server try again later.
fn inbound(plane: &MailPlane) -> Result<String, RenderError> {
    let Some(socket) = &plane.inbound_socket else {
        return Ok("# Arriving mail is not judged: inbound.socket is empty.".to_owned());
    };
    Ok(fill(
        include_str!("templates/postfix-main-inbound.cf"),
        &[("INBOUND_SOCKET", path("inbound_socket", socket)?)],
    )?
    .trim_end()
    .to_owned())
}

/// Replaces each `@NAME@` by its value. Each name in the template must be given, each one given must be used.
pub(super) fn fill(template: &str, values: &[(&'static str, String)]) -> Result<String, RenderError> {
    let mut filled = String::with_capacity(template.len() * 2);
    let mut used = vec![false; values.len()];
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        let is_name =
            |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if let Some((name, behind)) = after.split_once('@').filter(|(name, _)| is_name(name)) {
            let known = values.iter().position(|(known, _)| *known == name);
            let index = known.ok_or_else(|| RenderError::UnknownPlaceholder(name.to_owned()))?;
            filled.push_str(&values[index].1);
            used[index] = true;
            rest = behind;
        } else {
            filled.push('@');
            rest = after;
        }
    }
    filled.push_str(rest);
    match used.iter().position(|used| !used) {
        Some(unused) => Err(RenderError::UnusedPlaceholder(values[unused].0)),
        None => Ok(filled),
    }
}

/// Whether every configuration language we write takes this path without quotes.
pub(super) fn is_plain_path(path: &Path) -> bool {
    path.is_absolute()
        && path.to_str().is_some_and(|text| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+'))
        })
}

pub(super) fn path(name: &'static str, value: &Path) -> Result<String, RenderError> {
    let text = value.display().to_string();
    if is_plain_path(value) {
        Ok(text)
    } else {
        Err(RenderError::Value {
            name,
            value: text,
            rule: "must be an absolute path of letters, digits and / . _ - +",
        })
    }
}

/// A host name, an address, a group, a service.
pub(super) fn word(name: &'static str, value: &str) -> Result<String, RenderError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'@' | b':');
    if !value.is_empty() && value.bytes().all(plain) {
        Ok(value.to_owned())
    } else {
        Err(RenderError::Value {
            name,
            value: value.to_owned(),
            rule: "must be letters, digits and . _ - + @ :",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane() -> MailPlane {
        let queue = PathBuf::from("/var/spool/postfix");
        MailPlane {
            maps_dir: "/var/lib/inboxd".into(),
            lua_script: "/etc/dovecot/inboxd.lua".into(),
            mail_root: "/var/mail/inboxd".into(),
            mail_uid: 5000,
            mail_gid: 5000,
            hostname: "mail.example.com".into(),
            postmaster_address: "postmaster@example.com".into(),
            auth_socket: queue.join("private/inboxd-auth"),
            lmtp_socket: queue.join("private/inboxd-lmtp"),
            postmaster: Postmaster::Inbox("postmaster@example.com".into()),
            double_bounce_sender: "double-bounce-guess".into(),
            queue_dir: queue,
            dovecot_base_dir: "/run/dovecot".into(),
            doveadm_group: "inboxd".into(),
            doveadm_key_file: "/etc/inboxd/doveadm.key".into(),
            signer_socket: Some("/run/inboxd-signer/milter".into()),
            inbound_socket: Some("/run/inboxd-inbound/milter".into()),
            tls_cert: "/etc/ssl/mail.pem".into(),
            tls_key: "/etc/ssl/mail.key".into(),
            imaps_port: 993,
            submission_service: "submission".into(),
            login_policy_url: Some("http://127.0.0.1:8085/".into()),
            sessions: Sessions {
                imap: 4000,
                imap_per_inbox: 50,
                submission: 600,
                submission_per_address: 500,
                smtp_idle_s: 60,
            },
            reach: Reach::World,
            message_size_limit: 26_214_400,
        }
    }

    #[test]
    fn versions_are_read_from_what_dovecot_prints() {
        assert_eq!(
            DovecotVersion::parse("2.3.19.1 (9b53102964)\n"),
            Ok(DovecotVersion::V2_3)
        );
        assert_eq!(
            DovecotVersion::parse("2.4.1-4 (7d8c0e5759)\n"),
            Ok(DovecotVersion::V2_4)
        );
        assert_eq!(DovecotVersion::parse("2.4-devel"), Ok(DovecotVersion::V2_4));
        for unknown in ["", "2.2.36", "2.30.1", "3.0", "dovecot: command not found"] {
            assert!(DovecotVersion::parse(unknown).is_err(), "{unknown:?}");
        }
    }

    #[test]
    fn an_unknown_placeholder_is_an_error() {
        assert_eq!(
            fill("a @B@ c", &[]),
            Err(RenderError::UnknownPlaceholder("B".into()))
        );
    }

    #[test]
    fn an_unused_placeholder_is_an_error() {
        assert_eq!(
            fill("a", &[("B", "b".into())]),
            Err(RenderError::UnusedPlaceholder("B"))
        );
    }

    #[test]
    fn signs_that_are_no_placeholders_stay() {
        let text = "mail+detail@ goes to mail@. \"@\" @@ @lower@ @X@";
        let filled = fill(text, &[("X", "@X@".into())]).unwrap();
        assert_eq!(filled, "mail+detail@ goes to mail@. \"@\" @@ @lower@ @X@");
    }

    #[test]
    fn every_template_is_filled() {
        for version in [DovecotVersion::V2_3, DovecotVersion::V2_4] {
            let files = dovecot(version, &plane()).unwrap();
            assert_eq!(files[1].path, Path::new("/etc/dovecot/inboxd.lua"));
            for name in [ADMINISTRATION_SOCKET, LOOKUP_SOCKET] {
                let listener = format!("unix_listener {name} {{");
                assert!(files[0].contents.contains(&listener), "{listener}");
            }
            assert!(
                files[1]
                    .contents
                    .contains("local root = \"/var/lib/inboxd/passdb\"")
            );
        }
        let files = postfix(&plane()).unwrap();
        assert!(
            files[0]
                .contents
                .contains("virtual_transport = inboxd-delivery:unix:private/inboxd-lmtp\n")
        );
        assert!(
            files[0]
                .contents
                .contains("virtual_mailbox_maps = lmdb:/var/lib/inboxd/postfix/recipients\n")
        );
        assert!(
            files[1]
                .contents
                .contains("\nsubmission inet n - n - 600 smtpd\n")
        );
        let signer = "{ unix:/run/inboxd-signer/milter, default_action=tempfail,";
        assert!(files[1].contents.contains(signer));
    }

    #[test]
    fn each_smtpd_has_the_milter_that_is_for_it() {
        let with = |signer: bool, inbound: bool| {
            let mut plane = plane();
            plane.signer_socket = plane.signer_socket.filter(|_| signer);
            plane.inbound_socket = plane.inbound_socket.filter(|_| inbound);
            let [main, master] = postfix(&plane).unwrap().try_into().unwrap();
            (main.contents, master.contents)
        };
        let (main, master) = with(true, true);
        let milter = "\nsmtpd_milters = { unix:/run/inboxd-inbound/milter, default_action=tempfail, ";
        assert!(main.contains(milter), "{main}");
        assert!(master.contains("  -o { smtpd_milters = { unix:/run/inboxd-signer/milter,"));
        // Submission never has the other one's.
        let (main, master) = with(false, true);
        assert!(
            main.contains(milter) && master.contains("\n  -o smtpd_milters=\n"),
            "{master}"
        );
        for signer in [true, false] {
            let (main, master) = with(signer, false);
            assert!(!main.contains("\nsmtpd_milters"), "{main}");
            assert_eq!(master.contains("smtpd_milters"), signer, "{master}");
        }
    }

    #[test]
    fn dovecot_asks_about_logins_where_something_answers() {
        for version in [DovecotVersion::V2_3, DovecotVersion::V2_4] {
            let conf = |url: Option<&str>| {
                let plane = MailPlane {
                    login_policy_url: url.map(ToOwned::to_owned),
                    ..plane()
                };
                dovecot(version, &plane).map(|mut files| files.remove(0).contents)
            };
            let asked = conf(Some("http://inboxd:8085/")).unwrap();
            assert!(
                asked.contains("\nauth_policy_server_url = http://inboxd:8085/\n"),
                "{asked}"
            );
            assert!(!conf(None).unwrap().contains("\nauth_policy"));
            assert!(conf(Some("http://a b/")).is_err());
        }
    }

    #[test]
    fn no_service_of_postfix_takes_the_place_of_a_socket_of_dovecot() {
        let plane = plane();
        let master = postfix(&plane).unwrap().remove(1).contents;
        let services: Vec<&str> = master
            .lines()
            .filter(|line| line.contains(" unix "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(services.len(), 1, "{services:?}");
        for service in services {
            // Where master(8) makes the socket of a private service.
            let made = plane.queue_dir.join("private").join(service);
            assert!(
                made != plane.lmtp_socket && made != plane.auth_socket,
                "{service}"
            );
        }
    }

    #[test]
    fn the_scripts_do_not_depend_on_the_version() {
        let scripts = |version| dovecot(version, &plane()).unwrap().split_off(1);
        assert_eq!(scripts(DovecotVersion::V2_3), scripts(DovecotVersion::V2_4));
    }

    #[test]
    fn values_that_would_need_quotes_are_refused_by_name() {
        for bad in [
            "/var/lib/in boxd",
            "relative",
            "/a\nb",
            "/a\"b",
            "/a$b",
            "/a%b",
            "/a@B@b",
            "/a#b",
        ] {
            let mut plane = plane();
            plane.maps_dir = bad.into();
            let refused = postfix(&plane).unwrap_err();
            assert!(
                matches!(refused, RenderError::Value { name: "maps_dir", .. }),
                "{bad:?}"
            );
            assert!(dovecot(DovecotVersion::V2_4, &plane).is_err(), "{bad:?}");
        }
        let mut plane = plane();
        plane.hostname = "a b".into();
        assert!(postfix(&plane).is_err());
    }

    #[test]
    fn sockets_must_be_where_postfix_can_reach_them() {
        let mut outside = plane();
        outside.lmtp_socket = "/run/dovecot/lmtp".into();
        assert!(matches!(
            postfix(&outside),
            Err(RenderError::Value {
                name: "lmtp_socket",
                ..
            })
        ));
    }
}
