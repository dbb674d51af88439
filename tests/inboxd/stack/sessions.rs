//! How many sessions one inbox, one tenant and one address may have.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use futures_util::future::join_all;
use inboxd::{
    clock::Machine,
    mail::doveadm::Doveadm,
    model::{ids::TenantId, session_share::ShareLimits},
    stack::PrivateStack,
    throttle::{self, Directory, DirectoryAnswer, Shares},
};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{HASH_OF_SECRET, Rig, costly::BCRYPT_13, mail_at};
use crate::support::wait::until;

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
    until("all sessions", || async {
        (doveadm.sessions().await.unwrap() == Some(all)).then_some(())
    })
    .await;
    other.noop().await.unwrap();
    // A place that is given back is free at once, or soon.
    drop(held);
    until("a place", || async {
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

/// Fewer sessions than [`PER_INBOX`], of one inbox and of the tenant of Alice and Bob.
const SHARES: ShareLimits = ShareLimits { inbox: 5, tenant: 8 };

/// Who is connected, by a real Dovecot; Alice and Bob are of one tenant.
struct OfStack(Doveadm);

impl Directory for OfStack {
    fn sessions(&self) -> DirectoryAnswer<'_, HashMap<Box<str>, u32>> {
        Box::pin(async { Ok(self.0.sessions_by_login().await?.ok_or("no Dovecot")?) })
    }

    fn tenants<'a>(&'a self, logins: &'a [Box<str>]) -> DirectoryAnswer<'a, HashMap<Box<str>, TenantId>> {
        let tenants = logins.iter().map(|login| {
            let is_first = ["alice@example.com", "bob@example.com"].contains(&&**login);
            (login.clone(), TenantId(Uuid::from_u128(is_first.into())))
        });
        Box::pin(async move { Ok(tenants.collect()) })
    }
}

/// A stack whose Dovecot asks about its logins, and where.
async fn with_shares(rig: &mut Rig) -> (PrivateStack, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    rig.settings.login_policy_url = Some(url.clone());
    let stack = rig.start().await;
    let directory = Arc::new(OfStack(super::doveadm(&stack)));
    let shares = Shares::new(SHARES, directory, Arc::new(Machine));
    let router = throttle::router(Arc::new(Machine), Some(shares));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (stack, url)
}

#[tokio::test]
async fn an_inbox_and_a_tenant_have_their_shares_whatever_address_they_come_from() {
    let mut rig = Rig::new();
    rig.password_entry("carol", HASH_OF_SECRET);
    let (stack, url) = with_shares(&mut rig).await;
    let mail = rig.mail().await;
    let from = |host: u8| mail_at(&mail, Ipv4Addr::new(127, 0, 0, host));
    let mut held = Vec::new();
    for host in 1..=5 {
        held.push(
            from(host)
                .try_log_in("alice@example.com", "secret")
                .await
                .unwrap(),
        );
    }
    let beyond = from(6)
        .try_log_in("Alice@example.com", "secret")
        .await
        .unwrap_err();
    assert!(beyond.contains("this inbox has as many sessions"), "{beyond}");
    // Whoever has no password learns nothing.
    let wrong = from(6)
        .try_log_in("alice@example.com", "wrong")
        .await
        .unwrap_err();
    assert!(wrong.contains("AUTHENTICATIONFAILED"), "{wrong}");
    for host in 1..=3 {
        held.push(from(host).try_log_in("bob@example.com", "secret").await.unwrap());
    }
    let beyond = from(4).try_log_in("bob@example.com", "secret").await.unwrap_err();
    assert!(beyond.contains("the inboxes of this customer"), "{beyond}");
    for host in 1..=5 {
        held.push(
            from(host)
                .try_log_in("carol@example.com", "secret")
                .await
                .unwrap(),
        );
    }
    // Submission is not IMAP.
    rig.logged_in_submission("alice@example.com").await;

    // To be refused for that is no wrong password: no pause follows.
    for _ in 0..8 {
        from(1)
            .try_log_in("alice@example.com", "secret")
            .await
            .unwrap_err();
    }
    let asked = reqwest::Client::new()
        .post(format!("{url}?command=allow"))
        .json(&serde_json::json!({"login": "alice@example.com", "remote": "127.0.0.1", "protocol": "imap"}));
    let answer: serde_json::Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["status"], 0);

    // A place that is given back is free soon, for the tenant's other inbox, too.
    let mut first = held.swap_remove(0);
    first.logout().await.unwrap();
    until("a place", || async {
        rig.log_in("bob@example.com", "secret").await.ok()
    })
    .await;
    stack.stop().await;
}

#[tokio::test]
async fn a_login_that_a_worker_verifies_has_the_same_share() {
    let mut rig = Rig::new();
    rig.password_entry("costly", BCRYPT_13);
    let (stack, _) = with_shares(&mut rig).await;
    let mut held = Vec::new();
    for _ in 0..SHARES.inbox {
        held.push(rig.log_in("costly@example.com", "secret").await.unwrap());
    }
    let beyond = rig.log_in("costly@example.com", "secret").await.unwrap_err();
    assert!(beyond.contains("this inbox has as many sessions"), "{beyond}");
    drop(held);
    stack.stop().await;
}

#[tokio::test]
async fn logins_that_come_all_at_once_get_no_more_than_the_share() {
    let mut rig = Rig::new();
    let (stack, _) = with_shares(&mut rig).await;
    let tries = join_all((0..30).map(|_| rig.log_in("alice@example.com", "secret"))).await;
    let held = tries.iter().filter(|login| login.is_ok()).count();
    assert_eq!(held, 5);
    stack.stop().await;
}
