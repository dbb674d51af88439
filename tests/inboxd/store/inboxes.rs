//! Inboxes: look-ups, lists, descriptions, secrets, deletion.

use std::num::NonZeroU32;

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        ids::{InboxId, WorkspaceId},
        inbox::SearchText,
        limits::Limits,
        metadata::Metadata,
        names::DisplayName,
        sasl_name::{Generation, SaslName},
        tenant::Tenant,
    },
    ops::PAGE_MAX_OCTETS,
    store::{InboxFilter, InboxSearch, NewSecrets, Owner},
};

use crate::support::store::{
    Store, add_inbox, address, at_home, domain, fresh_id, hash, local_part, on_both,
};

async fn list(store: &Store, tenant: &Tenant, filter: &InboxFilter, limit: u32) -> Vec<InboxId> {
    let mut tx = store.db.read().await.unwrap();
    let inboxes = tx
        .inboxes(tenant.id, filter, limit, PAGE_MAX_OCTETS)
        .await
        .unwrap()
        .inboxes;
    inboxes.into_iter().map(|inbox| inbox.id).collect()
}

fn newest_first(mut ids: Vec<InboxId>) -> Vec<InboxId> {
    ids.sort_unstable_by(|one, other| other.cmp(one));
    ids
}

#[tokio::test]
async fn whose_inboxes_are_is_found_for_all_at_once_and_after_their_deletion() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        let mut expected = Vec::new();
        for (number, tenant) in [&acme, &other, &acme].into_iter().enumerate() {
            let name = format!("scout{number}@example.com");
            let inbox = add_inbox(&mut tx, tenant, tenant.default_workspace, &name, None).await;
            expected.push((inbox, tenant.id));
        }
        let now = Machine.now();
        tx.delete_inboxes_of(Owner::Inbox(expected[0].0), now, now)
            .await
            .unwrap();
        let mut asked: Vec<InboxId> = expected.iter().map(|(inbox, _)| *inbox).collect();
        asked.push(InboxId(fresh_id()));
        let mut found = tx.tenants_of(&asked).await.unwrap();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(tx.tenants_of(&[]).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn an_inbox_is_found_by_id_by_address_and_by_requested_name() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let sales = store.workspace(&acme, "sales").await.id;
        store
            .inbox(&other, other.default_workspace, "scout@example.com")
            .await;
        let home = acme.default_workspace;
        let got = store
            .inbox_requested(&acme, home, "scout1@example.com", Some("scout"))
            .await;
        let in_sales = store
            .inbox_requested(&acme, sales, "scout2@example.com", Some("scout"))
            .await;
        let scout = address("scout@example.com");
        let mut tx = store.db.write().await.unwrap();
        let inbox = tx.inbox(got).await.unwrap().unwrap();
        assert_eq!(inbox.requested, Some(local_part("scout")));
        assert_eq!((inbox.tenant, inbox.workspace), (acme.id, home));
        assert_eq!(inbox.acknowledged_at, None);
        assert_eq!(tx.inbox(InboxId(fresh_id())).await.unwrap(), None);
        assert_eq!(
            tx.inbox_at(&address("scout1@example.com")).await.unwrap(),
            Some(inbox.clone())
        );
        assert_eq!(tx.inbox_at(&scout).await.unwrap().unwrap().tenant, other.id);
        assert_eq!(tx.inbox_at(&address("none@example.com")).await.unwrap(), None);

        let mut requested = async |tenant: &Tenant, workspace, name: &str| {
            let found = tx
                .inbox_requested_as(tenant.id, workspace, &address(name))
                .await
                .unwrap();
            found.map(|inbox| inbox.id)
        };
        let oldest = got.min(in_sales);
        assert_eq!(requested(&acme, None, "scout@example.com").await, Some(oldest));
        assert_eq!(
            requested(&acme, Some(sales), "scout@example.com").await,
            Some(in_sales)
        );
        assert_eq!(requested(&acme, Some(home), "scout@example.com").await, Some(got));
        assert_eq!(
            requested(&acme, Some(WorkspaceId(fresh_id())), "scout@example.com").await,
            None
        );
        assert_eq!(requested(&acme, None, "scout@example.org").await, None);
        assert_eq!(requested(&acme, None, "scout1@example.com").await, None);
        assert_eq!(requested(&other, None, "scout@example.com").await, None);

        let now = Machine.now();
        tx.delete_inboxes_of(Owner::Inbox(got), now, now).await.unwrap();
        let found = tx.inbox_requested_as(acme.id, Some(home), &scout).await.unwrap();
        assert_eq!(found, None, "deleted");
        assert_eq!(tx.inbox(got).await.unwrap(), None);
        assert_eq!(tx.inbox_at(&address("scout1@example.com")).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_further_address_is_not_the_canonical_one() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let id = store
            .inbox(&acme, acme.default_workspace, "scout@example.com")
            .await;
        let second = address("second@example.com");
        let now = Machine.now();
        let mut tx = store.db.write().await.unwrap();
        assert!(
            tx.claim_address(&second, at_home(&acme), id, None, now)
                .await
                .unwrap()
        );
        assert_eq!(tx.inbox_at(&second).await.unwrap(), None);
        let by_email = InboxFilter {
            email: Some(second),
            ..InboxFilter::default()
        };
        let found = tx
            .inboxes(acme.id, &by_email, 10, PAGE_MAX_OCTETS)
            .await
            .unwrap()
            .inboxes;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].addresses.len(), 2, "all of its addresses are told");
    })
    .await;
}

