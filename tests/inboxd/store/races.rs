//! Use cases that change the same things at the same time. SQLite has one writer and cannot show most of this;
//! PostgreSQL can, and each of these failed on it once.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use inboxd::{
    model::{
        ids::WorkspaceId,
        names::{Label, Slug},
        tenant::Tenant,
    },
    ops::{
        Error, PAGE_MAX_OCTETS, Service, condition::Condition, create_inbox::Outcome, edit::Edit, inboxes,
        tenants, workspaces,
    },
    store::{InboxFilter, Owner},
};
use serde_json::json;

use crate::support::{
    service::{create, created, service, super_admin, tenant, tenant_caller},
    store::on_both,
};

/// Times that each race is run: its window is short.
const ROUNDS: usize = 25;

async fn new_workspace(service: &Service, tenant: &Tenant, slug: &str) -> WorkspaceId {
    let (name, slug) = (Label::parse(slug).unwrap(), Slug::parse(slug).unwrap());
    let made = workspaces::create(service, &tenant_caller(tenant.id), name, Some(slug)).await;
    made.unwrap().commit().await.unwrap().id
}

/// Runs two at once, each in a task of its own.
async fn race<A: Send + 'static, B: Send + 'static>(
    one: impl Future<Output = A> + Send + 'static,
    other: impl Future<Output = B> + Send + 'static,
) -> (A, B) {
    let (one, other) = (tokio::spawn(one), tokio::spawn(other));
    (one.await.unwrap(), other.await.unwrap())
}

async fn counts(service: &Service, tenant: &Tenant) -> (u32, usize) {
    let mut tx = service.db.read().await.unwrap();
    let counted = tx.tenant(tenant.id).await.unwrap().unwrap().inbox_count;
    let listed = tx
        .inboxes(tenant.id, &InboxFilter::default(), 1000, PAGE_MAX_OCTETS)
        .await
        .unwrap()
        .inboxes;
    (counted, listed.len())
}

