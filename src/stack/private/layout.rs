//! Where everything of a private stack is, and the writing of it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid};

use super::Settings;
use crate::{
    clock::{Clock, Entropy},
    stack::{
        files::{FileError, backdate, folder, write_atomically},
        key::{self, KeyError},
        queue::{self, QueueError},
        render::{
            self, ADMINISTRATION_SOCKET, DovecotVersion, LOOKUP_SOCKET, MailPlane, RenderError, RenderedFile,
        },
        tls::{self, Certificates, TlsError},
        whole::{self, Listen, Premises},
    },
};

/// Owner of the private stack's mail; needs no entry in the system's users.
const MAIL_UID: u32 = 5000;
/// Group of the private stack's mail.
const MAIL_GID: u32 = 5000;
/// Longest name of a UNIX socket: `sun_path` in unix(7), without the final NUL.
const SOCKET_PATH_MAX_OCTETS: usize = 107;
/// The sockets with the longest names, seen from the folder. Postfix names its own relative to its queue folder.
const LONGEST_SOCKETS: [&str; 2] = ["run/srv.imap-hibernate/4194304", "queue/private/dovecot-lmtp"];
/// Why a folder cannot hold a private stack.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FolderProblem {
    /// The mail servers' users may not pass through a folder on the way.
    #[error("the users of Dovecot and Postfix may not pass through {}", folder.display())]
    NotTraversable {
        /// The folder.
        folder: PathBuf,
    },
    /// UNIX sockets in it would have names that are too long.
    #[error("the socket {} would have a name of {octets} octets; {SOCKET_PATH_MAX_OCTETS} are possible", socket.display())]
    PathTooLong {
        /// The longest one.
        socket: PathBuf,
        /// Its length.
        octets: usize,
    },
    /// The configuration languages of the servers cannot name it.
    #[error("{} has other characters than letters, digits and / . _ - +", path.display())]
    UnusableName {
        /// The absolute path.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error("look at {}: {kind}", path.display())]
    Unreadable {
        /// Which folder.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
}

/// Whether a private stack can live in this folder, which need not exist yet: all folders above it can be passed by every
/// user, and sockets in it have names that are short enough and plain.
pub fn check_folder(dir: &Path) -> Result<(), FolderProblem> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| FolderProblem::Unreadable {
            path,
            kind: error.kind(),
        }
    };
    let absolute = std::path::absolute(dir).map_err(unreadable(dir))?;
    // Symbolic links are followed for the part that exists; the rest is appended.
    let existing = absolute
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"));
    let real = fs::canonicalize(existing).map_err(unreadable(existing))?;
    let dir = match absolute.strip_prefix(existing) {
        Ok(rest) if rest.as_os_str().is_empty() => real,
        Ok(rest) => real.join(rest),
        Err(_) => real,
    };
    if !render::is_plain_path(&dir) {
        return Err(FolderProblem::UnusableName { path: dir });
    }
    for socket in LONGEST_SOCKETS {
        let socket = dir.join(socket);
        let octets = socket.as_os_str().len();
        if octets > SOCKET_PATH_MAX_OCTETS {
            return Err(FolderProblem::PathTooLong { socket, octets });
        }
    }
    // The folder itself is ours: `prepare` gives it the mode it needs.
    for folder in dir.ancestors().skip(1).filter(|folder| folder.exists()) {
        let mode = fs::metadata(folder).map_err(unreadable(folder))?.mode();
        if mode & 0o001 == 0 {
            return Err(FolderProblem::NotTraversable {
                folder: folder.to_owned(),
            });
        }
    }
    Ok(())
}

