//! The sweep over the replacement of a costly hash, which no caller waits for: whatever fails, the password works, also while
//! the daemon is dead, and a later login replaces the hash.

use super::sweep::{FAILS_ON, FAILS_ONCE, KILLED, Kind, TORN};
use crate::{
    replaced_hashes::{BCRYPT, OURS, entry, import_all, log_in_until_replaced},
    support::{
        Folder,
        daemon::{DEFAULT_DOMAIN, Database},
        inbox::Inbox,
        maps::{assert_equal, until_published},
        shim::{Action, Shim},
        show::show,
        store::open,
        wait::until,
        world::World,
    },
};

/// Inboxes of one kind of fault: more than there are steps.
const INBOXES: u32 = 150;

/// The inbox of one step.
fn inbox_of(kind: &Kind, at: u32) -> Inbox {
    assert!(at <= INBOXES, "there are more steps than inboxes");
    Inbox {
        id: String::new(),
        email: format!("{}-{at}@{DEFAULT_DOMAIN}", kind.name),
        password: "secret".to_owned(),
        key: String::new(),
    }
}

/// One step. Whether the fault happened: if not, the replacement has passed.
async fn step(world: &mut World, shim: &Shim, kind: &Kind, at: u32) -> bool {
    let inbox = inbox_of(kind, at);
    shim.arm(kind.fault, at);
    until("the fault happens, or the hash is replaced", || async {
        if shim.hit().is_none() && !entry(&world.daemon, &inbox).contains(OURS) {
            world.mail.log_in(&inbox).await;
            return None;
        }
        Some(())
    })
    .await;
    let hit = shim.hit();
    let kills = matches!(kind.fault.action, Action::Kill | Action::Tear);
    let died = kills && hit.is_some();
    if died {
        world.daemon.ended().await;
    }
    // With the entry of before or the new one, and also while it is dead.
    world.mail.log_in(&inbox).await;
    shim.disarm();
    if died {
        world.daemon.up().await;
    }
    log_in_until_replaced(world, &inbox).await;
    world.mail.log_in(&inbox).await;
    let db = open(&world.daemon.store_url).await;
    until_published(&db).await;
    assert_equal(&db, &world.daemon.maps_layout()).await;
    db.close().await;
    hit.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_replacing_a_hash_may_fail_or_be_the_last() {
    World::run_in(Folder::in_memory(), Database::Sqlite, "", async |world| {
        let shim = Shim::new(world.daemon.folder.path());
        world.daemon.stop().await;
        world.daemon.environment.extend(shim.environment());
        world.daemon.up().await;
        let tenant = world.tenant("Moved").await;
        let kinds = [FAILS_ONCE, FAILS_ON, KILLED, TORN];
        let each = kinds
            .iter()
            .flat_map(|kind| (1..=INBOXES).map(|at| inbox_of(kind, at)));
        let each: Vec<Inbox> = each.collect();
        let lines: Vec<String> = each
            .iter()
            .map(|inbox| format!("{}:{BCRYPT}\n", inbox.email))
            .collect();
        import_all(&world.daemon, &tenant, &lines.concat()).await;
        until("the entries of imported inboxes", || async {
            let are_there = each
                .iter()
                .all(|inbox| entry(&world.daemon, inbox).contains(BCRYPT));
            are_there.then_some(())
        })
        .await;
        for kind in kinds {
            let mut steps = 0;
            while step(world, &shim, &kind, steps + 1).await {
                steps += 1;
            }
            // Where nothing was at fault, nothing was tested.
            assert!(steps > 0, "{}: no step", kind.name);
            show(&format!(
                "fault sweep: a replaced hash, {}: {steps} steps",
                kind.name
            ));
        }
    })
    .await;
}
