//! Answers kept for `Idempotency-Key`, and facts about the store itself.

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        api_key::{ApiKey, KeyKind, Scope},
        ids::{InboxId, KeyId},
        limits::Limits,
        made::Made,
    },
    store::{KeptAnswer, NewKey, Started},
};

use crate::support::store::{Store, fresh_id, hash, kept_answer, on_both};

async fn caller(store: &Store) -> KeyId {
    let id = KeyId(fresh_id());
    let mut tx = store.db.write().await.unwrap();
    tx.insert_key(&NewKey {
        id,
        key: &ApiKey::generate(KeyKind::SuperAdmin, &Machine),
        scope: Scope::SuperAdmin,
        name: None,
        created_at: Machine.now(),
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
    id
}

fn started(caller: KeyId, path: &str, key: &str) -> Started {
    Started {
        id: fresh_id(),
        caller,
        path: path.to_owned(),
        idempotency_key: key.to_owned(),
        request_hash: [7; 32],
        started_at: Machine.now(),
        owner: caller.0,
    }
}

fn about_nothing() -> Made {
    Made::inbox(InboxId(fresh_id()))
}

/// Answers that these tests keep of one owner.
const KEEP: u32 = 100;

#[tokio::test]
async fn a_request_is_started_once_by_caller_path_and_key() {
    on_both(async |store| {
        let (one, other) = (caller(&store).await, caller(&store).await);
        let first = started(one, "/v1/inboxes", "k1");
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.kept_request(&first).await.unwrap().is_none());
        assert!(tx.start_idempotent(&first, KEEP).await.unwrap());
        assert!(
            !tx.start_idempotent(&started(one, "/v1/inboxes", "k1"), KEEP)
                .await
                .unwrap()
        );
        for different in [
            started(other, "/v1/inboxes", "k1"),
            started(one, "/v1/workspaces", "k1"),
            started(one, "/v1/inboxes", "K1"),
        ] {
            assert!(
                tx.start_idempotent(&different, KEEP).await.unwrap(),
                "{different:?}"
            );
        }
        let kept = tx
            .kept_request(&started(one, "/v1/inboxes", "k1"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((kept.id, kept.started_at), (first.id, first.started_at));
        assert_eq!(kept.request_hash, first.request_hash);
        assert!(kept.answer.is_none(), "still running");
    })
    .await;
}

#[tokio::test]
async fn an_answer_is_kept_until_it_is_forgotten_and_survives_being_abandoned() {
    on_both(async |store| {
        let tenant = store.tenant("Acme", Limits::default()).await;
        let inbox = store
            .inbox(&tenant, tenant.default_workspace, "scout@example.com")
            .await;
        let first = started(caller(&store).await, "/v1/inboxes", "k1");
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.start_idempotent(&first, KEEP).await.unwrap());
        let made = Made::inbox(inbox).showing_password(&hash(1)).acknowledging();
        tx.abandon_request(first.id).await.unwrap();
        assert!(
            tx.kept_request(&first).await.unwrap().is_none(),
            "it had no answer"
        );
        assert!(tx.start_idempotent(&first, KEEP).await.unwrap());
        let answer = KeptAnswer {
            status: 201,
            sealed: b"\0sealed".to_vec(),
            made,
        };
        tx.keep_answer(first.id, &answer).await.unwrap();
        tx.abandon_request(first.id).await.unwrap();
        let kept = tx.kept_request(&first).await.unwrap().unwrap();
        assert_eq!(kept.answer.as_ref(), Some(&answer));
        assert!(
            tx.keep_answer(fresh_id(), &answer).await.is_err(),
            "no such request"
        );
        tx.forget_request(first.id).await.unwrap();
        tx.forget_request(first.id).await.unwrap();
        assert!(tx.kept_request(&first).await.unwrap().is_none());
        assert!(tx.start_idempotent(&first, KEEP).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn old_requests_are_forgotten_by_age_or_only_the_unfinished() {
    on_both(async |store| {
        let caller = caller(&store).await;
        let now = Machine.now();
        let mut requests = Vec::new();
        let mut tx = store.db.write().await.unwrap();
        for (key, age_s) in [("old", 100), ("old-done", 100), ("new", 1), ("new-done", 1)] {
            let request = Started {
                started_at: now.plus_seconds(-age_s),
                ..started(caller, "/v1/inboxes", key)
            };
            assert!(tx.start_idempotent(&request, KEEP).await.unwrap());
            if key.ends_with("-done") {
                tx.keep_answer(request.id, &kept_answer(about_nothing()))
                    .await
                    .unwrap();
            }
            requests.push(request);
        }
        let exactly = requests[0].started_at;
        assert_eq!(tx.forget_requests_before(exactly, false).await.unwrap(), 0);
        let time = now.plus_seconds(-50);
        assert_eq!(tx.forget_requests_before(time, true).await.unwrap(), 1);
        assert!(tx.kept_request(&requests[0]).await.unwrap().is_none());
        assert_eq!(tx.forget_requests_before(time, false).await.unwrap(), 1);
        assert!(tx.kept_request(&requests[1]).await.unwrap().is_none());
        for left in &requests[2..] {
            assert!(tx.kept_request(left).await.unwrap().is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn the_oldest_answers_of_an_owner_go_and_running_requests_stay() {
    on_both(async |store| {
        let (one, other) = (caller(&store).await, caller(&store).await);
        let mut tx = store.db.write().await.unwrap();
        let running = started(one, "/v1/inboxes", "running");
        assert!(tx.start_idempotent(&running, 3).await.unwrap());
        let foreign = started(other, "/v1/inboxes", "k");
        assert!(tx.start_idempotent(&foreign, 3).await.unwrap());
        tx.keep_answer(foreign.id, &kept_answer(about_nothing()))
            .await
            .unwrap();
        let mut answered = Vec::new();
        for number in 0..6 {
            let request = started(one, "/v1/inboxes", &format!("k{number}"));
            assert!(tx.start_idempotent(&request, 3).await.unwrap());
            tx.keep_answer(request.id, &kept_answer(about_nothing()))
                .await
                .unwrap();
            answered.push(request);
        }
        let mut kept = Vec::new();
        for request in &answered {
            kept.push(tx.kept_request(request).await.unwrap().is_some());
        }
        assert_eq!(kept, [false, false, false, true, true, true]);
        for left in [&running, &foreign] {
            assert!(tx.kept_request(left).await.unwrap().is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_sealing_keys_fingerprint_stays() {
    on_both(async |store| {
        let mut tx = store.db.write().await.unwrap();
        assert_eq!(tx.sealing_key_fingerprint().await.unwrap(), None);
        tx.remember_sealing_key(&[1; 32]).await.unwrap();
        tx.remember_sealing_key(&[2; 32]).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.db.read().await.unwrap();
        assert_eq!(tx.sealing_key_fingerprint().await.unwrap(), Some(vec![1; 32]));
    })
    .await;
}
