//! Deleted rows end when nothing needs them, and not before.

use std::str::FromStr as _;

use inboxd::{
    clock::{Clock, Machine, Timestamp, new_id},
    model::{
        api_key::{ApiKey, KeyKind, Scope},
        domain::{Challenge, Domain},
        ids::{DomainId, InboxId, KeyId, WorkspaceId},
        limits::Limits,
        made::Made,
        maps::MapKey,
        tenant::Tenant,
    },
    ops::removal::{Walk, remove_deleted},
    store::{NewKey, Owner, SessionsToEnd, Started, Tx},
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

use crate::support::{
    Folder,
    daemon::{Daemon, Database},
    service::service,
    store::{Store, address, domain, fresh_id, kept_answer, on_both, open},
    wait::until,
};

const DAY_S: i64 = 24 * 60 * 60;

/// What rows a table holds, whatever became of them: their ids, sorted.
async fn ids(store: &Store, table: &str) -> Vec<Uuid> {
    let sql = format!("SELECT id FROM {table} ORDER BY id");
    rows(store, sql).await
}

async fn rows(store: &Store, sql: String) -> Vec<Uuid> {
    if store.url.starts_with("sqlite:") {
        let options = SqliteConnectOptions::from_str(&store.url).unwrap();
        let mut db = SqliteConnection::connect_with(&options).await.unwrap();
        let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut db).await;
        found.unwrap()
    } else {
        let options = PgConnectOptions::from_str(&store.url).unwrap();
        let mut db = PgConnection::connect_with(&options).await.unwrap();
        let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut db).await;
        found.unwrap()
    }
}

/// The inboxes that tombstones remember.
async fn left_by(store: &Store) -> Vec<Uuid> {
    rows(
        store,
        "SELECT left_by FROM addresses WHERE inbox_id IS NULL ORDER BY left_by".to_owned(),
    )
    .await
}

async fn add_key(tx: &mut Tx, scope: Scope, revoked_at: Option<Timestamp>) -> KeyId {
    let id = KeyId(fresh_id());
    let key = ApiKey::generate(KeyKind::Tenant, &Machine);
    let new = NewKey {
        id,
        key: &key,
        scope,
        name: None,
        created_at: Machine.now(),
    };
    tx.insert_key(&new).await.unwrap();
    if let Some(at) = revoked_at {
        assert!(tx.revoke_key(id, at).await.unwrap());
    }
    id
}

async fn add_domain(tx: &mut Tx, tenant: &Tenant, workspace: WorkspaceId, name: &str) -> DomainId {
    let new = Domain::registered(
        DomainId(fresh_id()),
        (tenant.id, workspace),
        domain(name),
        Challenge::generate(&Machine),
        Machine.now(),
    );
    assert!(tx.insert_domain(&new).await.unwrap());
    new.id
}

async fn delete(store: &Store, inbox: InboxId, held_until: Timestamp, at: Timestamp) {
    let mut tx = store.db.write().await.unwrap();
    tx.delete_inboxes_of(Owner::Inbox(inbox), held_until, at)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Keeps an answer for a request of a key.
async fn keep_answer(tx: &mut Tx, caller: KeyId) -> Uuid {
    let started = Started {
        id: fresh_id(),
        caller,
        path: "/v1/inboxes".to_owned(),
        idempotency_key: "k".to_owned(),
        request_hash: [0; 32],
        started_at: Machine.now(),
        owner: caller.0,
    };
    assert!(tx.start_idempotent(&started, 10).await.unwrap());
    let made = Made::inbox(InboxId(fresh_id()));
    tx.keep_answer(started.id, &kept_answer(made)).await.unwrap();
    started.id
}

fn sorted<const N: usize>(ids: [Uuid; N]) -> Vec<Uuid> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn an_inbox_ends_with_its_last_tombstone_and_the_answers_kept_for_its_keys() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = store.tenant("Acme", Limits::default()).await;
        let home = acme.default_workspace;
        let (now, yesterday) = (Machine.now(), Machine.now().plus_seconds(-DAY_S));
        let tomorrow = now.plus_seconds(DAY_S);
        let [ended, held, answered, new, live] =
            ["ended", "held", "answered", "new", "live"].map(|name| format!("{name}@example.com"));
        let ended = store.inbox(&acme, home, &ended).await;
        let held = store.inbox(&acme, home, &held).await;
        let answered = store.inbox(&acme, home, &answered).await;
        let new = store.inbox(&acme, home, &new).await;
        let live = store.inbox(&acme, home, &live).await;
        let mut tx = store.db.write().await.unwrap();
        let own = |inbox| Scope::Inbox {
            tenant: acme.id,
            workspace: home,
            inbox,
        };
        let caller = add_key(&mut tx, own(answered), None).await;
        let answer = keep_answer(&mut tx, caller).await;
        // One that its deletion did not see, because it was made in the same moment.
        add_key(&mut tx, own(ended), None).await;
        tx.commit().await.unwrap();
        delete(&store, ended, yesterday, yesterday).await;
        delete(&store, held, tomorrow, yesterday).await;
        delete(&store, answered, yesterday, yesterday).await;
        delete(&store, new, now, now).await;

        let mut walk = Walk::default();
        // Two tombstones, an inbox.
        assert_eq!(remove_deleted(&service, &mut walk).await.unwrap(), 3);
        assert_eq!(
            ids(&store, "inboxes").await,
            sorted([held.0, answered.0, new.0, live.0])
        );
        assert_eq!(left_by(&store).await, sorted([held.0, new.0]));
        assert_eq!(ids(&store, "api_keys").await, [caller.0]);
        assert_eq!(remove_deleted(&service, &mut walk).await.unwrap(), 0);

        let mut tx = store.db.write().await.unwrap();
        tx.forget_request(answer).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(remove_deleted(&service, &mut walk).await.unwrap(), 1);
        assert_eq!(ids(&store, "inboxes").await, sorted([held.0, new.0, live.0]));
    })
    .await;
}

