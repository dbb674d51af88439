//! Outcomes of SPF, DKIM, DMARC and ARC: what we say, held against independent implementations that ask the same DNS.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::rig::{BAD, GOOD, Rig, independent, letter, said};
use crate::support::dns::DnsServer;

/// A message that arrives.
struct Row {
    name: &'static str,
    client: &'static str,
    sender: &'static str,
    from: &'static str,
    /// What was done to it on its way here.
    steps: Vec<Value>,
    /// What we say.
    says: &'static str,
    /// Whether it is filed to Junk, by the default policy.
    junk: bool,
    /// Where the independent judge says something else: method, its word, and why ours is right.
    deviations: Vec<[&'static str; 3]>,
}

/// The name by which clients greet.
const HELO: &str = "mx.a.com";

fn row(name: &'static str, [client, sender, from]: [&'static str; 3], says: &'static str) -> Row {
    Row {
        name,
        client,
        sender,
        from,
        steps: Vec::new(),
        says,
        junk: false,
        deviations: Vec::new(),
    }
}

impl Row {
    fn after(mut self, steps: impl IntoIterator<Item = Value>) -> Self {
        self.steps.extend(steps);
        self
    }

    fn in_junk(mut self) -> Self {
        self.junk = true;
        self
    }

    fn but(mut self, method: &'static str, word: &'static str, why: &'static str) -> Self {
        self.deviations.push([method, word, why]);
        self
    }
}

/// Signed with the key at selector `s1`.
fn signed(domain: &str) -> Value {
    json!({"sign": {"domain": domain, "selector": "s1"}})
}

/// The same with more arguments of `write.py`.
fn signed_with(domain: &str, more: &Value) -> Value {
    let mut step = signed(domain);
    for (name, value) in more.as_object().unwrap() {
        step["sign"][name] = value.clone();
    }
    step
}

fn replaced(from: &str, to: &str) -> Value {
    json!({"replace": [from, to]})
}

fn sealed(domain: &str, results: &str) -> Value {
    json!({"seal": {"domain": domain, "selector": "s1", "host": format!("mx.{domain}"), "results": results}})
}

/// Everything that DNS has.
async fn zones(server: &mut DnsServer, keys: &str) {
    let spf = "@ TXT \"v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all\"\n";
    let zones = [
        (
            "a.com",
            format!(
                "{spf}_dmarc TXT \"v=DMARC1; p=reject\"\nmx TXT \"v=spf1 ip4:192.0.2.1 -all\"\nmx A 192.0.2.1\n\
            sub TXT \"v=spf1 ip4:192.0.2.1 -all\"\nrevoked._domainkey TXT \"v=DKIM1; p=\"\n\
            damaged._domainkey TXT \"v=DKIM1; k=rsa; p=AAAA\"\n"
            ),
        ),
        (
            "strict.com",
            format!(
                "{spf}_dmarc TXT \"v=DMARC1; p=reject; adkim=s; aspf=s\"\nsub TXT \"v=spf1 ip4:192.0.2.1 -all\"\n"
            ),
        ),
        (
            "sp.com",
            format!("{spf}_dmarc TXT \"v=DMARC1; p=none; sp=quarantine\"\nsub A 192.0.2.7\n"),
        ),
        (
            "spnone.com",
            format!("{spf}_dmarc TXT \"v=DMARC1; p=reject; sp=none\"\nsub A 192.0.2.7\n"),
        ),
        ("q.com", format!("{spf}_dmarc TXT \"v=DMARC1; p=quarantine\"\n")),
        (
            "pct.com",
            format!("{spf}_dmarc TXT \"v=DMARC1; p=quarantine; pct=0\"\n"),
        ),
        ("pnone.com", format!("{spf}_dmarc TXT \"v=DMARC1; p=none\"\n")),
        (
            "two.com",
            format!("{spf}_dmarc TXT \"v=DMARC1; p=reject\"\n_dmarc TXT \"v=DMARC1; p=none\"\n"),
        ),
        (
            "noise.com",
            format!("{spf}_dmarc TXT \"something else\"\n_dmarc TXT \"v=DMARC1; p=reject\"\n"),
        ),
        ("nodmarc.com", spf.to_owned()),
        (
            "soft.com",
            "@ TXT \"v=spf1 ip4:192.0.2.1 ~all\"\n_dmarc TXT \"v=DMARC1; p=quarantine\"\n".to_owned(),
        ),
        ("neutral.com", "@ TXT \"v=spf1 ip4:192.0.2.1 ?all\"\n".to_owned()),
        ("nospf.com", "_dmarc TXT \"v=DMARC1; p=quarantine\"\n".to_owned()),
        (
            "twospf.com",
            "@ TXT \"v=spf1 ip4:192.0.2.1 -all\"\n@ TXT \"v=spf1 +all\"\n".to_owned(),
        ),
        ("loop.com", "@ TXT \"v=spf1 include:loop.com -all\"\n".to_owned()),
        ("included.com", "@ TXT \"v=spf1 include:a.com -all\"\n".to_owned()),
        (
            "missing.com",
            "@ TXT \"v=spf1 include:nospf.com -all\"\n".to_owned(),
        ),
        (
            "byname.com",
            "@ TXT \"v=spf1 a mx -all\"\n@ A 192.0.2.1\n@ MX 10 mail\nmail A 192.0.2.2\n".to_owned(),
        ),
        ("redirected.com", "@ TXT \"v=spf1 redirect=a.com\"\n".to_owned()),
        (
            "failing.com",
            "@ TXT \"v=spf1 include:broken.com -all\"\n".to_owned(),
        ),
        (
            "behind.com",
            "@ TXT \"v=spf1 ip4:192.0.2.1 -all moo\"\n".to_owned(),
        ),
        (
            "twice.com",
            "@ TXT \"v=spf1 include:twospf.com -all\"\n".to_owned(),
        ),
        (
            "void.com",
            "@ TXT \"v=spf1 a:x.void.com a:y.void.com a:z.void.com ip4:192.0.2.1 -all\"\n".to_owned(),
        ),
        ("list.com", spf.to_owned()),
        ("other.com", spf.to_owned()),
    ];
    for (zone, records) in zones {
        server.set_zone(zone, &format!("{records}{keys}")).await;
    }
    server.break_zone("broken.com").await;
}