/// Why a private stack could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A folder or file could not be made.
    #[error("make files and folders")]
    File(#[from] FileError),
    /// There are no certificates.
    #[error("make certificates")]
    Tls(#[from] TlsError),
    /// There is no key for Dovecot's administration socket.
    #[error("make keys")]
    Key(#[from] KeyError),
    /// The configuration cannot be written.
    #[error("write configuration")]
    Render(#[from] RenderError),
    /// There is no queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Where everything of a private stack is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The layout of this folder, which exists.
    pub fn of(dir: &Path) -> Result<Self, FolderProblem> {
        let dir = fs::canonicalize(dir).map_err(|error| FolderProblem::Unreadable {
            path: dir.to_owned(),
            kind: error.kind(),
        })?;
        Ok(Self { dir })
    }

    /// The folder of the stack.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that is locked while a stack runs.
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join("stack.lock")
    }

    /// Dovecot's configuration.
    pub fn dovecot_conf(&self) -> PathBuf {
        self.dir.join("dovecot/dovecot.conf")
    }

    fn lua_script(&self) -> PathBuf {
        self.dir.join("dovecot/inboxd.lua")
    }

    /// The Sieve script, beside which its binary is.
    pub(super) fn sieve_script(&self) -> PathBuf {
        render::sieve_script(&self.lua_script())
    }

    /// Postfix's configuration folder.
    pub fn postfix_conf_dir(&self) -> PathBuf {
        self.dir.join("postfix")
    }

    /// Dovecot's administration socket.
    pub fn doveadm_socket(&self) -> PathBuf {
        self.run_dir().join(ADMINISTRATION_SOCKET)
    }

    /// The socket through which logins are looked up.
    pub fn lookup_socket(&self) -> PathBuf {
        self.run_dir().join(LOOKUP_SOCKET)
    }

    /// The key of Dovecot's administration socket.
    pub fn doveadm_key_file(&self) -> PathBuf {
        self.dir.join("dovecot/doveadm.key")
    }

    /// The folder of all mail.
    pub fn mail_root(&self) -> PathBuf {
        self.dir.join("mail")
    }

    /// Owner and group of all mail.
    pub fn mail_owner(&self) -> (u32, u32) {
        (MAIL_UID, MAIL_GID)
    }

    /// Dovecot's log.
    pub fn dovecot_log(&self) -> PathBuf {
        self.log_dir().join("dovecot.log")
    }

    /// Postfix's log.
    pub fn postfix_log(&self) -> PathBuf {
        self.log_dir().join("postfix.log")
    }

    /// Written by Dovecot while it runs.
    pub(super) fn dovecot_pid_file(&self) -> PathBuf {
        self.run_dir().join("master.pid")
    }

    /// Written by Postfix's master; it stays when the master is gone.
    pub(super) fn postfix_pid_file(&self) -> PathBuf {
        self.queue_dir().join("pid/master.pid")
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn queue_dir(&self) -> PathBuf {
        self.dir.join("queue")
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The folder of the CA and the certificate.
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// What the fragments are rendered from.
    pub fn plane(
        &self,
        settings: &Settings,
        certificates: &Certificates,
        entropy: &dyn Entropy,
    ) -> MailPlane {
        MailPlane {
            maps_dir: settings.maps_dir.clone(),
            lua_script: self.lua_script(),
            mail_root: self.mail_root(),
            mail_uid: MAIL_UID,
            mail_gid: MAIL_GID,
            hostname: settings.hostname.clone(),
            postmaster_address: settings.postmaster_address.clone(),
            postmaster: settings.postmaster.clone(),
            double_bounce_sender: key::double_bounce_sender(entropy),
            queue_dir: self.queue_dir(),
            auth_socket: self.queue_dir().join("private/auth"),
            lmtp_socket: self.queue_dir().join("private/dovecot-lmtp"),
            dovecot_base_dir: self.run_dir(),
            doveadm_group: "root".to_owned(),
            doveadm_key_file: self.doveadm_key_file(),
            signer_socket: settings.signer_socket.clone(),
            inbound_socket: settings.inbound_socket.clone(),
            tls_cert: certificates.server_cert.clone(),
            tls_key: certificates.server_key.clone(),
            imaps_port: settings.ports.imaps,
            submission_service: Listen::Loopback.service(settings.ports.submission),
            login_policy_url: settings.login_policy_url.clone(),
            sessions: settings.sessions,
            reach: settings.reach.clone(),
            message_size_limit: settings.message_size_limit,
        }
    }

    /// Makes all folders with the owners that the servers expect, certificates and keys where they are missing, and all of
    /// the configuration anew.
    pub(super) fn prepare(
        &self,
        settings: &Settings,
        version: DovecotVersion,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Certificates, PrepareError> {
        let ours = (Uid::effective().as_raw(), Gid::effective().as_raw());
        let mode = fs::metadata(&self.dir).map_err(FileError::at(&self.dir))?.mode();
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(mode & 0o7777 | 0o011))
            .map_err(FileError::at(&self.dir))?;
        for open in ["tls", "dovecot", "postfix", "run", "state"] {
            folder(&self.dir.join(open), 0o755, ours)?;
        }
        folder(&self.log_dir(), super::LOG_DIR_MODE, ours)?;
        folder(&self.mail_root(), 0o700, (MAIL_UID, MAIL_GID))?;
        queue::prepare(&self.queue_dir(), &self.data_dir())?;

        let certificates = tls::ensure(&self.tls_dir(), &[&settings.hostname], clock.now())?;
        key::ensure(&self.doveadm_key_file(), entropy)?;
        for file in self.render(version, settings, &certificates, entropy)? {
            write_atomically(&file.path, file.contents.as_bytes(), 0o644)?;
            backdate(&file.path, clock)?;
        }
        Ok(certificates)
    }

    /// All configuration files of the stack.
    pub fn render(
        &self,
        version: DovecotVersion,
        settings: &Settings,
        certificates: &Certificates,
        entropy: &dyn Entropy,
    ) -> Result<Vec<RenderedFile>, RenderError> {
        let plane = self.plane(settings, certificates, entropy);
        let premises = self.premises(settings);
        let mut files = whole::dovecot(version, &plane, &premises)?;
        files.extend(whole::postfix(&plane, &premises)?);
        Ok(files)
    }

    fn premises(&self, settings: &Settings) -> Premises {
        Premises {
            dovecot_conf_dir: self.dir.join("dovecot"),
            dovecot_state_dir: self.state_dir(),
            dovecot_log: self.dovecot_log(),
            sessions_outlive_reload: false,
            postfix_conf_dir: self.postfix_conf_dir(),
            postfix_data_dir: self.data_dir(),
            postfix_log: self.postfix_log(),
            listen: Listen::Loopback,
            inbound_port: settings.ports.inbound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn a_folder_behind_a_closed_one_is_refused() {
        let folder = open_folder();
        assert_eq!(check_folder(&folder.path().join("a/b")), Ok(()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let closed = fs::canonicalize(folder.path()).unwrap();
        assert_eq!(
            check_folder(&folder.path().join("a/b")),
            Err(FolderProblem::NotTraversable { folder: closed })
        );
    }

    #[test]
    fn a_closed_folder_behind_a_link_is_found() {
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let open = open_folder();
        std::os::unix::fs::symlink(closed.path(), open.path().join("link")).unwrap();
        let problem = check_folder(&open.path().join("link/dev")).unwrap_err();
        assert!(matches!(problem, FolderProblem::NotTraversable { .. }));
    }

    #[test]
    fn a_folder_whose_sockets_have_names_too_long_is_refused() {
        let room = SOCKET_PATH_MAX_OCTETS - LONGEST_SOCKETS[0].len() - "/".len();
        let fits = format!("/{}", "x".repeat(room - 1));
        assert_eq!(check_folder(Path::new(&fits)), Ok(()));
        let problem = check_folder(Path::new(&format!("{fits}x"))).unwrap_err();
        assert!(matches!(problem, FolderProblem::PathTooLong { octets: 108, .. }));
    }

    #[test]
    fn a_folder_that_no_configuration_can_name_is_refused() {
        let problem = check_folder(Path::new("/srv/my mail")).unwrap_err();
        assert!(matches!(problem, FolderProblem::UnusableName { .. }));
    }
}
