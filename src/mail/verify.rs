//! The end-to-end probe: what an inbox owner does, done once, and told step by step.
//!
//! A message goes from the inbox to itself over submission, comes back over IMAP and is deleted. When a step
//! fails, [`Failure`] says which server, which step, the server's words and what to look at. A message that was
//! accepted but not found stays in the inbox, for there is nothing left to delete it with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lettre::Address;
use rustls::ClientConfig;
use secrecy::SecretString;

use super::tls::Roots;
use super::wire::{CertificateProblem, Endpoint, Fault};
use super::{imap, smtp, tls};

/// All steps together.
const OVERALL_LIMIT_MS: u64 = 60_000;
/// TCP connection and greeting, of either server.
const CONNECT_LIMIT_MS: u64 = 10_000;
/// STARTTLS.
const TLS_LIMIT_MS: u64 = 10_000;
/// AUTH and LOGIN: Dovecot holds back the answer to a wrong password for some seconds.
const LOGIN_LIMIT_MS: u64 = 20_000;
/// MAIL, RCPT and DATA together.
const SUBMIT_LIMIT_MS: u64 = 20_000;
/// From the server's word that it has the message to the message in a folder.
const VISIBLE_LIMIT_MS: u64 = 30_000;
/// Deleting it.
const DELETE_LIMIT_MS: u64 = 10_000;
/// Goodbyes, which nobody waits for.
const QUIT_LIMIT_MS: u64 = 1_000;

/// The servers to try.
#[derive(Debug, Clone)]
pub struct Target {
    /// Submission with STARTTLS.
    pub submission: Endpoint,
    /// IMAP with implicit TLS.
    pub imap: Endpoint,
    /// Whom to trust; the system's roots if there is none.
    pub ca_file: Option<PathBuf>,
}

/// The inbox to try.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Sender and recipient of the message.
    pub address: Address,
    /// The name to log in with.
    pub login: String,
    /// Its password.
    pub password: SecretString,
}

/// Makes a message one that never was before. 128 bits from the caller's `Entropy`.
#[derive(Debug, Clone, Copy)]
pub struct Token([u8; 16]);

impl Token {
    /// Any bits will do, as long as they are not used twice.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How long each step may take, and all of them. `default()` is right for people; tests have less patience.
#[derive(Debug, Clone)]
pub struct Limits {
    /// All steps together; no step goes on after it.
    pub overall: Duration,
    /// `Step::ConnectSubmission` and `Step::ConnectImap`.
    pub connect: Duration,
    /// `Step::StartTls`.
    pub tls: Duration,
    /// `Step::Auth` and `Step::Login`.
    pub login: Duration,
    /// `Step::Submit`.
    pub submit: Duration,
    /// `Step::Visible`.
    pub visible: Duration,
    /// `Step::Delete`.
    pub delete: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            overall: Duration::from_millis(OVERALL_LIMIT_MS),
            connect: Duration::from_millis(CONNECT_LIMIT_MS),
            tls: Duration::from_millis(TLS_LIMIT_MS),
            login: Duration::from_millis(LOGIN_LIMIT_MS),
            submit: Duration::from_millis(SUBMIT_LIMIT_MS),
            visible: Duration::from_millis(VISIBLE_LIMIT_MS),
            delete: Duration::from_millis(DELETE_LIMIT_MS),
        }
    }
}

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// TCP, greeting and EHLO at the submission server.
    ConnectSubmission,
    /// STARTTLS there.
    StartTls,
    /// AUTH there.
    Auth,
    /// MAIL, RCPT and DATA there.
    Submit,
    /// TCP, TLS and greeting at the IMAP server.
    ConnectImap,
    /// LOGIN there.
    Login,
    /// The message lies in a folder and can be fetched.
    Visible,
    /// The message is gone again.
    Delete,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 8] = [
        Self::ConnectSubmission,
        Self::StartTls,
        Self::Auth,
        Self::Submit,
        Self::ConnectImap,
        Self::Login,
        Self::Visible,
        Self::Delete,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that a column of them can be aligned.
        f.pad(match self {
            Self::ConnectSubmission => "connect submission",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Submit => "MAIL/RCPT/DATA",
            Self::ConnectImap => "IMAP connect",
            Self::Login => "IMAP login",
            Self::Visible => "message visible",
            Self::Delete => "delete",
        })
    }
}

