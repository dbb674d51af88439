//! What only containers have: they are stopped, killed, recreated and configured anew, each by itself; what must outlive
//! them is in volumes.

mod certificates;
mod inbound;
mod locks;
mod outages;
mod postgres;
mod volumes;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{
    attempt::STRANGER,
    inbox::Inbox,
    mail::{self, Mail, Message, Smtp, Submitting},
    wait::LIMIT,
};

/// Sessions that are open, of each kind that lasts.
struct Sessions {
    inbox: Inbox,
    idle: async_imap::extensions::idle::Handle<TlsStream<TcpStream>>,
    submission: Submitting,
    /// Recipient and `DATA` were accepted: the server waits for the message.
    delivery: Smtp<TcpStream>,
}

impl Sessions {
    async fn open(mail: &Mail, inbox: &Inbox) -> Self {
        let mut imap = mail.log_in(inbox).await;
        mail::count(&mut imap, "INBOX").await;
        let mut idle = imap.idle();
        idle.init().await.unwrap();
        let mut delivery = mail.inbound().await;
        delivery.expect(&format!("MAIL FROM:<{STRANGER}>"), "250").await;
        delivery
            .expect(&format!("RCPT TO:<{}>", inbox.email), "250")
            .await;
        delivery.expect("DATA", "354").await;
        Self {
            inbox: inbox.clone(),
            idle,
            submission: mail.submission_of(inbox).await,
            delivery,
        }
    }

    /// Each does what it was opened for, and all messages arrive. What it is about tells them from others.
    async fn assert_go_on(mut self, about: &str) {
        let email = &self.inbox.email;
        let (delivered, submitted) = (
            Message::new(&format!("delivery that went on {about}")),
            Message::new(&format!("submission that went on {about}")),
        );
        let (news, _stop) = self.idle.wait_with_timeout(LIMIT);
        let text = delivered.text(STRANGER, email);
        self.delivery.expect(&format!("{text}."), "250").await;
        let news = news.await.unwrap();
        assert!(
            matches!(news, async_imap::extensions::idle::IdleResponse::NewData(_)),
            "{news:?}"
        );
        let mut imap = self.idle.done().await.unwrap();
        mail::read_when_there(&mut imap, &delivered).await;
        self.submission.send(email, email, &submitted).await;
        mail::read_when_there(&mut imap, &submitted).await;
    }
}
