//! How many sessions one inbox, and one address, may have.

use futures_util::future::join_all;

use super::{HASH_OF_SECRET, Rig};

/// What the private stack allows one inbox from one address.
const PER_INBOX: usize = 50;
/// More than that.
const TRIES: usize = PER_INBOX + 10;

#[tokio::test]
async fn no_few_inboxes_take_all_sessions() {
    let rig = Rig::new();
    rig.password_entry("carol", HASH_OF_SECRET);
    let stack = rig.start().await;
    let mut held = Vec::new();
    for login in ["alice@example.com", "bob@example.com"] {
        // One after the other: Dovecot counts a session when it has begun.
        for number in 0..TRIES {
            match rig.log_in(login, "secret").await {
                Ok(session) => held.push(session),
                Err(refused) => {
                    assert!(refused.contains("LIMIT"), "{refused}");
                    assert!(number >= PER_INBOX, "{number}");
                }
            }
        }
    }
    assert!(held.len() < 2 * TRIES, "no login was refused");
    let mut other = rig.log_in("carol@example.com", "secret").await.unwrap();
    // A login is answered before its session is counted.
    let all = u64::try_from(held.len()).unwrap() + 1;
    let doveadm = super::doveadm(&stack);
    crate::support::wait::until("all sessions", || async {
        (doveadm.sessions().await.unwrap() == Some(all)).then_some(())
    })
    .await;
    other.noop().await.unwrap();
    // A place that is given back is free at once, or soon.
    drop(held);
    crate::support::wait::until("a place", || async {
        rig.log_in("alice@example.com", "secret").await.ok()
    })
    .await;
    stack.stop().await;
}

#[tokio::test]
async fn submission_has_a_limit_of_its_own_for_each_address() {
    let rig = Rig::new();
    let stack = rig.start().await;
    let (settings, said) = super::run(
        "postconf",
        &[
            "-c",
            stack.layout().postfix_conf_dir().to_str().unwrap(),
            "-P",
            &format!(
                "127.0.0.1:{}/inet/smtpd_client_connection_count_limit",
                rig.settings.ports.submission
            ),
        ],
    );
    assert!(settings.trim_end().ends_with("= 250"), "{settings} {said}");
    // More than Postfix's own default of 50, which would refuse agents that share an address.
    let sessions = join_all((0..80).map(|_| rig.logged_in_submission("alice@example.com"))).await;
    assert_eq!(sessions.len(), 80);
    stack.stop().await;
}
