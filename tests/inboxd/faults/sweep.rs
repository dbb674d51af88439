//! The sweep over the operations of the API: each kind of fault at step 1, 2, 3 ... until the operation passes.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use inboxd::{maps::Layout, model::ids::InboxId, store::Db};
use nix::errno::Errno;
use uuid::Uuid;

use super::{
    assert_all_log_in, assert_none_logs_in,
    operations::{Operation, Trial},
};
use crate::support::{
    Folder,
    api::Answer,
    daemon::Database,
    dns::DnsServer,
    domains::{asking, name_server},
    inbox::Inbox,
    maps::assert_equal,
    shim::{Action, CONNECT, FLUSH, Fault, LOCK, NAME, OPEN, READ, Shim, WRITE},
    show::show,
    store::open,
    wait::until,
    world::World,
};

/// How long what is written behind an answer may take, where it may also have failed.
const BEHIND_MS: u64 = 200;

/// A kind of fault.
pub struct Kind {
    pub name: &'static str,
    pub fault: Fault,
    /// Whether each step is one of a new process, which opens its files and connections during the operation.
    is_cold: bool,
}

const fn kind(name: &'static str, kinds: u32, action: Action, lasts: bool) -> Kind {
    let fault = Fault { kinds, action, lasts };
    Kind {
        name,
        fault,
        is_cold: false,
    }
}

/// A call that fails once.
pub const FAILS_ONCE: Kind = kind(
    "eio",
    OPEN | READ | WRITE | FLUSH | NAME | LOCK | CONNECT,
    Action::Fail(Errno::EIO),
    false,
);
/// A disk that fails from there on.
pub const FAILS_ON: Kind = kind("eio-on", WRITE | FLUSH | NAME, Action::Fail(Errno::EIO), true);
/// A disk that is full from there on.
const FULL: Kind = kind("full", WRITE | NAME, Action::Fail(Errno::ENOSPC), true);
/// No file descriptor is left, for once.
const NO_FILES: Kind = Kind {
    is_cold: true,
    ..kind("emfile", OPEN | CONNECT, Action::Fail(Errno::EMFILE), false)
};
/// A write that does half of what it was asked to.
const SHORT: Kind = kind("short", WRITE, Action::Half, false);
pub const KILLED: Kind = kind("kill", WRITE | FLUSH | NAME | CONNECT, Action::Kill, false);
/// Killed with a write half done.
pub const TORN: Kind = kind("tear", WRITE, Action::Tear, false);

/// What a sweep of one operation and one kind of fault came to.
#[derive(Default)]
struct Tally {
    steps: u32,
    /// Status of the answer, none for a broken connection, and how often.
    answers: BTreeMap<Option<u16>, u32>,
    logs_in: Vec<Inbox>,
    refused: Vec<Inbox>,
}

struct Sweep<'a> {
    world: &'a mut World,
    database: Database,
    shim: Shim,
    layout: Layout,
    /// Where custom domains are looked up.
    server: DnsServer,
}

/// Says which step a test failed in.
struct Step<'a> {
    name: String,
    shim: &'a Shim,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hit = self.shim.hit();
            eprintln!(
                "--- in step {}, which is {} ---",
                self.name,
                hit.as_deref().unwrap_or("behind the last")
            );
        }
    }
}

/// Sweeps over operations with kinds of faults, in a world of their own.
async fn sweep(database: Database, operations: &[Operation], kinds: &[Kind]) {
    let server = name_server().await;
    World::run_in(Folder::in_memory(), database, &asking(&server), async |world| {
        let shim = Shim::new(world.daemon.folder.path());
        world.daemon.stop().await;
        world.daemon.environment.extend(shim.environment());
        world.daemon.up().await;
        let layout = world.daemon.maps_layout();
        let mut sweep = Sweep {
            world,
            database,
            shim,
            layout,
            server,
        };
        for &operation in operations {
            for kind in kinds {
                sweep.run(operation, kind).await;
            }
        }
    })
    .await;
}

