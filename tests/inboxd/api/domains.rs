//! Custom domains: registered, proved by what a real name server answers, changed, deleted.

use serde_json::{Value, json};

use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    dns::DnsServer,
    domains::{MX_HOST, asking, insert_domain, name_server, prove, publish, register, verify, zone_of},
};

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
            ("?status=", "status", "pending, verified, degraded or failed"),
            ("?status=Verified", "status", "pending, verified, degraded or failed"),
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
        // Nor does anybody else get it, or what is below it.
        let third = rig.daemon.tenant("Third").await;
        assert_eq!(register(&third, "acme.test").await.error(), (409, "DOMAIN_TAKEN"));
        assert_eq!(register(&third, "mail.acme.test").await.error(), (409, "DOMAIN_TAKEN"));
        assert_eq!(register(winner, "mail.acme.test").await.status, 201);
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
        let check = async || {
            let (status, said) = rig.daemon.command(&["maps", "check", "--no-dovecot"]).await;
            assert_eq!(status, 0, "{said}");
        };
        assert_eq!(acme.patch(path, &json!({"catchAll": scout.id()})).await.text("catchAll"), scout.id());
        check().await;
        assert_eq!(acme.patch(path, &json!({})).await.text("catchAll"), scout.id(), "what is left out stays");
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
