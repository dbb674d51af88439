//! `docker compose`, as an operator types it in the folder of the repository.

use std::{
    env,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// Longest run of any command.
const COMMAND_LIMIT: Duration = Duration::from_mins(4);
/// Lines of each container's log that are shown when something fails.
const LOG_LINES: &str = "40";
/// Names the project whose stack is under test. These tests stop its containers and delete one of its volumes, so it
/// must be said and is not guessed.
const PROJECT: &str = "COMPOSE_PROJECT_NAME";

/// A project: its containers, networks and volumes.
#[derive(Clone, Debug)]
pub struct Compose {
    /// Beside those of our own environment, which says the ports, the engine and everything else.
    variables: Vec<(String, String)>,
}

impl Compose {
    /// The project that was started for these tests.
    pub fn under_test() -> Self {
        assert!(
            env::var_os(PROJECT).is_some_and(|name| !name.is_empty()),
            "{PROJECT} is not set, so there is no stack to test: run `make test-compose`, which starts one"
        );
        Self {
            variables: Vec::new(),
        }
    }

    /// The same with other values of variables that `docker-compose.yml` asks for.
    pub fn with<'a>(&self, variables: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let more = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Self {
            variables: self.variables.iter().cloned().chain(more).collect(),
        }
    }

    /// Another project, called after this one. It needs other ports.
    pub fn sibling(&self, name: &str) -> Self {
        self.with([(PROJECT, format!("{}-{name}", self.project()))])
    }

    pub fn project(&self) -> String {
        let own = self.variables.iter().rev().find(|(name, _)| name == PROJECT);
        own.map_or_else(|| env::var(PROJECT).unwrap(), |(_, value)| value.clone())
    }

    /// `docker compose` with these arguments, whatever comes of it.
    pub async fn output(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("docker");
        command.arg("compose").args(arguments);
        finished(command).await
    }

    /// The same where it must succeed: what it wrote to standard output.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        assert!(
            output.status.success(),
            "docker compose {arguments:?}: {}",
            told(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// `docker` itself, where compose has no command for it.
    pub async fn docker(&self, arguments: &[&str]) {
        let mut command = self.command("docker");
        command.args(arguments);
        let output = finished(command).await;
        assert!(output.status.success(), "docker {arguments:?}: {}", told(&output));
    }

    /// Runs a program in the container of a service.
    pub async fn exec(&self, service: &str, program: &[&str]) -> String {
        self.run(&exec(service, program)).await
    }

    /// The same, to talk to while it runs. It is killed when it is dropped.
    pub fn exec_interactively(&self, service: &str, program: &[&str]) -> tokio::process::Child {
        let mut command = self.command("docker");
        command
            .arg("compose")
            .args(exec(service, program))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Starts what does not run, and what was configured otherwise anew; returns when every service is healthy.
    pub async fn up(&self) {
        self.up_with(&[]).await;
    }

    /// The same for one service alone.
    pub async fn up_service(&self, service: &str) {
        self.up_with(&["--no-deps", service]).await;
    }

    /// Starts one service anew, in another container.
    pub async fn recreate(&self, service: &str) {
        self.up_with(&["--no-deps", "--force-recreate", service]).await;
    }

    async fn up_with(&self, arguments: &[&str]) {
        let up = self
            .output(&[&["up", "--detach", "--wait"], arguments].concat())
            .await;
        assert!(
            up.status.success(),
            "up {arguments:?}: {}\n{}",
            told(&up),
            self.logs().await
        );
    }

    /// The ends of all logs.
    pub async fn logs(&self) -> String {
        let logs = self.output(&["logs", "--no-color", "--tail", LOG_LINES]).await;
        // Compose clears the line of a terminal that is none.
        told(&logs).replace("\u{1b}[2K", "")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

fn exec<'a>(service: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    [&["exec", "--no-TTY", service], program].concat()
}

async fn finished(mut command: Command) -> Output {
    let output = timeout(COMMAND_LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not return within {COMMAND_LIMIT:?}"));
    output
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `make test-compose` installs what is missing"))
}

/// What a command said.
pub fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
