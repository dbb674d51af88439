//! Creations that wait at the same time are written together, and each gets what it would get alone.

use std::{collections::BTreeSet, sync::Arc};

use inboxd::{
    model::{ids::TenantId, limits::Limited, names::Label, tenant::Tenant},
    ops::{
        Error, PAGE_MAX_OCTETS, Service,
        create_inbox::Outcome,
        edit::Edit,
        tenants::{self, LimitsChange},
    },
    store::{InboxFilter, Owner},
};

use crate::support::{
    service::{create, created, service, super_admin, tenant},
    store::on_both,
};

/// Creations at the same time; more than are written in one transaction.
const CREATIONS: usize = 150;

/// Asks for all of these at the same time, each for a tenant and a name.
async fn all_at_once(
    service: &Arc<Service>,
    wanted: impl IntoIterator<Item = (TenantId, String)>,
) -> Vec<Result<Outcome, Error>> {
    let asking: Vec<_> = wanted
        .into_iter()
        .map(|(tenant, name)| {
            let service = Arc::clone(service);
            tokio::spawn(async move { create(&service, tenant, None, &name).await })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers
}

fn local_part_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Created(changed) => changed.value.inbox.canonical.local_part.to_string(),
        Outcome::Existing(inbox) => panic!("existed: {inbox:?}"),
    }
}

/// What the store counts, and what it holds.
async fn counted(service: &Service, tenant: &Tenant) -> (u32, usize) {
    let mut tx = service.db.read().await.unwrap();
    let counted = tx.tenant(tenant.id).await.unwrap().unwrap().inbox_count;
    let workspace = tx
        .workspace(tenant.id, tenant.default_workspace)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(workspace.inbox_count, counted);
    let held = tx
        .inboxes(tenant.id, &InboxFilter::default(), 1000, PAGE_MAX_OCTETS)
        .await
        .unwrap()
        .inboxes;
    (counted, held.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_names_of_many_tenants_are_all_given_marked_and_counted() {
    on_both(async |store| {
        let service = service(&store.db);
        let (acme, umbrella) = (tenant(&service, "Acme").await, tenant(&service, "Umbrella").await);
        let wanted = (0..CREATIONS).map(|number| {
            let tenant = if number % 3 == 0 { &acme } else { &umbrella };
            (tenant.id, format!("u{number}"))
        });
        let mut publish = BTreeSet::new();
        for (number, answer) in all_at_once(&service, wanted).await.into_iter().enumerate() {
            let Outcome::Created(changed) = answer.unwrap() else {
                panic!("{number} existed")
            };
            assert_eq!(
                changed.value.inbox.canonical.local_part.as_str(),
                format!("u{number}")
            );
            publish.extend(changed.publish);
        }
        assert_eq!(counted(&service, &acme).await, (50, 50));
        assert_eq!(counted(&service, &umbrella).await, (100, 100));
        let mut tx = store.db.read().await.unwrap();
        let marked = tx.unpublished(None, 1000).await.unwrap();
        let marked: BTreeSet<_> = marked.into_iter().map(|pending| pending.key).collect();
        assert_eq!((marked.len(), &marked), (CREATIONS, &publish));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_in_the_middle_of_a_group_holds_to_the_last_inbox() {
    on_both(async |store| {
        let service = service(&store.db);
        let limits = LimitsChange {
            inboxes: Edit::Set(20),
            ..LimitsChange::default()
        };
        let acme = Label::parse("Acme").unwrap();
        let acme = tenants::create(&service, &super_admin(), acme, limits)
            .await
            .unwrap();
        let (acme, _) = acme.commit().await.unwrap();
        let other = tenant(&service, "Other").await;
        let wanted = (0..CREATIONS).map(|number| {
            let tenant = if number % 2 == 0 { &acme } else { &other };
            (tenant.id, format!("u{number}"))
        });
        let (mut given, mut refused) = (0, 0);
        for (number, answer) in all_at_once(&service, wanted).await.into_iter().enumerate() {
            match answer {
                Ok(Outcome::Created(_)) => given += usize::from(number % 2 == 0),
                Err(Error::PlanLimit {
                    limit: Limited::Inboxes,
                    max: 20,
                    ..
                }) if number % 2 == 0 => refused += 1,
                other => panic!("{number}: {other:?}"),
            }
        }
        assert_eq!((given, refused), (20, CREATIONS / 2 - 20));
        assert_eq!(counted(&service, &acme).await, (20, 20));
        assert_eq!(counted(&service, &other).await, (75, 75));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_a_history_get_what_they_get_alone() {
    on_both(async |store| {
        let service = service(&store.db);
        let (acme, other) = (tenant(&service, "Acme").await, tenant(&service, "Other").await);
        // Taken by another tenant; a tombstone of another tenant; an own tombstone.
        created(&service, other.id, "taken").await;
        for (tenant, name) in [(&other, "buried"), (&acme, "own")] {
            let (gone, _) = created(&service, tenant.id, name).await;
            let mut tx = service.db.write().await.unwrap();
            let until = service.now().plus_seconds(3600);
            tx.delete_inboxes_of(Owner::Inbox(gone.inbox.id), until, service.now())
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        let wanted = ["fresh", "taken", "buried", "own", "fresher"];
        let answers = all_at_once(&service, wanted.map(|name| (acme.id, name.to_owned()))).await;
        let names: Vec<String> = answers
            .iter()
            .map(|answer| local_part_of(answer.as_ref().unwrap()))
            .collect();
        assert_eq!(names, ["fresh", "taken1", "buried1", "own", "fresher"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_wanted_by_all_at_once_is_given_once_a_tenant() {
    on_both(async |store| {
        let service = service(&store.db);
        let mut tenants = Vec::new();
        for number in 0..5 {
            tenants.push(tenant(&service, &format!("Tenant {number}")).await);
        }
        let asking: Vec<_> = (0..25)
            .map(|number| {
                let (service, tenant) = (Arc::clone(&service), tenants[number % 5].id);
                tokio::spawn(async move {
                    match create(&service, tenant, None, "scout").await.unwrap() {
                        Outcome::Created(changed) => {
                            let name = changed.value.inbox.canonical.local_part.to_string();
                            changed.value.claim.sent();
                            Some(name)
                        }
                        Outcome::Existing(_) => None,
                    }
                })
            })
            .collect();
        let mut given = BTreeSet::new();
        for one in asking {
            if let Some(name) = one.await.unwrap() {
                assert!(given.insert(name), "given twice");
            }
        }
        assert_eq!(
            given,
            ["scout", "scout1", "scout2", "scout3", "scout4"]
                .map(str::to_owned)
                .into()
        );
        for tenant in &tenants {
            assert_eq!(counted(&service, tenant).await, (1, 1));
        }
    })
    .await;
}
