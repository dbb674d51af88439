//! The authorization matrix: every call with every kind of key on own and foreign objects, the expected status
//! written down for each. Each refusal is searched for what belongs to the other tenant.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{api::Api, daemon::Daemon};

/// Everything that one tenant has.
struct Side {
    name: String,
    tenant: String,
    default_workspace: String,
    workspace: String,
    workspace_key_id: String,
    tenant_key_id: String,
    inbox: String,
    /// An inbox in the default workspace.
    other_inbox: String,
    tk: Api,
    wk: Api,
    ak: Api,
    /// Texts that the other tenant must never see.
    marks: Vec<String>,
}

impl Side {
    async fn new(daemon: &Daemon, name: &str, has_domain: bool) -> Self {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.post("/v1/tenants", &json!({"name": name})).await;
        let tk = daemon.api(tenant.text("key"));
        let workspace = tk
            .post("/v1/workspaces", &json!({"name": format!("{name} workspace")}))
            .await;
        let keys = format!("/v1/workspaces/{}/keys", workspace.id());
        let wk = tk.post(&keys, &json!({})).await;
        let spare = tk.post(&keys, &json!({})).await;
        let tenant_keys = format!("/v1/tenants/{}/keys", tenant.id());
        let tenant_spare = tk
            .post(&tenant_keys, &json!({"name": format!("{name} spare")}))
            .await;
        let body = json!({"username": format!("{name}-inbox"), "workspaceId": workspace.id()});
        let inbox = tk.post("/v1/inboxes", &body).await;
        let other_inbox = tk
            .post("/v1/inboxes", &json!({"username": format!("{name}-other")}))
            .await;
        assert_eq!((inbox.status, other_inbox.status), (201, 201));
        if has_domain {
            let body = json!({"domain": format!("{name}.example"), "workspaceId": workspace.id()});
            assert_eq!(tk.post("/v1/domains", &body).await.status, 201);
        }
        let text = |answer: &crate::support::api::Answer, name: &str| answer.text(name).to_owned();
        Self {
            marks: vec![
                text(&tenant, "id"),
                text(&tenant, "defaultWorkspaceId"),
                text(&workspace, "id"),
                text(&wk, "id"),
                text(&spare, "id"),
                text(&inbox, "id"),
                text(&other_inbox, "id"),
                text(&inbox, "imapPassword"),
                text(&inbox, "apiKey"),
                name.to_owned(),
            ],
            name: name.to_owned(),
            tenant: text(&tenant, "id"),
            default_workspace: text(&tenant, "defaultWorkspaceId"),
            workspace: text(&workspace, "id"),
            workspace_key_id: text(&spare, "id"),
            tenant_key_id: text(&tenant_spare, "id"),
            inbox: text(&inbox, "id"),
            other_inbox: text(&other_inbox, "id"),
            wk: daemon.api(wk.text("key")),
            ak: daemon.api(inbox.text("apiKey")),
            tk,
        }
    }
}

/// One row: a call, and the status for sa, tk, wk, ak.
struct Row(&'static str, &'static str, Value, [u16; 4]);

