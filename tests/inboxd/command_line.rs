//! Commands as an operator's shell and a container engine run them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use crate::support::{
    daemon::{Daemon, Database, INBOXD},
    end_of,
};

fn config_check(environment: &[(&str, &str)]) -> Output {
    Command::new(INBOXD)
        .args(["config", "check", "--set", "service.default_domain=example.com"])
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn variables_of_kubernetes_stop_no_command_and_are_named_once() {
    let plain = config_check(&[]);
    assert!(plain.status.success());
    assert_eq!(text(&plain.stderr), "");
    let made = [
        ("INBOXD_SERVICE_HOST", "10.0.0.1"),
        ("INBOXD_SERVICE_PORT", "8080"),
        ("INBOXD_PORT", "tcp://10.0.0.1:8080"),
        ("INBOXD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("INBOXD_BOOTSTRAP", "/srv/bootstrap.json"),
    ];
    let output = config_check(&made);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), text(&plain.stdout));
    assert_eq!(
        text(&output.stderr),
        "inboxd: ignored environment variables, which are no keys (INBOXD_<SECTION>__<KEY>): INBOXD_BOOTSTRAP, \
         INBOXD_PORT, INBOXD_PORT_8080_TCP_ADDR, INBOXD_SERVICE_HOST, INBOXD_SERVICE_PORT\n"
    );
    let mistyped = config_check(&[("INBOXD_SERVICE__HOST", "x")]);
    assert_eq!(mistyped.status.code(), Some(78));
    assert!(
        text(&mistyped.stderr).contains("environment variable INBOXD_SERVICE__HOST: unknown field `host`"),
        "{}",
        text(&mistyped.stderr)
    );
}

/// Runs a command whose standard output, and standard error if asked, is a pipe that nobody reads.
fn into_a_closed_pipe(command: &mut Command, both: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let stderr = if both {
        Stdio::from(writer.try_clone().unwrap())
    } else {
        Stdio::piped()
    };
    command.stdout(writer).stderr(stderr).output().unwrap()
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure_of_any_command() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert!(daemon.stop().await.success());
    for arguments in [
        ["config", "check"].as_slice(),
        &["keys", "list"],
        &["keys", "create", "--super-admin"],
        &["maps", "rebuild"],
        &["stack", "render", "dovecot"],
        &["domain", "zone"],
    ] {
        let mut command = Command::new(INBOXD);
        command.args(arguments).arg("--config").arg(&daemon.config);
        let whole = command.stdout(Stdio::piped()).output().unwrap();
        assert!(
            !whole.stdout.is_empty(),
            "{arguments:?} prints nothing: {}",
            text(&whole.stderr)
        );
        let output = into_a_closed_pipe(&mut command, false);
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (whole.status.code(), text(&whole.stderr)),
            "{arguments:?}"
        );
    }
    for arguments in [["openapi"].as_slice(), &["--help"], &["--version"]] {
        let output = into_a_closed_pipe(Command::new(INBOXD).args(arguments), false);
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
    // A failure keeps its exit status where its reason can be written nowhere.
    let mut wrong = Command::new(INBOXD);
    wrong.args(["config", "check", "--set", "service.default_domain=localhost"]);
    assert_eq!(into_a_closed_pipe(&mut wrong, true).status.code(), Some(78));
}

#[tokio::test]
async fn the_daemon_outlives_the_reader_of_its_log() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    assert!(daemon.stop().await.success());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = Command::new(INBOXD)
        .args(["serve", "--config"])
        .arg(&daemon.config)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reader).lines();
    let is_ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("ready"));
    drop(lines);
    assert!(is_ready);
    let stranger = daemon.api("");
    for _ in 0..3 {
        // Each writes a log line, and each other call is answered although it cannot.
        assert_eq!(stranger.get("/v1/me").await.status, 401);
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {}", end_of(&daemon.log()));
}
