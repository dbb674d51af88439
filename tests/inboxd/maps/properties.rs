//! Whatever is done in whatever order, with crashes in between: the maps equal the store.

use std::collections::BTreeMap;

use inboxd::{
    model::{ids::InboxId, maps::MapKey},
    ops::{condition::Condition, create_inbox::Outcome, inboxes, tenants},
};
use proptest::prelude::*;

use super::Rig;
use crate::support::{
    maps::{Running, assert_equal},
    service::{create, super_admin, tenant, tenant_caller},
};

/// Runs; each is a store of its own, and every step a few flushes.
const CASES: u32 = 24;
const STEPS_MAX: usize = 24;
const NAMES: usize = 4;
const TENANTS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Create {
        tenant: usize,
        name: usize,
    },
    Delete {
        tenant: usize,
        name: usize,
    },
    Rotate {
        tenant: usize,
        name: usize,
    },
    Suspend {
        tenant: usize,
        suspended: bool,
    },
    /// The publisher ends without having published what was done since, and another begins.
    Crash,
}

/// A step, and whether it is published before the next one.
fn step() -> impl Strategy<Value = (Step, bool)> {
    let inbox = || (0..TENANTS, 0..NAMES);
    let step = prop_oneof![
        4 => inbox().prop_map(|(tenant, name)| Step::Create { tenant, name }),
        2 => inbox().prop_map(|(tenant, name)| Step::Delete { tenant, name }),
        2 => inbox().prop_map(|(tenant, name)| Step::Rotate { tenant, name }),
        1 => (0..TENANTS, any::<bool>()).prop_map(|(tenant, suspended)| Step::Suspend { tenant, suspended }),
        1 => Just(Step::Crash),
    ];
    (step, prop::bool::weighted(0.7))
}

async fn run(steps: Vec<(Step, bool)>) {
    let rig = Rig::new().await;
    let db = &rig.store.db;
    let tenants = [rig.acme.id, tenant(&rig.service, "Other").await.id];
    let mut inboxes_of: BTreeMap<(usize, usize), InboxId> = BTreeMap::new();
    let mut unasked: Vec<MapKey> = Vec::new();
    let mut running = Running::start(db, &rig.layout).await;
    for (step, is_published) in steps {
        let keys = match step {
            Step::Create { tenant, name } => {
                let made = create(&rig.service, tenants[tenant], None, &format!("name{name}x"))
                    .await
                    .unwrap();
                match made {
                    Outcome::Created(changed) => {
                        inboxes_of.insert((tenant, name), changed.value.inbox.id);
                        changed.value.claim.sent();
                        changed.publish
                    }
                    Outcome::Existing(_) => vec![],
                }
            }
            Step::Delete { tenant, name } => match inboxes_of.remove(&(tenant, name)) {
                Some(id) => {
                    let caller = tenant_caller(tenants[tenant]);
                    inboxes::delete(&rig.service, &caller, id, &Condition::none())
                        .await
                        .unwrap()
                        .publish
                }
                None => vec![],
            },
            Step::Rotate { tenant, name } => match inboxes_of.get(&(tenant, name)) {
                Some(&id) => {
                    let caller = tenant_caller(tenants[tenant]);
                    let rotated = inboxes::rotate_password(&rig.service, &caller, id).await;
                    rotated.unwrap().publish
                }
                None => vec![],
            },
            Step::Suspend { tenant, suspended } => {
                let change = tenants::Change {
                    suspended: Some(suspended),
                    ..tenants::Change::default()
                };
                let changed = tenants::change(
                    &rig.service,
                    &super_admin(),
                    tenants[tenant],
                    &change,
                    &Condition::none(),
                )
                .await;
                changed.unwrap().publish
            }
            Step::Crash => {
                running.stop().await;
                running = Running::start(db, &rig.layout).await;
                unasked.clear();
                assert_equal(db, &rig.layout).await;
                vec![]
            }
        };
        if is_published {
            running.publisher.publish(keys).await.unwrap();
            if unasked.is_empty() {
                assert_equal(db, &rig.layout).await;
            }
        } else {
            unasked.extend(keys);
        }
    }
    // In any order, and twice.
    unasked.reverse();
    running.publisher.publish(unasked.clone()).await.unwrap();
    running.publisher.publish(unasked).await.unwrap();
    assert_equal(db, &rig.layout).await;
    running.stop().await;
}

#[test]
fn the_maps_equal_the_store_after_any_steps_and_crashes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 64,
        ..ProptestConfig::default()
    });
    runner
        .run(&prop::collection::vec(step(), 1..STEPS_MAX), |steps| {
            runtime.block_on(run(steps));
            Ok(())
        })
        .unwrap();
}
