//! Costly hashes of imported inboxes: the first login replaces them, and nothing that goes wrong there holds up a login.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    import::hashed,
    support::{
        Folder,
        api::Api,
        daemon::{DEFAULT_DOMAIN, Daemon, Database},
        inbox::Inbox,
        mail::{self, Message},
        maps::{VERIFIED_PASSWORDS, assert_equal, until_published},
        store::open,
        wait::until,
        world::World,
    },
};

/// `doveadm pw -s BLF-CRYPT -r 5 -p secret`: costly by its scheme, and verified in milliseconds.
pub const BCRYPT: &str = "{BLF-CRYPT}$2y$05$NR56CTKLkw03qn7psTEG7.7bQ0yf2O..Igo/AX1aqg5WKSfw4xRm.";
/// What the hash of a password that a person chose begins with.
pub const OURS: &str = "{SHA512-CRYPT}$6$rounds=10000$";
/// Messages of 120 octets and more: far more than may wait, and fewer than fill a pipe (pipe(7)).
const FLOOD: u64 = 300;
/// Logins whose messages of 1,100 octets would be more than a pipe holds.
const LOGINS: usize = 80;

/// Imports the lines of a passwd-file. A daemon finds them within ten seconds.
pub async fn import_all(daemon: &Daemon, tenant: &Api, lines: &str) {
    let id = tenant.get("/v1/me").await.text("tenantId").to_owned();
    let output = daemon.run(&["import", "-", "--tenant", &id], lines);
    assert!(output.status.success(), "{output:?}");
}

/// Imports an inbox that has this password, and waits until the maps have it.
pub async fn import(daemon: &Daemon, tenant: &Api, name: &str, hash: &str, password: &str) -> Inbox {
    let email = format!("{name}@{DEFAULT_DOMAIN}");
    import_all(daemon, tenant, &format!("{email}:{hash}\n")).await;
    let found = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
    assert_eq!(found.status, 200, "{found:?}");
    let inbox = Inbox {
        id: found.id().to_owned(),
        email,
        password: password.to_owned(),
        key: String::new(),
    };
    until("the entry of an imported inbox", || async {
        entry(daemon, &inbox).contains(hash).then_some(())
    })
    .await;
    inbox
}

/// The password entry of an inbox.
pub fn entry(daemon: &Daemon, inbox: &Inbox) -> String {
    let (local_part, domain) = inbox.email.split_once('@').unwrap();
    fs::read_to_string(daemon.maps().join("passdb").join(domain).join(local_part)).unwrap_or_default()
}

async fn until_replaced(daemon: &Daemon, inbox: &Inbox) {
    until("a hash of our own scheme", || async {
        entry(daemon, inbox).contains(OURS).then_some(())
    })
    .await;
}

/// Logs in again and again, until a login has replaced the hash.
pub async fn log_in_until_replaced(world: &World, inbox: &Inbox) {
    until("a login that replaces the hash", || async {
        world.mail.log_in(inbox).await;
        entry(&world.daemon, inbox).contains(OURS).then_some(())
    })
    .await;
}

async fn count(daemon: &Daemon, outcome: &str) -> u64 {
    let name = format!("inboxd_costly_hashes_total{{outcome=\"{outcome}\"}}");
    daemon.metric(&name).await.unwrap()
}

async fn until_counted(daemon: &Daemon, outcome: &str, expected: u64) {
    until(&format!("{expected} {outcome}"), || async {
        (count(daemon, outcome).await == expected).then_some(())
    })
    .await;
}

fn folder(daemon: &Daemon) -> PathBuf {
    daemon.maps().join("passdb").join(VERIFIED_PASSWORDS)
}

/// A message as a worker writes it.
fn message(inbox: &Inbox, generation: u32, hash: &str) -> String {
    let octets = inbox.password.as_bytes();
    let digits = octets
        .iter()
        .fold(String::new(), |digits, octet| format!("{digits}{octet:02x}"));
    format!("{}.{generation} {hash} {digits}\n", inbox.id)
}

/// Writes to the pipe as a worker does.
fn hand_over(daemon: &Daemon, message: &str) {
    let pipe = folder(daemon).join("pipe");
    let mut pipe = OpenOptions::new().read(true).write(true).open(pipe).unwrap();
    pipe.write_all(message.as_bytes()).unwrap();
}

/// The store and the maps say the same, and `maps check` finds nothing.
async fn assert_whole(daemon: &Daemon) {
    let db = open(&daemon.store_url).await;
    until_published(&db).await;
    assert_equal(&db, &daemon.maps_layout()).await;
    db.close().await;
    let (status, output) = daemon.command(&["maps", "check"]).await;
    assert_eq!(status, 0, "{output}");
}

