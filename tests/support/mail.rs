//! Clients of the mail servers: IMAP with async-imap, submission with lettre, and plain dialogues of SMTP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _};
use inboxd::{
    mail::{smtp::Submission, tls::Roots, wire::Endpoint},
    stack::private::Ports,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    inbox::Inbox,
    wait::{LIMIT, until},
};

/// Where every stack under test listens, whatever it calls itself.
pub const HOST: &str = "127.0.0.1";
/// Longer than any test idles.
const IDLE_LIMIT: Duration = Duration::from_mins(10);

/// A session of a mailbox's owner.
pub type Imap = async_imap::Session<TlsStream<TcpStream>>;
/// An IMAP connection on which nobody has logged in yet.
pub struct Greeted(async_imap::Client<TlsStream<TcpStream>>);
/// A dialogue with submission after STARTTLS.
pub type Submitting = Smtp<TlsStream<TcpStream>>;

/// What a client has to know of the mail servers.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The name that callers of the API are told. The certificates must be for it.
    pub host: String,
    /// The name that Postfix greets with.
    pub hostname: String,
    pub ports: Ports,
    /// PEM.
    pub ca_file: PathBuf,
}

/// The mail servers as clients see them.
#[derive(Clone)]
pub struct Mail {
    pub servers: Servers,
    /// The address that connections come from.
    pub source: Ipv4Addr,
    roots: Roots,
    tls: Arc<rustls::ClientConfig>,
}

impl Mail {
    pub async fn new(servers: Servers) -> Self {
        let roots = Roots::load(Some(&servers.ca_file)).await.unwrap();
        let tls = roots.client_config().unwrap();
        Self {
            servers,
            source: Ipv4Addr::LOCALHOST,
            roots,
            tls,
        }
    }

    /// A connection to one of the servers' ports, on which nothing was said yet.
    pub async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let connecting = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.source, 0).into())?;
            socket.connect(SocketAddr::new(HOST.parse().unwrap(), port)).await
        };
        connecting
            .await
            .map_err(|error: std::io::Error| format!("connect: {error}"))
    }

    /// TLS on a connection, to a server that must have a certificate for the name that callers are told.
    pub async fn tls(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(self.servers.host.clone()).unwrap();
        let connecting = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
        in_time(connecting).await?.map_err(|error| error.to_string())
    }

    async fn smtp(&self, port: u16) -> Result<Smtp<TcpStream>, String> {
        let mut smtp = Smtp {
            stream: BufStream::new(self.connect(port).await?),
        };
        let greeting = smtp.try_reply().await?;
        if greeting.starts_with(&format!("220 {} ", self.servers.hostname)) {
            Ok(smtp)
        } else {
            Err(greeting)
        }
    }

    /// A new IMAP connection, greeted.
    pub async fn try_imap(&self) -> Result<Greeted, String> {
        let tcp = self.connect(self.servers.ports.imaps).await?;
        let mut client = async_imap::Client::new(self.tls(tcp).await?);
        let greeting = in_time(client.read_response()).await?;
        if !matches!(greeting, Ok(Some(_))) {
            return Err("no greeting".to_owned());
        }
        Ok(Greeted(client))
    }

    /// A new IMAP connection and a login on it. The error is the server's word.
    pub async fn try_log_in(&self, login: &str, password: &str) -> Result<Imap, String> {
        self.try_imap().await?.try_log_in(login, password).await
    }

    /// A login that must succeed.
    pub async fn log_in(&self, inbox: &Inbox) -> Imap {
        self.try_log_in(&inbox.email, &inbox.password)
            .await
            .unwrap_or_else(|error| panic!("log in as {}: {error}", inbox.email))
    }

    /// A login that must be refused for its credentials and nothing else.
    pub async fn assert_login_refused(&self, login: &str, password: &str) {
        match self.try_log_in(login, password).await {
            Ok(_) => panic!("{login} was let in"),
            Err(error) => assert!(error.contains("AUTHENTICATIONFAILED"), "{login}: {error}"),
        }
    }

    /// A new connection to the port that other mail servers use.
    pub async fn inbound(&self) -> Smtp<TcpStream> {
        self.try_inbound().await.unwrap()
    }

    /// The same, where it may fail.
    pub async fn try_inbound(&self) -> Result<Smtp<TcpStream>, String> {
        let mut smtp = self.smtp(self.servers.ports.inbound).await?;
        smtp.try_expect("EHLO client.example.net", "250").await?;
        Ok(smtp)
    }

    /// A new connection to submission, without TLS yet.
    pub async fn submission_in_clear(&self) -> Smtp<TcpStream> {
        self.smtp(self.servers.ports.submission).await.unwrap()
    }

    /// A new connection to submission, after STARTTLS.
    pub async fn submission(&self) -> Submitting {
        self.try_submission().await.unwrap()
    }

    /// The same, where it may fail.
    pub async fn try_submission(&self) -> Result<Submitting, String> {
        let mut plain = self.smtp(self.servers.ports.submission).await?;
        plain.try_expect("EHLO client.example.net", "250").await?;
        plain.try_expect("STARTTLS", "220").await?;
        let tls = self.tls(plain.stream.into_inner()).await?;
        let mut smtp = Smtp {
            stream: BufStream::new(tls),
        };
        smtp.try_expect("EHLO client.example.net", "250").await?;
        Ok(smtp)
    }

    /// The same, logged in.
    pub async fn submission_of(&self, inbox: &Inbox) -> Submitting {
        let mut smtp = self.submission().await;
        smtp.expect(&auth_plain(&inbox.email, &inbox.password), "235")
            .await;
        smtp
    }

    /// A login on submission that must be refused for its credentials and nothing else.
    pub async fn assert_auth_refused(&self, login: &str, password: &str) {
        let mut smtp = self.submission().await;
        smtp.expect(&auth_plain(login, password), "535 5.7.8").await;
    }

    /// Submits a message with lettre, as programs do; returns the server's words.
    pub async fn submit(&self, sender: &Inbox, recipient: &str, message: &Message) -> Result<String, String> {
        let told = |error: inboxd::mail::smtp::Error| inboxd::telemetry::chain(&error);
        let endpoint = Endpoint::new(HOST, self.servers.ports.submission);
        let mut submission = Submission::connect(&endpoint, LIMIT).await.map_err(told)?;
        let parameters = self.roots.submission_parameters(&self.servers.host).unwrap();
        submission.start_tls(parameters, LIMIT).await.map_err(told)?;
        submission
            .authenticate(&sender.email, &sender.password.clone().into(), LIMIT)
            .await
            .map_err(told)?;
        let (from, to) = (sender.email.parse().unwrap(), recipient.parse().unwrap());
        let text = message.text(&sender.email, recipient);
        submission
            .send(&from, &to, text.as_bytes(), LIMIT)
            .await
            .map_err(told)
    }

    /// Delivers a message as another mail server does.
    pub async fn deliver(&self, sender: &str, recipient: &str, message: &Message) {
        self.inbound().await.send(sender, recipient, message).await;
    }

    /// Waits for a message over IMAP, and reads it.
    pub async fn receive(&self, inbox: &Inbox, message: &Message) -> String {
        let mut imap = self.log_in(inbox).await;
        let text = read_when_there(&mut imap, message).await;
        imap.logout().await.unwrap();
        text
    }

    /// An inbox sends, receives from here and from outside, and reads. What it is about tells these messages from
    /// others in the same inbox.
    pub async fn assert_works(&self, inbox: &Inbox, about: &str) {
        let (submitted, delivered) = (
            Message::new(&format!("submitted {about}")),
            Message::new(&format!("delivered {about}")),
        );
        self.submit(inbox, &inbox.email, &submitted).await.unwrap();
        self.deliver("friend@example.net", &inbox.email, &delivered).await;
        self.receive(inbox, &submitted).await;
        self.receive(inbox, &delivered).await;
    }
}

