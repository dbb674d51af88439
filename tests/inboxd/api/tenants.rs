//! Tenants, by the super admin.

use serde_json::json;

use super::on_both_databases;
use crate::support::api::Answer;

/// What a list shows of keys.
fn ids(list: &Answer) -> Vec<&str> {
    let keys = list.body["keys"].as_array().unwrap();
    keys.iter().map(|key| key["id"].as_str().unwrap()).collect()
}

on_both_databases! {
    async fn the_keys_of_a_tenant_are_made_listed_and_revoked(daemon) {
        let admin = daemon.api(&daemon.super_admin);
        let tenant = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
        let acme = daemon.api(tenant.text("key"));
        let path = format!("/v1/tenants/{}/keys", tenant.id());
        // Neither the keys of its workspaces nor those of its inboxes are among them.
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        assert_eq!(acme.post(&format!("/v1/workspaces/{}/keys", workspace.id()), &json!({})).await.status, 201);
        assert_eq!(acme.post("/v1/inboxes", &json!({"username": "scout"})).await.status, 201);
        let first = acme.get(&path).await;
        assert_eq!(ids(&first).len(), 1);
        assert!(tenant.text("key").starts_with(first.body["keys"][0]["prefix"].as_str().unwrap()));

        // Alone it cannot be revoked by itself.
        let only = ids(&first)[0].to_owned();
        assert_eq!(acme.delete(&format!("{path}/{only}")).await.error(), (409, "LAST_KEY"));
        let made = acme.post(&path, &json!({"name": "CI"})).await;
        assert_eq!((made.status, made.text("name"), made.text("tenantId")), (201, "CI", tenant.id()));
        assert_eq!(made.headers["cache-control"], "no-store");
        let second = daemon.api(made.text("key"));
        assert_eq!(second.get("/v1/me").await.body["tenantId"], tenant.id());
        let by_admin = admin.send(admin.request(reqwest::Method::POST, &path)).await;
        assert_eq!((by_admin.status, by_admin.text("name")), (201, ""));
        let list = admin.get(&path).await;
        assert_eq!(ids(&list), [by_admin.id(), made.id(), &only]);
        for key in [tenant.text("key"), made.text("key"), by_admin.text("key")] {
            assert!(!list.body.to_string().contains(key), "a list shows a key");
        }

        // Revoked, a key is refused at once, and by no other call.
        let revoked = second.delete(&format!("{path}/{only}")).await;
        assert_eq!((revoked.status, &revoked.body), (200, &json!({"revoked": true, "id": only})));
        assert_eq!(acme.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(second.delete(&format!("{path}/{only}")).await.error(), (404, "NOT_FOUND"));
        assert_eq!(second.delete(&format!("{path}/{}", by_admin.id())).await.status, 200);
        assert_eq!(second.delete(&format!("{path}/{}", made.id())).await.error(), (409, "LAST_KEY"));
        // A workspace's key is none of the tenant's.
        let wk = second.post(&format!("/v1/workspaces/{}/keys", workspace.id()), &json!({})).await;
        assert_eq!(second.delete(&format!("{path}/{}", wk.id())).await.error(), (404, "NOT_FOUND"));
        // The super admin may take the last one, and make another.
        assert_eq!(admin.delete(&format!("{path}/{}", made.id())).await.status, 200);
        assert_eq!(second.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(ids(&admin.get(&path).await), [""; 0]);
        assert_eq!(admin.post(&path, &json!({})).await.status, 201);
        assert_eq!(admin.delete(&format!("/v1/tenants/{}", tenant.id())).await.status, 200);
        assert_eq!(admin.get(&path).await.error(), (404, "NOT_FOUND"));
        assert_eq!(admin.post(&path, &json!({})).await.error(), (404, "NOT_FOUND"));
    }

    async fn two_keys_that_revoke_each_other_leave_one(daemon) {
        let acme = daemon.tenant("Acme").await;
        let id = acme.get("/v1/me").await.text("tenantId").to_owned();
        let path = format!("/v1/tenants/{id}/keys");
        let made = acme.post(&path, &json!({})).await;
        let other = daemon.api(made.text("key"));
        let list = acme.get(&path).await;
        let (one, two) = (format!("{path}/{}", ids(&list)[0]), format!("{path}/{}", ids(&list)[1]));
        let both = futures_util::future::join(acme.delete(&one), other.delete(&two)).await;
        assert!(both.0.status == 200 || both.1.status == 200, "{both:?}");
        let left = daemon.api(&daemon.super_admin).get(&path).await;
        assert_eq!(ids(&left).len(), 1, "{both:?}");
    }

    async fn the_number_of_keys_is_capped(daemon) {
        let acme = daemon.tenant("Acme").await;
        let id = acme.get("/v1/me").await.text("tenantId").to_owned();
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        for (path, there) in [
            (format!("/v1/tenants/{id}/keys"), 1),
            (format!("/v1/workspaces/{}/keys", workspace.id()), 0),
        ] {
            for _ in there..100 {
                assert_eq!(acme.post(&path, &json!({})).await.status, 201);
            }
            let refused = acme.post(&path, &json!({})).await;
            assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
            assert_eq!((&refused.body["limit"], &refused.body["current"], &refused.body["max"]), (&json!("keys"), &json!(100), &json!(100)));
            let list = acme.get(&path).await;
            assert_eq!(acme.delete(&format!("{path}/{}", ids(&list)[0])).await.status, 200);
            assert_eq!(acme.post(&path, &json!({})).await.status, 201);
        }
    }

    async fn keys_are_managed_on_the_command_line(daemon) {
        let acme = daemon.tenant("Acme").await;
        let id = acme.get("/v1/me").await.text("tenantId").to_owned();
        let run = async |arguments: &[&str]| daemon.command(arguments).await;
        let words = |text: &str| text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect::<Vec<Vec<String>>>();

        // A super admin's: the one of the test, and another one that is revoked.
        let (status, made) = run(&["keys", "create", "--super-admin"]).await;
        assert_eq!(status, 0, "{made}");
        let second = daemon.api(made.trim());
        assert_eq!(second.get("/v1/tenants").await.status, 200);
        let (status, listed) = run(&["keys", "list"]).await;
        let listed = words(&listed);
        assert_eq!((status, listed.len()), (0, 2), "{listed:?}");
        assert_eq!(listed[0][1], format!("{}...", &made[..8]));
        assert!(listed[0][2].ends_with('Z'), "{listed:?}");
        assert_eq!(run(&["keys", "revoke", &listed[0][0]]).await, (0, format!("revoked {}\n", listed[0][0])));
        assert_eq!(second.get("/v1/tenants").await.error(), (401, "INVALID_API_KEY"));
        let (status, complaint) = run(&["keys", "revoke", &listed[0][0]]).await;
        assert_eq!((status, complaint.as_str()), (1, "inboxd: there is no such key in force\n"));

        // A tenant's, with a name.
        let (status, made) = run(&["keys", "create", "--tenant", &id, "--name", "back end"]).await;
        assert_eq!(status, 0, "{made}");
        assert_eq!(daemon.api(made.trim()).get("/v1/me").await.body["tenantId"], id.as_str());
        let (_, listed) = run(&["keys", "list", "--tenant", &id]).await;
        assert!(listed.lines().next().unwrap().ends_with("  back end"), "{listed}");
        assert!(!listed.contains(made.trim()));
        for line in words(&listed) {
            assert_eq!(run(&["keys", "revoke", &line[0]]).await.0, 0);
        }
        assert_eq!(acme.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        for arguments in [
            &["keys", "list", "--tenant", "01900000-0000-7000-8000-000000000000"][..],
            &["keys", "create", "--tenant", "01900000-0000-7000-8000-000000000000"],
        ] {
            assert_eq!(run(arguments).await, (1, "inboxd: there is no such tenant\n".to_owned()));
        }
        for arguments in [&["keys", "create"][..], &["keys", "create", "--super-admin", "--tenant", &id]] {
            assert_eq!(run(arguments).await.0, 2, "{arguments:?}");
        }
        // The last super admin key may go, since this command makes another.
        let (_, listed) = run(&["keys", "list"]).await;
        assert_eq!(run(&["keys", "revoke", &words(&listed)[0][0]]).await.0, 0);
        let (_, made) = run(&["keys", "create", "--super-admin"]).await;
        assert_eq!(daemon.api(made.trim()).get("/v1/tenants").await.status, 200);
    }

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