impl Sweep<'_> {
    async fn run(&mut self, operation: Operation, kind: &Kind) {
        let mut tally = Tally::default();
        while self.step(operation, kind, &mut tally).await {}
        // Where nothing was at fault, nothing was tested.
        assert!(tally.steps > 0, "{operation:?} {}: no step", kind.name);
        self.world.daemon.kill();
        self.world.daemon.up().await;
        let db = open(&self.world.daemon.store_url).await;
        assert_equal(&db, &self.layout).await;
        db.close().await;
        let mail = &self.world.mail;
        let logins = assert_all_log_in(mail, &tally.logs_in).await;
        assert_none_logs_in(mail, &tally.refused).await;
        let mut line = format!(
            "fault sweep on {:?}: {operation:?}, {}: {} steps; answered",
            self.database, kind.name, tally.steps
        );
        for (status, count) in &tally.answers {
            let status = status.map_or_else(|| "nothing".to_owned(), |status| status.to_string());
            write!(line, " {status} x {count},").unwrap();
        }
        show(&format!(
            "{line} completed by the same request; {logins} logged in, {} were refused as they must be",
            tally.refused.len()
        ));
    }

    /// One step. Whether the fault happened: if not, the operation has passed.
    async fn step(&mut self, operation: Operation, kind: &Kind, tally: &mut Tally) -> bool {
        let at = tally.steps + 1;
        let name = format!("{operation:?}-{}-{at}", kind.name).to_lowercase();
        let kills = matches!(kind.fault.action, Action::Kill | Action::Tear);
        let shim = &self.shim;
        let step = Step { name, shim };
        let trial = Trial::begin(&self.world.daemon, &mut self.server, operation, &step.name).await;
        let db = open(&self.world.daemon.store_url).await;
        until("nothing is to be done", || async {
            is_settled(&db, None).await.then_some(())
        })
        .await;
        if kind.is_cold {
            self.world.daemon.kill();
            self.world.daemon.up().await;
        }

        shim.arm(kind.fault, at);
        let answer = trial.call().await;
        // What is written behind the answer is part of it.
        until("the fault happens, or nothing is to be done", || async {
            (shim.hit().is_some() || is_settled(&db, answer.as_ref()).await).then_some(())
        })
        .await;
        let hit = shim.hit();
        let done = answer.as_ref().filter(|answer| trial.is_done(answer));
        assert!(hit.is_some() || done.is_some(), "failed by itself: {answer:?}");
        let died = kills && hit.is_some();
        if died {
            self.world.daemon.ended().await;
        }
        shim.disarm();
        // Also while it is dead, what it promised works.
        assert_all_log_in(
            &self.world.mail,
            &done.map_or_else(Vec::new, |done| trial.promised(done)),
        )
        .await;
        if let Some(done) = done {
            trial.assert_recipient(&self.world.mail, done).await;
        }
        // Nobody else has the store open when the daemon comes back to what it left.
        db.close().await;
        if died {
            self.world.daemon.up().await;
        }

        let last = trial.call().await.expect("an answer");
        assert!(trial.is_done(&last), "unharmed, it fails: {last:?}");
        if operation.is_once() {
            // Also where the first call ended between its commit and its publication.
            trial.assert_recipient(&self.world.mail, &last).await;
        }
        let outcome = trial.outcome(done, &last, died).await;
        let db = open(&self.world.daemon.store_url).await;
        if !settles(&db, &last).await {
            // What is behind may be tried again only later: a start does it at once.
            self.world.daemon.kill();
            self.world.daemon.up().await;
        }
        assert_equal(&db, &self.layout).await;
        db.close().await;
        if hit.is_some() {
            tally.steps += 1;
            *tally
                .answers
                .entry(answer.as_ref().map(|answer| answer.status))
                .or_default() += 1;
        }
        tally.logs_in.extend(outcome.logs_in);
        tally.refused.extend(outcome.refused);
        hit.is_some()
    }
}

/// Whether nothing is left to be done soon after an answer.
async fn settles(db: &Db, answer: &Answer) -> bool {
    let settled = until("nothing is to be done", || async {
        is_settled(db, Some(answer)).await.then_some(())
    });
    let limit = Duration::from_millis(BEHIND_MS);
    tokio::time::timeout(limit, settled).await.is_ok()
}

/// Whether everything is published, and written down that the caller has the answer.
async fn is_settled(db: &Db, answer: Option<&Answer>) -> bool {
    let mut tx = db.read().await.unwrap();
    let published = tx.unpublished(None, 1).await.unwrap().is_empty();
    let acknowledged =
        match answer.filter(|answer| answer.status == 201 && answer.body.get("apiKey").is_some()) {
            Some(created) => {
                let id = InboxId(Uuid::parse_str(created.id()).unwrap());
                tx.inbox(id).await.unwrap().unwrap().acknowledged_at.is_some()
            }
            None => true,
        };
    published && acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_create_may_fail_or_be_the_last() {
    let kinds = [FAILS_ONCE, FAILS_ON, FULL, NO_FILES, SHORT, KILLED, TORN];
    sweep(Database::Sqlite, &[Operation::Create], &kinds).await;
    let kinds = [FAILS_ONCE, FAILS_ON, KILLED];
    sweep(Database::Sqlite, &[Operation::CreateOnce], &kinds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_rotation_or_a_delete_may_fail_or_be_the_last() {
    let operations = [Operation::RotatePassword, Operation::RotateKey, Operation::Delete];
    sweep(Database::Sqlite, &operations, &[FAILS_ONCE, FAILS_ON, KILLED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_adding_and_removing_an_address_may_fail_or_be_the_last() {
    let operations = [Operation::AddAddress, Operation::RemoveAddress];
    sweep(Database::Sqlite, &operations, &[FAILS_ONCE, FAILS_ON, KILLED]).await;
}

/// What is made under an `Idempotency-Key`.
const MADE_ONCE: [Operation; 6] = [
    Operation::CreateTenantOnce,
    Operation::CreateWorkspaceOnce,
    Operation::CreateTenantKeyOnce,
    Operation::CreateWorkspaceKeyOnce,
    Operation::RegisterDomainOnce,
    Operation::AddAddressOnce,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_with_an_idempotency_key_is_made_once_whatever_step_fails_or_is_the_last() {
    sweep(Database::Sqlite, &MADE_ONCE, &[FAILS_ONCE, FAILS_ON, KILLED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_with_an_idempotency_key_on_postgresql_is_made_once_whatever_step_fails_or_is_the_last()
{
    sweep(Database::Postgres, &MADE_ONCE, &[FAILS_ONCE, KILLED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_proving_and_deleting_a_domain_may_fail_or_be_the_last() {
    let operations = [
        Operation::VerifyDomain,
        Operation::DeleteDomain,
        Operation::SetCatchAll,
    ];
    sweep(Database::Sqlite, &operations, &[FAILS_ONCE, KILLED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_suspension_and_its_end_may_fail_or_be_the_last() {
    let operations = [Operation::Suspend, Operation::Resume];
    sweep(Database::Sqlite, &operations, &[FAILS_ONCE, FAILS_ON, KILLED]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_create_and_a_delete_on_postgresql_may_fail_or_be_the_last() {
    let operations = [Operation::Create, Operation::Delete];
    sweep(Database::Postgres, &operations, &[FAILS_ONCE, KILLED]).await;
}
