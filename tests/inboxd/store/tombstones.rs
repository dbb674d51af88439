//! Tombstones: whose they are, how many a tenant keeps, and what becomes of those of earlier versions.

use std::{collections::BTreeSet, str::FromStr as _};

use inboxd::{
    clock::{Clock as _, Machine, Timestamp},
    model::{
        address::Address,
        ids::{InboxId, TenantId, WorkspaceId},
        limits::Limits,
    },
    store::{Claimant, Holder, ImportedInbox, Owner},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use crate::support::{
    Folder,
    daemon::Database,
    store::{Store, address, domain, fresh_id, hash, local_part, on_both, open},
};

/// Whether a claim would get the address, on which all that decide agree: the claim itself, the look-up of taken names,
/// and an import into this workspace. Nothing is kept of it.
async fn could_claim(
    store: &Store,
    claimant: Claimant,
    wanted: &Address,
    workspace: WorkspaceId,
    now: Timestamp,
) -> bool {
    let mut tx = store.db.write().await.unwrap();
    let names = std::slice::from_ref(&wanted.local_part);
    let taken = tx
        .taken_names(&wanted.domain, names, claimant, now)
        .await
        .unwrap();
    let holders = tx.holders(&wanted.domain, &[&wanted.local_part]).await.unwrap();
    let is_free = match holders.as_slice() {
        [] => true,
        [(_, Holder::Tombstone(tenant, of, until))] => *until <= now || claimant.may_take(*tenant, *of),
        _ => false,
    };
    let id = InboxId(fresh_id());
    let claimed = tx
        .claim_address(wanted, claimant, id, Some(now), now)
        .await
        .unwrap();
    drop(tx);
    let hash = hash(1);
    let inbox = ImportedInbox {
        id,
        address: wanted,
        hash: &hash,
    };
    let mut tx = store.db.write().await.unwrap();
    let imported = tx
        .insert_imported(claimant, workspace, &[inbox], now)
        .await
        .unwrap();
    assert_eq!(
        [taken.is_empty(), is_free, imported],
        [claimed; 3],
        "{claimant:?}"
    );
    claimed
}

#[tokio::test]
async fn a_tombstone_gives_way_to_its_workspace_and_to_the_tenant() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let (home, sibling) = (acme.default_workspace, store.workspace(&acme, "sibling").await.id);
        let now = Machine.now();
        let until = now.plus_seconds(60);
        let inbox = store.inbox(&acme, home, "ceo@example.com").await;
        let (ceo, sales) = (address("ceo@example.com"), address("sales@example.com"));
        let mut tx = store.db.write().await.unwrap();
        let claimed = tx.claim_address(&sales, Claimant::workspace(acme.id, home), inbox, None, now);
        assert!(claimed.await.unwrap());
        assert!(tx.leave_address(inbox, &sales, until).await.unwrap());
        tx.delete_inboxes_of(Owner::Inbox(inbox), until, now)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        for left in [&ceo, &sales] {
            for (claimant, at, expected) in [
                (Claimant::workspace(acme.id, home), now, true),
                (Claimant::workspace(acme.id, sibling), now, false),
                (Claimant::tenant(acme.id), now, true),
                (Claimant::workspace(other.id, other.default_workspace), now, false),
                (Claimant::tenant(other.id), now, false),
                (Claimant::workspace(acme.id, sibling), until, true),
                (
                    Claimant::workspace(other.id, other.default_workspace),
                    until,
                    true,
                ),
            ] {
                let got = could_claim(&store, claimant, left, home, at).await;
                assert_eq!(got, expected, "{left} {claimant:?} at {at}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_tombstones_of_a_deleted_workspace_are_for_the_tenant_alone() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let gone = store.workspace(&acme, "gone").await.id;
        store.inbox(&acme, gone, "ceo@example.com").await;
        let now = Machine.now();
        let mut tx = store.db.write().await.unwrap();
        tx.delete_inboxes_of(Owner::Workspace(gone), now.plus_seconds(60), now)
            .await
            .unwrap();
        tx.delete_workspace(gone, now).await.unwrap();
        tx.commit().await.unwrap();
        let ceo = address("ceo@example.com");
        let home = Claimant::workspace(acme.id, acme.default_workspace);
        assert!(!could_claim(&store, home, &ceo, acme.default_workspace, now).await);
        assert!(
            could_claim(
                &store,
                Claimant::tenant(acme.id),
                &ceo,
                acme.default_workspace,
                now
            )
            .await
        );
    })
    .await;
}

/// The names at example.com that a tenant holds as tombstones.
async fn held(store: &Store, tenant: TenantId, names: &[String], now: Timestamp) -> BTreeSet<String> {
    let names: Vec<_> = names.iter().map(|name| local_part(name)).collect();
    let names: Vec<_> = names.iter().collect();
    let mut tx = store.db.read().await.unwrap();
    let holders = tx.holders(&domain("example.com"), &names).await.unwrap();
    holders
        .into_iter()
        .filter(
            |(_, holder)| matches!(holder, Holder::Tombstone(of, _, until) if *of == tenant && *until > now),
        )
        .map(|(name, _)| name)
        .collect()
}

#[tokio::test]
async fn the_tombstones_that_end_first_are_released() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let now = Machine.now();
        // Two of each age, so that ties are broken; and another tenant's, which do not count.
        let names: Vec<String> = (0..20).map(|number| format!("n{number:02}")).collect();
        for (number, name) in (0_i64..).zip(&names) {
            let inbox = store
                .inbox(&acme, acme.default_workspace, &format!("{name}@example.com"))
                .await;
            let mut tx = store.db.write().await.unwrap();
            let until = now.plus_seconds(60 + number / 2);
            tx.delete_inboxes_of(Owner::Inbox(inbox), until, now)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        let foreign = store
            .inbox(&other, other.default_workspace, "x@example.com")
            .await;
        let mut tx = store.db.write().await.unwrap();
        tx.delete_inboxes_of(Owner::Inbox(foreign), now.plus_seconds(60), now)
            .await
            .unwrap();
        assert_eq!(tx.release_tombstones(acme.id, 20, 100, now).await.unwrap(), 0);
        assert_eq!(tx.release_tombstones(acme.id, 15, 100, now).await.unwrap(), 5);
        assert_eq!(tx.release_tombstones(acme.id, 15, 100, now).await.unwrap(), 0);
        tx.commit().await.unwrap();
        let left: Vec<String> = held(&store, acme.id, &names, now).await.into_iter().collect();
        assert_eq!(left, names[5..], "the oldest were not released");
        assert_eq!(held(&store, other.id, &["x".to_owned()], now).await.len(), 1);
        // No more than is asked for in one call, and of the rest none.
        let mut tx = store.db.write().await.unwrap();
        assert_eq!(tx.release_tombstones(acme.id, 0, 4, now).await.unwrap(), 4);
        assert_eq!(tx.release_tombstones(acme.id, 0, 400, now).await.unwrap(), 11);
        tx.commit().await.unwrap();
        assert!(held(&store, acme.id, &names, now).await.is_empty());
        let anyone = Claimant::tenant(other.id);
        assert!(
            could_claim(
                &store,
                anyone,
                &address("n19@example.com"),
                other.default_workspace,
                now
            )
            .await
        );
    })
    .await;
}

