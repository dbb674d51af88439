//! A real Prometheus reads the metrics: classic histograms as it is, native ones where it asks for them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{
    daemon::{Daemon, Database},
    ports::free_ports,
    wait::until,
};

/// Debian's package `prometheus` has it (`scripts/install-deps test`).
const PROMETHEUS: &str = "/usr/bin/prometheus";

/// A Prometheus that scrapes one daemon.
struct Prometheus {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(daemon: &Daemon, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = daemon.metrics.strip_prefix("http://").unwrap();
        let target = target.strip_suffix("/metrics").unwrap();
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "scrape_configs:\n- job_name: inboxd\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  static_configs:\n  - targets: ['{target}']\n"
            ),
        )
        .unwrap();
        let [port] = free_ports();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(PROMETHEUS)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(options)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{PROMETHEUS}: {error}; run scripts/install-deps test"));
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/api/v1/query"),
            folder,
        }
    }

    /// The value of an expression that has one, if it has.
    async fn value(&self, expression: &str) -> Option<f64> {
        let url = reqwest::Url::parse_with_params(&self.url, [("query", expression)]).unwrap();
        let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
        let values = answer["data"]["result"].as_array()?;
        let [value] = values.as_slice() else { return None };
        value["value"][1].as_str()?.parse().ok()
    }

    /// Waits until an expression has this value.
    async fn until_it_has(&self, expression: &str, expected: f64) {
        let log = || fs::read_to_string(Path::new(self.folder.path()).join("log")).unwrap_or_default();
        until(&format!("{expression} is {expected}; {}", log()), async || {
            self.value(expression)
                .await
                .filter(|value| (value - expected).abs() < 0.5)
        })
        .await;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn prometheus_gets_native_histograms_where_it_asks_for_them() {
    const CREATES: &str = "method=\"POST\",route=\"/v1/inboxes\"";
    let daemon = Daemon::start(Database::Sqlite).await;
    let classic = Prometheus::start(&daemon, &[]);
    let native = Prometheus::start(&daemon, &["--enable-feature=native-histograms"]);
    let acme = daemon.tenant("Acme").await;
    for _ in 0..3 {
        assert_eq!(acme.post("/v1/inboxes", &json!({})).await.status, 201);
    }
    let duration = "inboxd_http_request_duration_seconds";
    for prometheus in [&classic, &native] {
        prometheus
            .until_it_has("inboxd_inboxes_created_total{completed=\"false\"}", 3.0)
            .await;
    }
    let buckets = format!("{duration}_bucket{{{CREATES},le=\"+Inf\"}}");
    classic.until_it_has(&buckets, 3.0).await;
    native
        .until_it_has(&format!("histogram_count({duration}{{{CREATES}}})"), 3.0)
        .await;
    // Three creates took some time, and each less than the time limit of a call.
    let quantile = native
        .value(&format!("histogram_quantile(0.9, {duration}{{{CREATES}}})"))
        .await
        .unwrap();
    assert!(quantile > 0.0 && quantile <= 30.0, "{quantile}");
    assert_eq!(classic.value(&format!("{duration}{{{CREATES}}}")).await, None);
}
