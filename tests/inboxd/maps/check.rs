//! `inboxd maps check` and `inboxd maps rebuild`, beside a daemon that runs: every kind of difference is told and put right.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};

use crate::support::{
    api::Api,
    daemon::{Daemon, Database},
    maps::edit,
    world::World,
};

/// Something that goes wrong while the daemon runs, and what a check prints of it.
type Harm = (fn(&Path), &'static [&'static str]);

const HARMS: &[Harm] = &[
    (
        |maps| fs::remove_file(maps.join("passdb/inboxd.test/a")).unwrap(),
        &["passdb a@inboxd.test: missing"],
    ),
    (
        |maps| fs::write(maps.join("passdb/inboxd.test/a"), "a@inboxd.test:{PLAIN}x:::::\n").unwrap(),
        &["passdb a@inboxd.test: says something else than the store"],
    ),
    (
        |maps| {
            fs::write(
                maps.join("passdb/inboxd.test/zz"),
                "zz@inboxd.test:{PLAIN}x:::::\n",
            )
            .unwrap();
        },
        &["passdb zz@inboxd.test: nothing in the store asks for it"],
    ),
    (
        |maps| mode(&maps.join("passdb/inboxd.test/b"), 0o600),
        &["passdb b@inboxd.test: has a wrong owner, group or mode"],
    ),
    (
        |maps| mode(&maps.join("passdb/inboxd.test"), 0o700),
        &["passdb inboxd.test: has a wrong owner, group or mode"],
    ),
    (
        |maps| fs::write(maps.join("passdb/inboxd.test/.new-a"), "half").unwrap(),
        &["passdb inboxd.test/.new-a: is nothing that inboxd writes"],
    ),
    (
        |maps| fs::remove_dir_all(maps.join("passdb/inboxd.test")).unwrap(),
        &["passdb a@inboxd.test: missing", "passdb b@inboxd.test: missing"],
    ),
    (
        |maps| {
            edit(&maps.join("postfix/recipients.lmdb"), |database, txn| {
                assert!(database.delete(txn, b"a@inboxd.test\0").unwrap());
            });
        },
        &["recipients a@inboxd.test: missing"],
    ),
    (
        |maps| put(maps, "sender_logins", b"a@inboxd.test\0", b"b@inboxd.test\0"),
        &["sender_logins a@inboxd.test: says something else than the store"],
    ),
    (
        |maps| put(maps, "aliases", b"zz@inboxd.test\0", b"a@inboxd.test\0"),
        &["aliases zz@inboxd.test: nothing in the store asks for it"],
    ),
    (
        |maps| put(maps, "domains", b"evil.example\0", b"1\0"),
        &["domains evil.example: nothing in the store asks for it"],
    ),
    (
        |maps| put(maps, "recipients", b"@inboxd.test\0", b"1\0"),
        &["recipients @inboxd.test\\0: is nothing that inboxd writes"],
    ),
    (
        |maps| put(maps, "recipients", b"a@inboxd.test\0", &[b'x'; 5_000]),
        &["recipients a@inboxd.test: says something else than the store"],
    ),
    (
        |maps| mode(&maps.join("postfix/recipients.lmdb"), 0o600),
        &["recipients: has a wrong owner, group or mode"],
    ),
    (
        |maps| fs::remove_file(maps.join("postfix/recipients.lmdb")).unwrap(),
        &["recipients: missing"],
    ),
    (
        |maps| {
            // Another file: the daemon has the good one open.
            let table = maps.join("postfix/sender_logins.lmdb");
            fs::remove_file(&table).unwrap();
            fs::write(&table, vec![0xa5; 100_000]).unwrap();
        },
        &[
            "sender_logins: has a wrong owner, group or mode",
            "sender_logins: is damaged",
        ],
    ),
    (
        |maps| {
            let table = maps.join("postfix/domains.lmdb");
            fs::remove_file(&table).unwrap();
            fs::write(&table, "").unwrap();
        },
        &["domains: is damaged"],
    ),
    (
        |maps| fs::remove_dir_all(maps.join("passdb")).unwrap(),
        &["passdb: missing"],
    ),
    (
        |maps| fs::remove_dir_all(maps.join("postfix")).unwrap(),
        &[
            "aliases: missing",
            "domains: missing",
            "postfix: missing",
            "recipients: missing",
            "sender_logins: missing",
        ],
    ),
];

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn put(maps: &Path, table: &str, key: &[u8], value: &[u8]) {
    let table = maps.join("postfix").join(table).with_extension("lmdb");
    edit(&table, |database, txn| {
        database.put(txn, key, value).unwrap();
    });
}

