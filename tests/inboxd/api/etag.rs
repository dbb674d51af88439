//! `ETag`, `If-Match` and `If-None-Match`.

use reqwest::Method;
use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    api::{Answer, Api},
    domains::insert_domain,
};

async fn with(api: &Api, method: Method, path: &str, header: (&str, &str), body: Option<&Value>) -> Answer {
    let request = api.request(method, path).header(header.0, header.1);
    api.send(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
}

async fn tag_of(api: &Api, path: &str) -> String {
    let answer = api.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.headers["etag"].to_str().unwrap().to_owned()
}

on_both_databases! {
    async fn a_change_is_refused_once_the_object_has_changed(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(tenant.text("key"));
        let inbox = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        insert_domain(&daemon, &acme, "acme.example", true).await;
        for (api, path, change, another) in [
            (&acme, format!("/v1/inboxes/{}", inbox.id()), json!({"displayName": "A"}), json!({"displayName": "B"})),
            (&acme, "/v1/domains/acme.example".to_owned(), json!({"catchAll": inbox.id()}), json!({"catchAll": null})),
            (&acme, format!("/v1/workspaces/{}", workspace.id()), json!({"name": "A"}), json!({"name": "B"})),
            (&admin, format!("/v1/tenants/{}", tenant.id()), json!({"name": "A"}), json!({"name": "B"})),
        ] {
            let first = tag_of(api, &path).await;
            assert!(first.starts_with('"') && first.ends_with('"'), "a strong tag: {first}");
            assert_eq!(tag_of(api, &path).await, first, "nothing has changed");
            let known = with(api, Method::GET, &path, ("If-None-Match", &format!("\"x\", W/{first}")), None).await;
            assert_eq!((known.status, known.headers["etag"].to_str().unwrap(), &known.body), (304, first.as_str(), &Value::Null), "{path}");

            let changed = with(api, Method::PATCH, &path, ("If-Match", &format!("\"x\", {first}")), Some(&change)).await;
            assert_eq!(changed.status, 200, "{changed:?}");
            let second = tag_of(api, &path).await;
            assert_ne!(second, first, "{path}");
            assert_eq!(with(api, Method::GET, &path, ("If-None-Match", &first), None).await.status, 200, "{path}");

            let before = api.get(&path).await.body;
            for (method, stale) in [(Method::PATCH, first.as_str()), (Method::DELETE, &first), (Method::PATCH, &format!("W/{second}"))] {
                let body = (method == Method::PATCH).then_some(&another);
                let refused = with(api, method.clone(), &path, ("If-Match", stale), body).await;
                assert_eq!(refused.error(), (412, "PRECONDITION_FAILED"), "{method} {path}");
            }
            assert_eq!(api.get(&path).await.body, before, "{path}");
            for malformed in ["x", "\"x", ""] {
                let refused = with(api, Method::PATCH, &path, ("If-Match", malformed), Some(&another)).await;
                assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!("if-match")), "{path}");
            }
            assert_eq!(with(api, Method::PATCH, &path, ("If-Match", "*"), Some(&another)).await.status, 200, "{path}");
        }
        for (api, path) in [
            (&acme, "/v1/domains/acme.example".to_owned()),
            (&acme, format!("/v1/inboxes/{}", inbox.id())),
            (&acme, format!("/v1/workspaces/{}", workspace.id())),
            (&admin, format!("/v1/tenants/{}", tenant.id())),
        ] {
            let tag = tag_of(api, &path).await;
            assert_eq!(with(api, Method::DELETE, &path, ("If-Match", &tag), None).await.status, 200, "{path}");
            assert_eq!(with(api, Method::DELETE, &path, ("If-Match", &tag), None).await.error(), (404, "NOT_FOUND"), "{path}");
        }
    }

    async fn the_tag_of_an_inbox_covers_all_that_get_shows(daemon) {
        let acme = daemon.tenant("Acme").await;
        let inbox = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let path = format!("/v1/inboxes/{}", inbox.id());
        let mut seen = vec![tag_of(&acme, &path).await];
        acme.post(&format!("{path}/rotate-password"), &json!({})).await;
        seen.push(tag_of(&acme, &path).await);
        acme.post(&format!("{path}/addresses"), &json!({"email": "desk@inboxd.test"})).await;
        seen.push(tag_of(&acme, &path).await);
        acme.patch(&path, &json!({"metadata": {"a": 1}})).await;
        seen.push(tag_of(&acme, &path).await);
        let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "{seen:?}");
        let own = daemon.api(inbox.text("apiKey"));
        assert_eq!(tag_of(&own, &path).await, seen[3], "whoever reads it");
    }

    async fn of_two_changes_meant_for_one_state_one_is_made(daemon) {
        let acme = daemon.tenant("Acme").await;
        let inbox = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let path = format!("/v1/inboxes/{}", inbox.id());
        for round in 0..5 {
            let tag = tag_of(&acme, &path).await;
            let bodies: Vec<Value> = (0..6).map(|caller| json!({"metadata": {format!("r{round}"): caller}})).collect();
            let answers = futures_util::future::join_all(
                bodies.iter().map(|body| with(&acme, Method::PATCH, &path, ("If-Match", &tag), Some(body))),
            )
            .await;
            let made = answers.iter().filter(|answer| answer.status == 200).count();
            assert_eq!(made, 1, "{answers:?}");
            assert!(answers.iter().all(|answer| [200, 412].contains(&answer.status)), "{answers:?}");
        }
    }
}
