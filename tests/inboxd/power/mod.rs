//! Power cuts. Store, sealing key, maps, mail and both mail servers' own files lie on an ext4 file system on a loop
//! device, which is shut down under load without a flush: what was not flushed by then is lost.
//!
//! A promise must not need a repair: the mail servers start first, and every login and recipient is tried, before the
//! daemon that would repair the maps.

mod ledger;
mod torn;

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;

use self::ledger::{Ledger, Promise};
use crate::support::{
    Folder,
    api::{Answer, Api},
    attempt,
    daemon::Database,
    end_of,
    inbox::Inbox,
    maps::{assert_equal, said, until_published},
    mount::PowerDisk,
    show::show,
    store::open,
    wait::{LIMIT, until},
    world::World,
};

/// How many cuts; see [`CUTS_VARIABLE`].
const CUTS: usize = 6;
/// Names another number of cuts. Not one that begins with `INBOXD_`: those are for the daemon, which refuses what it does not
/// know.
const CUTS_VARIABLE: &str = "POWER_CUTS";
/// Sparse: what is not written takes no space.
const DISK_OCTETS: u64 = 512 << 20;
/// Callers who create, rotate and delete at the same time.
const CALLERS: usize = 8;
/// Answers of 201 after which the power is cut: this many and up to as many again, another number each time.
const CREATED_BEFORE_CUT: usize = 20;
/// Every how many of its inboxes a caller rotates the password of the one before.
const ROTATE_EVERY: usize = 3;
/// Every how many it deletes it.
const DELETE_EVERY: usize = 4;
/// Logins and dialogues at the same time.
const CHECKS_AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_a_power_cut_holds_after_it_without_a_repair() {
    let cuts = std::env::var(CUTS_VARIABLE).map_or(CUTS, |text| text.parse().unwrap());
    let disk = PowerDisk::new(DISK_OCTETS);
    let folder = Folder::inside(&disk.mounted());
    let _log = Log::beside(&disk, &folder);
    World::run_in(folder, Database::Sqlite, "", async |world| {
        // What the set-up wrote is nobody's promise.
        disk.flush();
        let tenant = world.tenant("Acme").await;
        let ledger = Arc::new(Ledger::default());
        let mut unanswered = 0;
        for cut in 0..cuts {
            unanswered += one_cut(world, &disk, &tenant, &ledger, cut).await;
        }
        let everything = ledger.all();
        check(world, &everything, "at the end").await;
        show(&format!(
            "power cuts: {cuts}; creates answered 201: {}, of these rotated {} and deleted {}; not answered, and completed by the same request: {unanswered}; lost: 0",
            everything.len(),
            ledger.rotated(),
            ledger.deleted(),
        ));
        assert!(everything.len() >= cuts * CREATED_BEFORE_CUT);
    })
    .await;
}

/// The daemon's log, where a cut does not reach it: what is said on a dead disk is to be seen when the test fails.
struct Log(PathBuf);

impl Log {
    fn beside(disk: &PowerDisk, folder: &Folder) -> Self {
        let log = disk.beside("inboxd.log");
        symlink(&log, folder.join("inboxd.log")).unwrap();
        Self(log)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.0).unwrap_or_default();
            eprintln!("--- end of the daemon's log ---\n{}", end_of(&log));
        }
    }
}

/// Load, a cut, and everything tried that was promised since the last one. How many requests were left unanswered.
async fn one_cut(
    world: &mut World,
    disk: &PowerDisk,
    tenant: &Api,
    ledger: &Arc<Ledger>,
    cut: usize,
) -> usize {
    let before = ledger.all().len();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            tokio::spawn(call(
                tenant.clone(),
                Arc::clone(ledger),
                format!("cut-{cut}-{caller}"),
            ))
        })
        .collect();
    // Not a divisor of anything here: each cut comes at another moment of the work.
    let wanted = before + CREATED_BEFORE_CUT + cut * 7 % CREATED_BEFORE_CUT;
    until("enough inboxes are created", || async {
        (ledger.all().len() >= wanted).then_some(())
    })
    .await;
    ledger.power_goes(true);
    disk.cut();
    // Also who is answered on a dead disk was promised something, and has to get it.
    let names = tokio::time::timeout(LIMIT, join_all(callers)).await.unwrap();
    let names: Vec<String> = names.into_iter().map(Result::unwrap).collect();
    world.daemon.kill();
    world.stop_mail_servers().await;
    world.stop_signer();
    disk.come_back().await;
    ledger.power_goes(false);

    // No daemon yet, so no repair.
    world.start_signer().await;
    world.start_mail_servers().await;
    let since = ledger.all().split_off(before);
    assert_said(world, &ledger.all());
    check(world, &since, "before the daemon is started").await;

    world.daemon.up().await;
    let db = open(&world.daemon.store_url).await;
    until_published(&db).await;
    assert_equal(&db, &world.daemon.maps_layout()).await;
    db.close().await;
    check(world, &since, "after the daemon was started").await;
    let completed = join_all(names.iter().map(async |name| {
        let answer = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
        assert_eq!(answer.status, 201, "{name} cannot be completed: {answer:?}");
        ledger.created(Inbox::of(&answer))
    }))
    .await;
    check(world, &ledger.all().split_off(before + since.len()), "completed").await;
    completed.len()
}

