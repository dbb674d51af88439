//! Many callers of the real daemon at once.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;

use crate::support::{
    api::Answer,
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    maps::{assert_equal, until_published},
    store::open,
};

const TENANTS: usize = 50;
const CREATES_EACH: usize = 4;

async fn two_hundred_creates_of_one_name(database: Database) {
    let mut daemon = Daemon::start(database).await;
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        tenants.push(daemon.tenant(&format!("Tenant {number}")).await);
    }
    let together = Arc::new(tokio::sync::Barrier::new(TENANTS * CREATES_EACH));
    let mut creating = Vec::new();
    for (number, tenant) in tenants.iter().enumerate() {
        for _ in 0..CREATES_EACH {
            let (tenant, together) = (tenant.clone(), Arc::clone(&together));
            creating.push(tokio::spawn(async move {
                together.wait().await;
                let answer = tenant.post("/v1/inboxes", &json!({ "username": "scout" })).await;
                (number, answer)
            }));
        }
    }
    let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); TENANTS];
    for one in creating {
        let (number, answer) = one.await.unwrap();
        answers[number].push(answer);
    }

    let mut emails = BTreeSet::new();
    for of_tenant in &answers {
        let statuses: Vec<u16> = of_tenant.iter().map(|answer| answer.status).collect();
        let created: Vec<_> = of_tenant.iter().filter(|answer| answer.status == 201).collect();
        let existed = of_tenant.iter().filter(|answer| answer.status == 200);
        assert_eq!(created.len(), 1, "{statuses:?}");
        assert_eq!(existed.clone().count(), CREATES_EACH - 1, "{statuses:?}");
        assert_eq!(created[0].body["existed"], json!(null));
        assert!(created[0].body["apiKey"].is_string() && created[0].body["imapPassword"].is_string());
        for answer in existed {
            assert_eq!(answer.body["existed"], json!(true));
            assert_eq!(
                (answer.id(), answer.text("email")),
                (created[0].id(), created[0].text("email"))
            );
            assert!(answer.body["apiKey"].is_null() && answer.body["imapPassword"].is_null());
        }
        assert!(
            emails.insert(created[0].text("email").to_owned()),
            "an address was given twice"
        );
    }
    let expected: BTreeSet<_> = std::iter::once(format!("scout@{DEFAULT_DOMAIN}"))
        .chain((1..TENANTS).map(|number| format!("scout{number}@{DEFAULT_DOMAIN}")))
        .collect();
    assert_eq!(emails, expected, "suffixes without gaps");

    let db = open(&daemon.store_url).await;
    until_published(&db).await;
    assert_equal(&db, &daemon.maps_layout()).await;
    assert!(daemon.stop().await.success());
    assert_equal(&db, &daemon.maps_layout()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_creates_of_one_name_by_fifty_tenants_on_sqlite() {
    two_hundred_creates_of_one_name(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_creates_of_one_name_by_fifty_tenants_on_postgres() {
    two_hundred_creates_of_one_name(Database::Postgres).await;
}
