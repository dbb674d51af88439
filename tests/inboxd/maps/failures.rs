//! Maps that cannot be written now: an error, nothing half done, and later by itself.

use std::{
    fs,
    future::Future,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use inboxd::{
    model::address::Address,
    ops::{condition::Condition, inboxes},
    publish::{self, SessionEnder, SessionsError},
};

use super::Rig;
use crate::support::{
    maps::{Postmap, Running, assert_equal, until_published},
    service::tenant_caller,
    wait::until,
};

/// Another process that holds the lock that Postfix holds around a look-up (`myflock()`: `fcntl`, a read lock on the
/// whole file).
pub(super) struct LookUp(Child);

impl LookUp {
    pub(super) fn hold(table: &Path) -> Self {
        let script = "import fcntl, sys\n\
            f = open(sys.argv[1], 'rb')\n\
            fcntl.lockf(f, fcntl.LOCK_SH)\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(table)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("apt-get install python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something mounted, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], on: &Path) -> Self {
        let mounted = Command::new("mount").args(arguments).arg(on).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        Self(on.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn chain(error: &publish::Error) -> String {
    inboxd::telemetry::chain(error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_look_ups_with_a_deadline() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let running = Running::start(db, &rig.layout).await;
    let (_, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    let table = rig.layout.postfix().join("recipients.lmdb");

    let look_up = LookUp::hold(&table);
    let begun = Instant::now();
    let publishing = tokio::spawn({
        let (publisher, keys) = (running.publisher.clone(), keys.clone());
        async move { publisher.publish(keys).await }
    });
    let error = publishing.await.unwrap().unwrap_err();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(10)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        chain(&error).contains("no turn between look-ups within 5000 ms"),
        "{}",
        chain(&error)
    );
    let postmap = Postmap::new(&rig.folder);
    assert_eq!(
        postmap.query(&rig.layout, "recipients", "scout@inboxd.test"),
        None,
        "Postfix does not accept what was not acknowledged"
    );

    // One that is let in before the deadline goes through.
    let publishing = tokio::spawn({
        let publisher = running.publisher.clone();
        async move { publisher.publish(keys).await }
    });
    look_up.release();
    publishing.await.unwrap().unwrap();
    assert_equal(db, &rig.layout).await;
    until_published(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_and_what_was_refused_is_published_when_there_is_room() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    fs::create_dir(&rig.layout.root).unwrap();
    let _mount = Mount::new(
        &["-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs"],
        &rig.layout.root,
    );
    let running = Running::start(db, &rig.layout).await;
    let (_, keys) = crate::support::service::created(&rig.service, rig.acme.id, "first").await;
    running.publisher.publish(keys).await.unwrap();

    let ballast = rig.layout.root.join("ballast");
    let mut filling = fs::File::create(&ballast).unwrap();
    while filling.write_all(&[0; 4096]).is_ok() {}
    drop(filling);
    let (_, keys) = crate::support::service::created(&rig.service, rig.acme.id, "second").await;
    let error = running.publisher.publish(keys.clone()).await.unwrap_err();
    assert!(chain(&error).contains("No space left"), "{}", chain(&error));
    assert!(running.maps.probe().is_err());
    let entry = rig.layout.passdb().join("inboxd.test/second");
    assert!(!entry.exists(), "no half of it");
    let folder = rig.layout.passdb().join("inboxd.test");
    let left: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["first"], "no unfinished files");

    // A page short of enough: the entry fits, the table's new pages do not.
    for free in [4096_u64, 8192, 12_288] {
        let file = fs::OpenOptions::new().write(true).open(&ballast).unwrap();
        let full = file.metadata().unwrap().len();
        file.set_len(full / 4096 * 4096 - free).unwrap();
        let refused = running.publisher.publish(keys.clone()).await;
        if let Err(error) = refused {
            assert!(chain(&error).contains("No space left"), "{}", chain(&error));
        }
    }
    fs::remove_file(&ballast).unwrap();
    until_published(db).await;
    assert_equal(db, &rig.layout).await;
    running.maps.probe().unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maps_that_became_read_only_are_an_error_until_they_are_writable() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let running = Running::start(db, &rig.layout).await;
    let root = rig.layout.root.display().to_string();
    let (_, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    {
        let _bind = Mount::new(&["--bind", &root], &rig.layout.root);
        let _read_only = Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(&rig.layout.root)
            .status()
            .unwrap();
        let error = running.publisher.publish(keys).await.unwrap_err();
        assert!(chain(&error).contains("Read-only"), "{}", chain(&error));
    }
    until_published(db).await;
    assert_equal(db, &rig.layout).await;
    running.stop().await;
}

#[tokio::test]
async fn a_table_that_somebody_replaced_is_an_error_and_no_silence() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let running = Running::start(db, &rig.layout).await;
    let table = rig.layout.postfix().join("recipients.lmdb");
    fs::copy(&table, table.with_extension("copy")).unwrap();
    fs::rename(table.with_extension("copy"), &table).unwrap();
    let (_, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    let error = running.publisher.publish(keys).await.unwrap_err();
    assert!(chain(&error).contains("removed or replaced"), "{}", chain(&error));
    assert!(running.maps.probe().is_err(), "/readyz would not tell");
    running.stop().await;
    Running::start(db, &rig.layout).await.stop().await;
    assert_equal(db, &rig.layout).await;
}

/// Ends no sessions while it is told not to.
#[derive(Default)]
struct Stubborn {
    refuses: AtomicBool,
    ended: AtomicUsize,
}

impl SessionEnder for Stubborn {
    fn end_sessions<'a>(
        &'a self,
        _: &'a Address,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionsError>> + Send + 'a>> {
        Box::pin(async move {
            if self.refuses.load(Ordering::Relaxed) {
                return Err(SessionsError("it hangs".into()));
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_cannot_be_ended_fail_their_own_call_and_stop_no_start() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let sessions = Arc::new(Stubborn::default());
    let enders = || Some(Arc::clone(&sessions) as Arc<dyn SessionEnder>);
    let running = Running::try_start(db, &rig.layout, enders()).await.unwrap();
    let (created, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    running.publisher.publish(keys).await.unwrap();
    assert_eq!(
        sessions.ended.load(Ordering::Relaxed),
        0,
        "a new inbox has no sessions"
    );

    sessions.refuses.store(true, Ordering::Relaxed);
    let caller = tenant_caller(rig.acme.id);
    let rotated = inboxes::rotate_password(&rig.service, &caller, created.inbox.id)
        .await
        .unwrap();
    let (_, others) = crate::support::service::created(&rig.service, rig.acme.id, "other").await;
    let (refused, other) = tokio::join!(
        running.publisher.publish(rotated.publish),
        running.publisher.publish(others)
    );
    assert!(matches!(refused, Err(publish::Error::Sessions(_))), "{refused:?}");
    other.unwrap();
    assert_equal(db, &rig.layout).await;
    running.stop().await;

    let running = Running::try_start(db, &rig.layout, enders())
        .await
        .expect("a start does not depend on sessions");
    sessions.refuses.store(false, Ordering::Relaxed);
    until_published(db).await;
    until("the session is ended", || async {
        (sessions.ended.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;
    running.stop().await;
}

/// Ends sessions when it is told to, and not before.
struct Hanging(tokio::sync::Semaphore);

impl SessionEnder for Hanging {
    fn end_sessions<'a>(
        &'a self,
        _: &'a Address,
    ) -> Pin<Box<dyn Future<Output = Result<(), SessionsError>> + Send + 'a>> {
        Box::pin(async move {
            self.0.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_take_their_time_hold_up_nobody_else() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let hanging = Arc::new(Hanging(tokio::sync::Semaphore::new(0)));
    let ender = Some(Arc::clone(&hanging) as Arc<dyn SessionEnder>);
    let running = Running::try_start(db, &rig.layout, ender).await.unwrap();
    let (scout, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    running.publisher.publish(keys).await.unwrap();

    let caller = tenant_caller(rig.acme.id);
    let deleted = inboxes::delete(&rig.service, &caller, scout.inbox.id, &Condition::none())
        .await
        .unwrap();
    let publisher = running.publisher.clone();
    let deleting = tokio::spawn(async move { publisher.publish(deleted.publish).await });
    let entry = rig.layout.passdb().join("inboxd.test/scout");
    until("the login is cut", || {
        std::future::ready((!entry.exists()).then_some(()))
    })
    .await;
    for number in 0..20 {
        let (_, keys) =
            crate::support::service::created(&rig.service, rig.acme.id, &format!("other{number}")).await;
        running.publisher.publish(keys).await.unwrap();
    }
    assert!(
        !deleting.is_finished(),
        "the delete was answered although a session may be open"
    );
    hanging.0.add_permits(1);
    deleting.await.unwrap().unwrap();
    until_published(db).await;
    assert_equal(db, &rig.layout).await;
    running.stop().await;
}
