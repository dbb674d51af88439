//! Domains that change hands: proved by one tenant while the challenge of another, who has it, is missing from DNS.

use std::{collections::BTreeSet, sync::Arc};

use inboxd::{
    model::{
        api_key::{Caller, Scope},
        domain::DomainStatus,
        ids::{DkimKeyId, InboxId, KeyId},
        maps::{DomainState, MapKey},
        tenant::Tenant,
    },
    ops::{
        Changed, Error,
        addresses::add,
        condition::Condition,
        create_inbox::{Outcome, Request, create_inbox},
        domains::{
            Registered, delete, finish_hand_over, read, recheck_contests, register, release_by_command,
            release_with_key, unfinished_hand_overs, verify,
        },
    },
    store::SessionsToEnd,
};

use super::domains::{DAY_S, Rig, refusal};
use crate::support::{
    daemon::DEFAULT_DOMAIN,
    service::{super_admin, tenant_caller},
    store::{Store, address, at_home, domain, fresh_id, local_part, on_both},
};

const NAME: &str = "acme.test";
const HOUR_S: i64 = 60 * 60;
/// As configured by default.
const NOTICE_S: i64 = 72 * HOUR_S;
/// Times that each race is run: its window is short.
const ROUNDS: usize = 5;

impl Rig {
    /// What a check finds, and what is to be published then.
    async fn checked(&self, tenant: &Tenant, name: &str) -> Changed<Registered> {
        verify(&self.service, &tenant_caller(tenant.id), &domain(name))
            .await
            .unwrap()
    }

    /// A check, and what a caller does who publishes what it changed.
    async fn verified(&self, tenant: &Tenant, name: &str) -> Registered {
        let checked = self.checked(tenant, name).await.value;
        finish_hand_over(&self.service, checked).await.unwrap()
    }

    async fn read(&self, tenant: &Tenant, name: &str) -> Result<Registered, Error> {
        read(&self.service, &tenant_caller(tenant.id), &domain(name)).await
    }

    async fn create(&self, tenant: &Tenant, email: &str) -> Result<InboxId, Error> {
        let email = address(email);
        let request = Request {
            username: Some(email.local_part),
            domain: Some(email.domain),
            strict: true,
            ..Request::default()
        };
        let created = create_inbox(&self.service, &tenant_caller(tenant.id), &request).await?;
        match created {
            Outcome::Created(created) => Ok(created.value.inbox.id),
            Outcome::Existing(inbox) => panic!("it existed: {inbox:?}"),
        }
    }

    async fn alias(&self, tenant: &Tenant, inbox: InboxId, email: &str) {
        let caller = tenant_caller(tenant.id);
        let added = add(&self.service, &caller, inbox, &address(email), true, None).await;
        assert!(added.unwrap().commit().await.unwrap().value.is_new);
    }

    /// A tenant that has proved the domain, another one that has registered it and published its challenge, after that of
    /// the first was taken away.
    async fn contested(&mut self, name: &str) -> (Tenant, Registered, Tenant, Registered) {
        let (holder, other) = (self.tenant("Holder", 10).await, self.tenant("Other", 10).await);
        let first = self.registered(&holder, name).await;
        assert_eq!(self.verified(&holder, name).await.status, DomainStatus::Verified);
        self.unpublish(&first).await;
        let second = self.registered(&other, name).await;
        (holder, first, other, second)
    }
}

fn key(email: &str) -> MapKey {
    MapKey::Address(address(email))
}

/// What mail from the domain is signed with; none: it is not served.
async fn signing(store: &Store, name: &str) -> Option<BTreeSet<DkimKeyId>> {
    let (name, default) = (domain(name), domain(DEFAULT_DOMAIN));
    let mut tx = store.db.read().await.unwrap();
    let states = tx.domain_states(&[&name], &default).await.unwrap();
    states.get(&name).map(|state| match state {
        DomainState::Served { keys, .. } => keys.iter().map(|key| key.id).collect(),
        DomainState::Absent => panic!("{name} is absent"),
    })
}

async fn keys_of(store: &Store, registered: &Registered) -> BTreeSet<DkimKeyId> {
    let mut tx = store.db.read().await.unwrap();
    let keys = tx.dkim_keys(Some(registered.domain.id)).await.unwrap();
    keys.into_iter().map(|key| key.id).collect()
}

