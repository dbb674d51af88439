//! Workspaces and their keys, by their tenant.

use serde_json::json;

use super::on_both_databases;

on_both_databases! {
    async fn a_workspace_gets_a_slug_from_its_name(daemon) {
        let acme = daemon.tenant("Acme").await;
        let made = acme.post("/v1/workspaces", &json!({"name": "Acme Corp"})).await;
        assert_eq!((made.status, made.text("slug"), &made.body["isDefault"]), (201, "acme-corp", &json!(false)));
        assert_eq!((&made.body["inboxCount"], &made.body["domainCount"]), (&json!(0), &json!(0)));
        assert_eq!(acme.post("/v1/workspaces", &json!({"name": "ACME corp!"})).await.text("slug"), "acme-corp-2");
        assert_eq!(acme.post("/v1/workspaces", &json!({"name": "x", "slug": "own"})).await.text("slug"), "own");
        assert_eq!(acme.post("/v1/workspaces", &json!({"name": "x", "slug": "own"})).await.error(), (409, "SLUG_TAKEN"));
        // Slugs are per tenant.
        let other = daemon.tenant("Other").await;
        assert_eq!(other.post("/v1/workspaces", &json!({"name": "x", "slug": "own"})).await.status, 201);
        for (body, field) in [(json!({}), "name"), (json!({"name": " "}), "name"), (json!({"name": "x", "slug": "A"}), "slug")] {
            let refused = acme.post("/v1/workspaces", &body).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!(field)));
        }
    }

    async fn the_number_of_workspaces_is_capped(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Small", "limits": {"workspaces": 2}})).await;
        let small = daemon.api(made.text("key"));
        let second = small.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let refused = small.post("/v1/workspaces", &json!({"name": "Third"})).await;
        assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
        assert_eq!((&refused.body["limit"], &refused.body["current"], &refused.body["max"]), (&json!("workspaces"), &json!(2), &json!(2)));
        small.delete(&format!("/v1/workspaces/{}", second.id())).await;
        assert_eq!(small.post("/v1/workspaces", &json!({"name": "Third"})).await.status, 201);
    }

    async fn name_and_slug_change(daemon) {
        let acme = daemon.tenant("Acme").await;
        let path = format!("/v1/workspaces/{}", acme.post("/v1/workspaces", &json!({"name": "Second"})).await.id());
        assert_eq!(acme.patch(&path, &json!({"name": "New", "slug": "new"})).await.status, 200);
        let read = acme.get(&path).await;
        assert_eq!((read.text("name"), read.text("slug")), ("New", "new"));
        assert_eq!(acme.patch(&path, &json!({"slug": "default"})).await.error(), (409, "SLUG_TAKEN"));
        assert_eq!(acme.patch(&path, &json!({"slug": "new"})).await.status, 200);
        assert_eq!(acme.patch(&path, &json!({})).await.error(), (400, "VALIDATION_ERROR"));
        assert_eq!(acme.patch(&path, &json!({"name": ""})).await.error(), (400, "VALIDATION_ERROR"));
    }

    async fn a_deleted_workspace_takes_its_inboxes_and_keys_with_it(daemon) {
        let acme = daemon.tenant("Acme").await;
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let path = format!("/v1/workspaces/{}", workspace.id());
        let key = acme.post(&format!("{path}/keys"), &json!({"name": "CI"})).await;
        let inside = daemon.api(key.text("key"));
        let inbox = inside.post("/v1/inboxes", &json!({"username": "scout"})).await;
        assert_eq!(acme.get(&path).await.body["inboxCount"], 1);
        assert_eq!(acme.delete(&path).await.body, json!({"deleted": true, "id": workspace.id()}));
        assert!(!daemon.maps().join("passdb/inboxd.test/scout").exists());
        assert_eq!(inside.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(daemon.api(inbox.text("apiKey")).get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(acme.get(&path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(acme.delete(&path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(acme.get("/v1/inboxes").await.body["inboxes"], json!([]));
        let me = acme.get("/v1/me").await;
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.get(&format!("/v1/tenants/{}", me.text("tenantId"))).await;
        assert_eq!((&tenant.body["inboxCount"], &tenant.body["workspaceCount"]), (&json!(0), &json!(1)));
    }

    async fn the_default_workspace_stays(daemon) {
        let acme = daemon.tenant("Acme").await;
        let default = acme.get("/v1/workspaces").await.body["workspaces"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(acme.delete(&format!("/v1/workspaces/{default}")).await.error(), (409, "DEFAULT_WORKSPACE"));
        assert_eq!(acme.get(&format!("/v1/workspaces/{default}")).await.status, 200);
    }

    async fn keys_are_shown_once_listed_and_revoked(daemon) {
        let acme = daemon.tenant("Acme").await;
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let path = format!("/v1/workspaces/{}/keys", workspace.id());
        let made = acme.post(&path, &json!({"name": "CI"})).await;
        assert_eq!((made.status, made.text("name"), made.text("workspaceId")), (201, "CI", workspace.id()));
        assert!(made.text("key").starts_with("wk_") && made.text("key").starts_with(made.text("prefix")));
        let unnamed = acme.send(acme.request(reqwest::Method::POST, &path)).await;
        assert_eq!((unnamed.status, unnamed.text("name")), (201, ""));
        let list = acme.get(&path).await;
        assert!(!list.body.to_string().contains(made.text("key")));
        let ids: Vec<&str> = list.body["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [unnamed.id(), made.id()]);
        let inside = daemon.api(made.text("key"));
        assert_eq!(inside.get("/v1/me").await.body["workspaceId"], workspace.id());
        let revoked = acme.delete(&format!("{path}/{}", made.id())).await;
        assert_eq!((revoked.status, &revoked.body), (200, &json!({"revoked": true, "id": made.id()})));
        assert_eq!(inside.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(acme.delete(&format!("{path}/{}", made.id())).await.error(), (404, "NOT_FOUND"));
        assert_eq!(acme.get(&path).await.body["keys"].as_array().unwrap().len(), 1);
    }
}
