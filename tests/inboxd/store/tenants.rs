//! Tenants and their caps.

use inboxd::{
    clock::{Clock as _, Machine},
    model::{ids::TenantId, limits::Limits, names::Label},
};

use crate::support::store::{Store, fresh_id, on_both};

const CAPPED: Limits = Limits {
    inboxes: Some(2),
    domains: Some(0),
    workspaces: Some(3),
};

#[tokio::test]
async fn a_tenant_is_read_as_it_was_written() {
    on_both(async |store| {
        let written = store.tenant("Acme Köln 日本", CAPPED).await;
        let mut tx = store.db.read().await.unwrap();
        assert_eq!(tx.tenant(written.id).await.unwrap(), Some(written));
        assert_eq!(tx.tenant(TenantId(fresh_id())).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn tenants_are_listed_newest_first_in_pages_without_the_deleted() {
    on_both(async |store| {
        let mut ids = Vec::new();
        for number in 0..5 {
            ids.push(store.tenant(&format!("t{number}"), Limits::default()).await.id);
        }
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.delete_tenant(ids[2], Machine.now()).await.unwrap());
        assert!(!tx.delete_tenant(ids[2], Machine.now()).await.unwrap(), "twice");
        tx.commit().await.unwrap();
        ids.remove(2);
        // Ids of one millisecond sort by chance; what counts is that the list is in their order.
        ids.sort_unstable_by(|one, other| other.cmp(one));

        let mut tx = store.db.read().await.unwrap();
        let mut listed = Vec::new();
        while let page = tx.tenants(listed.last().copied(), 3).await.unwrap()
            && !page.is_empty()
        {
            listed.extend(page.iter().map(|tenant| tenant.id));
        }
        assert_eq!(listed, ids);
    })
    .await;
}

#[tokio::test]
async fn an_update_changes_name_caps_and_suspension_and_nothing_else() {
    on_both(async |store| {
        let mut tenant = store.tenant("Acme", CAPPED).await;
        let other = store.tenant("Other", CAPPED).await;
        tenant.name = Label::parse("Acme 2").unwrap();
        tenant.limits = Limits {
            inboxes: None,
            domains: Some(u32::MAX),
            workspaces: Some(1),
        };
        tenant.suspended_at = Some(Machine.now());
        let mut tx = store.db.write().await.unwrap();
        let mut wrong_counts = tenant.clone();
        wrong_counts.inbox_count = 77;
        assert!(tx.update_tenant(&wrong_counts).await.unwrap());
        tx.commit().await.unwrap();

        let mut tx = store.db.write().await.unwrap();
        assert_eq!(tx.tenant(tenant.id).await.unwrap().unwrap(), tenant);
        assert_eq!(tx.tenant(other.id).await.unwrap().unwrap(), other);
        assert!(tx.delete_tenant(tenant.id, Machine.now()).await.unwrap());
        assert!(!tx.update_tenant(&tenant).await.unwrap(), "deleted");
        assert_eq!(tx.tenant(tenant.id).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn caps_hold_and_what_is_gone_makes_room() {
    on_both(async |store| {
        let tenant = store.tenant("Acme", CAPPED).await;
        let free = store.tenant("Free", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        let mut counted = Vec::new();
        for _ in 0..3 {
            counted.push(tx.count_new_inbox(tenant.id).await.unwrap());
            counted.push(tx.count_new_workspace(tenant.id).await.unwrap());
            assert!(tx.count_new_inbox(free.id).await.unwrap(), "no cap");
        }
        assert_eq!(
            counted,
            [true, true, true, true, false, false],
            "2 inboxes; 3 workspaces, the default one included"
        );
        tx.count_gone(tenant.id, 1, 1).await.unwrap();
        assert!(tx.count_new_inbox(tenant.id).await.unwrap());
        assert!(tx.count_new_workspace(tenant.id).await.unwrap());
        let counts = tx.tenant(tenant.id).await.unwrap().unwrap();
        assert_eq!((counts.inbox_count, counts.workspace_count), (2, 3));

        assert!(tx.delete_tenant(tenant.id, Machine.now()).await.unwrap());
        assert!(!tx.count_new_inbox(tenant.id).await.unwrap(), "deleted");
        assert!(!tx.count_new_workspace(tenant.id).await.unwrap(), "deleted");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_nothing() {
    on_both(async |store: Store| {
        let tenant = store.tenant("Acme", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.count_new_inbox(tenant.id).await.unwrap());
        crate::support::store::add_inbox(&mut tx, &tenant, tenant.default_workspace, "a@example.com", None)
            .await;
        let lost = crate::support::store::add_tenant(&mut tx, "Lost", Limits::default()).await;
        drop(tx);
        let mut tx = store.db.write().await.unwrap();
        assert_eq!(tx.tenant(lost.id).await.unwrap(), None);
        assert_eq!(tx.tenant(tenant.id).await.unwrap().unwrap().inbox_count, 0);
        assert_eq!(tx.address_states_after(None, 10).await.unwrap(), []);
    })
    .await;
}
