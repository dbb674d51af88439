//! What outlives the containers, and what may be lost with a volume.

use serde_json::json;

use crate::support::{
    compose::Compose,
    inbox::{Inbox, StoredMessage},
    load::subjects,
    mail::{Message, read_when_there},
    world::{Facts, World},
};

/// Inboxes that have to be there again.
const INBOXES: usize = 12;
/// Messages in each.
const MESSAGES: usize = 3;
/// The tables that Postfix reads.
const TABLES: [&str; 4] = ["domains", "recipients", "aliases", "sender_logins"];
/// The volumes that hold them.
const MAP_VOLUMES: [&str; 4] = ["maps", "maps-passdb", "maps-postfix", "maps-signer"];
/// Where the containers have the maps.
const MAPS: &str = "/var/lib/inboxd/maps";

/// What was there before, as its owners know it.
struct Before {
    facts: Facts,
    inboxes: Vec<(Inbox, Vec<String>, Vec<StoredMessage>)>,
    gone: Inbox,
    suspended: Inbox,
}

impl Before {
    /// Inboxes with messages, one that was deleted, and one of a tenant that is suspended.
    async fn make(world: &World) -> Self {
        let tenant = world.tenant("Acme").await;
        let mut inboxes = Vec::new();
        for number in 0..INBOXES {
            let inbox = world.create(&tenant, &format!("kept-{number}")).await;
            for message in 0..MESSAGES {
                let message = Message::new(&format!("kept {message}."));
                world.mail.submit(&inbox, &inbox.email, &message).await.unwrap();
                world.mail.receive(&inbox, &message).await;
            }
            let there = subjects(&mut world.mail.log_in(&inbox).await).await;
            assert_eq!(there.len(), MESSAGES);
            let files = world.messages(&inbox).await;
            inboxes.push((inbox, there, files));
        }
        let gone = world.create(&tenant, "gone").await;
        world.delete(&tenant, &gone).await;
        let sa = world.operator();
        let made = sa.post("/v1/tenants", &json!({"name": "Suspended"})).await;
        let suspended = world.create(&sa.with_key(made.text("key")), "suspended").await;
        let path = format!("/v1/tenants/{}", made.id());
        let answer = sa.patch(&path, &json!({"suspended": true})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Self {
            facts: world.facts().clone(),
            inboxes,
            gone,
            suspended,
        }
    }

    /// The same keys, logins and messages, and the same refusals, in a world that has been started since.
    async fn assert_is_there(&self, world: &World) {
        assert_eq!(world.facts(), &self.facts);
        let anybody = world.operator();
        for (inbox, subjects_before, files) in &self.inboxes {
            let mut imap = world.mail.log_in(inbox).await;
            assert_eq!(&subjects(&mut imap).await, subjects_before, "{}", inbox.email);
            assert_eq!(
                names_of(&world.messages(inbox).await),
                names_of(files),
                "{}",
                inbox.email
            );
            let found = anybody
                .with_key(&inbox.key)
                .get(&format!("/v1/inboxes/{}", inbox.id))
                .await;
            assert_eq!(
                (found.status, found.text("imapPassword")),
                (200, &*inbox.password)
            );
        }
        for refused in [&self.gone, &self.suspended] {
            world
                .mail
                .assert_login_refused(&refused.email, &refused.password)
                .await;
            world
                .mail
                .assert_auth_refused(&refused.email, &refused.password)
                .await;
        }
        let (first, _, _) = &self.inboxes[0];
        world.mail.assert_works(first, "again").await;
        let new = world.inbox("new").await;
        world.mail.assert_works(&new, "new").await;
    }
}

/// The names of message files, without the flags behind the colon, which reading them changes.
fn names_of(files: &[StoredMessage]) -> Vec<&str> {
    let name = |file: &'_ StoredMessage| -> usize { file.path.rfind('/').unwrap() + 1 };
    let mut names: Vec<_> = files
        .iter()
        .map(|file| file.path[name(file)..].split(':').next().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// All that the maps say: every password entry with owner and mode, every table with its entries as Postfix reads them. What
/// workers hand passwords over with says nothing.
async fn maps(compose: &Compose) -> String {
    let listing = format!(
        "cd {MAPS} && find passdb postfix -name .verified-passwords -prune -o -printf '%y %m %U:%G %p\\n' | sort"
    );
    let entries = format!(
        "cd {MAPS} && find passdb -name .verified-passwords -prune -o -type f -print | sort | xargs sha256sum"
    );
    let mut all = Vec::new();
    for script in [listing, entries] {
        all.push(compose.exec("inboxd", &["sh", "-e", "-c", &script]).await);
    }
    for table in TABLES {
        let table = format!("lmdb:{MAPS}/postfix/{table}");
        let listed = compose.exec("postfix", &["postmap", "-s", &table]).await;
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        all.push(format!("{table}\n{}", lines.join("\n")));
    }
    all.join("\n")
}

#[tokio::test]
async fn down_and_up_keep_every_inbox_and_message() {
    World::run_alone(async |world| {
        let before = Before::make(world).await;
        let maps_before = maps(&world.compose).await;
        world.compose.run(&["down"]).await;
        assert_eq!(world.compose.run(&["ps", "--all", "--quiet"]).await, "");
        world.compose.up().await;
        assert_eq!(maps(&world.compose).await, maps_before);
        let world = World::started(world.compose.clone()).await;
        before.assert_is_there(&world).await;
        println!("{INBOXES} inboxes with {MESSAGES} messages each are there after down and up");
    })
    .await;
}

#[tokio::test]
async fn the_maps_of_a_deleted_volume_are_made_again() {
    World::run_alone(async |world| {
        let before = Before::make(world).await;
        let maps_before = maps(&world.compose).await;
        world.compose.run(&["down"]).await;
        for volume in MAP_VOLUMES {
            let volume = format!("{}_{volume}", world.compose.project());
            world.compose.docker(&["volume", "rm", &volume]).await;
        }
        world.compose.up().await;
        assert_eq!(maps(&world.compose).await, maps_before);
        let log = world.compose.run(&["logs", "--no-color", "inboxd"]).await;
        assert!(log.contains("have been repaired"), "{log}");
        let world = World::started(world.compose.clone()).await;
        before.assert_is_there(&world).await;
        println!(
            "{} lines of maps are the same in a new volume",
            maps_before.lines().count()
        );
    })
    .await;
}

/// Secrets, each with its place and the containers that have it. The signer has the store's volume for the sealing key.
const SECRETS: [(&str, &str, &[&str]); 8] = [
    (
        "the key of the private CA",
        "/var/lib/inboxd/tls/ca.key",
        &["inboxd"],
    ),
    (
        "the key that seals passwords",
        "/var/lib/inboxd/store/sealing.key",
        &["inboxd", "signer"],
    ),
    (
        "keys of callers",
        "/var/lib/inboxd/store/bootstrap.json",
        &["inboxd", "signer"],
    ),
    (
        "password hashes",
        "/var/lib/inboxd/maps/passdb",
        &["inboxd", "dovecot"],
    ),
    (
        "sealed signing keys",
        "/var/lib/inboxd/maps/signer/signing_keys.lmdb",
        &["inboxd", "signer"],
    ),
    (
        "Dovecot's administration key",
        "/var/lib/inboxd/doveadm/key",
        &["inboxd", "dovecot"],
    ),
    ("mail", "/var/vmail", &["dovecot"]),
    (
        "the servers' key",
        "/var/lib/inboxd/server-tls/server.key",
        &["inboxd", "dovecot", "postfix"],
    ),
];
const SERVICES: [&str; 5] = ["inboxd", "signer", "inbound", "dovecot", "postfix"];

#[tokio::test]
async fn each_container_has_the_secrets_that_it_needs_and_no_others() {
    World::run(async |world| {
        // Of an inbox whose entry every container would show that has the entries.
        let ada = world.inbox("ada").await;
        let (name, domain) = ada.email.split_once('@').unwrap();
        for service in SERVICES {
            for (what, path, needed_by) in SECRETS {
                let path = match what {
                    "password hashes" => format!("{path}/{domain}/{name}"),
                    "mail" => format!("{path}/{}", ada.id),
                    _ => path.to_owned(),
                };
                if what == "mail" {
                    let message = Message::new("makes its folder");
                    world.mail.deliver("friend@example.net", &ada.email, &message).await;
                    world.mail.receive(&ada, &message).await;
                }
                let script = format!("test -e {path} && echo there || echo missing");
                let said = world.compose.exec(service, &["sh", "-c", &script]).await;
                let expected = if needed_by.contains(&service) { "there" } else { "missing" };
                assert_eq!(said.trim(), expected, "{what} in {service}");
            }
            // Wherever it may be mounted: no private key but the servers' own, and no file with a password hash.
            if service == "postfix" {
                let keys = "grep -rlsE 'PRIVATE KEY' /var/lib/inboxd /etc/inboxd /run/inboxd /var/spool/postfix | sort";
                let found = world.compose.exec(service, &["sh", "-c", keys]).await;
                assert!(found.lines().all(|file| file.ends_with("/server.key")), "{found}");
                let hashes = "grep -rls 'SHA512-CRYPT' /var/lib/inboxd /etc/inboxd /run || true";
                assert_eq!(world.compose.exec(service, &["sh", "-c", hashes]).await, "");
            }
            // A password for the database may be in its URL.
            let environment = world.compose.exec(service, &["env"]).await;
            let has_url = environment.contains("INBOXD_STORE__URL=");
            assert_eq!(has_url, service == "inboxd", "{service}: {environment}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_postmaster_of_the_containers_has_an_inbox() {
    World::run(async |world| {
        let postmaster = &world.facts().bootstrap["postmaster"];
        let (email, password) = (
            postmaster["email"].as_str().unwrap(),
            postmaster["password"].as_str().unwrap(),
        );
        let mut imap = world.mail.try_log_in(email, password).await.unwrap();
        let name = world.name("a-stranger");
        for recipient in ["postmaster".to_owned(), format!("abuse@{}", world.domain())] {
            let message = Message::new(&format!("from {name} for {}", recipient.replace('@', " at ")));
            let mut inbound = world.mail.inbound().await;
            inbound.send("friend@example.net", &recipient, &message).await;
            read_when_there(&mut imap, &message).await;
        }
    })
    .await;
}
