//! Never lost, never half: every step of every operation fails or is the last one, the daemon is killed under load, and
//! its clock jumps. See `docs/faults.md`.

mod clock;
mod kills;
mod operations;
mod replaced;
mod shim;
mod start;
mod sweep;

use futures_util::{StreamExt as _, stream};

use crate::support::{api::Api, inbox::Inbox, mail::Mail};

/// Logins at the same time.
const LOGINS_AT_ONCE: usize = 8;
/// Logins that are refused at the same time: Dovecot lets each wait for two seconds.
const REFUSALS_AT_ONCE: usize = 64;

/// Every one of these must be able to log in. Returns how many did.
async fn assert_all_log_in(mail: &Mail, inboxes: &[Inbox]) -> usize {
    let refused: Vec<String> = stream::iter(inboxes)
        .map(
            async |inbox| match mail.try_log_in(&inbox.email, &inbox.password).await {
                Ok(mut imap) => {
                    imap.logout().await.unwrap();
                    None
                }
                Err(error) => Some(format!("{}: {error}", inbox.email)),
            },
        )
        .buffer_unordered(LOGINS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert_eq!(refused, Vec::<String>::new(), "acknowledged, and does not log in");
    inboxes.len()
}

/// None of these may be able to log in.
async fn assert_none_logs_in(mail: &Mail, inboxes: &[Inbox]) {
    stream::iter(inboxes)
        .for_each_concurrent(REFUSALS_AT_ONCE, async |inbox| {
            mail.assert_login_refused(&inbox.email, &inbox.password).await;
        })
        .await;
}

/// The ids of all inboxes of a caller, as the pages of the list have them.
async fn listed(caller: &Api) -> Vec<String> {
    let mut ids = Vec::new();
    let mut path = "/v1/inboxes?limit=50".to_owned();
    loop {
        let page = caller.get(&path).await;
        let inboxes = page.body["inboxes"].as_array().unwrap();
        ids.extend(
            inboxes
                .iter()
                .map(|inbox| inbox["id"].as_str().unwrap().to_owned()),
        );
        match page.body["pagination"]["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/inboxes?limit=50&cursor={cursor}"),
            None => return ids,
        }
    }
}
