//! `inboxd verify` where something is down; where all is well, see `tests/suite`.

use std::{fs, time::Duration};

use inboxd::{
    mail::{
        smtp,
        verify::{Cause, Limits, Step},
    },
    stack::private::Kind,
};

use crate::{
    suite::verify::{endpoint, probe, target, texts},
    support::{
        Folder,
        daemon::{Daemon, Database},
        free_ports,
        mail::HOST,
        world::{HOSTNAME, World},
    },
};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_daemon_need_not_run_and_a_password_can_be_given() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        world.daemon.stop().await;
        let file = world.daemon.folder.join("password");
        fs::write(&file, format!("{}\n", ada.password)).unwrap();
        let arguments = [&*ada.email, "--password-file", file.to_str().unwrap()];
        let output = world.verify(&arguments).await;
        assert!(output.status.success(), "{output:?}");
        fs::write(&file, "wrong\n").unwrap();
        let output = world.verify(&arguments).await;
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
async fn without_a_server_the_step_the_server_and_what_to_look_at_are_named() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
        let submission = format!("{HOST}:{}", world.mail.servers.ports.submission);

        world.take_down(Kind::Dovecot).await;
        let output = world.verify(&[&ada.email]).await;
        let (told, complaints) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{told}{complaints}");
        assert!(told.contains("FAIL  ") && told.contains(&submission), "{told}");
        assert!(complaints.contains("smtpd_sasl_path"), "{told}{complaints}");
        world.bring_up(Kind::Dovecot).await;

        world.take_down(Kind::Postfix).await;
        let output = world.verify(&[&ada.email]).await;
        let (told, complaints) = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{told}{complaints}");
        assert!(
            told.contains("FAIL  connect submission") && told.contains(&submission),
            "{told}"
        );
        assert!(complaints.contains("postfix status"), "{complaints}");
        world.bring_up(Kind::Postfix).await;

        assert!(world.verify(&[&ada.email]).await.status.success());
    })
    .await;
}

#[tokio::test]
async fn a_message_that_does_not_arrive_points_at_the_queue() {
    World::run(async |world| {
        let ada = world.inbox("ada").await;
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
        let ports = world.mail.servers.ports;
        // No DNS ever has the name (RFC 6761, 6.2): only the certificate does.
        let keys = |host: &str| {
            let mut keys = vec![format!("tls.ca_file={}", world.mail.servers.ca_file.display())];
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
            texts(&world.verify(&arguments).await)
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
            let beside = {
                let config = lines.collect::<String>() + "signer.socket = \"\"\n";
                Daemon::with_config(Database::Sqlite, Folder::new(), &config).await
            };
            let (_, ready) = beside.readiness("").await;
            assert_eq!(ready["ready"], is_ready, "{ready:?}");
            let via = format!("{stranger}:993 via {HOST}:{}", ports.imaps);
            assert_eq!(ready["parts"]["postfix"], "ok", "{ready:?}");
            assert!(
                is_ready || ready["parts"]["dovecot"].as_str().unwrap().contains(&via),
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
