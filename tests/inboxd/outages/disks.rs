//! Disks that are full, or can only be read.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::{CALLERS, SOME};
use crate::support::{
    Folder,
    callers::Callers,
    daemon::{Daemon, Database},
    mount::{PowerDisk, SmallDisk},
};

/// What is on the disk that becomes full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Full {
    Store,
    Maps,
    Both,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disk_of_the_store_is_full_creates_wait_for_room() {
    assert_goes_on_when_there_is_room(Full::Store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disk_of_the_maps_is_full_creates_wait_for_room() {
    assert_goes_on_when_there_is_room(Full::Maps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_one_disk_of_everything_is_full_creates_wait_for_room() {
    assert_goes_on_when_there_is_room(Full::Both).await;
}

async fn assert_goes_on_when_there_is_room(full: Full) {
    let outside = Folder::new();
    // In this order they are dropped: the daemon before its disks, and the inner disk before the outer one.
    let outer = SmallDisk::at(&outside.join("disk"), "24m");
    let folder = Folder::inside(&outside.join("disk"));
    let inner = (full != Full::Both).then(|| SmallDisk::at(&folder.join("maps"), "8m"));
    log_outside(&folder, outside.path());
    let daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    let acme = daemon.tenant("Acme").await;
    let disk = match (full, &inner) {
        (Full::Maps, Some(inner)) => inner,
        _ => &outer,
    };

    let callers = Callers::start(&acme, "full", CALLERS);
    for _ in 0..3 {
        callers.until_created(SOME).await;
        let refused = callers.refused();
        disk.fill();
        callers.until_refused(refused + SOME).await;
        // What exists is found all the same.
        assert_eq!(acme.get("/v1/inboxes").await.status, 200);
        disk.empty();
        callers.until_created(SOME).await;
    }
    let codes = callers.codes();
    let expected: &[&str] = match full {
        Full::Store => &["STORE_UNAVAILABLE"],
        Full::Maps => &["MAIL_STACK_UNAVAILABLE"],
        Full::Both => &["MAIL_STACK_UNAVAILABLE", "STORE_UNAVAILABLE"],
    };
    assert!(
        codes.iter().all(|code| expected.contains(&code.as_str())),
        "{codes:?}"
    );
    callers.assert_all_hold(&daemon).await;
}

/// The daemon's log goes where there is room for it.
fn log_outside(folder: &Folder, outside: &Path) {
    symlink(outside.join("inboxd.log"), folder.join("inboxd.log")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_became_read_only_takes_no_promise_and_loses_none() {
    let disk = PowerDisk::new(128 << 20);
    let folder = Folder::inside(&disk.mounted());
    symlink(disk.beside("inboxd.log"), folder.join("inboxd.log")).unwrap();
    let mut daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    let acme = daemon.tenant("Acme").await;
    // What the set-up wrote is nobody's promise.
    disk.flush();
    let mut callers = Callers::start(&acme, "read-only", CALLERS);
    callers.until_created(SOME).await;
    disk.fail();
    callers.until_refused(SOME).await;
    let created = callers.created();
    callers.until_refused(SOME + SOME).await;
    assert_eq!(callers.created(), created, "a promise that cannot be written");
    // Nobody may be in the middle of a request when it goes.
    callers.hang_up().await;
    daemon.kill();
    disk.come_back().await;
    daemon.up().await;
    callers.assert_all_hold(&daemon).await;
}

#[tokio::test]
async fn on_a_read_only_disk_the_daemon_does_not_start_and_says_why() {
    let outside = Folder::new();
    let disk = SmallDisk::at(&outside.join("disk"), "24m");
    let folder = Folder::inside(&outside.join("disk"));
    log_outside(&folder, outside.path());
    let mut daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    daemon.stop().await;
    disk.read_only(true);
    daemon.spawn();
    assert_eq!(daemon.ended().await.code(), Some(1), "{}", daemon.log());
    let log = daemon.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("open the store")
            && (last.contains("readonly database") || last.contains("Read-only file system")),
        "{last}"
    );
    disk.read_only(false);
    daemon.up().await;
    assert!(fs::exists(daemon.maps()).unwrap());
}
