//! Callers who create inboxes without a pause, and do what a caller should: who is answered 503 sends the same request
//! again, until it is answered 201.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinHandle;

use super::{
    api::Api,
    daemon::Daemon,
    inbox::Inbox,
    maps::{assert_equal, opens, until_published},
    store::open,
    wait::until,
};

/// Shorter than any `Retry-After`, so that the limits of the tests are not used up by waiting.
const PAUSE: Duration = Duration::from_millis(20);

/// Some callers at work.
#[derive(Debug)]
pub struct Callers {
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    created: Mutex<Vec<Inbox>>,
    /// The codes of the refusals.
    refused: Mutex<Vec<String>>,
}

impl Callers {
    /// So many of them, of one tenant. Their inboxes are named after `name`.
    pub fn start(tenant: &Api, name: &str, callers: usize) -> Self {
        let state = Arc::new(State::default());
        let tasks = (0..callers)
            .map(|caller| {
                tokio::spawn(call(
                    tenant.clone(),
                    format!("{name}-{caller}"),
                    Arc::clone(&state),
                ))
            })
            .collect();
        Self { state, tasks }
    }

    /// Waits until so many more inboxes are created.
    pub async fn until_created(&self, more: usize) {
        let wanted = self.created() + more;
        until(&format!("{more} more inboxes are created"), || async {
            (self.created() >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until so many requests are refused in all.
    pub async fn until_refused(&self, wanted: usize) {
        until(&format!("{wanted} requests are refused"), || async {
            (self.refused() >= wanted).then_some(())
        })
        .await;
    }

    /// How many requests were refused so far.
    pub fn refused(&self) -> usize {
        self.state.refused.lock().unwrap().len()
    }

    pub fn created(&self) -> usize {
        self.state.created.lock().unwrap().len()
    }

    /// The codes with which requests were refused so far, each once.
    pub fn codes(&self) -> Vec<String> {
        let mut codes = self.state.refused.lock().unwrap().clone();
        codes.sort();
        codes.dedup();
        codes
    }

    /// Ends them as they are, with a request under way or without: for a daemon that has ended.
    pub async fn hang_up(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let ended = task.await;
            assert!(!ended.is_err_and(|error| error.is_panic()), "a caller failed");
        }
    }

    /// Lets each finish what it asked for, and then asserts that everything holds that was promised: every password is the
    /// one in the maps, and the maps say what the store says. How many inboxes there are.
    pub async fn assert_all_hold(mut self, daemon: &Daemon) -> usize {
        self.state.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        let created = self.state.created.lock().unwrap().clone();
        let layout = daemon.maps_layout();
        let broken: Vec<&str> = created
            .iter()
            .filter(|inbox| !opens(&layout, inbox))
            .map(|inbox| inbox.email.as_str())
            .collect();
        assert_eq!(broken, [""; 0], "of {} inboxes", created.len());
        let db = open(&daemon.store_url).await;
        until_published(&db).await;
        assert_equal(&db, &layout).await;
        db.close().await;
        created.len()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn call(tenant: Api, name: String, state: Arc<State>) {
    let mut number = 0;
    while !state.stop.load(Ordering::SeqCst) {
        let body = json!({ "username": format!("{name}-{number}") });
        number += 1;
        loop {
            let answer = tenant.post("/v1/inboxes", &body).await;
            if answer.status == 201 {
                state.created.lock().unwrap().push(Inbox::of(&answer));
                break;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
            state.refused.lock().unwrap().push(answer.code().to_owned());
            tokio::time::sleep(PAUSE).await;
        }
    }
}
