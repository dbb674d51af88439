//! `inboxd import`: mailboxes that another server knew.

use std::{fmt::Write as _, process::Command};

use serde_json::json;

use crate::support::{
    api::Api,
    daemon::{DEFAULT_DOMAIN, Daemon, Database},
    domains::insert_domain,
    inbox::Inbox,
    maps::{assert_equal, until_published},
    store::open,
    world::World,
};

/// `doveadm pw -s SHA512-CRYPT -r 1000 -p secret`
const HASH: &str = "{SHA512-CRYPT}$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1";
/// Mailboxes of an import of several batches.
const MANY: usize = 4_321;

/// What an import said, and its exit status.
#[derive(PartialEq, Eq, Debug)]
struct Said {
    status: Option<i32>,
    output: String,
    errors: String,
}

/// Imports a passwd-file for a tenant.
fn import(daemon: &Daemon, tenant: &str, options: &[&str], text: impl AsRef<[u8]>) -> Said {
    let arguments = [&["import", "-", "--tenant", tenant], options].concat();
    let output = daemon.run(&arguments, text);
    let errors = String::from_utf8(output.stderr).unwrap();
    // On a busy machine an import takes long enough to say how far it is.
    let is_progress = |line: &&str| {
        line.ends_with(" are in the store")
            || line.ends_with(" changes wait until the daemon publishes them")
            || *line == "inboxd: publishing what is in the store"
    };
    let errors = errors.split_inclusive('\n');
    Said {
        status: output.status.code(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: errors.filter(|line| !is_progress(&line.trim_end())).collect(),
    }
}

fn succeeded(output: &str) -> Said {
    Said {
        status: Some(0),
        output: output.to_owned(),
        errors: String::new(),
    }
}

fn refused(errors: &str) -> Said {
    Said {
        status: Some(1),
        output: String::new(),
        errors: errors.to_owned(),
    }
}

/// Mailboxes that nobody logs in to.
fn passwd_file<'a>(emails: impl IntoIterator<Item = &'a str>) -> String {
    let lines = emails.into_iter().map(|email| [email, ":", HASH, "\n"].concat());
    lines.collect()
}

async fn id_of(tenant: &Api) -> String {
    tenant.get("/v1/me").await.text("tenantId").to_owned()
}

/// Fails unless the maps say exactly what the store says, now. Marks of creates beside it are cleared behind answers.
async fn assert_published(daemon: &Daemon) {
    let db = open(&daemon.store_url).await;
    assert_equal(&db, &daemon.maps_layout()).await;
    until_published(&db).await;
    db.close().await;
}