async fn counted(store: &Store, tenant: &Tenant) -> u32 {
    let mut tx = store.db.read().await.unwrap();
    let workspace = tx
        .workspace(tenant.id, tenant.default_workspace)
        .await
        .unwrap()
        .unwrap();
    let tenant = tx.tenant(tenant.id).await.unwrap().unwrap();
    assert_eq!(tenant.inbox_count, workspace.inbox_count);
    tenant.inbox_count
}

/// Every name at the domain is the new holder's, and the former one keeps what is elsewhere: `ada` had its canonical address
/// at the domain, `scout` one beside its canonical one.
async fn names_are_the_new_holders(
    store: &Store,
    rig: &Rig,
    [holder, other]: [&Tenant; 2],
    [ada, scout]: [InboxId; 2],
) {
    let new = rig.create(other, "ada@acme.test").await.unwrap();
    assert_ne!(new, ada);
    rig.create(other, "desk@acme.test").await.unwrap();
    let mut tx = store.db.read().await.unwrap();
    assert!(tx.inbox(ada).await.unwrap().is_none());
    let scout = tx.inbox(scout).await.unwrap().unwrap();
    drop(tx);
    assert_eq!(scout.addresses.len(), 1);
    assert!(scout.addresses[0].is_primary && scout.addresses[0].address == scout.canonical);
    assert_eq!(
        (counted(store, holder).await, counted(store, other).await),
        (1, 2)
    );
    let refused = rig.create(other, &format!("ada@{DEFAULT_DOMAIN}")).await;
    assert!(matches!(refused, Err(Error::UsernameTaken { .. })), "{refused:?}");
    rig.create(holder, &format!("ada@{DEFAULT_DOMAIN}"))
        .await
        .unwrap();
}

#[track_caller]
fn assert_taken<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let error = outcome.unwrap_err();
    assert!(matches!(refusal(&error), Error::DomainTaken(_)), "{error:?}");
}

