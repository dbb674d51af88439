//! What is said of the records of a domain, by what a real name server answers.

mod spf;
mod spf_status;

use std::{net::UdpSocket, time::Duration};

use inboxd::{
    dns::{Dns, Settings},
    model::{
        dkim::{Algorithm, PublicKey, Selector},
        dns_records::{Purpose, SpfTerms, Wanted, records, zone},
        domain::{Challenge, RecordStatus},
    },
};

use crate::support::{dns::DnsServer, store::domain};

const DOMAIN: &str = "acme.test";
const HOST: &str = "mail.inboxd.test";

fn key(selector: &str, algorithm: Algorithm, octets: usize) -> PublicKey {
    PublicKey {
        selector: Selector::parse(selector).unwrap(),
        algorithm,
        octets: vec![65; octets],
    }
}

fn wanted() -> Wanted {
    Wanted {
        domain: domain(DOMAIN),
        challenge: Some(Challenge::parse("abc123").unwrap()),
        mx_host: HOST.to_owned(),
        spf: SpfTerms::parse("mx").unwrap(),
        keys: vec![
            key("r1", Algorithm::RsaSha256, 294),
            key("e1", Algorithm::Ed25519Sha256, 32),
        ],
    }
}

struct Rig {
    server: DnsServer,
    dns: Dns,
}

impl Rig {
    async fn new() -> Self {
        let mut server = DnsServer::start().await;
        server.set_zone("inboxd.test", "mail A 127.0.0.2").await;
        let dns = Dns::new(&Settings {
            servers: vec![server.address()],
            timeout: Duration::from_secs(5),
        });
        Self { server, dns }
    }

    /// The status of each record, by purpose, and the reasons.
    async fn check(&self) -> Vec<(&'static str, RecordStatus, String)> {
        let wanted = wanted();
        let judgements = self.dns.check(&wanted).await;
        let records = records(&wanted);
        assert_eq!(judgements.len(), records.len());
        records
            .iter()
            .zip(judgements)
            .map(|(record, judgement)| {
                let name = match &record.purpose {
                    Purpose::Dkim(key) if key.algorithm == Algorithm::Ed25519Sha256 => "ed25519",
                    other => other.as_str(),
                };
                (name, judgement.status, judgement.reason)
            })
            .collect()
    }

    async fn of(&self, purpose: &str) -> (RecordStatus, String) {
        let found = self.check().await;
        let (_, status, reason) = found.into_iter().find(|(name, ..)| *name == purpose).unwrap();
        (status, reason)
    }

    /// Serves these records and says what is found of one purpose.
    async fn with(&mut self, records: &str, purpose: &str) -> (RecordStatus, String) {
        self.server.set_zone(DOMAIN, records).await;
        self.of(purpose).await
    }
}

/// The records of our own zone file, for a zone with relative names.
fn ours() -> String {
    zone(&domain(DOMAIN), &records(&wanted()))
}

