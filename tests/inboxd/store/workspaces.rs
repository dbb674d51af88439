//! Workspaces and their slugs.

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        ids::WorkspaceId,
        limits::Limits,
        names::{Label, Slug},
    },
};

use crate::support::store::{fresh_id, on_both, workspace_of};

#[tokio::test]
async fn slugs_are_unique_within_a_tenant_while_the_workspace_lives() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let first = store.workspace(&acme, "sales").await;
        let foreign = store.workspace(&other, "sales").await;
        let again = workspace_of(acme.id, WorkspaceId(fresh_id()), "sales");
        let mut tx = store.db.write().await.unwrap();
        assert!(!tx.insert_workspace(&again).await.unwrap(), "taken");
        assert!(tx.delete_workspace(first.id, Machine.now()).await.unwrap());
        assert!(
            !tx.delete_workspace(first.id, Machine.now()).await.unwrap(),
            "twice"
        );
        assert!(tx.insert_workspace(&again).await.unwrap(), "free again");

        let marketing = Slug::parse("marketing").unwrap();
        assert!(tx.change_workspace_slug(again.id, &marketing).await.unwrap());
        assert!(
            tx.change_workspace_slug(again.id, &marketing).await.unwrap(),
            "its own"
        );
        let default = Slug::parse("default").unwrap();
        assert!(
            !tx.change_workspace_slug(again.id, &default).await.unwrap(),
            "taken"
        );
        assert!(
            !tx.change_workspace_slug(first.id, &default).await.unwrap(),
            "deleted"
        );
        assert_eq!(
            tx.workspace(acme.id, again.id).await.unwrap().unwrap().slug,
            marketing
        );
        assert_eq!(
            tx.workspace(other.id, foreign.id)
                .await
                .unwrap()
                .unwrap()
                .slug
                .as_str(),
            "sales"
        );
    })
    .await;
}

#[tokio::test]
async fn a_workspace_is_reached_by_its_tenant_alone() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let sales = store.workspace(&acme, "sales").await;
        let mut tx = store.db.write().await.unwrap();
        assert_eq!(
            tx.workspace(acme.id, sales.id).await.unwrap(),
            Some(sales.clone())
        );
        assert_eq!(tx.workspace(other.id, sales.id).await.unwrap(), None);
        let default = tx.workspace(acme.id, acme.default_workspace).await.unwrap();
        assert!(default.unwrap().is_default);
        let name = Label::parse("Sales & more").unwrap();
        tx.rename_workspace(sales.id, &name).await.unwrap();
        assert_eq!(tx.workspace(acme.id, sales.id).await.unwrap().unwrap().name, name);
        assert!(tx.delete_workspace(sales.id, Machine.now()).await.unwrap());
        assert!(
            tx.rename_workspace(sales.id, &name).await.is_err(),
            "no such workspace"
        );
        assert_eq!(tx.workspace(acme.id, sales.id).await.unwrap(), None);
        assert!(tx.delete_tenant(acme.id, Machine.now()).await.unwrap());
        assert_eq!(tx.workspace(acme.id, acme.default_workspace).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn workspaces_are_listed_newest_first_in_pages() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        store.workspace(&other, "foreign").await;
        let mut ids = vec![acme.default_workspace];
        for slug in ["a", "b", "c", "d"] {
            ids.push(store.workspace(&acme, slug).await.id);
        }
        let mut tx = store.db.write().await.unwrap();
        assert!(tx.delete_workspace(ids[2], Machine.now()).await.unwrap());
        ids.remove(2);
        ids.sort_unstable_by(|one, other| other.cmp(one));
        let mut listed = Vec::new();
        while let page = tx.workspaces(acme.id, listed.last().copied(), 2).await.unwrap()
            && !page.is_empty()
        {
            listed.extend(page.iter().map(|workspace| workspace.id));
        }
        assert_eq!(listed, ids);
    })
    .await;
}

#[tokio::test]
async fn a_workspace_counts_its_inboxes_while_it_lives() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let sales = store.workspace(&acme, "sales").await;
        let mut tx = store.db.write().await.unwrap();
        for change in [1, 1, -1] {
            assert!(tx.count_inboxes_of_workspace(sales.id, change).await.unwrap());
        }
        let counted = tx.workspace(acme.id, sales.id).await.unwrap().unwrap();
        assert_eq!((counted.inbox_count, counted.domain_count), (1, 0));
        assert!(tx.delete_workspace(sales.id, Machine.now()).await.unwrap());
        assert!(!tx.count_inboxes_of_workspace(sales.id, 1).await.unwrap());
    })
    .await;
}