impl Greeted {
    /// A login on this connection. The error is the server's word.
    pub async fn try_log_in(self, login: &str, password: &str) -> Result<Imap, String> {
        in_time(self.0.login(login, password))
            .await?
            .map_err(|(error, _)| error.to_string())
    }
}

/// Waits for a message in the inbox of a session, and reads it.
pub async fn read_when_there(imap: &mut Imap, message: &Message) -> String {
    String::from_utf8(octets_when_there(imap, message).await).unwrap()
}

/// The same where it may be no text.
pub async fn octets_when_there(imap: &mut Imap, message: &Message) -> Vec<u8> {
    let session = tokio::sync::Mutex::new(imap);
    let what = format!("the message {:?} is in the inbox", message.subject);
    until(&what, || async {
        let mut imap = session.lock().await;
        in_time(imap.select("INBOX")).await.unwrap().unwrap();
        let query = format!("SUBJECT \"{}\"", message.subject);
        let found = in_time(imap.uid_search(query)).await.unwrap().unwrap();
        let uid = found.into_iter().next()?;
        let fetched = in_time(imap.uid_fetch(uid.to_string(), "BODY.PEEK[]"))
            .await
            .unwrap()
            .unwrap();
        let fetched: Vec<_> = fetched.try_collect().await.unwrap();
        let body = fetched.iter().find_map(async_imap::types::Fetch::body)?;
        Some(body.to_vec())
    })
    .await
}

/// The number of messages in a folder.
pub async fn count(imap: &mut Imap, folder: &str) -> u32 {
    in_time(imap.select(folder)).await.unwrap().unwrap().exists
}

