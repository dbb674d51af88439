//! `inboxd import` of files in which not every line can be imported: bad lines are left out and written down, and names
//! that other servers allow get legal ones.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::json;

use crate::support::{
    api::Api,
    daemon::{DEFAULT_DOMAIN, Daemon, Database, INBOXD},
    domains::insert_domain,
};

/// Of the password `some password`.
const HASH: &str = "{SHA512-CRYPT}$6$saltsaltsaltsalt$\
IebLPVL29HrnSypjcAfO9bKpCn17q9JOBcmWBNoBhz87tSXGLzM61P8D/icIakzt4e.skIDJLemagLkC/CsEJ1";

/// Runs an import: exit status, standard output, standard error.
fn import(daemon: &Daemon, tenant: &str, options: &[&str], text: &str) -> (i32, String, String) {
    let arguments = [&["import", "-", "--tenant", tenant], options].concat();
    let output = daemon.run(&arguments, text);
    let errors = String::from_utf8(output.stderr).unwrap();
    // On a busy machine an import takes long enough to say how far it is.
    let errors = errors
        .split_inclusive('\n')
        .filter(|line| !line.contains(" are in the store") && !line.contains(" until the daemon publishes"));
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        errors.collect(),
    )
}

async fn id_of(tenant: &Api) -> String {
    tenant.get("/v1/me").await.text("tenantId").to_owned()
}

/// The addresses of a tenant's inboxes, sorted.
async fn emails(tenant: &Api) -> Vec<String> {
    let listed = tenant.get("/v1/inboxes").await;
    let inboxes = listed.body["inboxes"].as_array().unwrap();
    let mut emails: Vec<String> = inboxes
        .iter()
        .map(|inbox| inbox["email"].as_str().unwrap().to_owned())
        .collect();
    emails.sort();
    emails
}

fn lines(users: &[&str]) -> String {
    let lines: Vec<String> = users
        .iter()
        .map(|user| format!("{user}@{DEFAULT_DOMAIN}:{HASH}\n"))
        .collect();
    lines.concat()
}

fn at_default(names: &[&str]) -> Vec<String> {
    let mut emails: Vec<String> = names
        .iter()
        .map(|name| format!("{name}@{DEFAULT_DOMAIN}"))
        .collect();
    emails.sort();
    emails
}

