//! Tenants, by the super admin.

use serde_json::json;

use super::on_both_databases;

on_both_databases! {
    async fn a_tenant_comes_with_a_workspace_and_a_key(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme", "limits": {"inboxes": 5, "domains": null}})).await;
        assert_eq!(made.status, 201);
        assert_eq!(made.body["limits"], json!({"inboxes": 5, "domains": null, "workspaces": null}));
        assert!(made.text("key").starts_with("tk_"));
        let acme = daemon.api(made.text("key"));
        let me = acme.get("/v1/me").await;
        assert_eq!((&me.body["kind"], &me.body["tenantId"]), (&json!("tenant"), &made.body["id"]));
        let workspaces = acme.get("/v1/workspaces").await;
        assert_eq!(workspaces.body["workspaces"][0]["id"], made.body["defaultWorkspaceId"]);
        assert_eq!(workspaces.body["workspaces"][0]["isDefault"], true);
        let read = admin.get(&format!("/v1/tenants/{}", made.id())).await;
        assert!(read.body.get("key").is_none());
        assert_eq!((&read.body["name"], &read.body["suspended"], &read.body["inboxCount"]), (&json!("Acme"), &json!(false), &json!(0)));
    }

    async fn names_and_limits_are_checked(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        for (body, field) in [
            (json!({}), "name"), (json!({"name": ""}), "name"), (json!({"name": "a\nb"}), "name"), (json!({"name": 1}), "name"),
            (json!({"name": null}), "name"),
            (json!({"name": "x", "limits": {"inboxes": -1}}), "limits.inboxes"),
            (json!({"name": "x", "limits": {"inboxes": 1.5}}), "limits.inboxes"),
            (json!({"name": "x", "limits": {"inboxes": "1"}}), "limits.inboxes"),
            (json!({"name": "x", "limits": []}), "limits"),
        ] {
            let refused = admin.post("/v1/tenants", &body).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{body}");
            assert_eq!(refused.body["field"], field, "{body}: {refused:?}");
        }
        assert_eq!(admin.get("/v1/tenants").await.body["tenants"], json!([]));
    }

    async fn limits_and_names_change_what_is_given(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme", "limits": {"inboxes": 5, "workspaces": 2}})).await;
        let path = format!("/v1/tenants/{}", made.id());
        let changed = admin.patch(&path, &json!({"limits": {"inboxes": null, "domains": 3}})).await;
        assert_eq!((changed.status, &changed.body), (200, &json!({"updated": true, "id": made.id()})));
        assert_eq!(admin.get(&path).await.body["limits"], json!({"inboxes": null, "domains": 3, "workspaces": 2}));
        admin.patch(&path, &json!({"name": "New"})).await;
        let read = admin.get(&path).await;
        assert_eq!((read.text("name"), &read.body["limits"]["domains"]), ("New", &json!(3)));
    }

    async fn lists_are_paged_newest_first(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        for number in 0..5 {
            admin.post("/v1/tenants", &json!({"name": format!("T{number}")})).await;
        }
        let first = admin.get("/v1/tenants?limit=3").await;
        let cursor = first.body["pagination"]["nextCursor"].as_str().unwrap();
        let second = admin.get(&format!("/v1/tenants?limit=3&cursor={cursor}")).await;
        let both = [first.body["tenants"].as_array().unwrap().clone(), second.body["tenants"].as_array().unwrap().clone()].concat();
        let names: Vec<&str> = both.iter().map(|tenant| tenant["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["T4", "T3", "T2", "T1", "T0"]);
        assert!(second.body["pagination"]["nextCursor"].is_null());
    }

    async fn a_suspended_tenant_is_refused_until_it_is_resumed(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(made.text("key"));
        let inbox = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let own = daemon.api(inbox.text("apiKey"));
        let entry = daemon.maps().join("passdb/inboxd.test/scout");
        let open = std::fs::read_to_string(&entry).unwrap();
        let path = format!("/v1/tenants/{}", made.id());
        assert_eq!(admin.patch(&path, &json!({"suspended": true})).await.status, 200);
        for api in [&acme, &own] {
            assert_eq!(api.get("/v1/inboxes").await.error(), (403, "TENANT_SUSPENDED"));
        }
        assert!(std::fs::read_to_string(&entry).unwrap().starts_with("scout@inboxd.test:*:"));
        assert_eq!(admin.get(&path).await.body["suspended"], true);
        assert_eq!(admin.patch(&path, &json!({"suspended": false})).await.status, 200);
        assert_eq!(acme.get("/v1/inboxes").await.status, 200);
        // The same password, and a submission session from before is another login's.
        let [before, after] = [1, 2].map(|generation| format!(":{}.{generation}:", inbox.id()));
        assert!(open.contains(&before), "{open}");
        assert_eq!(std::fs::read_to_string(&entry).unwrap(), open.replace(&before, &after));
    }

    async fn a_deleted_tenant_takes_everything_with_it(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let made = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(made.text("key"));
        let inbox = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let path = format!("/v1/tenants/{}", made.id());
        assert_eq!(admin.delete(&path).await.body, json!({"deleted": true, "id": made.id()}));
        assert!(!daemon.maps().join("passdb/inboxd.test/scout").exists());
        assert_eq!(acme.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(daemon.api(inbox.text("apiKey")).get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(admin.get(&path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(admin.delete(&path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(admin.patch(&path, &json!({"name": "x"})).await.error(), (404, "NOT_FOUND"));
        assert_eq!(admin.get("/v1/tenants").await.body["tenants"], json!([]));
        // Its address is kept from others for a time.
        let other = daemon.tenant("Other").await;
        assert_eq!(other.post("/v1/inboxes", &json!({"username": "scout"})).await.text("username"), "scout1");
    }
}
