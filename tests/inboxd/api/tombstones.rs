//! Addresses that were given up: who gets them, and how many a tenant keeps from others.

use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{Daemon, Database},
};

/// A workspace of a tenant: its id, and a caller with a key of its own.
async fn workspace(daemon: &Daemon, tenant: &Api, name: &str) -> (String, Api) {
    let made = tenant.post("/v1/workspaces", &json!({"name": name})).await;
    let key = tenant
        .post(&format!("/v1/workspaces/{}/keys", made.id()), &json!({}))
        .await;
    (made.id().to_owned(), daemon.api(key.text("key")))
}

async fn ask(api: &Api, body: Value) -> Answer {
    api.post("/v1/inboxes?strict=true", &body).await
}

async fn inbox(api: &Api, username: &str) -> String {
    let made = ask(api, json!({"username": username})).await;
    assert_eq!(made.status, 201, "{made:?}");
    format!("/v1/inboxes/{}", made.id())
}

async fn add(api: &Api, inbox: &str, local_part: &str, workspace: Option<&str>) -> Answer {
    let mut body = json!({"email": format!("{local_part}@inboxd.test"), "primary": false});
    if let Some(workspace) = workspace {
        body["workspaceId"] = json!(workspace);
    }
    api.post(&format!("{inbox}/addresses"), &body).await
}

async fn remove(api: &Api, inbox: &str, local_part: &str) {
    let path = format!("{inbox}/addresses/{local_part}@inboxd.test");
    assert_eq!(api.delete(&path).await.status, 200);
}

