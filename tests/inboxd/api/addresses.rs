//! The addresses of an inbox: added, listed, removed, and which of them is primary.

use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    domains::insert_domain,
};

async fn inbox(api: &Api, username: &str) -> String {
    let made = api.post("/v1/inboxes", &json!({"username": username})).await;
    assert_eq!(made.status, 201, "{made:?}");
    format!("/v1/inboxes/{}", made.id())
}

fn at_home(local_part: &str) -> String {
    format!("{local_part}@{DEFAULT_DOMAIN}")
}

async fn add(api: &Api, inbox: &str, email: &str, primary: Value) -> Answer {
    let body = json!({"email": email, "primary": primary});
    api.post(&format!("{inbox}/addresses"), &body).await
}

/// Every address, with a star at the primary one; the same from both calls that tell.
async fn addresses(api: &Api, inbox: &str) -> Vec<String> {
    let (listed, read) = (api.get(&format!("{inbox}/addresses")).await, api.get(inbox).await);
    assert_eq!((listed.status, read.status), (200, 200));
    assert_eq!(listed.body["addresses"], read.body["addresses"]);
    let entries = listed.body["addresses"].as_array().unwrap();
    let primary: Vec<&Value> = entries
        .iter()
        .filter(|entry| entry["isPrimary"] == true)
        .collect();
    assert_eq!(primary.len(), 1, "{entries:?}");
    assert_eq!(primary[0]["address"], read.body["email"]);
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| {
            let star = if entry["isPrimary"] == true { "*" } else { "" };
            format!("{}{star}", entry["address"].as_str().unwrap())
        })
        .collect();
    names.sort();
    names
}

