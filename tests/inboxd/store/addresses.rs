//! The one namespace of names: claims, tombstones, pages in the order of octets.

use std::collections::HashSet;

use inboxd::{
    clock::{Clock as _, Machine, Timestamp},
    model::{
        address::Address,
        ids::InboxId,
        limits::Limits,
        maps::{AddressState, Login},
        tenant::Tenant,
    },
    store::{NewSecrets, Owner, Tx},
};

use crate::support::store::{
    Store, add_inbox, address, at_home, domain, fresh_id, hash, insert_inbox, local_part, on_both, state_of,
};

/// Names that collations of languages sort otherwise than their octets: `-` and `.` before digits and letters, `_`
/// between, and digits by value.
const NAMES_BY_OCTETS: [&str; 12] = [
    "a-b", "a-c", "a.b", "a1", "a10", "a2", "a_b", "aa", "aab", "ab", "abc", "b",
];

async fn bury(store: &Store, inbox: InboxId, held_until: Timestamp) {
    let mut tx = store.db.write().await.unwrap();
    let (addresses, inboxes) = tx
        .delete_inboxes_of(Owner::Inbox(inbox), held_until, Machine.now())
        .await
        .unwrap();
    assert_eq!((addresses.len(), inboxes), (1, 1));
    tx.commit().await.unwrap();
}

/// Claims with a row of an inbox behind it, and drops it all.
async fn could_claim(store: &Store, tenant: &Tenant, wanted: &Address, now: Timestamp) -> bool {
    let mut tx = store.db.write().await.unwrap();
    let id = InboxId(fresh_id());
    tx.claim_address(wanted, at_home(tenant), id, Some(now), now)
        .await
        .unwrap()
}

#[tokio::test]
async fn who_may_claim_an_address() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let scout = address("scout@example.com");
        let now = Machine.now();
        let may = async |at| {
            [
                could_claim(&store, &acme, &scout, at).await,
                could_claim(&store, &other, &scout, at).await,
            ]
        };
        assert_eq!(may(now).await, [true, true], "never used");
        let inbox = store
            .inbox(&acme, acme.default_workspace, "scout@example.com")
            .await;
        assert_eq!(may(now).await, [false, false], "live");
        let until = now.plus_seconds(60);
        bury(&store, inbox, until).await;
        assert_eq!(may(now).await, [true, false], "a tombstone that holds");
        let just_before = Timestamp::from_micros(until.as_micros() - 1);
        assert_eq!(may(just_before).await, [true, false], "to the last moment");
        assert_eq!(may(until).await, [true, true], "a tombstone that holds no longer");
        assert_eq!(
            [
                could_claim(&store, &other, &address("scout@example.org"), now).await,
                could_claim(&store, &other, &address("scout1@example.com"), now).await
            ],
            [true, true],
            "another domain, another name"
        );
    })
    .await;
}

#[tokio::test]
async fn a_claimed_tombstone_is_live_and_shows_nothing_of_the_old_inbox() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let scout = address("scout@example.com");
        let first = store
            .inbox(&acme, acme.default_workspace, "scout@example.com")
            .await;
        bury(&store, first, Machine.now().plus_seconds(-1)).await;
        let second = store
            .inbox(&other, other.default_workspace, "scout@example.com")
            .await;
        let mut tx = store.db.read().await.unwrap();
        let inbox = tx.inbox_at(&scout).await.unwrap().unwrap();
        assert_eq!((inbox.id, inbox.tenant), (second, other.id));
        assert_eq!(inbox.addresses.len(), 1);
        assert!(inbox.addresses[0].is_primary);
        assert_eq!(tx.inbox(first).await.unwrap(), None);
        assert!(matches!(
            state_of(&mut tx, &scout).await,
            AddressState::Mailbox(mailbox) if mailbox.inbox() == second
        ));
    })
    .await;
}

