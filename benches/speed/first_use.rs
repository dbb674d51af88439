//! The first uses of new inboxes, each the moment that its 201 is there, while everybody else logs in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    bench::{Bench, Seeds},
    http::Connection,
    report::{Column, Took},
    support::{
        attempt::{self, STRANGER},
        inbox::Inbox,
        mail::{Mail, auth_plain},
    },
};

/// Others who log in all the time, half of them over IMAP, half on submission.
const OTHERS: usize = 6;
/// Failures that are told; the others are counted.
const FAILURES_SHOWN: usize = 3;
/// Uses of an inbox: their names in the file, and what they are.
const USES: [(&str, &str); 3] = [
    ("first_imap_login", "IMAP login"),
    ("first_submission_auth", "AUTH on submission"),
    ("first_inbound_rcpt", "RCPT from outside"),
];

/// The first attempts of one use.
struct Firsts {
    took: Took,
    failures: Vec<String>,
}

impl Firsts {
    fn begin() -> Self {
        Self {
            took: Took::begin(),
            failures: Vec::new(),
        }
    }

    fn add(&mut self, who: &Inbox, outcome: Result<Duration, String>) {
        match outcome {
            Ok(took) => self.took.add(took),
            Err(error) => self.failures.push(format!("{}: {error}", who.email)),
        }
    }
}

/// Logins of others, on a thread of their own.
struct Storm {
    stop: Arc<AtomicBool>,
    begun: Instant,
    logins: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Bench<'_> {
    /// Creates inboxes one after another. Three connections stand open, greeted, before each create; when its 201 is
    /// there, all three are used at the same time, once. The time is from the request to the servers' yes.
    pub async fn measure_first_uses(&mut self, column: &mut Column) {
        let storm = Storm::begin(&self.world.mail, &self.seeds);
        let prefix = format!("first{}", self.loads);
        self.loads += 1;
        let mut connection = Connection::open(&self.world.daemon.base, &self.tenants[0].key).await;
        let mut uses = USES.map(|_| Firsts::begin());
        let mut creates = Took::begin();
        // Three handshakes with TLS for one create: the time is more generous here.
        let deadline = Instant::now() + Duration::from_secs(self.scale.seconds_each) * 3;
        for number in 0..self.scale.first_uses {
            if Instant::now() >= deadline {
                break;
            }
            let mail = &self.world.mail;
            let imap = mail.try_imap().await.unwrap();
            let mut submission = mail.submission().await;
            let mut inbound = mail.inbound().await;
            inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;

            let begun = Instant::now();
            let body = format!(r#"{{"username":"{prefix}-{number}"}}"#);
            let (status, answer) = connection.post("/v1/inboxes", &body).await;
            creates.add(begun.elapsed());
            assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
            let inbox = inbox_of(answer);
            let (auth, rcpt) = (
                auth_plain(&inbox.email, &inbox.password),
                format!("RCPT TO:<{}>", inbox.email),
            );
            let outcomes = tokio::join!(
                async {
                    let session = imap.try_log_in(&inbox.email, &inbox.password).await?;
                    Ok((begun.elapsed(), session))
                },
                async {
                    submission.try_expect(&auth, "235").await?;
                    Ok(begun.elapsed())
                },
                async {
                    inbound.try_expect(&rcpt, "250").await?;
                    Ok(begun.elapsed())
                },
            );
            let (logged_in, authenticated, accepted) = outcomes;
            let (logged_in, session) =
                logged_in.map_or_else(|e| (Err(e), None), |(took, s)| (Ok(took), Some(s)));
            for (firsts, outcome) in uses.iter_mut().zip([logged_in, authenticated, accepted]) {
                firsts.add(&inbox, outcome);
            }
            if let Some(mut session) = session {
                session.logout().await.unwrap();
            }
            submission.expect("QUIT", "221").await;
            inbound.expect("QUIT", "221").await;
        }
        self.inboxes += creates.count();
        creates.end();
        column.show("in a login storm: a create, ms", creates.shown_ms());
        column.keep("in_a_storm_create", creates.json());
        for ((name, what), mut firsts) in USES.into_iter().zip(uses) {
            firsts.took.end();
            tell(name, what, &firsts, column);
        }
        storm.end(column);
    }
}

fn inbox_of(answer: &[u8]) -> Inbox {
    let created: Value = serde_json::from_slice(answer).unwrap();
    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    Inbox {
        id: text("id"),
        email: text("canonicalEmail"),
        password: text("imapPassword"),
        key: text("apiKey"),
    }
}

fn tell(name: &str, what: &str, firsts: &Firsts, column: &mut Column) {
    let Firsts { took, failures } = firsts;
    let attempts = took.count() + failures.len();
    for failure in failures.iter().take(FAILURES_SHOWN) {
        println!("first {what} failed: {failure}");
    }
    column.show(&format!("create to first {what}, ms"), took.shown_ms());
    column.show(
        &format!("first attempts that failed, {what}"),
        format!("{} of {attempts}", failures.len()),
    );
    let mut json = took.json();
    json["attempts"] = json!(attempts);
    json["failed"] = json!(failures.len());
    column.keep(name, json);
}

impl Storm {
    fn begin(mail: &Mail, seeds: &Seeds) -> Self {
        let (stop, logins, failures): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let thread = {
            let (mail, seeds) = (mail.clone(), seeds.clone());
            let (stop, logins, failures) = (Arc::clone(&stop), Arc::clone(&logins), Arc::clone(&failures));
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(join_all((0..OTHERS).map(async |other| {
                    let mut number = other;
                    while !stop.load(Ordering::Relaxed) {
                        let inbox = seeds.some(number);
                        number += OTHERS;
                        let outcome = if other % 2 == 0 {
                            attempt::imap(&mail, &inbox).await.map(drop)
                        } else {
                            attempt::submission(&mail, &inbox, None).await
                        };
                        match outcome {
                            Ok(()) => logins.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                println!("a login of another failed: {}: {error}", inbox.email);
                                failures.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                })));
            })
        };
        Self {
            stop,
            begun: Instant::now(),
            logins,
            failures,
            thread,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count is far below 2^52")]
    fn end(self, column: &mut Column) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let seconds = self.begun.elapsed().as_secs_f64();
        let [logins, failures] = [&self.logins, &self.failures].map(|count| count.load(Ordering::Relaxed));
        let per_second = logins as f64 / seconds;
        column.show(
            "logins of others meanwhile/s",
            format!("{per_second:.0} (n = {logins}, {failures} failed)"),
        );
        column.keep(
            "storm",
            json!({ "clients": OTHERS, "n": logins, "failed": failures, "seconds": seconds, "per_second": per_second }),
        );
    }
}