#[tokio::test]
async fn the_zone_file_is_all_that_a_domain_needs_and_a_change_is_seen_at_once() {
    let mut rig = Rig::new().await;
    rig.server.set_zone(DOMAIN, "").await;
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(status, RecordStatus::Missing, "{purpose}: {reason}");
    }
    rig.server.set_zone(DOMAIN, &ours()).await;
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(status, RecordStatus::Verified, "{purpose}: {reason}");
    }
    rig.server.set_zone(DOMAIN, "@ MX 10 mail.inboxd.test.").await;
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(
            status == RecordStatus::Verified,
            purpose == "mx",
            "{purpose}: {reason}"
        );
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn zones_are_as_people_write_them() {
    use RecordStatus::{Missing, Verified, Wrong};
    let mut rig = Rig::new().await;
    let value = |selector: &str| {
        let records = records(&wanted());
        let name = format!("{selector}._domainkey.{DOMAIN}");
        records
            .into_iter()
            .find(|record| record.name == name)
            .unwrap()
            .value
    };
    let (rsa, ed25519) = (value("r1"), value("e1"));
    // A record longer than 255 octets, cut anywhere; and a name that leads elsewhere.
    let pieces: Vec<String> = rsa
        .as_bytes()
        .chunks(37)
        .map(|piece| format!("\"{}\"", str::from_utf8(piece).unwrap()))
        .collect();
    rig.server
        .set_zone("keys.test", &format!("r1.acme TXT {}", pieces.join(" ")))
        .await;
    let far = format!("r1._domainkey CNAME r1.acme.keys.test.\ne1._domainkey TXT \"{ed25519}\"");
    for (records, purpose, status, says) in [
        (far.as_str(), "dkim", Verified, ""),
        (far.as_str(), "ed25519", Verified, ""),
        ("*._domainkey TXT \"v=spf1 -all\"", "dkim", Missing, "wildcard"),
        ("* TXT \"hello\"", "ownership", Missing, "wildcard"),
        (
            "_inboxd-challenge TXT \"inboxd-verify=abc123\"\n_inboxd-challenge TXT \"inboxd-verify=other\"",
            "ownership",
            Verified,
            "",
        ),
        (
            "_inboxd-challenge TXT \"inboxd-verify=other\"",
            "ownership",
            Wrong,
            "another challenge",
        ),
        (
            "_inboxd-challenge CNAME proof.acme.test.\nproof TXT \"inboxd-\" \"verify=abc123\"",
            "ownership",
            Verified,
            "",
        ),
        (
            &format!(
                "r1._domainkey TXT \"v=DKIM1; p=AAAA\"\nr1._domainkey TXT \"{}\"",
                &rsa[..200]
            ),
            "dkim",
            Wrong,
            "2 DKIM records",
        ),
        ("r1._domainkey TXT \"v=DKIM1; p=\"", "dkim", Wrong, "revokes"),
        // What an earlier attempt left, before it and behind it in the answer.
        (
            &format!(
                "r1._domainkey TXT {}\nr1._domainkey TXT \"AQAB7mPqQIDAQAB\"",
                pieces.join(" ")
            ),
            "dkim",
            Wrong,
            "\"AQAB7mPqQIDAQAB\"",
        ),
        (
            &format!(
                "r1._domainkey TXT {}\nr1._domainkey TXT \"{}\"",
                pieces.join(" "),
                "z".repeat(200)
            ),
            "dkim",
            Wrong,
            "undefined",
        ),
        (
            &format!(
                "r1._domainkey TXT \"{}\"\nr1._domainkey TXT \"{}\"",
                &rsa[..200],
                &rsa[200..]
            ),
            "dkim",
            Wrong,
            "spread over two",
        ),
        // What a zone file needs, and a form keeps.
        (
            &format!("e1._domainkey TXT \"\\\"{ed25519}\\\"\""),
            "ed25519",
            Missing,
            "holds quotes",
        ),
        (
            &format!("e1._domainkey TXT \"{}\"", ed25519.replace(';', "\\\\;")),
            "ed25519",
            Missing,
            "holds backslashes",
        ),
        (
            "_inboxd-challenge TXT \"\\\"inboxd-verify=abc123\\\"\"",
            "ownership",
            Missing,
            "holds quotes",
        ),
        ("@ TXT \"\\\"v=spf1 mx -all\\\"\"", "spf", Missing, "holds quotes"),
        (
            "r1._domainkey TXT \"v=DKIM1; p=AAAA\"",
            "dkim",
            Wrong,
            "another key",
        ),
        ("r1._domainkey CNAME nowhere.keys.test.", "dkim", Missing, ""),
        ("@ MX 0 .", "mx", Wrong, "null MX"),
        (
            "@ MX 10 other.test.\n@ MX 20 mail.inboxd.test.",
            "mx",
            Wrong,
            "preferred",
        ),
        (
            "@ MX 10 MAIL.Inboxd.TEST.\n@ MX 20 other.test.",
            "mx",
            Verified,
            "1 other host",
        ),
        ("@ MX 10 mx\nmx A 127.0.0.2", "mx", Verified, ""),
        ("@ MX 10 mx\nmx A 127.0.0.3", "mx", Wrong, "mx.acme.test"),
        ("@ A 127.0.0.2", "mx", Missing, ""),
        (
            "@ TXT \"v=spf1 -all\"\n@ TXT \"v=spf1 mx -all\"",
            "spf",
            Wrong,
            "2 SPF records",
        ),
        ("@ TXT \"v=spf1 ip4:127.0.0.2 -all\"", "spf", Verified, ""),
        (
            "@ TXT \"v=spf1 include:_spf.acme.test -all\"\n_spf TXT \"v=spf1 a:mail.inboxd.test -all\"",
            "spf",
            Verified,
            "",
        ),
        (
            "@ TXT \"v=spf1 redirect=_spf.acme.test\"\n_spf TXT \"v=spf1 ip4:127.0.0.0/8 ~all\"",
            "spf",
            Verified,
            "",
        ),
        (
            "@ MX 10 mail.inboxd.test.\n@ TXT \"google-site-verification=x\"\n@ TXT \"v=spf\" \"1 mx ~all\"",
            "spf",
            Verified,
            "",
        ),
        ("@ TXT \"v=spf1 ip4:192.0.2.1 ~all\"", "spf", Wrong, "softfail"),
        ("@ TXT \"v=spf1 mx +all\"", "spf", Wrong, "+all"),
        ("@ TXT \"v=spf1 nonsense:x -all\"", "spf", Wrong, "no mechanism"),
        (
            "_dmarc TXT \"v=DMARC1; p=reject; rua=mailto:x@acme.test\"",
            "dmarc",
            Verified,
            "reject",
        ),
        (
            "_dmarc TXT \"v=DMARC1; p=none\"\n_dmarc TXT \"v=DMARC1; p=reject\"",
            "dmarc",
            Wrong,
            "2 DMARC records",
        ),
        ("_dmarc TXT \"v=DMARC1\"", "dmarc", Wrong, "p="),
        (
            "_dmarc TXT \"v=DMARC1; rua=mailto:x@acme.test\"",
            "dmarc",
            Verified,
            "there is no \"p=\"",
        ),
        (
            "_dmarc TXT \"v=DMARC1; x=y; pct=1; p=reject\"",
            "dmarc",
            Verified,
            "reject",
        ),
        (
            "_dmarc TXT \"v=DMARC1; p=none; p=reject\"",
            "dmarc",
            Wrong,
            "twice",
        ),
        ("_dmarc TXT \"p=none; v=DMARC1\"", "dmarc", Missing, "begin with"),
        (
            "_dmarc TXT \"\\\"v=DMARC1; p=none\\\"\"",
            "dmarc",
            Missing,
            "holds quotes",
        ),
    ] {
        let (found, reason) = rig.with(records, purpose).await;
        assert!(
            found == status && reason.contains(says),
            "{records}\n{purpose}: {found:?} {reason}"
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_say_is_no_reason_to_say_that_a_record_is_missing() {
    let mut rig = Rig::new().await;
    // Not one of its zones.
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(status, RecordStatus::Unknown, "{purpose}: {reason}");
    }
    rig.server.break_zone(DOMAIN).await;
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(status, RecordStatus::Unknown, "{purpose}: {reason}");
    }
    // Nobody answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    rig.dns = Dns::new(&Settings {
        servers: vec![silent.local_addr().unwrap()],
        timeout: Duration::from_millis(200),
    });
    for (purpose, status, reason) in rig.check().await {
        assert_eq!(status, RecordStatus::Unknown, "{purpose}: {reason}");
    }
}

#[tokio::test]
async fn a_domain_above_speaks_for_one_below() {
    let mut rig = Rig::new().await;
    let mut below = wanted();
    below.domain = domain("mail.acme.test");
    rig.server
        .set_zone(DOMAIN, "_dmarc TXT \"v=DMARC1; p=reject; sp=quarantine\"")
        .await;
    let last = rig.dns.check(&below).await.pop().unwrap();
    assert!(
        last.status == RecordStatus::Verified && last.reason.contains("quarantine"),
        "{last:?}"
    );
}
