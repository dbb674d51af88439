//! The sweep over a start that repairs the maps.

use std::fs;

use inboxd::maps::Layout;

use super::{
    assert_all_log_in,
    sweep::{FAILS_ONCE, KILLED, Kind, TORN},
};
use crate::support::{
    Folder,
    daemon::Database,
    inbox::Inbox,
    maps::{assert_equal, edit},
    shim::{Action, Shim},
    show::show,
    store::open,
    world::World,
};

/// Harms maps of three inboxes in every way that a start repairs.
fn harm(layout: &Layout, inboxes: &[Inbox]) {
    let local_part = |number: usize| inboxes[number].email.split_once('@').unwrap().0;
    let entries = layout.passdb().join("inboxd.test");
    fs::remove_file(entries.join(local_part(0))).unwrap();
    fs::write(entries.join(local_part(1)), "nonsense\n").unwrap();
    fs::write(entries.join("extra"), "extra\n").unwrap();
    fs::write(entries.join(".new-half"), "ha").unwrap();
    let table = |name: &str| layout.postfix().join(name).with_extension("lmdb");
    edit(&table("recipients"), |database, txn| {
        let key = format!("{}\0", inboxes[2].email);
        assert!(database.delete(txn, key.as_bytes()).unwrap());
        database.put(txn, b"extra@inboxd.test\0", b"1\0").unwrap();
    });
    fs::write(table("aliases"), "no table").unwrap();
    fs::remove_file(table("domains")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_start_that_repairs_may_fail_or_be_the_last() {
    World::run_in(Folder::in_memory(), Database::Sqlite, "", async |world| {
        let shim = Shim::new(world.daemon.folder.path());
        let layout = world.daemon.maps_layout();
        let acme = world.tenant("Acme").await;
        let mut inboxes = Vec::new();
        for number in 0..3 {
            inboxes.push(world.create(&acme, &format!("scout{number}")).await);
        }
        world.daemon.kill();
        let unharmed = world.daemon.environment.clone();
        for kind in [FAILS_ONCE, KILLED, TORN] {
            let (mut steps, mut came_up) = (0, 0);
            loop {
                harm(&layout, &inboxes);
                shim.arm(kind.fault, steps + 1);
                world.daemon.environment.extend(shim.environment());
                world.daemon.spawn();
                let ready = world.daemon.comes_up().await;
                let hit = shim.hit();
                let at = format!("{}, step {}, {hit:?}", kind.name, steps + 1);
                assert!(ready || hit.is_some(), "{at}: it ended by itself");
                if ready {
                    came_up += u32::from(hit.is_some());
                    world.daemon.kill();
                } else {
                    let status = world.daemon.ended().await;
                    assert_eq!(status.code().is_none(), is_kill(&kind), "{at}: {status:?}");
                }
                world.daemon.environment.clone_from(&unharmed);
                world.daemon.up().await;
                let db = open(&world.daemon.store_url).await;
                eprintln!("--- {at} ---");
                assert_equal(&db, &layout).await;
                db.close().await;
                world.daemon.kill();
                if hit.is_none() {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 0, "{}: no step", kind.name);
            world.daemon.up().await;
            let logins = assert_all_log_in(&world.mail, &inboxes).await;
            world.daemon.kill();
            show(&format!(
                "fault sweep: start with repair, {}: {steps} steps, {came_up} of them borne; the next start repaired \
                 everything; {logins} logged in",
                kind.name
            ));
        }
        // As the rest expects it.
        world.daemon.up().await;
    })
    .await;
}

fn is_kill(kind: &Kind) -> bool {
    matches!(kind.fault.action, Action::Kill | Action::Tear)
}
