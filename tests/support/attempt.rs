//! One use of an inbox, from connecting to leaving, that may fail: how it failed is a value.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    inbox::Inbox,
    mail::{Mail, Message, Smtp, auth_plain},
};

/// Writes the messages that come from outside.
pub const STRANGER: &str = "friend@example.net";

/// Logs in over IMAP and looks into the inbox: how many messages are in it.
pub async fn imap(mail: &Mail, inbox: &Inbox) -> Result<u32, String> {
    let mut imap = mail.try_log_in(&inbox.email, &inbox.password).await?;
    let told = |error: async_imap::error::Error| error.to_string();
    let exists = imap.select("INBOX").await.map_err(told)?.exists;
    imap.logout().await.map_err(told)?;
    Ok(exists)
}

/// Logs in on submission and names itself as recipient; submits a message, if there is one.
pub async fn submission(mail: &Mail, inbox: &Inbox, message: Option<&Message>) -> Result<(), String> {
    let mut smtp = mail.try_submission().await?;
    smtp.try_expect(&auth_plain(&inbox.email, &inbox.password), "235")
        .await?;
    hand_over(smtp, &inbox.email, &inbox.email, message).await
}

/// Names the inbox as recipient, as another mail server does; delivers a message, if there is one.
pub async fn inbound(mail: &Mail, inbox: &Inbox, message: Option<&Message>) -> Result<(), String> {
    let smtp = mail.try_inbound().await?;
    hand_over(smtp, STRANGER, &inbox.email, message).await
}

/// Names an address as recipient, as another mail server does.
pub async fn inbound_to(mail: &Mail, address: &str) -> Result<(), String> {
    hand_over(mail.try_inbound().await?, STRANGER, address, None).await
}

/// Logs in on submission and sends to itself as this address.
pub async fn submission_as(mail: &Mail, inbox: &Inbox, address: &str) -> Result<(), String> {
    let mut smtp = mail.try_submission().await?;
    smtp.try_expect(&auth_plain(&inbox.email, &inbox.password), "235")
        .await?;
    hand_over(smtp, address, &inbox.email, None).await
}

async fn hand_over<S: AsyncRead + AsyncWrite + Unpin>(
    mut smtp: Smtp<S>,
    sender: &str,
    recipient: &str,
    message: Option<&Message>,
) -> Result<(), String> {
    smtp.try_expect(&format!("MAIL FROM:<{sender}>"), "250").await?;
    smtp.try_expect(&format!("RCPT TO:<{recipient}>"), "250").await?;
    if let Some(message) = message {
        smtp.try_expect("DATA", "354").await?;
        let text = message.text(sender, recipient);
        smtp.try_expect(&format!("{text}."), "250").await?;
    }
    smtp.try_expect("QUIT", "221").await.map(drop)
}
