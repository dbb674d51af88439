//! How the configuration says where the store is.

use std::{fs, process::Command};

use crate::support::{Folder, daemon::INBOXD, postgres};

/// A command that opens the store: its complaint, if it does not.
fn open(url: &str, password_file: &str) -> Result<(), String> {
    let mut command = Command::new(INBOXD);
    command.args(["keys", "create", "--super-admin"]);
    for key in [
        "service.default_domain=inboxd.test".to_owned(),
        format!("store.url={url}"),
        format!("store.password_file={password_file}"),
    ] {
        command.arg("--set").arg(key);
    }
    let output = command.output().unwrap();
    let [told, complaint] = [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
    if output.status.success() {
        assert!(told.starts_with("sa_"), "{told}");
        Ok(())
    } else {
        Err(complaint)
    }
}

#[tokio::test]
async fn postgresql_is_reached_through_its_socket_and_with_a_password_from_a_file() {
    let password = "correct horse";
    let [socket, tcp] = postgres::new_guarded_database(password).await;
    open(&socket, "").unwrap();

    let folder = Folder::new();
    let file = folder.join("password");
    let file = file.to_str().unwrap();
    assert!(open(&tcp, "").is_err(), "the server asks for no password");
    for text in [
        password.to_owned(),
        format!("{password}\n"),
        format!("{password}\r\n"),
    ] {
        fs::write(file, text).unwrap();
        open(&tcp, file).unwrap();
    }
    fs::write(file, "mistaken\n").unwrap();
    let complaint = open(&tcp, file).unwrap_err();
    assert!(
        complaint.contains("password authentication failed"),
        "{complaint}"
    );
    assert!(!complaint.contains("mistaken"), "{complaint}");
    fs::write(file, "\n").unwrap();
    let complaint = open(&tcp, file).unwrap_err();
    assert!(
        complaint.contains("store.password_file") && complaint.contains("is empty"),
        "{complaint}"
    );
    let complaint = open(&tcp, "/nowhere/password").unwrap_err();
    assert!(
        complaint.contains("store.password_file: read /nowhere/password"),
        "{complaint}"
    );
}
