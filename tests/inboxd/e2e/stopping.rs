//! Stopped under load, hung up on, asked twice at once: every answer is true, and every 201 works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
};

use crate::support::{
    api::{Answer, Api},
    inbox::Inbox,
    mail::Mail,
    wait::until,
    world::World,
};

/// Callers at a time; every other one keeps its connection.
const CALLERS: usize = 16;
/// Answers before the signal comes.
const ANSWERS_BEFORE: usize = 100;
/// Logins at a time when all are tried.
const LOGINS_AT_A_TIME: usize = 8;

/// A connection of HTTP without any cleverness: no second try, no pool.
struct Http(BufStream<TcpStream>);

/// What was read of an answer.
struct Read {
    status: u16,
    body: Value,
    is_last: bool,
}

impl Http {
    async fn connect(api: &Api) -> std::io::Result<Self> {
        let address = api.base.strip_prefix("http://").unwrap();
        Ok(Self(BufStream::new(TcpStream::connect(address).await?)))
    }

    async fn send_create(&mut self, api: &Api, username: &str) -> std::io::Result<()> {
        let body = json!({ "username": username }).to_string();
        let head = format!(
            "POST /v1/inboxes HTTP/1.1\r\nHost: test\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            api.key,
            body.len()
        );
        self.0.write_all(format!("{head}{body}").as_bytes()).await?;
        self.0.flush().await
    }

    async fn read(&mut self) -> std::io::Result<Read> {
        let (mut status, mut length, mut is_last) = (None, 0, false);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_lowercase();
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            } else if line.is_empty() {
                break;
            } else if let Some(octets) = line.strip_prefix("content-length: ") {
                length = octets.parse().unwrap();
            } else if line == "connection: close" {
                is_last = true;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(Read {
            status: status.expect("a status"),
            body: serde_json::from_slice(&body).unwrap(),
            is_last,
        })
    }
}

/// A request whose answer did not come.
#[derive(Debug)]
struct Unanswered {
    username: String,
    sent_at: Instant,
    #[expect(dead_code, reason = "shown when the test fails")]
    error: std::io::Error,
}

/// What one caller saw until it could no longer connect.
#[derive(Default)]
struct Seen {
    made: Vec<Inbox>,
    unanswered: Vec<Unanswered>,
}

async fn call_until_refused(api: Api, caller: usize, answers: Arc<AtomicUsize>) -> Seen {
    let keeps_alive = caller.is_multiple_of(2);
    let mut seen = Seen::default();
    let mut kept = None;
    for number in 0.. {
        let mut http = match kept.take() {
            Some(http) => http,
            None => match Http::connect(&api).await {
                Ok(http) => http,
                Err(_) => break,
            },
        };
        let username = format!("caller-{caller}-{number}");
        let sent = http.send_create(&api, &username).await;
        let sent_at = Instant::now();
        let answer = match sent {
            Ok(()) => http.read().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(read) => {
                assert_eq!(read.status, 201, "{}", read.body);
                seen.made.push(inbox_of(read.body));
                answers.fetch_add(1, Ordering::Relaxed);
                if keeps_alive && !read.is_last {
                    kept = Some(http);
                }
            }
            Err(error) => seen.unanswered.push(Unanswered {
                username,
                sent_at,
                error,
            }),
        }
    }
    seen
}

fn inbox_of(body: Value) -> Inbox {
    Inbox::of(&Answer {
        status: 201,
        headers: reqwest::header::HeaderMap::new(),
        body,
    })
}

