//! Custom domains: registered, proved by what a real name server answers, changed, deleted.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use inboxd::{
    clock::{Clock, Machine, Timestamp},
    dns::Settings,
    model::{domain::DomainStatus, ids::TenantId},
    ops::domains as ops,
};
use serde_json::{Value, json};

use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    dns::DnsServer,
    domains::{MX_HOST, asking, insert_domain, name_server, prove, publish, register, verify, zone_of},
    service::{Parts, service_of, tenant_caller},
    store::{domain, open},
    wait::until,
};

/// The machine's clock, ahead by more than the notice of a hand-over.
struct AfterTheNotice;

impl Clock for AfterTheNotice {
    fn now(&self) -> Timestamp {
        Machine.now().plus_seconds(73 * 60 * 60)
    }
}

/// A daemon that asks a name server of its own.
pub struct Rig {
    pub daemon: Daemon,
    pub server: DnsServer,
}

impl Rig {
    async fn new(database: Database) -> Self {
        Self::with(database, "").await
    }

    async fn with(database: Database, extra: &str) -> Self {
        let server = name_server().await;
        let config = format!("{}{extra}", asking(&server));
        let daemon = Daemon::with_config(database, Folder::new(), &config).await;
        Self { daemon, server }
    }
}

/// The status of each record, by what it is for.
fn records(answer: &Answer) -> Vec<(&str, &str)> {
    answer.body["dnsRecords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            (
                record["purpose"].as_str().unwrap(),
                record["status"].as_str().unwrap(),
            )
        })
        .collect()
}

fn record<'a>(answer: &'a Answer, purpose: &str) -> &'a Value {
    let all = answer.body["dnsRecords"].as_array().unwrap();
    all.iter().find(|record| record["purpose"] == purpose).unwrap()
}