fn spf_rows() -> Vec<Row> {
    vec![
        row("spf passes and is aligned", [GOOD, "x@a.com", "x@a.com"], "spf=pass dkim=none dmarc=pass arc=none"),
        row("spf passes over ipv6", ["2001:db8::1", "x@a.com", "x@a.com"], "spf=pass dkim=none dmarc=pass arc=none"),
        row("spf fails", [BAD, "x@a.com", "x@a.com"], "spf=fail dkim=none dmarc=fail arc=none").in_junk(),
        row("spf fails over ipv6", ["2001:db8::2", "x@a.com", "x@a.com"], "spf=fail dkim=none dmarc=fail arc=none").in_junk(),
        row("softfail", [BAD, "x@soft.com", "x@soft.com"], "spf=softfail dkim=none dmarc=fail arc=none").in_junk(),
        row("neutral", [BAD, "x@neutral.com", "x@neutral.com"], "spf=neutral dkim=none dmarc=none arc=none"),
        row("no record", [GOOD, "x@nospf.com", "x@nospf.com"], "spf=none dkim=none dmarc=fail arc=none").in_junk(),
        row("no such domain", [GOOD, "x@nowhere.com", "x@nowhere.com"], "spf=none dkim=none dmarc=none arc=none"),
        row("two records", [GOOD, "x@twospf.com", "x@twospf.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("a record that includes itself", [GOOD, "x@loop.com", "x@loop.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("included", [GOOD, "x@included.com", "x@included.com"], "spf=pass dkim=none dmarc=none arc=none"),
        row("included, and fails there", [BAD, "x@included.com", "x@included.com"], "spf=fail dkim=none dmarc=none arc=none"),
        row("an include of nothing", [GOOD, "x@missing.com", "x@missing.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("a wrong term behind the one that matches", [GOOD, "x@behind.com", "x@behind.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("several records at an included domain", [GOOD, "x@twice.com", "x@twice.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("three answers without a record", [GOOD, "x@void.com", "x@void.com"], "spf=permerror dkim=none dmarc=none arc=none"),
        row("by address", [GOOD, "x@byname.com", "x@byname.com"], "spf=pass dkim=none dmarc=none arc=none"),
        row("by mx", ["192.0.2.2", "x@byname.com", "x@byname.com"], "spf=pass dkim=none dmarc=none arc=none"),
        row("redirected", [BAD, "x@redirected.com", "x@redirected.com"], "spf=fail dkim=none dmarc=none arc=none"),
        row("a server that fails", [GOOD, "x@broken.com", "x@broken.com"], "spf=temperror dkim=none dmarc=temperror arc=none")
            .but("dmarc", "none", "authheaders takes a failing server for one without a record; RFC 7489, 6.6.3, lets the receiver choose"),
        row("an include of a server that fails", [GOOD, "x@failing.com", "x@failing.com"], "spf=temperror dkim=none dmarc=none arc=none"),
        row("the null sender's helo passes", [GOOD, "", "x@a.com"], "spf=pass dkim=none dmarc=pass arc=none"),
        row("the null sender's helo fails", [BAD, "", "x@a.com"], "spf=fail dkim=none dmarc=fail arc=none").in_junk(),
    ]
}

fn dkim_rows() -> Vec<Row> {
    let a = |name, says| row(name, [BAD, "x@other.com", "x@a.com"], says);
    let passes = "spf=fail dkim=pass dmarc=pass arc=none";
    let fails = "spf=fail dkim=fail dmarc=fail arc=none";
    let forms = [
        "simple/simple",
        "simple/relaxed",
        "relaxed/simple",
        "relaxed/relaxed",
    ];
    let mut rows: Vec<Row> = forms
        .iter()
        .map(|form| a("each canonical form", passes).after([signed_with("a.com", &json!({"form": form}))]))
        .collect();
    rows.extend([
        a("ed25519", passes).after([signed_with("a.com", &json!({"key": "ed25519", "selector": "ed"}))]),
        a("the body was changed", fails)
            .after([signed("a.com"), replaced("dots", "dot")])
            .in_junk(),
        a("the subject was changed", fails)
            .after([signed("a.com"), replaced("a letter", "a bill")])
            .in_junk(),
        a("an unsigned field was changed", passes).after([signed("a.com"), replaced("12:00:00", "13:00:00")]),
        a("white space was changed, relaxed", passes)
            .after([signed("a.com"), replaced("Hello  there, ", "Hello \t there,")]),
        a("white space at the end was added, relaxed", passes)
            .after([signed("a.com"), replaced(".. dots\r\n", ".. dots\r\n \t \r\n")]),
        a("white space was changed, simple", fails)
            .after([
                signed_with("a.com", &json!({"form": "relaxed/simple"})),
                replaced("there, ", "there,"),
            ])
            .in_junk(),
        a("a header was folded, simple", fails)
            .after([
                signed_with("a.com", &json!({"form": "simple/simple"})),
                replaced("Subject: a", "Subject:\r\n a"),
            ])
            .in_junk(),
        a("expired", fails)
            .after([signed_with("a.com", &json!({"extra": {"x": "1700000000"}}))])
            .in_junk(),
        a("not expired", passes).after([signed_with("a.com", &json!({"extra": {"x": "4000000000"}}))]),
    ]);
    rows
}

fn key_rows() -> Vec<Row> {
    let a = |name, says| row(name, [BAD, "x@other.com", "x@a.com"], says);
    let fails = "spf=fail dkim=fail dmarc=fail arc=none";
    vec![
        a("no such key", "spf=fail dkim=permerror dmarc=fail arc=none")
            .after([signed_with("a.com", &json!({"selector": "gone"}))])
            .in_junk(),
        a("a revoked key", "spf=fail dkim=permerror dmarc=fail arc=none")
            .after([signed_with("a.com", &json!({"selector": "revoked"}))])
            .in_junk(),
        a("a damaged key", fails)
            .after([signed_with("a.com", &json!({"selector": "damaged"}))])
            .in_junk(),
        a(
            "a server that fails has the key",
            "spf=fail dkim=temperror dmarc=fail arc=none",
        )
        .after([signed("broken.com")])
        .in_junk(),
        row(
            "the author's own server fails",
            [BAD, "x@other.com", "x@broken.com"],
            "spf=fail dkim=temperror dmarc=temperror arc=none",
        )
        .after([signed("broken.com")])
        .but(
            "dmarc",
            "none",
            "as above: authheaders takes a failing server for one without a record",
        ),
        a(
            "From is not signed",
            "spf=fail dkim=permerror dmarc=fail arc=none",
        )
        .after([signed_with("a.com", &json!({"unsigned": "from"}))])
        .in_junk()
        .but(
            "dkim",
            "pass",
            "dkimpy takes a signature that leaves the author open, against RFC 6376, 5.4",
        )
        .but("dmarc", "pass", "follows from that"),
        a("SHA-1", "spf=fail dkim=permerror dmarc=fail arc=none")
            .after([signed_with("a.com", &json!({"algorithm": "rsa-sha1"}))])
            .in_junk()
            .but(
                "dkim",
                "pass",
                "dkimpy still verifies SHA-1, which RFC 8301, 3.1, forbids",
            )
            .but("dmarc", "pass", "follows from that"),
        a(
            "a part of the body is signed",
            "spf=fail dkim=policy dmarc=fail arc=none",
        )
        .after([signed_with("a.com", &json!({"length": true}))])
        .in_junk()
        .but(
            "dkim",
            "pass",
            "whoever passes it on could add what he likes (RFC 6376, 8.2)",
        )
        .but("dmarc", "pass", "follows from that"),
        a(
            "two signatures, one of somebody else",
            "spf=fail dkim=pass,pass dmarc=pass arc=none",
        )
        .after([signed("a.com"), signed("other.com")]),
        a(
            "two signatures, one broken",
            "spf=fail dkim=pass,permerror dmarc=pass arc=none",
        )
        .after([
            signed_with("other.com", &json!({"selector": "gone"})),
            signed("a.com"),
        ]),
        a(
            "somebody else's signature",
            "spf=fail dkim=pass dmarc=fail arc=none",
        )
        .after([signed("other.com")])
        .in_junk(),
        a(
            "no signature that can be read",
            "spf=fail dkim=permerror dmarc=fail arc=none",
        )
        .after([replaced(
            "From:",
            "DKIM-Signature: v=1; a=rsa-sha256; nonsense\r\nFrom:",
        )])
        .in_junk(),
    ]
}

fn dmarc_rows() -> Vec<Row> {
    let fails = "spf=fail dkim=none dmarc=fail arc=none";
    vec![
        row("p=quarantine", [BAD, "x@q.com", "x@q.com"], fails).in_junk(),
        row("p=none", [BAD, "x@pnone.com", "x@pnone.com"], fails),
        row(
            "no policy",
            [BAD, "x@nodmarc.com", "x@nodmarc.com"],
            "spf=fail dkim=none dmarc=none arc=none",
        ),
        row(
            "pct=0 is a tag of the past",
            [BAD, "x@pct.com", "x@pct.com"],
            fails,
        )
        .in_junk(),
        row(
            "sp=quarantine at the domain itself",
            [BAD, "x@sp.com", "x@sp.com"],
            fails,
        ),
        row("sp=quarantine below it", [BAD, "x@sp.com", "x@sub.sp.com"], fails).in_junk(),
        row(
            "sp=none below a domain that rejects",
            [BAD, "x@spnone.com", "x@sub.spnone.com"],
            fails,
        ),
        row(
            "below a domain without sp",
            [BAD, "x@a.com", "x@deep.sub.a.com"],
            fails,
        )
        .in_junk(),
    ]
}

fn alignment_rows() -> Vec<Row> {
    let fails = "spf=fail dkim=none dmarc=fail arc=none";
    let strict = |name, sender, says| row(name, [GOOD, sender, "x@strict.com"], says);
    vec![
        row(
            "relaxed spf, from below",
            [GOOD, "x@sub.a.com", "x@a.com"],
            "spf=pass dkim=none dmarc=pass arc=none",
        ),
        row(
            "relaxed spf, from above",
            [GOOD, "x@a.com", "x@sub.a.com"],
            "spf=pass dkim=none dmarc=pass arc=none",
        ),
        row(
            "relaxed dkim, from above",
            [BAD, "x@a.com", "x@sub.a.com"],
            "spf=fail dkim=pass dmarc=pass arc=none",
        )
        .after([signed("a.com")]),
        strict(
            "strict spf",
            "x@strict.com",
            "spf=pass dkim=none dmarc=pass arc=none",
        ),
        strict(
            "strict spf, from below",
            "x@sub.strict.com",
            "spf=pass dkim=none dmarc=fail arc=none",
        )
        .in_junk(),
        row(
            "strict dkim, from above",
            [BAD, "x@a.com", "x@strict.com"],
            "spf=fail dkim=pass dmarc=pass arc=none",
        )
        .after([signed("strict.com")]),
        row(
            "spf of another domain",
            [GOOD, "x@other.com", "x@a.com"],
            "spf=pass dkim=none dmarc=fail arc=none",
        )
        .in_junk(),
        row(
            "two policies are none",
            [BAD, "x@two.com", "x@two.com"],
            "spf=fail dkim=none dmarc=none arc=none",
        ),
        row(
            "other records beside the policy",
            [BAD, "x@noise.com", "x@noise.com"],
            fails,
        )
        .in_junk(),
        row(
            "two authors of one domain",
            [GOOD, "x@a.com", "x@a.com, y@a.com"],
            "spf=pass dkim=none dmarc=pass arc=none",
        ),
        row(
            "two authors of two domains",
            [GOOD, "x@pnone.com", "x@pnone.com, y@q.com"],
            "spf=pass dkim=none dmarc=pass,fail arc=none",
        )
        .in_junk()
        .but(
            "dmarc",
            "fail",
            "one verdict for each author; the strictest counts in both",
        ),
        row(
            "a name that looks like an address",
            [GOOD, "x@other.com", "\"y@a.com\" <x@other.com>"],
            "spf=pass dkim=none dmarc=none arc=none",
        ),
    ]
}

fn arc_rows() -> Vec<Row> {
    let passed = "dmarc=pass header.from=a.com";
    let through = |name, says| row(name, [GOOD, "x@list.com", "x@a.com"], says).after([signed("a.com")]);
    let changed = || replaced("Subject: a letter", "Subject: [list] a letter");
    vec![
        through("a list that is trusted", "spf=pass dkim=fail dmarc=fail arc=pass")
            .after([changed(), sealed("list.com", passed)]),
        through("a list that is not", "spf=pass dkim=fail dmarc=fail arc=pass")
            .after([changed(), sealed("other.com", passed)])
            .in_junk(),
        through(
            "a trusted list that saw it fail",
            "spf=pass dkim=fail dmarc=fail arc=pass",
        )
        .after([changed(), sealed("list.com", "dmarc=fail header.from=a.com")])
        .in_junk(),
        through(
            "a trusted list that saw another one",
            "spf=pass dkim=fail dmarc=fail arc=pass",
        )
        .after([changed(), sealed("list.com", "dmarc=pass header.from=other.com")])
        .in_junk(),
        through(
            "changed behind the list",
            "spf=pass dkim=fail dmarc=fail arc=fail",
        )
        .after([
            changed(),
            sealed("list.com", passed),
            replaced("[list]", "[list!]"),
        ])
        .in_junk(),
        through("the seal was changed", "spf=pass dkim=fail dmarc=fail arc=fail")
            .after([
                changed(),
                sealed("list.com", "dmarc=fail header.from=a.com"),
                replaced("dmarc=fail header", "dmarc=pass header"),
            ])
            .in_junk(),
        through(
            "two lists, both trusted",
            "spf=pass dkim=fail dmarc=fail arc=pass",
        )
        .after([
            changed(),
            sealed("list.com", passed),
            sealed("list.com", "arc=pass"),
        ]),
        through(
            "a stranger's word, sealed once more",
            "spf=pass dkim=fail dmarc=fail arc=pass",
        )
        .after([
            changed(),
            sealed("other.com", passed),
            sealed("list.com", "arc=pass"),
        ])
        .in_junk(),
        through("sealed and not changed", "spf=pass dkim=pass dmarc=pass arc=pass")
            .after([sealed("other.com", passed)]),
    ]
}

/// Whether our word means what the judge's does: it has one word for all signatures that do not hold.
fn agrees(ours: &str, theirs: &str) -> bool {
    ours == theirs || (theirs == "fail" && matches!(ours, "permerror" | "policy" | "neutral"))
}

#[tokio::test]
async fn verdicts_are_those_of_independent_implementations() {
    let mut rig = Rig::start("inbound.trusted_arc_sealers = [\"list.com\"]\n").await;
    let records = rig.keys.records();
    zones(&mut rig.server, &records).await;
    let rows: Vec<Row> = [
        spf_rows(),
        dkim_rows(),
        key_rows(),
        dmarc_rows(),
        alignment_rows(),
        arc_rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let texts: Vec<(String, Vec<Value>)> = rows
        .iter()
        .map(|row| (letter(row.from), row.steps.clone()))
        .collect();
    let messages = rig.keys.write(&texts);
    let mails: Vec<_> = messages
        .iter()
        .zip(&rows)
        .map(|(message, row)| (message.clone(), [row.client, HELO, row.sender]))
        .collect();
    let theirs = independent(&rig.server, &mails);

    let mut faults = Vec::new();
    let mut outcomes = BTreeSet::new();
    for ((row, (message, envelope)), theirs) in rows.iter().zip(&mails).zip(&theirs) {
        let judged = rig.judge(*envelope, message).await;
        let ours = said(&judged);
        outcomes.extend(ours.split([' ', ',']).map(ToOwned::to_owned));
        if ours != row.says {
            let field = judged.field("Authentication-Results");
            faults.push(format!(
                "{}: we say {ours}, not {} ({field:?})",
                row.name, row.says
            ));
        }
        if judged.field("X-Inboxd-Junk").is_some() != row.junk {
            faults.push(format!("{}: {:?}", row.name, judged.inserted));
        }
        faults.extend(disagreement(row, &ours, theirs));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The table has what it should have.
    for outcome in [
        "spf=pass",
        "spf=fail",
        "spf=softfail",
        "spf=neutral",
        "spf=none",
        "spf=temperror",
        "spf=permerror",
        "dkim=pass",
        "dkim=fail",
        "dkim=none",
        "dkim=temperror",
        "dkim=permerror",
        "dkim=policy",
        "dmarc=pass",
        "dmarc=fail",
        "dmarc=none",
        "dmarc=temperror",
        "arc=pass",
        "arc=fail",
        "arc=none",
    ] {
        assert!(outcomes.contains(outcome), "no row has {outcome}: {outcomes:?}");
    }
}

/// Where the judge says something else than we do, and the row does not say so.
fn disagreement(row: &Row, ours: &str, theirs: &Value) -> Option<String> {
    let of = |method: &str| {
        let words = ours
            .split(' ')
            .find_map(|part| part.strip_prefix(method)?.strip_prefix('='));
        words.unwrap().to_owned()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let dkim: Vec<String> = theirs["dkim"].as_array().unwrap().iter().map(text).collect();
    let dkim = if dkim.is_empty() {
        vec!["none".to_owned()]
    } else {
        dkim
    };
    // We list an author's own signatures first.
    let sorted = |words: Vec<String>| {
        let mut words: Vec<String> = words
            .into_iter()
            .map(|word| {
                if agrees(&word, "fail") {
                    "fail".to_owned()
                } else {
                    word
                }
            })
            .collect();
        words.sort();
        words.join(",")
    };
    let our_dkim = of("dkim").split(',').map(ToOwned::to_owned).collect();
    let pairs = [
        ("spf", of("spf"), text(&theirs["spf"])),
        ("dkim", sorted(our_dkim), sorted(dkim)),
        ("dmarc", of("dmarc"), text(&theirs["dmarc"])),
        ("arc", of("arc"), text(&theirs["arc"])),
    ];
    let differing: Vec<_> = pairs
        .iter()
        .filter(|(_, ours, theirs)| !agrees(ours, theirs))
        .collect();
    let explained = |(method, _, theirs): &&&(&str, String, String)| {
        row.deviations
            .iter()
            .any(|[which, word, _]| which == method && *word == theirs.as_str())
    };
    let unexplained: Vec<_> = differing.iter().filter(|pair| !explained(pair)).collect();
    if !unexplained.is_empty() {
        return Some(format!("{}: the judge differs: {unexplained:?}", row.name));
    }
    if row.deviations.len() > differing.len() {
        return Some(format!("{}: the judge deviates less than the row says", row.name));
    }
    None
}