/// The names of all folders, with their special uses (RFC 6154).
pub async fn folders(imap: &mut Imap) -> Vec<(String, String)> {
    let listed = in_time(imap.list(Some(""), Some("*"))).await.unwrap().unwrap();
    let mut folders: Vec<_> = listed
        .map(|folder| {
            let folder = folder.unwrap();
            (folder.name().to_owned(), format!("{:?}", folder.attributes()))
        })
        .collect()
        .await;
    folders.sort();
    folders
}

/// A session that idles (RFC 2177), and how it ends.
pub struct Idling(tokio::task::JoinHandle<String>);

impl Idling {
    /// Returns once the server has said that it idles.
    pub async fn begin(mut imap: Imap) -> Self {
        in_time(imap.select("INBOX")).await.unwrap().unwrap();
        let mut idle = imap.idle();
        in_time(idle.init()).await.unwrap().unwrap();
        Self(tokio::spawn(async move {
            let (waiting, _stop) = idle.wait_with_timeout(IDLE_LIMIT);
            let ended = match waiting.await {
                Ok(response) => format!("{response:?}"),
                Err(error) => format!("error: {error}"),
            };
            // A BYE comes as an answer first; only the closed connection is the end.
            match idle.done().await {
                Ok(_) => format!("still open after {ended}"),
                Err(_) => String::new(),
            }
        }))
    }

    /// Idles until the end, where the session may end before it idles.
    pub async fn until_the_end(mut imap: Imap) {
        let selected = in_time(imap.select("INBOX")).await.unwrap();
        if selected.is_err() {
            return;
        }
        let mut idle = imap.idle();
        if in_time(idle.init()).await.unwrap().is_ok() {
            let (waiting, _stop) = idle.wait_with_timeout(IDLE_LIMIT);
            let _ = waiting.await;
        }
    }

    /// Whether the session has ended by now.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end of the session.
    pub async fn assert_ended(self) {
        let how = in_time(self.0).await.expect("the session is still open").unwrap();
        assert_eq!(how, "", "the session was not ended");
    }
}

/// A message that can be told from all others.
#[derive(Clone, Debug)]
pub struct Message {
    pub subject: String,
}

impl Message {
    pub fn new(subject: &str) -> Self {
        Self {
            subject: subject.to_owned(),
        }
    }

    /// RFC 5322.
    pub fn text(&self, from: &str, to: &str) -> String {
        let subject = &self.subject;
        format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n\r\nThis is {subject}.\r\n")
    }
}

/// A dialogue of SMTP commands and replies.
pub struct Smtp<S> {
    pub stream: BufStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Smtp<S> {
    async fn try_reply(&mut self) -> Result<String, String> {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = in_time(self.stream.read_line(&mut line)).await?;
            if read.map_err(|error| error.to_string())? == 0 {
                return Err(format!("the server hung up after {reply:?}"));
            }
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    /// Everything that the server says until it hangs up.
    pub async fn rest(&mut self) -> String {
        let mut said = Vec::new();
        // A connection that is reset, or closed without TLS's own end, has ended, too.
        let _ = in_time(self.stream.read_to_end(&mut said)).await.unwrap();
        String::from_utf8(said).unwrap()
    }

    /// A command and the reply to it.
    async fn try_say(&mut self, command: &str) -> Result<String, String> {
        let sent = async {
            self.stream.write_all(command.as_bytes()).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| error.to_string())?;
        self.try_reply().await
    }

    /// The same, where a reply must come.
    pub async fn say(&mut self, command: &str) -> String {
        self.try_say(command).await.unwrap()
    }

    /// The same, where the reply must begin with this.
    pub async fn expect(&mut self, command: &str, reply: &str) -> String {
        self.try_expect(command, reply).await.unwrap()
    }

    /// The same, where another reply, or none, is for the caller to judge.
    pub async fn try_expect(&mut self, command: &str, reply: &str) -> Result<String, String> {
        let said = self.try_say(command).await?;
        if said.starts_with(reply) {
            Ok(said)
        } else {
            Err(format!("{command}: {said}"))
        }
    }

    /// One message from one sender to one recipient, after a greeting.
    pub async fn send(&mut self, sender: &str, recipient: &str, message: &Message) {
        self.send_from(sender, sender, recipient, message).await;
    }

    /// The same of a message whose From field names somebody else than the envelope.
    pub async fn send_from(&mut self, sender: &str, author: &str, recipient: &str, message: &Message) {
        self.expect(&format!("MAIL FROM:<{sender}>"), "250").await;
        self.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
        self.expect("DATA", "354").await;
        let text = message.text(author, recipient);
        self.expect(&format!("{text}."), "250").await;
    }
}

/// `AUTH PLAIN` (RFC 4616).
pub fn auth_plain(login: &str, password: &str) -> String {
    format!(
        "AUTH PLAIN {}",
        BASE64_STANDARD.encode(format!("\0{login}\0{password}"))
    )
}

async fn in_time<F: Future>(future: F) -> Result<F::Output, String> {
    timeout(LIMIT, future)
        .await
        .map_err(|_| format!("no answer within {LIMIT:?}"))
}