/// What a reporter hears, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step has begun.
    Started {
        /// Which.
        step: Step,
        /// Where.
        server: &'a Endpoint,
    },
    /// It has succeeded.
    Passed {
        /// Which.
        step: Step,
        /// Where.
        server: &'a Endpoint,
        /// In what time.
        took: Duration,
    },
    /// It has failed; no other step follows, and [`verify`] returns the same failure.
    Failed(&'a Failure),
}

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed at {server} after {} ms", took.as_millis())]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// Which server.
    pub server: Endpoint,
    /// How long it was tried.
    pub took: Duration,
    /// What was being done, and the server's words.
    #[source]
    pub cause: Cause,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The CA certificates could not be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The submission server.
    #[error(transparent)]
    Smtp(#[from] smtp::Error),
    /// The IMAP server.
    #[error(transparent)]
    Imap(#[from] imap::Error),
    /// The submission server took the message, and it did not come.
    #[error(
        "the message was not in INBOX or Junk within {waited_ms} ms after the SMTP server took it, saying: {accepted}"
    )]
    NotDelivered {
        /// How long was waited.
        waited_ms: u128,
        /// What the submission server said when it took the message; Postfix gives the queue id.
        accepted: String,
    },
    /// The steps before have used up the time for all of them.
    #[error("the {overall_ms} ms for all steps together are over")]
    OutOfTime {
        /// The limit.
        overall_ms: u128,
    },
    /// What was fetched is not what was sent.
    #[error("the message in {folder} is not the one that was sent")]
    Altered {
        /// Where it was found.
        folder: &'static str,
    },
}

impl Failure {
    /// What the exchange came to, in the server's or the system's words, if a server was talked to at all.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.cause {
            Cause::Smtp(error) => Some(&error.fault),
            Cause::Imap(error) => Some(&error.fault),
            Cause::Tls(_) | Cause::NotDelivered { .. } | Cause::OutOfTime { .. } | Cause::Altered { .. } => {
                None
            }
        }
    }

    /// What to look at, in a sentence or two.
    pub fn hint(&self) -> &'static str {
        match &self.cause {
            Cause::Tls(_) => {
                "The CA certificates could not be read: check tls.ca_file, or install the package ca-certificates."
            }
            Cause::Smtp(error) => smtp_hint(error.stage, &error.fault),
            Cause::Imap(error) => imap_hint(error.stage, &error.fault),
            Cause::NotDelivered { .. } => {
                "Look at Postfix's queue with `postqueue -p`, which says why it still holds the message, and at \
                 Dovecot's log for lmtp. If the queue is empty, an alias or a filter took the message elsewhere."
            }
            Cause::OutOfTime { .. } => {
                "The servers answer, but slowly: see which of the steps above took long, and look at the load of \
                 that server."
            }
            Cause::Altered { .. } => {
                "Something between submission and mailbox rewrites messages: look at content filters and milters."
            }
        }
    }
}

fn certificate_hint(problem: CertificateProblem) -> &'static str {
    match problem {
        CertificateProblem::UnknownIssuer => {
            "The CA of the server is not trusted: set tls.ca_file to the PEM file of the CA that signed its \
             certificate, and check that the server sends the intermediate certificates."
        }
        CertificateProblem::WrongName => {
            "The certificate is for another name: connect by a name that is in it, or issue one with this name."
        }
        CertificateProblem::OutOfDate => {
            "The certificate is not valid today: renew it and reload the server, or correct this machine's clock."
        }
        CertificateProblem::Other => {
            "The certificate cannot be used: look at it with `openssl s_client -showcerts`. A certificate that \
             signs itself cannot be a server's certificate and its CA at once."
        }
    }
}

