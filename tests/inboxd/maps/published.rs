//! What each change leaves in the maps, read by Postfix's own program and from the files.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use inboxd::{
    clock::{Clock as _, Machine},
    model::{
        maps::{Mailbox, MapKey},
        sasl_name::SaslName,
    },
    ops::{condition::Condition, inboxes, tenants},
    store::{Claimant, SessionsToEnd},
};

use super::Rig;
use crate::support::{
    maps::{Postmap, Running, assert_equal, said},
    service::{super_admin, tenant_caller},
    store::{address, fresh_id, hash},
};

#[tokio::test]
async fn every_change_is_in_the_maps_when_publishing_returns() {
    let rig = Rig::new().await;
    let running = Running::start(&rig.store.db, &rig.layout).await;
    let postmap = Postmap::new(&rig.folder);
    let (db, layout, caller) = (&rig.store.db, &rig.layout, tenant_caller(rig.acme.id));
    let publish = async |keys| {
        running.publisher.publish(keys).await.unwrap();
        assert_equal(db, layout).await;
    };
    let entry = || fs::read_to_string(layout.passdb().join("inboxd.test/scout"));
    assert_equal(db, layout).await;
    assert_eq!(postmap.list(layout, "domains"), ["inboxd.test\t1"]);

    let (created, keys) = crate::support::service::created(&rig.service, rig.acme.id, "scout").await;
    let id = created.inbox.id;
    assert_eq!(postmap.query(layout, "recipients", "scout@inboxd.test"), None);
    publish(keys).await;
    let scout = Some("scout@inboxd.test".to_owned());
    let queued = Some(format!("{id}=scout=inboxd.test@inboxd.invalid"));
    assert_eq!(postmap.query(layout, "recipients", "scout@inboxd.test"), queued);
    assert_eq!(
        postmap.query(layout, "recipients", "Scout@Inboxd.TEST"),
        queued,
        "Postfix folds"
    );
    let sender = |address: &str| postmap.query(layout, "sender_logins", address);
    assert_eq!(sender("scout@inboxd.test"), Some(format!("{id}.1")));
    assert_eq!(postmap.query(layout, "aliases", "scout@inboxd.test"), None);
    let line = entry().unwrap();
    assert!(
        line.starts_with("scout@inboxd.test:{SHA512-CRYPT}$6$rounds=1000$"),
        "{line}"
    );
    assert!(
        line.ends_with(&format!(":5000:5000:{id}.1:/var/vmail/{id}::\n")),
        "{line}"
    );

    // A further address; there is no call for it yet.
    let second = address("second@inboxd.test");
    let mut tx = db.write().await.unwrap();
    let now = Machine.now();
    assert!(
        tx.claim_address(&second, Claimant::tenant(rig.acme.id), id, None, now)
            .await
            .unwrap()
    );
    let key = MapKey::Address(second);
    tx.mark_unpublished(&key, fresh_id(), SessionsToEnd::None, now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    publish(vec![key]).await;
    assert_eq!(postmap.query(layout, "aliases", "second@inboxd.test"), scout);
    assert_eq!(sender("second@inboxd.test"), Some(format!("{id}.1")));
    assert_eq!(postmap.query(layout, "recipients", "second@inboxd.test"), None);

    let rotated = inboxes::rotate_password(&rig.service, &caller, id).await.unwrap();
    publish(rotated.publish).await;
    assert!(entry().unwrap().contains(rotated.value.1.hash.as_str()));
    // The session of the old password is another login, for every address.
    for address in ["scout@inboxd.test", "second@inboxd.test"] {
        assert_eq!(sender(address), Some(format!("{id}.2")));
    }

    for (suspended, is_locked) in [(true, true), (false, false)] {
        let change = tenants::Change {
            suspended: Some(suspended),
            ..tenants::Change::default()
        };
        let changed = tenants::change(
            &rig.service,
            &super_admin(),
            rig.acme.id,
            &change,
            &Condition::none(),
        )
        .await
        .unwrap();
        publish(changed.publish).await;
        assert_eq!(entry().unwrap().contains("@inboxd.test:*:5000"), is_locked);
        assert_eq!(
            postmap.query(layout, "recipients", "scout@inboxd.test"),
            queued,
            "mail is accepted all the same"
        );
        let login = (!is_locked).then(|| format!("{id}.3"));
        for address in ["scout@inboxd.test", "second@inboxd.test"] {
            assert_eq!(sender(address), login);
        }
    }

    let deleted = inboxes::delete(&rig.service, &caller, id, &Condition::none())
        .await
        .unwrap();
    publish(deleted.publish).await;
    assert!(entry().is_err());
    for table in ["recipients", "aliases", "sender_logins"] {
        assert_eq!(postmap.list(layout, table), [""; 0]);
    }
    crate::support::maps::until_published(db).await;
}

#[tokio::test]
async fn publishing_twice_or_what_never_was_changes_nothing() {
    let rig = Rig::new().await;
    let running = Running::start(&rig.store.db, &rig.layout).await;
    rig.create("scout").await;
    let keys = [
        "scout@inboxd.test",
        "none@inboxd.test",
        "inboxd.test",
        "none.example",
    ]
    .map(|key| MapKey::parse(key).unwrap());
    let mut before = None;
    for _ in 0..3 {
        running.publisher.publish(keys.to_vec()).await.unwrap();
        assert_equal(&rig.store.db, &rig.layout).await;
        let now = said(&rig.layout);
        assert!(before.is_none_or(|before| before == now));
        before = Some(now);
    }
    running.maps.probe().unwrap();
    assert_equal(&rig.store.db, &rig.layout).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_an_entry() {
    let rig = Rig::new().await;
    let running = Running::start(&rig.store.db, &rig.layout).await;
    let id = rig.create("scout").await;
    let key = MapKey::parse("scout@inboxd.test").unwrap();
    running.publisher.publish(vec![key.clone()]).await.unwrap();
    let path = rig.layout.passdb().join("inboxd.test/scout");
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (path, stop, home) = (path, Arc::clone(&stop), rig.layout.home.clone());
        std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            let mut reads = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let line = fs::read_to_string(&path).unwrap();
                let password = line.split(':').nth(1).unwrap();
                let parsed = inboxd::model::password::PasswordHash::parse(password).unwrap();
                let sasl_name = SaslName::parse(line.split(':').nth(4).unwrap()).unwrap();
                assert_eq!(sasl_name.inbox, id);
                let mailbox = Mailbox {
                    sasl_name,
                    login: inboxd::model::maps::Login::Open(parsed),
                };
                let whole = inboxd::maps::passwd_line(&address("scout@inboxd.test"), &mailbox, &home);
                assert_eq!(line, whole);
                seen.insert(line);
                reads += 1;
            }
            (seen.len(), reads)
        })
    };
    for number in 0..200 {
        let mut tx = rig.store.db.write().await.unwrap();
        let secrets = inboxd::store::NewSecrets {
            // Of different lengths.
            password_hash: &hash(10_u32.pow(number % 9)),
            sealed_password: None,
        };
        assert!(tx.renew_secrets(id, secrets).await.unwrap());
        tx.commit().await.unwrap();
        running.publisher.publish(vec![key.clone()]).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (seen, reads) = reader.join().unwrap();
    assert!(seen > 3 && reads > 200, "{seen} {reads}");
}
