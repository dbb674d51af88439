//! A private certificate authority (CA) and a server certificate signed by it.
//!
//! The CA is made once, so that whoever trusts it goes on trusting. The server's certificate is made anew when it
//! comes close to its end, when the names change, or when CA or key are others; its key stays.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use sha2::{Digest as _, Sha256};

use super::files::{FileError, write_atomically};
use crate::clock::Timestamp;

const DAY_SECONDS: i64 = 24 * 60 * 60;
/// How long a CA is valid.
const CA_LIFETIME_DAYS: i64 = 20 * 365;
/// How long a server certificate is valid. Some clients refuse more than 398 days.
const SERVER_LIFETIME_DAYS: i64 = 397;
/// How long before its end a server certificate is replaced.
const RENEW_BEFORE_DAYS: i64 = 30;
/// How far back certificates begin, for clients whose clock is slow.
const BACKDATE_DAYS: i64 = 1;
/// Mode of the folder: clients read the CA's certificate in it.
const FOLDER_MODE: u32 = 0o755;
/// Names that every server certificate holds: those of the machine itself.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where the files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// The CA's certificate, PEM, for clients to trust. Mode 0644.
    pub ca_cert: PathBuf,
    /// The server's certificate, PEM. Mode 0644.
    pub server_cert: PathBuf,
    /// The server's key, PEM. Mode 0600.
    pub server_key: PathBuf,
}

