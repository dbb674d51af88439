//! API keys: found by their hash while they are in force.

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        api_key::{ApiKey, KeyKind, Scope},
        ids::{InboxId, KeyId, WorkspaceId},
        limits::Limits,
        names::Label,
        tenant::Tenant,
    },
    store::{FoundKey, NewKey, Owner, Tx},
};

use crate::support::store::{Store, fresh_id, on_both};

async fn look_up(tx: &mut Tx, key: &ApiKey) -> Option<FoundKey> {
    // Beside another, and twice: each hash has its own answer.
    let other = ApiKey::generate(KeyKind::Tenant, &Machine).hash();
    let found = tx.keys_by_hash(&[other, key.hash(), key.hash()]).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(found[0].is_none());
    assert_eq!(
        found[1].map(|found| found.caller),
        found[2].map(|found| found.caller)
    );
    found[1]
}

struct Keys {
    tenant: Tenant,
    sales: WorkspaceId,
    inbox: InboxId,
    super_admin: ApiKey,
    of_tenant: ApiKey,
    of_sales: ApiKey,
    of_inbox: ApiKey,
}

impl Keys {
    /// A key of each kind, the inbox being in the workspace `sales`.
    async fn new(store: &Store) -> Self {
        let tenant = store.tenant("Acme", Limits::default()).await;
        let sales = store.workspace(&tenant, "sales").await.id;
        let inbox = store.inbox(&tenant, sales, "scout@example.com").await;
        let (tenant_id, workspace) = (tenant.id, sales);
        Self {
            super_admin: add(store, Scope::SuperAdmin).await,
            of_tenant: add(store, Scope::Tenant { tenant: tenant_id }).await,
            of_sales: add(
                store,
                Scope::Workspace {
                    tenant: tenant_id,
                    workspace,
                },
            )
            .await,
            of_inbox: add(
                store,
                Scope::Inbox {
                    tenant: tenant_id,
                    workspace,
                    inbox,
                },
            )
            .await,
            tenant,
            sales,
            inbox,
        }
    }

    /// Which of the keys are in force: super admin, tenant, workspace, inbox.
    async fn in_force(&self, store: &Store) -> [bool; 4] {
        let mut tx = store.db.read().await.unwrap();
        let mut found = [false; 4];
        let keys = [&self.super_admin, &self.of_tenant, &self.of_sales, &self.of_inbox];
        for (index, key) in keys.into_iter().enumerate() {
            found[index] = look_up(&mut tx, key).await.is_some();
        }
        found
    }
}

async fn add(store: &Store, scope: Scope) -> ApiKey {
    add_named(store, scope, None).await.0
}