fn is_not_found<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotFound(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_is_deleted_once_and_counted_once() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        for _ in 0..ROUNDS {
            let id = created(&service, acme.id, "scout").await.0.inbox.id;
            let delete = |service: Arc<Service>| async move {
                let deleted =
                    inboxes::delete(&service, &tenant_caller(acme.id), id, &Condition::none()).await;
                deleted.unwrap().publish
            };
            let (one, other) = race(delete(Arc::clone(&service)), delete(Arc::clone(&service))).await;
            // Neither is answered here: until one is, the deletion is not finished, and a second call finishes it.
            assert_eq!(one, other);
            assert_eq!(counts(&service, &acme).await, (0, 0));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_inbox_outlives_its_workspace() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        for round in 0..ROUNDS {
            let workspace = new_workspace(&service, &acme, &format!("w{round}")).await;
            let (creating, deleting) = (Arc::clone(&service), Arc::clone(&service));
            let (made, deleted) = race(
                async move {
                    create(&creating, acme.id, Some(workspace), &format!("scout{round}"))
                        .await
                        .map(|_| ())
                },
                async move {
                    workspaces::delete(&deleting, &tenant_caller(acme.id), workspace, &Condition::none())
                        .await
                },
            )
            .await;
            assert!(deleted.is_ok(), "{deleted:?}");
            assert!(made.is_ok() || is_not_found(&made), "{made:?}");
            assert_eq!(counts(&service, &acme).await, (0, 0), "round {round}: {made:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_and_creating_one_name_at_the_same_time_both_succeed() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        for _ in 0..ROUNDS {
            let made = match create(&service, acme.id, None, "scout").await.unwrap() {
                Outcome::Created(changed) => changed.value,
                Outcome::Existing(inbox) => panic!("{inbox:?}"),
            };
            let id = made.inbox.id;
            made.claim.sent();
            let (creating, deleting) = (Arc::clone(&service), Arc::clone(&service));
            let (again, deleted) =
                race(
                    async move { create(&creating, acme.id, None, "scout").await.map(|_| ()) },
                    async move {
                        inboxes::delete(&deleting, &tenant_caller(acme.id), id, &Condition::none()).await
                    },
                )
                .await;
            assert!(again.is_ok() && deleted.is_ok(), "{again:?} {deleted:?}");
            let mut tx = store.db.read().await.unwrap();
            let left = tx
                .inboxes(acme.id, &InboxFilter::default(), 10, PAGE_MAX_OCTETS)
                .await
                .unwrap()
                .inboxes;
            drop(tx);
            for inbox in left {
                inboxes::delete(&service, &tenant_caller(acme.id), inbox.id, &Condition::none())
                    .await
                    .unwrap();
            }
            assert_eq!(counts(&service, &acme).await, (0, 0));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_one_key_is_left() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        let id = created(&service, acme.id, "scout").await.0.inbox.id;
        for _ in 0..ROUNDS {
            let rotate = |service: Arc<Service>| async move {
                inboxes::rotate_key(&service, &tenant_caller(acme.id), id)
                    .await
                    .unwrap()
            };
            let (one, other) = race(rotate(Arc::clone(&service)), rotate(Arc::clone(&service))).await;
            let mut tx = store.db.read().await.unwrap();
            let mut in_force = 0;
            for key in [one, other] {
                in_force += usize::from(tx.keys_by_hash(&[key.hash()]).await.unwrap()[0].is_some());
            }
            assert_eq!(in_force, 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_different_things_do_not_undo_each_other() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        let id = created(&service, acme.id, "scout").await.0.inbox.id;
        for round in 0..ROUNDS {
            let name = Label::parse(&format!("Acme {round}")).unwrap();
            let suspended = round % 2 == 0;
            let rename = tenants::Change {
                name: Some(name.clone()),
                ..tenants::Change::default()
            };
            let suspend = tenants::Change {
                suspended: Some(suspended),
                ..tenants::Change::default()
            };
            let change = |service: Arc<Service>, change: tenants::Change| async move {
                tenants::change(&service, &super_admin(), acme.id, &change, &Condition::none())
                    .await
                    .unwrap();
            };
            race(
                change(Arc::clone(&service), rename),
                change(Arc::clone(&service), suspend),
            )
            .await;
            let now = tenants::read(&service, &super_admin(), acme.id).await.unwrap();
            assert_eq!((&now.name, now.suspended_at.is_some()), (&name, suspended));

            let describe = |service: Arc<Service>, member: String| async move {
                let patch = json!({ member: round });
                let change = inboxes::Description {
                    display_name: Edit::Keep,
                    metadata: Edit::Set(patch.as_object().cloned().unwrap()),
                };
                inboxes::describe(&service, &tenant_caller(acme.id), id, &change, &Condition::none())
                    .await
                    .unwrap();
            };
            race(
                describe(Arc::clone(&service), format!("a{round}")),
                describe(Arc::clone(&service), format!("b{round}")),
            )
            .await;
        }
        let mut tx = store.db.read().await.unwrap();
        let metadata = tx.inbox(id).await.unwrap().unwrap().metadata;
        assert_eq!(metadata.as_object().len(), 2 * ROUNDS);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workspaces_that_want_one_slug_get_an_answer_each() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        let one = new_workspace(&service, &acme, "one").await;
        let other = new_workspace(&service, &acme, "other").await;
        for round in 0..ROUNDS {
            let rename = |service: Arc<Service>, id| async move {
                let change = workspaces::Change {
                    name: None,
                    slug: Some(Slug::parse(&format!("slug{round}")).unwrap()),
                };
                workspaces::change(&service, &tenant_caller(acme.id), id, &change, &Condition::none()).await
            };
            let results = race(
                rename(Arc::clone(&service), one),
                rename(Arc::clone(&service), other),
            )
            .await;
            assert!(
                matches!(
                    results,
                    (Ok(()), Err(Error::SlugTaken)) | (Err(Error::SlugTaken), Ok(()))
                ),
                "{results:?}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_are_cleared_while_a_tenant_is_suspended_and_resumed() {
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        for number in 0..60 {
            created(&service, acme.id, &format!("scout{number}")).await;
        }
        for round in 0..ROUNDS {
            let (changing, clearing) = (Arc::clone(&service), Arc::clone(&service));
            race(
                async move {
                    let change = tenants::Change {
                        suspended: Some(round % 2 == 0),
                        ..tenants::Change::default()
                    };
                    tenants::change(&changing, &super_admin(), acme.id, &change, &Condition::none())
                        .await
                        .unwrap();
                },
                async move {
                    let marked = clearing
                        .db
                        .read()
                        .await
                        .unwrap()
                        .unpublished(None, 1000)
                        .await
                        .unwrap();
                    let mut tx = clearing.db.write().await.unwrap();
                    tx.clear_unpublished(&marked).await.unwrap();
                    tx.commit().await.unwrap();
                },
            )
            .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unfinished_creations_are_completed_at_once() {
    const UNFINISHED: usize = 60;
    on_both(async |store| {
        let service = service(&store.db);
        let acme = tenant(&service, "Acme").await;
        for number in 0..UNFINISHED {
            // Its claim is dropped: no 201 was sent.
            created(&service, acme.id, &format!("scout{number}x")).await;
        }
        let completing: Vec<_> = (0..UNFINISHED)
            .map(|number| {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    let outcome = create(&service, acme.id, None, &format!("scout{number}x")).await;
                    assert!(matches!(outcome, Ok(Outcome::Created(made)) if made.value.completed));
                })
            })
            .collect();
        for one in completing {
            tokio::time::timeout(Duration::from_secs(15), one)
                .await
                .expect("completions do not wait for each other's connections")
                .unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_deleted_takes_what_is_made_meanwhile_with_it() {
    on_both(async |store| {
        let service = service(&store.db);
        for round in 0..ROUNDS {
            let acme = tenant(&service, "Acme").await;
            let (creating, deleting) = (Arc::clone(&service), Arc::clone(&service));
            let (_, deleted) = race(
                async move {
                    create(&creating, acme.id, None, &format!("scout{round}"))
                        .await
                        .map(|_| ())
                },
                async move { tenants::delete(&deleting, &super_admin(), acme.id, &Condition::none()).await },
            )
            .await;
            assert!(deleted.is_ok(), "{deleted:?}");
            let mut tx = store.db.read().await.unwrap();
            let left: BTreeSet<_> = tx
                .addresses_of(Owner::Tenant(acme.id))
                .await
                .unwrap()
                .into_iter()
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
    })
    .await;
}