#[tokio::test]
async fn a_domain_changes_hands_when_its_notice_is_over() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, other) = (rig.tenant("Holder", 1).await, rig.tenant("Other", 1).await);
        let first = rig.registered(&holder, NAME).await;
        rig.verified(&holder, NAME).await;
        let ada = rig.create(&holder, "ada@acme.test").await.unwrap();
        rig.alias(&holder, ada, &format!("ada@{DEFAULT_DOMAIN}")).await;
        let scout = rig
            .create(&holder, &format!("scout@{DEFAULT_DOMAIN}"))
            .await
            .unwrap();
        rig.alias(&holder, scout, "desk@acme.test").await;

        // Another one may register it, and has no right to it while the holder's challenge is there.
        let second = rig.registered(&other, NAME).await;
        assert_eq!((second.status, second.contest), (DomainStatus::Pending, None));
        assert_taken(rig.verify(&other, NAME).await);
        assert_eq!(rig.status(&other, NAME).await, DomainStatus::Pending);
        rig.unpublish(&first).await;
        let contested = rig.verified(&other, NAME).await;
        assert_eq!(contested.status, DomainStatus::Contested);
        let (since, due) = contested.contest.unwrap();
        assert_eq!(due, since.plus_seconds(NOTICE_S));
        // The holder sees it, and goes on until then.
        let seen = rig.read(&holder, NAME).await.unwrap();
        assert_eq!(
            (seen.status, seen.contest),
            (DomainStatus::Verified, Some((since, due)))
        );
        assert_eq!(rig.verified(&holder, NAME).await.status, DomainStatus::Degraded);
        rig.create(&holder, "bob@acme.test").await.unwrap();
        let refused = rig.create(&other, "ada@acme.test").await;
        assert!(
            matches!(refused, Err(Error::DomainNotVerified { .. })),
            "{refused:?}"
        );
        rig.clock.ahead_s(NOTICE_S - HOUR_S);
        let still = rig.verified(&other, NAME).await;
        assert_eq!(
            (still.status, still.contest),
            (DomainStatus::Contested, Some((since, due)))
        );
        assert_eq!(
            signing(&store, NAME).await.unwrap().len(),
            1,
            "the holder's first key"
        );
        assert!(
            signing(&store, NAME)
                .await
                .unwrap()
                .is_subset(&keys_of(&store, &first).await)
        );

        rig.clock.ahead_s(NOTICE_S);
        let handed_over = rig.checked(&other, NAME).await;
        let published: BTreeSet<MapKey> = handed_over.publish.iter().cloned().collect();
        let changed = [
            key("ada@acme.test"),
            key(&format!("ada@{DEFAULT_DOMAIN}")),
            key("bob@acme.test"),
            key("desk@acme.test"),
            MapKey::Domain(domain(NAME)),
        ];
        assert_eq!(published, BTreeSet::from(changed.clone()));
        // Sessions of what was deleted end; and nothing is called verified that is not published.
        let mut tx = store.db.read().await.unwrap();
        let marks = tx.unpublished_keys(&changed).await.unwrap();
        drop(tx);
        let ended = |mark: &&inboxd::store::Pending| mark.sessions == SessionsToEnd::All;
        assert_eq!((marks.len(), marks.iter().filter(ended).count()), (5, 3));
        let between = rig.read(&other, NAME).await.unwrap();
        assert_eq!(between.status, DomainStatus::Contested);
        let refused = rig.create(&other, "ada@acme.test").await;
        assert!(
            matches!(refused, Err(Error::DomainNotVerified { .. })),
            "{refused:?}"
        );
        let gone = rig.read(&holder, NAME).await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
        let refused = rig.create(&holder, "eve@acme.test").await;
        assert!(
            matches!(refused, Err(Error::DomainNotAllowed { .. })),
            "{refused:?}"
        );

        let taken = finish_hand_over(&rig.service, handed_over.value).await.unwrap();
        assert_eq!((taken.status, taken.contest), (DomainStatus::Verified, None));
        assert!(
            signing(&store, NAME)
                .await
                .unwrap()
                .is_subset(&keys_of(&store, &second).await)
        );
        assert!(
            keys_of(&store, &first).await.is_empty(),
            "the former holder's keys are left"
        );
        names_are_the_new_holders(&store, &rig, [&holder, &other], [ada, scout]).await;
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_publishes_its_challenge_again_keeps_the_domain() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, first, other, second) = rig.contested(NAME).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        // A challenger that is proved does not lapse, and counts against its cap.
        rig.clock.ahead_s(NOTICE_S / 2);
        rig.publish(&first).await;
        assert_eq!(rig.verified(&holder, NAME).await.contest, None);
        let ended = rig.read(&other, NAME).await.unwrap();
        assert_eq!((ended.status, ended.contest), (DomainStatus::Pending, None));
        rig.clock.ahead_s(2 * NOTICE_S);
        assert_taken(rig.verify(&other, NAME).await);
        // A check of the challenger finds the holder's challenge as well as one of the holder.
        rig.unpublish(&first).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        rig.publish(&first).await;
        assert_taken(rig.verify(&other, NAME).await);
        assert_eq!(rig.read(&holder, NAME).await.unwrap().contest, None);
        // The notice begins again each time; and a challenger that is proved no more contests nothing.
        rig.unpublish(&first).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        rig.unpublish(&second).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Pending);
        assert_eq!(rig.read(&holder, NAME).await.unwrap().contest, None);
    })
    .await;
}