impl Certificates {
    /// Where [`ensure_in`] puts them: the CA in one folder, what the mail servers read in another.
    pub fn in_folders(ca: &Path, server: &Path) -> Self {
        Self {
            ca_cert: ca.join("ca.pem"),
            server_cert: server.join("server.pem"),
            server_key: server.join("server.key"),
        }
    }
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be written.
    #[error("keep the certificates")]
    Write(#[from] FileError),
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be, or a name cannot be in a certificate.
    #[error("{doing}")]
    Certificate {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
}

impl TlsError {
    fn doing(doing: impl Into<String>) -> impl FnOnce(rcgen::Error) -> Self {
        move |source| Self::Certificate {
            doing: doing.into(),
            source,
        }
    }
}

/// The same as [`ensure_in`], with everything in one folder.
pub fn ensure(folder: &Path, names: &[&str], now: Timestamp) -> Result<Certificates, TlsError> {
    ensure_in(folder, folder, names, now)
}

/// Creates what is missing or out of date, the CA in one folder and the server's certificate in another, and returns where
/// the files are. The folders are created, in parents that exist. The certificate is for these names and for the machine's
/// own; its common name is the first.
pub fn ensure_in(ca: &Path, server: &Path, names: &[&str], now: Timestamp) -> Result<Certificates, TlsError> {
    make_folder(ca)?;
    make_folder(server)?;
    let files = Certificates::in_folders(ca, server);
    let ca_key_file = ca.join("ca.key");
    let names = all_names(names);

    if read(&ca_key_file)?.is_none() && read(&files.ca_cert)?.is_some() {
        tracing::warn!(
            file = %ca_key_file.display(),
            "the key of the private CA is lost: another CA is made, and whoever trusted the old one must be told"
        );
        fs::remove_file(&files.ca_cert).map_err(FileError::at(&files.ca_cert))?;
    }
    // The key is written first: a certificate without a key is of no use, a key without certificate gets one.
    let ca_key = ensure_key(&ca_key_file)?;
    let ca_pem = if let Some(pem) = read(&files.ca_cert)? {
        pem
    } else {
        let pem = new_ca(&ca_key, &names[0], now)?;
        write_atomically(&files.ca_cert, pem.as_bytes(), 0o644)?;
        pem
    };
    let server_key = ensure_key(&files.server_key)?;

    let made_of = fingerprint(&[&ca_pem, &server_key.serialize_pem(), &names.join(" ")]);
    if !read(&files.server_cert)?
        .is_some_and(|pem| Preface::of(&pem).is_some_and(|it| it.still_good(&made_of, now)))
    {
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, &ca_key).map_err(TlsError::doing(format!(
            "use {} to sign",
            files.ca_cert.display()
        )))?;
        let until = now.plus_seconds(SERVER_LIFETIME_DAYS * DAY_SECONDS);
        let pem = new_server(&server_key, &issuer, &names, now, until)?;
        let preface = Preface { made_of, until };
        write_atomically(
            &files.server_cert,
            format!("{}{pem}", preface.text()).as_bytes(),
            0o644,
        )?;
        let (names, file) = (names.join(" "), files.server_cert.display());
        tracing::info!(names, %file, "the private CA signed a certificate");
    }
    Ok(files)
}

/// Each name once, the machine's own last.
fn all_names(names: &[&str]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names
        .iter()
        .chain(&LOCAL_NAMES)
        .filter(|name| seen.insert(**name))
        .map(|&name| name.to_owned())
        .collect()
}

/// Makes the folder, if it is missing, with the mode that it must have whatever the process's umask is.
fn make_folder(folder: &Path) -> Result<(), FileError> {
    let make = || {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if fs::metadata(folder)?.permissions().mode() & 0o7777 == FOLDER_MODE {
            return Ok(());
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
    };
    make().map_err(FileError::at(folder))
}

/// What a server certificate is made of, written above it, where readers of PEM skip it (RFC 7468, 2): it says whether
/// the certificate is still the right one without parsing it.
struct Preface {
    /// Fingerprint of CA, key and names.
    made_of: String,
    until: Timestamp,
}

impl Preface {
    fn of(pem: &str) -> Option<Self> {
        let value = |key: &str| pem.lines().find_map(|line| line.strip_prefix(key));
        let until = value("Until-Micros: ")?.parse().ok()?;
        let made_of = value("Made-Of: ")?.to_owned();
        Some(Self {
            made_of,
            until: Timestamp::from_micros(until),
        })
    }

    fn text(&self) -> String {
        format!(
            "Made-Of: {}\nUntil-Micros: {}\n",
            self.made_of,
            self.until.as_micros()
        )
    }

    fn still_good(&self, made_of: &str, now: Timestamp) -> bool {
        self.made_of == made_of && now.plus_seconds(RENEW_BEFORE_DAYS * DAY_SECONDS) < self.until
    }
}

fn fingerprint(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    BASE64_STANDARD.encode(digest.finalize())
}

fn ensure_key(file: &Path) -> Result<KeyPair, TlsError> {
    if let Some(pem) = read(file)? {
        return KeyPair::from_pem(&pem).map_err(TlsError::doing(format!("use the key {}", file.display())));
    }
    let key = KeyPair::generate().map_err(TlsError::doing("make a key"))?;
    write_atomically(file, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn new_ca(key: &KeyPair, hostname: &str, now: Timestamp) -> Result<String, TlsError> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name = common_name(&format!("inboxd private CA of {hostname}"));
    let until = now.plus_seconds(CA_LIFETIME_DAYS * DAY_SECONDS);
    set_validity(&mut ca, now.plus_seconds(-BACKDATE_DAYS * DAY_SECONDS), until);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = ca
        .self_signed(key)
        .map_err(TlsError::doing("make the certificate of the CA"))?;
    Ok(certificate.pem())
}

fn new_server(
    key: &KeyPair,
    issuer: &Issuer<'_, &KeyPair>,
    names: &[String],
    now: Timestamp,
    until: Timestamp,
) -> Result<String, TlsError> {
    let doing = || TlsError::doing(format!("make the certificate of {}", names.join(", ")));
    let mut server = CertificateParams::new(names).map_err(doing())?;
    server.distinguished_name = common_name(&names[0]);
    set_validity(&mut server, now.plus_seconds(-BACKDATE_DAYS * DAY_SECONDS), until);
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python's `ssl` refuses a certificate that does not name the key of its issuer.
    server.use_authority_key_identifier_extension = true;
    let certificate = server.signed_by(key, issuer).map_err(doing())?;
    Ok(certificate.pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // RFC 5280, A.1: ub-common-name is 64.
    subject.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    subject
}

fn set_validity(certificate: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let since_epoch = |at: Timestamp| Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(0));
    certificate.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(from);
    certificate.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(until);
}

fn read(file: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read {
            path: file.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};

    use super::*;

    /// 2026-11-23.
    const NOW: Timestamp = Timestamp::from_micros(1_795_436_412_000_000);

    fn verify(files: &Certificates, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&files.ca_cert).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let leaf = CertificateDer::from_pem_file(&files.server_cert).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_micros(at.as_micros().try_into().unwrap()));
        rustls::client::danger::ServerCertVerifier::verify_server_cert(&*verifier, &leaf, &[], &name, &[], at)
            .map(|_| ())
    }

    #[test]
    fn the_certificate_is_good_for_all_its_names() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("tls");
        let asked = [
            "imap.example.com",
            "localhost",
            "imap.example.com",
            "mx.example.com",
        ];
        let files = ensure(&folder, &asked, NOW).unwrap();
        for name in [
            "imap.example.com",
            "mx.example.com",
            "localhost",
            "127.0.0.1",
            "::1",
        ] {
            verify(&files, name, NOW).unwrap();
        }
        assert_eq!(all_names(&asked).len(), 5);
        assert!(verify(&files, "example.com", NOW).is_err());
        assert!(verify(&files, "localhost", NOW.plus_seconds(400 * DAY_SECONDS)).is_err());
        for key in ["ca.key", "server.key"] {
            assert_eq!(mode_of(&folder.join(key)), 0o600, "{key}");
        }
        assert_eq!(mode_of(&folder), 0o755);
        assert_eq!(mode_of(&files.ca_cert), 0o644);
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_key_of_the_ca_is_not_where_the_servers_read() {
        let parent = tempfile::tempdir().unwrap();
        let (ca, server) = (parent.path().join("ca"), parent.path().join("server"));
        // As after an upgrade from one folder to two: the CA stays, and whoever trusts it goes on trusting.
        let before = ensure(&ca, &["mail.example.com"], NOW).unwrap();
        let trusted = fs::read(&before.ca_cert).unwrap();
        let files = ensure_in(&ca, &server, &["mail.example.com"], NOW).unwrap();
        verify(&files, "mail.example.com", NOW).unwrap();
        assert_eq!(fs::read(&files.ca_cert).unwrap(), trusted);
        let mut names: Vec<_> = fs::read_dir(&server)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["server.key", "server.pem"]);
    }