/// `{inbox}` and so on are replaced by the ids of a side.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows_of_own() -> Vec<Row> {
    let none = || json!({});
    let alias = || json!({"email": "alias@inboxd.test"});
    let domain = || json!({"domain": "{name}.example"});
    vec![
        Row("GET", "/v1/me", none(), [200, 200, 200, 200]),
        Row("POST", "/v1/inboxes", none(), [403, 201, 201, 403]),
        Row(
            "POST",
            "/v1/inboxes",
            json!({"workspaceId": "{workspace}"}),
            [403, 201, 201, 403],
        ),
        Row(
            "POST",
            "/v1/inboxes",
            json!({"workspaceId": "{default_workspace}"}),
            [403, 201, 403, 403],
        ),
        Row("GET", "/v1/inboxes", none(), [403, 200, 200, 200]),
        Row(
            "GET",
            "/v1/inboxes?workspace={workspace}",
            none(),
            [403, 200, 200, 200],
        ),
        Row(
            "GET",
            "/v1/inboxes?workspace={default_workspace}",
            none(),
            [403, 200, 403, 403],
        ),
        Row("GET", "/v1/inboxes/{inbox}", none(), [403, 200, 200, 200]),
        Row("GET", "/v1/inboxes/{other_inbox}", none(), [403, 200, 404, 404]),
        Row(
            "PATCH",
            "/v1/inboxes/{inbox}",
            json!({"displayName": "x"}),
            [403, 200, 200, 403],
        ),
        // The same address four times: who comes second finds it added.
        Row(
            "POST",
            "/v1/inboxes/{inbox}/addresses",
            alias(),
            [403, 200, 201, 403],
        ),
        Row(
            "GET",
            "/v1/inboxes/{inbox}/addresses",
            none(),
            [403, 200, 200, 200],
        ),
        Row(
            "GET",
            "/v1/inboxes/{other_inbox}/addresses",
            none(),
            [403, 200, 404, 404],
        ),
        Row(
            "POST",
            "/v1/inboxes/{other_inbox}/addresses",
            alias(),
            [403, 409, 404, 403],
        ),
        Row(
            "DELETE",
            "/v1/inboxes/{other_inbox}/addresses/alias@inboxd.test",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "DELETE",
            "/v1/inboxes/{inbox}/addresses/alias@inboxd.test",
            none(),
            [403, 404, 200, 403],
        ),
        Row(
            "PATCH",
            "/v1/inboxes/{other_inbox}",
            json!({"displayName": "x"}),
            [403, 200, 404, 403],
        ),
        Row(
            "POST",
            "/v1/inboxes/{inbox}/rotate-password",
            none(),
            [403, 200, 200, 200],
        ),
        Row(
            "POST",
            "/v1/inboxes/{other_inbox}/rotate-password",
            none(),
            [403, 200, 404, 404],
        ),
        Row(
            "POST",
            "/v1/inboxes/{other_inbox}/rotate-key",
            none(),
            [403, 200, 404, 403],
        ),
        Row("POST", "/v1/domains", domain(), [403, 201, 201, 403]),
        Row(
            "POST",
            "/v1/domains",
            json!({"domain": "{name}-too.example", "workspaceId": "{default_workspace}"}),
            [403, 201, 403, 403],
        ),
        Row("GET", "/v1/domains", none(), [403, 200, 200, 403]),
        Row(
            "GET",
            "/v1/domains?workspace={default_workspace}",
            none(),
            [403, 200, 403, 403],
        ),
        Row("GET", "/v1/domains/{name}.example", none(), [403, 200, 200, 403]),
        Row(
            "GET",
            "/v1/domains/{name}-too.example",
            none(),
            [403, 200, 404, 403],
        ),
        Row(
            "GET",
            "/v1/domains/{name}.example/verify",
            none(),
            [403, 200, 200, 403],
        ),
        Row(
            "PATCH",
            "/v1/domains/{name}.example",
            json!({"catchAll": null}),
            [403, 200, 200, 403],
        ),
        Row(
            "POST",
            "/v1/domains/{name}.example/dkim/rotate",
            none(),
            [403, 200, 200, 403],
        ),
        Row(
            "POST",
            "/v1/domains/{name}.example/release",
            none(),
            [404, 403, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/domains/{name}-too.example",
            none(),
            [403, 200, 404, 403],
        ),
        Row(
            "POST",
            "/v1/workspaces",
            json!({"name": "new"}),
            [403, 201, 403, 403],
        ),
        Row("GET", "/v1/workspaces", none(), [403, 200, 403, 403]),
        Row("GET", "/v1/workspaces/{workspace}", none(), [403, 200, 403, 403]),
        Row(
            "PATCH",
            "/v1/workspaces/{workspace}",
            json!({"name": "x"}),
            [403, 200, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/workspaces/{default_workspace}",
            none(),
            [403, 409, 403, 403],
        ),
        Row(
            "POST",
            "/v1/workspaces/{workspace}/keys",
            none(),
            [403, 201, 403, 403],
        ),
        Row(
            "GET",
            "/v1/workspaces/{workspace}/keys",
            none(),
            [403, 200, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/workspaces/{workspace}/keys/{key}",
            none(),
            [403, 200, 403, 403],
        ),
        Row(
            "POST",
            "/v1/tenants",
            json!({"name": "new"}),
            [201, 403, 403, 403],
        ),
        Row("GET", "/v1/tenants", none(), [200, 403, 403, 403]),
        Row("GET", "/v1/tenants/{tenant}", none(), [200, 403, 403, 403]),
        Row(
            "PATCH",
            "/v1/tenants/{tenant}",
            json!({"suspended": false}),
            [200, 403, 403, 403],
        ),
        Row("POST", "/v1/tenants/{tenant}/keys", none(), [201, 201, 403, 403]),
        Row("GET", "/v1/tenants/{tenant}/keys", none(), [200, 200, 403, 403]),
        // The super admin revokes it; then there is none.
        Row(
            "DELETE",
            "/v1/tenants/{tenant}/keys/{tenant_key}",
            none(),
            [200, 404, 403, 403],
        ),
        // What takes away comes last. The calls of a row are made by ak, wk, sa, tk in this order: who comes after
        // the one that took something away finds nothing.
        Row(
            "DELETE",
            "/v1/inboxes/{other_inbox}",
            none(),
            [403, 200, 404, 403],
        ),
        Row("DELETE", "/v1/inboxes/{inbox}", none(), [403, 404, 200, 403]),
        Row(
            "DELETE",
            "/v1/workspaces/{workspace}",
            none(),
            [403, 200, 403, 401],
        ),
        Row("DELETE", "/v1/tenants/{tenant}", none(), [200, 401, 401, 401]),
    ]
}

/// The same calls on the other tenant's objects. The super admin's column is that of any tenant.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows_of_foreign() -> Vec<Row> {
    let none = || json!({});
    vec![
        Row(
            "POST",
            "/v1/inboxes",
            json!({"workspaceId": "{workspace}"}),
            [403, 404, 403, 403],
        ),
        Row(
            "POST",
            "/v1/inboxes",
            json!({"workspaceId": "{default_workspace}"}),
            [403, 404, 403, 403],
        ),
        Row(
            "GET",
            "/v1/inboxes?workspace={workspace}",
            none(),
            [403, 404, 403, 403],
        ),
        Row("GET", "/v1/inboxes/{inbox}", none(), [403, 404, 404, 404]),
        Row(
            "PATCH",
            "/v1/inboxes/{inbox}",
            json!({"displayName": "x"}),
            [403, 404, 404, 403],
        ),
        Row("DELETE", "/v1/inboxes/{inbox}", none(), [403, 404, 404, 403]),
        Row(
            "POST",
            "/v1/inboxes/{inbox}/rotate-password",
            none(),
            [403, 404, 404, 404],
        ),
        Row(
            "GET",
            "/v1/inboxes/{inbox}/addresses",
            none(),
            [403, 404, 404, 404],
        ),
        Row(
            "POST",
            "/v1/inboxes/{inbox}/addresses",
            json!({"email": "alias@inboxd.test"}),
            [403, 404, 404, 403],
        ),
        Row(
            "DELETE",
            "/v1/inboxes/{inbox}/addresses/zeta-inbox@inboxd.test",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "POST",
            "/v1/inboxes/{inbox}/rotate-key",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "POST",
            "/v1/domains",
            json!({"domain": "x.example", "workspaceId": "{workspace}"}),
            [403, 404, 403, 403],
        ),
        Row(
            "GET",
            "/v1/domains?workspace={workspace}",
            none(),
            [403, 404, 403, 403],
        ),
        Row("GET", "/v1/domains/{name}.example", none(), [403, 404, 404, 403]),
        Row(
            "GET",
            "/v1/domains/{name}.example/verify",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "GET",
            "/v1/domains/{name}.example/zone",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "PATCH",
            "/v1/domains/{name}.example",
            json!({"catchAll": null}),
            [403, 404, 404, 403],
        ),
        Row(
            "POST",
            "/v1/domains/{name}.example/dkim/rotate",
            none(),
            [403, 404, 404, 403],
        ),
        Row(
            "POST",
            "/v1/domains/{name}.example/release",
            none(),
            [404, 403, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/domains/{name}.example",
            none(),
            [403, 404, 404, 403],
        ),
        Row("GET", "/v1/workspaces/{workspace}", none(), [403, 404, 403, 403]),
        Row(
            "PATCH",
            "/v1/workspaces/{workspace}",
            json!({"name": "x"}),
            [403, 404, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/workspaces/{workspace}",
            none(),
            [403, 404, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/workspaces/{default_workspace}",
            none(),
            [403, 404, 403, 403],
        ),
        Row(
            "POST",
            "/v1/workspaces/{workspace}/keys",
            none(),
            [403, 404, 403, 403],
        ),
        Row(
            "GET",
            "/v1/workspaces/{workspace}/keys",
            none(),
            [403, 404, 403, 403],
        ),
        Row(
            "DELETE",
            "/v1/workspaces/{workspace}/keys/{key}",
            none(),
            [403, 404, 403, 403],
        ),
        Row("GET", "/v1/tenants/{tenant}", none(), [200, 403, 403, 403]),
        Row(
            "PATCH",
            "/v1/tenants/{tenant}",
            json!({"suspended": false}),
            [200, 403, 403, 403],
        ),
        Row("POST", "/v1/tenants/{tenant}/keys", none(), [201, 404, 403, 403]),
        Row("GET", "/v1/tenants/{tenant}/keys", none(), [200, 404, 403, 403]),
        Row(
            "DELETE",
            "/v1/tenants/{tenant}/keys/{tenant_key}",
            none(),
            [200, 404, 403, 403],
        ),
    ]
}

fn filled(text: &str, side: &Side) -> String {
    [
        ("{name}", &side.name),
        ("{tenant}", &side.tenant),
        ("{default_workspace}", &side.default_workspace),
        ("{workspace}", &side.workspace),
        ("{key}", &side.workspace_key_id),
        ("{tenant_key}", &side.tenant_key_id),
        ("{inbox}", &side.inbox),
        ("{other_inbox}", &side.other_inbox),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
}

async fn call(api: &Api, row: &Row, side: &Side) -> crate::support::api::Answer {
    let method = Method::from_bytes(row.0.as_bytes()).unwrap();
    let body = filled(&row.2.to_string(), side);
    api.send(api.request(method, &filled(row.1, side)).body(body))
        .await
}

/// With a hyphen: no password and no key has one, so what shows this name shows it.
const FOREIGN: &str = "zeta-corp";

on_both_databases! {
    async fn every_call_with_every_kind_of_key_on_own_objects(daemon) {
        let own = Side::new(&daemon, "acme", false).await;
        let foreign = Side::new(&daemon, FOREIGN, true).await;
        let sa = daemon.api(&daemon.super_admin);
        let mut wrong = Vec::new();
        let mut calls = 0;
        for row in rows_of_own() {
            // Narrow keys first: what a wider one takes away, they would miss.
            for (column, api) in [(3, &own.ak), (2, &own.wk), (0, &sa), (1, &own.tk)] {
                let answer = call(api, &row, &own).await;
                calls += 1;
                if answer.status != row.3[column] {
                    wrong.push(format!("{} {} column {column}: {} instead of {}", row.0, row.1, answer.status, row.3[column]));
                }
                if column != 0 {
                    for mark in &foreign.marks {
                        assert!(!answer.body.to_string().contains(mark.as_str()), "{} {} shows {mark}", row.0, row.1);
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        println!("{calls} calls on own objects");
    }

    async fn every_call_with_every_kind_of_key_on_foreign_objects(daemon) {
        let own = Side::new(&daemon, "acme", false).await;
        let foreign = Side::new(&daemon, FOREIGN, true).await;
        let sa = daemon.api(&daemon.super_admin);
        let mut wrong = Vec::new();
        let mut calls = 0;
        for row in rows_of_foreign() {
            for (column, api) in [(0, &sa), (1, &own.tk), (2, &own.wk), (3, &own.ak)] {
                let answer = call(api, &row, &foreign).await;
                calls += 1;
                if answer.status != row.3[column] {
                    wrong.push(format!("{} {} column {column}: {} instead of {}", row.0, row.1, answer.status, row.3[column]));
                }
                if column != 0 {
                    for mark in &foreign.marks {
                        assert!(!answer.body.to_string().contains(mark.as_str()), "{} {} shows {mark}", row.0, row.1);
                    }
                    // Somebody else's is byte for byte what never was.
                    let nobody = Side { name: "never".to_owned(), inbox: unknown(1), workspace: unknown(2), default_workspace: unknown(3), tenant: unknown(4),
                        workspace_key_id: unknown(5), tenant_key_id: unknown(7), other_inbox: unknown(6), marks: Vec::new(), tk: own.tk.clone(), wk: own.wk.clone(), ak: own.ak.clone() };
                    let never = call(api, &row, &nobody).await;
                    assert_eq!((never.status, &never.body), (answer.status, &answer.body), "{} {}", row.0, row.1);
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        println!("{calls} calls on foreign objects");
        // Nothing of it had an effect.
        assert_eq!(foreign.tk.get(&format!("/v1/inboxes/{}", foreign.inbox)).await.body["imapPassword"], foreign.marks[7]);
        assert_eq!(foreign.ak.get("/v1/me").await.status, 200);
        assert_eq!(foreign.wk.get("/v1/me").await.status, 200);
    }

    async fn every_call_needs_a_key(daemon) {
        let own = Side::new(&daemon, "acme", false).await;
        let never = inboxd::model::api_key::ApiKey::generate(inboxd::model::api_key::KeyKind::Tenant, &inboxd::clock::Machine);
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let revoked = {
            let keys = format!("/v1/workspaces/{}/keys", own.workspace);
            let made = own.tk.post(&keys, &json!({})).await;
            own.tk.delete(&format!("{keys}/{}", made.id())).await;
            made.text("key").to_owned()
        };
        let mistyped = own.tk.key.replace(&own.tk.key[10..11], if &own.tk.key[10..11] == "a" { "b" } else { "a" });
        for row in rows_of_own() {
            assert_eq!(call(&daemon.api(""), &row, &own).await.error(), (401, "MISSING_API_KEY"), "{} {}", row.0, row.1);
            for key in [never.expose(), &revoked, &mistyped, "x", "tk_", &own.tk.key[..own.tk.key.len() - 1]] {
                let answer = call(&daemon.api(key), &row, &own).await;
                assert_eq!(answer.error(), (401, "INVALID_API_KEY"), "{} {}", row.0, row.1);
                *refusals.entry(answer.body.to_string()).or_default() += 1;
            }
        }
        assert_eq!(refusals.len(), 1, "unknown, revoked and mistyped keys can be told apart: {refusals:?}");
    }

    async fn a_key_may_come_in_either_header_or_in_both(daemon) {
        let acme = daemon.tenant("Acme").await;
        let other = daemon.tenant("Other").await;
        let http = reqwest::Client::new();
        let get = async |headers: &[(&str, &str)]| {
            let request = http.get(format!("{}/v1/me", daemon.base));
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            request.send().await.unwrap().status().as_u16()
        };
        let (mine, bearer) = (acme.key.as_str(), format!("Bearer {}", acme.key));
        let foreign = format!("Bearer {}", other.key);
        assert_eq!(get(&[("X-API-Key", mine)]).await, 200);
        assert_eq!(get(&[("Authorization", &bearer)]).await, 200);
        assert_eq!(get(&[("X-API-Key", mine), ("Authorization", &bearer)]).await, 200);
        assert_eq!(get(&[("X-API-Key", mine), ("Authorization", &foreign)]).await, 401);
        assert_eq!(get(&[("X-API-Key", mine), ("X-API-Key", &other.key)]).await, 401);
        // Another scheme is for a proxy in front.
        assert_eq!(get(&[("X-API-Key", mine), ("Authorization", "Basic eDp5")]).await, 200);
        assert_eq!(get(&[("X-API-Key", mine), ("Authorization", "Bearer")]).await, 401);
        assert_eq!(get(&[("X-API-Key", mine), ("Authorization", "Bearer ")]).await, 401);
        assert_eq!(get(&[("Authorization", "Basic eDp5")]).await, 401);
        assert_eq!(get(&[("X-API-Key", "")]).await, 401);
        assert_eq!(get(&[("Authorization", mine)]).await, 401);
    }
}

/// An id that nothing has.
fn unknown(number: u8) -> String {
    format!("01900000-0000-7000-8000-0000000000{number:02x}")
}