#[tokio::test]
async fn unfinished_creations_without_a_name_are_found_until_they_are_acknowledged() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let home = acme.default_workspace;
        let mut ids = Vec::new();
        for name in ["acme", "acme1", "acme2", "acme3"] {
            ids.push(store.inbox(&acme, home, &format!("{name}@example.com")).await);
        }
        store
            .inbox_requested(&acme, home, "named@example.com", Some("named"))
            .await;
        store.inbox(&acme, home, "acme@example.org").await;
        let now = Machine.now();
        let mut tx = store.db.write().await.unwrap();
        tx.acknowledge_inboxes(&ids[1..2], now).await.unwrap();
        tx.acknowledge_inboxes(&ids[1..2], now.plus_seconds(5))
            .await
            .unwrap();
        assert_eq!(
            tx.inbox(ids[1]).await.unwrap().unwrap().acknowledged_at,
            Some(now),
            "the first time stays"
        );
        tx.delete_inboxes_of(Owner::Inbox(ids[2]), now, now)
            .await
            .unwrap();
        let mut unfinished = async |workspace, limit| {
            let found = tx
                .unfinished_unnamed_inboxes(workspace, &domain("example.com"), limit)
                .await
                .unwrap();
            found.into_iter().map(|inbox| inbox.id).collect::<Vec<_>>()
        };
        let expected = newest_first(vec![ids[0], ids[3]]);
        assert_eq!(unfinished(home, 10).await, expected);
        assert_eq!(unfinished(home, 1).await, expected[1..], "the oldest");
        assert_eq!(unfinished(WorkspaceId(fresh_id()), 10).await, []);
    })
    .await;
}

#[tokio::test]
async fn inboxes_are_listed_newest_first_by_every_filter_and_in_pages() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let (home, sales) = (acme.default_workspace, store.workspace(&acme, "sales").await.id);
        let foreign = store
            .inbox(&other, other.default_workspace, "foreign@example.com")
            .await;
        let mut of = Vec::new();
        for (workspace, email) in [
            (home, "a@example.com"),
            (sales, "a@example.org"),
            (home, "b@example.com"),
            (sales, "c@example.com"),
            (home, "d@example.com"),
        ] {
            of.push(store.inbox(&acme, workspace, email).await);
        }
        let all = newest_first(of.clone());
        let none = InboxFilter::default();
        assert_eq!(list(&store, &acme, &none, 100).await, all);
        assert_eq!(list(&store, &acme, &none, 2).await, all[..2]);
        let mut paged = Vec::new();
        while let page = list(
            &store,
            &acme,
            &InboxFilter {
                before: paged.last().copied(),
                ..none.clone()
            },
            2,
        )
        .await
            && !page.is_empty()
        {
            paged.extend(page);
        }
        assert_eq!(paged, all);

        let filtered = async |workspace, username: Option<&str>, email: Option<&str>| {
            let filter = InboxFilter {
                workspace,
                username: username.map(local_part),
                email: email.map(address),
                before: None,
            };
            list(&store, &acme, &filter, 100).await
        };
        assert_eq!(
            filtered(Some(sales), None, None).await,
            newest_first(vec![of[1], of[3]])
        );
        assert_eq!(
            filtered(None, Some("a"), None).await,
            newest_first(vec![of[0], of[1]])
        );
        assert_eq!(filtered(None, None, Some("b@example.com")).await, [of[2]]);
        assert_eq!(filtered(Some(sales), Some("a"), None).await, [of[1]]);
        assert_eq!(
            filtered(Some(sales), Some("a"), Some("a@example.org")).await,
            [of[1]]
        );
        assert_eq!(filtered(Some(home), Some("a"), Some("a@example.org")).await, []);
        assert_eq!(filtered(None, None, Some("foreign@example.com")).await, []);
        assert_eq!(filtered(Some(other.default_workspace), None, None).await, []);
        assert_eq!(list(&store, &other, &none, 100).await, [foreign]);
    })
    .await;
}

