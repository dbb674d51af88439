//! Clients that are generated from the OpenAPI document.

use std::{path::Path, process::Command};

use tempfile::TempDir;

/// Where `scripts/install-verifier` puts the generator and the compiler.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier/client.ts");

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

#[test]
fn a_typescript_client_compiles_strictly_and_has_one_error_type() {
    let programs = format!("{FOLDER}/node_modules/.bin");
    assert!(
        Path::new(&programs).join("openapi-typescript").exists(),
        "run scripts/install-verifier first"
    );
    let folder = TempDir::new().unwrap();
    let document = serde_json::to_vec(&inboxd::http::openapi()).unwrap();
    std::fs::write(folder.path().join("openapi.json"), document).unwrap();
    std::fs::write(folder.path().join("package.json"), r#"{"type":"module"}"#).unwrap();
    std::fs::copy(CLIENT, folder.path().join("client.ts")).unwrap();
    run(Command::new(format!("{programs}/openapi-typescript"))
        .args(["openapi.json", "-o", "schema.d.ts"])
        .current_dir(folder.path()));
    run(Command::new(format!("{programs}/tsc"))
        .args(["--strict", "--noEmit", "--module", "nodenext", "client.ts"])
        .current_dir(folder.path()));
}
