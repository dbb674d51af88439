//! The status of a domain's SPF record, and the advice for each fault, by what a real name server answers.

use std::{fmt::Write as _, time::Duration};

use inboxd::{
    dns::{Dns, Settings},
    model::{
        dns_records::{Purpose, SpfTerms, Wanted, judge::Judgement, records},
        domain::RecordStatus,
    },
};

use crate::support::{dns::DnsServer, store::domain};

const DOMAIN: &str = "acme.test";
const HOST: &str = "mail.inboxd.test";

/// A name server, and a host of ours with addresses of both families.
struct Rig {
    server: DnsServer,
    dns: Dns,
}

impl Rig {
    async fn new() -> Self {
        let mut server = DnsServer::start().await;
        server
            .set_zone("inboxd.test", "mail A 192.0.2.10\nmail AAAA 2001:db8::10")
            .await;
        let dns = Dns::new(&Settings {
            servers: vec![server.address()],
            timeout: Duration::from_secs(10),
        });
        Self { server, dns }
    }

    /// What is said of the SPF record of a zone.
    async fn of(&mut self, zone: &str, terms: &str) -> Judgement {
        self.server.set_zone(DOMAIN, zone).await;
        let wanted = Wanted {
            domain: domain(DOMAIN),
            challenge: None,
            mx_host: HOST.to_owned(),
            spf: SpfTerms::parse(terms).unwrap(),
            keys: Vec::new(),
        };
        let judgements = self.dns.check(&wanted).await;
        let mut of_spf = records(&wanted).into_iter().zip(judgements);
        let (_, judgement) = of_spf.find(|(record, _)| record.purpose == Purpose::Spf).unwrap();
        judgement
    }