async fn assert_all_log_in(mail: &Mail, inboxes: &[Inbox]) {
    let logins = inboxes.iter().map(|inbox| async {
        mail.log_in(inbox).await;
    });
    let logins = futures_util::stream::iter(logins);
    logins
        .buffer_unordered(LOGINS_AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
}

#[tokio::test]
async fn a_stop_under_load_answers_every_request_that_was_sent_before_it() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let answers = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| tokio::spawn(call_until_refused(tenant.clone(), caller, Arc::clone(&answers))))
            .collect();
        until("there is load", || async {
            (answers.load(Ordering::Relaxed) >= ANSWERS_BEFORE).then_some(())
        })
        .await;
        let signalled_at = Instant::now();
        world.daemon.signal(Signal::SIGTERM);
        assert_eq!(world.daemon.ended().await.code(), Some(0));

        let (mut made, mut unanswered) = (Vec::new(), Vec::new());
        for caller in callers {
            let seen = caller.await.unwrap();
            made.extend(seen.made);
            unanswered.extend(seen.unanswered);
        }
        println!(
            "{} answered, {} sent after the signal and not answered",
            made.len(),
            unanswered.len()
        );
        let broken: Vec<_> = unanswered
            .iter()
            .filter(|request| request.sent_at < signalled_at)
            .collect();
        assert!(
            broken.is_empty(),
            "sent before the signal and not answered: {broken:#?}"
        );

        world.daemon.up().await;
        assert_all_log_in(&world.mail, &made).await;
        for request in unanswered {
            // Nobody was told of it, so it must not be there.
            let again = tenant
                .post("/v1/inboxes", &json!({"username": request.username}))
                .await;
            assert_eq!(again.status, 201, "{again:?}");
            world.mail.log_in(&Inbox::of(&again)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_that_the_kernel_holds_when_the_signal_comes_are_answered() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let mut kept_alive = Vec::new();
        for number in 0..4 {
            let mut http = Http::connect(&tenant).await.unwrap();
            http.send_create(&tenant, &format!("before-{number}"))
                .await
                .unwrap();
            assert_eq!(http.read().await.unwrap().status, 201);
            kept_alive.push(http);
        }
        let mut fresh = Http::connect(&tenant).await.unwrap();
        // The daemon is made to find all of it at once: requests on connections old and new, and the signal.
        world.daemon.signal(Signal::SIGSTOP);
        fresh.send_create(&tenant, "fresh").await.unwrap();
        let mut waiting = vec![fresh];
        for (number, mut http) in kept_alive.into_iter().enumerate() {
            http.send_create(&tenant, &format!("kept-{number}"))
                .await
                .unwrap();
            waiting.push(http);
        }
        for number in 0..4 {
            let mut http = Http::connect(&tenant).await.unwrap();
            http.send_create(&tenant, &format!("queued-{number}"))
                .await
                .unwrap();
            waiting.push(http);
        }
        world.daemon.signal(Signal::SIGTERM);
        world.daemon.signal(Signal::SIGCONT);
        let mut made = Vec::new();
        for mut http in waiting {
            let read = http.read().await.expect("an answer");
            assert_eq!(read.status, 201, "{}", read.body);
            assert!(read.is_last, "the answer promises more");
            made.push(inbox_of(read.body));
        }
        assert_eq!(world.daemon.ended().await.code(), Some(0));
        assert_all_log_in(&world.mail, &made).await;
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_does_not_keep_the_daemon_from_stopping() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let mut used = Http::connect(&tenant).await.unwrap();
        used.send_create(&tenant, "ada").await.unwrap();
        used.read().await.unwrap();
        let mut silent = Http::connect(&tenant).await.unwrap();
        assert_eq!(world.daemon.stop().await.code(), Some(0));
        for http in [&mut used, &mut silent] {
            assert!(http.read().await.is_err());
        }
    })
    .await;
}

#[tokio::test]
async fn a_creation_whose_caller_hung_up_is_completed_by_the_same_request() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let names: Vec<String> = (0..8).map(|number| format!("impatient-{number}")).collect();
        // The daemon is held until all callers are gone: else it might answer one before it hangs up.
        world.daemon.signal(Signal::SIGSTOP);
        for name in &names {
            let mut http = Http::connect(&tenant).await.unwrap();
            http.send_create(&tenant, name).await.unwrap();
        }
        world.daemon.signal(Signal::SIGCONT);
        let bodies: Vec<Value> = names.iter().map(|name| json!({ "username": name })).collect();
        let again = bodies.iter().map(|body| tenant.post("/v1/inboxes", body));
        let mut made = Vec::new();
        for answer in join_all(again).await {
            assert_eq!(answer.status, 201, "{answer:?}");
            made.push(Inbox::of(&answer));
        }
        assert_all_log_in(&world.mail, &made).await;
        for (name, inbox) in names.iter().zip(&made) {
            let third = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
            assert_eq!((third.status, third.id()), (200, &*inbox.id));
        }
    })
    .await;
}

#[tokio::test]
async fn a_creation_that_is_cut_off_by_a_crash_is_completed_after_it() {
    World::run(async |world| {
        let tenant = world.tenant("Acme").await;
        let mut made = Vec::new();
        // Killed at different moments of a creation: some are not begun, some are written, some are answered.
        for delay_ms in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30] {
            let name = format!("cut-{delay_ms}");
            let mut http = Http::connect(&tenant).await.unwrap();
            http.send_create(&tenant, &name).await.unwrap();
            let answer = tokio::time::timeout(Duration::from_millis(delay_ms), http.read()).await;
            world.daemon.kill();
            world.daemon.up().await;
            let again = tenant.post("/v1/inboxes", &json!({ "username": name })).await;
            match answer {
                Ok(Ok(read)) => {
                    let inbox = inbox_of(read.body);
                    assert_eq!(again.id(), inbox.id, "an inbox that was promised is gone");
                    // The answer may have outrun the note of it; then the request completes it again.
                    made.push(if again.status == 201 {
                        Inbox::of(&again)
                    } else {
                        inbox
                    });
                }
                // Nobody has read a 201, though one may lie in the socket.
                _ if again.status == 200 => {}
                _ => made.push(Inbox::of(&again)),
            }
        }
        assert_all_log_in(&world.mail, &made).await;
    })
    .await;
}