async fn inbox(api: &Api, body: Value) -> Answer {
    let made = api.post("/v1/inboxes", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made
}

/// One test body on both databases.
macro_rules! on_both {
    ($(async fn $name:ident($rig:ident) $body:block)+) => {$(
        async fn $name(mut $rig: Rig) $body

        mod $name {
            use crate::support::daemon::Database;

            #[tokio::test]
            async fn sqlite() {
                super::$name(super::Rig::new(Database::Sqlite).await).await;
            }

            #[tokio::test]
            async fn postgres() {
                super::$name(super::Rig::new(Database::Postgres).await).await;
            }
        }
    )+};
}

on_both! {
    async fn a_domain_is_usable_from_when_it_is_proved(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        let registered = register(&acme, "Acme.test").await;
        assert_eq!((registered.status, registered.text("status")), (201, "pending"));
        assert_eq!(registered.text("domain"), "acme.test");
        assert_eq!(
            records(&registered),
            [("ownership", "pending"), ("mx", "pending"), ("spf", "pending"), ("dkim", "pending"), ("dkim", "pending"), ("dmarc", "pending")]
        );
        assert_eq!(record(&registered, "mx")["value"], MX_HOST);
        let again = register(&acme, "acme.test").await;
        assert_eq!((again.status, &again.body), (200, &registered.body));

        let body = json!({"username": "ada", "domain": "acme.test"});
        assert_eq!(acme.post("/v1/inboxes", &body).await.error(), (409, "DOMAIN_NOT_VERIFIED"));
        // Nothing is published, then something else, then all but the challenge.
        let asked = verify(&acme, "acme.test").await;
        assert!(record(&asked, "ownership")["reason"].as_str().unwrap().contains("did not answer"), "{asked:?}");
        let zone = zone_of(&acme, "acme.test").await;
        let without: Vec<&str> = zone.lines().filter(|line| !line.contains("inboxd-verify")).collect();
        rig.server.set_zone("acme.test", &without.join("\n")).await;
        let asked = verify(&acme, "acme.test").await;
        assert_eq!(asked.text("status"), "pending");
        assert_eq!(records(&asked)[..4], [("ownership", "pending"), ("mx", "verified"), ("spf", "verified"), ("dkim", "verified")]);
        assert_eq!(acme.post("/v1/inboxes", &body).await.error(), (409, "DOMAIN_NOT_VERIFIED"));

        rig.server.set_zone("acme.test", &zone).await;
        let verified = verify(&acme, "acme.test").await;
        assert_eq!(verified.text("status"), "verified");
        assert!(records(&verified).iter().all(|(_, status)| *status == "verified"), "{verified:?}");
        assert_eq!(acme.get("/v1/domains/acme.test").await.body, verified.body);
        assert_eq!(acme.get("/v1/domains").await.body["domains"], json!([verified.body]));
        let ada = inbox(&acme, body).await;
        assert_eq!((ada.text("email"), ada.text("canonicalEmail")), ("ada@acme.test", "ada@acme.test"));
        let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
        assert_eq!(status, 0, "{said}");
    }

    async fn a_domain_that_loses_its_records_is_told_of_and_goes_on(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        prove(&mut rig.server, &acme, "acme.test").await;
        let zone = zone_of(&acme, "acme.test").await;
        let without: Vec<&str> = zone.lines().filter(|line| !line.contains(" MX ")).collect();
        rig.server.set_zone("acme.test", &without.join("\n")).await;
        let degraded = verify(&acme, "acme.test").await;
        assert_eq!(degraded.text("status"), "degraded");
        assert_eq!(record(&degraded, "mx")["status"], "pending");
        let since = degraded.text("degradedSince").to_owned();
        assert_eq!(verify(&acme, "acme.test").await.text("degradedSince"), since);
        inbox(&acme, json!({"username": "ada", "domain": "acme.test"})).await;
        // A name server that is down is nobody's loss.
        rig.server.set_zone("acme.test", &zone).await;
        assert_eq!(verify(&acme, "acme.test").await.text("status"), "verified");
        rig.server.break_zone("acme.test").await;
        let unknown = verify(&acme, "acme.test").await;
        assert_eq!(unknown.text("status"), "verified");
        assert!(record(&unknown, "mx")["reason"].as_str().unwrap().contains("did not answer"), "{unknown:?}");
        assert_eq!(record(&unknown, "mx")["status"], "verified");
        // What was only recommended and goes does not degrade it.
        let without: Vec<&str> = zone.lines().filter(|line| !line.contains("_dmarc")).collect();
        rig.server.set_zone("acme.test", &without.join("\n")).await;
        assert_eq!(verify(&acme, "acme.test").await.text("status"), "verified");
    }

    async fn a_list_is_narrowed_by_name_and_status(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        for name in ["one.example", "two.example"] {
            assert_eq!(register(&acme, name).await.status, 201);
        }
        insert_domain(&rig.daemon, &acme, "old.example", false).await;
        for name in ["mine.example", "worse.example"] {
            prove(&mut rig.server, &acme, name).await;
        }
        rig.server.set_zone("worse.example", "").await;
        assert_eq!(verify(&acme, "worse.example").await.text("status"), "degraded");
        for (query, names) in [
            ("", vec!["mine.example", "old.example", "one.example", "two.example", "worse.example"]),
            ("?status=pending", vec!["one.example", "two.example"]),
            ("?status=verified", vec!["mine.example"]),
            ("?status=degraded", vec!["worse.example"]),
            ("?status=failed", vec!["old.example"]),
            ("?name=one.example", vec!["one.example"]),
            ("?name=ONE.example", vec!["one.example"]),
            ("?name=none.example", vec![]),
            ("?name=one.example&status=pending", vec!["one.example"]),
            ("?name=one.example&status=verified", vec![]),
        ] {
            let listed = acme.get(&format!("/v1/domains{query}")).await;
            assert_eq!(listed.status, 200, "{query}: {listed:?}");
            let listed = listed.body["domains"].as_array().unwrap();
            let mut found: Vec<&str> = listed.iter().map(|domain| domain["domain"].as_str().unwrap()).collect();
            found.sort_unstable();
            assert_eq!(found, names, "{query}");
        }
        for (query, field, says) in [
            ("?status=", "status", "pending, verified, degraded, contested or failed"),
            ("?status=Verified", "status", "pending, verified, degraded, contested or failed"),
            ("?name=", "name", "domain name"),
            ("?name=one", "name", "domain name"),
            ("?name=*.example", "name", "domain name"),
            ("?domain=one.example", "domain", "name, status"),
        ] {
            let refused = acme.get(&format!("/v1/domains{query}")).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{query}");
            assert_eq!(refused.text("field"), field, "{query}");
            assert!(refused.text("error").contains(says), "{query}: {refused:?}");
        }
    }

    async fn of_two_tenants_one_proves_a_domain(rig) {
        let (acme, other) = (rig.daemon.tenant("Acme").await, rig.daemon.tenant("Other").await);
        let (first, second) = (register(&acme, "acme.test").await, register(&other, "acme.test").await);
        assert_eq!((first.status, second.status), (201, 201), "who is first does not block");
        assert_ne!(record(&first, "ownership")["value"], record(&second, "ownership")["value"]);
        // Both challenges are published at the same time.
        let challenge = |answer: &Answer| format!("_inboxd-challenge TXT \"{}\"", record(answer, "ownership")["value"].as_str().unwrap());
        rig.server.set_zone("acme.test", &format!("{}\n{}", challenge(&first), challenge(&second))).await;
        let (one, two) = tokio::join!(verify(&acme, "acme.test"), verify(&other, "acme.test"));
        let (winner, loser, refused) = match (one.status, two.status) {
            (200, 409) => (&acme, &other, two),
            (409, 200) => (&other, &acme, one),
            statuses => panic!("{statuses:?}: {one:?} {two:?}"),
        };
        assert_eq!(refused.error(), (409, "DOMAIN_TAKEN"));
        assert_eq!(verify(loser, "acme.test").await.error(), (409, "DOMAIN_TAKEN"));
        inbox(winner, json!({"username": "ada", "domain": "acme.test"})).await;
        let refused = loser.post("/v1/inboxes", &json!({"username": "eve", "domain": "acme.test"})).await;
        assert_eq!(refused.error(), (409, "DOMAIN_NOT_VERIFIED"));
        // Nor does another tenant get it, or what is below it, while the winner's challenge is there. All may register it.
        let third = rig.daemon.tenant("Third").await;
        for name in ["acme.test", "mail.acme.test"] {
            let registered = register(&third, name).await;
            assert_eq!((registered.status, registered.text("status")), (201, "pending"));
            let zones = format!("{}\n{}", zone_of(winner, "acme.test").await, zone_of(&third, name).await);
            rig.server.set_zone("acme.test", &zones).await;
            assert_eq!(verify(&third, name).await.error(), (409, "DOMAIN_TAKEN"));
        }
        assert_eq!(register(winner, "mail.acme.test").await.status, 201);
        rig.server.set_zone("acme.test", &format!("{}\n{}", challenge(&first), challenge(&second))).await;
        // Until its owner lets it go.
        let ada = winner.get("/v1/inboxes?email=ada@acme.test").await.body["inboxes"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(winner.delete("/v1/domains/acme.test").await.error(), (409, "DOMAIN_IN_USE"));
        assert_eq!(winner.delete(&format!("/v1/inboxes/{ada}")).await.status, 200);
        let deleted = winner.delete("/v1/domains/acme.test").await;
        assert_eq!((deleted.status, &deleted.body), (200, &json!({"deleted": true, "domain": "acme.test"})));
        assert_eq!(winner.get("/v1/domains/acme.test").await.error(), (404, "NOT_FOUND"));
        assert_eq!(verify(loser, "acme.test").await.text("status"), "verified");
        let again = inbox(loser, json!({"username": "ada", "domain": "acme.test"})).await;
        assert_eq!(again.text("email"), "ada@acme.test", "the name is its, too");
    }

    async fn a_deleted_domain_takes_its_addresses_with_it(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        prove(&mut rig.server, &acme, "acme.test").await;
        let scout = inbox(&acme, json!({"username": "scout"})).await;
        let path = format!("/v1/inboxes/{}", scout.id());
        for email in ["ada@acme.test", "bob@acme.test"] {
            let added = acme.post(&format!("{path}/addresses"), &json!({"email": email})).await;
            assert_eq!(added.status, 201, "{added:?}");
        }
        let set = acme.patch("/v1/domains/acme.test", &json!({"catchAll": scout.id()})).await;
        assert_eq!((set.status, set.text("catchAll")), (200, scout.id()));
        assert_eq!(acme.get(&path).await.text("email"), "bob@acme.test");
        assert_eq!(acme.delete("/v1/domains/acme.test").await.status, 200);
        let left = acme.get(&path).await;
        assert_eq!(left.text("email"), format!("scout@{DEFAULT_DOMAIN}"));
        assert_eq!(left.body["addresses"], json!([{"address": format!("scout@{DEFAULT_DOMAIN}"), "isPrimary": true}]));
        let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
        assert_eq!(status, 0, "{said}");
        assert_eq!(acme.delete("/v1/domains/acme.test").await.error(), (404, "NOT_FOUND"));
        // It can be had again, with another challenge and other keys.
        let again = register(&acme, "acme.test").await;
        assert_eq!((again.status, again.text("status")), (201, "pending"));
        assert_eq!(verify(&acme, "acme.test").await.text("status"), "pending", "what proved it once does so no more");
    }

    async fn a_catch_all_is_an_inbox_of_the_domains_workspace(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        let other = rig.daemon.tenant("Other").await;
        register(&acme, "pending.test").await;
        prove(&mut rig.server, &acme, "acme.test").await;
        let scout = inbox(&acme, json!({"username": "scout"})).await;
        let foreign = inbox(&other, json!({"username": "foreign"})).await;
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let second = inbox(&acme, json!({"username": "second", "workspaceId": workspace.id()})).await;
        let path = "/v1/domains/acme.test";
        for bad in [foreign.id(), second.id(), "01900000-0000-7000-8000-000000000001", "x"] {
            let refused = acme.patch(path, &json!({"catchAll": bad})).await;
            assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{bad}");
            assert_eq!(refused.text("field"), "catchAll");
        }
        let refused = acme.patch("/v1/domains/pending.test", &json!({"catchAll": scout.id()})).await;
        assert_eq!(refused.error(), (409, "DOMAIN_NOT_VERIFIED"));
        // What changes nothing is not refused.
        let pending = acme.get("/v1/domains/pending.test").await;
        let same = acme.patch("/v1/domains/pending.test", &json!({"catchAll": null})).await;
        assert_eq!((same.status, &same.body), (200, &pending.body));
        let check = async || {
            let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
            assert_eq!(status, 0, "{said}");
        };
        let set = acme.patch(path, &json!({"catchAll": scout.id()})).await;
        assert_eq!(set.text("catchAll"), scout.id());
        let again = acme.patch(path, &json!({"catchAll": scout.id()})).await;
        assert_eq!((again.status, &again.body), (200, &set.body), "nothing is updated");
        check().await;
        assert_eq!(acme.patch(path, &json!({})).await.error(), (400, "VALIDATION_ERROR"));
        assert_eq!(acme.get(path).await.text("catchAll"), scout.id(), "what is left out stays");
        assert!(acme.patch(path, &json!({"catchAll": null})).await.body["catchAll"].is_null());
        check().await;
        acme.patch(path, &json!({"catchAll": scout.id()})).await;
        assert_eq!(acme.delete(&format!("/v1/inboxes/{}", scout.id())).await.status, 200);
        assert!(acme.get(path).await.body["catchAll"].is_null());
        check().await;
    }

    async fn keys_are_rotated_without_a_moment_without_any(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        prove(&mut rig.server, &acme, "acme.test").await;
        let names = |answer: &Answer| -> Vec<String> {
            let all = answer.body["dnsRecords"].as_array().unwrap();
            all.iter().filter(|record| record["purpose"] == "dkim").map(|record| record["name"].as_str().unwrap().to_owned()).collect()
        };
        let before = names(&acme.get("/v1/domains/acme.test").await);
        assert_eq!(before.len(), 2);
        let path = "/v1/domains/acme.test/dkim/rotate";
        let rotated = acme.post(path, &json!({})).await;
        assert_eq!((rotated.status, names(&rotated).len()), (200, 4));
        assert_eq!(names(&rotated)[..2], before);
        assert_eq!(rotated.text("status"), "verified");
        // While they wait for their records, no others are made.
        assert_eq!(names(&acme.post(path, &json!({})).await), names(&rotated));
        assert_eq!(verify(&acme, "acme.test").await.text("status"), "verified", "a record that never was there is not lost");
        publish(&mut rig.server, &acme, "acme.test").await;
        let seen = verify(&acme, "acme.test").await;
        assert!(records(&seen).iter().all(|(_, status)| *status == "verified"), "{seen:?}");
        assert_eq!(names(&seen).len(), 4, "the old ones stay for the mail that is under way");
        assert_eq!(names(&acme.post(path, &json!({})).await).len(), 6);
    }

    async fn a_hand_over_whose_daemon_died_is_finished_by_the_next_one(rig) {
        let (former, owner) = (rig.daemon.tenant("Former owner").await, rig.daemon.tenant("Owner now").await);
        prove(&mut rig.server, &former, "acme.test").await;
        let ceo = inbox(&former, json!({"username": "ceo", "domain": "acme.test"})).await;
        register(&owner, "acme.test").await;
        publish(&mut rig.server, &owner, "acme.test").await;
        assert_eq!(verify(&owner, "acme.test").await.text("status"), "contested");
        let tenant = owner.get("/v1/me").await.text("tenantId").parse().unwrap();
        rig.daemon.kill();

        // The transaction of the hand-over, and nothing behind it.
        let db = open(&rig.daemon.store_url).await;
        let parts = Parts {
            clock: Arc::new(AfterTheNotice),
            dns: Settings { servers: vec![rig.server.address()], timeout: Duration::from_secs(10) },
            ..Parts::default()
        };
        let service = service_of(&db, parts);
        let handed_over = ops::verify(&service, &tenant_caller(TenantId(tenant)), &domain("acme.test")).await.unwrap();
        assert_eq!((handed_over.publish.len(), handed_over.value.status), (2, DomainStatus::Contested));
        drop(service);
        db.close().await;

        rig.daemon.up().await;
        until("the next daemon finishes it", || async {
            let read = owner.get("/v1/domains/acme.test").await;
            (read.text("status") == "verified").then_some(())
        })
        .await;
        assert_eq!(former.get(&format!("/v1/inboxes/{}", ceo.id())).await.error(), (404, "NOT_FOUND"));
        inbox(&owner, json!({"username": "ceo", "domain": "acme.test"})).await;
        let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
        assert_eq!(status, 0, "{said}");
    }

    async fn an_operator_releases_a_domain_by_key_and_by_command(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        let operator = rig.daemon.api(&rig.daemon.super_admin);
        let path = "/v1/domains/acme.test/release";
        assert_eq!(acme.post(path, &json!({})).await.error(), (403, "FORBIDDEN"));
        assert_eq!(operator.post(path, &json!({})).await.error(), (404, "NOT_FOUND"));
        prove(&mut rig.server, &acme, "acme.test").await;
        inbox(&acme, json!({"username": "ada", "domain": "acme.test"})).await;
        let released = operator.post(path, &json!({})).await;
        assert_eq!((released.status, &released.body), (200, &json!({"released": true, "domain": "acme.test"})));
        let check = async || {
            let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
            (status == 0).then_some(said)
        };
        check().await.expect("what was answered is published");
        assert_eq!(acme.get("/v1/domains/acme.test").await.error(), (404, "NOT_FOUND"));
        let log = rig.daemon.log();
        assert!(log.contains("a domain was released by the operator"), "{log}");
        assert_eq!(operator.post(path, &json!({})).await.error(), (404, "NOT_FOUND"));

        prove(&mut rig.server, &acme, "acme.test").await;
        let (status, said) = rig.daemon.command(&["domain", "release", "acme.test"]).await;
        assert_eq!((status, said.trim()), (0, "released acme.test"));
        assert_eq!(acme.get("/v1/domains/acme.test").await.error(), (404, "NOT_FOUND"));
        until("the daemon has published it", check).await;
        let (status, said) = rig.daemon.command(&["domain", "release", "acme.test"]).await;
        assert_eq!(status, 1, "{said}");
        let (status, said) = rig.daemon.command(&["domain", "release", "acme..test"]).await;
        assert!(status != 0 && said.contains("NAME"), "{said}");
    }

    async fn a_workspace_takes_its_domains_with_it(rig) {
        let acme = rig.daemon.tenant("Acme").await;
        let workspace = acme.post("/v1/workspaces", &json!({"name": "Second"})).await;
        let key = acme.post(&format!("/v1/workspaces/{}/keys", workspace.id()), &json!({})).await;
        let second = acme.with_key(key.text("key"));
        prove(&mut rig.server, &second, "acme.test").await;
        // A sibling workspace cannot see, use or have it.
        let refused = acme.post("/v1/inboxes", &json!({"username": "eve", "domain": "acme.test"})).await;
        assert_eq!(refused.error(), (403, "DOMAIN_NOT_ALLOWED"));
        let third = acme.post("/v1/workspaces", &json!({"name": "Third"})).await;
        let key = acme.post(&format!("/v1/workspaces/{}/keys", third.id()), &json!({})).await;
        let third = acme.with_key(key.text("key"));
        assert_eq!(third.get("/v1/domains/acme.test").await.error(), (404, "NOT_FOUND"));
        assert_eq!(third.get("/v1/domains").await.body["domains"], json!([]));
        assert_eq!(register(&third, "acme.test").await.error(), (409, "DOMAIN_TAKEN"));
        let counted = acme.get(&format!("/v1/workspaces/{}", workspace.id())).await;
        assert_eq!(counted.body["domainCount"], 1);
        assert_eq!(acme.delete(&format!("/v1/workspaces/{}", workspace.id())).await.status, 200);
        let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
        assert_eq!(status, 0, "{said}");
        assert_eq!(register(&third, "acme.test").await.status, 201);
    }
}

#[tokio::test]
async fn what_nobody_can_own_is_refused_with_a_reason() {
    let rig = Rig::with(Database::Sqlite, "limits.domains = 2\ndomains.pending_days = 3").await;
    let acme = rig.daemon.tenant("Acme").await;
    for (name, says) in [
        (DEFAULT_DOMAIN, "default domain"),
        ("mail.inboxd.test", "default domain"),
        ("co.uk", "public suffix"),
        ("github.io", "public suffix"),
        ("example", "two labels"),
        ("192.0.2.1", "IP address"),
        ("[192.0.2.1]", "IP address"),
        ("acme..test", "labels"),
        ("acme.test.", "ends in a dot"),
        ("*.acme.test", "wildcard"),
        ("https://acme.test/", "URL"),
        ("ada@acme.test", "an address"),
        ("acme test.example", "labels"),
        ("", "labels"),
    ] {
        let refused = register(&acme, name).await;
        assert_eq!(refused.error(), (400, "VALIDATION_ERROR"), "{name}");
        assert_eq!(refused.text("field"), "domain");
        assert!(refused.text("error").contains(says), "{name}: {refused:?}");
    }
    // The same wherever a domain is named.
    for (method, path, body, at) in [
        ("GET", "/v1/domains/acme.test.", json!({}), "domain"),
        ("GET", "/v1/domains/acme.test./verify", json!({}), "domain"),
        ("GET", "/v1/domains/acme.test./zone", json!({}), "domain"),
        (
            "PATCH",
            "/v1/domains/acme.test.",
            json!({"catchAll": null}),
            "domain",
        ),
        ("POST", "/v1/domains/acme.test./dkim/rotate", json!({}), "domain"),
        ("DELETE", "/v1/domains/acme.test.", json!({}), "domain"),
        ("GET", "/v1/domains?name=acme.test.", json!({}), "name"),
        (
            "POST",
            "/v1/inboxes",
            json!({"username": "ada", "domain": "acme.test."}),
            "domain",
        ),
        ("GET", "/v1/inboxes?email=ada%40acme.test.", json!({}), "email"),
        (
            "DELETE",
            "/v1/inboxes/01900000-0000-7000-8000-000000000001/addresses/ada@acme.test.",
            json!({}),
            "address",
        ),
    ] {
        let refused = match method {
            "GET" => acme.get(path).await,
            "PATCH" => acme.patch(path, &body).await,
            "POST" => acme.post(path, &body).await,
            _ => acme.delete(path).await,
        };
        assert_eq!(
            refused.error(),
            (400, "VALIDATION_ERROR"),
            "{method} {path}: {refused:?}"
        );
        assert_eq!(refused.text("field"), at, "{method} {path}");
        assert!(
            refused.text("error").contains("ends in a dot"),
            "{method} {path}: {refused:?}"
        );
    }
    let unicode = register(&acme, "B\u{fc}cher.example").await;
    assert_eq!(
        (unicode.status, unicode.text("domain")),
        (201, "xn--bcher-kva.example")
    );
    let path = "/v1/domains/b%C3%BCcher.example";
    assert_eq!(acme.get(path).await.body, unicode.body);
    assert_eq!(register(&acme, "two.example").await.status, 201);
    let refused = register(&acme, "three.example").await;
    assert_eq!(refused.error(), (403, "PLAN_LIMIT_REACHED"));
    assert_eq!(
        (&refused.body["limit"], &refused.body["current"]),
        (&json!("domains"), &json!(2))
    );
}

async fn changes_hands_although_its_challenger_does_not_ask_again(database: Database) {
    // The daemon checks domains every second, and hands them over after one.
    let extra = "domains.handover_notice_s = 1\ndomains.check_interval_s = 1\n";
    let mut rig = Rig::with(database, extra).await;
    let (former, owner) = (
        rig.daemon.tenant("Former owner").await,
        rig.daemon.tenant("Owner now").await,
    );
    prove(&mut rig.server, &former, "acme.test").await;
    let ceo = inbox(&former, json!({"username": "ceo", "domain": "acme.test"})).await;
    let registered = register(&owner, "acme.test").await;
    assert_eq!((registered.status, registered.text("status")), (201, "pending"));
    assert!(registered.body["contestedSince"].is_null() && registered.body["handoverAt"].is_null());
    publish(&mut rig.server, &owner, "acme.test").await;
    let contested = verify(&owner, "acme.test").await;
    assert_eq!(
        (contested.status, contested.text("status")),
        (200, "contested"),
        "{contested:?}"
    );
    assert!(contested.body["verifiedAt"].is_null());
    let seen = former.get("/v1/domains/acme.test").await;
    for field in ["contestedSince", "handoverAt"] {
        assert_eq!(seen.text(field), contested.text(field));
    }
    assert_eq!(
        register(&owner, "acme.test").await.text("status"),
        "contested",
        "a repetition finds it"
    );
    until("the daemon hands it over", || async {
        let read = owner.get("/v1/domains/acme.test").await;
        (read.text("status") == "verified").then_some(())
    })
    .await;
    let log = rig.daemon.log();
    assert!(
        log.contains("domain.contested") && log.contains("a domain was handed over"),
        "{log}"
    );
    let ceo_now = inbox(&owner, json!({"username": "ceo", "domain": "acme.test"})).await;
    assert_eq!(ceo_now.text("email"), "ceo@acme.test");
    assert_eq!(
        former.get("/v1/domains/acme.test").await.error(),
        (404, "NOT_FOUND")
    );
    assert_eq!(
        former.get(&format!("/v1/inboxes/{}", ceo.id())).await.error(),
        (404, "NOT_FOUND")
    );
    let agent = former.with_key(ceo.text("apiKey"));
    assert_eq!(agent.get("/v1/me").await.error(), (401, "INVALID_API_KEY"));
    let refused = former
        .post(
            "/v1/inboxes",
            &json!({"username": "still", "domain": "acme.test"}),
        )
        .await;
    assert_eq!(refused.error(), (403, "DOMAIN_NOT_ALLOWED"));
    let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
    assert_eq!(status, 0, "{said}");
}

mod a_contested_domain {
    use super::changes_hands_although_its_challenger_does_not_ask_again as test;
    use crate::support::daemon::Database;

    #[tokio::test]
    async fn changes_hands_on_sqlite() {
        test(Database::Sqlite).await;
    }

    #[tokio::test]
    async fn changes_hands_on_postgres() {
        test(Database::Postgres).await;
    }
}

#[tokio::test]
async fn more_registrations_than_may_wait_are_refused_for_now_and_another_tenants_is_not() {
    let rig = Rig::with(Database::Sqlite, "").await;
    let (acme, other) = (rig.daemon.tenant("Acme").await, rig.daemon.tenant("Other").await);
    let names: Vec<String> = (0..60).map(|number| format!("n{number}.example")).collect();
    let registrations = names.iter().map(|name| register(&acme, name));
    let (answers, others) = tokio::join!(join_all(registrations), register(&other, "other.example"));
    assert_eq!(others.status, 201, "{others:?}");
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    // Sixteen may wait for their keys, beside one whose keys are made.
    assert!(made.len() >= 16, "{} are made", made.len());
    assert!(!refused.is_empty());
    for refused in refused {
        assert_eq!(refused.error(), (429, "RATE_LIMITED"));
        assert_eq!(refused.headers["retry-after"], "1");
    }
    assert_eq!(register(&acme, "later.example").await.status, 201);
}
