//! A throwaway PostgreSQL server, one for the whole run; each test gets a database of its own.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr as _,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{Folder, free_ports, wait::LIMIT};

const INSTALL: &str = "PostgreSQL's server is not installed: apt-get install postgresql";

/// `$0` is the folder, the rest is the server and its arguments.
const KEEPER: &str = r#""$@" & read -r _; kill -QUIT $!; wait $!; rm -rf "$0""#;

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

struct Server {
    port: u16,
    _folder: Folder,
    /// Its standard input is closed when this process ends.
    _keeper: Child,
}

/// The URL of a new, empty database.
pub async fn new_database() -> String {
    // The first use starts the server, which takes a while: not on an async thread.
    let port = tokio::task::spawn_blocking(|| SERVER.port).await.unwrap();
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let options = PgConnectOptions::from_str(&url(port, "postgres")).unwrap();
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    // A collation that sorts names otherwise than by their octets: what depends on the order must say which it means.
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING UTF8 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
    );
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&mut connection)
        .await
        .unwrap();
    url(port, &name)
}

/// Ends every connection to a database and lets nobody in any more.
pub async fn refuse(database_url: &str) {
    let (server, name) = database_url.rsplit_once('/').unwrap();
    let options = PgConnectOptions::from_str(&format!("{server}/postgres")).unwrap();
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    for statement in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

impl Server {
    fn start() -> Self {
        let programs = programs();
        let folder = Folder::new();
        let data = folder.join("data");
        let user = nix::unistd::User::from_name("postgres").unwrap().expect(INSTALL);
        fs::create_dir(&data).unwrap();
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let made = as_postgres(&programs.join("initdb"))
            .args([
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "-D",
            ])
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );

        let [port] = free_ports();
        let mut command = as_postgres(&programs.join("postgres"));
        command
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-k", "", "-c", "max_connections=300"]);
        command.args(["-p", &port.to_string()]);
        // A process that waits for the end of ours, however it comes, and then stops the server and removes the folder.
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(folder.path())
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us alone.
            .process_group(0)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + LIMIT;
        let ready = || {
            Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
                .status()
        };
        while !ready().unwrap().success() {
            assert!(
                Instant::now() < deadline,
                "PostgreSQL did not come up within {LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Self {
            port,
            _folder: folder,
            _keeper: keeper,
        }
    }
}

/// The folder of the newest installed server's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect(INSTALL);
    let newest = versions
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("bin/initdb").exists())
        .max();
    newest.expect(INSTALL).join("bin")
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--pdeathsig=QUIT",
        ])
        .arg(program)
        .current_dir("/");
    command
}
