//! `inboxd dev`: everything in one folder, as a newcomer runs it.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::{Folder, daemon::INBOXD, end_of, free_ports_in_a_row, processes_of, wait::until};

/// Longest run of any command here.
const COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// Ports that `inboxd dev` uses, from its base on.
const PORTS: u16 = 6;

/// Where one `inboxd dev` lives. What still runs there at the end is stopped.
struct Place {
    folder: Folder,
    /// As `INBOXD_DEV_DIR` says it.
    dir: PathBuf,
    base: u16,
}

impl Place {
    fn new() -> Self {
        Self::below("dev")
    }

    fn below(path: &str) -> Self {
        let folder = Folder::new();
        Self {
            dir: folder.join(path),
            folder,
            base: free_ports_in_a_row(PORTS),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(INBOXD);
        command
            .arg("dev")
            .args(arguments)
            .env("INBOXD_DEV_DIR", &self.dir)
            .env("INBOXD_DEV_PORT_BASE", self.base.to_string())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        // Not to pipes: what goes on in the background would hold them open.
        let files = ["out", "err"].map(|name| self.folder.join(name));
        let [out, err] = files.each_ref().map(|file| fs::File::create(file).unwrap());
        let mut child = self.command(arguments).stdout(out).stderr(err).spawn().unwrap();
        let status = tokio::time::timeout(COMMAND_LIMIT, child.wait())
            .await
            .unwrap_or_else(|_| panic!("inboxd dev {arguments:?} does not return"));
        let [stdout, stderr] = files.map(|file| fs::read(file).unwrap());
        Output {
            status: status.unwrap(),
            stdout,
            stderr,
        }
    }

    /// Starts it in the background; returns when it is ready.
    async fn detach(&self) -> Bootstrap {
        let output = self.run(&["--detach"]).await;
        assert!(output.status.success(), "{}", told(&output));
        self.bootstrap()
    }

    async fn stop(&self) {
        let output = self.run(&["--stop"]).await;
        assert!(output.status.success(), "{}", told(&output));
        self.assert_nothing_runs();
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap(serde_json::from_slice(&fs::read(self.dir.join("bootstrap.json")).unwrap()).unwrap())
    }

    /// Neither a process of the folder nor a listener on its ports.
    fn assert_nothing_runs(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        for port in self.base..self.base + PORTS {
            TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
        }
    }

    fn processes(&self) -> Vec<String> {
        let mut found = processes_of(self.folder.path());
        if let Ok(real) = fs::canonicalize(&self.dir) {
            found.extend(processes_of(&real));
        }
        found.sort();
        found.dedup();
        found
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log/inboxd.log")).unwrap_or_default()
    }

    /// The process that runs in the folder.
    fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.dir.join("inboxd.pid")).unwrap();
        Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of inboxd dev's log ---\n{}", end_of(&self.log()));
        }
        if !self.processes().is_empty() {
            let mut stop = std::process::Command::new(INBOXD);
            stop.args(["dev", "--stop"]).env("INBOXD_DEV_DIR", &self.dir);
            let _ = stop.output();
        }
    }
}

/// What `bootstrap.json` says.
#[derive(PartialEq, Debug)]
struct Bootstrap(Value);

impl Bootstrap {
    fn text(&self, pointer: &str) -> &str {
        self.0
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no {pointer} in {self:?}"))
    }

    fn key(&self) -> &str {
        self.text("/tenant/key")
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let answer = request.header("X-API-Key", self.key()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
    }

    async fn create(&self, username: &str) -> (u16, Value) {
        let url = format!("{}/v1/inboxes", self.text("/api"));
        let body = serde_json::json!({ "username": username });
        self.call(reqwest::Client::new().post(url).json(&body)).await
    }

    async fn inbox(&self, id: &str) -> (u16, Value) {
        let url = format!("{}/v1/inboxes/{id}", self.text("/api"));
        self.call(reqwest::Client::new().get(url)).await
    }
}

fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs the lines of a shell, as a person who has copied them from the terminal.
async fn shell(lines: &str) -> String {
    let output = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", lines])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_LIMIT, output)
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "{lines}\n{}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that the greeting shows, each with its continuation lines.
fn printed_commands(greeting: &str) -> Vec<String> {
    let joined = greeting.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("curl ") || line.starts_with("printf "))
        .map(str::to_owned)
        .collect()
}

/// Whether a text holds an API key: a prefix and the length of one.
fn holds_a_key(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| {
            ["sa_", "tk_", "wk_", "ak_"]
                .iter()
                .any(|kind| word.starts_with(kind))
                && word.len() > 40
        })
}

