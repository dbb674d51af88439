//! Deleting something twice: 404 the second time, whatever the timing, unless the first was answered 503.

use futures_util::future::join_all;
use serde_json::json;

use super::on_both_databases;
use crate::support::{
    Folder,
    api::Api,
    daemon::{Daemon, Database},
    domains::insert_domain,
    mount::SmallDisk,
};

/// One of each of what can be deleted: a caller who may, and the path.
async fn one_of_each(daemon: &Daemon, round: &str) -> Vec<(Api, String)> {
    let admin = daemon.api(&daemon.super_admin);
    let tenant = admin
        .post("/v1/tenants", &json!({"name": format!("Acme {round}")}))
        .await;
    let acme = daemon.api(tenant.text("key"));
    let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
    let inside = json!({"username": format!("inside-{round}"), "workspaceId": workspace.id()});
    assert_eq!(acme.post("/v1/inboxes", &inside).await.status, 201);
    let kept = acme
        .post("/v1/inboxes", &json!({"username": format!("kept-{round}")}))
        .await;
    let gone = acme
        .post("/v1/inboxes", &json!({"username": format!("gone-{round}")}))
        .await;
    let domain = insert_domain(daemon, &acme, &format!("acme-{round}.example"), true).await;
    let aliases = format!("/v1/inboxes/{}/addresses", kept.id());
    let alias = format!("alias-{round}@inboxd.test");
    let more = format!("sales@{domain}");
    for email in [&alias, &more] {
        let added = acme
            .post(&aliases, &json!({"email": email, "primary": false}))
            .await;
        assert_eq!(added.status, 201, "{added:?}");
    }
    vec![
        (acme.clone(), format!("{aliases}/{alias}")),
        (acme.clone(), format!("/v1/domains/{domain}")),
        (acme.clone(), format!("/v1/inboxes/{}", gone.id())),
        (acme, format!("/v1/workspaces/{}", workspace.id())),
        (admin, format!("/v1/tenants/{}", tenant.id())),
    ]
}

on_both_databases! {
    async fn of_simultaneous_deletions_exactly_one_is_answered_200(daemon) {
        for (round, at_once) in [("a", 2), ("b", 20)] {
            for (caller, path) in one_of_each(&daemon, round).await {
                let answers = join_all((0..at_once).map(|_| caller.delete(&path))).await;
                let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
                statuses.sort_unstable();
                let mut expected = vec![404; at_once];
                expected[0] = 200;
                assert_eq!(statuses, expected, "{path}");
                assert_eq!(caller.delete(&path).await.error(), (404, "NOT_FOUND"), "{path}");
            }
        }
    }

    async fn a_deletion_that_is_repeated_at_once_is_answered_404(daemon) {
        // Marks are cleared by another task: under load the second request comes before that.
        let acme = daemon.tenant("Acme").await;
        let scout = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let aliases = format!("/v1/inboxes/{}/addresses", scout.id());
        let deletions = (0..40).map(|number| {
            let (acme, aliases) = (acme.clone(), aliases.clone());
            async move {
                let email = format!("alias-{number}@inboxd.test");
                assert_eq!(acme.post(&aliases, &json!({"email": email, "primary": false})).await.status, 201);
                let path = format!("{aliases}/{email}");
                let statuses = [acme.delete(&path).await.status, acme.delete(&path).await.status];
                assert_eq!(statuses, [200, 404], "{path}");
            }
        });
        join_all(deletions).await;
    }

    async fn a_deletion_is_unknown_to_those_who_do_not_reach_it(daemon) {
        let (acme, other) = (daemon.tenant("Acme").await, daemon.tenant("Other").await);
        let scout = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
        let path = format!("/v1/inboxes/{}", scout.id());
        let both = futures_util::future::join(acme.delete(&path), other.delete(&path)).await;
        assert_eq!((both.0.status, both.1.error()), (200, (404, "NOT_FOUND")));
    }
}

