//! Marks of what is still to be published.

use inboxd::{
    clock::{Clock as _, Machine},
    model::maps::MapKey,
    store::{Pending, SessionsToEnd, Tx},
};

use crate::support::store::{fresh_id, on_both};

fn key(text: &str) -> MapKey {
    MapKey::parse(text).unwrap()
}

async fn marking(tx: &mut Tx, key: &MapKey) -> Option<Pending> {
    let mut found = tx.unpublished_keys(std::slice::from_ref(key)).await.unwrap();
    assert!(found.len() <= 1, "{found:?}");
    found.pop()
}

#[tokio::test]
async fn marking_again_makes_a_newer_mark_and_keeps_sessions_to_end() {
    on_both(async |store| {
        let mut tx = store.db.write().await.unwrap();
        let scout = key("scout@example.com");
        let now = Machine.now();
        assert_eq!(marking(&mut tx, &scout).await, None);
        let sessions = [SessionsToEnd::None, SessionsToEnd::All, SessionsToEnd::None];
        let kept = [SessionsToEnd::None, SessionsToEnd::All, SessionsToEnd::All];
        for (sessions, kept) in sessions.into_iter().zip(kept) {
            let mark = fresh_id();
            tx.mark_unpublished(&scout, mark, sessions, now).await.unwrap();
            let pending = Pending {
                key: scout.clone(),
                mark,
                sessions: kept,
            };
            assert_eq!(marking(&mut tx, &scout).await, Some(pending.clone()));
            assert_eq!(tx.unpublished(None, 10).await.unwrap(), [pending]);
        }
    })
    .await;
}

#[tokio::test]
async fn only_the_mark_that_was_published_is_cleared() {
    on_both(async |store| {
        let mut tx = store.db.write().await.unwrap();
        let now = Machine.now();
        let (scout, domain) = (key("scout@example.com"), key("example.com"));
        for key in [&scout, &domain] {
            tx.mark_unpublished(key, fresh_id(), SessionsToEnd::All, now)
                .await
                .unwrap();
        }
        let older = marking(&mut tx, &scout).await.unwrap();
        tx.mark_unpublished(&scout, fresh_id(), SessionsToEnd::None, now)
            .await
            .unwrap();
        let newer = marking(&mut tx, &scout).await.unwrap();
        tx.clear_unpublished(std::slice::from_ref(&older)).await.unwrap();
        assert_eq!(
            marking(&mut tx, &scout).await,
            Some(newer.clone()),
            "an older mark"
        );
        tx.clear_unpublished(std::slice::from_ref(&newer)).await.unwrap();
        tx.clear_unpublished(std::slice::from_ref(&newer)).await.unwrap();
        assert_eq!(marking(&mut tx, &scout).await, None);
        assert!(marking(&mut tx, &domain).await.is_some(), "another key's");
        tx.mark_unpublished(&scout, fresh_id(), SessionsToEnd::None, now)
            .await
            .unwrap();
        let anew = marking(&mut tx, &scout).await.unwrap();
        assert_eq!(
            anew.sessions,
            SessionsToEnd::None,
            "a cleared mark leaves nothing"
        );
    })
    .await;
}

#[tokio::test]
async fn marks_are_listed_in_pages_of_the_oldest() {
    on_both(async |store| {
        let mut tx = store.db.write().await.unwrap();
        let mut marks: Vec<_> = (0..7).map(|_| fresh_id()).collect();
        for (number, mark) in marks.iter().enumerate() {
            let key = key(&format!("a{number}@example.com"));
            tx.mark_unpublished(&key, *mark, SessionsToEnd::None, Machine.now())
                .await
                .unwrap();
        }
        marks.sort_unstable();
        let listed = tx.unpublished(None, 5).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|pending| pending.mark).collect();
        assert_eq!(listed, marks[..5]);
        let rest = tx.unpublished(Some(marks[4]), 5).await.unwrap();
        let rest: Vec<_> = rest.into_iter().map(|pending| pending.mark).collect();
        assert_eq!(rest, marks[5..]);
    })
    .await;
}