async fn the_first_login_replaces(database: Database) {
    World::run_on(database, async |world| {
        let daemon = &world.daemon;
        let tenant = world.tenant("Moved").await;
        let bcrypt = import(daemon, &tenant, "bcrypt", BCRYPT, "secret").await;
        let password = "Zürich, 8001: grün\u{a0}€";
        let hash = hashed("ARGON2ID", password);
        let argon2 = import(daemon, &tenant, "argon2", &hash, password).await;
        let name_of = |inbox: &Inbox| format!(":{}.1:", inbox.id);

        // A wrong password replaces nothing, whatever the hash.
        for inbox in [&bcrypt, &argon2] {
            world.mail.assert_login_refused(&inbox.email, "Secret").await;
        }
        let mut smtp = world.mail.submission_of(&bcrypt).await;
        let mut imap = world.mail.log_in(&argon2).await;
        until_counted(daemon, "replaced", 2).await;
        for inbox in [&bcrypt, &argon2] {
            until_replaced(daemon, inbox).await;
            assert!(
                entry(daemon, inbox).contains(&name_of(inbox)),
                "other credentials"
            );
        }
        // The sessions whose logins they were go on.
        let sent = Message::new("sent by a session that was there before");
        smtp.send(&bcrypt.email, &argon2.email, &sent).await;
        mail::read_when_there(&mut imap, &sent).await;
        for inbox in [&bcrypt, &argon2] {
            world.mail.assert_works(inbox, &inbox.email).await;
            for wrong in ["Secret", "secret ", "zürich"] {
                world.mail.assert_login_refused(&inbox.email, wrong).await;
            }
            world.mail.assert_auth_refused(&inbox.email, "Secret").await;
            // The password is its owner's: no caller can read it.
            let shown = tenant.get(&format!("/v1/inboxes/{}", inbox.id)).await;
            assert_eq!(shown.body["imapPassword"], json!(null), "{shown:?}");
        }
        assert_whole(daemon).await;
        assert_eq!(count(daemon, "replaced").await, 2);
        let log = daemon.log();
        assert!(log.contains("replaced a costly password hash"), "{log}");
        for secret in ["secret", password, "$2y$", "argon2id", "rounds=10000"] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_login_replaces_a_costly_hash_and_sessions_go_on() {
    the_first_login_replaces(Database::Sqlite).await;
}

#[tokio::test]
async fn the_first_login_replaces_a_costly_hash_on_postgresql() {
    the_first_login_replaces(Database::Postgres).await;
}

#[tokio::test]
async fn what_changed_since_the_login_wins() {
    World::run(async |world| {
        let daemon = &world.daemon;
        let tenant = world.tenant("Moved").await;
        // The first login is that of a session which was handed over late: written here, when all has happened.
        let rotated = import(daemon, &tenant, "rotated", BCRYPT, "secret").await;
        let path = format!("/v1/inboxes/{}/rotate-password", rotated.id);
        let answer = tenant.post(&path, &json!({})).await;
        let fresh = rotated.with_password(answer.text("imapPassword"));
        let of_fresh = entry(daemon, &fresh);
        for generation in [1, 2] {
            hand_over(daemon, &message(&rotated, generation, BCRYPT));
        }
        until_counted(daemon, "stale", 2).await;
        // Nor is a password taken for the hash of a password that inboxd made: no worker verifies these.
        let own = of_fresh.split(':').nth(1).unwrap();
        hand_over(daemon, &message(&rotated, 2, own));
        until_counted(daemon, "kept", 1).await;
        // Of a suspended tenant's inbox, the generation has ended.
        let suspended = import(daemon, &tenant, "suspended", BCRYPT, "secret").await;
        let tenant_path = format!("/v1/tenants/{}", tenant.get("/v1/me").await.text("tenantId"));
        for state in [true, false] {
            let changed = world
                .operator()
                .patch(&tenant_path, &json!({"suspended": state}))
                .await;
            assert_eq!(changed.status, 200, "{changed:?}");
        }
        hand_over(daemon, &message(&suspended, 1, BCRYPT));
        until_counted(daemon, "stale", 3).await;
        let deleted = import(daemon, &tenant, "deleted", BCRYPT, "secret").await;
        let answer = tenant.delete(&format!("/v1/inboxes/{}", deleted.id)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        hand_over(daemon, &message(&deleted, 1, BCRYPT));
        until_counted(daemon, "stale", 4).await;
        for (number, garbage) in ["x\n", "\n", &format!("{}\n", "a".repeat(9_000))]
            .iter()
            .enumerate()
        {
            hand_over(daemon, garbage);
            until_counted(daemon, "malformed", number as u64 + 1).await;
        }

        assert_eq!(count(daemon, "replaced").await, 0);
        assert_eq!(entry(daemon, &fresh).split(':').nth(1), Some(own));
        world.mail.log_in(&fresh).await;
        world
            .mail
            .assert_login_refused(&rotated.email, &rotated.password)
            .await;
        log_in_until_replaced(world, &suspended).await;
        assert_whole(daemon).await;
    })
    .await;
}

#[tokio::test]
async fn a_hash_stays_where_another_password_would_stop_working() {
    World::run(async |world| {
        let daemon = &world.daemon;
        let tenant = world.tenant("Moved").await;
        // bcrypt takes 72 octets into account, and crypt(3) no more than 511.
        let long = "x".repeat(72);
        let hash = hashed("BLF-CRYPT", &long);
        let cut = import(daemon, &tenant, "cut", &hash, &format!("{long} and more")).await;
        let longer = "y".repeat(512);
        let hash_of_longer = hashed("PBKDF2", &longer);
        let large = import(daemon, &tenant, "large", &hash_of_longer, &longer).await;
        for inbox in [&cut, &large] {
            world.mail.log_in(inbox).await;
        }
        until_counted(daemon, "kept", 2).await;
        assert!(entry(daemon, &cut).contains(&hash));
        assert!(entry(daemon, &large).contains(&hash_of_longer));
        world.mail.log_in(&cut.with_password(&long)).await;
        let longest = "z".repeat(511);
        let fits = import(daemon, &tenant, "fits", &hashed("PBKDF2", &longest), &longest).await;
        log_in_until_replaced(world, &fits).await;
        world.mail.log_in(&fits).await;
        world.mail.assert_login_refused(&fits.email, &longest[1..]).await;
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_hangs_or_is_gone_holds_up_no_login() {
    World::run(async |world| {
        let tenant = world.tenant("Moved").await;
        let password = "p".repeat(480);
        let hash = hashed("PBKDF2", &password);
        let inbox = import(&world.daemon, &tenant, "moved", &hash, &password).await;
        let other = import(&world.daemon, &tenant, "other", BCRYPT, "secret").await;
        world.daemon.signal(Signal::SIGSTOP);
        for _ in 0..LOGINS {
            world.mail.log_in(&inbox).await;
        }
        assert!(entry(&world.daemon, &inbox).contains(&hash));
        world.daemon.signal(Signal::SIGCONT);
        // What was handed over before is not lost.
        until_replaced(&world.daemon, &inbox).await;

        world.daemon.kill();
        world.mail.log_in(&other).await;
        assert!(folder(&world.daemon).exists());
        world.daemon.up().await;
        assert!(entry(&world.daemon, &other).contains(BCRYPT));
        world.daemon.stop().await;
        assert!(!folder(&world.daemon).exists(), "a stop leaves the pipe");
        world.mail.log_in(&other).await;
        world.daemon.up().await;
        // When the pipe was removed, there is another one soon.
        until("the pipe", || async {
            folder(&world.daemon).exists().then_some(())
        })
        .await;
        fs::remove_dir_all(folder(&world.daemon)).unwrap();
        log_in_until_replaced(world, &other).await;
        let (status, output) = world.daemon.command(&["maps", "rebuild"]).await;
        assert_eq!(status, 0, "{output}");
        assert!(folder(&world.daemon).exists(), "a rebuild removes the pipe");
        assert_whole(&world.daemon).await;
    })
    .await;
}

#[tokio::test]
async fn a_flood_is_dropped_and_nothing_waits_for_it() {
    World::run(async |world| {
        let daemon = &world.daemon;
        let tenant = world.tenant("Moved").await;
        let inbox = import(daemon, &tenant, "moved", BCRYPT, "secret").await;
        let message = message(&inbox, 1, BCRYPT);
        daemon.signal(Signal::SIGSTOP);
        let pipe = folder(daemon).join("pipe");
        // Closed last, so that nothing of it is gone before the daemon reads.
        let mut pipe = OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        for _ in 0..FLOOD {
            pipe.write_all(message.as_bytes()).unwrap();
        }
        daemon.signal(Signal::SIGCONT);
        let outcomes = ["replaced", "stale", "dropped"];
        until("every message is accounted for", || async {
            let mut sum = 0;
            for outcome in outcomes {
                sum += count(daemon, outcome).await;
            }
            (sum == FLOOD).then_some(())
        })
        .await;
        assert_eq!(count(daemon, "replaced").await, 1);
        assert!(count(daemon, "dropped").await > 0);
        until_replaced(daemon, &inbox).await;
        world.create(&tenant, "scout").await;
        world.mail.log_in(&inbox).await;
    })
    .await;
}

#[tokio::test]
async fn a_hash_stays_where_the_configuration_says_so() {
    let folder_of_test = Folder::new();
    let extra = "import.replace_costly_hashes = false\n";
    World::run_in(folder_of_test, Database::Sqlite, extra, async |world| {
        let tenant = world.tenant("Moved").await;
        let inbox = import(&world.daemon, &tenant, "moved", BCRYPT, "secret").await;
        // What a daemon with another configuration left.
        let left = folder(&world.daemon);
        assert!(!left.exists());
        world.daemon.stop().await;
        fs::create_dir(&left).unwrap();
        fs::write(left.join("lease"), "x").unwrap();
        world.daemon.up().await;
        assert!(!left.exists());
        world.mail.log_in(&inbox).await;
        world.mail.log_in(&inbox).await;
        assert!(entry(&world.daemon, &inbox).contains(BCRYPT));
        for outcome in ["replaced", "kept", "stale", "failed", "dropped", "malformed"] {
            assert_eq!(count(&world.daemon, outcome).await, 0, "{outcome}");
        }
        assert_whole(&world.daemon).await;
    })
    .await;
}
