//! The fields of request bodies: nothing of what a caller says is silently not done.

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    api::{Answer, Api},
    daemon::Daemon,
    domains::insert_domain,
};

/// One object of each kind, and who changes it.
struct World {
    admin: Api,
    acme: Api,
    tenant: String,
    workspace: String,
    inbox: String,
}

impl World {
    async fn of(daemon: &Daemon) -> Self {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(made.text("key"));
        let inbox = acme
            .post(
                "/v1/inboxes",
                &json!({"username": "scout", "displayName": "Scout", "metadata": {"k": 1}}),
            )
            .await;
        assert_eq!(inbox.status, 201, "{inbox:?}");
        acme.post("/v1/domains", &json!({"domain": "acme.example"})).await;
        Self {
            tenant: format!("/v1/tenants/{}", made.id()),
            workspace: format!("/v1/workspaces/{}", made.text("defaultWorkspaceId")),
            inbox: format!("/v1/inboxes/{}", inbox.id()),
            admin,
            acme,
        }
    }

    /// Every call that takes a body, and those that take none but are sent one: method, path, caller.
    fn calls(&self) -> Vec<(Method, String, &Api)> {
        let (admin, acme) = (&self.admin, &self.acme);
        vec![
            (Method::POST, "/v1/inboxes".to_owned(), acme),
            (Method::PATCH, self.inbox.clone(), acme),
            (Method::POST, format!("{}/addresses", self.inbox), acme),
            (Method::POST, format!("{}/rotate-password", self.inbox), acme),
            (Method::POST, format!("{}/rotate-key", self.inbox), acme),
            (Method::POST, "/v1/domains".to_owned(), acme),
            (Method::PATCH, "/v1/domains/acme.example".to_owned(), acme),
            (
                Method::POST,
                "/v1/domains/acme.example/dkim/rotate".to_owned(),
                acme,
            ),
            (Method::POST, "/v1/workspaces".to_owned(), acme),
            (Method::PATCH, self.workspace.clone(), acme),
            (Method::POST, format!("{}/keys", self.workspace), acme),
            (Method::POST, "/v1/tenants".to_owned(), admin),
            (Method::PATCH, self.tenant.clone(), admin),
            (Method::POST, format!("{}/keys", self.tenant), admin),
        ]
    }

    /// Everything that a refused change must leave as it is.
    async fn state(&self) -> Value {
        let mut state = Vec::new();
        for (api, path) in [
            (&self.acme, "/v1/inboxes"),
            (&self.acme, "/v1/domains/acme.example"),
            (&self.acme, "/v1/workspaces"),
            (&self.acme, &format!("{}/keys", self.workspace)),
            (&self.admin, "/v1/tenants"),
            (&self.admin, &format!("{}/keys", self.tenant)),
            (&self.acme, &self.inbox),
        ] {
            state.push(api.get(path).await.body);
        }
        Value::Array(state)
    }
}

async fn send(api: &Api, method: &Method, path: &str, body: &Value) -> Answer {
    api.send(api.request(method.clone(), path).json(body)).await
}

async fn lenient(api: &Api, method: &Method, path: &str, body: &Value) -> Answer {
    let request = api.request(method.clone(), path).header(
        "Prefer",
        "respond-async, Handling = \"lenient\"; x=y, handling=strict",
    );
    api.send(request.json(body)).await
}

fn applied(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("preference-applied")
        .map(|value| value.to_str().unwrap())
}