async fn good_lines_are_imported_and_bad_ones_written_down(database: Database) {
    let daemon = Daemon::start(database).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    insert_domain(&daemon, &tenant, "pending.example", false).await;
    let file = [
        "# moved from another server",
        &format!("good@{DEFAULT_DOMAIN}:{HASH}"),
        &format!("clear@{DEFAULT_DOMAIN}:{{PLAIN}}secret"),
        &format!("good@{DEFAULT_DOMAIN}:{HASH}"),
        &format!("postmaster@{DEFAULT_DOMAIN}:{HASH}"),
        "no line",
        &format!("a@pending.example:{HASH}"),
        &format!("b@pending.example:{HASH}"),
        &format!("o'brien@{DEFAULT_DOMAIN}:{HASH}"),
        // The line above that has this address is bad: it takes it from no other.
        &format!("clear@{DEFAULT_DOMAIN}:{HASH}"),
        &format!("shut@{DEFAULT_DOMAIN}:{HASH}::::::nologin"),
    ]
    .join("\n");
    let bad = daemon.folder.join("bad.passwd");
    let bad_path = bad.to_str().unwrap();
    assert_eq!(
        import(&daemon, &id, &["--skip-bad", bad_path], &file),
        (
            0,
            "imported 2, already there 0, left out 8\n".to_owned(),
            format!("inboxd: the lines that were left out are in {bad_path}, each with its reason\n")
        )
    );
    assert_eq!(emails(&tenant).await, at_default(&["clear", "good"]));
    assert_eq!(fs::metadata(&bad).unwrap().permissions().mode() & 0o777, 0o600);
    let rule = inboxd::model::address::LocalPart::RULE;
    let written = fs::read_to_string(&bad).unwrap();
    assert_eq!(
        written,
        format!(
            "# line 3: password: must be hashed; `doveadm pw` makes a hash of it\n\
             clear@{DEFAULT_DOMAIN}:{{PLAIN}}secret\n\
             # line 4: good@{DEFAULT_DOMAIN} is on line 2 already\n\
             good@{DEFAULT_DOMAIN}:{HASH}\n\
             # line 5: postmaster is reserved on {DEFAULT_DOMAIN}: --allow-reserved takes it all the same\n\
             postmaster@{DEFAULT_DOMAIN}:{HASH}\n\
             # line 6: must be address:{{SCHEME}}hash\n\
             no line\n\
             # line 7: domain: pending.example is not verified yet\n\
             a@pending.example:{HASH}\n\
             # line 8: domain: pending.example is not verified yet\n\
             b@pending.example:{HASH}\n\
             # line 9: address: the local part {rule}; --map-names proposes obrien@{DEFAULT_DOMAIN}\n\
             o'brien@{DEFAULT_DOMAIN}:{HASH}\n\
             # line 11: has the extra field nologin, which cannot be kept: leave the line out, or the field\n\
             shut@{DEFAULT_DOMAIN}:{HASH}::::::nologin\n"
        )
    );
    // A file that is there is kept, and nothing is imported.
    let (status, output, errors) = import(&daemon, &id, &["--skip-bad", bad_path], &lines(&["new", "_x"]));
    assert_eq!((status, output.as_str()), (1, ""));
    assert!(
        errors.starts_with(&format!("inboxd: write down the bad lines: {bad_path}: ")),
        "{errors}"
    );
    assert_eq!(emails(&tenant).await, at_default(&["clear", "good"]));
    assert_eq!(fs::read_to_string(&bad).unwrap(), written);
    // The file can be corrected and imported; where no line is bad, none is written.
    let corrected = written.replace("o'brien@", "brien@");
    let rest = daemon.folder.join("rest.passwd");
    let again = import(&daemon, &id, &["--skip-bad", rest.to_str().unwrap()], &corrected);
    assert_eq!(again.1, "imported 1, already there 1, left out 6\n");
    let none = daemon.folder.join("none.passwd");
    let none_path = none.to_str().unwrap();
    assert_eq!(
        import(&daemon, &id, &["--skip-bad", none_path], &lines(&["fine"])),
        (
            0,
            "imported 1, already there 0, left out 0\n".to_owned(),
            String::new()
        )
    );
    assert!(!none.exists());
}

#[tokio::test]
async fn good_lines_are_imported_and_bad_ones_written_down_on_sqlite() {
    good_lines_are_imported_and_bad_ones_written_down(Database::Sqlite).await;
}

#[tokio::test]
async fn good_lines_are_imported_and_bad_ones_written_down_on_postgres() {
    good_lines_are_imported_and_bad_ones_written_down(Database::Postgres).await;
}