/// As `doveadm pw` makes it.
pub fn hashed(scheme: &str, password: &str) -> String {
    let made = Command::new("doveadm")
        .args(["-O", "pw", "-s", scheme, "-p", password])
        .output()
        .expect("apt-get install dovecot-core");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn imported_mailboxes_work_with_the_passwords_that_they_had() {
    World::run(async |world| {
        let tenant = world.tenant("Moved").await;
        let id = id_of(&tenant).await;
        let mut file = String::from("# moved from another server\n\n");
        let mut inboxes = Vec::new();
        for scheme in ["SHA512-CRYPT", "SSHA512", "BLF-CRYPT"] {
            let email = format!("{}@{DEFAULT_DOMAIN}", scheme.to_lowercase());
            let password = format!("the one of {scheme}");
            let hash = hashed(scheme, &password);
            writeln!(
                file,
                "{email}:{hash}:5000:5000::/home/{email}::userdb_quota_rule=*:storage=1G"
            )
            .unwrap();
            inboxes.push(Inbox {
                id: String::new(),
                email,
                password,
                key: String::new(),
            });
        }
        assert_eq!(
            import(&world.daemon, &id, &[], &file),
            Said {
                errors: "inboxd: 1 have a hash that takes long to verify: Dovecot does that in two processes, and tries at these logins wait for each other\n".to_owned(),
                ..succeeded("imported 3, already there 0\n")
            }
        );
        assert_published(&world.daemon).await;
        for inbox in &inboxes {
            world.mail.assert_works(inbox, &inbox.email).await;
            world.mail.assert_login_refused(&inbox.email, "another").await;
        }

        // The second time with other hashes, which change nothing.
        let again = passwd_file(inboxes.iter().map(|inbox| inbox.email.as_str()));
        assert_eq!(
            import(&world.daemon, &id, &[], &again),
            succeeded("imported 0, already there 3\n")
        );
        world
            .mail
            .assert_works(&inboxes[0], "after the second time")
            .await;

        // It is finished: a create finds it. Its credentials come from the API when somebody asks for others.
        let found = tenant.post("/v1/inboxes", &json!({"username": "ssha512"})).await;
        assert_eq!((found.status, &found.body["existed"]), (200, &json!(true)));
        let path = format!("/v1/inboxes/{}", found.id());
        assert_eq!(tenant.get(&path).await.body["imapPassword"], json!(null));
        let rotated = tenant.post(&format!("{path}/rotate-password"), &json!({})).await;
        world
            .mail
            .assert_login_refused(&inboxes[1].email, &inboxes[1].password)
            .await;
        world
            .mail
            .log_in(&inboxes[1].with_password(rotated.text("imapPassword")))
            .await;
    })
    .await;
}

async fn many_are_imported(database: Database, beside_a_daemon: bool) {
    let mut daemon = Daemon::start(database).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    let before = tenant.post("/v1/inboxes", &json!({"username": "before"})).await;
    assert_eq!(before.status, 201);
    if !beside_a_daemon {
        assert!(daemon.stop().await.success());
    }
    let emails: Vec<String> = (0..MANY)
        .map(|number| format!("user{number}@{DEFAULT_DOMAIN}"))
        .collect();
    let file = passwd_file(emails.iter().map(String::as_str));
    // Half of it, as if it had been interrupted there.
    let half = passwd_file(emails[..MANY / 2].iter().map(String::as_str));
    assert_eq!(
        import(&daemon, &id, &[], &half),
        succeeded(&format!("imported {}, already there 0\n", MANY / 2))
    );
    assert_published(&daemon).await;
    assert_eq!(
        import(&daemon, &id, &[], &file),
        succeeded(&format!(
            "imported {}, already there {}\n",
            MANY - MANY / 2,
            MANY / 2
        ))
    );
    assert_published(&daemon).await;
    if !beside_a_daemon {
        daemon.up().await;
    }
    let operator = daemon.api(&daemon.super_admin);
    let usage = operator.get(&format!("/v1/tenants/{id}")).await;
    assert_eq!(usage.body["inboxCount"], json!(MANY + 1), "{usage:?}");
    let last = tenant
        .post("/v1/inboxes", &json!({"username": format!("user{}", MANY - 1)}))
        .await;
    assert_eq!((last.status, &last.body["existed"]), (200, &json!(true)));
    assert!(daemon.stop().await.success());
    assert_published(&daemon).await;
}

#[tokio::test]
async fn many_are_imported_without_a_daemon_on_sqlite() {
    many_are_imported(Database::Sqlite, false).await;
}

#[tokio::test]
async fn many_are_imported_without_a_daemon_on_postgres() {
    many_are_imported(Database::Postgres, false).await;
}

#[tokio::test]
async fn many_are_imported_beside_a_daemon_on_sqlite() {
    many_are_imported(Database::Sqlite, true).await;
}

#[tokio::test]
async fn many_are_imported_beside_a_daemon_on_postgres() {
    many_are_imported(Database::Postgres, true).await;
}

#[tokio::test]
async fn one_bad_line_and_nothing_is_imported() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    insert_domain(&daemon, &tenant, "pending.example", false).await;
    let lines = [
        format!("good@{DEFAULT_DOMAIN}:{HASH}"),
        "# a comment".to_owned(),
        format!("clear@{DEFAULT_DOMAIN}:{{PLAIN}}secret"),
        format!("good@{DEFAULT_DOMAIN}:{HASH}"),
        format!("postmaster@{DEFAULT_DOMAIN}:{HASH}"),
        "no line".to_owned(),
    ];
    assert_eq!(
        import(&daemon, &id, &[], lines.join("\n")),
        refused(&format!(
            "inboxd: line 3: password: must be hashed; `doveadm pw` makes a hash of it\n\
             inboxd: line 4: good@{DEFAULT_DOMAIN} is on line 1 already\n\
             inboxd: line 5: postmaster is reserved on {DEFAULT_DOMAIN}: --allow-reserved takes it all the same\n\
             inboxd: line 6: must be address:{{SCHEME}}hash\n\
             inboxd: 4 lines cannot be imported; nothing was\n"
        ))
    );
    let domains =
        format!("good@{DEFAULT_DOMAIN}:{HASH}\na@foreign.example:{HASH}\nb@pending.example:{HASH}\n");
    assert_eq!(
        import(&daemon, &id, &[], &domains),
        refused(
            "inboxd: line 2: domain: foreign.example is neither the service's default domain nor a domain of this workspace\n\
             inboxd: line 3: domain: pending.example is not verified yet\n\
             inboxd: 2 lines cannot be imported; nothing was\n"
        )
    );
    let nobody = uuid::Uuid::nil().to_string();
    for (tenant, options, what) in [
        (&nobody, vec![], "tenant"),
        (&id, vec!["--workspace", &nobody], "workspace"),
    ] {
        assert_eq!(
            import(&daemon, tenant, &options, &lines[0]),
            refused(&format!("inboxd: import: there is no such {what}\n"))
        );
    }
    let listed = tenant.get("/v1/inboxes").await;
    assert_eq!(listed.body["inboxes"], json!([]));
    assert_published(&daemon).await;

    let own = insert_domain(&daemon, &tenant, "own.example", true).await;
    let good = format!("postmaster@{DEFAULT_DOMAIN}:{HASH}\npostmaster@{own}:{HASH}\n");
    assert_eq!(
        import(&daemon, &id, &["--allow-reserved"], &good),
        succeeded("imported 2, already there 0\n")
    );
}

