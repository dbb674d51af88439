//! Password guessing is slowed down, and nothing else is.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::join_all;
use inboxd::{clock::Machine, throttle};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{HASH_OF_SECRET, Rig};
use crate::support::mail::auth_plain;

/// Wrong passwords that come at once: more than are free, fewer than are slowed down as they come.
const GUESSES: usize = 8;

/// What Dovecot asks, on a port of its own.
async fn policy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        axum::serve(listener, throttle::router(Arc::new(Machine), None))
            .await
            .unwrap();
    });
    address
}

/// By how many seconds a try at this login would be delayed now.
async fn pause(policy: SocketAddr, login: &str) -> u64 {
    let asked = reqwest::Client::new()
        .post(format!("http://{policy}/?command=allow"))
        .json(&json!({"login": login, "remote": "127.0.0.1", "protocol": "imap"}))
        .send()
        .await
        .unwrap();
    let answer: Value = asked.json().await.unwrap();
    answer["status"].as_u64().unwrap()
}

fn rig(policy_url: String) -> Rig {
    let mut rig = Rig::new();
    rig.password_entry("carol", HASH_OF_SECRET);
    rig.settings.login_policy_url = Some(policy_url);
    rig
}

#[tokio::test]
async fn guesses_at_a_login_are_slowed_down_and_others_of_the_address_are_not() {
    let policy = policy().await;
    // By name, as a container reaches another one.
    let rig = rig(format!("http://localhost:{}/", policy.port()));
    let stack = rig.start().await;
    let tries = join_all((0..GUESSES).map(|_| rig.log_in("Alice@example.com", "wrong"))).await;
    for refused in tries {
        assert!(refused.unwrap_err().contains("AUTHENTICATIONFAILED"));
    }
    join_all((0..GUESSES).map(|_| async {
        let mut smtp = rig.submission().await;
        smtp.expect(&auth_plain("bob@example.com", "wrong"), "535").await;
    }))
    .await;
    for guessed in ["alice@example.com", "bob@example.com"] {
        assert!(pause(policy, guessed).await >= 8, "{guessed}");
    }
    assert_eq!(pause(policy, "carol@example.com").await, 0);

    let slow = rig.log_in("alice@example.com", "secret");
    let others = async {
        for _ in 0..2 {
            rig.log_in("carol@example.com", "secret").await.unwrap();
            rig.logged_in_submission("carol@example.com").await;
        }
    };
    let mut slow = std::pin::pin!(slow);
    tokio::select! {
        biased;
        () = others => {}
        _ = &mut slow => panic!("a login that was guessed at is answered before others"),
    }
    // The right password is taken all the same, and ends it.
    slow.await.unwrap();
    assert_eq!(pause(policy, "alice@example.com").await, 0);
    stack.stop().await;
}

#[tokio::test]
async fn logins_go_on_while_nothing_answers_dovecot() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(format!("http://{}/", listener.local_addr().unwrap()));
    let stack = rig.start().await;
    // It takes connections, and says nothing.
    rig.log_in("alice@example.com", "secret").await.unwrap();
    assert!(rig.log_in("alice@example.com", "wrong").await.is_err());
    drop(listener);
    rig.log_in("alice@example.com", "secret").await.unwrap();
    rig.logged_in_submission("bob@example.com").await;
    stack.stop().await;
}
