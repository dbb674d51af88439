//! The clock jumps back and forth while the daemon works.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::Method;
use serde_json::json;

use super::listed;
use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::{Daemon, Database},
    inbox::Inbox,
    maps::{assert_equal, until_published},
    shim::Shim,
    show::show,
    store::open,
};

const CLIENTS: usize = 4;
const CREATES_EACH: usize = 60;
const HOUR_S: i64 = 60 * 60;
const YEAR_S: i64 = 365 * 24 * HOUR_S;
/// How far the clock is ahead, one after another, while everything goes on. All within the 24 hours that an answer is
/// kept for an `Idempotency-Key`.
const WITHIN_A_DAY_S: [i64; 6] = [0, 11 * HOUR_S, -11 * HOUR_S, 1, -1, 5 * HOUR_S];
const FAR_S: [i64; 5] = [0, 3 * YEAR_S, -3 * YEAR_S, YEAR_S, -YEAR_S];

/// Jumps from one to the next all the time, until dropped.
struct Jumping {
    stop: Arc<AtomicBool>,
    jumps: tokio::task::JoinHandle<usize>,
}

impl Jumping {
    fn begin(shim: &Arc<Shim>, ahead_s: &'static [i64]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (shim, stopped) = (Arc::clone(shim), Arc::clone(&stop));
        let jumps = tokio::spawn(async move {
            let mut jumps = 0;
            while !stopped.load(Ordering::Relaxed) {
                shim.set_clock_ahead_s(ahead_s[jumps % ahead_s.len()]);
                jumps += 1;
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
            jumps
        });
        Self { stop, jumps }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.jumps.await.unwrap()
    }
}

async fn create_once(caller: &Api, key: &str) -> Answer {
    let request = caller.request(Method::POST, "/v1/inboxes").json(&json!({}));
    caller.send(request.header("Idempotency-Key", key)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_breaks_nothing_on_sqlite() {
    assert_bears_jumps(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_breaks_nothing_on_postgresql() {
    assert_bears_jumps(Database::Postgres).await;
}

async fn assert_bears_jumps(database: Database) {
    let mut daemon = Daemon::with_config(database, Folder::in_memory(), "").await;
    let shim = Arc::new(Shim::new(daemon.folder.path()));
    daemon.stop().await;
    daemon.environment.extend(shim.environment());
    daemon.up().await;

    let mut ids = BTreeSet::new();
    let mut total_jumps = 0;
    for (period, ahead_s) in [("day", &WITHIN_A_DAY_S[..]), ("years", &FAR_S[..])] {
        let jumping = Jumping::begin(&shim, ahead_s);
        let mut working = Vec::new();
        for client in 0..CLIENTS {
            let tenant = daemon.tenant(&format!("{period} {client}")).await;
            working.push(tokio::spawn(work(tenant, period, client)));
        }
        for client in working {
            for id in client.await.unwrap() {
                assert!(ids.insert(id.clone()), "{id} was given twice");
            }
        }
        total_jumps += jumping.end().await;
        // Also a start, an hour before the last change.
        shim.set_clock_ahead_s(-HOUR_S);
        daemon.kill();
        daemon.up().await;
        let db = open(&daemon.store_url).await;
        until_published(&db).await;
        assert_equal(&db, &daemon.maps_layout()).await;
        db.close().await;
    }
    show(&format!(
        "clock on {database:?}: {total_jumps} jumps, {} inboxes created, each id and address once, lists complete and \
         in order",
        ids.len()
    ));
}

/// Creates by name and under keys, each twice, and deletes some; the list must be what it should. Returns all ids.
async fn work(tenant: Api, period: &str, client: usize) -> Vec<String> {
    let mut ids = Vec::new();
    // Its address by its id.
    let mut living = BTreeMap::new();
    for number in 0..CREATES_EACH {
        let (made, again) = if number % 2 == 0 {
            let body = json!({ "username": format!("{period}-{client}-{number}") });
            let made = tenant.post("/v1/inboxes", &body).await;
            let again = tenant.post("/v1/inboxes", &body).await;
            assert_eq!((again.status, again.id()), (200, made.id()), "{again:?}");
            (made, again)
        } else {
            let key = format!("{period}-{number}");
            let made = create_once(&tenant, &key).await;
            let again = create_once(&tenant, &key).await;
            // Years later the answer may be forgotten, as it should be.
            if period == "day" {
                assert_eq!((again.status, &again.body), (201, &made.body));
            }
            (made, again)
        };
        for answer in [made, again] {
            if answer.status == 201 && !living.contains_key(answer.id()) {
                let inbox = Inbox::of(&answer);
                let taken = living.values().any(|email| *email == inbox.email);
                assert!(!taken, "{} was given twice", inbox.email);
                living.insert(inbox.id.clone(), inbox.email);
                ids.push(inbox.id);
            }
        }
        if number % 10 == 9 {
            let (id, _) = living.pop_first().unwrap();
            let deleted = tenant.delete(&format!("/v1/inboxes/{id}")).await;
            assert_eq!(deleted.status, 200, "{deleted:?}");
        }
    }
    // Every one once, in one order whatever the page.
    let found = listed(&tenant).await;
    assert!(found.is_sorted_by(|one, next| one > next), "{found:?}");
    assert!(
        found.iter().rev().eq(living.keys()),
        "{found:?} are not {living:?}"
    );
    ids
}