async fn ended(child: &mut Child) -> ExitStatus {
    tokio::time::timeout(COMMAND_LIMIT, child.wait())
        .await
        .expect("it ends")
        .unwrap()
}

#[tokio::test]
async fn what_dev_prints_works_when_it_is_pasted() {
    let place = Place::new();
    // What an earlier version left: a log for everybody.
    fs::create_dir_all(place.dir.join("log")).unwrap();
    fs::write(place.dir.join("log/inboxd.log"), "").unwrap();
    fs::set_permissions(
        place.dir.join("log/inboxd.log"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let bootstrap = place.detach().await;
    let greeting = place.log();
    assert!(holds_a_key(&bootstrap.0.to_string()), "the test finds no keys");
    let mut logs = 0;
    for entry in fs::read_dir(place.dir.join("log")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0,
            "{}",
            path.display()
        );
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!holds_a_key(&text), "{} holds a key", path.display());
        logs += 1;
    }
    assert!(logs >= 3, "the logs are elsewhere");
    let folder = fs::metadata(place.dir.join("log")).unwrap().permissions();
    assert_eq!(folder.mode() & 0o077, 0);
    let commands = printed_commands(&greeting);
    let [create, list, send, read] = &commands[..] else {
        panic!("{commands:#?}");
    };
    let created: Value = serde_json::from_str(&shell(create).await).unwrap();
    assert_eq!(created["email"], "scout@inboxd.test", "{created}");
    let password = created["imapPassword"].as_str().unwrap();
    let with_password = |command: &str| command.replace("PASSWORD", password);

    let listed = shell(&with_password(list)).await;
    for folder in ["INBOX", "Sent", "Drafts", "Junk", "Trash"] {
        assert!(listed.contains(folder), "{listed}");
    }
    shell(&with_password(send)).await;
    let text = until("the message can be read", || async {
        let output = Command::new("bash")
            .args(["-c", &with_password(read)])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success() && text.contains("It works.")).then_some(text)
    })
    .await;
    assert!(text.contains("Subject: hello"), "{text}");

    let verify = greeting
        .lines()
        .find_map(|line| line.strip_prefix("Prove that it works:  "))
        .unwrap();
    assert!(shell(verify).await.contains("scout@inboxd.test works"));
    let metrics = reqwest::get(bootstrap.text("/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("inboxes_created_total"), "{metrics}");
    place.stop().await;
}

#[tokio::test]
async fn bootstrap_json_says_what_is_documented_to_its_owner_only() {
    let place = Place::new();
    let bootstrap = place.detach().await;
    let file = place.dir.join("bootstrap.json");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    let dir = fs::canonicalize(&place.dir).unwrap();
    let (id, key, admin) = (
        bootstrap.text("/tenant/id"),
        bootstrap.key(),
        bootstrap.text("/superAdminKey"),
    );
    assert!(
        key.starts_with("tk_") && admin.starts_with("sa_"),
        "{bootstrap:?}"
    );
    let base = place.base;
    let expected = serde_json::json!({
        "api": format!("http://127.0.0.1:{base}"),
        "superAdminKey": admin,
        "tenant": {"id": id, "name": "Demo", "key": key},
        "postmaster": {"email": "postmaster@inboxd.test", "password": bootstrap.text("/postmaster/password")},
        "defaultDomain": "inboxd.test",
        "imap": {"host": "127.0.0.1", "port": base + 1, "tls": true},
        "smtp": {"host": "127.0.0.1", "port": base + 2, "starttls": true},
        "mx": {"host": "127.0.0.1", "port": base + 3},
        "metrics": format!("http://127.0.0.1:{}/metrics", base + 4),
        "caFile": dir.join("tls/ca.pem"),
    });
    assert_eq!(bootstrap.0, expected);
    let tenants = reqwest::Client::new().get(format!("{}/v1/tenants/{id}", bootstrap.text("/api")));
    assert_eq!(
        tenants.header("X-API-Key", admin).send().await.unwrap().status(),
        200
    );
    place.stop().await;
}

#[tokio::test]
async fn one_folder_has_one_dev_and_a_stop_leaves_nothing() {
    let place = Place::new();
    let bootstrap = place.detach().await;
    for arguments in [&["--detach"][..], &[]] {
        let refused = place.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(words.contains("runs in") && words.contains("already"), "{words}");
    }
    // The refusals have not disturbed it.
    assert_eq!(bootstrap.create("scout").await.0, 201);
    place.stop().await;
    let again = place.run(&["--stop"]).await;
    assert!(
        again.status.success() && told(&again).contains("nothing runs"),
        "{}",
        told(&again)
    );
}

#[tokio::test]
async fn starting_again_finds_keys_inboxes_and_mail() {
    let place = Place::new();
    let first = place.detach().await;
    let (status, inbox) = first.create("scout").await;
    assert_eq!(status, 201, "{inbox}");
    let id = inbox["id"].as_str().unwrap();
    let login = format!("scout@inboxd.test:{}", inbox["imapPassword"].as_str().unwrap());
    let ca = first.text("/caFile");
    let (imaps, submission) = (place.base + 1, place.base + 2);
    shell(&format!(
        "printf 'Subject: kept\\r\\n\\r\\nStill here.\\r\\n' | curl -sS --ssl-reqd --cacert {ca} -u {login} \
         --mail-from scout@inboxd.test --mail-rcpt scout@inboxd.test -T - smtp://127.0.0.1:{submission}"
    ))
    .await;
    let read = format!("curl -sS --cacert {ca} -u {login} 'imaps://127.0.0.1:{imaps}/INBOX;UID=1'");
    let is_there = || async {
        let output = Command::new("bash").args(["-c", &read]).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout)
            .contains("Still here.")
            .then_some(())
    };
    until("the message is there", is_there).await;

    place.stop().await;
    assert_eq!(place.detach().await, first);
    assert_eq!(first.inbox(id).await.1["imapPassword"], inbox["imapPassword"]);
    assert!(is_there().await.is_some(), "the mail is gone");

    // A crash of the daemon leaves the mail servers running; the next start takes care of them.
    kill(place.pid(), Signal::SIGKILL).unwrap();
    assert!(!place.processes().is_empty());
    assert_eq!(place.detach().await, first);
    assert_eq!(first.inbox(id).await.1["imapPassword"], inbox["imapPassword"]);
    assert!(is_there().await.is_some(), "the mail is gone");
    assert_eq!(first.create("scout").await.0, 200);

    // Or --stop does, when nobody starts it again.
    kill(place.pid(), Signal::SIGKILL).unwrap();
    place.stop().await;
}