    #[test]
    fn a_ca_without_its_key_is_replaced_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = ensure(folder.path(), &["localhost"], NOW).unwrap();
        let before = fs::read(&files.ca_cert).unwrap();
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        ensure(folder.path(), &["localhost"], NOW).unwrap();
        assert_ne!(fs::read(&files.ca_cert).unwrap(), before);
        verify(&files, "localhost", NOW).unwrap();
    }

    #[test]
    fn nothing_changes_while_everything_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let files = ensure(folder.path(), &["localhost"], NOW).unwrap();
        let before = fs::read(&files.server_cert).unwrap();
        ensure(folder.path(), &["localhost"], NOW.plus_seconds(DAY_SECONDS)).unwrap();
        assert_eq!(fs::read(&files.server_cert).unwrap(), before);
    }

    #[test]
    fn a_certificate_close_to_its_end_is_replaced_and_the_ca_stays() {
        let folder = tempfile::tempdir().unwrap();
        let files = ensure(folder.path(), &["localhost"], NOW).unwrap();
        let ca = fs::read(&files.ca_cert).unwrap();
        let later = NOW.plus_seconds(368 * DAY_SECONDS);
        ensure(folder.path(), &["localhost"], later).unwrap();
        verify(&files, "localhost", later.plus_seconds(100 * DAY_SECONDS)).unwrap();
        assert_eq!(fs::read(&files.ca_cert).unwrap(), ca);
    }

    #[test]
    fn another_name_a_lost_key_and_a_lost_ca_give_a_new_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let files = ensure(folder.path(), &["one.example.com"], NOW).unwrap();
        ensure(folder.path(), &["two.example.com"], NOW).unwrap();
        verify(&files, "two.example.com", NOW).unwrap();
        assert!(verify(&files, "one.example.com", NOW).is_err());
        let leaf = || fs::read(&files.server_cert).unwrap();
        let before = leaf();
        fs::remove_file(&files.server_key).unwrap();
        ensure(folder.path(), &["two.example.com"], NOW).unwrap();
        assert_ne!(leaf(), before);
        fs::remove_file(&files.ca_cert).unwrap();
        ensure(folder.path(), &["two.example.com"], NOW).unwrap();
        verify(&files, "two.example.com", NOW).unwrap();
    }
}