fn smtp_hint(stage: smtp::Stage, fault: &Fault) -> &'static str {
    use smtp::Stage;
    match (stage, fault) {
        (_, Fault::Certificate { problem, .. }) => certificate_hint(*problem),
        (Stage::Connect, Fault::Network { .. }) => {
            "Nothing answers there: see whether Postfix runs (`postfix status`), whether its master.cf has a \
             submission service on this port, and what its log says."
        }
        (Stage::Connect, Fault::TimedOut { .. }) => {
            "The port swallows connections: look for a firewall, and at Postfix's log for a process limit."
        }
        (Stage::Connect, Fault::Unexpected { .. }) => {
            "What answers there is not an SMTP server that starts in clear: check host and port of submission."
        }
        (Stage::Connect, Fault::Refused { .. } | Fault::Tls { .. }) => {
            "Postfix turns this client away: look at its log and at smtpd_client_restrictions."
        }
        (Stage::Tls, Fault::Unexpected { .. } | Fault::Refused { .. }) => {
            "Postfix has no TLS for submission: check smtpd_tls_security_level, smtpd_tls_cert_file and \
             smtpd_tls_key_file, and its log for why it could not load them."
        }
        // smtpd asks for the mechanisms as soon as TLS stands, and dies ("no SASL authentication mechanisms") when
        // Dovecot does not answer.
        (Stage::Tls, Fault::Network { .. } | Fault::TimedOut { .. }) => {
            "Postfix hung up, most often for want of Dovecot's auth service: see whether Dovecot runs (`doveadm \
             service status`), whether smtpd_sasl_path is its socket, and what Postfix's log says of SASL or TLS."
        }
        (Stage::Tls, Fault::Tls { .. }) => {
            "The two sides agree on no TLS version or cipher: look at smtpd_tls_mandatory_protocols and \
             smtpd_tls_mandatory_ciphers, and at Postfix's log."
        }
        (
            Stage::Auth,
            Fault::Refused {
                code: Some(454 | 421),
                ..
            },
        ) => {
            "Postfix cannot ask Dovecot: see whether Dovecot runs (`doveadm service status`) and whether \
             smtpd_sasl_path is the socket of its auth service."
        }
        (Stage::Auth, Fault::Refused { .. }) => {
            "The password is not the one that the mail servers know: start inboxd again, which repairs the maps from \
             the store, and look at Dovecot's log (`doveadm log find`) for auth."
        }
        (Stage::Auth, Fault::Unexpected { .. }) => {
            "Postfix offers no AUTH: check smtpd_sasl_auth_enable and smtpd_sasl_type = dovecot for submission, \
             and see whether Dovecot runs."
        }
        (Stage::Sender, Fault::Refused { .. }) => {
            "The login may not send as its own address: start inboxd again, which repairs the maps from the store, \
             and look at smtpd_sender_login_maps."
        }
        (
            Stage::Recipient,
            Fault::Refused {
                code: Some(400..500), ..
            },
        ) => "Postfix cannot read a map or defers on purpose: look at its log, and at who may read the maps.",
        // smtpd_delay_reject, on by default, speaks of the sender only here.
        (Stage::Recipient, Fault::Refused { .. }) => {
            "Postfix does not know the recipient, or not that the login owns the sender: start inboxd again, which \
             repairs the maps from the store, and look at the maps that `inboxd stack render postfix` names."
        }
        (Stage::Data, Fault::Refused { .. }) => {
            "Postfix does not take the message: look at its log, at free disk space, and at filters and milters."
        }
        (_, Fault::TimedOut { .. }) => {
            "Postfix went silent: look at its log, and at Dovecot's for auth, which Postfix may be waiting for."
        }
        _ => "The conversation with Postfix broke off: look at its log for this client.",
    }
}

