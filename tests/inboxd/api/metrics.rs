//! Metrics: a closed set of series, which Prometheus's own tools, the dashboard and the alert rules agree with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use inboxd::telemetry::metric::{self, Kind, Values};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    api::Api,
    daemon::{Daemon, Database},
};

/// Debian's package `prometheus` has it (`scripts/install-deps test`).
const PROMTOOL: &str = "/usr/bin/promtool";
const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging");

/// A series as a scrape shows it: its name, and its labels.
type Series = (String, BTreeMap<String, String>);

async fn scrape(daemon: &Daemon) -> String {
    let answer = reqwest::get(&daemon.metrics).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    answer.text().await.unwrap()
}

/// The series of a scrape. Label values of ours hold neither quotes nor commas.
fn series(text: &str) -> BTreeSet<Series> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
                let (label, value) = label.split_once('=').unwrap();
                (label.to_owned(), value.trim_matches('"').to_owned())
            });
            (name.to_owned(), labels.collect())
        })
        .collect()
}

/// The metric that a series belongs to.
fn metric_of(name: &str) -> &'static metric::Metric {
    let found = metric::ALL.iter().find(|metric| match metric.kind {
        Kind::Counter => metric.name == name,
        Kind::Histogram(..) => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
    });
    found.unwrap_or_else(|| panic!("{name} is not in the table of metrics"))
}

/// Sends requests with methods and paths of a stranger's invention over one connection, and reads all answers.
async fn invent(daemon: &Daemon, prefix: &str, count: usize) {
    let host = daemon.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let mut requests = Vec::new();
    for number in 0..count {
        for (method, path) in [
            (format!("{prefix}{number}"), "/healthz".to_owned()),
            (format!("{prefix}{number}"), format!("/{prefix}/{number}")),
            ("GET".to_owned(), format!("/{prefix}{number}")),
            ("PUT".to_owned(), format!("/v1/inboxes/{prefix}{number}")),
            (
                "get".to_owned(),
                format!("/v1/domains/{prefix}{number}?x={number}"),
            ),
        ] {
            requests.push(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
    }
    requests.push(format!(
        "GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    ));
    let requests = requests.concat();
    let (mut read, mut write) = stream.split();
    let mut answers = Vec::new();
    let (sent, received) = tokio::join!(
        write.write_all(requests.as_bytes()),
        read.read_to_end(&mut answers)
    );
    sent.unwrap();
    received.unwrap();
    let answers = String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count();
    assert_eq!(answers, count * 5 + 1);
}

/// One of every kind of answer that this daemon can give without mail servers.
async fn use_the_api(daemon: &Daemon) {
    let acme = daemon.tenant("Acme").await;
    assert_eq!(acme.post("/v1/inboxes", &json!({})).await.status, 201);
    assert_eq!(acme.get("/v1/inboxes/x").await.status, 404);
    assert_eq!(
        acme.post("/v1/inboxes", &json!({"username": "A"})).await.status,
        400
    );
    let stranger: Api = daemon.api("");
    assert_eq!(stranger.get("/v1/me").await.status, 401);
    stranger.get("/readyz").await;
    let page = reqwest::get(format!("{}/docs/", daemon.base)).await.unwrap();
    assert!(page.status().is_success());
}

#[tokio::test]
async fn no_caller_can_add_series() {
    let daemon = Daemon::start(Database::Sqlite).await;
    use_the_api(&daemon).await;
    invent(&daemon, "FIRST", 20).await;
    let before = series(&scrape(&daemon).await);
    invent(&daemon, "SECOND", 60).await;
    let after = series(&scrape(&daemon).await);
    assert_eq!(after, before, "series were added");

    let document = daemon.api("").get("/openapi.json").await.body;
    let calls = document["paths"].as_object().unwrap();
    for (name, labels) in &after {
        let declared: BTreeMap<&str, Values> = metric_of(name).labels.iter().copied().collect();
        for (label, value) in labels.iter().filter(|(label, _)| *label != "le") {
            let is_closed = match declared[label.as_str()] {
                Values::Listed(values) => values.contains(&value.as_str()) || value == metric::OTHER,
                Values::Routes => {
                    let others = ["none", "/docs/", "/docs/{*rest}"];
                    calls.contains_key(value) || others.contains(&value.as_str())
                }
            };
            assert!(is_closed, "{name}: the label {label} has the value {value}");
        }
    }
    let other = |name: &str, route: &str| {
        after.iter().any(|(series, labels)| {
            series == name && labels["method"] == metric::OTHER && labels["route"] == route
        })
    };
    for route in ["/healthz", "none", "/v1/domains/{domain}"] {
        assert!(other("inboxd_http_requests_total", route), "{route}: {after:#?}");
    }
}

#[tokio::test]
async fn every_metric_is_there_from_the_start_with_its_type_and_help() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let text = scrape(&daemon).await;
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    for metric in metric::ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Histogram(..) => "histogram",
        };
        for line in [
            format!("# TYPE {} {kind}\n", metric.name),
            format!("# HELP {} {}\n", metric.name, metric.help),
        ] {
            assert!(text.contains(&line), "no {line} in:\n{text}");
        }
        let documented = format!("| `{}` | {kind} |", metric.name);
        assert!(
            docs.contains(&documented),
            "docs/operations.md lacks {documented}"
        );
    }
    for reason in ["no_server", "postfix"] {
        let line = format!("inboxd_barrier_not_seen_total{{reason=\"{reason}\"}} 0\n");
        assert!(text.contains(&line), "no {line} in:\n{text}");
    }
}

/// Runs promtool in the folder of the rules, and returns what it said.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(PROMTOOL)
        .args(arguments)
        .current_dir(Path::new(PACKAGING).join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{PROMTOOL}: {error}; run scripts/install-deps test"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
    text
}

#[tokio::test]
async fn promtool_accepts_the_metrics_and_the_alert_rules() {
    let daemon = Daemon::start(Database::Sqlite).await;
    use_the_api(&daemon).await;
    invent(&daemon, "OTHER", 3).await;
    let complaints = promtool(&["check", "metrics"], &scrape(&daemon).await);
    assert_eq!(complaints, "");
    promtool(&["check", "rules", "inboxd.rules.yml"], "");
    promtool(&["test", "rules", "inboxd.rules.test.yml"], "");
}

/// The names of inboxd's series in an expression, each with the labels that its selector names.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("inboxd_") {
        let (name, rest) = expression[at..].split_at(
            expression[at..]
                .find(|c| !is_name(c))
                .unwrap_or(expression.len() - at),
        );
        let labels = rest.strip_prefix('{').map_or_else(Vec::new, |rest| {
            // Values hold braces, so the end of a selector is the first brace outside of quotes.
            let mut is_quoted = false;
            let end = rest.find(|c| {
                is_quoted ^= c == '"';
                c == '}' && !is_quoted
            });
            let mut outside = rest[..end.unwrap()].split('"').step_by(2);
            let named = outside.by_ref().filter_map(|part| {
                let label = part.trim_matches([',', ' ']).trim_end_matches(['=', '!', '~']);
                (!label.is_empty()).then(|| label.to_owned())
            });
            named.collect()
        });
        found.push((name.to_owned(), labels));
    }
    found
}

