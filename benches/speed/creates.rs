//! Creates, by clients that ask again as soon as they have their answer.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;

use super::{
    bench::{Bench, CLIENTS_MAX},
    http::Connection,
    report::{Column, Took},
};

/// Of the creates of a measurement, one in so many goes before it, uncounted.
const WARM_UP_PART: usize = 10;

impl Bench<'_> {
    /// Measures creates with one client, with eight and with 64, and with 64 that share a tenant, whose creates take
    /// turns.
    pub async fn measure_creates(&mut self, column: &mut Column) {
        let own = |count: usize| -> Vec<String> {
            let tenants = self.tenants[..count].iter();
            tenants.map(|tenant| tenant.key.clone()).collect()
        };
        let shared = vec![self.tenants[0].key.clone(); CLIENTS_MAX];
        let loads = [
            ("creates_1_client", "1 client", own(1)),
            ("creates_8_clients", "8 clients", own(8)),
            ("creates_64_clients", "64 clients", own(CLIENTS_MAX)),
            (
                "creates_64_clients_of_one_tenant",
                "64 clients of one tenant",
                shared,
            ),
        ];
        let limit = Duration::from_secs(self.scale.seconds_each);
        for ((key, who, keys), count) in loads.into_iter().zip(self.scale.creates) {
            self.create(&keys, count / WARM_UP_PART, limit).await;
            let inboxes_before = self.inboxes;
            let took = self.create(&keys, count, limit).await;
            let (per_second, ratio) = (took.per_second(), took.per_second() / self.limits.lower());
            column.show(
                &format!("creates/s, {who}"),
                format!("{per_second:.0} (n = {})", took.count()),
            );
            column.show(
                &format!("of the lower raw limit, {who}"),
                format!("{:.0} %", ratio * 100.0),
            );
            column.show(&format!("a create, ms, {who}"), took.shown_ms());
            let mut json = took.json();
            json["clients"] = json!(keys.len());
            json["inboxes_before"] = json!(inboxes_before);
            json["per_second"] = json!(per_second);
            json["of_lower_raw_limit"] = json!(ratio);
            column.keep(key, json);
            if keys.len() == 1 {
                self.report_barrier(column).await;
            }
        }
    }

    /// Reports how long it took until new logins were visible through the mail servers, as the daemon's own histogram
    /// says: the mean, and the buckets' bounds below which half and 99 % lie. When one client alone has created since
    /// the start, each check was for one login.
    async fn report_barrier(&self, column: &mut Column) {
        const METRIC: &str = "inboxd_barrier_duration_seconds";
        const QUANTILES: [(f64, &str); 2] = [(0.5, "p50_at_most_ms"), (0.99, "p99_at_most_ms")];
        let daemon = &self.world.daemon;
        let count: f64 = daemon.metric(&format!("{METRIC}_count")).await.unwrap();
        let sum: f64 = daemon.metric(&format!("{METRIC}_sum")).await.unwrap();
        assert!(count > 0.0, "creates are checked");
        let text = reqwest::get(&daemon.metrics).await.unwrap().text().await.unwrap();
        let bucket = format!("{METRIC}_bucket{{le=\"");
        let buckets: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&bucket)?.split_once("\"} "))
            .map(|(bound, below)| (bound.parse().unwrap(), below.parse().unwrap()))
            .collect();
        let mut shown = vec![format!("mean {:.2}", sum / count * 1000.0)];
        let mut json = serde_json::Map::from_iter([("mean_ms".to_owned(), json!(sum / count * 1000.0))]);
        for (quantile, name) in QUANTILES {
            let (bound, _) = buckets
                .iter()
                .find(|(_, below)| *below >= quantile * count)
                .expect("the last bucket holds all");
            shown.push(format!("<= {:.2}", bound * 1000.0));
            json.insert(name.to_owned(), json!(bound * 1000.0));
        }
        column.show("of that the readiness barrier, ms, 1 client", shown.join(" / "));
        column.keep("barrier_1_client", json.into());
    }

    /// Creates with one client for each key, until there are so many or the time is over.
    async fn create(&mut self, keys: &[String], count: usize, limit: Duration) -> Took {
        let prefix = format!("load{}", self.loads);
        self.loads += 1;
        let base = &self.world.daemon.base;
        let connections = join_all(keys.iter().map(|key| Connection::open(base, key))).await;
        let given = Cell::new(0);
        let mut took = Took::begin();
        let deadline = Instant::now() + limit;
        let clients = connections.into_iter().map(async |mut connection| {
            let mut took = Vec::new();
            loop {
                let number = given.get();
                let begun = Instant::now();
                if number == count || begun >= deadline {
                    return took;
                }
                given.set(number + 1);
                let body = format!(r#"{{"username":"{prefix}-{number}"}}"#);
                let (status, answer) = connection.post("/v1/inboxes", &body).await;
                took.push(begun.elapsed());
                assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
            }
        });
        let all = join_all(clients).await;
        took.end();
        all.into_iter().flatten().for_each(|one| took.add(one));
        self.inboxes += took.count();
        took
    }
}
