//! `inboxd verify`: what an operator asks when somebody says that mail does not work.

use std::{error::Error as _, fs, path::PathBuf, process::Output, time::Duration};

use inboxd::{
    mail::{
        imap, smtp, tls,
        verify::{Cause, Credentials, Event, Failure, Limits, Step, Target, Token, verify},
        wire::Endpoint,
    },
    stack::private::Kind,
};
use tokio::process::Command;

use crate::support::{
    Folder,
    daemon::{Daemon, Database, INBOXD},
    free_ports,
    world::{HOSTNAME, Inbox, World, create},
};

const HOST: &str = "127.0.0.1";
const LIMIT: Duration = Duration::from_secs(10);

/// `inboxd verify`, as an operator runs it.
async fn run(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(INBOXD);
    command
        .arg("verify")
        .args(arguments)
        .arg("--config")
        .arg(&world.daemon.config);
    command.kill_on_drop(true).output().await.unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn target(world: &World) -> Target {
    Target {
        submission: endpoint(world.mail.ports.submission),
        imap: endpoint(world.mail.ports.imaps),
        ca_file: Some(world.layout.tls_dir().join("ca.pem")),
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(HOST, port)
}

/// The probe itself, with its own patience; which steps passed, and what stopped it.
async fn probe(
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
        let output = run(world, &[&ada.email]).await;
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
        assert_eq!(world.messages(&ada), Vec::<PathBuf>::new());

        // The daemon need not run, and a password can be given.
        world.daemon.stop().await;
        let file = world.daemon.folder.join("password");
        fs::write(&file, format!("{}\n", ada.password)).unwrap();
        let output = run(world, &[&ada.email, "--password-file", file.to_str().unwrap()]).await;
        assert!(output.status.success(), "{output:?}");
        fs::write(&file, "wrong\n").unwrap();
        let output = run(world, &[&ada.email, "--password-file", file.to_str().unwrap()]).await;
        let (told, complaints) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{told}{complaints}");
        assert!(
            told.contains("FAIL  AUTH") && complaints.contains("535 5.7.8"),
            "{told}{complaints}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_no_inbox_is_told_from_a_broken_one() {
    World::run(async |world| {
        for (email, told) in [
            (
                "nobody@inboxd.test",
                "there is no inbox whose canonical address is nobody@inboxd.test",
            ),
            ("nobody", "nobody: "),
            ("a b@inboxd.test", "a b@inboxd.test: "),
        ] {
            let output = run(world, &[email]).await;
            let (steps, complaints) = texts(&output);
            assert_eq!(output.status.code(), Some(1), "{complaints}");
            assert!(complaints.contains(told), "{complaints}");
            assert_eq!(steps, "");
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_server_the_step_the_server_and_what_to_look_at_are_named() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let submission = format!("{HOST}:{}", world.mail.ports.submission);

        world.take_down(Kind::Dovecot).await;
        let output = run(world, &[&ada.email]).await;
        let (told, complaints) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{told}{complaints}");
        assert!(told.contains("FAIL  ") && told.contains(&submission), "{told}");
        assert!(complaints.contains("smtpd_sasl_path"), "{told}{complaints}");
        world.bring_up(Kind::Dovecot).await;

        world.take_down(Kind::Postfix).await;
        let output = run(world, &[&ada.email]).await;
        let (told, complaints) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{told}{complaints}");
        assert!(
            told.contains("FAIL  connect submission") && told.contains(&submission),
            "{told}"
        );
        assert!(complaints.contains("postfix status"), "{complaints}");
        world.bring_up(Kind::Postfix).await;

        assert!(run(world, &[&ada.email]).await.status.success());
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
        let ca_file = world.daemon.folder.join("stranger.pem");
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

#[tokio::test]
async fn a_message_that_does_not_arrive_points_at_the_queue() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let ada = create(&tenant, "ada").await;
        // Postfix has nowhere to deliver to, and nothing else is wrong.
        let socket = world.layout.dir().join("queue/private/dovecot-lmtp");
        fs::rename(&socket, socket.with_extension("gone")).unwrap();
        let limits = Limits {
            visible: Duration::from_millis(1500),
            ..Limits::default()
        };
        let (passed, outcome) = probe(&target(world), &ada, &ada.password, &limits).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.step, Step::Visible);
        assert_eq!(passed, Step::ALL[..6]);
        assert!(
            matches!(&failure.cause, Cause::NotDelivered { accepted, .. } if accepted.contains("queued as"))
        );
        assert!(failure.hint().contains("postqueue -p"));
    })
    .await;
}

#[tokio::test]
async fn a_host_that_is_reached_elsewhere_is_still_the_name_in_the_certificate() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let ports = world.mail.ports;
        // No DNS ever has the name (RFC 6761, 6.2): only the certificate does.
        let keys = |host: &str| {
            let mut keys = vec![format!(
                "tls.ca_file={}",
                world.layout.tls_dir().join("ca.pem").display()
            )];
            for (section, port) in [
                ("imap", ports.imaps),
                ("smtp", ports.submission),
                ("mx", ports.inbound),
            ] {
                keys.push(format!("{section}.host={host}"));
                keys.push(format!("{section}.connect={HOST}:{port}"));
            }
            keys
        };
        let verify = async |host: &str| {
            let flags: Vec<String> = keys(host)
                .into_iter()
                .flat_map(|key| ["--set".to_owned(), key])
                .collect();
            let mut arguments = vec![ada.email.as_str()];
            arguments.extend(flags.iter().map(String::as_str));
            texts(&run(world, &arguments).await)
        };
        let (told, complaints) = verify(HOSTNAME).await;
        assert!(told.contains("works"), "{told}{complaints}");
        let both = format!("{HOSTNAME}:{} via {HOST}:{}", ports.submission, ports.submission);
        assert!(told.contains(&both), "{told}");

        let stranger = "other.inboxd.test";
        let (told, complaints) = verify(stranger).await;
        assert!(
            told.contains(&format!("FAIL  STARTTLS             {stranger}")),
            "{told}"
        );
        assert!(complaints.contains("for another name"), "{complaints}");

        // The same for /readyz, of a daemon that uses these servers.
        for (host, is_ready) in [(HOSTNAME, true), (stranger, false)] {
            let lines = keys(host).into_iter().filter_map(|key| {
                key.split_once('=')
                    .map(|(name, value)| format!("{name} = {value:?}\n"))
            });
            let beside =
                Daemon::with_config(Database::Sqlite, Folder::new(), &lines.collect::<String>()).await;
            let ready = beside.api("").get("/readyz").await;
            assert_eq!(ready.body["ready"], is_ready, "{ready:?}");
            let via = format!("{stranger}:993 via {HOST}:{}", ports.imaps);
            assert_eq!(ready.body["parts"]["postfix"], "ok", "{ready:?}");
            assert!(
                is_ready || ready.body["parts"]["dovecot"].as_str().unwrap().contains(&via),
                "{ready:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_without_a_server_is_told_at_once() {
    let [port] = free_ports();
    let banner = smtp::banner(&endpoint(port), LIMIT).await.unwrap_err();
    assert_eq!(banner.stage, smtp::Stage::Connect);
}