/// Whatever saved the file in another encoding: nothing of it is imported, and the encoding is named.
#[tokio::test]
async fn a_file_in_another_encoding_is_named_as_what_it_is() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    let line = format!("good@{DEFAULT_DOMAIN}:{HASH}\n");
    let utf_16: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin_1 = [line.as_bytes(), b"m\xfcller@", line.as_bytes()].concat();
    let octet = line.len() + 2;
    for (file, error) in [
        (
            format!("\u{feff}{line}").into_bytes(),
            "line 1: must be text in UTF-8 without a byte order mark (BOM): it begins with EF BB BF"
                .to_owned(),
        ),
        (utf_16, "line 1: must be text in UTF-8: it is UTF-16".to_owned()),
        (
            latin_1,
            format!(
                "line 2: must be text in UTF-8: octet {octet} is FC, which is not; it may be ISO 8859-1 (Latin-1) or Windows-1252"
            ),
        ),
    ] {
        for options in [&[][..], &["--skip-bad", "/nonexistent/bad.passwd"]] {
            let said = import(&daemon, &id, options, &file);
            assert_eq!(said, refused(&format!("inboxd: standard input: {error}\n")));
        }
    }
    assert_eq!(tenant.get("/v1/inboxes").await.body["inboxes"], json!([]));
}

