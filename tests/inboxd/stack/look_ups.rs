//! Look-ups of logins through Dovecot's authentication service.

use std::collections::BTreeMap;

use inboxd::{
    mail::auth_socket::{Answer, AuthSocket, AuthSocketError},
    model::{
        address::Address,
        maps::{EntryMark, Login, Mailbox},
        password::PasswordHash,
        sasl_name::SaslName,
    },
    stack::private::{Kind, PrivateStack},
};
use tokio::time::Instant;

use super::{HASH_OF_SECRET, Rig, complaints, sasl_name};
use crate::support::wait::LIMIT;

fn client(stack: &PrivateStack) -> AuthSocket {
    let layout = stack.layout();
    AuthSocket::new(&layout.lookup_socket(), &layout.doveadm_socket())
}

/// What is said of the mailboxes with these names.
async fn look_up(client: &AuthSocket, names: &[&str]) -> Result<BTreeMap<String, Answer>, AuthSocketError> {
    let logins: Vec<Address> = names
        .iter()
        .map(|name| Address::parse(&format!("{name}@example.com")).unwrap())
        .collect();
    let mut told = BTreeMap::new();
    let outcome = client
        .look_up(&logins, Instant::now() + LIMIT, |index, answer| {
            told.insert(names[index].to_owned(), answer);
        })
        .await;
    outcome.map(|()| told)
}

fn found(name: &str) -> Answer {
    Answer::Found(Some(mark_of(name, HASH_OF_SECRET)))
}

fn mark_of(name: &str, hash: &str) -> EntryMark {
    let mailbox = Mailbox {
        sasl_name: SaslName::parse(&sasl_name(name)).unwrap(),
        login: Login::Open(PasswordHash::parse(hash).unwrap()),
    };
    mailbox.entry_mark().unwrap()
}

#[tokio::test]
async fn each_state_of_an_entry_has_its_answer_and_counts_as_no_login() {
    let rig = Rig::new();
    rig.password_entry("locked", "*");
    rig.write_entry("broken", "broken@example.com\n");
    let stack = rig.start().await;
    let client = client(&stack);
    let told = look_up(&client, &["alice", "nobody", "locked", "broken", "bob"])
        .await
        .unwrap();
    let expected = [
        ("alice", found("alice")),
        ("bob", found("bob")),
        ("broken", Answer::Failed),
        ("locked", Answer::Unknown),
        ("nobody", Answer::Unknown),
    ];
    assert_eq!(
        told,
        expected.map(|(name, answer)| (name.to_owned(), answer)).into()
    );

    let other = HASH_OF_SECRET.replace("$LiU9L8qh", "$AAAAAAAA");
    rig.password_entry("bob", &other);
    let told = look_up(&client, &["bob"]).await.unwrap();
    assert_eq!(told["bob"], Answer::Found(Some(mark_of("bob", &other))));

    let log = rig.dovecot_log();
    let complaints = complaints(&log);
    assert!(
        complaints.iter().all(|line| line.contains("broken@example.com")),
        "{complaints:?}"
    );
    assert!(!log.contains(&HASH_OF_SECRET[60..]), "a hash in the log");
    stack.stop().await;
}

#[tokio::test]
async fn a_thousand_logins_are_looked_up_at_once() {
    let rig = Rig::new();
    let names: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    for name in names.iter().step_by(2) {
        rig.password_entry(name, HASH_OF_SECRET);
    }
    let stack = rig.start().await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = look_up(&client(&stack), &names).await.unwrap();
    for (number, name) in names.iter().enumerate() {
        let expected = if number % 2 == 0 {
            found(name)
        } else {
            Answer::Unknown
        };
        assert_eq!(told[*name], expected, "{name}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_dovecot_that_stops_and_comes_back_is_asked_again() {
    let rig = Rig::new();
    let mut stack = rig.start().await;
    let client = client(&stack);
    assert_eq!(
        look_up(&client, &["alice"]).await.unwrap()["alice"],
        found("alice")
    );
    stack.take_down(Kind::Dovecot).await;
    let error = look_up(&client, &["alice"]).await.unwrap_err();
    assert!(matches!(error, AuthSocketError::NoServer(_)), "{error:?}");
    stack.bring_up(Kind::Dovecot).await.unwrap();
    assert_eq!(
        look_up(&client, &["alice"]).await.unwrap()["alice"],
        found("alice")
    );

    // As an older fragment leaves it.
    std::fs::remove_file(stack.layout().lookup_socket()).unwrap();
    let error = look_up(&client, &["alice"]).await.unwrap_err();
    assert!(matches!(error, AuthSocketError::NoListener(_)), "{error:?}");
    stack.stop().await;
}

#[tokio::test]
async fn what_dovecot_reads_is_what_is_seen() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let client = client(&stack);
    // A folder that Dovecot may not enter: it is there for everybody but whoever has to read it.
    let folder = rig.entry("alice").parent().unwrap().to_owned();
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o700);
    let told = look_up(&client, &["alice"]).await.unwrap();
    assert_eq!(told["alice"], Answer::Failed);
    mode(0o755);
    assert_eq!(
        look_up(&client, &["alice"]).await.unwrap()["alice"],
        found("alice")
    );
    stack.stop().await;
}