#[tokio::test]
async fn a_description_and_secrets_are_replaced_whole_and_of_live_inboxes_only() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let home = acme.default_workspace;
        let id = store.inbox(&acme, home, "scout@example.com").await;
        let sibling = store.inbox(&acme, home, "sibling@example.com").await;
        let metadata = Metadata::from_json(r#"{"k":"\u0000 ü","n":1.5}"#).unwrap();
        let name = DisplayName::parse("Scout 🚀").unwrap();
        let mut tx = store.db.write().await.unwrap();
        tx.describe_inbox(id, Some(&name), &metadata).await.unwrap();
        let described = tx.inbox(id).await.unwrap().unwrap();
        assert_eq!(
            (described.display_name.as_ref(), &described.metadata),
            (Some(&name), &metadata)
        );
        let untouched = tx.inbox(sibling).await.unwrap().unwrap();
        assert_eq!(
            (untouched.display_name, untouched.metadata),
            (None, Metadata::default())
        );
        tx.describe_inbox(id, None, &Metadata::default()).await.unwrap();
        assert_eq!(tx.inbox(id).await.unwrap().unwrap().display_name, None);

        let new = NewSecrets {
            password_hash: &hash(2),
            sealed_password: None,
        };
        let sealed = tx.inbox_secrets(id).await.unwrap().unwrap().sealed_password;
        assert_eq!(sealed.as_deref(), Some(&b"sealed"[..]));
        assert!(tx.renew_secrets(id, new).await.unwrap());
        assert_eq!(tx.inbox_secrets(id).await.unwrap().unwrap().sealed_password, None);

        let now = Machine.now();
        tx.delete_inboxes_of(Owner::Inbox(id), now, now).await.unwrap();
        assert!(
            tx.describe_inbox(id, None, &Metadata::default()).await.is_err(),
            "no such inbox"
        );
        assert!(!tx.renew_secrets(id, new).await.unwrap());
        assert!(tx.inbox_secrets(id).await.unwrap().is_none());
        assert!(tx.inbox_secrets(sibling).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_hash_is_replaced_only_where_it_is_still_that_of_the_same_credentials() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let home = acme.default_workspace;
        let id = store.inbox(&acme, home, "scout@example.com").await;
        let sibling = store.inbox(&acme, home, "sibling@example.com").await;
        let name = |inbox, generation| SaslName {
            inbox,
            generation: Generation(NonZeroU32::new(generation).unwrap()),
        };
        let mut tx = store.db.write().await.unwrap();
        let new = NewSecrets {
            password_hash: &hash(2),
            sealed_password: Some(b"sealed again"),
        };
        assert!(tx.renew_secrets(id, new).await.unwrap());
        for (sasl_name, old) in [
            (name(id, 1), hash(2)),
            (name(id, 3), hash(2)),
            (name(id, 2), hash(1)),
            (name(sibling, 2), hash(2)),
        ] {
            assert!(!tx.replace_hash(sasl_name, &old, &hash(4)).await.unwrap());
        }
        assert!(tx.replace_hash(name(id, 2), &hash(2), &hash(4)).await.unwrap());
        let secrets = tx.inbox_secrets(id).await.unwrap().unwrap();
        assert_eq!(secrets.password_hash, hash(4));
        assert_eq!(secrets.sealed_password.as_deref(), Some(&b"sealed again"[..]));
        // The second of two logins is too late, and the generation is the same one.
        assert!(!tx.replace_hash(name(id, 2), &hash(2), &hash(5)).await.unwrap());
        assert!(tx.replace_hash(name(id, 2), &hash(4), &hash(5)).await.unwrap());
        let now = Machine.now();
        tx.delete_inboxes_of(Owner::Inbox(id), now, now).await.unwrap();
        assert!(!tx.replace_hash(name(id, 2), &hash(5), &hash(6)).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn an_owners_inboxes_are_deleted_and_nobody_elses() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let sales = store.workspace(&acme, "sales").await.id;
        let home = acme.default_workspace;
        let emails: Vec<_> = ["a", "b", "c"]
            .map(|name| address(&format!("{name}@example.com")))
            .into();
        let first = store.inbox(&acme, home, "a@example.com").await;
        store.inbox(&acme, sales, "b@example.com").await;
        store.inbox(&acme, sales, "c@example.com").await;
        store
            .inbox(&other, other.default_workspace, "d@example.com")
            .await;
        let now = Machine.now();
        let cases = [
            (Owner::Inbox(first), &emails[..1]),
            (Owner::Workspace(sales), &emails[1..]),
            (Owner::Tenant(acme.id), &emails[..]),
        ];
        for (owner, theirs) in cases {
            // Dropped, so that each begins with all of them.
            let mut tx = store.db.write().await.unwrap();
            let mut live = tx.addresses_of(owner).await.unwrap();
            live.sort();
            // Each inbox has its canonical address alone.
            let expected: Vec<_> = theirs.iter().cloned().map(|address| (address, true)).collect();
            assert_eq!(live, expected, "{owner:?}");
            let (mut buried, inboxes) = tx.delete_inboxes_of(owner, now, now).await.unwrap();
            buried.sort();
            assert_eq!((buried.as_slice(), inboxes as usize), (theirs, theirs.len()));
            assert_eq!(tx.addresses_of(owner).await.unwrap(), []);
            assert_eq!(
                tx.delete_inboxes_of(owner, now, now).await.unwrap(),
                (vec![], 0),
                "twice"
            );
            let left = tx.address_states_after(None, 10).await.unwrap();
            assert_eq!(left.len(), 4 - theirs.len());
        }
    })
    .await;
}