#[tokio::test]
async fn a_contest_outlives_the_time_to_prove_a_registration_and_no_answer_of_dns_decides_it() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, _first, other, _second) = rig.contested(NAME).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        rig.clock.ahead_s(20 * DAY_S);
        rig.server.break_zone(NAME).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        let all = recheck_contests(&rig.service, rig.service.now(), 32)
            .await
            .unwrap();
        assert!(all.publish.is_empty(), "{all:?}");
        assert_eq!(
            rig.read(&holder, NAME).await.unwrap().status,
            DomainStatus::Verified
        );
        rig.serve(NAME).await;
        // The daemon's own check hands it over.
        let all = recheck_contests(&rig.service, rig.service.now(), 32)
            .await
            .unwrap();
        assert_eq!(all.publish, [MapKey::Domain(domain(NAME))]);
        assert!(rig.read(&holder, NAME).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_hand_over_that_was_interrupted_is_finished() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, _first, other, _second) = rig.contested(NAME).await;
        rig.create(&holder, "ada@acme.test").await.unwrap();
        rig.verified(&other, NAME).await;
        rig.clock.ahead_s(NOTICE_S);
        // The process ends here, before anything is published.
        let interrupted = rig.checked(&other, NAME).await;
        assert_eq!(interrupted.publish.len(), 2);
        let mut unfinished = unfinished_hand_overs(&rig.service).await.unwrap();
        let left = unfinished.pop().unwrap();
        assert!(unfinished.is_empty());
        let all = |changed: &Changed<Registered>| changed.publish.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(all(&left), all(&interrupted));
        // A caller that verifies meanwhile publishes the same.
        assert!(all(&rig.checked(&other, NAME).await).is_superset(&all(&interrupted)));
        let finished = finish_hand_over(&rig.service, left.value).await.unwrap();
        assert_eq!(finished.status, DomainStatus::Verified);
        assert!(unfinished_hand_overs(&rig.service).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_contest_a_domain_one_gets_it() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (_holder, _first, one, _second) = rig.contested(NAME).await;
        let two = rig.tenant("Third", 10).await;
        rig.registered(&two, NAME).await;
        for tenant in [&one, &two] {
            assert_eq!(rig.verified(tenant, NAME).await.status, DomainStatus::Contested);
        }
        rig.clock.ahead_s(NOTICE_S);
        let rig = Arc::new(rig);
        let check = |tenant: &Tenant| {
            let (rig, tenant) = (Arc::clone(&rig), tenant.clone());
            tokio::spawn(async move {
                let checked = rig.verify(&tenant, NAME).await?;
                finish_hand_over(&rig.service, checked).await
            })
        };
        let (first, second) = (check(&one), check(&two));
        let outcomes = [first.await.unwrap(), second.await.unwrap()];
        let has_it =
            |outcome: &&Result<Registered, Error>| matches!(outcome, Ok(taken) if taken.status == DomainStatus::Verified);
        assert_eq!(outcomes.iter().filter(has_it).count(), 1, "{outcomes:?}");
        let loser = if has_it(&&outcomes[0]) { &two } else { &one };
        assert_taken(rig.verify(loser, NAME).await);
        assert_eq!(rig.read(loser, NAME).await.unwrap().contest, None);
    })
    .await;
}

#[tokio::test]
async fn a_domain_whose_holder_lets_it_go_is_its_challengers_at_once() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, _first, other, _second) = rig.contested(NAME).await;
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Contested);
        let deleted = delete(
            &rig.service,
            &tenant_caller(holder.id),
            &domain(NAME),
            &Condition::none(),
        )
        .await;
        drop(deleted.unwrap());
        // Without its caller, and long before its notice would be over.
        let long_ago = rig.service.now().plus_seconds(-DAY_S);
        let all = recheck_contests(&rig.service, long_ago, 32).await.unwrap();
        assert_eq!(
            (all.value, &all.publish),
            (1, &vec![MapKey::Domain(domain(NAME))])
        );
        assert_eq!(rig.status(&other, NAME).await, DomainStatus::Verified);
    })
    .await;
}

#[tokio::test]
async fn a_name_below_a_domain_changes_hands_without_it() {
    on_both(async |store| {
        const BELOW: &str = "mail.acme.test";
        let mut rig = Rig::new(&store).await;
        let (holder, other) = (rig.tenant("Holder", 2).await, rig.tenant("Other", 1).await);
        let first = rig.registered(&holder, NAME).await;
        rig.verified(&holder, NAME).await;
        rig.create(&holder, "ada@acme.test").await.unwrap();
        rig.registered(&other, BELOW).await;
        let refused = rig.verify(&other, BELOW).await.unwrap_err();
        assert!(
            matches!(refusal(&refused), Error::DomainBelow { .. }),
            "{refused:?}"
        );
        rig.unpublish(&first).await;
        let contested = rig.verified(&other, BELOW).await;
        assert_eq!(contested.status, DomainStatus::Contested);
        assert_eq!(rig.read(&holder, NAME).await.unwrap().contest, contested.contest);
        rig.clock.ahead_s(NOTICE_S);
        assert_eq!(rig.verified(&other, BELOW).await.status, DomainStatus::Verified);
        let kept = rig.read(&holder, NAME).await.unwrap();
        assert_eq!((kept.status, kept.contest), (DomainStatus::Verified, None));
        assert_eq!(counted(&store, &holder).await, 1);
        rig.create(&other, "ada@mail.acme.test").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_contests_of_a_domain_and_of_a_name_below_it_do_not_end_each_other() {
    on_both(async |store| {
        const BELOW: &str = "mail.acme.test";
        let mut rig = Rig::new(&store).await;
        let (holder, first, other, _second) = rig.contested(NAME).await;
        rig.registered(&other, BELOW).await;
        for name in [NAME, BELOW] {
            assert_eq!(rig.verified(&other, name).await.status, DomainStatus::Contested);
        }
        rig.clock.ahead_s(NOTICE_S);
        for name in [BELOW, NAME] {
            assert_eq!(
                rig.verified(&other, name).await.status,
                DomainStatus::Verified,
                "{name}"
            );
        }
        assert!(rig.read(&holder, NAME).await.is_err());
        assert_ne!(rig.read(&other, NAME).await.unwrap().domain.id, first.domain.id);
    })
    .await;
}

#[tokio::test]
async fn workspaces_of_one_tenant_do_not_contest_each_other() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let acme = rig.tenant("Acme", 10).await;
        let second = store.workspace(&acme, "second").await;
        let sibling = Caller {
            key: KeyId(fresh_id()),
            scope: Scope::Workspace {
                tenant: acme.id,
                workspace: second.id,
            },
        };
        let registered = register(&rig.service, &sibling, &domain(NAME), None)
            .await
            .unwrap();
        let registered = registered.commit().await.unwrap();
        let first = rig.registered(&acme, NAME).await;
        assert_eq!(rig.verified(&acme, NAME).await.status, DomainStatus::Verified);
        rig.unpublish(&first).await;
        rig.publish(&registered).await;
        assert_taken(verify(&rig.service, &sibling, &domain(NAME)).await);
    })
    .await;
}

