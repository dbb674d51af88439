//! SPF as RFC 7208 has it: the test suite of the RFC, and generated records that pyspf and checkdmarc judge, too.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    time::Duration,
};

use inboxd::{
    dns::{
        Lookup, Settings,
        spf::{Client, Found, Names, check},
    },
    model::spf::{FaultKind, Verdict},
};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::dns::DnsServer;

/// What `make test` installs to judge mail.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/verifier/bin/python");
const SUITE_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier/spf_suite.py");
const JUDGE_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/verifier/spf_judge.py");
const SUITE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/target/verifier/source/test/rfc7208-tests.yml"
);
/// Names of a chain of CNAME records that are followed.
const CHAIN_MAX: usize = 8;

/// A verdict in RFC 7208's words.
fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Decided { qualifier, .. } => qualifier.as_str(),
        Verdict::None => "none",
        Verdict::TempError(_) => "temperror",
        Verdict::PermError(_) => "permerror",
    }
}

/// The output of a script of the verifiers.
fn python(arguments: &[&str], input: &str) -> Vec<u8> {
    let mut child = Command::new(PYTHON)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/install-verifier");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

#[derive(Deserialize)]
struct Scenario {
    description: String,
    zone: HashMap<String, Vec<(String, Value)>>,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    client: IpAddr,
    helo: String,
    sender: String,
    results: Vec<String>,
}

/// The zone of a scenario, asked as DNS.
struct Zone(HashMap<String, Vec<(String, Value)>>);

impl Zone {
    fn records<T>(&self, name: &str, kind: &str, take: impl Fn(&str) -> T) -> Found<T> {
        let mut name = name.trim_end_matches('.').to_ascii_lowercase();
        for _ in 0..CHAIN_MAX {
            let Some(records) = self.0.get(&name) else {
                return Ok(Vec::new());
            };
            let of_kind = |wanted: &str| {
                let wanted = wanted.to_owned();
                records
                    .iter()
                    .filter(move |(kind, _)| *kind == wanted)
                    .map(|(_, value)| value)
            };
            let found: Vec<&str> = of_kind(kind).map(|value| value.as_str().unwrap()).collect();
            if found.contains(&"TIMEOUT") || (found.is_empty() && of_kind("TIMEOUT").next().is_some()) {
                return Err("timed out".to_owned());
            }
            match of_kind("CNAME").next().filter(|_| found.is_empty()) {
                Some(next) => name = next.as_str().unwrap().trim_end_matches('.').to_ascii_lowercase(),
                None => return Ok(found.into_iter().map(take).collect()),
            }
        }
        Err("a chain of CNAME records without an end".to_owned())
    }
}

impl Names for Zone {
    async fn txt(&self, name: &str) -> Found<Vec<u8>> {
        self.records(name, "TXT", |text| text.as_bytes().to_vec())
    }

    async fn ipv4(&self, name: &str) -> Found<Ipv4Addr> {
        self.records(name, "A", |text| text.parse().unwrap())
    }

    async fn ipv6(&self, name: &str) -> Found<Ipv6Addr> {
        self.records(name, "AAAA", |text| text.parse().unwrap())
    }

    async fn mx(&self, name: &str) -> Found<String> {
        self.records(name, "MX", str::to_owned)
    }

    async fn ptr(&self, name: &str) -> Found<String> {
        self.records(name, "PTR", |text| text.trim_end_matches('.').to_owned())
    }
}

#[tokio::test]
async fn the_test_suite_of_the_rfc_holds() {
    let suite: Vec<Scenario> = serde_json::from_slice(&python(&[SUITE_SCRIPT, SUITE], "")).unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for Scenario {
        description,
        zone,
        tests,
    } in suite
    {
        let zone = Zone(zone);
        for case in tests {
            let of_helo = format!("postmaster@{}", case.helo);
            let client = Client {
                address: case.client,
                helo: &case.helo,
                sender: if case.sender.is_empty() {
                    &of_helo
                } else {
                    &case.sender
                },
            };
            let domain = client
                .sender
                .rsplit_once('@')
                .map_or(client.sender, |(_, domain)| domain);
            let verdict = check(&zone, &client, domain).await;
            count += 1;
            if !case.results.iter().any(|result| result == word(&verdict)) {
                wrong.push(format!(
                    "{description}: {}: {:?}, not {verdict:?}",
                    case.name, case.results
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // An empty suite proves nothing.
    assert!(count > 190, "{count}");
}

/// Records that are generated: enough that every pair of terms comes together, few enough for seconds.
const GENERATED: usize = 400;
/// What the generated records lead to.
const WORLD: &str = "\
host A 192.0.2.10
host AAAA 2001:db8::10
v4 A 192.0.2.11
near A 192.0.2.77
near AAAA 2001:db8::7777
alias CNAME host
lost CNAME nothing
pass TXT \"v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all\"
fail TXT \"v=spf1 -all\"
soft TXT \"v=spf1 ip4:198.51.100.0/24 ~all\"
silent TXT \"v=spf1 ip4:198.51.100.0/24\"
broken TXT \"v=spf1 ip4:192.0.2 -all\"
broken-behind TXT \"v=spf1 all moo\"
two TXT \"v=spf1 -all\"
two TXT \"v=spf1 mx -all\"
loop TXT \"v=spf1 include:loop.gen.test -all\"
five TXT \"v=spf1 a:v4.gen.test a:v4.gen.test a:v4.gen.test a:v4.gen.test ?all\"
chain TXT \"v=spf1 redirect=five.gen.test\"
macros TXT \"v=spf1 exists:%{ir}.%{v}.%{l}.is.gen.test -all\"
10.2.0.192.in-addr.postmaster.is A 127.0.0.2
mx MX 10 v4
mx MX 20 host
mx-null MX 0 .
mx-far MX 10 nothing
mx-six MX 10 host
mx-many MX 1 a1
mx-many MX 2 a2
mx-many MX 3 a3
mx-many MX 4 a4
mx-many MX 5 a5
mx-many MX 6 a6
mx-many MX 7 a7
mx-many MX 8 a8
mx-many MX 9 a9
mx-many MX 10 a10
mx-many MX 11 host
long TXT \"v=spf1 \" \"ip4:192.0.2.10 \" \"-all\"
";

/// A term, mostly one of the grammar.
fn term() -> impl Strategy<Value = String> {
    let domain = prop_oneof![
        6 => proptest::sample::select(vec![
            "host", "v4", "near", "alias", "lost", "nothing", "pass", "fail", "soft", "silent", "two", "loop",
            "five", "chain", "macros", "mx", "mx-null", "mx-far", "mx-six", "mx-many", "long",
        ])
        .prop_map(|name| format!("{name}.gen.test")),
        1 => proptest::sample::select(vec![
            "broken.gen.test", "broken-behind.gen.test", "%{d}", "%{d2}", "%{o}", "%{h}", "host.%{d2}.", "%{p}",
            "%{l}.gen.test", "host.gen..test", "%{v}.%{d2}", "pass.%{dr2}",
        ])
        .prop_map(str::to_owned),
    ];
    let lengths = proptest::sample::select(vec![
        "", "", "", "/24", "/32", "/0", "//64", "/24//64", "//0", "//128",
    ]);
    let qualifier = proptest::sample::select(vec!["", "", "", "+", "-", "~", "?"]);
    let good = prop_oneof![
        2 => Just("a".to_owned()),
        2 => Just("mx".to_owned()),
        4 => (domain.clone(), lengths.clone()).prop_map(|(domain, lengths)| format!("a:{domain}{lengths}")),
        3 => (domain.clone(), lengths).prop_map(|(domain, lengths)| format!("mx:{domain}{lengths}")),
        4 => domain.clone().prop_map(|domain| format!("include:{domain}")),
        2 => domain.clone().prop_map(|domain| format!("exists:{domain}")),
        1 => Just("ptr".to_owned()),
        1 => domain.clone().prop_map(|domain| format!("ptr:{domain}")),
        4 => (0_u32..33, proptest::sample::select(vec!["192.0.2.10", "192.0.2.200", "203.0.113.9", "10.0.0.0"]))
            .prop_map(|(bits, address)| format!("ip4:{address}/{bits}")),
        3 => (0_u32..129, proptest::sample::select(vec!["2001:db8::10", "2001:db8:1::", "::1", "::ffff:192.0.2.10"]))
            .prop_map(|(bits, address)| format!("ip6:{address}/{bits}")),
        2 => Just("all".to_owned()),
    ];
    let bad = proptest::sample::select(vec![
        "ip4:192.0.2.300",
        "ip4:192.0.2.010",
        "ip4:192.0.2.1/",
        "ip4:192.0.2.1/33",
        "ip6:2001:db8::/129",
        "ip6:192.0.2.1",
        "a/33",
        "a//129",
        "mx/033",
        "a:foo",
        "a:foo.1",
        "a:192.0.2.1",
        "1x=foo",
        "moo",
        "all:x",
        "all/8",
        "include",
        "include:",
        "include:host.gen.test/24",
        "exists",
        "ptr/0",
        "a:%{x}.gen.test",
        "a:%{d0}.gen.test",
        "x=%",
        "x=%{q}",
        "redirect:pass.gen.test",
        "ip4:192.0.2.1//32",
        "a:%{c}.gen.test",
    ]);
    let modifier = proptest::sample::select(vec![
        "x=y",
        "moo.cow-far_out=man:dog/cat",
        "x.y=%{d}",
        "exp=host.gen.test",
        "redirect=pass.gen.test",
        "redirect=fail.gen.test",
        "redirect=nothing.gen.test",
        "redirect=broken.gen.test",
        "redirect=%{d2}.",
    ]);
    prop_oneof![
        30 => (qualifier, good).prop_map(|(qualifier, term)| format!("{qualifier}{term}")),
        2 => bad.prop_map(str::to_owned),
        3 => modifier.prop_map(str::to_owned),
    ]
}

/// Where pyspf says something else of a record, and why ours is right.
fn reason_to_differ(record: &str) -> Option<&'static str> {
    record
        .contains("%{dr2}")
        .then_some("pyspf takes transformers in the wrong order; 7.1 has digits before the \"r\", and so does checkdmarc")
}

#[tokio::test]
async fn generated_records_are_judged_as_pyspf_does() {
    let mut runner = TestRunner::deterministic();
    let terms = proptest::collection::vec(term(), 1..9);
    let records: Vec<String> = (0..GENERATED)
        .map(|_| {
            format!(
                "v=spf1 {}",
                terms.new_tree(&mut runner).unwrap().current().join(" ")
            )
        })
        .collect();
    let mut zone = WORLD.to_owned();
    for (number, record) in records.iter().enumerate() {
        writeln!(zone, "n{number} TXT \"{record}\"").unwrap();
        // What `a` and `mx` alone are about.
        let own: &[&str] = match number % 4 {
            0 => &[],
            1 => &["A 192.0.2.10", "MX 10 host"],
            2 => &["A 192.0.2.11", "MX 10 v4", "MX 20 host"],
            _ => &["MX 10 nothing"],
        };
        for data in own {
            writeln!(zone, "n{number} {data}").unwrap();
        }
    }
    let mut server = DnsServer::start().await;
    server.set_zone("gen.test", &zone).await;
    server
        .set_zone("2.0.192.in-addr.arpa", "10 PTR host.gen.test.")
        .await;
    server.set_zone("113.0.203.in-addr.arpa", "").await;
    server.set_zone("8.b.d.0.1.0.0.2.ip6.arpa", "").await;
    let clients = ["192.0.2.10", "2001:db8::10", "203.0.113.9"];
    let asked: Vec<(String, &str)> = (0..records.len())
        .flat_map(|number| clients.map(|client| (format!("n{number}.gen.test"), client)))
        .collect();
    let asked_of_them: Vec<Value> = asked
        .iter()
        .map(|(domain, client)| {
            json!({"domain": domain, "client": client, "sender": format!("postmaster@{domain}"), "helo": "host.gen.test"})
        })
        .collect();
    let port = server.address().port().to_string();
    let theirs = python(&[JUDGE_SCRIPT, &port], &Value::from(asked_of_them).to_string());
    let theirs: Vec<Value> = serde_json::from_slice(&theirs).unwrap();
    assert_eq!(theirs.len(), asked.len());
    let lookup = Lookup::new(&Settings {
        servers: vec![server.address()],
        timeout: Duration::from_secs(10),
    });
    let (mut wrong, mut words) = (Vec::new(), HashMap::new());
    for (index, ((domain, client), theirs)) in asked.iter().zip(&theirs).enumerate() {
        let sender = format!("postmaster@{domain}");
        let client = Client {
            address: client.parse().unwrap(),
            helo: "host.gen.test",
            sender: &sender,
        };
        let ours = lookup.spf(&client, domain).await;
        let record = &records[index / clients.len()];
        *words.entry(word(&ours)).or_insert(0) += 1;
        if theirs["result"] != word(&ours) && reason_to_differ(record).is_none() {
            wrong.push(format!(
                "{domain} {}: {record}\n    {ours:?}\n    {theirs}",
                client.address
            ));
        }
        let is_syntax =
            matches!(&ours, Verdict::PermError(fault) if matches!(fault.kind, FaultKind::Syntax(_)));
        // It follows a redirect that no evaluation gets to.
        let leads_to_broken = record.contains("=broken.gen.test");
        if theirs["checkdmarc"] == "SPFSyntaxError" && !is_syntax && !leads_to_broken {
            wrong.push(format!("{domain}: {record}\n    {ours:?}\n    {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
    // Records of one kind only would prove little.
    for word in ["pass", "fail", "softfail", "neutral", "permerror"] {
        assert!(words.get(word).is_some_and(|&count| count > 30), "{words:?}");
    }
}
