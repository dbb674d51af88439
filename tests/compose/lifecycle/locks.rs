//! The maps are shared between containers: one kernel, so one set of locks and one page cache.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use crate::support::{
    attempt::{self, STRANGER},
    compose::{Compose, told},
    load::{Kind, Load},
    wait::LIMIT,
    world::World,
};

/// A table of Postfix's, where the containers have it. It is asked for every recipient.
const TABLE: &str = "/var/lib/inboxd/maps/postfix/recipients.lmdb";
/// The folder that each mail server reads.
const MAPS: [(&str, &str); 2] = [
    ("dovecot", "/var/lib/inboxd/maps/passdb"),
    ("postfix", "/var/lib/inboxd/maps/postfix"),
];
/// Takes a lock on a whole file as Postfix does (fcntl(2)), does not wait for it, says what came of it, and keeps it
/// until its standard input ends. Opened for reading (`<`) it is a reader's, else (`+<`) a writer's.
const LOCK: &str = r#"
    use Fcntl;
    my ($mode, $path) = @ARGV;
    $| = 1;
    open(my $file, $mode, $path) or die "$path: $!";
    my $lock = pack("s s x4 q q l x4", $mode eq "<" ? F_RDLCK : F_WRLCK, 0, 0, 0, 0);
    print fcntl($file, F_SETLK, $lock) ? "locked\n" : "refused\n";
    <STDIN>;
"#;
/// A second daemon that is not refused would go on for ever.
const SECOND_DAEMON_LIMIT_S: &str = "60";
/// What is held up by a lock has no answer for so long.
const HELD_UP: Duration = Duration::from_secs(1);
/// SMTP sessions, one after another, in which every change is looked up.
const SESSIONS: usize = 5;
/// Inboxes that are created and deleted in each: fewer than the errors for which Postfix slows a client down.
const ROUNDS: usize = 8;
/// Sessions that look up without pause meanwhile.
const READERS: usize = 8;

/// A lock that a process in a container holds.
struct Held(Child);

impl Held {
    /// None: somebody holds one that is at odds with it.
    async fn take(compose: &Compose, service: &str, mode: &str) -> Option<Self> {
        let mut child = compose.exec_interactively(service, &["perl", "-e", LOCK, mode, TABLE]);
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let said = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        match said.as_deref() {
            Some("locked") => Some(Self(child)),
            Some("refused") => {
                Self(child).release().await;
                None
            }
            other => panic!("{service}: {other:?}"),
        }
    }

