//! Clients that are generated from the OpenAPI document.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use crate::support::daemon::{Daemon, Database};

/// Where `scripts/install-verifier` puts the generator and the compiler.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier");
/// Where the programs are that use a generated client.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier");

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder with the document, and a program that uses a client made from it.
fn folder_with(program: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let document = serde_json::to_vec(&inboxd::http::openapi()).unwrap();
    std::fs::write(folder.path().join("openapi.json"), document).unwrap();
    std::fs::copy(Path::new(SOURCE).join(program), folder.path().join(program)).unwrap();
    folder
}

fn installed(program: &str) -> String {
    let path = format!("{FOLDER}/{program}");
    assert!(
        Path::new(&path).exists(),
        "run scripts/install-verifier first: no {path}"
    );
    path
}

#[test]
fn a_typescript_client_compiles_strictly_and_has_one_error_type() {
    let folder = folder_with("client.ts");
    std::fs::write(folder.path().join("package.json"), r#"{"type":"module"}"#).unwrap();
    run(Command::new(installed("node_modules/.bin/openapi-typescript"))
        .args(["openapi.json", "-o", "schema.d.ts"])
        .current_dir(folder.path()));
    run(Command::new(installed("node_modules/.bin/tsc"))
        .args(["--strict", "--noEmit", "--module", "nodenext", "client.ts"])
        .current_dir(folder.path()));
}

#[tokio::test]
async fn a_python_client_is_strictly_typed_and_has_one_error_type_and_sets_and_clears_metadata() {
    let folder = folder_with("client.py");
    // Its formatter is not needed to run it.
    std::fs::write(folder.path().join("config.yml"), "post_hooks: []\n").unwrap();
    run(Command::new(installed("bin/openapi-python-client"))
        .args(["generate", "--path", "openapi.json", "--config", "config.yml"])
        .args([
            "--meta",
            "none",
            "--output-path",
            "inboxd_client",
            "--fail-on-warning",
        ])
        .current_dir(folder.path()));
    run(Command::new(installed("bin/mypy"))
        .args(["--strict", "--no-incremental", "inboxd_client", "client.py"])
        .current_dir(folder.path()));
    let daemon = Daemon::start(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    run(Command::new(installed("bin/python"))
        .args(["-B", "client.py", &daemon.base, &acme.key])
        .current_dir(folder.path()));
}
