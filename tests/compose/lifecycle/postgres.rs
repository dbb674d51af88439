//! The store in PostgreSQL, in a container of its own: another project beside the one under test.

use serde_json::{Value, json};

use super::outages::{ask, inbox_of};
use crate::support::{compose::Compose, ports::free_ports, wait::until, world::World};

const STORE_URL: &str = "postgres:///inboxd?host=/var/run/postgresql&user=inboxd";
/// Creates while the database is restarted.
const CREATES: usize = 30;

fn project() -> Compose {
    let ports: [u16; 5] = free_ports();
    let names = [
        "API_PORT",
        "METRICS_PORT",
        "IMAP_PORT",
        "SUBMISSION_PORT",
        "MX_PORT",
    ];
    let ports = names.into_iter().zip(ports.map(|port| port.to_string()));
    Compose::under_test().sibling("postgres").with(ports).with([
        ("COMPOSE_PROFILES", "postgres".to_owned()),
        ("STORE_URL", STORE_URL.to_owned()),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_wait_for_postgresql_and_mail_does_not() {
    World::run_beside(project(), async |world| {
        let tenant = world.tenant("Acme").await;
        let ada = world.create(&tenant, "ada").await;
        world.mail.assert_works(&ada, "on PostgreSQL").await;

        world.compose.run(&["stop", "postgres"]).await;
        let bob = world.name("bob");
        let refused = tenant.post("/v1/inboxes", &json!({ "username": bob })).await;
        assert_eq!(refused.error(), (503, "STORE_UNAVAILABLE"));
        let readiness = tenant.get("/readyz").await;
        assert_eq!(
            (readiness.status, &readiness.body),
            (503, &json!({"ready": false}))
        );
        // The operator's listener says why.
        let metrics = world.facts().bootstrap["metrics"].as_str().unwrap();
        let detailed = reqwest::get(metrics.replace("/metrics", "/readyz"))
            .await
            .unwrap();
        let readiness: Value = detailed.json().await.unwrap();
        let store = readiness["parts"]["store"].as_str().unwrap();
        assert!(store.starts_with("down: "), "{readiness:?}");
        world.mail.assert_works(&ada, "without PostgreSQL").await;

        world.compose.up_service("postgres").await;
        let answer = until("the same request again is answered", || ask(&tenant, &bob)).await;
        let bob = inbox_of(&tenant, &answer).await;
        world.mail.assert_works(&bob, "with PostgreSQL again").await;
        world.until_ready().await;

        // Restarted while inboxes are created: whoever asks again until there is an answer gets an inbox.
        let creating = async {
            let (mut inboxes, mut tries) = (Vec::new(), 0);
            for number in 0..CREATES {
                let username = world.name(&format!("meanwhile-{number}"));
                let answer = until("a create is answered", || {
                    tries += 1;
                    ask(&tenant, &username)
                })
                .await;
                inboxes.push(inbox_of(&tenant, &answer).await);
            }
            (inboxes, tries)
        };
        let restart = ["restart", "postgres"];
        let ((inboxes, tries), _) = tokio::join!(creating, world.compose.run(&restart));
        for inbox in &inboxes {
            world.mail.log_in(inbox).await;
        }
        println!(
            "{} inboxes created in {tries} tries while PostgreSQL was restarted",
            inboxes.len()
        );
        world.until_ready().await;
    })
    .await;
}