#[tokio::test]
async fn taken_names_are_told_for_one_to_a_hundred_names() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let now = Machine.now();
        let home = acme.default_workspace;
        for name in ["scout", "scout7", "scout99", "scout100"] {
            store.inbox(&acme, home, &format!("{name}@example.com")).await;
        }
        store.inbox(&acme, home, "scout1@example.org").await;
        let own = store.inbox(&acme, home, "scout2@example.com").await;
        bury(&store, own, now.plus_seconds(60)).await;
        let expired = store.inbox(&acme, home, "scout3@example.com").await;
        bury(&store, expired, now).await;

        let names: Vec<_> = std::iter::once("scout".to_owned())
            .chain((1..100).map(|number| format!("scout{number}")))
            .map(|name| local_part(&name))
            .collect();
        let mut tx = store.db.read().await.unwrap();
        let mut taken = async |tenant: &Tenant, names: &[_]| {
            tx.taken_names(&domain("example.com"), names, at_home(tenant), now)
                .await
                .unwrap()
        };
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<HashSet<_>>();
        assert_eq!(
            taken(&acme, &names).await,
            set(&["scout", "scout7", "scout99"]),
            "its own tombstone is free"
        );
        assert_eq!(
            taken(&other, &names).await,
            set(&["scout", "scout2", "scout7", "scout99"]),
            "another's tombstone is not"
        );
        assert_eq!(taken(&other, &names[..1]).await, set(&["scout"]));
        assert_eq!(taken(&other, &names[1..2]).await, set(&[]));
        assert_eq!(taken(&other, &names[2..8]).await, set(&["scout2", "scout7"]));
        assert_eq!(taken(&other, &[]).await, set(&[]));
    })
    .await;
}

#[tokio::test]
async fn whose_addresses_are_is_found_for_all_at_once() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let other = store.tenant("Other", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        let mut expected = Vec::new();
        for (number, tenant) in [&acme, &other, &acme].into_iter().enumerate() {
            let name = format!("scout{number}@example.com");
            add_inbox(&mut tx, tenant, tenant.default_workspace, &name, None).await;
            expected.push((address(&name), tenant.id));
        }
        let mut asked: Vec<Address> = expected.iter().map(|(address, _)| address.clone()).collect();
        asked.push(address("nobody@example.com"));
        let mut found = tx.tenants_at(&asked).await.unwrap();
        found.sort_by_key(|(address, _)| address.to_string());
        assert_eq!(found, expected);
        assert_eq!(tx.tenants_at(&[]).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn what_the_maps_should_say_follows_from_the_store() {
    on_both(async |store| {
        let mut acme = store.tenant("Acme", Limits::default()).await;
        let (scout, second) = (address("scout@example.com"), address("second@example.com"));
        let now = Machine.now();
        let mut tx = store.db.write().await.unwrap();
        assert_eq!(state_of(&mut tx, &scout).await, AddressState::Absent);
        let id = add_inbox(&mut tx, &acme, acme.default_workspace, "scout@example.com", None).await;
        assert!(
            tx.claim_address(&second, at_home(&acme), id, None, now)
                .await
                .unwrap()
        );

        let login = async |tx: &mut Tx| match state_of(tx, &scout).await {
            AddressState::Mailbox(mailbox) => {
                assert_eq!(mailbox.inbox(), id);
                (mailbox.sasl_name.generation.0.get(), mailbox.login)
            }
            other => panic!("{other:?}"),
        };
        let sender = async |tx: &mut Tx| match state_of(tx, &second).await {
            AddressState::Alias { canonical, sender } if canonical == scout => {
                sender.map(|login| login.to_string())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(login(&mut tx).await, (1, Login::Open(hash(1))));
        assert_eq!(sender(&mut tx).await, Some(format!("{id}.1")));
        acme.suspended_at = Some(now);
        assert!(tx.update_tenant(&acme).await.unwrap());
        assert_eq!(login(&mut tx).await, (1, Login::Locked));
        assert_eq!(sender(&mut tx).await, None);
        acme.suspended_at = None;
        assert!(tx.update_tenant(&acme).await.unwrap());
        assert_eq!(login(&mut tx).await, (1, Login::Open(hash(1))));

        // New credentials, and the old ones after a suspension, are a generation of their own.
        let new = NewSecrets {
            password_hash: &hash(2),
            sealed_password: None,
        };
        assert!(tx.renew_secrets(id, new).await.unwrap());
        assert_eq!(login(&mut tx).await, (2, Login::Open(hash(2))));
        tx.begin_credential_generation(acme.id).await.unwrap();
        assert_eq!(login(&mut tx).await, (3, Login::Open(hash(2))));
        assert_eq!(sender(&mut tx).await, Some(format!("{id}.3")));
        // The pages that a start compares say the same.
        let (page, _) = tx.address_states_after_inbox(None, 10).await.unwrap();
        let scouts = page.iter().find(|(address, _)| *address == scout).unwrap();
        assert_eq!(scouts.1, state_of(&mut tx, &scout).await);

        let listed = tx.inbox(id).await.unwrap().unwrap().addresses;
        let listed: Vec<_> = listed
            .iter()
            .map(|entry| (entry.address.clone(), entry.is_primary))
            .collect();
        assert_eq!(listed, [(scout.clone(), true), (second.clone(), false)]);

        let (mut addresses, inboxes) = tx.delete_inboxes_of(Owner::Inbox(id), now, now).await.unwrap();
        addresses.sort();
        assert_eq!((addresses, inboxes), (vec![scout.clone(), second.clone()], 1));
        for address in [&scout, &second] {
            assert_eq!(state_of(&mut tx, address).await, AddressState::Absent);
        }
    })
    .await;
}

#[tokio::test]
async fn states_come_in_pages_by_domain_and_local_part_in_the_order_of_octets() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let mut expected = Vec::new();
        let mut tx = store.db.write().await.unwrap();
        for domain in ["a-b.example", "a.b.example", "ab.example"] {
            for name in NAMES_BY_OCTETS {
                expected.push(format!("{name}@{domain}"));
            }
        }
        let mut shuffled = expected.clone();
        shuffled.sort_by_key(|email| email.bytes().rev().collect::<Vec<_>>());
        for email in &shuffled {
            add_inbox(&mut tx, &acme, acme.default_workspace, email, None).await;
        }
        let buried = add_inbox(&mut tx, &acme, acme.default_workspace, "aa1@a.b.example", None).await;
        let now = Machine.now();
        tx.delete_inboxes_of(Owner::Inbox(buried), now, now)
            .await
            .unwrap();
        for limit in [1, 5, 36, 100] {
            let mut listed: Vec<Address> = Vec::new();
            while let page = tx.address_states_after(listed.last(), limit).await.unwrap()
                && !page.is_empty()
            {
                assert!(page.len() <= limit as usize);
                listed.extend(page.into_iter().map(|(address, _)| address));
            }
            let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
            assert_eq!(listed, expected, "pages of {limit}");
        }
    })
    .await;
}

#[tokio::test]
async fn states_come_in_pages_by_inbox_and_no_inbox_is_on_two() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        let now = Machine.now();
        let mut expected = Vec::new();
        for number in 0..7 {
            let email = format!("inbox-{number}@example.com");
            let id = add_inbox(&mut tx, &acme, acme.default_workspace, &email, None).await;
            expected.push(email);
            // One has more of them than a small page.
            for further in 0..if number == 3 { 9 } else { number % 3 } {
                let email = format!("further-{number}-{further}@example.org");
                assert!(
                    tx.claim_address(&address(&email), at_home(&acme), id, None, now)
                        .await
                        .unwrap()
                );
                expected.push(email);
            }
        }
        let buried = add_inbox(&mut tx, &acme, acme.default_workspace, "gone@example.com", None).await;
        tx.delete_inboxes_of(Owner::Inbox(buried), now, now)
            .await
            .unwrap();
        expected.sort();
        for limit in [1, 2, 5, 36] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let (page, last) = tx.address_states_after_inbox(after, limit).await.unwrap();
                if last.is_none() {
                    assert!(page.is_empty());
                    break;
                }
                assert!(last > after);
                after = last;
                for (address, state) in page {
                    assert_eq!(state, state_of(&mut tx, &address).await);
                    listed.push(address.to_string());
                }
            }
            listed.sort();
            assert_eq!(listed, expected, "pages of {limit}");
        }
    })
    .await;
}

