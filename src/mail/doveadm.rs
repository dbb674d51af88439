//! Dovecot's administration protocol (doveadm HTTP API) over its UNIX socket: ending the sessions of a mailbox.
//!
//! What is used of it is the same on Dovecot 2.3 and 2.4: the commands `who` and `kick` with the one parameter `mask`.
//! They differ in what they say when there was nothing to do, so the answer of `kick` is not looked at: `who`
//! decides. Dovecot demands a key besides the permission to connect; see `stack::key`.

use std::{collections::HashMap, error::Error as _, io, path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::wire::nobody_listens;
use crate::model::address::Address;

/// Longest wait until all sessions of a mailbox are ended.
const END_SESSIONS_TIMEOUT_MS: u64 = 10_000;
/// Longest wait for one answer of Dovecot.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// Time between two looks at who is connected. It also has to be long enough for a login that was already allowed
/// to become a session: nobody is connected when two looks in a row say so.
const LOOK_INTERVAL_MS: u64 = 50;
/// Largest answer that is read: some 400 octets for each of 20,000 sessions, and more.
const ANSWER_MAX_OCTETS: usize = 16 * 1024 * 1024;

/// How an answer ends: with the tag of the request.
const ANSWER_END: &str = ",\"inboxd\"]]";

/// What became of the sessions of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// There are none any more; this is how many times Dovecot was told to end some.
    All {
        /// Rounds in which sessions were found.
        kicks: u32,
    },
    /// No Dovecot is running, so there are no sessions.
    NoServer,
}