/// Creates, rotates and deletes until the power is gone. The name of the create that was not answered.
async fn call(tenant: Api, ledger: Arc<Ledger>, who: String) -> String {
    let mut number = 0;
    loop {
        let name = format!("{who}-{number}");
        let body = json!({ "username": name });
        let created = tenant.post("/v1/inboxes", &body).await;
        if created.status != 201 {
            ledger.assert_no_power(&created);
            return name;
        }
        let place = ledger.created(Inbox::of(&created));
        number += 1;
        let id = created.id();
        if number % DELETE_EVERY == 0 {
            ledger.begin(place);
            let path = format!("/v1/inboxes/{id}");
            let deleted = answered(&ledger, || tenant.delete(&path)).await;
            if deleted.status == 200 {
                ledger.settle(place, Promise::Refused);
            } else {
                ledger.assert_no_power(&deleted);
            }
        } else if number % ROTATE_EVERY == 0 {
            ledger.begin(place);
            let path = format!("/v1/inboxes/{id}/rotate-password");
            let no_fields = json!({});
            let rotated = answered(&ledger, || tenant.post(&path, &no_fields)).await;
            if rotated.status == 200 {
                ledger.settle(place, Promise::LetIn(rotated.text("imapPassword").to_owned()));
            } else {
                ledger.assert_no_power(&rotated);
            }
        }
    }
}

/// The answer to a request that ends sessions. It is made again while it is answered 503 under power: a busy Dovecot may
/// take longer to end them than a request waits for it.
async fn answered<F: Future<Output = Answer>>(ledger: &Ledger, request: impl Fn() -> F) -> Answer {
    until(
        "a request is answered otherwise than with 503 while there is power",
        || async {
            let answer = request().await;
            (answer.status != 503 || ledger.is_power_gone()).then_some(answer)
        },
    )
    .await
}

/// Every promise is in the files, also the old ones.
fn assert_said(world: &World, promises: &[(Inbox, Promise)]) {
    let said = said(&world.daemon.maps_layout());
    for (inbox, promise) in promises {
        let (local_part, domain) = inbox.email.split_once('@').unwrap();
        let keys = [
            format!("passdb/{domain}/{local_part}"),
            format!("recipients:{}\0", inbox.email),
            format!("sender_logins:{}\0", inbox.email),
        ];
        let there = keys.map(|key| said.contains_key(&key));
        match promise {
            Promise::LetIn(_) => assert_eq!(there, [true; 3], "{}", inbox.email),
            Promise::Refused => assert_eq!(there, [false; 3], "{}", inbox.email),
            Promise::Open => {}
        }
    }
}

/// Tries every promise on the mail servers.
async fn check(world: &World, promises: &[(Inbox, Promise)], when: &str) {
    let broken: Vec<String> = stream::iter(promises)
        .map(|(inbox, promise)| async move { Box::pin(try_one(world, inbox, promise)).await.err() })
        .buffer_unordered(CHECKS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert_eq!(
        broken,
        Vec::<String>::new(),
        "{when}: of {} promises",
        promises.len()
    );
}

async fn try_one(world: &World, inbox: &Inbox, promise: &Promise) -> Result<(), String> {
    let about = |what: &str, error: String| format!("{}: {what}: {error}", inbox.email);
    let mail = &world.mail;
    match promise {
        Promise::LetIn(password) => {
            let inbox = inbox.with_password(password);
            let tries = tokio::join!(
                attempt::imap(mail, &inbox),
                attempt::submission(mail, &inbox, None),
                attempt::inbound(mail, &inbox, None)
            );
            tries.0.map_err(|error| about("IMAP", error))?;
            tries.1.map_err(|error| about("submission", error))?;
            tries.2.map_err(|error| about("inbound", error))
        }
        Promise::Refused => {
            let (login, inbound) =
                tokio::join!(attempt::imap(mail, inbox), attempt::inbound(mail, inbox, None));
            match (login, inbound) {
                (Err(login), Err(inbound))
                    if login.contains("AUTHENTICATIONFAILED") && inbound.contains("550 5.1.1") =>
                {
                    Ok(())
                }
                other => Err(about("deleted", format!("{other:?}"))),
            }
        }
        Promise::Open => Ok(()),
    }
}