on_both_databases! {
    async fn the_primary_address_follows_what_is_asked(daemon) {
        let acme = daemon.tenant("Acme").await;
        let scout = inbox(&acme, "scout").await;
        let (canonical, a, b) = (at_home("scout"), at_home("a"), at_home("b"));
        assert_eq!(addresses(&acme, &scout).await, [format!("{canonical}*")]);

        let added = acme.post(&format!("{scout}/addresses"), &json!({"email": a})).await;
        assert_eq!((added.status, &added.body), (201, &json!({"ok": true, "address": a, "isPrimary": true})));
        assert_eq!(addresses(&acme, &scout).await, [format!("{a}*"), canonical.clone()]);
        let added = add(&acme, &scout, &b, json!(false)).await;
        assert_eq!((added.status, &added.body), (201, &json!({"ok": true, "address": b, "isPrimary": false})));
        assert_eq!(addresses(&acme, &scout).await, [format!("{a}*"), b.clone(), canonical.clone()]);

        // Again: nothing is added, and only the primary one may change.
        for (email, primary, is_primary, starred) in [
            (&b, json!(true), true, &b),
            (&b, json!(true), true, &b),
            (&a, json!(false), false, &b),
            (&b, json!(false), false, &canonical),
            (&canonical, json!(false), true, &canonical),
            (&a, Value::Null, true, &a),
            (&canonical, json!(true), true, &canonical),
        ] {
            let again = add(&acme, &scout, email, primary.clone()).await;
            assert_eq!((again.status, &again.body["isPrimary"]), (200, &json!(is_primary)), "{email} {primary}");
            let now = addresses(&acme, &scout).await;
            assert!(now.contains(&format!("{starred}*")) && now.len() == 3, "{email} {primary}: {now:?}");
        }

        // What is removed cannot be primary.
        add(&acme, &scout, &b, json!(true)).await;
        let removed = acme.delete(&format!("{scout}/addresses/{b}")).await;
        assert_eq!((removed.status, &removed.body), (200, &json!({"deleted": true, "address": b})));
        assert_eq!(addresses(&acme, &scout).await, [a.clone(), format!("{canonical}*")]);
        let removed = acme.delete(&format!("{scout}/addresses/{}", a.replace('@', "%40"))).await;
        assert_eq!(removed.status, 200);
        assert_eq!(addresses(&acme, &scout).await, [format!("{canonical}*")]);
        assert_eq!(acme.delete(&format!("{scout}/addresses/{a}")).await.error(), (404, "NOT_FOUND"));
        // What cannot be an address is named as what it is, as it is when it is added.
        for wrong in ["scout@acme.example.", "scout", "@acme.example", "scout..b@acme.example"] {
            let removed = acme.delete(&format!("{scout}/addresses/{wrong}")).await;
            assert_eq!((removed.error(), removed.text("field")), ((400, "VALIDATION_ERROR"), "address"), "{wrong}");
            let added = add(&acme, &scout, wrong, json!(false)).await;
            assert_eq!(added.error(), (400, "VALIDATION_ERROR"), "{wrong}");
            let rule = |answer: &Answer| answer.text("error").split_once(": ").unwrap().1.to_owned();
            assert_eq!(rule(&removed), rule(&added));
        }
        let refused = acme.delete(&format!("{scout}/addresses/{canonical}")).await;
        assert_eq!(refused.error(), (409, "CANONICAL_ADDRESS"));
    }

    async fn an_address_belongs_to_one_inbox(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let (scout, second, foreign) = (
            inbox(&acme, "scout").await,
            inbox(&acme, "second").await,
            inbox(&other, "foreign").await,
        );
        assert_eq!(add(&acme, &scout, &at_home("desk"), json!(true)).await.status, 201);
        let mut refusals = Vec::new();
        for (api, inbox, email) in [
            (&acme, &second, "desk"),
            (&other, &foreign, "desk"),
            (&other, &foreign, "scout"),
            (&acme, &scout, "foreign"),
        ] {
            let refused = add(api, inbox, &at_home(email), json!(true)).await;
            assert_eq!(refused.error(), (409, "ADDRESS_TAKEN"), "{email}");
            refusals.push(refused.text("error").replace(email, "*"));
        }
        refusals.dedup();
        assert_eq!(refusals, [format!("email: *@{DEFAULT_DOMAIN} is taken")], "who has it is not told");

        // A new inbox of that name gets another one, or none; also one of the same tenant.
        for api in [&acme, &other] {
            let numbered = api.post("/v1/inboxes", &json!({"username": "desk"})).await;
            assert_eq!(numbered.status, 201);
            assert_ne!(numbered.text("email"), at_home("desk"));
            let strict = api.post("/v1/inboxes?strict=true", &json!({"username": "desk"})).await;
            assert!(matches!(strict.status, 200 | 409), "{strict:?}");
        }

        // Once removed, it is kept for the tenant that had it.
        assert_eq!(acme.delete(&format!("{scout}/addresses/{}", at_home("desk"))).await.status, 200);
        assert_eq!(add(&other, &foreign, &at_home("desk"), json!(true)).await.error(), (409, "ADDRESS_TAKEN"));
        assert_eq!(add(&acme, &second, &at_home("desk"), json!(true)).await.status, 201);
        // With its inbox, it goes, and is kept likewise.
        assert_eq!(acme.delete(&second).await.status, 200);
        assert_eq!(add(&other, &foreign, &at_home("desk"), json!(true)).await.error(), (409, "ADDRESS_TAKEN"));
        assert_eq!(add(&acme, &scout, &at_home("desk"), json!(true)).await.status, 201);
    }

    async fn an_address_is_at_a_domain_that_the_workspace_has(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        insert_domain(&daemon, &acme, "acme.example", true).await;
        insert_domain(&daemon, &acme, "pending.example", false).await;
        let (scout, foreign) = (inbox(&acme, "scout").await, inbox(&other, "foreign").await);
        assert_eq!(add(&acme, &scout, "ada@acme.example", json!(true)).await.status, 201);
        assert_eq!(acme.get(&scout).await.body["email"], "ada@acme.example");
        assert_eq!(acme.get(&scout).await.body["canonicalEmail"], at_home("scout"));
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let body = json!({"username": "second", "workspaceId": workspace.id()});
        let second = format!("/v1/inboxes/{}", acme.post("/v1/inboxes", &body).await.id());
        for (api, inbox, email, status, code) in [
            (&acme, &scout, "ada@pending.example", 409, "DOMAIN_NOT_VERIFIED"),
            (&acme, &scout, "ada@elsewhere.example", 403, "DOMAIN_NOT_ALLOWED"),
            (&acme, &scout, "ada@sub.acme.example", 403, "DOMAIN_NOT_ALLOWED"),
            // Another workspace's, also within the tenant.
            (&acme, &second, "eve@acme.example", 403, "DOMAIN_NOT_ALLOWED"),
            (&other, &foreign, "eve@acme.example", 403, "DOMAIN_NOT_ALLOWED"),
            (&other, &foreign, "eve@pending.example", 403, "DOMAIN_NOT_ALLOWED"),
            (&acme, &scout, "postmaster@inboxd.test", 400, "USERNAME_RESERVED"),
            (&acme, &scout, "Ada@acme.example", 400, "VALIDATION_ERROR"),
            (&acme, &scout, "ada", 400, "VALIDATION_ERROR"),
            (&acme, &scout, "ada+x@acme.example", 400, "VALIDATION_ERROR"),
            (&acme, &scout, "ada@[127.0.0.1]", 400, "VALIDATION_ERROR"),
        ] {
            let refused = add(api, inbox, email, json!(true)).await;
            assert_eq!(refused.error(), (status, code), "{email}");
            assert!(refused.text("error").starts_with("email: "), "{refused:?}");
        }
        // Names that only mean something at the service's own domain are free at one's own.
        assert_eq!(add(&acme, &scout, "postmaster@acme.example", json!(false)).await.status, 201);
        let upper = add(&acme, &scout, "eve@ACME.example", json!(false)).await;
        assert_eq!((upper.status, upper.text("address")), (201, "eve@acme.example"));
    }

    async fn upper_case_in_a_path_means_what_it_means_to_smtp(daemon) {
        let acme = daemon.tenant("Acme").await;
        let scout = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let path = format!("/v1/inboxes/{}/addresses", scout.id());
        acme.post(&path, &json!({"email": "front-desk@inboxd.test", "primary": false})).await;
        let found = acme.get("/v1/inboxes?email=FRONT-Desk@INBOXD.test").await;
        assert_eq!(found.body["inboxes"][0]["id"], scout.id());
        // Only the case of ASCII letters makes no difference to SMTP: the first is a KELVIN SIGN.
        for other in ["front-des%E2%84%AA@inboxd.test", "front-desk+x@inboxd.test", "x"] {
            assert_eq!(acme.delete(&format!("{path}/{other}")).await.error(), (400, "VALIDATION_ERROR"), "{other}");
        }
        let removed = acme.delete(&format!("{path}/FRONT-DESK@Inboxd.Test")).await;
        assert_eq!((removed.status, removed.text("address")), (200, "front-desk@inboxd.test"));
        let canonical = acme.delete(&format!("{path}/SCOUT@inboxd.test")).await;
        assert_eq!(canonical.error(), (409, "CANONICAL_ADDRESS"));
    }

    async fn a_suspended_tenants_addresses_come_back_with_it(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(tenant.text("key"));
        let scout = inbox(&acme, "scout").await;
        add(&acme, &scout, &at_home("desk"), json!(true)).await;
        let path = format!("/v1/tenants/{}", tenant.id());
        for suspended in [true, false] {
            let changed = admin.patch(&path, &json!({"suspended": suspended})).await;
            assert_eq!(changed.status, 200, "{changed:?}");
            let (status, said) = daemon.command(&["maps", "check", "--no-dovecot"]).await;
            assert_eq!(status, 0, "{said}");
        }
        assert_eq!(addresses(&acme, &scout).await.len(), 2);
    }
}

#[tokio::test]
async fn an_inbox_has_so_many_addresses_and_no_more() {
    let daemon =
        Daemon::with_config(Database::Sqlite, Folder::new(), "service.addresses_per_inbox = 3").await;
    let acme = daemon.tenant("Acme").await;
    let scout = inbox(&acme, "scout").await;
    for name in ["a", "b"] {
        assert_eq!(add(&acme, &scout, &at_home(name), json!(true)).await.status, 201);
    }
    let refused = add(&acme, &scout, &at_home("c"), json!(true)).await;
    assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
    assert_eq!(
        (
            &refused.body["limit"],
            &refused.body["current"],
            &refused.body["max"]
        ),
        (&json!("addresses"), &json!(3), &json!(3))
    );
    // What is there already is no new one.
    assert_eq!(add(&acme, &scout, &at_home("a"), json!(true)).await.status, 200);
    assert_eq!(
        acme.delete(&format!("{scout}/addresses/{}", at_home("a")))
            .await
            .status,
        200
    );
    assert_eq!(add(&acme, &scout, &at_home("c"), json!(true)).await.status, 201);
}