/// Why it is not known that the sessions of a mailbox are ended.
#[derive(Debug, thiserror::Error)]
pub enum DoveadmError {
    /// The key holds what no HTTP header can.
    #[error("use Dovecot's administration key")]
    KeyText,
    /// No client can be made.
    #[error("set up a client for Dovecot's administration socket")]
    Client(#[source] reqwest::Error),
    /// Dovecot is there, but the exchange failed.
    #[error("run {command:?} on Dovecot's administration socket")]
    Exchange {
        /// The command.
        command: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Dovecot answered something else than the command's result.
    #[error("run {command:?} on Dovecot's administration socket: it answered {answer}")]
    Answer {
        /// The command.
        command: &'static str,
        /// HTTP status, or the error in Dovecot's words.
        answer: String,
    },
    /// Sessions are still there after the time limit.
    #[error("end the sessions of {user}: some were still there after {END_SESSIONS_TIMEOUT_MS} ms")]
    StillThere {
        /// Whose.
        user: Address,
    },
}

/// A client of Dovecot's administration socket.
#[derive(Clone)]
pub struct Doveadm {
    http: reqwest::Client,
    authorization: HeaderValue,
}

impl Doveadm {
    /// A client of the HTTP listener at this socket. Connects when it is used, so Dovecot need not be running.
    pub fn new(socket: &Path, key: &SecretString) -> Result<Self, DoveadmError> {
        let key = BASE64_STANDARD.encode(key.expose_secret());
        let mut authorization =
            HeaderValue::try_from(format!("X-Dovecot-API {key}")).map_err(|_| DoveadmError::KeyText)?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(Duration::from_millis(REQUEST_TIMEOUT_MS))
            // Each connection occupies a process of Dovecot: none is kept.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(DoveadmError::Client)?;
        Ok(Self { http, authorization })
    }

    /// Ends all sessions of a mailbox and returns when there are none left.
    ///
    /// Change or remove the password entry first: a session that begins after this returns is none of its business.
    pub async fn end_sessions(&self, user: &Address) -> Result<Ended, DoveadmError> {
        let deadline = Instant::now() + Duration::from_millis(END_SESSIONS_TIMEOUT_MS);
        let mut kicks = 0;
        let mut looks_without = 0;
        loop {
            match self.is_connected(user).await? {
                None => return Ok(Ended::NoServer),
                Some(false) => looks_without += 1,
                Some(true) => {
                    looks_without = 0;
                    kicks += 1;
                    // The answer is no news: "not found" is 2.3's way to say that the session ended by itself.
                    if self.run("kick", &user.to_string()).await?.is_none() {
                        return Ok(Ended::NoServer);
                    }
                }
            }
            if looks_without == 2 {
                return Ok(Ended::All { kicks });
            }
            if Instant::now() >= deadline {
                return Err(DoveadmError::StillThere { user: user.clone() });
            }
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
    }

    /// Whether a mailbox has sessions; `None` when no Dovecot is running.
    pub async fn is_connected(&self, user: &Address) -> Result<Option<bool>, DoveadmError> {
        Ok(self.who(&user.to_string()).await?.map(|rows| !rows.is_empty()))
    }

    /// How many sessions all mailboxes have; `None` when no Dovecot is running.
    pub async fn sessions(&self) -> Result<Option<u64>, DoveadmError> {
        let rows = self.who("*").await?;
        Ok(rows.map(|rows| rows.iter().map(connections).sum()))
    }

    /// How many IMAP sessions each login has; `None` when no Dovecot is running.
    pub async fn sessions_by_login(&self) -> Result<Option<HashMap<Box<str>, u32>>, DoveadmError> {
        Ok(self.who("*").await?.map(|rows| by_login(&rows)))
    }

    async fn who(&self, mask: &str) -> Result<Option<Vec<Value>>, DoveadmError> {
        match self.run("who", mask).await? {
            None => Ok(None),
            Some(Reply::Result(rows)) => Ok(Some(rows)),
            Some(Reply::Error(answer)) => Err(DoveadmError::Answer {
                command: "who",
                answer,
            }),
        }
    }

    /// The mask may hold wildcards and networks; an address can be neither.
    async fn run(&self, command: &'static str, mask: &str) -> Result<Option<Reply>, DoveadmError> {
        let request = json!([[command, { "mask": [mask] }, "inboxd"]]);
        let exchange = |source| DoveadmError::Exchange { command, source };
        let sent = self
            .http
            .post("http://localhost/doveadm/v1")
            .header(AUTHORIZATION, self.authorization.clone())
            .json(&request)
            .send()
            .await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) if has_no_server(&error) => return Ok(None),
            Err(error) => return Err(exchange(error)),
        };
        let answer = |answer: String| DoveadmError::Answer { command, answer };
        if response.status() != reqwest::StatusCode::OK {
            return Err(answer(response.status().to_string()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(exchange)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX_OCTETS {
                return Err(answer("too much".to_owned()));
            }
        }
        Reply::parse(&body)
            .map(Some)
            .ok_or_else(|| answer("something that is no doveadm answer".to_owned()))
    }
}

/// One answer: `[["doveadmResponse", [...], tag]]` or `[["error", {"type": ..., "exitCode": ...}, tag]]`. Where there are several
/// rows, Dovecot 2.3.19 closes their list behind any of them, or not at all.
#[derive(PartialEq, Debug)]
enum Reply {
    Result(Vec<Value>),
    Error(String),
}

impl Reply {
    fn parse(body: &[u8]) -> Option<Self> {
        let replies: Vec<Vec<Value>> = serde_json::from_slice(body).ok().or_else(|| {
            let open = body.strip_suffix(ANSWER_END.as_bytes())?;
            serde_json::from_slice(&[open, b"]", ANSWER_END.as_bytes()].concat()).ok()
        })?;
        let [Value::String(kind), content, rest @ .., Value::String(_tag)] = replies.first()?.as_slice()
        else {
            return None;
        };
        match (kind.as_str(), content) {
            ("doveadmResponse", Value::Array(rows)) => Some(Self::Result([rows, rest].concat())),
            ("error", content) => Some(Self::Error(content.to_string())),
            _ => None,
        }
    }
}

/// The sessions of one row of `who`, which writes numbers as text.
fn connections(row: &Value) -> u64 {
    match &row["connections"] {
        Value::String(text) => text.parse().unwrap_or(1),
        number => number.as_u64().unwrap_or(1),
    }
}

/// The IMAP sessions of each login. Dovecot has a row for each login and service.
fn by_login(rows: &[Value]) -> HashMap<Box<str>, u32> {
    let mut sessions: HashMap<Box<str>, u32> = HashMap::new();
    for row in rows.iter().filter(|row| row["service"] == "imap") {
        if let Some(login) = row["username"].as_str() {
            let connections = u32::try_from(connections(row)).unwrap_or(u32::MAX);
            let of_login = sessions.entry(login.to_lowercase().into()).or_default();
            *of_login = of_login.saturating_add(connections);
        }
    }
    sessions
}

/// Whether a request over a UNIX socket failed because no server is there.
pub(crate) fn has_no_server(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return nobody_listens(error);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_versions_are_understood() {
        let row = br#"[["doveadmResponse",[{"username":"a@example.com","connections":"1"}],"inboxd"]]"#;
        assert!(matches!(Reply::parse(row), Some(Reply::Result(rows)) if rows.len() == 1));
        for rows in [
            &br#"[["doveadmResponse",[{"connections":"1"},{"connections":"5"}],"inboxd"]]"#[..],
            br#"[["doveadmResponse",[{"connections":"1"},{"connections":"5"},"inboxd"]]"#,
            br#"[["doveadmResponse",[{"connections":"1"}],{"connections":"5"},"inboxd"]]"#,
        ] {
            let Some(Reply::Result(rows)) = Reply::parse(rows) else {
                panic!("two rows are not understood");
            };
            assert_eq!(rows.iter().map(connections).sum::<u64>(), 6);
        }
        let none = br#"[["doveadmResponse",[],"inboxd"]]"#;
        assert_eq!(Reply::parse(none), Some(Reply::Result(vec![])));
        let not_found = br#"[["error",{"type":"exitCode", "exitCode":68},"inboxd"]]"#;
        assert!(matches!(Reply::parse(not_found), Some(Reply::Error(text)) if text.contains("68")));
        for garbage in [&b""[..], b"[]", b"<html>", br#"[["doveadmResponse",{},"x"]]"#] {
            assert_eq!(Reply::parse(garbage), None);
        }
    }

    #[test]
    fn sessions_are_counted_by_login() {
        let row = |login: &str, service: &str, connections: &str| json!({"username": login, "service": service, "connections": connections, "pids": "(1 2)", "ips": "(::1)"});
        let rows = [
            row("a@example.com", "imap", "2"),
            row("b@example.com", "imap", "1"),
            row("a@example.com", "lmtp", "9"),
            row("A@example.com", "imap", "3"),
            json!({"connections": "4"}),
        ];
        let counted = by_login(&rows);
        assert_eq!(
            counted,
            HashMap::from([("a@example.com".into(), 5), ("b@example.com".into(), 1)])
        );
    }

    #[tokio::test]
    async fn no_socket_and_a_dead_socket_mean_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("http");
        let doveadm = Doveadm::new(&socket, &SecretString::from("key")).unwrap();
        let user = Address::parse("a@example.com").unwrap();
        assert_eq!(doveadm.end_sessions(&user).await.unwrap(), Ended::NoServer);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_eq!(doveadm.end_sessions(&user).await.unwrap(), Ended::NoServer);
    }
}