on_both_databases! {
    async fn what_a_workspace_gave_up_is_its_own(daemon) {
        let (reseller, other) = (daemon.tenant("Reseller").await, daemon.tenant("Other").await);
        let (a_id, a) = workspace(&daemon, &reseller, "Customer A").await;
        let (b_id, b) = workspace(&daemon, &reseller, "Customer B").await;
        let (ceo, own, of_b) = (inbox(&a, "ceo").await, inbox(&a, "own").await, inbox(&b, "of-b").await);
        assert_eq!(add(&a, &own, "desk", None).await.status, 201);
        remove(&a, &own, "desk").await;
        assert_eq!(a.delete(&ceo).await.status, 200);

        // Neither the sibling, nor another tenant, nor the tenant without saying so.
        for api in [&b, &other, &reseller] {
            for name in ["ceo", "desk"] {
                assert_eq!(ask(api, json!({"username": name})).await.error(), (409, "USERNAME_TAKEN"));
            }
        }
        for (api, workspace) in [(&b, None), (&b, Some(b_id.as_str())), (&reseller, None)] {
            for name in ["ceo", "desk"] {
                assert_eq!(add(api, &of_b, name, workspace).await.error(), (409, "ADDRESS_TAKEN"));
            }
        }
        let numbered = b.post("/v1/inboxes", &json!({"username": "ceo"})).await;
        assert_eq!(numbered.text("username"), "ceo1");
        // Else it would be the inbox that was asked for under this name (rule 2).
        assert_eq!(b.delete(&format!("/v1/inboxes/{}", numbered.id())).await.status, 200);
        // Who says another workspace than the inbox's is refused.
        let wrong = add(&reseller, &of_b, "desk", Some(&a_id)).await;
        assert_eq!((wrong.error(), &wrong.body["field"]), ((400, "VALIDATION_ERROR"), &json!("workspaceId")));
        assert_eq!(add(&b, &of_b, "desk", Some(&a_id)).await.error(), (403, "FORBIDDEN"));

        // The workspace itself at once, each as the other kind of address.
        let again = ask(&a, json!({"username": "desk"})).await;
        assert_eq!(again.status, 201);
        assert_eq!(add(&a, &own, "ceo", None).await.status, 201);
        remove(&a, &own, "ceo").await;
        assert_eq!(a.delete(&format!("/v1/inboxes/{}", again.id())).await.status, 200);

        // And the tenant gives them to another workspace by saying so; then they are that one's.
        let given = ask(&reseller, json!({"username": "ceo", "workspaceId": b_id})).await;
        assert_eq!((given.status, given.text("workspaceId")), (201, b_id.as_str()));
        assert_eq!(add(&reseller, &of_b, "desk", Some(&b_id)).await.status, 201);
        remove(&b, &of_b, "desk").await;
        assert_eq!(ask(&a, json!({"username": "desk"})).await.error(), (409, "USERNAME_TAKEN"));
        assert_eq!(ask(&b, json!({"username": "desk"})).await.status, 201);
    }

    async fn what_a_deleted_workspace_had_is_the_tenants(daemon) {
        let (reseller, other) = (daemon.tenant("Reseller").await, daemon.tenant("Other").await);
        let (a_id, a) = workspace(&daemon, &reseller, "Customer A").await;
        let (b_id, b) = workspace(&daemon, &reseller, "Customer B").await;
        inbox(&a, "ceo").await;
        assert_eq!(reseller.delete(&format!("/v1/workspaces/{a_id}")).await.status, 200);
        for api in [&b, &other, &reseller] {
            assert_eq!(ask(api, json!({"username": "ceo"})).await.error(), (409, "USERNAME_TAKEN"));
        }
        let given = ask(&reseller, json!({"username": "ceo", "workspaceId": b_id})).await;
        assert_eq!(given.status, 201);
    }

    async fn what_a_deleted_tenant_had_is_no_ones(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.post("/v1/tenants", &json!({"name": "Gone"})).await;
        let (gone, other) = (daemon.api(tenant.text("key")), daemon.tenant("Other").await);
        inbox(&gone, "ceo").await;
        assert_eq!(admin.delete(&format!("/v1/tenants/{}", tenant.id())).await.status, 200);
        assert_eq!(ask(&other, json!({"username": "ceo"})).await.error(), (409, "USERNAME_TAKEN"));
    }

    async fn a_tenant_keeps_no_more_names_than_its_plan_allows_inboxes(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let other = daemon.tenant("Other").await;
        for (name, inboxes, kept) in [("small", 1, 10), ("large", 12, 12)] {
            let limits = json!({"name": name, "limits": {"inboxes": inboxes}});
            let squatter = daemon.api(admin.post("/v1/tenants", &limits).await.text("key"));
            let own = inbox(&squatter, &format!("{name}-own")).await;
            // The last ones stay: aliases, and inboxes, which count alike.
            let names: Vec<String> = (0..kept + 5).map(|number| format!("{name}-{number}")).collect();
            for (number, alias) in names.iter().enumerate() {
                if number % 2 == 0 || inboxes == 1 {
                    assert_eq!(add(&squatter, &own, alias, None).await.status, 201);
                    remove(&squatter, &own, alias).await;
                } else {
                    let made = inbox(&squatter, alias).await;
                    assert_eq!(squatter.delete(&made).await.status, 200);
                }
            }
            for (number, alias) in names.iter().enumerate() {
                let asked = ask(&other, json!({"username": alias})).await;
                let expected = if number < 5 { 201 } else { 409 };
                assert_eq!(asked.status, expected, "{alias}: {asked:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_operator_sets_the_most_that_any_tenant_keeps() {
    let extra = "service.tombstones_per_tenant = 2";
    let daemon = Daemon::with_config(Database::Sqlite, Folder::new(), extra).await;
    let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
    let second = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
    for name in ["a", "b", "c", "d"] {
        let asked = ask(&acme, json!({"username": name, "workspaceId": second.id()})).await;
        assert_eq!(asked.status, 201);
    }
    // All at once, with their workspace.
    let path = format!("/v1/workspaces/{}", second.id());
    assert_eq!(acme.delete(&path).await.status, 200);
    let mut kept = 0;
    for name in ["a", "b", "c", "d"] {
        let asked = ask(&other, json!({"username": name})).await;
        kept += u32::from(asked.status == 409);
    }
    assert_eq!(kept, 2);
}
