//! Maps that cannot be written: 503, nothing half done, and the same request completes later.

use std::{fs, path::PathBuf};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{Daemon, Database},
    inbox::Inbox,
    maps::opens,
    mount::SmallDisk,
    wait::until,
};

/// A daemon whose maps, or a part of them, are on a small disk.
struct Rig {
    // In this order they are dropped: the daemon before its disk.
    daemon: Daemon,
    disk: SmallDisk,
}

impl Rig {
    async fn new(on_disk: &str) -> Self {
        let folder = Folder::new();
        let disk = SmallDisk::at(&folder.join(on_disk), "1m");
        let daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
        Self { daemon, disk }
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.daemon.maps().join("passdb/inboxd.test").join(name)
    }

    /// Whether an entry holds the hash of the password.
    fn opens(&self, inbox: &Inbox) -> bool {
        opens(&self.daemon.maps_layout(), inbox)
    }
}

/// The part of the maps that can become read-only under the daemon: nothing of it is held open.
const PASSWORD_ENTRIES: &str = "maps/passdb";

async fn create(api: &Api, body: &serde_json::Value) -> Answer {
    api.post("/v1/inboxes", body).await
}

#[tokio::test]
async fn a_create_on_a_full_disk_completes_when_there_is_room() {
    let rig = Rig::new("maps").await;
    let acme = rig.daemon.tenant("Acme").await;
    let first = create(&acme, &json!({"username": "first"})).await;
    assert_eq!(first.status, 201);
    rig.disk.fill();
    for body in [
        json!({"username": "scout"}),
        json!({}),
        json!({"username": "scout"}),
        json!({}),
    ] {
        assert_eq!(
            create(&acme, &body).await.error(),
            (503, "MAIL_STACK_UNAVAILABLE"),
            "{body}"
        );
    }
    let kept = acme
        .request(Method::POST, "/v1/inboxes")
        .header("Idempotency-Key", "k")
        .json(&json!({"username": "keyed"}));
    assert_eq!(acme.send(kept).await.error(), (503, "MAIL_STACK_UNAVAILABLE"));
    assert!(!rig.entry("scout").exists());
    let (status, ready) = rig.daemon.readiness("").await;
    assert_eq!((status, &ready["parts"]["store"]), (503, &json!("ok")));
    assert!(
        ready["parts"]["maps"].as_str().unwrap().starts_with("down: "),
        "{ready:?}"
    );
    // What exists is found all the same.
    assert_eq!(create(&acme, &json!({"username": "first"})).await.status, 200);

    rig.disk.empty();
    let scout = create(&acme, &json!({"username": "scout", "displayName": "Scout"})).await;
    assert_eq!(
        (scout.status, scout.text("username"), scout.text("displayName")),
        (201, "scout", "Scout")
    );
    assert!(rig.opens(&Inbox::of(&scout)));
    assert_eq!(acme.get("/v1/me").await.status, 200);
    let unnamed = create(&acme, &json!({})).await;
    assert_eq!((unnamed.status, unnamed.text("username")), (201, "acme"));
    let keyed = acme
        .request(Method::POST, "/v1/inboxes")
        .header("Idempotency-Key", "k")
        .json(&json!({"username": "keyed"}));
    assert_eq!(acme.send(keyed).await.status, 201);
    // Failing left nothing behind: four requests, four inboxes.
    let list = acme.get("/v1/inboxes").await;
    let names: Vec<&str> = list.body["inboxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|inbox| inbox["username"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for (inbox, key) in [(&scout, scout.text("apiKey")), (&unnamed, unnamed.text("apiKey"))] {
        assert_eq!(
            rig.daemon.api(key).get("/v1/me").await.body["inboxId"],
            inbox.body["id"]
        );
    }
    assert_eq!(create(&acme, &json!({"username": "scout"})).await.status, 200);
}

#[tokio::test]
async fn changes_on_a_read_only_disk_complete_when_they_are_made_again() {
    let rig = Rig::new(PASSWORD_ENTRIES).await;
    let admin = rig.daemon.api(&rig.daemon.super_admin);
    let tenant = admin.post("/v1/tenants", &json!({"name": "Acme"})).await;
    let acme = rig.daemon.api(tenant.text("key"));
    let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
    let gone = create(&acme, &json!({"username": "gone"})).await;
    let kept = create(&acme, &json!({"username": "kept"})).await;
    create(
        &acme,
        &json!({"username": "inside", "workspaceId": workspace.id()}),
    )
    .await;
    let (delete, rotate) = (
        format!("/v1/inboxes/{}", gone.id()),
        format!("/v1/inboxes/{}/rotate-password", kept.id()),
    );
    let (drop_workspace, suspend) = (
        format!("/v1/workspaces/{}", workspace.id()),
        format!("/v1/tenants/{}", tenant.id()),
    );
    let unavailable = (503, "MAIL_STACK_UNAVAILABLE");

    rig.disk.read_only(true);
    for _ in 0..2 {
        assert_eq!(acme.delete(&delete).await.error(), unavailable);
        assert_eq!(acme.post(&rotate, &json!({})).await.error(), unavailable);
        assert_eq!(acme.delete(&drop_workspace).await.error(), unavailable);
    }
    assert!(rig.entry("gone").exists(), "the disk is not read-only");

    rig.disk.read_only(false);
    assert_eq!(acme.delete(&delete).await.status, 200);
    assert!(!rig.entry("gone").exists());
    assert_eq!(acme.delete(&delete).await.error(), (404, "NOT_FOUND"));
    let rotated = acme.post(&rotate, &json!({})).await;
    assert_eq!(rotated.status, 200);
    let kept = Inbox::of(&kept);
    assert!(rig.opens(&kept.with_password(rotated.text("imapPassword"))) && !rig.opens(&kept));
    // Even if the publisher was faster than this call: its caller was told to try again.
    assert_eq!(acme.delete(&drop_workspace).await.status, 200);
    assert_eq!(acme.delete(&drop_workspace).await.error(), (404, "NOT_FOUND"));
    assert!(!rig.entry("inside").exists());

    rig.disk.read_only(true);
    for _ in 0..2 {
        assert_eq!(
            admin.patch(&suspend, &json!({"suspended": true})).await.error(),
            unavailable
        );
    }
    rig.disk.read_only(false);
    assert_eq!(
        admin.patch(&suspend, &json!({"suspended": true})).await.status,
        200
    );
    assert!(
        fs::read_to_string(rig.entry("kept"))
            .unwrap()
            .starts_with("kept@inboxd.test:*:")
    );
}

#[tokio::test]
async fn what_could_not_be_published_is_published_without_being_asked() {
    let rig = Rig::new(PASSWORD_ENTRIES).await;
    let acme = rig.daemon.tenant("Acme").await;
    let gone = create(&acme, &json!({"username": "gone"})).await;
    rig.disk.read_only(true);
    assert_eq!(
        acme.delete(&format!("/v1/inboxes/{}", gone.id())).await.status,
        503
    );
    rig.disk.read_only(false);
    until("the entry is removed", || async {
        (!rig.entry("gone").exists()).then_some(())
    })
    .await;
}
