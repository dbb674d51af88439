//! Whatever happened to the maps, starting brings them to the store's state.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt as _, chown, symlink},
    },
    path::Path,
};

use inboxd::{
    clock::{Clock as _, Machine},
    maps::{Layout, Maps},
    model::maps::MapKey,
    ops::{condition::Condition, inboxes},
    store::SessionsToEnd,
};

use super::Rig;
use crate::support::{
    maps::{Running, TABLES, assert_equal, edit, until_published},
    service::tenant_caller,
    store::{address, fresh_id},
};

/// Something that goes wrong while no inboxd runs: its name, and what it does to the maps.
type Damage = (&'static str, fn(&Layout));

const DAMAGES: &[Damage] = &[
    ("an entry is missing", |layout| remove(&entry(layout, "a-b"))),
    ("an entry is empty", |layout| write(&entry(layout, "a-b"), "")),
    ("an entry is cut short", |layout| {
        let whole = fs::read(entry(layout, "a.b")).unwrap();
        fs::write(entry(layout, "a.b"), &whole[..whole.len() / 2]).unwrap();
    }),
    ("an entry says something else", |layout| {
        write(&entry(layout, "ab"), "ab@inboxd.test:{PLAIN}x:0:0::/root::\n");
    }),
    ("an entry nobody asked for", |layout| {
        write(&entry(layout, "zz"), "zz@inboxd.test:{PLAIN}x:0:0::/root::\n");
    }),
    ("an entry of a domain nobody has", |layout| {
        fs::create_dir(layout.passdb().join("evil.example")).unwrap();
        write(&layout.passdb().join("evil.example/root"), "x");
    }),
    ("unfinished files", |layout| {
        write(&entry(layout, ".new-ab"), "half");
        write(&layout.passdb().join(".new-probe"), "probe\n");
    }),
    ("names that no local part has", |layout| {
        for name in ["UPPER", "a b", "a:b", "-a", "a..b", "ä", "a+b"] {
            write(&entry(layout, name), "x");
        }
        let not_text = std::ffi::OsStr::from_bytes(b"a\xff");
        fs::write(layout.passdb().join("inboxd.test").join(not_text), "x").unwrap();
        fs::write(layout.passdb().join(not_text), "x").unwrap();
    }),
    ("folders where none belong", |layout| {
        fs::create_dir_all(entry(layout, "folder/in/folder")).unwrap();
        fs::create_dir_all(layout.passdb().join("no domain/x")).unwrap();
        fs::create_dir(layout.passdb().join("INBOXD.test")).unwrap();
        write(&layout.passdb().join("INBOXD.test/ab"), "x");
    }),
    ("a folder where an entry belongs", |layout| {
        remove(&entry(layout, "ab"));
        fs::create_dir_all(entry(layout, "ab/x")).unwrap();
    }),
    ("a file where a domain's folder belongs", |layout| {
        fs::remove_dir_all(layout.passdb().join("inboxd.test")).unwrap();
        write(&layout.passdb().join("inboxd.test"), "x");
    }),
    ("links", |layout| {
        remove(&entry(layout, "ab"));
        symlink("/etc/passwd", entry(layout, "ab")).unwrap();
        symlink("/etc", layout.passdb().join("link.example")).unwrap();
    }),
    ("wrong modes and owners", |layout| {
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&entry(layout, "ab"), 0o600);
        chown(entry(layout, "a.b"), Some(0), Some(0)).unwrap();
        chown(entry(layout, "a-b"), Some(layout.postfix_gid), None).unwrap();
        mode(&layout.passdb().join("inboxd.test"), 0o700);
        mode(&layout.passdb(), 0o777);
        mode(&layout.postfix(), 0o700);
        mode(&table(layout, "recipients"), 0o666);
        mode(&layout.root, 0o700);
    }),
    ("what an earlier release left", |layout| {
        // A table that has another name now, an entry without a SASL name, and an address as the owner of a sender.
        fs::rename(table(layout, "recipients"), table(layout, "mailboxes")).unwrap();
        let line = fs::read_to_string(entry(layout, "ab")).unwrap();
        let sasl_name = line.split(':').nth(4).unwrap().to_owned();
        write(&entry(layout, "ab"), &line.replace(&sasl_name, ""));
        put(layout, "sender_logins", b"ab@inboxd.test\0", b"ab@inboxd.test\0");
    }),
    ("entries missing from the tables", |layout| {
        for name in ["domains", "recipients", "sender_logins"] {
            edit(&table(layout, name), |database, txn| {
                let (key, _) = database.first(txn).unwrap().unwrap();
                let key = key.to_vec();
                assert!(database.delete(txn, &key).unwrap());
            });
        }
    }),
    ("wrong values in the tables", |layout| {
        put(layout, "sender_logins", b"ab@inboxd.test\0", b"a-b@inboxd.test\0");
        put(layout, "recipients", b"ab@inboxd.test\0", b"1");
        put(layout, "domains", b"inboxd.test\0", b"2\0");
        put(layout, "aliases", b"ab@inboxd.test\0", b"a-b@inboxd.test\0");
    }),
    ("junk in the tables", |layout| {
        for name in TABLES {
            put(layout, name, b"ab@inboxd.test", b"x");
            put(layout, name, b"zz@inboxd.test\0", b"zz@inboxd.test\0");
            put(layout, name, b"evil.example\0", b"1\0");
            put(layout, name, b"@inboxd.test\0", b"ab@inboxd.test\0");
            put(layout, name, b"UPPER@inboxd.test\0", b"x\0");
            put(layout, name, b"\xff\0", b"x\0");
            put(layout, name, b"\0", b"x\0");
        }
    }),
    ("empty tables", |layout| {
        for name in TABLES {
            fs::write(table(layout, name), "").unwrap();
        }
    }),
    ("tables full of garbage", |layout| {
        for (name, garbage) in TABLES.into_iter().zip([1, 4096, 8192, 100_000]) {
            fs::write(table(layout, name), vec![0xa5_u8; garbage]).unwrap();
        }
    }),
    ("tables that end too early", |layout| {
        for (name, octets) in [("recipients", 8192), ("sender_logins", 5000), ("domains", 100)] {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(table(layout, name))
                .unwrap();
            assert!(file.metadata().unwrap().len() > octets);
            file.set_len(octets).unwrap();
        }
    }),
    ("pages that a power cut left unwritten", |layout| {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(table(layout, "recipients"))
            .unwrap();
        for page in 2..file.metadata().unwrap().len() / 4096 {
            file.write_all_at(&[0; 4096], page * 4096).unwrap();
        }
    }),
    ("pages full of garbage", |layout| {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(table(layout, "sender_logins"))
            .unwrap();
        for page in 2..file.metadata().unwrap().len() / 4096 {
            // Headers of a leaf, and then anything.
            let mut octets = [0xff_u8; 4096];
            octets[..8].copy_from_slice(&page.to_le_bytes());
            octets[8..16].copy_from_slice(&[0, 0, 2, 0, 64, 0, 100, 0]);
            file.write_all_at(&octets, page * 4096).unwrap();
        }
    }),
    ("tables are gone", |layout| {
        for name in TABLES {
            remove(&table(layout, name));
        }
    }),
    ("everything is gone", |layout| {
        fs::remove_dir_all(&layout.root).unwrap();
    }),
];