const CHECK: &[&str] = &["maps", "check", "--no-dovecot"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_is_told_and_a_rebuild_puts_it_right_with_no_restart() {
    for database in Database::ALL {
        let daemon = Daemon::start(database).await;
        let tenant = daemon.tenant("Acme").await;
        for name in ["a", "b"] {
            create(&tenant, name).await;
        }
        let clean = "0 differences in 2 addresses and 1 domains; Dovecot not asked; 0 being published\n";
        assert_eq!(daemon.command(CHECK).await, (0, clean.to_owned()));
        for (harm, told) in HARMS {
            harm(&daemon.maps());
            let (status, text) = daemon.command(CHECK).await;
            let mut lines: Vec<&str> = text.lines().collect();
            let summary = lines.pop().unwrap();
            assert_eq!((status, &lines[..]), (1, *told), "{database:?}");
            assert!(
                summary.starts_with(&format!("{} differences in ", told.len())),
                "{summary}"
            );
            let (status, text) = daemon.command(&["maps", "rebuild"]).await;
            assert_eq!(status, 0, "{text}");
            assert!(
                text.starts_with("written anew by the daemon: 2 mailboxes, 0 aliases, 1 domains; "),
                "{told:?} {text}"
            );
            assert_eq!(
                daemon.command(CHECK).await,
                (0, clean.to_owned()),
                "after {told:?}"
            );
        }
        // And it publishes into what it made.
        create(&tenant, "c").await;
        let clean = "0 differences in 3 addresses and 1 domains; Dovecot not asked; 0 being published\n";
        assert_eq!(daemon.command(CHECK).await, (0, clean.to_owned()));
    }
}

/// Creates an inbox.
async fn create(tenant: &Api, username: &str) {
    let created = tenant.post("/v1/inboxes", &json!({ "username": username })).await;
    assert_eq!(created.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_checked_is_no_difference_and_no_success() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    create(&daemon.tenant("Acme").await, "a").await;
    let (status, text) = daemon.command(&["maps", "check"]).await;
    assert_eq!(status, 2, "{text}");
    assert!(
        text.contains("Dovecot was not asked on: there is no Dovecot to ask: no Dovecot is running"),
        "{text}"
    );
    for (setting, why) in [
        (
            "store.url=sqlite:/nowhere/inboxd.db",
            "there is no store /nowhere/inboxd.db",
        ),
        ("maps.dir=/nowhere", "look at the folder /nowhere: No such file"),
    ] {
        let (status, text) = daemon
            .command(&["maps", "check", "--no-dovecot", "--set", setting])
            .await;
        assert_eq!(status, 2, "{text}");
        assert!(text.contains(why), "{text}");
    }
    let (status, text) = daemon
        .command(&["maps", "check", "--set", "maps.passdb_group=nobody-has-it"])
        .await;
    assert_eq!(status, 78, "{text}");
    // A folder where a table belongs.
    daemon.stop().await;
    let table = daemon.maps().join("postfix/aliases.lmdb");
    fs::remove_file(&table).unwrap();
    fs::create_dir(&table).unwrap();
    let (status, text) = daemon.command(CHECK).await;
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("aliases.lmdb"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_tells_what_dovecot_answers() {
    World::run(async |world: &mut World| {
        let tenant = world.daemon.tenant("Acme").await;
        for name in ["a", "b"] {
            create(&tenant, name).await;
        }
        let check = ["maps", "check"];
        let clean = "0 differences in 2 addresses and 1 domains; 2 asked of Dovecot; 0 being published\n";
        assert_eq!(world.daemon.command(&check).await, (0, clean.to_owned()));

        let entry = world.daemon.maps().join("passdb/inboxd.test/a");
        let line = fs::read_to_string(&entry).unwrap();
        fs::write(&entry, line.replace("rounds=1000", "rounds=1001")).unwrap();
        fs::remove_file(world.daemon.maps().join("passdb/inboxd.test/b")).unwrap();
        let (status, text) = world.daemon.command(&["maps", "check", "--json"]).await;
        let found: Value = serde_json::from_str(&text).unwrap();
        let difference = |map: &str, key: &str, what: &str| json!({ "map": map, "key": key, "what": what });
        assert_eq!(
            (status, &found["differences"]),
            (
                1,
                &json!([
                    difference("passdb", "a@inboxd.test", "says something else than the store"),
                    difference("passdb", "b@inboxd.test", "missing"),
                    difference(
                        "dovecot",
                        "a@inboxd.test",
                        "Dovecot reads another password than the store's"
                    ),
                    difference("dovecot", "b@inboxd.test", "Dovecot knows no such login"),
                ])
            )
        );
        assert_eq!(world.daemon.command(&["maps", "rebuild"]).await.0, 0);
        assert_eq!(world.daemon.command(&check).await, (0, clean.to_owned()));
    })
    .await;
}
