//! Passwords whose verification takes long, and what happens to other logins meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;

use super::{HASH_OF_SECRET, Rig, complaints};
use crate::support::{
    mail::{Message, auth_plain},
    wait::until,
};

/// `doveadm pw -s BLF-CRYPT -r 13 -p secret`: about half a second of a core.
pub(super) const BCRYPT_13: &str = "{BLF-CRYPT}$2y$13$lhkMLcG1qU3dNUrBCHUO5OkRzXqA3zg1o75BLGJBoANzMH/f708ni";
/// Of "s3cret!x", with 1 GiB of memory.
const ARGON2_1_GIB: &str = "{ARGON2ID}$argon2id$v=19$m=1048576,t=1,p=1$5iZXYH2pUEMA3aFaLb61kA$sNWzTkAdOC/Jhr+kWi9wrJSG63PQQzllIe3ROAp8/5c";
/// Of "s3cret!x", as SHA512-CRYPT has it without a number of rounds.
const SHA512_5000: &str = "{SHA512-CRYPT}$6$2R.edpNoquqz4j14$cgNOOEIXjfpSNR1YTemT5zy2P7GJWcvHjPxMLGKnYlM2QrOc2RiCCwd.OdjOtaQIZHzRrz7u9hJLp0bThzUgS1";
/// `doveadm pw -s SSHA512 -p secret`
const DIGEST: &str =
    "{SSHA512}L0nJrEamGI4j13D8eqEi6saetUPW4mZvOnPCxUjxA5xMxniw+HB8Tc1wU8wsXrHuW0OJJSSYpCVYcFTixrQTVmkHpNM=";
/// `doveadm pw -s PBKDF2 -p secret`: its value begins as one of MD5-CRYPT does.
const PBKDF2: &str = "{PBKDF2}$1$taN3cMADGyTrwrzz$5000$359d1ca86f39dad46e710d494b4a0a9043589b35";
/// Tries at a time.
const TRIES: usize = 20;

/// The processes of Dovecot that verify what takes long.
fn workers(rig: &Rig) -> usize {
    let processes = rig.processes();
    let is_worker = |process: &&String| process.contains("/auth -w");
    processes.iter().filter(is_worker).count()
}

#[tokio::test]
async fn tries_at_a_costly_login_do_not_hold_up_the_others() {
    let rig = Rig::new();
    rig.mailbox("costly", BCRYPT_13);
    let stack = rig.start().await;
    let answered = Arc::new(AtomicUsize::new(0));
    let connections =
        join_all((0..TRIES).map(|_| async { rig.mail().await.try_imap().await.unwrap() })).await;
    let tries: Vec<_> = connections
        .into_iter()
        .map(|connection| {
            let answered = answered.clone();
            tokio::spawn(async move {
                let refused = connection.try_log_in("costly@example.com", "wrong").await;
                assert!(refused.unwrap_err().contains("AUTHENTICATIONFAILED"));
                answered.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    until("workers that verify", || async {
        (workers(&rig) > 0).then_some(())
    })
    .await;
    for _ in 0..3 {
        rig.log_in("alice@example.com", "secret").await.unwrap();
        rig.logged_in_submission("bob@example.com").await;
    }
    let pending = TRIES - answered.load(Ordering::SeqCst);
    assert!(pending >= TRIES / 2, "{pending} of {TRIES} tries are pending");
    // They are verified, and not forgotten.
    until("a try that is refused", || async {
        (answered.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    for task in tries {
        task.abort();
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_costly_login_is_one_like_any_other() {
    let rig = Rig::new();
    rig.mailbox("costly", BCRYPT_13);
    let stack = rig.start().await;
    rig.log_in("Costly@Example.com", "secret").await.unwrap();
    let mut smtp = rig.submission().await;
    smtp.expect(&auth_plain("costly@example.com", "wrong"), "535")
        .await;
    let mut smtp = rig.logged_in_submission("costly@example.com").await;
    // The name of the login is the inbox's, whoever has verified its password.
    smtp.send("costly@example.com", "bob@example.com", &Message::new("a test"))
        .await;
    rig.wait_for_mail("bob@example.com", 1).await;
    smtp.expect("MAIL FROM:<alice@example.com>", "250").await;
    smtp.expect("RCPT TO:<bob@example.com>", "553 5.7.1").await;

    for lock in ["*", &BCRYPT_13.replace("}$", "}!$"), "{CRYPT}*"] {
        rig.password_entry("costly", lock);
        let refused = rig.log_in("costly@example.com", "secret").await.unwrap_err();
        assert!(!refused.contains("UNAVAILABLE"), "{lock}: {refused}");
    }
    rig.write_entry(
        "costly",
        &format!(
            "costly@example.com:{BCRYPT_13}:5000:5000::{}::allow_nets=192.0.2.0/24\n",
            rig.settings.dir.join("mail/id-of-costly").display()
        ),
    );
    assert!(rig.log_in("costly@example.com", "secret").await.is_err());
    std::fs::remove_file(rig.entry("costly")).unwrap();
    let refused = rig.log_in("costly@example.com", "secret").await.unwrap_err();
    assert!(refused.contains("AUTHENTICATIONFAILED"), "{refused}");
    stack.stop().await;
}

#[tokio::test]
async fn what_is_cheap_needs_no_worker_and_what_needs_memory_has_it() {
    let rig = Rig::new();
    for (name, hash) in [
        ("digest", DIGEST),
        ("rounds", SHA512_5000),
        ("crypt", &SHA512_5000.replace("SHA512-CRYPT", "CRYPT")),
        ("large", ARGON2_1_GIB),
        ("iterations", PBKDF2),
        ("ours", HASH_OF_SECRET),
    ] {
        rig.mailbox(name, hash);
    }
    let stack = rig.start().await;
    for (name, password) in [
        ("digest", "secret"),
        ("rounds", "s3cret!x"),
        ("crypt", "s3cret!x"),
        ("ours", "secret"),
    ] {
        let login = format!("{name}@example.com");
        rig.log_in(&login, password).await.unwrap();
        assert!(rig.log_in(&login, "wrong").await.is_err());
    }
    assert_eq!(workers(&rig), 0);
    rig.log_in("iterations@example.com", "secret").await.unwrap();
    assert!(workers(&rig) > 0);
    rig.log_in("large@example.com", "s3cret!x").await.unwrap();
    stack.stop().await;
    assert_eq!(complaints(&rig.dovecot_log()), [""; 0]);
}
