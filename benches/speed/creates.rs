//! Creates, by clients that ask again as soon as they have their answer.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;

use super::{
    http::Connection,
    limits::Limits,
    report::{Column, Took},
    scale::Scale,
    support::{api::Api, world::World},
};

/// Most clients at a time.
const CLIENTS_MAX: usize = 64;
/// Of the creates of a measurement, one in so many goes before it, uncounted.
const WARM_UP_PART: usize = 10;

/// The clients of the API.
pub struct Crowd<'a> {
    world: &'a mut World,
    /// One tenant a client.
    tenants: Vec<Api>,
    /// Inboxes so far.
    inboxes: usize,
    /// Loads so far: names are distinct.
    loads: usize,
}

/// What one load came to.
struct Load {
    took: Took,
    clients: usize,
    inboxes_before: usize,
}

impl<'a> Crowd<'a> {
    pub async fn new(world: &'a mut World) -> Self {
        let mut tenants = Vec::with_capacity(CLIENTS_MAX);
        for number in 0..CLIENTS_MAX {
            tenants.push(world.tenant(&format!("Client {number}")).await);
        }
        Self {
            world,
            tenants,
            inboxes: 0,
            loads: 0,
        }
    }

    /// Makes as many inboxes as are missing.
    pub async fn grow_to(&mut self, size: usize) {
        let missing = size
            .checked_sub(self.inboxes)
            .expect("sizes leave room for what is created at the size before");
        let keys: Vec<String> = self.tenants.iter().map(|tenant| tenant.key.clone()).collect();
        self.create(&keys, missing, Duration::MAX).await;
        assert_eq!(self.inboxes, size);
    }

    /// Measures creates with one client, with eight and with 64, and with 64 that share a tenant, whose creates take
    /// turns.
    pub async fn measure(&mut self, scale: &Scale, limits: &Limits, column: &mut Column) {
        let own = |count: usize| {
            self.tenants[..count]
                .iter()
                .map(|tenant| tenant.key.clone())
                .collect()
        };
        let shared = vec![self.tenants[0].key.clone(); CLIENTS_MAX];
        let loads: [(&str, &str, Vec<String>); 4] = [
            ("creates_1_client", "1 client", own(1)),
            ("creates_8_clients", "8 clients", own(8)),
            ("creates_64_clients", "64 clients", own(CLIENTS_MAX)),
            (
                "creates_64_clients_of_one_tenant",
                "64 clients of one tenant",
                shared,
            ),
        ];
        for ((key, who, keys), count) in loads.into_iter().zip(scale.creates) {
            self.create(&keys, count / WARM_UP_PART, Duration::MAX).await;
            let load = self
                .create(&keys, count, Duration::from_secs(scale.seconds_each))
                .await;
            load.tell(key, who, limits, column);
        }
    }

    /// Creates with one client for each key, until there are so many or the time is over.
    async fn create(&mut self, keys: &[String], count: usize, limit: Duration) -> Load {
        let prefix = format!("load{}", self.loads);
        self.loads += 1;
        let base = &self.world.daemon.base;
        let connecting = keys.iter().map(|key| Connection::open(base, key));
        let connections = join_all(connecting).await;
        let given = Rc::new(Cell::new(0));
        let took = Took::begin();
        let deadline = Instant::now().checked_add(limit);
        let clients = connections.into_iter().map(|mut connection| {
            let (given, prefix) = (Rc::clone(&given), &prefix);
            async move {
                let mut took = Vec::new();
                loop {
                    let number = given.get();
                    let begun = Instant::now();
                    if number == count || deadline.is_some_and(|deadline| begun >= deadline) {
                        return took;
                    }
                    given.set(number + 1);
                    let body = format!(r#"{{"username":"{prefix}-{number}"}}"#);
                    let (status, answer) = connection.post("/v1/inboxes", &body).await;
                    took.push(begun.elapsed());
                    assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
                }
            }
        });
        let all = join_all(clients).await;
        let mut took = took;
        took.end();
        for one in all.into_iter().flatten() {
            took.add(one);
        }
        let inboxes_before = self.inboxes;
        self.inboxes += given.get();
        Load {
            took,
            clients: keys.len(),
            inboxes_before,
        }
    }
}

impl Load {
    fn tell(&self, key: &str, who: &str, limits: &Limits, column: &mut Column) {
        let (per_second, ratio) = (self.took.per_second(), self.took.per_second() / limits.lower());
        column.show(
            &format!("creates/s, {who}"),
            format!("{per_second:.0} (n = {})", self.took.count()),
        );
        column.show(
            &format!("of the lower raw limit, {who}"),
            format!("{:.0} %", ratio * 100.0),
        );
        column.show(&format!("a create, ms, {who}"), self.took.shown_ms());
        let mut json = self.took.json();
        json["clients"] = json!(self.clients);
        json["inboxes_before"] = json!(self.inboxes_before);
        json["per_second"] = json!(per_second);
        json["of_lower_raw_limit"] = json!(ratio);
        column.keep(key, json);
    }
}