/// What a search for a domain and a text finds, at most ten, and where it stops.
async fn search(
    store: &Store,
    tenant: &Tenant,
    filter: InboxFilter,
    (name, text): (Option<&str>, Option<&str>),
    window: u32,
) -> (Vec<InboxId>, Option<InboxId>) {
    let wanted = InboxSearch {
        domain: name.map(domain),
        text: text.map(|text| SearchText::parse(text).unwrap()),
    };
    let mut tx = store.db.read().await.unwrap();
    let found = tx
        .search_inboxes(tenant.id, &filter, &wanted, 10, PAGE_MAX_OCTETS, window)
        .await
        .unwrap();
    let ids = found.inboxes.iter().map(|inbox| inbox.id).collect();
    (ids, found.stopped_at)
}

/// Four inboxes of a tenant, the oldest first, and the workspace of the second.
async fn searched(store: &Store, acme: &Tenant) -> (Vec<InboxId>, WorkspaceId) {
    let sales = store.workspace(acme, "sales").await.id;
    let home = acme.default_workspace;
    let mut of = Vec::new();
    for (workspace, email) in [
        (home, "scout-a@example.com"),
        (sales, "scout-b@example.com"),
        (home, "r_nger@acme.test"),
        (home, "ranger@example.com"),
    ] {
        of.push(store.inbox(acme, workspace, email).await);
    }
    let other = store.tenant("Other", Limits::default()).await;
    store
        .inbox(&other, other.default_workspace, "scout@acme.test")
        .await;
    (of, sales)
}

#[tokio::test]
async fn a_search_finds_domains_and_parts_of_names() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let (of, sales) = searched(&store, &acme).await;
        let mut tx = store.db.write().await.unwrap();
        let name = DisplayName::parse("Sco\u{dc}T 100% !").unwrap();
        tx.describe_inbox(of[3], Some(&name), &Metadata::default())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        for (name, text, expected) in [
            (None, Some("SCOUT"), vec![of[1], of[0]]),
            (None, Some("sco"), vec![of[3], of[1], of[0]]),
            // Only the case of ASCII letters makes no difference, on both databases.
            (None, Some("sco\u{fc}"), vec![]),
            (None, Some("sco\u{dc}t"), vec![of[3]]),
            (None, Some("0% !"), vec![of[3]]),
            (None, Some("r_n"), vec![of[2]]),
            (Some("example.com"), None, vec![of[3], of[1], of[0]]),
            (Some("acme.test"), Some("r"), vec![of[2]]),
            (Some("acme.test"), Some("scout"), vec![]),
        ] {
            let found = search(&store, &acme, InboxFilter::default(), (name, text), 100).await;
            assert_eq!(found, (expected, None), "{name:?} {text:?}");
        }
        let in_sales = InboxFilter {
            workspace: Some(sales),
            ..InboxFilter::default()
        };
        let named = InboxFilter {
            username: Some(local_part("ranger")),
            ..InboxFilter::default()
        };
        let with_address = InboxFilter {
            email: Some(address("scout-a@example.com")),
            ..InboxFilter::default()
        };
        for (filter, wanted, expected) in [
            (in_sales, (None, Some("scout")), of[1]),
            (named, (Some("example.com"), None), of[3]),
            (with_address, (None, Some("scout")), of[0]),
        ] {
            let found = search(&store, &acme, filter, wanted, 100).await;
            assert_eq!(found, (vec![expected], None));
        }
    })
    .await;
}

#[tokio::test]
async fn a_search_reads_a_bounded_window_and_says_where_it_stopped() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let (of, _) = searched(&store, &acme).await;
        // Two at a time, the newest first: those that do not match count, too.
        for (before, expected) in [
            (None, (vec![], Some(of[2]))),
            (Some(of[2]), (vec![of[1], of[0]], Some(of[0]))),
            (Some(of[0]), (vec![], None)),
        ] {
            let filter = InboxFilter {
                before,
                ..InboxFilter::default()
            };
            let found = search(&store, &acme, filter, (None, Some("scout")), 2).await;
            assert_eq!(found, expected, "before {before:?}");
        }
    })
    .await;
}