fn entry(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout.passdb().join("inboxd.test").join(name)
}

fn table(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout.postfix().join(name).with_extension("lmdb")
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn put(layout: &Layout, name: &str, key: &[u8], value: &[u8]) {
    edit(&table(layout, name), |database, txn| {
        database.put(txn, key, value).unwrap();
    });
}

#[tokio::test]
async fn starting_repairs_every_damage() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    for name in ["a-b", "a.b", "a_b", "ab", "b"] {
        rig.create(name).await;
    }
    // Enough of them for tables of several levels.
    let mut tx = db.write().await.unwrap();
    for number in 0..300 {
        let email = format!("many-{number}@many.example");
        crate::support::store::add_inbox(&mut tx, &rig.acme, rig.acme.default_workspace, &email, None).await;
    }
    tx.commit().await.unwrap();
    Running::start(db, &rig.layout).await.stop().await;
    assert_equal(db, &rig.layout).await;
    for (name, damage) in DAMAGES {
        println!("{name}");
        damage(&rig.layout);
        let running = Running::start(db, &rig.layout).await;
        assert_equal(db, &rig.layout).await;
        // And they can be written.
        let key = MapKey::parse("ab@inboxd.test").unwrap();
        running.publisher.publish(vec![key]).await.unwrap();
        running.stop().await;
        assert_equal(db, &rig.layout).await;
    }
}

#[tokio::test]
async fn whole_maps_are_left_alone_at_start() {
    let rig = Rig::new().await;
    rig.create("scout").await;
    Running::start(&rig.store.db, &rig.layout).await.stop().await;
    let path = entry(&rig.layout, "scout");
    let identity = || {
        let file = fs::metadata(&path).unwrap();
        (
            std::os::unix::fs::MetadataExt::ino(&file),
            file.modified().unwrap(),
        )
    };
    let before = identity();
    Running::start(&rig.store.db, &rig.layout).await.stop().await;
    assert_eq!(identity(), before);
}

#[tokio::test]
async fn what_a_crash_left_marked_is_published_at_start() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let gone = rig.create("gone").await;
    Running::start(db, &rig.layout).await.stop().await;
    rig.create("new").await;
    inboxes::delete(
        &rig.service,
        &tenant_caller(rig.acme.id),
        gone,
        &Condition::none(),
    )
    .await
    .unwrap();
    Running::start(db, &rig.layout).await.stop().await;
    assert_equal(db, &rig.layout).await;
    let left = db.read().await.unwrap().unpublished(None, 10).await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test]
async fn what_is_marked_and_nobody_asked_for_is_published_soon() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let running = Running::start(db, &rig.layout).await;
    // As after a commit whose answer was lost on its way, or by a command beside the daemon.
    rig.create("scout").await;
    until_published(db).await;
    assert_equal(db, &rig.layout).await;
    running.stop().await;
}

#[tokio::test]
async fn a_second_writer_is_refused() {
    let rig = Rig::new().await;
    let first = Maps::open(&rig.layout).unwrap();
    let refused = Maps::open(&rig.layout).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "the maps in {} are already written by another inboxd: stop it first, or give this one another folder (maps.dir)",
            rig.layout.root.display()
        )
    );
    drop(first);
    Maps::open(&rig.layout).unwrap();
}

#[tokio::test]
async fn more_marks_than_a_batch_are_published_at_start() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let mut tx = db.write().await.unwrap();
    for number in 0..600 {
        let email = format!("many-{number}@inboxd.test");
        crate::support::store::add_inbox(&mut tx, &rig.acme, rig.acme.default_workspace, &email, None).await;
        let key = MapKey::Address(address(&email));
        tx.mark_unpublished(&key, fresh_id(), SessionsToEnd::None, Machine.now())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    Running::start(db, &rig.layout).await.stop().await;
    assert_equal(db, &rig.layout).await;
    let left = db.read().await.unwrap().unpublished(None, 10).await.unwrap();
    assert_eq!(left, []);
}