#[tokio::test]
async fn in_the_foreground_ctrl_c_stops_everything() {
    let place = Place::new();
    let log = fs::File::create(place.folder.join("log")).unwrap();
    let mut child = place.command(&[]).stdout(log).kill_on_drop(true).spawn().unwrap();
    until("it is ready", || async {
        let printed = fs::read_to_string(place.folder.join("log")).unwrap();
        printed.contains("inboxd is ready").then_some(())
    })
    .await;
    assert_eq!(place.bootstrap().create("scout").await.0, 201);
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(ended(&mut child).await.code(), Some(0));
    place.assert_nothing_runs();
}

#[tokio::test]
async fn a_signal_during_the_start_leaves_nothing() {
    let place = Place::new();
    let mut child = place
        .command(&[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("Dovecot has been started", || async {
        place.dir.join("run/master.pid").exists().then_some(())
    })
    .await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(ended(&mut child).await.code(), Some(0));
    place.assert_nothing_runs();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_left() {
    for offset in 0..PORTS {
        let place = Place::new();
        let _taken = TcpListener::bind(("127.0.0.1", place.base + offset)).unwrap();
        let refused = place.run(&["--detach"]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        let port = (place.base + offset).to_string();
        assert!(told(&refused).contains(&port), "{}", told(&refused));
        assert_eq!(place.processes(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn below_a_private_folder_the_files_are_elsewhere_behind_a_link() {
    let place = Place::below("private/dev");
    let private = place.folder.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let output = place.run(&["--detach"]).await;
    let real = fs::canonicalize(&place.dir).unwrap();
    let _elsewhere = Elsewhere(real.clone());
    assert!(output.status.success(), "{}", told(&output));
    assert!(fs::symlink_metadata(&place.dir).unwrap().is_symlink());
    assert!(real.starts_with("/var/lib"), "{}", real.display());
    assert!(
        told(&output).contains(&*real.to_string_lossy()),
        "{}",
        told(&output)
    );
    let bootstrap = place.bootstrap();
    assert_eq!(bootstrap.create("scout").await.0, 201);
    place.stop().await;
    assert_eq!(place.detach().await, bootstrap);
    assert_eq!(bootstrap.create("scout").await.0, 200);
    place.stop().await;
}

/// A folder that a test made outside of its own, removed at its end.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let made_by_us = self.0.parent() == Some(Path::new("/var/lib"))
            && self
                .0
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("inboxd-dev-"));
        if made_by_us {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