#[tokio::test]
async fn keys_domains_and_workspaces_end_when_nothing_refers_to_them() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = store.tenant("Acme", Limits::default()).await;
        let (now, yesterday) = (Machine.now(), Machine.now().plus_seconds(-DAY_S));
        let [empty, held] = [
            store.workspace(&acme, "empty").await.id,
            store.workspace(&acme, "held").await.id,
        ];
        let inbox = store.inbox(&acme, held, "scout@example.com").await;
        let scope = Scope::Tenant { tenant: acme.id };
        let mut tx = store.db.write().await.unwrap();
        let (in_force, just_now) = (
            add_key(&mut tx, scope, None).await,
            add_key(&mut tx, scope, Some(now)).await,
        );
        let answered = add_key(&mut tx, scope, None).await;
        let answer = keep_answer(&mut tx, answered).await;
        assert!(tx.revoke_key(answered, yesterday).await.unwrap());
        // More than one page.
        for _ in 0..250 {
            add_key(&mut tx, scope, Some(yesterday)).await;
        }
        let (kept, gone) = (
            add_domain(&mut tx, &acme, acme.default_workspace, "kept.example").await,
            add_domain(&mut tx, &acme, empty, "gone.example").await,
        );
        tx.delete_domain(gone, yesterday).await.unwrap();
        tx.delete_workspace(empty, yesterday).await.unwrap();
        tx.delete_workspace(held, yesterday).await.unwrap();
        tx.commit().await.unwrap();
        delete(&store, inbox, now.plus_seconds(DAY_S), yesterday).await;

        let mut walk = Walk::default();
        assert_eq!(remove_deleted(&service, &mut walk).await.unwrap(), 252);
        assert_eq!(
            ids(&store, "api_keys").await,
            sorted([in_force.0, just_now.0, answered.0])
        );
        assert_eq!(ids(&store, "domains").await, [kept.0]);
        assert_eq!(
            ids(&store, "workspaces").await,
            sorted([acme.default_workspace.0, held.0])
        );
        // Whatever had to stay is looked at again.
        let mut tx = store.db.write().await.unwrap();
        tx.forget_request(answer).await.unwrap();
        assert_eq!(tx.release_tombstones(acme.id, 0, 10, yesterday).await.unwrap(), 1);
        tx.commit().await.unwrap();
        // The key, the tombstone, the inbox, the workspace.
        assert_eq!(remove_deleted(&service, &mut walk).await.unwrap(), 4);
        assert_eq!(ids(&store, "workspaces").await, [acme.default_workspace.0]);
        assert_eq!(ids(&store, "inboxes").await, Vec::<Uuid>::new());
    })
    .await;
}

/// A clock that stands.
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[tokio::test]
async fn nothing_ends_that_was_deleted_behind_an_unpublished_change() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = store.tenant("Acme", Limits::default()).await;
        let now = Machine.now();
        let (before, marked, behind) = (
            now.plus_seconds(-3 * DAY_S),
            now.plus_seconds(-2 * DAY_S),
            now.plus_seconds(-DAY_S),
        );
        let older = store
            .inbox(&acme, acme.default_workspace, "older@example.com")
            .await;
        let newer = store
            .inbox(&acme, acme.default_workspace, "newer@example.com")
            .await;
        delete(&store, older, before, before).await;
        delete(&store, newer, behind, behind).await;
        let key = MapKey::Address(address("newer@example.com"));
        let mark = new_id(&At(marked), &Machine);
        let mut tx = store.db.write().await.unwrap();
        tx.mark_unpublished(&key, mark, SessionsToEnd::None, marked)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut walk = Walk::default();
        remove_deleted(&service, &mut walk).await.unwrap();
        assert_eq!(ids(&store, "inboxes").await, [newer.0]);
        assert_eq!(left_by(&store).await, [newer.0]);

        let mut tx = store.db.write().await.unwrap();
        let pending = tx.unpublished(None, 10).await.unwrap();
        tx.clear_unpublished(&pending).await.unwrap();
        tx.commit().await.unwrap();
        remove_deleted(&service, &mut walk).await.unwrap();
        assert_eq!(ids(&store, "inboxes").await, Vec::<Uuid>::new());
    })
    .await;
}

#[tokio::test]
async fn the_daemon_removes_deleted_rows_and_counts_them() {
    let folder = Folder::new();
    let mut daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    assert!(daemon.stop().await.success());
    let db = open(&daemon.store_url).await;
    let mut tx = db.write().await.unwrap();
    let yesterday = Machine.now().plus_seconds(-DAY_S);
    add_key(&mut tx, Scope::SuperAdmin, Some(yesterday)).await;
    tx.commit().await.unwrap();
    db.close().await;
    daemon.up().await;
    until("the revoked key is removed", || async {
        let removed: Option<u64> = daemon
            .metric("inboxd_rows_removed_total{table=\"api_keys\"}")
            .await;
        (removed == Some(1)).then_some(())
    })
    .await;
}
