//! The probe behind `inboxd verify`: what an operator asks when somebody says that mail does not work.

use std::{error::Error as _, fs, process::Output, time::Duration};

use inboxd::mail::{
    imap, tls,
    verify::{Credentials, Event, Failure, Limits, Step, Target, Token, verify},
    wire::Endpoint,
};

use crate::support::{
    inbox::{Inbox, StoredMessage},
    mail::HOST,
    world::World,
};

const LIMIT: Duration = Duration::from_secs(10);

/// What a command said: standard output and standard error.
pub fn texts(output: &Output) -> (String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// Where the probe goes.
pub fn target(world: &World) -> Target {
    Target {
        submission: endpoint(world.mail.servers.ports.submission),
        imap: endpoint(world.mail.servers.ports.imaps),
        ca_file: Some(world.mail.servers.ca_file.clone()),
    }
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(HOST, port)
}

/// The probe itself, with its own patience; which steps passed, and what stopped it.
pub async fn probe(
    target: &Target,
    inbox: &Inbox,
    password: &str,
    limits: &Limits,
) -> (Vec<Step>, Result<Duration, Failure>) {
    let credentials = Credentials {
        address: inbox.email.parse().unwrap(),
        login: inbox.email.clone(),
        password: password.into(),
    };
    let mut passed = Vec::new();
    let mut report = |event: Event<'_>| {
        if let Event::Passed { step, .. } = event {
            passed.push(step);
        }
    };
    let token = Token::from_bytes([7; 16]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let outcome = verify(target, &credentials, token, now, limits, &mut report).await;
    (passed, outcome)
}

#[tokio::test]
async fn an_inbox_that_works_passes_every_step_and_keeps_nothing() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let output = world.verify(&[&ada.email]).await;
        let (told, complaints) = texts(&output);
        assert!(output.status.success(), "{told}{complaints}");
        for step in Step::ALL {
            assert!(
                told.lines()
                    .any(|line| line.starts_with(&format!("ok    {step}"))),
                "no {step} in {told}"
            );
        }
        assert!(told.contains(&format!("{} works", ada.email)), "{told}");
        assert_eq!(world.messages(&ada).await, Vec::<StoredMessage>::new());
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_no_inbox_is_told_from_a_broken_one() {
    World::run(async |world| {
        let nobody = format!("{}@{}", world.name("nobody"), world.domain());
        let unknown = format!("there is no inbox whose canonical address is {nobody}");
        for (email, told) in [
            (&*nobody, &*unknown),
            ("nobody", "nobody: "),
            ("a b@inboxd.test", "a b@inboxd.test: "),
        ] {
            let output = world.verify(&[email]).await;
            let (steps, complaints) = texts(&output);
            assert_eq!(output.status.code(), Some(1), "{complaints}");
            assert!(complaints.contains(told), "{complaints}");
            assert_eq!(steps, "");
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_fails_at_auth_and_is_not_told() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let target = target(world);
        let (passed, outcome) = probe(&target, &ada, "mistaken", &Limits::default()).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.step, Step::Auth);
        assert_eq!(failure.server, target.submission);
        assert_eq!(passed, [Step::ConnectSubmission, Step::StartTls]);
        assert!(
            failure.cause.source().unwrap().to_string().contains("535 5.7.8"),
            "{failure:?}"
        );
        assert!(failure.hint().contains("start inboxd again"));
        assert!(!format!("{failure:?}").contains("mistaken"));

        // The same at the IMAP server, which the probe did not get to.
        let config = tls::client_config(target.ca_file.as_deref()).await.unwrap();
        let connection = imap::Connection::open(&target.imap, config, LIMIT).await.unwrap();
        let error = connection
            .login(&ada.email, &"mistaken".into(), LIMIT)
            .await
            .unwrap_err();
        assert_eq!(error.stage, imap::Stage::Login);
        assert!(
            error.fault.to_string().contains("Authentication failed."),
            "{error:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_unknown_ca_fails_at_starttls_and_points_at_the_ca_file() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let stranger =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("stranger.pem");
        fs::write(&ca_file, stranger.pem()).unwrap();
        let target = Target {
            ca_file: Some(ca_file.clone()),
            ..target(world)
        };
        let (passed, outcome) = probe(&target, &ada, &ada.password, &Limits::default()).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.step, Step::StartTls);
        assert_eq!(passed, [Step::ConnectSubmission]);
        assert!(failure.hint().contains("tls.ca_file"), "{failure:?}");

        let config = tls::client_config(Some(&ca_file)).await.unwrap();
        let error = imap::greeting(&target.imap, config, LIMIT).await.unwrap_err();
        assert!(
            error.fault.to_string().contains("certificate was refused"),
            "{error:?}"
        );
    })
    .await;
}