#[tokio::test]
async fn a_released_tombstone_is_still_found_by_who_left_it() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let inbox = store
            .inbox(&acme, acme.default_workspace, "scout@example.com")
            .await;
        let (scout, now) = (address("scout@example.com"), Machine.now());
        let mut tx = store.db.write().await.unwrap();
        tx.delete_inboxes_of(Owner::Inbox(inbox), now.plus_seconds(60), now)
            .await
            .unwrap();
        let key = inboxd::model::maps::MapKey::Address(scout.clone());
        tx.mark_unpublished(&key, fresh_id(), inboxd::store::SessionsToEnd::All, now)
            .await
            .unwrap();
        assert_eq!(tx.release_tombstones(acme.id, 0, 10, now).await.unwrap(), 1);
        assert!(tx.has_left_unpublished(inbox, &scout).await.unwrap());
        assert_eq!(tx.unpublished_of(Owner::Tenant(acme.id)).await.unwrap(), [key]);
    })
    .await;
}

/// The last migration before tombstones belonged to workspaces.
const EARLIER: i64 = 4;

/// A tenant with two workspaces, a deleted inbox of the second one and its tombstone, and one whose inbox is not known;
/// `id` writes an id.
fn rows(ids: [Uuid; 4], id: impl Fn(Uuid) -> String) -> String {
    let [tenant, home, second, inbox] = ids.map(id);
    format!(
        "INSERT INTO tenants (id, name, default_workspace_id, inbox_count, workspace_count, created_at)
             VALUES ({tenant}, 'Acme', {home}, 0, 2, 1);
         INSERT INTO workspaces (id, tenant_id, name, slug, inbox_count, created_at)
             VALUES ({home}, {tenant}, 'Home', 'home', 0, 1), ({second}, {tenant}, 'Second', 'second', 0, 1);
         INSERT INTO inboxes (id, tenant_id, workspace_id, local_part, domain, metadata, password_hash, created_at, deleted_at)
             VALUES ({inbox}, {tenant}, {second}, 'known', 'example.com', '{{}}', '{{SHA512-CRYPT}}x', 1, 2);
         INSERT INTO addresses (domain, local_part, tenant_id, held_until, left_by)
             VALUES ('example.com', 'known', {tenant}, 9000000000000000, {inbox}),
                 ('example.com', 'unknown', {tenant}, 9000000000000000, NULL)"
    )
}

