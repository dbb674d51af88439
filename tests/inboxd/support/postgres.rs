//! Throwaway PostgreSQL servers: one for the whole run, of which each test gets a database of its own; and one of a test's
//! own, to be crashed.

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

/// `$0` is a folder to remove at the end, or nothing; the rest is the server and its arguments.
const KEEPER: &str = r#""$@" & read -r _; kill -QUIT $!; wait $!; rm -rf "$0""#;

/// Where the server's UNIX socket is, in its folder.
const SOCKET_FOLDER: &str = "socket";
/// `pg_hba.conf(5)`, before what initdb writes: who connects to a database of his own name needs a password.
const ACCESS: &str = "\
host all      postgres 127.0.0.1/32 trust
host sameuser all      127.0.0.1/32 scram-sha-256
";

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let cluster = Cluster::new();
    // Nobody drops a static.
    let folder = cluster.folder.path().to_owned();
    cluster.serve(Some(&folder))
});
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
    /// Its standard input is closed when this process ends.
    keeper: Child,
}

/// What a server serves.
#[derive(Debug)]
pub struct Cluster {
    port: u16,
    folder: Folder,
}

/// The URL of a new, empty database.
pub async fn new_database() -> String {
    // The first use starts the server, which takes a while: not on an async thread.
    let port = tokio::task::spawn_blocking(|| SERVER.cluster.port).await.unwrap();
    new_database_at(port).await
}

async fn new_database_at(port: u16) -> String {
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

/// The URLs of a new, empty database: through the UNIX socket, and over TCP as a user of its own who has this password,
/// without the password in it.
pub async fn new_guarded_database(password: &str) -> [String; 2] {
    let trusted = new_database().await;
    let mut connection = PgConnection::connect(&trusted).await.unwrap();
    let (server, name) = trusted.rsplit_once('/').unwrap();
    for statement in [
        // "sameuser" in pg_hba.conf.
        format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"),
        format!("ALTER DATABASE {name} OWNER TO {name}"),
        format!("ALTER SCHEMA public OWNER TO {name}"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let folder = SERVER.cluster.folder.join(SOCKET_FOLDER);
    let (folder, port) = (folder.display(), SERVER.cluster.port);
    [
        format!("postgres:///{name}?host={folder}&port={port}&user={name}"),
        server.replace("postgres@", &format!("{name}@")) + "/" + name,
    ]
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
    /// A server of a test's own. Blocks until it answers.
    pub fn start() -> Self {
        Cluster::new().serve(None)
    }

    /// The URL of a new, empty database.
    pub async fn new_database(&self) -> String {
        new_database_at(self.cluster.port).await
    }

    /// Ends it as a crash would: no transaction is finished, no client is told, and what is on the disk is recovered at
    /// the next start. Blocks until every process of it has ended.
    pub fn crash(self) -> Cluster {
        let Self { cluster, mut keeper } = self;
        // The keeper's sign.
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
        cluster
    }
}

impl Cluster {
    fn new() -> Self {
        let programs = programs();
        let folder = Folder::new();
        let data = folder.join("data");
        let user = nix::unistd::User::from_name("postgres").unwrap().expect(INSTALL);
        let socket = folder.join(SOCKET_FOLDER);
        for dir in [&data, &socket] {
            fs::create_dir(dir).unwrap();
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
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

        let access = data.join("pg_hba.conf");
        let trusting = fs::read_to_string(&access).unwrap();
        fs::write(&access, ACCESS.to_owned() + &trusting).unwrap();

        let [port] = free_ports();
        Self { port, folder }
    }

    /// Starts a server again that has crashed. Blocks until it answers.
    pub fn start_again(self) -> Server {
        self.serve(None)
    }

    /// Starts a server; its keeper removes a folder at the end.
    fn serve(self, remove: Option<&Path>) -> Server {
        let programs = programs();
        let port = self.port;
        let mut command = as_postgres(&programs.join("postgres"));
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-h", "127.0.0.1", "-c", "max_connections=300", "-k"])
            .arg(self.folder.join(SOCKET_FOLDER));
        command.args(["-p", &port.to_string()]);
        // A process that waits for the end of ours, however it comes, and then stops the server and removes the folder.
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(remove.unwrap_or(Path::new("")))
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
        Server {
            cluster: self,
            keeper,
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
