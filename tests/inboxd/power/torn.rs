//! A table of which a power cut left some pages of one commit on the disk, and others not.
//!
//! LMDB's commit is flushed after it is made, so between the two any of its pages may have reached the disk and any other
//! not: more than a file system that is shut down shows. Here each such state is made by hand.

use std::fs;

use inboxd::ops::{condition::Condition, inboxes};

use crate::{
    maps::Rig,
    support::{
        maps::{Running, TABLES, assert_equal},
        service::{created, tenant_caller},
        show::show,
        store::add_inbox,
    },
};

/// Torn states that are tried.
const STATES: usize = 24;
/// Octets of a page.
const PAGE: usize = 4096;

/// Numbers that look random and are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The state before, with some of the pages of the state after.
fn torn(before: &[u8], after: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut octets = before.to_vec();
    octets.resize(after.len(), 0);
    for (page, new) in octets.chunks_mut(PAGE).zip(after.chunks(PAGE)) {
        if page != new && numbers.next().is_multiple_of(2) {
            page.copy_from_slice(new);
        }
    }
    octets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_some_pages_of_a_commit_is_made_whole_at_start_and_stays_so() {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    // Enough for tables of several levels.
    let mut tx = db.write().await.unwrap();
    let mut ids = Vec::new();
    for number in 0..400 {
        let email = format!("many-{number}@inboxd.test");
        ids.push(add_inbox(&mut tx, &rig.acme, rig.acme.default_workspace, &email, None).await);
    }
    tx.commit().await.unwrap();
    let mut numbers = Numbers(1);
    Running::start(db, &rig.layout).await.stop().await;
    for state in 0..STATES {
        let files = TABLES.map(|name| rig.layout.postfix().join(name).with_extension("lmdb"));
        let read = || files.each_ref().map(|file| fs::read(file).unwrap());
        let running = Running::start(db, &rig.layout).await;
        let before = read();
        let (_, keys) = created(&rig.service, rig.acme.id, &format!("new-{state}")).await;
        running.publisher.publish(keys).await.unwrap();
        running.stop().await;
        let after = read();
        for ((file, before), after) in files.iter().zip(&before).zip(&after) {
            fs::write(file, torn(before, after, &mut numbers)).unwrap();
        }
        let running = Running::start(db, &rig.layout).await;
        // Shown only if the test fails.
        println!("state {state} is started from");
        assert_equal(db, &rig.layout).await;
        // And it can be written.
        for number in 0..4 {
            let (_, keys) = created(&rig.service, rig.acme.id, &format!("more-{state}-{number}")).await;
            running.publisher.publish(keys).await.unwrap();
        }
        let gone = ids.remove(usize::try_from(numbers.next()).unwrap_or(0) % ids.len());
        let deleted = inboxes::delete(
            &rig.service,
            &tenant_caller(rig.acme.id),
            gone,
            &Condition::none(),
        )
        .await
        .unwrap();
        running.publisher.publish(deleted.publish).await.unwrap();
        assert_equal(db, &rig.layout).await;
        running.stop().await;
    }
    show(&format!(
        "torn tables: {STATES} states of one commit in four tables, all made whole at start"
    ));
}