#[tokio::test]
async fn tombstones_of_earlier_versions_become_their_workspaces() {
    for database in Database::ALL {
        let folder = Folder::new();
        let url = database.url(folder.path()).await;
        let ids = [fresh_id(), fresh_id(), fresh_id(), fresh_id()];
        if let Some(file) = url.strip_prefix("sqlite:") {
            let options = SqliteConnectOptions::from_str(file)
                .unwrap()
                .create_if_missing(true);
            let mut db = SqliteConnection::connect_with(&options).await.unwrap();
            let migrations = sqlx::migrate!("migrations/sqlite");
            migrations.run_to(EARLIER, &mut db).await.unwrap();
            let rows = rows(ids, |id| format!("x'{}'", id.simple()));
            sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut db).await.unwrap();
            db.close().await.unwrap();
        } else {
            let mut db = PgConnection::connect(&url).await.unwrap();
            let migrations = sqlx::migrate!("migrations/postgres");
            migrations.run_to(EARLIER, &mut db).await.unwrap();
            let rows = rows(ids, |id| format!("'{id}'"));
            sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut db).await.unwrap();
            db.close().await.unwrap();
        }
        let db = open(&url).await;
        let mut tx = db.read().await.unwrap();
        let names = ["known", "unknown"].map(local_part);
        let mut holders = tx
            .holders(&domain("example.com"), &names.each_ref())
            .await
            .unwrap();
        holders.sort_by(|(one, _), (other, _)| one.cmp(other));
        let until = Timestamp::from_micros(9_000_000_000_000_000);
        let [tenant, _, second, _] = ids;
        let expected = [("known", Some(WorkspaceId(second))), ("unknown", None)].map(|(name, workspace)| {
            (
                name.to_owned(),
                Holder::Tombstone(TenantId(tenant), workspace, until),
            )
        });
        assert_eq!(holders, expected, "{database:?}");
    }
}