fn imap_hint(stage: imap::Stage, fault: &Fault) -> &'static str {
    use imap::Stage;
    match (stage, fault) {
        (_, Fault::Certificate { problem, .. }) => certificate_hint(*problem),
        (Stage::Connect, Fault::Network { .. }) => {
            "Nothing answers there: see whether Dovecot runs (`doveadm service status`) and whether its \
             imap-login service listens on this port."
        }
        (Stage::Connect, Fault::TimedOut { .. }) => {
            "The port swallows connections: look for a firewall, and at Dovecot's log for a process limit."
        }
        (Stage::Connect, _) => {
            "What answers there is not an IMAP server with implicit TLS: check host and port, and ssl in \
             Dovecot's configuration."
        }
        (Stage::Login, Fault::Refused { text, .. })
            if text.contains("UNAVAILABLE") || text.contains("emporary") =>
        {
            "Dovecot could not look the login up: look at its log (`doveadm log find`) for auth, and at whether \
             it may read the password entries."
        }
        (Stage::Login, Fault::Refused { .. }) => {
            "The password is not the one that Dovecot knows: start inboxd again, which repairs the maps from the \
             store, and look at Dovecot's log (`doveadm log find`) for auth."
        }
        (Stage::Login, Fault::TimedOut { .. }) => {
            "Dovecot did not answer the login: look at its log for auth, and at its penalty for failed logins \
             from this address (`doveadm penalty`)."
        }
        _ => {
            "Dovecot cannot work in the mailbox: look at its log for imap, and at owner, mode and free space of \
             the folder where mail is stored."
        }
    }
}

/// Runs the probe. `sent_at` is the message's `Date`; `report` hears every step as it begins and ends. Returns how
/// long it all took.
pub async fn verify(
    target: &Target,
    credentials: &Credentials,
    token: Token,
    sent_at: jiff::Timestamp,
    limits: &Limits,
    report: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut run = Run {
        overall: limits.overall,
        deadline: started + limits.overall,
        report,
    };
    let accepted = run.submit(target, credentials, token, sent_at, limits).await?;
    run.receive(target, credentials, token, limits, accepted).await?;
    Ok(started.elapsed())
}

struct Run<'a> {
    overall: Duration,
    deadline: Instant,
    report: &'a mut (dyn FnMut(Event<'_>) + Send),
}

