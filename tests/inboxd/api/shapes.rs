//! Whole answers, as snapshots: what a caller's parser meets.

use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Database};

/// Ids, times and secrets differ from run to run; everything else is kept to the letter.
fn settled(mut value: Value) -> Value {
    fn settle(value: &mut Value, name: &str) {
        match value {
            Value::Object(object) => object.iter_mut().for_each(|(name, value)| settle(value, name)),
            Value::Array(list) => list.iter_mut().for_each(|value| settle(value, name)),
            Value::String(text) if uuid::Uuid::parse_str(text).is_ok() => *text = "[uuid]".to_owned(),
            Value::String(text) if ["imapPassword", "password"].contains(&name) => {
                *text = format!("[{} characters]", text.len());
            }
            Value::String(text) if ["apiKey", "key", "prefix"].contains(&name) => {
                *text = format!("{}[{}]", &text[..3], text.len());
            }
            Value::String(text) if ["createdAt", "updatedAt"].contains(&name) => *text = "[time]".to_owned(),
            // A DKIM key, its selector, and a challenge.
            Value::String(text) if name == "name" && text.contains("._domainkey.") => {
                *text = format!("{}[random]._domainkey.acme.example", &text[..4]);
            }
            Value::String(text)
                if name == "value" && text.contains("p=M") || text.starts_with("v=DKIM1; k=ed") =>
            {
                *text = format!("[{} characters]", text.len());
            }
            Value::String(text) if name == "value" && text.starts_with("inboxd-verify=") => {
                *text = format!("inboxd-verify=[{} characters]", text.len());
            }
            _ => {}
        }
    }
    settle(&mut value, "");
    value
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list")]
async fn every_answer_has_its_shape() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let admin = daemon.api(&daemon.super_admin);
    let tenant = admin
        .post("/v1/tenants", &json!({"name": "Acme", "limits": {"inboxes": 3}}))
        .await;
    let acme = daemon.api(tenant.text("key"));
    let other = daemon.tenant("Other").await;
    let made = acme
        .post(
            "/v1/inboxes",
            &json!({"username": "scout", "displayName": "Scout"}),
        )
        .await;
    let inbox = format!("/v1/inboxes/{}", made.id());
    let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
    let keys = format!("/v1/workspaces/{}/keys", workspace.id());
    let mut answers = serde_json::Map::new();
    let mut keep = |name: &str, answer: crate::support::api::Answer| {
        answers.insert(format!("{name} -> {}", answer.status), settled(answer.body));
    };
    keep("POST tenant", tenant);
    keep("POST inbox, new", made);
    keep(
        "POST inbox, again",
        acme.post("/v1/inboxes", &json!({"username": "scout"})).await,
    );
    keep(
        "POST inbox, strict",
        other
            .post("/v1/inboxes?strict=true", &json!({"username": "scout"}))
            .await,
    );
    keep(
        "POST inbox, invalid",
        acme.post("/v1/inboxes", &json!({"username": "Scout"})).await,
    );
    keep(
        "POST inbox, reserved",
        acme.post("/v1/inboxes", &json!({"username": "root"})).await,
    );
    keep(
        "POST inbox, foreign domain",
        acme.post("/v1/inboxes", &json!({"domain": "example.org"})).await,
    );
    acme.post("/v1/inboxes", &json!({})).await;
    acme.post("/v1/inboxes", &json!({})).await;
    keep("POST inbox, limit", acme.post("/v1/inboxes", &json!({})).await);
    keep("GET inboxes", acme.get("/v1/inboxes?username=scout").await);
    keep("GET inbox", acme.get(&inbox).await);
    keep("GET inbox, foreign", other.get(&inbox).await);
    keep(
        "PATCH inbox",
        acme.patch(&inbox, &json!({"metadata": {"a": 1}})).await,
    );
    keep(
        "POST rotate-password",
        acme.post(&format!("{inbox}/rotate-password"), &json!({})).await,
    );
    keep(
        "POST rotate-key",
        acme.post(&format!("{inbox}/rotate-key"), &json!({})).await,
    );
    let tenant_keys = format!("/v1/tenants/{}/keys", acme.get("/v1/me").await.text("tenantId"));
    keep(
        "POST tenant key",
        acme.post(&tenant_keys, &json!({"name": "CI"})).await,
    );
    keep("GET tenant keys", acme.get(&tenant_keys).await);
    let addresses = format!("{inbox}/addresses");
    let alias = json!({"email": "desk@inboxd.test"});
    keep("POST address", acme.post(&addresses, &alias).await);
    keep("POST address, again", acme.post(&addresses, &alias).await);
    keep("GET addresses", acme.get(&addresses).await);
    keep(
        "DELETE address, canonical",
        acme.delete(&format!("{addresses}/scout@inboxd.test")).await,
    );
    keep(
        "DELETE address",
        acme.delete(&format!("{addresses}/desk@inboxd.test")).await,
    );
    keep("DELETE inbox", acme.delete(&inbox).await);
    keep(
        "POST domain",
        acme.post("/v1/domains", &json!({"domain": "acme.example"})).await,
    );
    keep("GET domains", acme.get("/v1/domains").await);
    keep("DELETE domain", acme.delete("/v1/domains/acme.example").await);
    keep("POST workspace", workspace);
    keep("GET workspaces", acme.get("/v1/workspaces").await);
    keep("POST key", acme.post(&keys, &json!({"name": "CI"})).await);
    keep("GET keys", acme.get(&keys).await);
    keep("GET tenants", admin.get("/v1/tenants?limit=1").await);
    keep("GET me, tenant", acme.get("/v1/me").await);
    keep("GET me, super admin", admin.get("/v1/me").await);
    keep("no key", daemon.api("").get("/v1/me").await);
    keep("wrong key", daemon.api("x").get("/v1/me").await);
    keep("wrong kind", acme.get("/v1/tenants").await);
    keep("no such call", acme.get("/v1/nothing").await);
    keep(
        "no such method",
        acme.send(acme.request(Method::PUT, "/v1/me")).await,
    );
    if let Some(cursor) = answers["GET tenants -> 200"].pointer_mut("/pagination/nextCursor") {
        *cursor = json!("[cursor]");
    }
    assert_json_snapshot!(Value::Object(answers));
}