    /// Returns when it is gone.
    async fn release(mut self) {
        drop(self.0.stdin.take());
        let ended = timeout(LIMIT, self.0.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

#[tokio::test]
async fn the_mail_servers_cannot_write_the_maps() {
    World::run(async |world| {
        for (service, folder) in MAPS {
            let touch = ["exec", "--no-TTY", service, "touch", &format!("{folder}/new")];
            let refused = world.compose.output(&touch).await;
            assert!(
                !refused.status.success() && told(&refused).contains("Read-only file system"),
                "{service}: {}",
                told(&refused)
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_on_the_same_maps_is_refused() {
    World::run_alone(async |world| {
        let load = Load::begin(world).await;
        let run = ["run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "timeout"];
        let serve = ["inboxd", SECOND_DAEMON_LIMIT_S, "inboxd", "serve"];
        let refused = world.compose.output(&[&run[..], &serve].concat()).await;
        assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
        assert!(
            told(&refused).contains("already used by another inboxd"),
            "{}",
            told(&refused)
        );
        // The first one has not noticed.
        let ada = world.inbox("ada").await;
        world.mail.assert_works(&ada, "beside a refused daemon").await;
        load.a_few_more(&Kind::ALL).await;
        load.end().await.assert_none_failed(&Kind::ALL);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_in_one_container_holds_in_the_others() {
    World::run_alone(async |world| {
        let compose = &world.compose;
        let tenant = world.tenant("Acme").await;
        let ada = world.create(&tenant, "ada").await;

        // While somebody writes, nobody reads.
        let writer = Held::take(compose, "inboxd", "+<")
            .await
            .expect("a writer's lock");
        assert!(
            Held::take(compose, "postfix", "<").await.is_none(),
            "a writer in another container is not noticed"
        );
        let mut inbound = world.mail.inbound().await;
        inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
        let recipient = format!("RCPT TO:<{}>", ada.email);
        let mut looked_up = Box::pin(inbound.expect(&recipient, "250"));
        assert!(
            timeout(HELD_UP, &mut looked_up).await.is_err(),
            "Postfix reads what is being written"
        );
        writer.release().await;
        looked_up.await;

        // While somebody reads, others read, too, and nobody writes.
        let reader = Held::take(compose, "postfix", "<")
            .await
            .expect("a reader's lock");
        let another = Held::take(compose, "inboxd", "<").await;
        let another = another.expect("readers are held up by a reader");
        assert!(
            Held::take(compose, "inboxd", "+<").await.is_none(),
            "a reader in another container is not noticed"
        );
        inbound.expect("RSET", "250").await;
        inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
        inbound.expect(&recipient, "250").await;
        let mut created = Box::pin(world.create(&tenant, "bob"));
        assert!(
            timeout(HELD_UP, &mut created).await.is_err(),
            "inboxd writes what is being read"
        );
        another.release().await;
        reader.release().await;
        let bob = created.await;
        world.mail.assert_works(&bob, "written after the readers").await;
    })
    .await;
}

/// The longest and the middle one.
fn longest_and_median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() - 1], times[times.len() / 2])
}

/// Creates and deletes inboxes, and looks each up over SMTP as soon as that is answered; the times of the creations.
async fn change_and_look(world: &World, names: &str) -> Vec<Duration> {
    let tenant = world.tenant("Acme").await;
    let mut times = Vec::new();
    for session in 0..SESSIONS {
        let mut inbound = world.mail.inbound().await;
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let inbox = world.create(&tenant, &format!("{names}-{session}-{round}")).await;
            times.push(begun.elapsed());
            let recipient = format!("RCPT TO:<{}>", inbox.email);
            inbound.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
            inbound.expect(&recipient, "250").await;
            let deleted = tenant.delete(&format!("/v1/inboxes/{}", inbox.id)).await;
            assert_eq!(deleted.status, 200, "{deleted:?}");
            inbound.expect(&recipient, "550 5.1.1").await;
            inbound.expect("RSET", "250").await;
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_in_other_containers_see_each_change_at_once_and_hold_up_nobody() {
    World::run_alone(async |world| {
        let (longest, median) = longest_and_median(change_and_look(world, "alone").await);
        println!("{} creates: longest {longest:?}, median {median:?}", SESSIONS * ROUNDS);

        let tenant = world.tenant("Readers").await;
        let (done, _) = tokio::sync::watch::channel(false);
        let mut readers = Vec::new();
        for number in 0..READERS {
            let inbox = world.create(&tenant, &format!("reader-{number}")).await;
            let (mail, done) = (world.mail.clone(), done.subscribe());
            readers.push(tokio::spawn(async move {
                let (mut looks, mut longest) = (0, Duration::ZERO);
                while !*done.borrow() {
                    let begun = Instant::now();
                    attempt::inbound(&mail, &inbox, None).await?;
                    longest = longest.max(begun.elapsed());
                    looks += 1;
                }
                Ok::<_, String>((looks, longest))
            }));
        }
        let (longest, median) = longest_and_median(change_and_look(world, "beside").await);
        done.send_replace(true);
        let (mut looks, mut longest_look) = (0, Duration::ZERO);
        for reader in readers {
            let (count, longest) = reader.await.unwrap().unwrap();
            looks += count;
            longest_look = longest_look.max(longest);
        }
        println!(
            "beside {looks} look-ups (longest, with its connection: {longest_look:?}): longest {longest:?}, median \
             {median:?}"
        );
        assert!(looks > SESSIONS * ROUNDS, "{looks} look-ups are no crowd");
    })
    .await;
}
