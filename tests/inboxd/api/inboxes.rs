//! Inboxes that exist: list, read, change, delete, rotate.

use serde_json::{Value, json};

use super::on_both_databases;
use crate::support::{
    Folder,
    api::Api,
    daemon::{Daemon, Database},
};

async fn create(api: &Api, username: &str) -> Value {
    let made = api.post("/v1/inboxes", &json!({"username": username})).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.body
}

fn path_of(inbox: &Value) -> String {
    format!("/v1/inboxes/{}", inbox["id"].as_str().unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["inboxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|inbox| inbox["username"].as_str().unwrap())
        .collect()
}

on_both_databases! {
    async fn get_shows_the_password_and_a_list_does_not(daemon) {
        let acme = daemon.tenant("Acme").await;
        let made = create(&acme, "scout").await;
        let own = daemon.api(made["apiKey"].as_str().unwrap());
        for api in [&acme, &own] {
            let read = api.get(&path_of(&made)).await;
            assert_eq!(read.status, 200);
            assert_eq!(read.headers["cache-control"], "no-store");
            let mut expected = made.clone();
            expected.as_object_mut().unwrap().remove("apiKey");
            assert_eq!(read.body, expected);
            let list = api.get("/v1/inboxes").await;
            assert!(!list.body.to_string().contains(made["imapPassword"].as_str().unwrap()));
            assert!(!list.body.to_string().contains("assword\""));
            assert_eq!(list.body["pagination"], json!({"limit": 1000, "nextCursor": null}));
        }
    }

    async fn lists_are_paged_newest_first(daemon) {
        let acme = daemon.tenant("Acme").await;
        for number in 0..7 {
            create(&acme, &format!("n{number}")).await;
        }
        let mut seen = Vec::new();
        let mut path = "/v1/inboxes?limit=3".to_owned();
        loop {
            let page = acme.get(&path).await;
            seen.extend(names(&page.body).into_iter().map(str::to_owned));
            assert_eq!(page.body["pagination"]["limit"], 3);
            let Some(cursor) = page.body["pagination"]["nextCursor"].as_str() else { break };
            path = format!("/v1/inboxes?limit=3&cursor={cursor}");
        }
        assert_eq!(seen, ["n6", "n5", "n4", "n3", "n2", "n1", "n0"]);
        // A page that ends exactly at the end has no next one.
        assert!(acme.get("/v1/inboxes?limit=7").await.body["pagination"]["nextCursor"].is_null());
    }

    async fn lists_are_filtered(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let scout = create(&acme, "scout").await;
        acme.post("/v1/inboxes", &json!({"username": "second", "workspaceId": workspace.id()})).await;
        create(&other, "foreign").await;
        for (query, expected) in [
            ("", vec!["second", "scout"]),
            ("?username=scout", vec!["scout"]),
            ("?username=nobody", vec![]),
            ("?username=foreign", vec![]),
            ("?email=second@inboxd.test", vec!["second"]),
            ("?email=foreign@inboxd.test", vec![]),
            ("?username=scout&email=second@inboxd.test", vec![]),
            (&format!("?workspace={}", workspace.id()), vec!["second"]),
            (&format!("?workspace={}&username=scout", workspace.id()), vec![]),
        ] {
            let list = acme.get(&format!("/v1/inboxes{query}")).await;
            assert_eq!(names(&list.body), expected, "{query}");
        }
        assert_eq!(other.get(&format!("/v1/inboxes?workspace={}", workspace.id())).await.error(), (404, "NOT_FOUND"));
        let own = daemon.api(scout["apiKey"].as_str().unwrap());
        assert_eq!(names(&own.get("/v1/inboxes").await.body), ["scout"]);
        assert_eq!(names(&own.get("/v1/inboxes?username=second").await.body), [""; 0]);
        let key = acme.post(&format!("/v1/workspaces/{}/keys", workspace.id()), &json!({})).await;
        assert_eq!(names(&daemon.api(key.text("key")).get("/v1/inboxes").await.body), ["second"]);
    }

    async fn lists_are_searched(daemon) {
        let acme = daemon.tenant("Acme").await;
        let scout = acme.post("/v1/inboxes", &json!({"username": "scout", "displayName": "Ada Lovelace"})).await;
        create(&acme, "ranger").await;
        let own = daemon.api(scout.text("apiKey"));
        for (query, expected) in [
            ("?q=lovel", vec!["scout"]),
            ("?q=RANG", vec!["ranger"]),
            ("?q=n", vec!["ranger"]),
            ("?q=%25", vec![]),
            ("?domain=INBOXD.test", vec!["ranger", "scout"]),
            ("?domain=example.org", vec![]),
            ("?domain=inboxd.test&q=ada&username=scout", vec!["scout"]),
        ] {
            let list = acme.get(&format!("/v1/inboxes{query}")).await;
            assert_eq!(names(&list.body), expected, "{query}");
            assert!(list.body["pagination"]["nextCursor"].is_null(), "{query}");
            let of_own: Vec<&str> = expected.into_iter().filter(|name| *name == "scout").collect();
            assert_eq!(names(&own.get(&format!("/v1/inboxes{query}")).await.body), of_own, "{query}");
        }
        let first = acme.get("/v1/inboxes?domain=inboxd.test&limit=1").await;
        assert_eq!(names(&first.body), ["ranger"]);
        let cursor = first.body["pagination"]["nextCursor"].as_str().unwrap();
        let second = acme.get(&format!("/v1/inboxes?domain=inboxd.test&limit=1&cursor={cursor}")).await;
        assert_eq!((names(&second.body), &second.body["pagination"]["nextCursor"]), (vec!["scout"], &Value::Null));
        for (query, field) in [("?q=", "q"), ("?q=%0A", "q"), ("?domain=x", "domain"), ("?dom=x", "dom")] {
            let refused = acme.get(&format!("/v1/inboxes{query}")).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!(field)), "{query}");
        }
        let long = acme.get(&format!("/v1/inboxes?q={}", "x".repeat(101))).await;
        assert_eq!(long.error(), (400, "VALIDATION_ERROR"));
    }

    async fn describe_changes_what_is_given_and_merges_metadata(daemon) {
        let acme = daemon.tenant("Acme").await;
        let path = path_of(&create(&acme, "scout").await);
        let id = path.rsplit('/').next().unwrap().to_owned();
        let changed = acme.patch(&path, &json!({"displayName": "Scout", "metadata": {"a": 1, "b": {"c": 2}}})).await;
        assert_eq!((changed.status, changed.body), (200, json!({"updated": true, "id": id})));
        acme.patch(&path, &json!({"metadata": {"a": null, "b": {"d": [3]}}})).await;
        acme.patch(&path, &json!({})).await;
        let read = acme.get(&path).await.body;
        assert_eq!((&read["displayName"], &read["metadata"]), (&json!("Scout"), &json!({"b": {"c": 2, "d": [3]}})));
        acme.patch(&path, &json!({"displayName": ""})).await;
        assert_eq!(acme.get(&path).await.body["displayName"], "");
        for (body, field) in [
            (json!({"metadata": []}), "metadata"),
            (json!({"metadata": "x"}), "metadata"),
            (json!({"metadata": {"k": "x".repeat(17 * 1024)}}), "metadata"),
            (json!({"displayName": "a\nb"}), "displayName"),
        ] {
            let refused = acme.patch(&path, &body).await;
            assert_eq!((refused.error(), &refused.body["field"]), ((400, "VALIDATION_ERROR"), &json!(field)));
        }
        assert_eq!(acme.get(&path).await.body["metadata"], json!({"b": {"c": 2, "d": [3]}}));
    }

    async fn a_deleted_inbox_is_gone_for_everybody(daemon) {
        let acme = daemon.tenant("Acme").await;
        let inbox = create(&acme, "scout").await;
        let own = daemon.api(inbox["apiKey"].as_str().unwrap());
        let entry = daemon.maps().join("passdb/inboxd.test/scout");
        assert!(entry.exists());
        let deleted = acme.delete(&path_of(&inbox)).await;
        assert_eq!((deleted.status, deleted.body), (200, json!({"deleted": true, "id": inbox["id"]})));
        assert!(!entry.exists());
        assert_eq!(acme.delete(&path_of(&inbox)).await.error(), (404, "NOT_FOUND"));
        assert_eq!(acme.get(&path_of(&inbox)).await.error(), (404, "NOT_FOUND"));
        assert_eq!(own.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(acme.get("/v1/inboxes").await.body["inboxes"], json!([]));
    }

    async fn rotation_replaces_the_password_and_the_key(daemon) {
        let acme = daemon.tenant("Acme").await;
        let inbox = create(&acme, "scout").await;
        let own = daemon.api(inbox["apiKey"].as_str().unwrap());
        let entry = daemon.maps().join("passdb/inboxd.test/scout");
        let before = std::fs::read_to_string(&entry).unwrap();
        // An inbox's own key may rotate its password, but not itself.
        let rotated = own.post(&format!("{}/rotate-password", path_of(&inbox)), &json!({})).await;
        assert_eq!(rotated.status, 200);
        assert_ne!(rotated.body["imapPassword"], inbox["imapPassword"]);
        assert_eq!(rotated.body["imap"]["password"], rotated.body["imapPassword"]);
        assert!(rotated.body.get("apiKey").is_none());
        assert_ne!(std::fs::read_to_string(&entry).unwrap(), before);
        assert_eq!(acme.get(&path_of(&inbox)).await.body["imapPassword"], rotated.body["imapPassword"]);
        assert_eq!(own.post(&format!("{}/rotate-key", path_of(&inbox)), &json!({})).await.error(), (403, "FORBIDDEN"));
        let key = acme.post(&format!("{}/rotate-key", path_of(&inbox)), &json!({})).await;
        assert_eq!((key.status, &key.body["id"]), (200, &inbox["id"]));
        assert_eq!(own.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
        assert_eq!(daemon.api(key.text("apiKey")).get("/v1/me").await.body["inboxId"], inbox["id"]);
    }
}

#[tokio::test]
async fn without_reveal_no_recoverable_password_is_kept() {
    let daemon = Daemon::with_config(
        Database::Sqlite,
        Folder::new(),
        "service.reveal_passwords = false",
    )
    .await;
    let acme = daemon.tenant("Acme").await;
    let inbox = create(&acme, "scout").await;
    assert!(inbox["imapPassword"].is_string());
    let read = acme.get(&path_of(&inbox)).await;
    assert_eq!(read.status, 200);
    assert!(read.body.get("imapPassword").is_none() && read.body["imap"].get("password").is_none());
    let rotated = acme
        .post(&format!("{}/rotate-password", path_of(&inbox)), &json!({}))
        .await;
    assert!(rotated.body["imapPassword"].is_string());
}