    /// The same for a record beside those that all rows have.
    async fn with(&mut self, record: &str) -> Judgement {
        let mut zone = format!("@ MX 10 {HOST}.\n@ TXT \"{record}\"\nmany-hosts MX 10 {HOST}.\n");
        for number in 0..12 {
            writeln!(
                zone,
                "l{number} TXT \"v=spf1 include:l{}.acme.test -all\"",
                number + 1
            )
            .unwrap();
            writeln!(zone, "many-hosts MX {number} host{number}").unwrap();
        }
        zone += "l12 TXT \"v=spf1 -all\"\nbroken TXT \"v=spf1 ip4:192.0.2.300 -all\"\n\
                 other TXT \"v=spf1 ip4:203.0.113.1 -all\"\ntwo TXT \"v=spf1 mx\"\ntwo TXT \"v=spf1 a\"\n";
        self.of(&zone, "mx").await
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_fault_is_found_and_named() {
    use RecordStatus::{Verified, Wrong};
    let mut rig = Rig::new().await;
    for (record, status, says) in [
        ("v=spf1 mx -all", Verified, "lets this server send"),
        // A wrong term, wherever it stands.
        ("v=spf1 mx ip4:192.0.2.300 -all", Wrong, "\"ip4:192.0.2.300\""),
        ("v=spf1 ip4:192.0.2.300 mx -all", Wrong, "\"ip4:192.0.2.300\""),
        ("v=spf1 mx ip4:203.0.113.05 -all", Wrong, "\"ip4:203.0.113.05\""),
        ("v=spf1 mx ip4:203.0.113.5/ -all", Wrong, "\"ip4:203.0.113.5/\""),
        (
            "v=spf1 mx ip4:203.0.113.0/33 -all",
            Wrong,
            "\"ip4:203.0.113.0/33\"",
        ),
        ("v=spf1 mx/33 -all", Wrong, "\"mx/33\""),
        ("v=spf1 mx a/99 -all", Wrong, "\"a/99\""),
        ("v=spf1 mx a//129 -all", Wrong, "\"a//129\""),
        (
            "v=spf1 mx ip6:2001:db8::/129 -all",
            Wrong,
            "\"ip6:2001:db8::/129\"",
        ),
        (
            "v=spf1 mx ip6:2001:db8::/200 -all",
            Wrong,
            "\"ip6:2001:db8::/200\"",
        ),
        ("v=spf1 mx ip6:192.0.2.1 -all", Wrong, "\"ip6:192.0.2.1\""),
        ("v=spf1 mx 1x=foo -all", Wrong, "\"1x=foo\""),
        ("v=spf1 mx a:foo -all", Wrong, "\"a:foo\""),
        ("v=spf1 mx a:%{x}.acme.test -all", Wrong, "\"a:%{x}.acme.test\""),
        (
            "v=spf1 mx -all redirect=other.acme.test redirect=other.acme.test",
            Wrong,
            "second time",
        ),
        ("v=spf1 mx -all moo.cow-far_out=man:dog/cat", Verified, ""),
        ("v=spf1 mx moo.cow-far_out=man:dog/cat -all", Verified, ""),
        // Nothing is fetched for an explanation.
        ("v=spf1 mx -all exp=nothing.acme.test", Verified, ""),
        // Limits.
        (
            "v=spf1 a:n1.acme.test a:n2.acme.test a:n3.acme.test mx -all",
            Wrong,
            "\"n1.acme.test\", \"n2.acme.test\", \"n3.acme.test\"",
        ),
        ("v=spf1 a:n1.acme.test a:n2.acme.test mx -all", Verified, ""),
        (
            "v=spf1 exists:n1.acme.test a:n2.acme.test mx:n3.acme.test mx -all",
            Wrong,
            "find nothing",
        ),
        (
            "v=spf1 include:l0.acme.test mx -all",
            Wrong,
            "more than ten look-ups",
        ),
        ("v=spf1 include:l4.acme.test mx -all", Verified, ""),
        (
            "v=spf1 include:l3.acme.test mx -all",
            Wrong,
            "\"mx\" in the record of \"acme.test\"",
        ),
        ("v=spf1 mx include:l0.acme.test -all", Verified, ""),
        (
            "v=spf1 include:acme.test mx -all",
            Wrong,
            "more than ten look-ups",
        ),
        ("v=spf1 mx:many-hosts.acme.test -all", Wrong, "more than 10 hosts"),
        // Included records.
        (
            "v=spf1 include:broken.acme.test mx -all",
            Wrong,
            "the SPF record of \"broken.acme.test\"",
        ),
        (
            "v=spf1 include:nothing.acme.test mx -all",
            Wrong,
            "\"include:nothing.acme.test\"",
        ),
        (
            "v=spf1 redirect=nothing.acme.test",
            Wrong,
            "without an SPF record",
        ),
        ("v=spf1 include:two.acme.test mx -all", Wrong, "one of 2"),
        // Advice that helps.
        (
            "v=spf1 ip4:203.0.113.1 ~all",
            Wrong,
            "says softfail for this server's address 192.0.2.10 (by \"~all\"); add \"mx\" before \"~all\"",
        ),
        ("v=spf1 ip4:192.0.2.10 -all", Wrong, "2001:db8::10"),
        (
            "v=spf1",
            Wrong,
            "says neutral for this server's address 192.0.2.10 (no term matches); add \"mx\" at its end",
        ),
        (
            "v=spf1 redirect=other.acme.test",
            Wrong,
            "add \"mx\" before \"redirect=other.acme.test\"",
        ),
        (
            "v=spf1 -ip4:192.0.2.0/24 mx -all",
            Wrong,
            "move it before \"-ip4:192.0.2.0/24\"",
        ),
        (
            "v=spf1 -all mx",
            Wrong,
            "\"mx\" stands where it is never reached: move it before \"-all\"",
        ),
        (
            "v=spf1 a:n1.acme.test a:n2.acme.test a:acme.test mx -all",
            Wrong,
            "find nothing",
        ),
        // Macros.
        (
            "v=spf1 exists:%{ir}.%{v}.acme.test include:%{d1r}.acme.test mx -all",
            Wrong,
            "include:%{d1r}.acme.test",
        ),
        ("v=spf1 mx:%{d2} -all", Verified, ""),
        ("v=spf1 mx +all", Wrong, "+all"),
        ("v=spf1 -all +all", Wrong, "add \"mx\" before \"-all\""),
    ] {
        let judgement = rig.with(record).await;
        assert!(
            judgement.status == status && judgement.reason.contains(says),
            "{record}: {judgement:?}"
        );
    }
}

#[tokio::test]
async fn advice_that_would_not_help_is_not_given() {
    let mut rig = Rig::new().await;
    let elsewhere = "@ MX 10 other\nother A 203.0.113.7\nother AAAA 2001:db8::7\n";
    for (zone, terms, says) in [
        (
            format!("{elsewhere}@ TXT \"v=spf1 mx -all\""),
            "mx",
            "\"mx\" is in it, but does not stand for this address: the domain's MX record has to name mail.inboxd.test first",
        ),
        (
            format!("{elsewhere}@ TXT \"v=spf1 -all\""),
            "mx",
            "adding \"mx\" would not help yet",
        ),
        (
            "@ TXT \"v=spf1 -all\"".to_owned(),
            "mx",
            "the domain's MX record has to name mail.inboxd.test first",
        ),
        (
            "@ TXT \"v=spf1 -all\"\nspf TXT \"v=spf1 -all\"".to_owned(),
            "include:spf.acme.test",
            "what it names has to have this server's address first",
        ),
        (
            "@ TXT \"v=spf1 -all\"".to_owned(),
            "include:spf.acme.test",
            "adding \"include:spf.acme.test\" would not help: then \"include:spf.acme.test\"",
        ),
    ] {
        let judgement = rig.of(&zone, terms).await;
        assert!(
            judgement.status == RecordStatus::Wrong && judgement.reason.contains(says),
            "{zone}: {judgement:?}"
        );
    }
}

#[tokio::test]
async fn the_record_is_found_among_any_number_of_others() {
    let mut rig = Rig::new().await;
    // Over TCP: they do not fit into a datagram. A message has room for 64 KiB.
    for (count, length) in [(1, 1), (49, 1), (50, 1), (59, 100), (700, 1), (220, 255)] {
        let mut zone = format!("@ MX 10 {HOST}.\n@ TXT \"v=spf1 mx -all\"\n");
        for number in 0..count {
            let text = format!("{:<length$}", format!("k{number}="));
            writeln!(zone, "@ TXT \"{}\"", text.replace(' ', "x")).unwrap();
        }
        let judgement = rig.of(&zone, "mx").await;
        assert_eq!(
            judgement.status,
            RecordStatus::Verified,
            "{count} others of {length}: {judgement:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_fails_is_no_fault_of_the_record() {
    let mut rig = Rig::new().await;
    rig.server.set_zone("failing.test", "").await;
    rig.server.break_zone("failing.test").await;
    for record in [
        "v=spf1 include:failing.test mx -all",
        "v=spf1 a:failing.test mx -all",
        "v=spf1 redirect=failing.test",
    ] {
        let judgement = rig.with(record).await;
        assert_eq!(judgement.status, RecordStatus::Unknown, "{record}: {judgement:?}");
    }
    // It is not asked for what comes behind the term that matches.
    let judgement = rig.with("v=spf1 mx include:failing.test -all").await;
    assert_eq!(judgement.status, RecordStatus::Verified, "{judgement:?}");
}
