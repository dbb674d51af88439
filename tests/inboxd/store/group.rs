//! Writers share commits on SQLite, and nothing else. The same holds on PostgreSQL, where each commits for itself.

use std::future::Future;

use inboxd::{
    clock::{Clock as _, Machine},
    model::{ids::InboxId, limits::Limits, maps::MapKey},
    store::{Claimant, Db, SessionsToEnd, Tx},
};

use crate::support::store::{address, fresh_id, on_both};

/// Writers at the same time.
const WRITERS: usize = 40;

fn key(number: usize) -> MapKey {
    MapKey::parse(&format!("u{number}@example.com")).unwrap()
}

async fn mark(tx: &mut Tx, number: usize) {
    tx.mark_unpublished(&key(number), fresh_id(), SessionsToEnd::None, Machine.now())
        .await
        .unwrap();
}

async fn marked(db: &Db) -> Vec<MapKey> {
    let pending = db.read().await.unwrap().unpublished(None, 1000).await.unwrap();
    let mut keys: Vec<MapKey> = pending.into_iter().map(|pending| pending.key).collect();
    keys.sort_unstable();
    keys
}

/// Many write at once; each third of them does this instead of committing, and leaves nothing.
async fn each_third<F: Future<Output = ()> + Send + 'static>(
    gives_up: impl Fn(Tx, usize) -> F + Copy + Send + 'static,
) {
    on_both(async |store| {
        let writing = (0..WRITERS).map(|number| {
            let db = store.db.clone();
            tokio::spawn(async move {
                let mut tx = db.write().await.unwrap();
                mark(&mut tx, number).await;
                if number % 3 == 0 {
                    gives_up(tx, number).await;
                    return;
                }
                tx.commit().await.unwrap();
                assert!(
                    marked(&db).await.contains(&key(number)),
                    "committed, and not to be seen"
                );
            })
        });
        for writer in writing.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let mut expected: Vec<MapKey> = (0..WRITERS).filter(|number| number % 3 != 0).map(key).collect();
        expected.sort_unstable();
        assert_eq!(marked(&store.db).await, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_those_that_commit_are_there_and_the_others_leave_nothing() {
    each_third(|tx, _| async move { drop(tx) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_statement_fails_takes_nothing_of_the_others_with_it() {
    each_third(|mut tx, number| async move {
        // A mark is one key's: the second use of it is refused.
        let own = tx.unpublished_keys(&[key(number)]).await.unwrap().pop().unwrap();
        tx.mark_unpublished(&key(WRITERS), own.mark, SessionsToEnd::None, Machine.now())
            .await
            .unwrap_err();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_commit_fails_whoever_shared_it_is_told_and_the_next_one_works() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let nobody = address("nobody@example.com");
        let writing = (0..WRITERS).map(|number| {
            let (db, nobody) = (store.db.clone(), nobody.clone());
            tokio::spawn(async move {
                let mut tx = db.write().await.unwrap();
                mark(&mut tx, number).await;
                if number == WRITERS / 2 {
                    // An address of an inbox that is not there, which is noticed by the commit.
                    let (inbox, now) = (InboxId(fresh_id()), Machine.now());
                    assert!(
                        tx.claim_address(&nobody, Claimant::tenant(acme.id), inbox, None, now)
                            .await
                            .unwrap()
                    );
                }
                (number, tx.commit().await.is_ok())
            })
        });
        let mut expected = Vec::new();
        for writer in writing.collect::<Vec<_>>() {
            let (number, committed) = writer.await.unwrap();
            assert!(!committed || number != WRITERS / 2, "a wrong commit was taken");
            if committed {
                expected.push(key(number));
            }
        }
        expected.sort_unstable();
        assert_eq!(marked(&store.db).await, expected);
        let mut tx = store.db.write().await.unwrap();
        mark(&mut tx, WRITERS).await;
        tx.commit().await.unwrap();
        assert!(marked(&store.db).await.contains(&key(WRITERS)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_stop_half_way_hold_up_nobody() {
    on_both(async |store| {
        for number in 0..WRITERS {
            let db = store.db.clone();
            let writing = tokio::spawn(async move {
                let mut tx = db.write().await.unwrap();
                mark(&mut tx, number).await;
                tx.commit().await.unwrap();
            });
            tokio::task::yield_now().await;
            writing.abort();
            // Written or not, but over.
            let _ = writing.await;
        }
        let mut tx = store.db.write().await.unwrap();
        mark(&mut tx, WRITERS).await;
        tx.commit().await.unwrap();
        assert!(marked(&store.db).await.contains(&key(WRITERS)));
    })
    .await;
}