on_both_databases! {
    async fn an_unknown_field_is_refused_by_every_call_and_nothing_happens(daemon) {
        let world = World::of(&daemon).await;
        let before = world.state().await;
        for (method, path, api) in world.calls() {
            let refused = send(api, &method, &path, &json!({"displayNam": "B", "zzz": 1})).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{method} {path}");
            assert_eq!(refused.body["field"], "displayNam", "{method} {path}");
            assert!(refused.text("error").contains("unknown field"), "{refused:?}");
        }
        assert_eq!(world.state().await, before);
    }

    async fn a_mistyped_name_is_answered_with_the_nearest(daemon) {
        let world = World::of(&daemon).await;
        let before = world.state().await;
        let (admin, acme) = (&world.admin, &world.acme);
        for (api, method, path, body, field, near) in [
            (acme, Method::POST, "/v1/inboxes", json!({"userName": "zed"}), "userName", Some("username")),
            (acme, Method::POST, "/v1/inboxes", json!({"email": "zed@inboxd.test"}), "email", None),
            (acme, Method::POST, "/v1/inboxes", json!({"name": "zed"}), "name", None),
            (acme, Method::POST, "/v1/inboxes", json!({"workspaceID": "x"}), "workspaceID", Some("workspaceId")),
            (acme, Method::PATCH, &world.inbox, json!({"displayname": "B"}), "displayname", Some("displayName")),
            (acme, Method::PATCH, &world.inbox, json!({"display_name": "B"}), "display_name", Some("displayName")),
            (acme, Method::PATCH, "/v1/domains/acme.example", json!({"catchall": "x"}), "catchall", Some("catchAll")),
            (admin, Method::PATCH, &world.tenant, json!({"limits": {"inboxs": 3}}), "limits.inboxs", Some("limits.inboxes")),
            (admin, Method::PATCH, &world.tenant, json!({"limits": {"inboxes": 3, "x": 1}}), "limits.x", None),
            (admin, Method::PATCH, &world.tenant, json!({"status": "suspended"}), "status", None),
            (admin, Method::POST, "/v1/tenants", json!({"name": "X", "limits": {"domain": 3}}), "limits.domain", Some("limits.domains")),
        ] {
            let refused = send(api, &method, path, &body).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{body}");
            assert_eq!(refused.body["field"], field, "{body}");
            let said = refused.text("error").split('`').nth(1);
            assert_eq!(said, near, "{refused:?}");
            assert!(refused.text("error").contains("takes "), "{refused:?}");
        }
        assert_eq!(world.state().await, before);
    }

    async fn a_change_that_names_nothing_is_refused(daemon) {
        let world = World::of(&daemon).await;
        for (method, path, api) in world.calls().into_iter().filter(|(method, ..)| *method == Method::PATCH) {
            for body in [json!({}), Value::Null] {
                let refused = send(api, &method, &path, &body).await;
                assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!("body")), "{path}");
            }
            let refused = lenient(api, &method, &path, &json!({"zzz": 1})).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{path}");
        }
        let refused = world.admin.patch(&world.tenant, &json!({"limits": {}})).await;
        assert_eq!(refused.body["field"], "limits");
    }

    async fn null_removes_what_can_be_removed_and_is_refused_for_the_rest(daemon) {
        let world = World::of(&daemon).await;
        let (admin, acme) = (&world.admin, &world.acme);
        assert_eq!(acme.get(&world.inbox).await.body["metadata"], json!({"k": 1}));
        acme.patch(&world.inbox, &json!({"metadata": {"a": 2, "k": null}})).await;
        assert_eq!(acme.get(&world.inbox).await.body["metadata"], json!({"a": 2}));
        let changed = acme.patch(&world.inbox, &json!({"metadata": null})).await;
        assert_eq!((changed.status, &changed.body["updated"]), (200, &json!(true)));
        let read = acme.get(&world.inbox).await;
        assert_eq!((&read.body["metadata"], read.text("displayName")), (&json!({}), "Scout"));
        acme.patch(&world.inbox, &json!({"displayName": null})).await;
        assert_eq!(acme.get(&world.inbox).await.text("displayName"), "");

        admin.patch(&world.tenant, &json!({"limits": {"inboxes": 3, "domains": 4, "workspaces": 5}})).await;
        admin.patch(&world.tenant, &json!({"limits": {"inboxes": null}})).await;
        assert_eq!(admin.get(&world.tenant).await.body["limits"], json!({"inboxes": null, "domains": 4, "workspaces": 5}));
        admin.patch(&world.tenant, &json!({"limits": null})).await;
        assert_eq!(admin.get(&world.tenant).await.body["limits"], json!({"inboxes": null, "domains": null, "workspaces": null}));

        for (api, path, field) in [
            (admin, &world.tenant, "name"), (admin, &world.tenant, "suspended"),
            (acme, &world.workspace, "name"), (acme, &world.workspace, "slug"),
        ] {
            let refused = api.patch(path, &json!({ field: null })).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!(field)), "{path}");
        }
    }

    async fn null_removes_a_catch_all_and_its_type_is_checked(daemon) {
        let world = World::of(&daemon).await;
        insert_domain(&daemon, &world.acme, "caught.example", true).await;
        let (acme, domain) = (&world.acme, "/v1/domains/caught.example");
        let inbox = world.inbox.rsplit('/').next().unwrap();
        for wrong in [json!(true), json!("scout"), json!({}), json!([inbox])] {
            let refused = acme.patch(domain, &json!({"catchAll": wrong})).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!("catchAll")));
        }
        assert_eq!(acme.patch(domain, &json!({"catchAll": inbox})).await.body["catchAll"], inbox);
        assert_eq!(acme.patch(domain, &json!({"catchAll": null})).await.body["catchAll"], Value::Null);
    }

    async fn null_in_a_post_is_the_same_as_absent(daemon) {
        let world = World::of(&daemon).await;
        let body = json!({"username": null, "displayName": null, "domain": null, "metadata": null, "workspaceId": null});
        let made = world.acme.post("/v1/inboxes", &body).await;
        assert_eq!((made.status, made.text("username"), &made.body["metadata"]), (201, "acme", &json!({})));
        for (path, api, body) in [
            ("/v1/workspaces", &world.acme, json!({"name": "Second", "slug": null})),
            (&format!("{}/keys", world.workspace), &world.acme, json!({"name": null})),
            ("/v1/tenants", &world.admin, json!({"name": "Other", "limits": null})),
            (&format!("{}/addresses", world.inbox), &world.acme, json!({"email": "desk@inboxd.test", "primary": null, "workspaceId": null})),
        ] {
            assert_eq!(api.post(path, &body).await.status, 201, "{path}");
        }
        let refused = world.acme.post("/v1/workspaces", &json!({"name": null})).await;
        assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!("name")));
    }

    async fn metadata_is_stored_at_creation_and_limited(daemon) {
        let world = World::of(&daemon).await;
        let acme = &world.acme;
        let data = json!({"customer": "c-42", "null": null, "deep": {"list": [1, 2.5, "\u{0}ü"]}});
        // One that is written with others, and one that goes the careful way: its name is not the one asked for.
        let other = world.admin.tenant("Other").await;
        for (api, body, name) in [
            (acme, json!({"username": "m1", "metadata": data}), "m1"),
            (&other, json!({"username": "m1", "metadata": data}), "m11"),
            (acme, json!({"metadata": data}), "acme"),
        ] {
            let made = api.post("/v1/inboxes", &body).await;
            assert_eq!((made.status, made.text("username"), &made.body["metadata"]), (201, name, &data));
            assert_eq!(api.get(&format!("/v1/inboxes/{}", made.id())).await.body["metadata"], data);
        }
        // The caller has it already: it stays as it is, and the answer shows that.
        let again = acme.post("/v1/inboxes", &json!({"username": "m1", "metadata": {"other": 1}})).await;
        assert_eq!((again.status, &again.body["metadata"]), (200, &data));
        for wrong in [json!({"k": "x".repeat(16 * 1024)}), json!([]), json!("{}"), json!(1)] {
            let refused = acme.post("/v1/inboxes", &json!({"username": "m2", "metadata": wrong})).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!("metadata")));
        }
        let largest = json!({"k": "x".repeat(16 * 1024 - 8)});
        let made = acme.post("/v1/inboxes", &json!({"username": "m2", "metadata": largest})).await;
        assert_eq!((made.status, &made.body["metadata"]), (201, &largest));
    }

    async fn unknown_fields_are_ignored_and_listed_for_who_prefers_that(daemon) {
        let world = World::of(&daemon).await;
        let (admin, acme) = (&world.admin, &world.acme);
        let made = lenient(acme, &Method::POST, "/v1/inboxes", &json!({"username": "zed", "userName": "x", "extra": {"y": [1]}})).await;
        assert_eq!((made.status, made.text("username")), (201, "zed"));
        assert_eq!((&made.body["ignoredFields"], applied(&made.headers)), (&json!(["extra", "userName"]), Some("handling=lenient")));
        let changed = lenient(admin, &Method::PATCH, &world.tenant, &json!({"limits": {"inboxes": 9, "inboxs": 3}})).await;
        assert_eq!((changed.status, &changed.body["ignoredFields"]), (200, &json!(["limits.inboxs"])));
        assert_eq!(admin.get(&world.tenant).await.body["limits"]["inboxes"], 9);
        // Nothing was ignored: nothing is listed.
        let made = lenient(acme, &Method::POST, "/v1/workspaces", &json!({"name": "Second"})).await;
        assert_eq!((made.status, made.body.get("ignoredFields"), applied(&made.headers)), (201, None, Some("handling=lenient")));
        // What is known keeps its rules.
        let refused = lenient(acme, &Method::POST, "/v1/inboxes", &json!({"username": "Zed"})).await;
        assert_eq!(refused.error(), (400, "VALIDATION_ERROR"));
        let strict = acme.request(Method::POST, "/v1/inboxes").header("Prefer", "handling=strict, return=minimal");
        assert_eq!(acme.send(strict.json(&json!({"x": 1}))).await.status, 400);
        let plain = acme.post("/v1/inboxes", &json!({"username": "plain"})).await;
        assert_eq!((plain.status, applied(&plain.headers)), (201, None));
    }
}

#[tokio::test]
async fn a_body_in_another_encoding_is_named_as_what_it_is() {
    let daemon = Daemon::start(crate::support::daemon::Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let text = "{\"displayName\":\"Zo\u{eb}\"}";
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin_1: Vec<u8> = text
        .chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect();
    for (body, name) in [
        (utf_16, "UTF-16"),
        (latin_1, "Latin-1"),
        (format!("\u{feff}{text}").into_bytes(), "byte order mark"),
    ] {
        let refused = acme
            .send(acme.request(Method::POST, "/v1/inboxes").body(body))
            .await;
        assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{name}");
        assert_eq!(refused.body["field"], "body");
        assert!(refused.text("error").contains(name), "{refused:?}");
    }
}