/// Each costs more than the limits of the daemon's configuration allow, or can match no password, or is a lock.
#[tokio::test]
async fn hashes_are_refused_that_cannot_match_or_cost_too_much() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let id = id_of(&daemon.tenant("Moved").await).await;
    let bcrypt =
        |cost: u32| format!("{{BLF-CRYPT}}$2y${cost}$7r0VO4xEKgXAvJwPYwItBur9uwkMeqcAw93yq7Be0sm/6g4E6yAZa");
    let argon2 = |memory_kib: u32| {
        format!(
            "{{ARGON2ID}}$argon2id$v=19$m={memory_kib},t=1,p=1$ROJXC0BuoHiHqdKzO9atkg$jQKCdmYSDDHgr+zIR6sUjXy7X3po5klmvBc2srgdtnM"
        )
    };
    let lines = |hashes: &[String]| -> String {
        let lines = hashes.iter().enumerate();
        let lines: Vec<String> = lines
            .map(|(n, hash)| format!("user{n}@{DEFAULT_DOMAIN}:{hash}\n"))
            .collect();
        lines.concat()
    };
    let bad = lines(&[
        bcrypt(12),
        "{MD5-CRYPT}7b0b9823a40c01ef5cef8e3f0c0a4d11".to_owned(),
        bcrypt(14),
        argon2(1_048_576),
    ]);
    assert_eq!(
        import(&daemon, &id, &[], &bad),
        refused(
            "inboxd: line 2: password: no password has this MD5-CRYPT value: it must be $1$, a salt of up to 8 characters, $, and 22 characters\n\
             inboxd: line 3: password: bcrypt's cost 14 is above the limit 12 (import.bcrypt_cost_max)\n\
             inboxd: line 4: password: memory in MiB 1024 is above the limit 256 (import.argon2_memory_max_mib)\n\
             inboxd: 3 lines cannot be imported; nothing was\n"
        )
    );
    let good = lines(&[
        bcrypt(12),
        argon2(262_144),
        "{CRYPT}!".to_owned(),
        HASH.to_owned(),
    ]);
    let said = Said {
        status: Some(0),
        output: "imported 4, already there 0\n".to_owned(),
        errors: "inboxd: 1 are locked (\"!\" or \"*\" in place of a hash): they get mail, and no login is possible until rotate-password\n\
                 inboxd: 2 have a hash that takes long to verify: Dovecot does that in two processes, and tries at these logins wait for each other\n"
            .to_owned(),
    };
    assert_eq!(import(&daemon, &id, &[], &good), said);
    let raised = [
        "--set",
        "import.bcrypt_cost_max=14",
        "--set",
        "import.argon2_memory_max_mib=1024",
    ];
    let costly = lines(&[bcrypt(12), bcrypt(14), argon2(1_048_576)]).replace("user", "other");
    let outcome = import(&daemon, &id, &raised, &costly);
    assert_eq!(outcome.output, "imported 3, already there 0\n", "{outcome:?}");
}

async fn names_of_others_and_caps_hold(database: Database) {
    let daemon = Daemon::start(database).await;
    let operator = daemon.api(&daemon.super_admin);
    let limited = operator
        .post("/v1/tenants", &json!({"name": "Moved", "limits": {"inboxes": 3}}))
        .await;
    let (id, moved) = (limited.id(), operator.with_key(limited.text("key")));
    let other = daemon.tenant("Other").await;
    for (who, name) in [(&other, "theirs"), (&other, "gone"), (&moved, "left")] {
        let made = who.post("/v1/inboxes", &json!({"username": name})).await;
        assert_eq!(made.status, 201);
        if name != "theirs" {
            let deleted = who.delete(&format!("/v1/inboxes/{}", made.id())).await;
            assert_eq!(deleted.status, 200, "{deleted:?}");
        }
    }
    let workspace = moved.post("/v1/workspaces", &json!({"name": "Second"})).await;
    let elsewhere = json!({"username": "elsewhere", "workspaceId": workspace.id()});
    assert_eq!(moved.post("/v1/inboxes", &elsewhere).await.status, 201);

    let line = |name: &str| format!("{name}@{DEFAULT_DOMAIN}:{HASH}\n");
    let too_many: String = ["a", "b", "c", "theirs"].map(line).concat();
    assert_eq!(
        import(&daemon, id, &[], &too_many),
        refused("inboxd: import: the plan allows 3 inboxes, and 1 are in use\n")
    );
    // A tombstone of its own is free for the tenant. What others have does not count.
    let fitting: String = ["theirs", "a", "gone", "left", "elsewhere"].map(line).concat();
    let said = Said {
        status: Some(1),
        output: "imported 2, already there 0\n".to_owned(),
        errors: ["theirs", "gone", "elsewhere"]
            .map(|name| format!("inboxd: {name}@{DEFAULT_DOMAIN}: somebody else has this address\n"))
            .concat()
            + "inboxd: 3 addresses were not imported\n",
    };
    assert_eq!(import(&daemon, id, &[], &fitting), said);
    assert_published(&daemon).await;
    let listed = moved.get("/v1/inboxes").await;
    assert_eq!(listed.body["inboxes"].as_array().unwrap().len(), 3, "{listed:?}");
    // Into the workspace that has it.
    assert_eq!(
        import(&daemon, id, &["--workspace", workspace.id()], line("elsewhere")),
        succeeded("imported 0, already there 1\n")
    );
}

#[tokio::test]
async fn names_of_others_and_caps_hold_on_sqlite() {
    names_of_others_and_caps_hold(Database::Sqlite).await;
}

#[tokio::test]
async fn names_of_others_and_caps_hold_on_postgres() {
    names_of_others_and_caps_hold(Database::Postgres).await;
}