/// The expressions of the alert rules, and those of the rules' tests' series; both are read as lines.
fn alert_expressions() -> String {
    ["inboxd.rules.yml", "inboxd.rules.test.yml"]
        .map(|file| fs::read_to_string(Path::new(PACKAGING).join("prometheus").join(file)).unwrap())
        .concat()
        .lines()
        .filter(|line| !line.contains("rule_files") && !line.trim_start().starts_with('#'))
        .filter(|line| !line.contains("promtool"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// All strings of a JSON document that are queries.
fn dashboard_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if ["expr", "definition", "query"].contains(&name.as_str()) => {
                        found.push(text.clone());
                    }
                    _ => dashboard_expressions(value, found),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| dashboard_expressions(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn dashboard_and_alerts_name_what_a_daemon_reports_and_all_of_it() {
    let daemon = Daemon::start(Database::Sqlite).await;
    use_the_api(&daemon).await;
    let reported = series(&scrape(&daemon).await);
    let dashboard = fs::read_to_string(format!("{PACKAGING}/grafana/inboxd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    dashboard_expressions(&dashboard, &mut expressions);
    let on_dashboard = expressions.join("\n");
    let mut shown = BTreeSet::new();
    for (place, text) in [("dashboard", &on_dashboard), ("alerts", &alert_expressions())] {
        let selectors = selectors(text);
        assert!(selectors.len() > 10, "{place}: {selectors:?}");
        for (name, labels) in selectors {
            let metric = metric_of(&name);
            assert!(
                reported.iter().any(|(series, _)| *series == name),
                "{place}: no daemon reports {name}"
            );
            for label in labels {
                let is_scraped = ["job", "instance", "le"].contains(&label.as_str());
                let is_ours = metric.labels.iter().any(|(ours, _)| *ours == label);
                assert!(is_scraped || is_ours, "{place}: {name} has no label {label}");
            }
            if place == "dashboard" {
                shown.insert(metric.name);
            }
        }
    }
    let all: BTreeSet<&str> = metric::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, all, "the dashboard shows every metric");
    // Whoever imports it chooses the data source.
    for panel in dashboard["panels"].as_array().unwrap() {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
    }
}