#[tokio::test]
async fn names_that_other_servers_allow_get_legal_ones_that_nothing_else_has() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    let made = tenant.post("/v1/inboxes", &json!({"username": "x"})).await;
    assert_eq!(made.status, 201);
    let file = lines(&[
        "o'brien",
        "O'Brien",
        "obrien",
        "_x",
        "Postmaster",
        "john+news",
        "plain",
    ]);

    let (status, _, errors) = import(&daemon, &id, &[], &file);
    assert_eq!(status, 1);
    for (line, name) in [
        (1, "obrien"),
        (2, "obrien"),
        (4, "x"),
        (5, "postmaster"),
        (6, "john-news"),
    ] {
        let said = format!("inboxd: line {line}: address: the local part must be");
        let proposed = format!("--map-names proposes {name}@{DEFAULT_DOMAIN}\n");
        assert!(errors.contains(&said) && errors.contains(&proposed), "{errors}");
    }

    let [names, again] = ["names", "again"].map(|name| daemon.folder.join(name));
    let names_path = names.to_str().unwrap();
    for (path, out) in [(&names, names_path), (&again, again.to_str().unwrap())] {
        let (status, output, errors) = import(&daemon, &id, &["--map-names", out], &file);
        assert_eq!((status, errors.as_str()), (0, ""));
        assert_eq!(
            output,
            format!("proposed 5 names in {out}; review them, and import with --names {out}\n")
        );
        assert!(path.exists());
    }
    assert_eq!(emails(&tenant).await, at_default(&["x"]), "nothing was imported");
    let written = fs::read_to_string(&names).unwrap();
    assert_eq!(written, fs::read_to_string(&again).unwrap());
    let (_, map) = written.split_once('\n').unwrap();
    let expected: String = [
        ("O'Brien", "obrien2"),
        ("Postmaster", "postmaster1"),
        ("_x", "x1"),
        ("john+news", "john-news"),
        ("o'brien", "obrien1"),
    ]
    .map(|(from, to)| format!("{from}@{DEFAULT_DOMAIN}\t{to}@{DEFAULT_DOMAIN}\n"))
    .concat();
    assert_eq!(map, expected);
    let (status, _, errors) = import(&daemon, &id, &["--map-names", names_path], &file);
    assert!(status == 1 && errors.contains(names_path), "{errors}");

    // Reviewed: one of them is changed, and one is of no line.
    let reviewed =
        written.replace("john-news@", "john.news@") + &format!("Gone@old.example\tgone@{DEFAULT_DOMAIN}\n");
    fs::write(&names, reviewed).unwrap();
    assert_eq!(
        import(&daemon, &id, &["--names", names_path], &file),
        (
            0,
            "imported 7, already there 0\n".to_owned(),
            "inboxd: 1 addresses of --names are on no line, such as Gone@old.example\n".to_owned()
        )
    );
    let imported = [
        "x",
        "obrien",
        "obrien1",
        "obrien2",
        "x1",
        "postmaster1",
        "john.news",
        "plain",
    ];
    assert_eq!(emails(&tenant).await, at_default(&imported));
}

#[tokio::test]
async fn a_name_map_that_cannot_be_used_is_refused_by_the_line() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let id = id_of(&daemon.tenant("Moved").await).await;
    let file = lines(&["o'brien", "O'Brien"]);
    let names = daemon.folder.join("names");
    let names_path = names.to_str().unwrap();
    // Two lines under one name are refused as ever.
    fs::write(
        &names,
        format!(
            "o'brien@{DEFAULT_DOMAIN}\tone@{DEFAULT_DOMAIN}\nO'Brien@{DEFAULT_DOMAIN}\tone@{DEFAULT_DOMAIN}\n"
        ),
    )
    .unwrap();
    let (status, _, errors) = import(
        &daemon,
        &id,
        &["--names", names_path],
        &lines(&["o'brien", "O'Brien"]),
    );
    assert_eq!(status, 1);
    assert!(
        errors.starts_with(&format!(
            "inboxd: line 2: one@{DEFAULT_DOMAIN} is on line 1 already\n"
        )),
        "{errors}"
    );
    fs::write(
        &names,
        format!("o'brien@{DEFAULT_DOMAIN}\tO'Brien@{DEFAULT_DOMAIN}\n"),
    )
    .unwrap();
    let (status, _, errors) = import(&daemon, &id, &["--names", names_path], &file);
    assert_eq!(status, 1);
    assert!(
        errors.contains(&format!("--names {names_path}: line 1: ")),
        "{errors}"
    );
}

#[tokio::test]
async fn a_terminal_shows_a_bar_and_a_log_does_not() {
    let daemon = Daemon::start(Database::Sqlite).await;
    let tenant = daemon.tenant("Moved").await;
    let id = id_of(&tenant).await;
    let file = daemon.folder.join("users.passwd");
    let users: Vec<String> = (0..2_500).map(|number| format!("user{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    fs::write(&file, lines(&users)).unwrap();
    // script(1) gives it a terminal.
    let command = format!(
        "{INBOXD} import {} --tenant {id} --config {}",
        file.display(),
        daemon.config.display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("written [") && shown.contains("/2,500"), "{shown}");
    assert!(shown.contains("imported 2500, already there 0"), "{shown}");
    let (status, output, errors) = import(&daemon, &id, &[], &fs::read_to_string(&file).unwrap());
    assert_eq!(
        (status, output.as_str(), errors.as_str()),
        (0, "imported 0, already there 2500\n", "")
    );
}
