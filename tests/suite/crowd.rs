//! Many callers at the same time, who share transactions of the store and changes of the maps.

use futures_util::future::join_all;

use crate::support::{attempt::STRANGER, world::World};

/// Callers, each with a tenant of its own.
const CALLERS: usize = 16;
/// Inboxes that each creates, and deletes but for the last.
const ROUNDS: usize = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_in_a_crowd_of_callers_is_refused() {
    World::run(async |world| {
        let world = &*world;
        let call = async |caller: usize| {
            let tenant = world.tenant(&format!("Caller {caller}")).await;
            let mut gone = Vec::new();
            for round in 1..ROUNDS {
                let inbox = world.create(&tenant, &format!("caller-{caller}-{round}")).await;
                world.delete(&tenant, &inbox).await;
                gone.push(inbox);
            }
            let kept = world.create(&tenant, &format!("caller-{caller}")).await;
            (kept, gone)
        };
        for (kept, gone) in join_all((0..CALLERS).map(call)).await {
            world.mail.assert_works(&kept, "made in a crowd").await;
            let mut inbound = world.mail.inbound().await;
            inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
            for inbox in gone {
                inbound
                    .expect(&format!("RCPT TO:<{}>", inbox.email), "550 5.1.1")
                    .await;
            }
        }
    })
    .await;
}