async fn add_named(store: &Store, scope: Scope, name: Option<&Label>) -> (ApiKey, KeyId) {
    let key = ApiKey::generate(scope.kind(), &Machine);
    let id = KeyId(fresh_id());
    let mut tx = store.db.write().await.unwrap();
    tx.insert_key(&NewKey {
        id,
        key: &key,
        scope,
        name,
        created_at: Machine.now(),
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
    (key, id)
}

#[tokio::test]
async fn a_key_is_found_with_its_scope_and_an_unknown_one_is_not() {
    on_both(async |store| {
        let keys = Keys::new(&store).await;
        let (tenant, workspace, inbox) = (keys.tenant.id, keys.sales, keys.inbox);
        let mut tx = store.db.read().await.unwrap();
        for (key, scope) in [
            (&keys.super_admin, Scope::SuperAdmin),
            (&keys.of_tenant, Scope::Tenant { tenant }),
            (&keys.of_sales, Scope::Workspace { tenant, workspace }),
            (
                &keys.of_inbox,
                Scope::Inbox {
                    tenant,
                    workspace,
                    inbox,
                },
            ),
        ] {
            let found = look_up(&mut tx, key).await.unwrap();
            assert_eq!(found.caller.scope, scope);
            assert_eq!(found.suspended_at, None);
        }
        let unknown = ApiKey::generate(KeyKind::Tenant, &Machine);
        assert!(look_up(&mut tx, &unknown).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_key_tells_that_its_tenant_is_suspended() {
    on_both(async |store| {
        let keys = Keys::new(&store).await;
        let mut tenant = keys.tenant.clone();
        tenant.suspended_at = Some(Machine.now());
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.update_tenant(&tenant).await.unwrap());
        for key in [&keys.of_tenant, &keys.of_sales, &keys.of_inbox] {
            let found = look_up(&mut tx, key).await.unwrap();
            assert_eq!(found.suspended_at, tenant.suspended_at);
        }
        let found = look_up(&mut tx, &keys.super_admin).await.unwrap();
        assert_eq!(found.suspended_at, None);
    })
    .await;
}

#[tokio::test]
async fn an_owners_keys_are_revoked_with_all_beneath_it_and_nothing_above() {
    type OwnerOf = fn(&Keys) -> Owner;
    let cases: [(OwnerOf, [bool; 4]); 3] = [
        (|keys| Owner::Inbox(keys.inbox), [true, true, true, false]),
        (|keys| Owner::Workspace(keys.sales), [true, true, false, false]),
        (|keys| Owner::Tenant(keys.tenant.id), [true, false, false, false]),
    ];
    on_both(async |store| {
        for (owner, left) in cases {
            let keys = Keys::new(&store).await;
            assert_eq!(keys.in_force(&store).await, [true; 4]);
            let mut tx = store.db.write().await.unwrap();
            tx.revoke_keys_of(owner(&keys), Machine.now()).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(keys.in_force(&store).await, left);
            keys.bury(&store).await;
        }
    })
    .await;
}

impl Keys {
    /// Makes room for the next set.
    async fn bury(&self, store: &Store) {
        let mut tx = store.db.write().await.unwrap();
        // Held until long ago: free for everybody.
        tx.delete_inboxes_of(
            Owner::Inbox(self.inbox),
            Machine.now().plus_seconds(-1),
            Machine.now(),
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_whose_owner_is_deleted_opens_nothing_even_if_nobody_revoked_it() {
    on_both(async |store| {
        // A key can be made in the moment in which its owner is deleted.
        let keys = Keys::new(&store).await;
        let mut tx = store.db.write().await.unwrap();
        tx.delete_inboxes_of(
            Owner::Inbox(keys.inbox),
            Machine.now().plus_seconds(60),
            Machine.now(),
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(keys.in_force(&store).await, [true, true, true, false]);
        let mut tx = store.db.write().await.unwrap();
        tx.delete_workspace(keys.sales, Machine.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(keys.in_force(&store).await, [true, true, false, false]);
        let mut tx = store.db.write().await.unwrap();
        tx.delete_tenant(keys.tenant.id, Machine.now()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(keys.in_force(&store).await, [true, false, false, false]);
    })
    .await;
}

#[tokio::test]
async fn a_workspaces_keys_are_listed_newest_first_and_revoked_one_by_one() {
    on_both(async |store| {
        let keys = Keys::new(&store).await;
        let (tenant, workspace) = (keys.tenant.id, keys.sales);
        let name = Label::parse("for the shop").unwrap();
        let (named, named_id) = add_named(&store, Scope::Workspace { tenant, workspace }, Some(&name)).await;
        let other = store.workspace(&keys.tenant, "other").await.id;
        let of = |workspace| Scope::Workspace { tenant, workspace };
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.keys_of(of(other)).await.unwrap().is_empty());
        for scope in [Scope::SuperAdmin, Scope::Tenant { tenant }] {
            assert_eq!(tx.keys_of(scope).await.unwrap().len(), 1, "{scope:?}");
        }
        let listed = tx.keys_of(of(workspace)).await.unwrap();
        let mut in_order = listed.clone();
        in_order.sort_by_key(|key| std::cmp::Reverse(key.id));
        assert_eq!(listed, in_order);
        assert_eq!(
            listed.len(),
            2,
            "the inbox's key is not the workspace's: {listed:?}"
        );
        let of_name = listed.iter().find(|key| key.id == named_id).unwrap();
        assert_eq!(
            (of_name.fragment.as_str(), of_name.name.as_ref()),
            (named.fragment().as_str(), Some(&name))
        );

        let now = Machine.now();
        assert!(tx.revoke_key(named_id, now).await.unwrap());
        assert!(!tx.revoke_key(named_id, now).await.unwrap(), "twice");
        assert!(look_up(&mut tx, &named).await.is_none());
        assert_eq!(tx.keys_of(of(workspace)).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn two_keys_never_share_a_hash() {
    on_both(async |store| {
        let key = ApiKey::generate(KeyKind::SuperAdmin, &Machine);
        let mut tx = store.db.write().await.unwrap();
        let mut insert = async || {
            tx.insert_key(&NewKey {
                id: KeyId(fresh_id()),
                key: &key,
                scope: Scope::SuperAdmin,
                name: None,
                created_at: Machine.now(),
            })
            .await
        };
        insert().await.unwrap();
        assert!(!insert().await.unwrap_err().is_transient());
    })
    .await;
}
