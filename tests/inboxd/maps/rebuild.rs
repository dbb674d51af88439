//! `inboxd maps rebuild`: in place, under load, and where no daemon runs.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::support::{
    daemon::{Daemon, Database},
    maps::{Postmap, layout},
    wait::until,
};

const CHECK: &[&str] = &["maps", "check", "--no-dovecot"];
const REBUILD: &[&str] = &["maps", "rebuild"];
const CREATORS: usize = 4;
/// Inboxes that are there at first: more than one step of a rebuild that lets others go first.
const STABLE: usize = 600;
/// Rebuilds under load.
const REBUILDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_and_creations_go_on_while_everything_is_written_anew() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Acme").await;
    let create = async |name: String| {
        let created = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
        assert_eq!(created.status, 201);
    };
    let names = (0..STABLE).map(|number| create(format!("stable-{number}")));
    at_once(names).await;

    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (stop, postmap, layout) = (
            Arc::clone(&stop),
            Postmap::new(&daemon.folder),
            layout(&daemon.folder),
        );
        std::thread::spawn(move || {
            let mut look_ups = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for name in ["stable-0", "stable-299", "stable-599"] {
                    let key = format!("{name}@inboxd.test");
                    let found = postmap.query(&layout, "recipients", &key).unwrap();
                    assert!(
                        found.ends_with(&format!("={name}=inboxd.test@inboxd.invalid")),
                        "{found}"
                    );
                    let line = fs::read_to_string(layout.passdb().join("inboxd.test").join(name)).unwrap();
                    assert!(
                        line.starts_with(&format!("{key}:{{")) && line.ends_with("::\n"),
                        "{line}"
                    );
                    look_ups += 1;
                }
            }
            look_ups
        })
    };
    let made = AtomicU64::new(0);
    let rebuilding = async {
        let mut made_meanwhile = Vec::new();
        for _ in 0..REBUILDS {
            let before = made.load(Ordering::Relaxed);
            let (status, text) = daemon.command(REBUILD).await;
            assert_eq!(status, 0, "{text}");
            assert!(!text.contains("postfix reload"), "{text}");
            made_meanwhile.push(made.load(Ordering::Relaxed) - before);
        }
        stop.store(true, Ordering::Relaxed);
        made_meanwhile
    };
    let creating = futures_util::future::join_all((0..CREATORS).map(|creator| {
        let (create, stop, made) = (&create, &stop, &made);
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                create(format!("new-{creator}-{number}")).await;
                made.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        }
    }));
    let (made_meanwhile, _) = tokio::join!(rebuilding, creating);
    assert!(reader.join().unwrap() > 0);
    assert!(
        made_meanwhile.iter().all(|&made| made > 0),
        "creations waited for a rebuild: {made_meanwhile:?}"
    );
    let total = STABLE as u64 + made.load(Ordering::Relaxed);
    let (status, text) = daemon.command(CHECK).await;
    assert_eq!(
        (status, text),
        (
            0,
            format!(
                "0 differences in {total} addresses and 1 domains; Dovecot not asked; 0 being published\n"
            )
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_among_many_entries_is_replaced_and_what_is_right_stays_where_it_is() {
    let mut daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Acme").await;
    let create = async |name: String| {
        let created = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
        assert_eq!(created.status, 201);
    };
    at_once((0..STABLE).map(|number| create(format!("stable-{number}")))).await;
    daemon.stop().await;
    let entry = |number: usize| {
        let folder = daemon.maps().join("passdb/inboxd.test");
        folder.join(format!("stable-{number}"))
    };
    let right = fs::metadata(entry(0)).unwrap();
    let line = fs::read_to_string(entry(2)).unwrap();
    fs::remove_file(entry(1)).unwrap();
    fs::write(entry(2), line.to_uppercase()).unwrap();
    fs::write(entry(3), "").unwrap();
    fs::set_permissions(entry(4), fs::Permissions::from_mode(0o600)).unwrap();
    chown(entry(5), Some(1), None).unwrap();
    // What a link leads to is not ours to write.
    let elsewhere = daemon.folder.path().join("elsewhere");
    fs::rename(entry(6), &elsewhere).unwrap();
    symlink(&elsewhere, entry(6)).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(entry(7)).unwrap();
    fs::create_dir(entry(7)).unwrap();

    let (status, text) = daemon.command(REBUILD).await;
    assert_eq!(status, 0, "{text}");
    let (status, text) = daemon.command(CHECK).await;
    assert_eq!(status, 0, "{text}");
    assert_eq!(fs::read_to_string(entry(2)).unwrap(), line);
    assert!(fs::symlink_metadata(entry(6)).unwrap().is_file());
    assert_eq!(fs::metadata(&elsewhere).unwrap().mode() & 0o777, 0o600);
    let now = fs::metadata(entry(0)).unwrap();
    assert_eq!(now.ino(), right.ino(), "an entry that was right is another file");
    assert!(
        now.modified().unwrap() > right.modified().unwrap(),
        "it was not written"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_daemon_the_command_does_it_itself() {
    for database in Database::ALL {
        let mut daemon = Daemon::start(database).await;
        let tenant = daemon.tenant("Acme").await;
        let created = tenant.post("/v1/inboxes", &json!({ "username": "scout" })).await;
        assert_eq!(created.status, 201);
        daemon.stop().await;
        assert!(!daemon.maps().join(".control").exists(), "a socket is left");

        let whole = "written anew without a daemon: 1 mailboxes, 0 aliases, 1 domains; 0 removed that did not belong\n";
        assert_eq!(daemon.command(REBUILD).await, (0, whole.to_owned()));
        fs::remove_dir_all(daemon.maps()).unwrap();
        let (status, text) = daemon.command(REBUILD).await;
        assert_eq!(status, 0, "{text}");
        assert_eq!(daemon.command(CHECK).await.0, 0);
        // There is nothing left to do for a start.
        fs::remove_file(daemon.log_file()).unwrap();
        daemon.up().await;
        assert!(!daemon.log().contains("have been repaired"), "{}", daemon.log());

        // One that was killed leaves its socket, at which nobody listens.
        until_controlled(&daemon).await;
        daemon.kill();
        assert!(daemon.maps().join(".control").exists());
        assert_eq!(daemon.command(REBUILD).await, (0, whole.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_of_which_nothing_is_left_are_made_again_under_the_daemon() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Acme").await;
    let created = tenant.post("/v1/inboxes", &json!({ "username": "first" })).await;
    assert_eq!(created.status, 201);
    fs::remove_dir_all(daemon.maps()).unwrap();
    let refused = tenant.post("/v1/inboxes", &json!({ "username": "second" })).await;
    assert_eq!(refused.status, 503);
    until_controlled(&daemon).await;
    let (status, text) = daemon.command(REBUILD).await;
    assert_eq!(status, 0, "{text}");
    assert!(
        text.starts_with("written anew by the daemon: 2 mailboxes, "),
        "{text}"
    );
    assert!(text.contains("5 tables are new files"), "{text}");
    let completed = tenant.post("/v1/inboxes", &json!({ "username": "second" })).await;
    assert_eq!(completed.status, 201);
    assert_eq!(daemon.command(CHECK).await.0, 0);
}

/// Does all of this, some at the same time.
async fn at_once(all: impl Iterator<Item = impl Future<Output = ()>>) {
    stream::iter(all).buffer_unordered(16).collect::<Vec<()>>().await;
}

/// Waits until the daemon can be asked.
async fn until_controlled(daemon: &Daemon) {
    let socket = daemon.maps().join(".control");
    until("the daemon has its control socket", || {
        std::future::ready(socket.exists().then_some(()))
    })
    .await;
}
