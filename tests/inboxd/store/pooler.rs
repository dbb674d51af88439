//! `PgBouncer` between the store and PostgreSQL: with a session for each connection it works, otherwise it is refused by
//! name.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    str::FromStr as _,
};

use inboxd::{
    store::{Db, OnlyDaemon},
    telemetry,
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::support::{Folder, daemon::Daemon, free_ports, postgres, wait::until};

/// Debian's package `pgbouncer` has it (`scripts/install-deps test`).
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// A pooler in front of a new database; it ends with the value.
struct Pooler {
    url: String,
    child: Child,
    _folder: Folder,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Pooler {
    async fn start(pool_mode: &str) -> Self {
        let behind = postgres::new_database().await;
        let options = PgConnectOptions::from_str(&behind).unwrap();
        let (name, port) = (options.get_database().unwrap(), options.get_port());
        let (folder, [listen]) = (Folder::new(), free_ports());
        let config = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host=127.0.0.1 port={port} dbname={name} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {listen}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = 60\nignore_startup_parameters = extra_float_digits, options\n"
        );
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        // It refuses to run as root.
        let child = Command::new("setpriv")
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "--pdeathsig=KILL",
                PGBOUNCER,
                "--quiet",
            ])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv {PGBOUNCER}: {error}; run scripts/install-deps test"));
        let pooler = Self {
            url: format!("postgres://postgres@127.0.0.1:{listen}/{name}"),
            child,
            _folder: folder,
        };
        until("PgBouncer answers", || async {
            PgConnection::connect(&pooler.url).await.ok()
        })
        .await;
        pooler
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url).unwrap()
    }
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_by_name() {
    for pool_mode in ["transaction", "statement"] {
        let pooler = Pooler::start(pool_mode).await;
        let opened = Db::open_postgres(pooler.options()).await.map(drop).unwrap_err();
        let taken = OnlyDaemon::of_postgres(pooler.options())
            .await
            .map(drop)
            .unwrap_err();
        for error in [opened, taken] {
            let text = telemetry::chain(&error);
            assert!(
                text.contains("PgBouncer") && text.contains("pool_mode = session"),
                "{pool_mode}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_pooler_with_a_session_for_each_connection_works() {
    let pooler = Pooler::start("session").await;
    let mut daemon = Daemon::on_store(pooler.url.clone(), Folder::new(), "").await;
    let acme = daemon.tenant("Acme").await;
    for _ in 0..3 {
        assert_eq!(acme.post("/v1/inboxes", &json!({})).await.status, 201);
    }
    assert!(daemon.stop().await.success());
}