impl Run<'_> {
    async fn submit(
        &mut self,
        target: &Target,
        credentials: &Credentials,
        token: Token,
        sent_at: jiff::Timestamp,
        limits: &Limits,
    ) -> Result<String, Failure> {
        let server = &target.submission;
        let Credentials {
            address,
            login,
            password,
        } = credentials;

        let limit = self.limit(limits.connect);
        let mut submission = self
            .step(
                Step::ConnectSubmission,
                server,
                smtp::Submission::connect(server, limit),
            )
            .await?;

        let limit = self.limit(limits.tls);
        self.step(Step::StartTls, server, async {
            let parameters = Roots::load(target.ca_file.as_deref())
                .await?
                .submission_parameters(&server.known_as.host)?;
            submission.start_tls(parameters, limit).await.map_err(Cause::from)
        })
        .await?;

        let limit = self.limit(limits.login);
        self.step(
            Step::Auth,
            server,
            submission.authenticate(login, password, limit),
        )
        .await?;

        let limit = self.limit(limits.submit);
        let message = message(address, token, sent_at);
        let send = submission.send(address, address, message.as_bytes(), limit);
        let accepted = self.step(Step::Submit, server, send).await?;
        submission.quit(Duration::from_millis(QUIT_LIMIT_MS)).await;
        Ok(accepted)
    }

    async fn receive(
        &mut self,
        target: &Target,
        credentials: &Credentials,
        token: Token,
        limits: &Limits,
        accepted: String,
    ) -> Result<(), Failure> {
        let server = &target.imap;
        let Credentials {
            login,
            password,
            address,
        } = credentials;

        let limit = self.limit(limits.connect);
        let connection = self
            .step(Step::ConnectImap, server, async {
                let config: Arc<ClientConfig> = tls::client_config(target.ca_file.as_deref()).await?;
                imap::Connection::open(server, config, limit)
                    .await
                    .map_err(Cause::from)
            })
            .await?;

        let limit = self.limit(limits.login);
        let mut session = self
            .step(Step::Login, server, connection.login(login, password, limit))
            .await?;

        let limit = self.limit(limits.visible);
        let found = self
            .step(
                Step::Visible,
                server,
                arrival(&mut session, address, token, limit, accepted),
            )
            .await?;

        let limit = self.limit(limits.delete);
        self.step(Step::Delete, server, session.delete(found, limit))
            .await?;
        session.logout(Duration::from_millis(QUIT_LIMIT_MS)).await;
        Ok(())
    }

    /// What a step may take: its own limit, or what is left of the whole.
    fn limit(&self, own: Duration) -> Duration {
        own.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    async fn step<T, E: Into<Cause>>(
        &mut self,
        step: Step,
        server: &Endpoint,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        (self.report)(Event::Started { step, server });
        let started = Instant::now();
        let outcome = if started < self.deadline {
            work.await.map_err(Into::into)
        } else {
            Err(Cause::OutOfTime {
                overall_ms: self.overall.as_millis(),
            })
        };
        let took = started.elapsed();
        match outcome {
            Ok(value) => {
                (self.report)(Event::Passed { step, server, took });
                Ok(value)
            }
            Err(cause) => {
                let failure = Failure {
                    step,
                    server: server.clone(),
                    took,
                    cause,
                };
                (self.report)(Event::Failed(&failure));
                Err(failure)
            }
        }
    }
}

/// Waits for the message and reads it.
async fn arrival(
    session: &mut imap::Session,
    address: &Address,
    token: Token,
    limit: Duration,
    accepted: String,
) -> Result<imap::Found, Cause> {
    let started = Instant::now();
    let deadline = started + limit;
    let found = session.wait_for(&message_id(address, token), deadline).await?;
    let Some(found) = found else {
        return Err(Cause::NotDelivered {
            waited_ms: started.elapsed().as_millis(),
            accepted,
        });
    };
    let text = session
        .fetch(found, limit.saturating_sub(started.elapsed()))
        .await?;
    if String::from_utf8_lossy(&text).contains(&body_line(token)) {
        Ok(found)
    } else {
        Err(Cause::Altered { folder: found.folder })
    }
}

fn message_id(address: &Address, token: Token) -> String {
    format!("<inboxd-verify-{token}@{}>", address.domain())
}

fn body_line(token: Token) -> String {
    format!("Token: {token}")
}

