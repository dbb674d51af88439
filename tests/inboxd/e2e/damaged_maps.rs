//! Maps that are older than the store, cut short, empty, garbage or missing: when the daemon answers again they are right,
//! as Dovecot and Postfix see them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use inboxd::stack::private::Kind;
use serde_json::json;

use crate::support::{
    Folder,
    api::Api,
    attempt,
    inbox::Inbox,
    maps::{Postmap, TABLES, assert_equal},
    show::show,
    store::open,
    world::World,
};

/// What befalls a file or a folder: its name, and what is done, given the same as it was before the last changes.
type Damage = (&'static str, fn(path: &Path, before: &Path));

const TO_FILES: &[Damage] = &[
    ("is older", put_back),
    ("is cut short", |path, _| {
        let octets = fs::metadata(path).unwrap().len();
        resize(path, octets / 2);
    }),
    ("ends with a half page", |path, _| {
        let octets = fs::metadata(path).unwrap().len();
        resize(path, octets.saturating_sub(100));
    }),
    ("is empty", |path, _| resize(path, 0)),
    ("is garbage", |path, _| {
        let octets = fs::metadata(path).unwrap().len();
        fs::write(path, vec![0xa5; usize::try_from(octets).unwrap()]).unwrap();
    }),
    ("is all zeros", |path, _| {
        let octets = fs::metadata(path).unwrap().len();
        resize(path, 0);
        resize(path, octets);
    }),
    ("is missing", |path, _| fs::remove_file(path).unwrap()),
];

const TO_FOLDERS: &[Damage] = &[
    ("is older", put_back),
    ("is empty", |path, _| {
        fs::remove_dir_all(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("is missing", |path, _| fs::remove_dir_all(path).unwrap()),
];

fn resize(path: &Path, octets: u64) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(octets)
        .unwrap();
}

/// Puts a copy back in place, as from a backup.
fn put_back(path: &Path, before: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    if before.exists() {
        copy(before, path);
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
}

/// Who must be let in, and who not.
struct Promised {
    ada: Inbox,
    new: Inbox,
    gone: Inbox,
}

/// Changes of every kind, one of them before a copy of the maps is made.
async fn change(world: &World, tenant: &Api, copied: &Path) -> Promised {
    let (ada, gone) = world.ada_and_gone(tenant).await;
    copy(&world.daemon.maps(), copied);
    let path = format!("/v1/inboxes/{}/rotate-password", ada.id);
    let rotated = tenant.post(&path, &json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    world.delete(tenant, &gone).await;
    Promised {
        ada: ada.with_password(rotated.text("imapPassword")),
        new: world.create(tenant, "new").await,
        gone,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befell_the_maps_they_are_right_when_the_daemon_answers() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let outside = Folder::new();
        let before = outside.join("before");
        let promised = change(world, &tenant, &before).await;
        let postmap = Postmap::new(&outside);
        let db = open(&world.daemon.store_url).await;
        let layout = world.daemon.maps_layout();
        // It would have the files open that are cut short here. Dovecot reads them anew for every login.
        world.take_down(Kind::Postfix).await;

        let entries = Path::new("passdb").join(world.domain());
        let mut tables: Vec<PathBuf> = TABLES
            .iter()
            .map(|name| Path::new("postfix").join(name).with_extension("lmdb"))
            .collect();
        tables.push("signer/signing_keys.lmdb".into());
        let names = ["ada", "new", "gone"].map(|name| entries.join(name));
        let everything: Vec<PathBuf> = names[..2].iter().chain(&tables).cloned().collect();
        let mut files: Vec<Vec<PathBuf>> = everything.iter().map(|path| vec![path.clone()]).collect();
        files.extend([tables, everything]);
        let folders: Vec<Vec<PathBuf>> = ["passdb", "postfix", "signer", ""]
            .into_iter()
            .map(PathBuf::from)
            .chain([entries])
            .map(|path| vec![path])
            .collect();
        let cases = [(files, TO_FILES), (folders, TO_FOLDERS)];
        let mut tried = 0;
        for (which, damages) in &cases {
            for (paths, (what, damage)) in which
                .iter()
                .flat_map(|paths| damages.iter().map(move |damage| (paths, damage)))
            {
                // Shown only if the test fails.
                println!("{paths:?} {what}");
                assert_eq!(world.daemon.stop().await.code(), Some(0));
                for path in paths {
                    damage(&world.daemon.maps().join(path), &before.join(path));
                }
                world.daemon.up().await;
                assert_equal(&db, &layout).await;
                for inbox in [&promised.ada, &promised.new] {
                    attempt::imap(&world.mail, inbox).await.unwrap();
                    for table in ["recipients", "sender_logins"] {
                        let found = postmap.query(&layout, table, &inbox.email).unwrap();
                        assert!(found.starts_with(&inbox.id), "{table}: {found}");
                    }
                }
                assert_eq!(postmap.query(&layout, "recipients", &promised.gone.email), None);
                assert_eq!(
                    postmap.query(&layout, "domains", world.domain()).as_deref(),
                    Some("1")
                );
                tried += 1;
            }
        }
        show(&format!(
            "damaged maps: {tried} kinds, all repaired before the daemon answered"
        ));
        db.close().await;

        world.bring_up(Kind::Postfix).await;
        world.mail.assert_works(&promised.ada, "repaired").await;
        world.mail.assert_works(&promised.new, "repaired").await;
        let gone = &promised.gone;
        world.mail.assert_login_refused(&gone.email, &gone.password).await;
    })
    .await;
}