#[tokio::test]
async fn exactly_one_address_of_an_inbox_is_primary() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let mut tx = store.db.write().await.unwrap();
        let now = Machine.now();
        let id = add_inbox(&mut tx, &acme, acme.default_workspace, "scout@example.com", None).await;
        let second = address("second@example.com");
        assert!(
            tx.claim_address(&second, at_home(&acme), id, Some(now), now)
                .await
                .is_err(),
            "a second primary address is refused by the database"
        );
    })
    .await;
}

#[tokio::test]
async fn an_address_of_an_inbox_that_is_never_written_does_not_commit() {
    on_both(async |store| {
        let acme = store.tenant("Acme", Limits::default()).await;
        let (id, now, scout) = (InboxId(fresh_id()), Machine.now(), address("scout@example.com"));
        let mut tx = store.db.write().await.unwrap();
        assert!(
            tx.claim_address(&scout, at_home(&acme), id, Some(now), now)
                .await
                .unwrap()
        );
        assert!(tx.commit().await.is_err());
        let mut tx = store.db.write().await.unwrap();
        assert!(
            tx.claim_address(&scout, at_home(&acme), id, Some(now), now)
                .await
                .unwrap()
        );
        insert_inbox(&mut tx, &acme, acme.default_workspace, &scout, None, id, now).await;
        tx.commit().await.unwrap();
    })
    .await;
}