#[tokio::test]
async fn an_operator_releases_a_domain_at_once() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let (holder, first, other, _second) = rig.contested(NAME).await;
        // Also one whose holder can still prove it.
        rig.publish(&first).await;
        rig.create(&holder, "ada@acme.test").await.unwrap();
        assert_taken(rig.verify(&other, NAME).await);
        let refused = release_with_key(&rig.service, &tenant_caller(other.id), &domain(NAME)).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        let operator = super_admin();
        let released = release_with_key(&rig.service, &operator, &domain(NAME))
            .await
            .unwrap();
        let published: BTreeSet<MapKey> = released.publish.iter().cloned().collect();
        assert_eq!(
            published,
            BTreeSet::from([MapKey::Domain(domain(NAME)), key("ada@acme.test")])
        );
        released.value.answered();
        assert_eq!(signing(&store, NAME).await, None, "it is served");
        assert!(matches!(rig.read(&holder, NAME).await, Err(Error::NotFound(_))));
        assert_eq!(counted(&store, &holder).await, 0);
        let again = release_with_key(&rig.service, &operator, &domain(NAME)).await;
        assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
        assert_eq!(rig.verified(&other, NAME).await.status, DomainStatus::Verified);
        assert!(release_by_command(&rig.service, &domain(NAME)).await.unwrap());
        assert!(!release_by_command(&rig.service, &domain(NAME)).await.unwrap());
        assert!(rig.read(&other, NAME).await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_inbox_is_left_at_a_domain_that_is_handed_over_while_it_is_made() {
    on_both(async |store| {
        let mut rig = Rig::new(&store).await;
        let mut due = Vec::new();
        for round in 0..ROUNDS {
            let name = format!("n{round}.test");
            let (holder, _first, other, _second) = rig.contested(&name).await;
            rig.verified(&other, &name).await;
            due.push((name, holder, other));
        }
        rig.clock.ahead_s(NOTICE_S);
        let rig = Arc::new(rig);
        for (name, holder, other) in due {
            let creating = {
                let (rig, holder, name) = (Arc::clone(&rig), holder.clone(), name.clone());
                tokio::spawn(async move {
                    let mut made = Vec::new();
                    for number in 0.. {
                        match rig.create(&holder, &format!("n{number}@{name}")).await {
                            Ok(inbox) => made.push(inbox),
                            Err(Error::DomainNotAllowed { .. }) => break,
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    made
                })
            };
            assert_eq!(rig.verified(&other, &name).await.status, DomainStatus::Verified);
            let mut tx = store.db.read().await.unwrap();
            for inbox in creating.await.unwrap() {
                assert!(tx.inbox(inbox).await.unwrap().is_none(), "{inbox} is left");
            }
            drop(tx);
            assert_eq!(counted(&store, &holder).await, 0);
            let names = [local_part("n0")];
            let mut tx = store.db.read().await.unwrap();
            let taken = tx
                .taken_names(&domain(&name), &names, at_home(&other), rig.service.now())
                .await;
            assert!(taken.unwrap().is_empty());
        }
    })
    .await;
}