/// RFC 5322. `Auto-Submitted` (RFC 3834) keeps vacation notices from answering it.
fn message(address: &Address, token: Token, sent_at: jiff::Timestamp) -> String {
    let date = sent_at.strftime("%a, %d %b %Y %H:%M:%S +0000");
    let id = message_id(address, token);
    let body = body_line(token);
    format!(
        "From: <{address}>\r\n\
         To: <{address}>\r\n\
         Date: {date}\r\n\
         Message-ID: {id}\r\n\
         Subject: inboxd verify\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         `inboxd verify` sent this message to see whether mail works, and deletes it when it has arrived.\r\n\
         {body}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Endpoint {
        Endpoint::new("mail.example.com", 587)
    }

    fn smtp_failure(stage: smtp::Stage, fault: Fault) -> Failure {
        Failure {
            step: Step::Auth,
            server: server(),
            took: Duration::from_millis(12),
            cause: smtp::Error {
                stage,
                server: server(),
                fault,
            }
            .into(),
        }
    }

    fn imap_failure(stage: imap::Stage, fault: Fault) -> Failure {
        Failure {
            step: Step::Login,
            server: server(),
            took: Duration::from_millis(12),
            cause: imap::Error {
                stage,
                server: server(),
                fault,
            }
            .into(),
        }
    }

    fn refused(code: Option<u16>, text: &str) -> Fault {
        Fault::Refused {
            code,
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_refused_password_points_at_the_password_entry_and_dovecots_log() {
        let smtp = smtp_failure(
            smtp::Stage::Auth,
            refused(Some(535), "5.7.8 Error: authentication failed:"),
        );
        let imap = imap_failure(imap::Stage::Login, refused(None, "NO Authentication failed."));
        for failure in [smtp, imap] {
            assert!(
                failure.hint().contains("start inboxd again"),
                "{}",
                failure.hint()
            );
            assert!(failure.hint().contains("doveadm log find"), "{}", failure.hint());
        }
    }

    #[test]
    fn a_dead_auth_service_is_not_taken_for_a_wrong_password() {
        let failure = smtp_failure(
            smtp::Stage::Auth,
            refused(Some(454), "4.7.0 Temporary authentication failure"),
        );
        assert!(failure.hint().contains("smtpd_sasl_path"), "{}", failure.hint());
        let failure = imap_failure(
            imap::Stage::Login,
            refused(None, "NO [UNAVAILABLE] Temporary failure"),
        );
        assert!(
            failure.hint().contains("may read the password entries"),
            "{}",
            failure.hint()
        );
    }

    #[test]
    fn an_unknown_ca_points_at_the_setting() {
        let fault = Fault::Certificate {
            problem: CertificateProblem::UnknownIssuer,
            detail: "unknown".to_owned(),
        };
        for failure in [
            smtp_failure(smtp::Stage::Tls, fault.clone()),
            imap_failure(imap::Stage::Connect, fault),
        ] {
            assert!(failure.hint().contains("tls.ca_file"), "{}", failure.hint());
        }
    }

    #[test]
    fn a_message_that_does_not_come_points_at_the_queue_and_the_lmtp_log() {
        let failure = Failure {
            step: Step::Visible,
            server: server(),
            took: Duration::from_secs(30),
            cause: Cause::NotDelivered {
                waited_ms: 30_000,
                accepted: "queued as X".to_owned(),
            },
        };
        assert!(failure.hint().contains("postqueue -p"));
        assert!(failure.hint().contains("lmtp"));
        assert!(failure.cause.to_string().ends_with("saying: queued as X"));
    }

    #[test]
    fn a_refused_sender_points_at_the_sender_logins() {
        for stage in [smtp::Stage::Sender, smtp::Stage::Recipient] {
            let failure = smtp_failure(stage, refused(Some(553), "5.7.1 not owned by user"));
            assert!(failure.hint().contains("repairs the maps"), "{}", failure.hint());
        }
    }

    #[test]
    fn a_failure_never_prints_its_source() {
        let failure = smtp_failure(smtp::Stage::Auth, refused(Some(535), "the words"));
        assert_eq!(
            failure.to_string(),
            "AUTH failed at mail.example.com:587 after 12 ms"
        );
        assert_eq!(
            failure.cause.to_string(),
            "authenticate at the SMTP server mail.example.com:587"
        );
    }

    #[test]
    fn the_password_is_not_in_debug() {
        let credentials = Credentials {
            address: "a@example.com".parse().unwrap(),
            login: "a@example.com".to_owned(),
            password: "hunter2hunter2".into(),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn the_message_is_complete_and_carries_its_token() {
        let address = "a@example.com".parse().unwrap();
        let text = message(
            &address,
            Token::from_bytes([0xab; 16]),
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert!(text.contains("Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n"));
        assert!(
            text.contains("Message-ID: <inboxd-verify-abababababababababababababababab@example.com>\r\n")
        );
        assert!(
            text.split("\r\n")
                .all(|line| !line.contains(['\r', '\n']) && line.len() <= 998)
        );
    }
}
