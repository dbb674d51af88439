//! The bootstrap file: made by the first start, kept and repaired by later ones.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::support::{
    Folder,
    daemon::{Daemon, Database, INBOXD},
};

/// A daemon with a bootstrap file.
struct Rig {
    daemon: Daemon,
    file: PathBuf,
}

impl Rig {
    async fn new(database: Database) -> Self {
        let folder = Folder::new();
        let file = folder.join("bootstrap.json");
        let key = format!("bootstrap.file = \"{}\"\n", file.display());
        let daemon = Daemon::with_config(database, folder, &key).await;
        Self { daemon, file }
    }

    fn told(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(&self.file).unwrap()).unwrap()
    }

    /// Starts the daemon again; what the file tells then.
    async fn restart(&mut self) -> Value {
        assert!(self.daemon.stop().await.success());
        self.daemon.up().await;
        self.told()
    }

    /// The status that the key which stands there in the file gets.
    async fn status(&self, told: &Value, pointer: &str) -> u16 {
        let key = told.pointer(pointer).unwrap().as_str().unwrap();
        self.daemon.api(key).get("/v1/me").await.status
    }

    async fn assert_works(&self, told: &Value) {
        for pointer in ["/superAdminKey", "/tenant/key"] {
            assert_eq!(self.status(told, pointer).await, 200, "{pointer}");
        }
    }

    /// The names of all tenants.
    async fn tenants(&self) -> Vec<String> {
        let answer = self.daemon.api(&self.daemon.super_admin).get("/v1/tenants").await;
        let tenants = answer.body["tenants"].as_array().unwrap().clone();
        tenants
            .iter()
            .map(|tenant| tenant["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn demo_tenant(told: &Value) -> String {
        format!("/v1/tenants/{}", told["tenant"]["id"].as_str().unwrap())
    }

    /// Changes the store behind the daemon's back.
    async fn sql(&self, statement: &str) {
        let file = self.daemon.store_url.strip_prefix("sqlite:").unwrap();
        let mut connection = SqliteConnection::connect(file).await.unwrap();
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

fn bootstrap(arguments: &[&str]) -> Output {
    Command::new(INBOXD)
        .arg("bootstrap")
        .args(arguments)
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_first_start_makes_keys_and_later_ones_keep_them() {
    let mut rig = Rig::new(Database::Sqlite).await;
    let first = rig.told();
    assert_eq!(rig.file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let ca = rig.daemon.folder.join("private-ca/ca.pem");
    let expected = |api: &str, metrics: &str| {
        json!({
            "api": api,
            "superAdminKey": first["superAdminKey"],
            "tenant": {"id": first["tenant"]["id"], "name": "Demo", "key": first["tenant"]["key"]},
            "postmaster": {"email": "postmaster@inboxd.test", "password": first["postmaster"]["password"]},
            "defaultDomain": "inboxd.test",
            "imap": {"host": "localhost", "port": 993, "tls": true},
            "smtp": {"host": "localhost", "port": 587, "starttls": true},
            "mx": {"host": "localhost", "port": 25},
            "metrics": metrics,
            "caFile": ca,
        })
    };
    assert_eq!(first, expected(&rig.daemon.base, &rig.daemon.metrics));
    rig.assert_works(&first).await;
    let demo = rig.daemon.api(first["tenant"]["key"].as_str().unwrap());
    assert_eq!(
        demo.post("/v1/inboxes", &json!({"username": "scout"}))
            .await
            .status,
        201
    );

    let printed = bootstrap(&["--config", rig.daemon.config.to_str().unwrap()]);
    assert!(printed.status.success());
    assert_eq!(printed.stdout, fs::read(&rig.file).unwrap());

    assert_eq!(rig.restart().await, first);
    assert_eq!(rig.tenants().await, ["Demo"]);

    // What follows from the configuration is brought up to date.
    let elsewhere = ("https://inbox.inboxd.test", "https://inbox.inboxd.test/internal");
    let keys = format!("\napi.url = {:?}\nmetrics.url = {:?}\n", elsewhere.0, elsewhere.1);
    let text = fs::read_to_string(&rig.daemon.config).unwrap();
    let wanted = expected(elsewhere.0, elsewhere.1);
    fs::write(&rig.daemon.config, text + &keys).unwrap();
    assert_eq!(rig.restart().await, wanted);
}

#[tokio::test]
async fn the_postmaster_has_an_inbox_of_the_demo_tenant() {
    for database in Database::ALL {
        let mut rig = Rig::new(database).await;
        let first = rig.told();
        let email = "postmaster@inboxd.test";
        assert_eq!(first["postmaster"]["email"], email);
        let demo = rig.daemon.api(first["tenant"]["key"].as_str().unwrap());
        let listed = demo.get("/v1/inboxes").await;
        let inboxes = listed.body["inboxes"].as_array().unwrap();
        assert_eq!(inboxes.len(), 1);
        assert_eq!(inboxes[0]["canonicalEmail"], email);
        let id = inboxes[0]["id"].as_str().unwrap().to_owned();
        // It is in the maps before the daemon is ready, with the password that the file shows.
        let entry = fs::read_to_string(rig.daemon.maps().join("passdb/inboxd.test/postmaster")).unwrap();
        let hash = entry.split(':').nth(1).unwrap();
        assert!(hash.starts_with("{SHA512-CRYPT}"), "{entry}");
        let password = first["postmaster"]["password"].as_str().unwrap();
        let said = Command::new("doveadm")
            .args(["-c", "/dev/null", "pw", "-t", hash, "-p", password])
            .output()
            .expect("apt-get install dovecot-core");
        assert!(said.status.success(), "{said:?}");
        assert!(
            !rig.daemon
                .log()
                .contains("mail for postmaster and abuse is refused")
        );

        // Deleted by mistake, it comes back with another password: this mail must reach a person.
        assert_eq!(demo.delete(&format!("/v1/inboxes/{id}")).await.status, 200);
        let told = rig.restart().await;
        assert_eq!(told["postmaster"]["email"], email);
        assert_ne!(told["postmaster"]["password"], first["postmaster"]["password"]);

        // Without the file its password is not known any more, and another tenant's start is no reason to take it.
        fs::remove_file(&rig.file).unwrap();
        let told = rig.restart().await;
        assert_ne!(told["tenant"]["id"], first["tenant"]["id"]);
        assert_eq!(told["postmaster"], Value::Null);
    }
}

#[tokio::test]
async fn the_log_says_that_the_postmasters_mail_is_refused() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let log = daemon.log();
    assert!(
        log.contains("mail for postmaster and abuse is refused") && log.contains("postmaster@inboxd.test"),
        "{log}"
    );
}

#[tokio::test]
async fn a_demo_tenant_that_was_deleted_does_not_come_back() {
    for database in Database::ALL {
        let mut rig = Rig::new(database).await;
        let first = rig.told();
        let admin = rig.daemon.api(first["superAdminKey"].as_str().unwrap());
        assert_eq!(admin.delete(&Rig::demo_tenant(&first)).await.status, 200);
        for _ in 0..2 {
            let told = rig.restart().await;
            assert_eq!(told["tenant"], Value::Null);
            assert_eq!(told["postmaster"], Value::Null);
            assert_eq!(told["superAdminKey"], first["superAdminKey"]);
            assert_eq!(rig.tenants().await, [""; 0]);
        }
        // Without the file it is a first start again.
        fs::remove_file(&rig.file).unwrap();
        let told = rig.restart().await;
        rig.assert_works(&told).await;
        assert_ne!(told["tenant"]["id"], first["tenant"]["id"]);
    }
}

#[tokio::test]
async fn a_demo_tenant_that_was_renamed_or_suspended_stays() {
    let mut rig = Rig::new(Database::Sqlite).await;
    let first = rig.told();
    let admin = rig.daemon.api(first["superAdminKey"].as_str().unwrap());
    let change = json!({"name": "Ours", "suspended": true});
    assert_eq!(admin.patch(&Rig::demo_tenant(&first), &change).await.status, 200);
    let told = rig.restart().await;
    assert_eq!(told["tenant"]["name"], "Ours");
    assert_eq!(told["tenant"]["key"], first["tenant"]["key"]);
    assert_eq!(rig.status(&told, "/tenant/key").await, 403);
    let resumed = json!({"suspended": false});
    assert_eq!(admin.patch(&Rig::demo_tenant(&first), &resumed).await.status, 200);
    rig.assert_works(&told).await;
}

#[tokio::test]
async fn keys_that_were_revoked_are_replaced_and_the_tenant_stays() {
    let mut rig = Rig::new(Database::Sqlite).await;
    let first = rig.told();
    let demo = rig.daemon.api(first["tenant"]["key"].as_str().unwrap());
    assert_eq!(
        demo.post("/v1/inboxes", &json!({"username": "scout"}))
            .await
            .status,
        201
    );
    let fragments: Vec<String> = ["/superAdminKey", "/tenant/key"]
        .iter()
        .map(|key| format!("'{}'", &first.pointer(key).unwrap().as_str().unwrap()[..8]))
        .collect();
    let fragments = fragments.join(", ");
    rig.sql(&format!(
        "UPDATE api_keys SET revoked_at = 1 WHERE fragment IN ({fragments})"
    ))
    .await;
    assert_eq!(rig.status(&first, "/tenant/key").await, 401);
    let told = rig.restart().await;
    rig.assert_works(&told).await;
    assert_eq!(told["tenant"]["id"], first["tenant"]["id"]);
    for key in ["/superAdminKey", "/tenant/key"] {
        assert_ne!(told.pointer(key), first.pointer(key));
    }
    let demo = rig.daemon.api(told["tenant"]["key"].as_str().unwrap());
    let inboxes = demo.get("/v1/inboxes").await;
    assert_eq!(inboxes.body["inboxes"][0]["username"], "scout");
}

#[tokio::test]
async fn beside_another_store_everything_is_made_anew() {
    let mut rig = Rig::new(Database::Sqlite).await;
    let first = rig.told();
    assert!(rig.daemon.stop().await.success());
    let text = fs::read_to_string(&rig.daemon.config).unwrap();
    // Nothing of the first store is used: its passwords' key neither.
    let text = text
        .replace("inboxd.db", "other.db")
        .replace("sealing.key", "other.key");
    fs::write(&rig.daemon.config, text).unwrap();
    rig.daemon.up().await;
    let told = rig.told();
    rig.assert_works(&told).await;
    for key in ["/superAdminKey", "/tenant/id", "/tenant/key"] {
        assert_ne!(told.pointer(key), first.pointer(key));
    }
}

#[tokio::test]
async fn a_file_that_inboxd_did_not_write_is_left_alone() {
    let mut rig = Rig::new(Database::Sqlite).await;
    assert!(rig.daemon.stop().await.success());
    for text in ["root:x:0:0::/:/bin/sh\n", "{\"tenant\": null}", ""] {
        fs::write(&rig.file, text).unwrap();
        rig.daemon.spawn();
        assert_eq!(rig.daemon.ended().await.code(), Some(1));
        let log = rig.daemon.log();
        assert!(
            log.contains("bootstrap.file") && log.contains("move it away"),
            "{log}"
        );
        assert_eq!(fs::read_to_string(&rig.file).unwrap(), text);
    }
}

#[tokio::test]
async fn the_command_says_what_to_do_where_there_is_no_file() {
    let folder = Folder::new();
    let file = folder.join("bootstrap.json");
    let domain = "service.default_domain=inboxd.test";
    for (key, words) in [
        ("bootstrap.file=".to_owned(), "bootstrap.file is not set"),
        (
            format!("bootstrap.file={}", file.display()),
            "the daemon writes it before it is ready",
        ),
    ] {
        let output = bootstrap(&["--set", domain, "--set", &key]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(words), "{complaint}");
    }
}
