//! Many writers at once.

use std::future::Future;

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        ids::InboxId,
        limits::Limits,
        maps::{AddressState, MapKey},
    },
    store::{Claimant, SessionsToEnd},
};

use crate::support::store::{Store, add_inbox, address, fresh_id, insert_inbox, on_both, state_of};

const WRITERS: usize = 50;

/// Runs as many at once as there are writers, and returns what each did.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    store: &Store,
    run: impl Fn(Store, usize) -> F,
) -> Vec<T> {
    let running: Vec<_> = (0..WRITERS)
        .map(|number| tokio::spawn(run(store.clone(), number)))
        .collect();
    let mut results = Vec::new();
    for one in running {
        results.push(one.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_writers_neither_fail_nor_lose() {
    on_both(async |store| {
        let tenant = store.tenant("Acme", Limits::default()).await;
        let made = at_once(&store, |store, number| {
            let tenant = tenant.clone();
            async move {
                let mut tx = store.db.write().await.unwrap();
                assert!(tx.count_new_inbox(tenant.id).await.unwrap());
                let email = format!("scout-{number}@example.com");
                let id = add_inbox(&mut tx, &tenant, tenant.default_workspace, &email, None).await;
                let key = MapKey::Address(address(&email));
                tx.mark_unpublished(&key, fresh_id(), SessionsToEnd::None, Machine.now())
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                id
            }
        })
        .await;
        let mut tx = store.db.read().await.unwrap();
        for id in made {
            assert!(tx.inbox(id).await.unwrap().is_some());
        }
        let counted = tx.tenant(tenant.id).await.unwrap().unwrap();
        assert_eq!(counted.inbox_count as usize, WRITERS);
        assert_eq!(tx.unpublished(None, 1000).await.unwrap().len(), WRITERS);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_counted_atomically() {
    on_both(async |store| {
        let tenant = store
            .tenant(
                "Acme",
                Limits {
                    inboxes: Some(20),
                    ..Limits::default()
                },
            )
            .await;
        let counted = at_once(&store, |store, number| {
            let id = tenant.id;
            async move {
                let mut tx = store.db.write().await.unwrap();
                let counted = tx.count_new_inbox(id).await.unwrap();
                // Every fifth gives up: what it counted does not count.
                let commits = number % 5 != 0;
                if commits {
                    tx.commit().await.unwrap();
                }
                counted && commits
            }
        })
        .await;
        let counted = counted.into_iter().filter(|&counted| counted).count();
        assert_eq!(counted, 20, "40 of 50 commit, and 20 have room");
        let mut tx = store.db.read().await.unwrap();
        assert_eq!(tx.tenant(tenant.id).await.unwrap().unwrap().inbox_count, 20);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_fifty_gets_an_address() {
    on_both(async |store| {
        let one = store.tenant("One", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let winners = at_once(&store, |store, number| {
            let tenant = if number % 2 == 0 {
                one.clone()
            } else {
                other.clone()
            };
            async move {
                let (id, now, scout) = (InboxId(fresh_id()), Machine.now(), address("scout@example.com"));
                let mut tx = store.db.write().await.unwrap();
                if !tx
                    .claim_address(&scout, Claimant::tenant(tenant.id), id, Some(now), now)
                    .await
                    .unwrap()
                {
                    return None;
                }
                insert_inbox(&mut tx, &tenant, tenant.default_workspace, &scout, None, id, now).await;
                tx.commit().await.unwrap();
                Some(id)
            }
        })
        .await;
        let winners: Vec<_> = winners.into_iter().flatten().collect();
        let mut tx = store.db.read().await.unwrap();
        let state = state_of(&mut tx, &address("scout@example.com")).await;
        assert_eq!(winners.len(), 1);
        assert!(matches!(state, AddressState::Mailbox(mailbox) if mailbox.inbox() == winners[0]));
    })
    .await;
}
