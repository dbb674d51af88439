//! An operator's own certificate, replaced while everybody is connected.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use super::Sessions;
use crate::support::{
    load::{CLIENTS, Kind, Load},
    mail::{HOST, Idling, Mail},
    wait::until,
    world::World,
};

/// Files in the folder, in the order of certificate, key and authority.
const FILES: [&str; 3] = ["fullchain.pem", "privkey.pem", "ca.pem"];
/// Dovecot ends the sessions of its former configuration, where it does, within this time.
const A_WHILE: Duration = Duration::from_secs(15);
/// New connections that must all be given the new certificate.
const CONNECTIONS: usize = 10;

/// The operator's folder, and the authority that its certificates come from.
struct Folder {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    host: String,
}

/// A certificate and its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Folder {
    fn new(host: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // The daemon, which only tells clients of the authority, is not root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let made = Self {
            dir,
            authority,
            host: host.to_owned(),
        };
        made.replace(FILES[2], &made.authority.pem());
        made
    }

    fn issue(&self) -> Pair {
        let names = [self.host.clone(), HOST.to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        Pair { certificate, key }
    }

    fn replace_certificate(&self, pair: &Pair) {
        self.replace(FILES[0], &pair.certificate.pem());
    }

    fn replace_key(&self, pair: &Pair) {
        self.replace(FILES[1], &pair.key.serialize_pem());
    }

    /// Whole, as tools that renew certificates do it.
    fn replace(&self, name: &str, text: &str) {
        let new = self.dir.path().join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(&new, self.dir.path().join(name)).unwrap();
    }

    fn variables(&self) -> [(&'static str, String); 4] {
        let [certificate, key, authority] = FILES.map(str::to_owned);
        [
            ("CERT_DIR", self.dir.path().display().to_string()),
            ("CERT_FILE", certificate),
            ("CERT_KEY", key),
            ("CERT_CA", authority),
        ]
    }
}

/// What new connections to IMAP and to submission are given.
async fn certificates(mail: &Mail) -> [CertificateDer<'static>; 2] {
    let imap = TcpStream::connect((HOST, mail.servers.ports.imaps))
        .await
        .unwrap();
    let mut submission = mail.submission_in_clear().await;
    submission.expect("EHLO client.example.net", "250").await;
    submission.expect("STARTTLS", "220").await;
    let submission = submission.stream.into_inner();
    [
        certificate_of(&mail.tls(imap).await.unwrap()),
        certificate_of(&mail.tls(submission).await.unwrap()),
    ]
}

fn certificate_of(connection: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let (_, session) = connection.get_ref();
    session.peer_certificates().unwrap()[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_used_for_new_connections_and_ends_none() {
    World::run_alone(async |private| {
        let own = private.inbox("own").await;
        let folder = Folder::new(&private.mail.servers.host);
        let (old, new) = (folder.issue(), folder.issue());
        let both = |pair: &Pair| [pair.certificate.der().clone(), pair.certificate.der().clone()];
        folder.replace_certificate(&old);
        folder.replace_key(&old);
        let compose = private.compose.with(folder.variables());
        compose.up().await;
        // Its clients trust the operator's authority and no other.
        let world = World::started(compose).await;
        let mail = &world.mail;
        mail.assert_works(&own, "with the operator's certificate").await;
        assert_eq!(certificates(mail).await, both(&old));
        let verified = world.verify(&[&own.email]).await;
        assert!(verified.status.success(), "{verified:?}");

        let ada = world.inbox("ada").await;
        let sessions = Sessions::open(mail, &ada).await;
        let idling = Idling::begin(mail.log_in(&own).await).await;
        let load = Load::begin(&world).await;
        // A certificate whose key has not come yet is not used.
        folder.replace_certificate(&new);
        for service in ["dovecot", "postfix"] {
            until("the half of a pair is noticed", || async {
                let log = world.compose.run(&["logs", "--no-color", service]).await;
                log.contains("goes on with the certificate that it has")
                    .then_some(())
            })
            .await;
        }
        assert_eq!(certificates(mail).await, both(&old));
        folder.replace_key(&new);
        until("new connections have the new certificate", || async {
            (certificates(mail).await == both(&new)).then_some(())
        })
        .await;
        for _ in 0..CONNECTIONS {
            assert_eq!(certificates(mail).await, both(&new));
        }
        sessions.assert_go_on("under another certificate").await;
        load.a_few_more(&Kind::ALL).await;
        let outcome = load.end().await;
        outcome.assert_none_failed(&[Kind::Submission, Kind::Delivery]);
        // Dovecot drops connections that are not logged in yet when it reads its configuration: the one that each
        // client has, and perhaps the next, if the old process still took it.
        let (_, dropped) = outcome.count(Kind::Login);
        assert!(dropped <= 2 * CLIENTS, "{dropped} logins failed");
        let arrivals = outcome.arrivals(&world).await;
        assert_eq!(arrivals.repeated, 0, "of {arrivals:?}");
        println!("{arrivals:?}; {outcome}");

        assert!(
            timeout(A_WHILE, idling.assert_ended()).await.is_err(),
            "a session was ended behind the change"
        );

        // Back to the private authority, which is the one of before.
        private.compose.up().await;
        private
            .mail
            .assert_works(&own, "with the private certificate")
            .await;
    })
    .await;
}
