//! The mail servers' certificate, where inboxd's own CA makes it.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::support::{
    Folder,
    daemon::{Daemon, Database, INBOXD},
};

/// Whether a client that trusts the daemon's CA believes that the certificate is for this name.
fn is_for(daemon: &Daemon, name: &'static str) -> bool {
    let folder = daemon.folder.join("private-ca");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap())
        .unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let leaf = CertificateDer::from_pem_file(folder.join("server.pem")).unwrap();
    let name = ServerName::try_from(name).unwrap();
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider.into())
        .build()
        .unwrap()
        .verify_server_cert(&leaf, &[], &name, &[], UnixTime::now())
        .is_ok()
}

#[tokio::test]
async fn the_first_start_makes_a_certificate_for_every_host_and_later_ones_keep_it() {
    let hosts =
        "imap.host = \"imap.inboxd.test\"\nsmtp.host = \"smtp.inboxd.test\"\nmx.host = \"mx.inboxd.test\"\n";
    let mut daemon = Daemon::with_config(Database::Sqlite, Folder::new(), hosts).await;
    let folder = daemon.folder.join("private-ca");
    for name in [
        "imap.inboxd.test",
        "smtp.inboxd.test",
        "mx.inboxd.test",
        "localhost",
    ] {
        assert!(is_for(&daemon, name), "{name}");
    }
    assert!(!is_for(&daemon, "inboxd.test"));
    let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o755);
    for (name, wanted) in [
        ("ca.pem", 0o644),
        ("ca.key", 0o600),
        ("server.pem", 0o644),
        ("server.key", 0o600),
    ] {
        assert_eq!(mode(name), wanted, "{name}");
    }
    let rendered = Command::new(INBOXD)
        .args(["stack", "render", "postfix", "--config"])
        .arg(&daemon.config)
        .output()
        .unwrap();
    let rendered = String::from_utf8(rendered.stdout).unwrap();
    for file in ["server.pem", "server.key"] {
        assert!(
            rendered.contains(&*folder.join(file).to_string_lossy()),
            "{rendered}"
        );
    }

    let contents = || ["ca.pem", "server.pem"].map(|name| fs::read(folder.join(name)).unwrap());
    let [ca, certificate] = contents();
    assert!(daemon.stop().await.success());
    daemon.up().await;
    assert_eq!(contents(), [ca.clone(), certificate.clone()]);

    // Another name needs another certificate, and no other CA.
    assert!(daemon.stop().await.success());
    let text = fs::read_to_string(&daemon.config).unwrap();
    fs::write(&daemon.config, text.replace("mx.inboxd.test", "in.inboxd.test")).unwrap();
    daemon.up().await;
    assert_eq!(contents()[0], ca);
    assert!(is_for(&daemon, "in.inboxd.test") && !is_for(&daemon, "mx.inboxd.test"));
}

#[tokio::test]
async fn with_a_certificate_of_the_operators_no_ca_is_made() {
    let own = "tls.cert_file = \"/etc/ssl/own.pem\"\ntls.key_file = \"/etc/ssl/own.key\"\n";
    let daemon = Daemon::with_config(Database::Sqlite, Folder::new(), own).await;
    assert!(!daemon.folder.join("private-ca").exists());
}
