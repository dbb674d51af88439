//! `POST /v1/inboxes`: the allocation rules of the contract, one by one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    Folder,
    api::Api,
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    domains::insert_domain,
};

/// Creates an inbox that must be new, and returns it.
async fn created(api: &Api, body: Value) -> Value {
    let made = api.post("/v1/inboxes", &body).await;
    assert_eq!(made.status, 201, "{body}: {made:?}");
    made.body
}

/// Every field of the contract's inbox object that is not a secret.
fn assert_shape(inbox: &Value, username: &str) {
    let address = format!("{username}@{DEFAULT_DOMAIN}");
    for name in ["email", "canonicalEmail"] {
        assert_eq!(inbox[name], address, "{name}");
    }
    assert_eq!(inbox["username"], username);
    assert_eq!(inbox["domain"], DEFAULT_DOMAIN);
    assert_eq!(
        inbox["addresses"],
        json!([{"address": address, "isPrimary": true}])
    );
    assert_eq!(inbox["imap"]["username"], address);
    assert_eq!(inbox["smtp"]["username"], address);
    assert_eq!(
        (&inbox["imap"]["tls"], &inbox["smtp"]["starttls"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(inbox["imap"]["port"], 993);
    assert_eq!(inbox["smtp"]["port"], 587);
    assert_eq!(inbox["metadata"], json!({}));
    let id = uuid::Uuid::parse_str(inbox["id"].as_str().unwrap()).unwrap();
    assert_eq!(id.get_version_num(), 7);
    let created_at = inbox["createdAt"].as_str().unwrap();
    assert!(
        created_at.len() == 24 && created_at.ends_with('Z'),
        "{created_at}"
    );
    created_at.parse::<jiff::Timestamp>().unwrap();
}

fn assert_credentials(inbox: &Value) {
    let password = inbox["imapPassword"].as_str().unwrap();
    assert_eq!(password.len(), 32);
    assert_eq!(inbox["imap"]["password"], password);
    assert_eq!(inbox["smtp"]["password"], password);
    assert!(inbox["apiKey"].as_str().unwrap().starts_with("ak_"));
}

fn assert_no_credentials(inbox: &Value) {
    for path in ["/imapPassword", "/apiKey", "/imap/password", "/smtp/password"] {
        assert!(inbox.pointer(path).is_none(), "{path} is shown: {inbox}");
    }
}

on_both_databases! {
    async fn a_free_name_is_created_with_credentials(daemon) {
        let acme = daemon.tenant("Acme").await;
        let inbox = created(&acme, json!({"username": "scout", "displayName": "Späher 🚀"})).await;
        assert_shape(&inbox, "scout");
        assert_credentials(&inbox);
        assert_eq!(inbox["displayName"], "Späher 🚀");
        assert!(inbox.get("existed").is_none());
        let own = daemon.api(inbox["apiKey"].as_str().unwrap());
        let me = own.get("/v1/me").await;
        assert_eq!((me.status, me.text("kind"), &me.body["inboxId"]), (200, "inbox", &inbox["id"]));
    }

    async fn rule_1_an_own_inbox_at_the_name_is_answered_without_credentials(daemon) {
        let acme = daemon.tenant("Acme").await;
        let first = created(&acme, json!({"username": "scout"})).await;
        for path in ["/v1/inboxes", "/v1/inboxes?strict=true", "/v1/inboxes?strict=false"] {
            let again = acme.post(path, &json!({"username": "scout", "displayName": "other"})).await;
            assert_eq!((again.status, &again.body["existed"], &again.body["id"]), (200, &json!(true), &first["id"]));
            assert_shape(&again.body, "scout");
            assert_no_credentials(&again.body);
            assert_eq!(again.body["displayName"], "", "a repeat changes nothing");
        }
    }

    async fn rule_2_a_retry_of_a_numbered_create_finds_the_numbered_inbox(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        created(&acme, json!({"username": "scout"})).await;
        let numbered = created(&other, json!({"username": "scout"})).await;
        assert_shape(&numbered, "scout1");
        for path in ["/v1/inboxes", "/v1/inboxes?strict=true"] {
            let again = other.post(path, &json!({"username": "scout"})).await;
            assert_eq!((again.status, &again.body["id"]), (200, &numbered["id"]), "{path}");
        }
        // Its own name leads to it, too; the name behind it is free for a third tenant.
        let direct = other.post("/v1/inboxes", &json!({"username": "scout1"})).await;
        assert_eq!((direct.status, &direct.body["id"]), (200, &numbered["id"]));
        let third = created(&daemon.tenant("Third").await, json!({"username": "scout"})).await;
        assert_shape(&third, "scout2");
    }

    async fn rule_4_strict_refuses_a_name_that_another_has(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let first = created(&acme, json!({"username": "scout"})).await;
        let refused = other.post("/v1/inboxes?strict=true", &json!({"username": "scout"})).await;
        assert_eq!(refused.error(), (409, "USERNAME_TAKEN"));
        assert_eq!(refused.body["requestedUsername"], "scout");
        assert_eq!(refused.body["attemptedUsername"], "scout");
        assert_eq!(refused.body["domain"], DEFAULT_DOMAIN);
        assert!(!refused.body.to_string().contains(first["id"].as_str().unwrap()), "the owner is revealed");
        assert_eq!(other.get("/v1/inboxes").await.body["inboxes"], json!([]), "something was written");
    }

    async fn rule_4_suffixes_have_no_gaps_and_rule_5_end_at_99(daemon) {
        for number in 0..=99 {
            let tenant = daemon.tenant(&format!("T{number}")).await;
            let inbox = created(&tenant, json!({"username": "scout"})).await;
            let expected = if number == 0 { "scout".to_owned() } else { format!("scout{number}") };
            assert_eq!(inbox["username"], expected);
        }
        let late = daemon.tenant("Late").await;
        let refused = late.post("/v1/inboxes", &json!({"username": "scout"})).await;
        assert_eq!(refused.error(), (409, "USERNAME_EXHAUSTED"));
        assert_eq!(refused.body["requestedUsername"], "scout");
        assert_eq!(refused.body["attemptedUsername"], "scout99");
        assert_eq!(refused.body["domain"], DEFAULT_DOMAIN);
        assert_eq!(late.get("/v1/inboxes").await.body["inboxes"], json!([]));
    }

    async fn a_suffix_that_would_pass_64_characters_cuts_the_base(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let long = "x".repeat(64);
        created(&acme, json!({"username": long})).await;
        let inbox = created(&other, json!({"username": long})).await;
        assert_eq!(inbox["username"], format!("{}1", "x".repeat(63)));
        let again = other.post("/v1/inboxes", &json!({"username": long})).await;
        assert_eq!((again.status, &again.body["id"]), (200, &inbox["id"]));
    }

    async fn rule_6_without_a_username_every_call_makes_a_new_inbox(daemon) {
        let acme = daemon.tenant("Acme Corp.").await;
        let mut names = Vec::new();
        for number in 0..103 {
            // strict has no meaning here.
            let path = if number % 2 == 0 { "/v1/inboxes" } else { "/v1/inboxes?strict=true" };
            let made = acme.post(path, &json!({})).await;
            assert_eq!(made.status, 201, "{made:?}");
            names.push(made.text("username").to_owned());
        }
        assert_eq!(names[..3], ["acme-corp", "acme-corp1", "acme-corp2"]);
        assert_eq!(names[99], "acme-corp99");
        assert!(names[100..].iter().all(|name| name.starts_with("acme-corp-") && name.len() > 12), "{:?}", &names[100..]);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    async fn rule_6_a_name_with_nothing_usable_gives_inbox(daemon) {
        let tenant = daemon.tenant("日本").await;
        assert_eq!(created(&tenant, json!({})).await["username"], "inbox");
        // A body is optional as a whole, and null is as good as absent.
        let made = tenant.send(tenant.request(reqwest::Method::POST, "/v1/inboxes")).await;
        assert_eq!((made.status, made.text("username")), (201, "inbox1"));
        let made = tenant.send(tenant.request(reqwest::Method::POST, "/v1/inboxes").body("null")).await;
        assert_eq!((made.status, made.text("username")), (201, "inbox2"));
        assert_eq!(created(&tenant, json!({"username": null, "domain": null})).await["username"], "inbox3");
    }

    async fn reserved_names_are_refused_on_the_default_domain(daemon) {
        let acme = daemon.tenant("Acme").await;
        for name in ["postmaster", "abuse", "admin", "administrator", "hostmaster", "webmaster", "security", "root", "mailer-daemon"] {
            let refused = acme.post("/v1/inboxes", &json!({"username": name})).await;
            assert_eq!(refused.error(), (400, "USERNAME_RESERVED"), "{name}");
        }
        // A tenant of that name gets the next one.
        assert_eq!(created(&daemon.tenant("Admin").await, json!({})).await["username"], "admin1");
        let domain = insert_domain(&daemon, &acme, "own.example", true).await;
        assert_eq!(created(&acme, json!({"username": "postmaster", "domain": domain})).await["email"], "postmaster@own.example");
    }

    async fn plan_limits_name_limit_current_and_max(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Small", "limits": {"inboxes": 2}})).await;
        let small = daemon.api(made.text("key"));
        created(&small, json!({"username": "one"})).await;
        let two = created(&small, json!({"username": "two"})).await;
        for body in [json!({"username": "three"}), json!({})] {
            let refused = small.post("/v1/inboxes", &body).await;
            assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
            assert_eq!((&refused.body["limit"], &refused.body["current"], &refused.body["max"]), (&json!("inboxes"), &json!(2), &json!(2)));
        }
        // What exists is still found, and what is deleted makes room.
        assert_eq!(small.post("/v1/inboxes", &json!({"username": "one"})).await.status, 200);
        assert_eq!(small.delete(&format!("/v1/inboxes/{}", two["id"].as_str().unwrap())).await.status, 200);
        created(&small, json!({"username": "three"})).await;
    }

    async fn domains_must_be_the_workspaces_own_and_verified(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        insert_domain(&daemon, &acme, "verified.example", true).await;
        insert_domain(&daemon, &acme, "pending.example", false).await;
        let inbox = created(&acme, json!({"username": "scout", "domain": "Verified.Example"})).await;
        assert_eq!(inbox["email"], "scout@verified.example");
        let pending = acme.post("/v1/inboxes", &json!({"username": "scout", "domain": "pending.example"})).await;
        assert_eq!(pending.error(), (409, "DOMAIN_NOT_VERIFIED"));
        for (api, domain) in [(&acme, "unknown.example"), (&other, "verified.example"), (&other, "pending.example")] {
            let refused = api.post("/v1/inboxes", &json!({"username": "scout", "domain": domain})).await;
            assert_eq!(refused.error(), (403, "DOMAIN_NOT_ALLOWED"), "{domain}");
        }
        // Another workspace of the same tenant is foreign, too.
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let body = json!({"username": "scout", "domain": "verified.example", "workspaceId": workspace.id()});
        assert_eq!(acme.post("/v1/inboxes", &body).await.error(), (403, "DOMAIN_NOT_ALLOWED"));
        // Names are per domain.
        assert_shape(&created(&acme, json!({"username": "scout"})).await, "scout");
        insert_domain(&daemon, &acme, "xn--bcher-kva.example", true).await;
        let idn = created(&acme, json!({"username": "scout", "domain": "Bücher.example"})).await;
        assert_eq!(idn["email"], "scout@xn--bcher-kva.example");
    }

    async fn a_workspace_key_sees_its_own_workspace_only(daemon) {
        let acme = daemon.tenant("Acme").await;
        let one = acme.post("/v1/workspaces", &json!({"name": "One"})).await;
        let two = acme.post("/v1/workspaces", &json!({"name": "Two"})).await;
        let key_of = async |workspace: &str| {
            let made = acme.post(&format!("/v1/workspaces/{workspace}/keys"), &json!({})).await;
            daemon.api(made.text("key"))
        };
        let (first, second) = (key_of(one.id()).await, key_of(two.id()).await);
        let scout = created(&first, json!({"username": "scout"})).await;
        assert_eq!(scout["workspaceId"], one.id());
        // A sibling's inbox counts as taken by another.
        let strict = second.post("/v1/inboxes?strict=true", &json!({"username": "scout"})).await;
        assert_eq!(strict.error(), (409, "USERNAME_TAKEN"));
        let numbered = created(&second, json!({"username": "scout"})).await;
        assert_eq!((&numbered["username"], &numbered["workspaceId"]), (&json!("scout1"), &json!(two.id())));
        assert_eq!(second.post("/v1/inboxes", &json!({"username": "scout"})).await.body["id"], numbered["id"]);
        assert_eq!(first.post("/v1/inboxes", &json!({"username": "scout"})).await.body["id"], scout["id"]);
        // The tenant sees both; the exact name wins.
        assert_eq!(acme.post("/v1/inboxes", &json!({"username": "scout"})).await.body["id"], scout["id"]);
        // workspaceId: its own is ignored, any other is refused.
        let own = first.post("/v1/inboxes", &json!({"username": "own", "workspaceId": one.id()})).await;
        assert_eq!((own.status, own.text("workspaceId")), (201, one.id()));
        for foreign in [two.id(), "01900000-0000-7000-8000-000000000000"] {
            let refused = first.post("/v1/inboxes", &json!({"username": "x", "workspaceId": foreign})).await;
            assert_eq!(refused.error(), (403, "FORBIDDEN"));
        }
    }

    async fn a_tenant_key_chooses_the_workspace(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let inbox = created(&acme, json!({"username": "scout", "workspaceId": workspace.id()})).await;
        assert_eq!(inbox["workspaceId"], workspace.id());
        for unreachable in [workspace.id(), "01900000-0000-7000-8000-000000000000"] {
            let refused = other.post("/v1/inboxes", &json!({"username": "x", "workspaceId": unreachable})).await;
            assert_eq!(refused.error(), (404, "NOT_FOUND"));
        }
    }

    async fn a_deleted_address_is_kept_from_others_but_not_from_its_tenant(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let first = created(&acme, json!({"username": "scout"})).await;
        acme.delete(&format!("/v1/inboxes/{}", first["id"].as_str().unwrap())).await;
        let strict = other.post("/v1/inboxes?strict=true", &json!({"username": "scout"})).await;
        assert_eq!(strict.error(), (409, "USERNAME_TAKEN"));
        assert_shape(&created(&other, json!({"username": "scout"})).await, "scout1");
        let again = created(&acme, json!({"username": "scout"})).await;
        assert_shape(&again, "scout");
        assert_ne!(again["id"], first["id"]);
        assert_ne!(again["imapPassword"], first["imapPassword"]);
    }
}

#[tokio::test]
async fn a_tombstone_that_no_longer_holds_frees_the_address() {
    let extra = "service.tombstone_days = 0";
    let daemon = Daemon::with_config(Database::Sqlite, Folder::new(), extra).await;
    let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
    let first = created(&acme, json!({"username": "scout"})).await;
    acme.delete(&format!("/v1/inboxes/{}", first["id"].as_str().unwrap()))
        .await;
    assert_shape(&created(&other, json!({"username": "scout"})).await, "scout");
    // The former owner is now another.
    assert_shape(&created(&acme, json!({"username": "scout"})).await, "scout1");
}

#[tokio::test]
async fn defaults_and_reserved_names_are_configuration() {
    let extra = "service.reserved_usernames = [\"scout\"]\nlimits.inboxes = 1";
    let daemon = Daemon::with_config(Database::Sqlite, Folder::new(), extra).await;
    let acme = daemon.tenant("Acme").await;
    assert_eq!(
        acme.post("/v1/inboxes", &json!({"username": "scout"}))
            .await
            .error(),
        (400, "USERNAME_RESERVED")
    );
    created(&acme, json!({"username": "postmaster"})).await;
    assert_eq!(
        acme.post("/v1/inboxes", &json!({"username": "two"}))
            .await
            .error(),
        (403, "PLAN_LIMIT_REACHED")
    );
}
