//! The daemon is killed again and again while many clients create, rotate and delete.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_all_log_in, assert_none_logs_in, listed};
use crate::support::{
    Folder,
    api::{Answer, Api},
    daemon::Database,
    inbox::Inbox,
    maps::{assert_equal, until_published},
    show::show,
    store::open,
    wait::until,
    world::World,
};

/// Rounds, unless the environment variable says another number.
const ROUNDS: u32 = 200;
const ROUNDS_VARIABLE: &str = "KILL_ROUNDS";
const CLIENTS: usize = 8;
/// Most 201s that a daemon lives to give, and its longest life behind the last of them.
const LIFE_MAX_CREATED: u64 = 8;
const LIFE_MAX_MS: u64 = 20;
/// Every how many rounds it is killed while it starts, and the longest life of such a one.
const KILLED_AT_START_EVERY: u32 = 4;
const START_MAX_MS: u64 = 60;
/// Pause before a request that got no answer is made again.
const RETRY_PAUSE_MS: u64 = 5;

/// Numbers for random moments: xorshift64* (Vigna, 2016), so that a seed tells all of them.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }

    async fn moment(&mut self, longest_ms: u64) {
        tokio::time::sleep(Duration::from_micros(self.below(longest_ms * 1000))).await;
    }
}

/// A client with a tenant of its own, and what it knows.
struct Client {
    number: usize,
    api: Api,
    random: Random,
    /// The last inbox that it got a 201 for: shared with whoever kills.
    latest: Arc<Mutex<Option<Inbox>>>,
    created: Arc<AtomicUsize>,
    living: Vec<Inbox>,
    /// With credentials that no longer hold.
    gone: Vec<Inbox>,
}

impl Client {
    /// Creates, and now and then rotates or deletes, until told to stop.
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            match self.random.below(10) {
                0 | 1 if !self.living.is_empty() => self.rotate().await,
                2 | 3 if !self.living.is_empty() => self.delete().await,
                _ => {
                    self.create(number).await;
                    number += 1;
                }
            }
        }
        self
    }

    async fn create(&mut self, number: usize) {
        let username = format!("client-{}-{number}", self.number);
        let made = self
            .insist(Method::POST, "/v1/inboxes", &json!({ "username": username }))
            .await;
        // 200 would be an inbox whose credentials nobody was told.
        let inbox = Inbox::of(&made);
        assert!(inbox.email.starts_with(&format!("{username}@")), "{inbox:?}");
        self.created.fetch_add(1, Ordering::Relaxed);
        *self.latest.lock().unwrap() = Some(inbox.clone());
        self.living.push(inbox);
    }

    async fn rotate(&mut self) {
        let inbox = self.pick();
        self.forget(&inbox);
        let path = format!("/v1/inboxes/{}/rotate-password", inbox.id);
        let rotated = self.insist(Method::POST, &path, &Value::Null).await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        self.living
            .push(inbox.with_password(rotated.text("imapPassword")));
        self.gone.push(inbox);
    }

    async fn delete(&mut self) {
        let inbox = self.pick();
        self.forget(&inbox);
        let path = format!("/v1/inboxes/{}", inbox.id);
        let deleted = self.insist(Method::DELETE, &path, &Value::Null).await;
        // A delete that was not answered may have happened.
        assert!(matches!(deleted.status, 200 | 404), "{deleted:?}");
        self.gone.push(inbox);
    }

    fn pick(&mut self) -> Inbox {
        let index = self.random.below(self.living.len() as u64);
        self.living.swap_remove(usize::try_from(index).unwrap())
    }

    /// From before a change is asked for, nobody may expect the old state.
    fn forget(&self, inbox: &Inbox) {
        let mut latest = self.latest.lock().unwrap();
        if latest.as_ref().is_some_and(|latest| latest.id == inbox.id) {
            *latest = None;
        }
    }

    /// Makes the same request until it is answered with something else than "try again".
    async fn insist(&self, method: Method, path: &str, body: &Value) -> Answer {
        loop {
            let mut request = self.api.request(method.clone(), path);
            if !body.is_null() {
                request = request.json(body);
            }
            match self.api.try_send(request).await {
                Ok(answer) if answer.status != 503 => return answer,
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS)).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_201_holds_however_often_the_daemon_is_killed() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let seed = RandomState::new().hash_one("kills") | 1;
    println!("seed {seed}");
    World::run_in(Folder::in_memory(), Database::Sqlite, "", async |world| {
        let mut random = Random(seed);
        let stop = Arc::new(AtomicBool::new(false));
        let created = Arc::new(AtomicUsize::new(0));
        let (mut clients, mut latest) = (Vec::new(), Vec::new());
        for number in 0..CLIENTS {
            let client = Client {
                number,
                api: world.tenant(&format!("Client {number}")).await,
                random: Random(random.below(u64::MAX) | 1),
                latest: Arc::default(),
                created: Arc::clone(&created),
                living: Vec::new(),
                gone: Vec::new(),
            };
            latest.push(Arc::clone(&client.latest));
            clients.push(tokio::spawn(client.run(Arc::clone(&stop))));
        }
        let mut logins = 0;
        for round in 1..=rounds {
            let enough = created.load(Ordering::Relaxed) + usize::try_from(random.below(LIFE_MAX_CREATED)).unwrap();
            until("the clients have some more 201s", || {
                std::future::ready((created.load(Ordering::Relaxed) >= enough).then_some(()))
            })
            .await;
            random.moment(LIFE_MAX_MS).await;
            let known = latest[round as usize % CLIENTS].lock().unwrap().clone();
            world.daemon.kill();
            if let Some(inbox) = known.filter(|inbox| {
                // Still what its client expects, now that nothing can happen to it?
                let now = latest[round as usize % CLIENTS].lock().unwrap().clone();
                now.is_some_and(|now| now.id == inbox.id)
            }) {
                logins += assert_all_log_in(&world.mail, &[inbox]).await;
            }
            if round % KILLED_AT_START_EVERY == 0 {
                world.daemon.spawn();
                random.moment(START_MAX_MS).await;
                world.daemon.kill();
            }
            world.daemon.up().await;
        }
        stop.store(true, Ordering::Relaxed);
        let (mut living, mut gone) = (Vec::new(), Vec::new());
        for client in clients {
            let client = client.await.unwrap();
            let mut expected: Vec<String> = client.living.iter().map(|inbox| inbox.id.clone()).collect();
            let mut found = listed(&client.api).await;
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "of client {}", client.number);
            living.extend(client.living);
            gone.extend(client.gone);
        }
        let db = open(&world.daemon.store_url).await;
        until_published(&db).await;
        assert_equal(&db, &world.daemon.maps_layout()).await;
        db.close().await;
        logins += assert_all_log_in(&world.mail, &living).await;
        assert_none_logs_in(&world.mail, &gone).await;
        show(&format!(
            "kills: {rounds} rounds, {} answers of 201, {logins} logins verified, {} refused as they must be (seed {seed})",
            created.load(Ordering::Relaxed),
            gone.len()
        ));
    })
    .await;
}