/// A daemon whose password entries are on a disk that can become read-only.
async fn with_disk(database: Database) -> (Daemon, SmallDisk) {
    let folder = Folder::new();
    let disk = SmallDisk::at(&folder.join("maps/passdb"), "1m");
    (Daemon::with_config(database, folder, "").await, disk)
}

/// The deletions that write password entries: they fail while the disk is read-only.
async fn finished_by_the_same_request(database: Database) {
    let (daemon, disk) = with_disk(database).await;
    let all = one_of_each(&daemon, "a").await;
    let writing: Vec<&(Api, String)> = all
        .iter()
        .filter(|(_, path)| !path.contains("/addresses/") && !path.contains("/domains/"))
        .collect();
    assert_eq!(writing.len(), 3);
    for (caller, path) in writing {
        disk.read_only(true);
        for _ in 0..2 {
            let answer = caller.delete(path).await;
            assert_eq!(answer.error(), (503, "MAIL_STACK_UNAVAILABLE"), "{path}");
        }
        // A key that does not reach it is not told of it.
        let stranger = daemon.api(&daemon.super_admin).tenant("Stranger").await;
        if !path.contains("/tenants/") {
            assert_eq!(stranger.delete(path).await.error(), (404, "NOT_FOUND"), "{path}");
        }
        disk.read_only(false);
        let mut answers = join_all((0..5).map(|_| caller.delete(path))).await;
        answers.sort_by_key(|answer| answer.status);
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 404, 404, 404, 404], "{path}");
    }
}

#[tokio::test]
async fn a_deletion_answered_503_is_finished_by_the_same_request_sqlite() {
    finished_by_the_same_request(Database::Sqlite).await;
}

#[tokio::test]
async fn a_deletion_answered_503_is_finished_by_the_same_request_postgres() {
    finished_by_the_same_request(Database::Postgres).await;
}

#[tokio::test]
async fn an_address_and_a_domain_are_finished_likewise_on_a_full_disk() {
    let folder = Folder::new();
    let disk = SmallDisk::at(&folder.join("maps"), "1m");
    let daemon = Daemon::with_config(Database::Sqlite, folder, "").await;
    for (caller, path) in one_of_each(&daemon, "a").await.into_iter().take(2) {
        disk.fill();
        assert_eq!(
            caller.delete(&path).await.error(),
            (503, "MAIL_STACK_UNAVAILABLE"),
            "{path}"
        );
        disk.empty();
        assert_eq!(caller.delete(&path).await.status, 200, "{path}");
        assert_eq!(caller.delete(&path).await.error(), (404, "NOT_FOUND"), "{path}");
    }
}

#[tokio::test]
async fn what_was_published_meanwhile_is_answered_200_once() {
    let (daemon, disk) = with_disk(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let scout = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
    let path = format!("/v1/inboxes/{}", scout.id());
    disk.read_only(true);
    assert_eq!(acme.delete(&path).await.status, 503);
    disk.read_only(false);
    let entry = daemon.maps().join("passdb/inboxd.test/scout");
    crate::support::wait::until("the daemon publishes it by itself", || async {
        (!entry.exists()).then_some(())
    })
    .await;
    assert_eq!(acme.delete(&path).await.status, 200);
    assert_eq!(acme.delete(&path).await.error(), (404, "NOT_FOUND"));
}

#[tokio::test]
async fn after_a_restart_a_deletion_is_finished_and_answered_404() {
    let (mut daemon, disk) = with_disk(Database::Sqlite).await;
    let acme = daemon.tenant("Acme").await;
    let scout = acme.post("/v1/inboxes", &json!({"username": "scout"})).await;
    let path = format!("/v1/inboxes/{}", scout.id());
    disk.read_only(true);
    assert_eq!(acme.delete(&path).await.status, 503);
    daemon.kill();
    disk.read_only(false);
    daemon.up().await;
    assert!(!daemon.maps().join("passdb/inboxd.test/scout").exists());
    assert_eq!(acme.delete(&path).await.error(), (404, "NOT_FOUND"));
}
