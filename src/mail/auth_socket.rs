//! Dovecot's authentication service, asked for the password entry of a login without logging in: the command `PASS` of
//! its master protocol, as `doveadm auth lookup` uses it, which is the same on Dovecot 2.3 and 2.4.
//!
//! A look-up reads what a login reads, through the same process and the same Lua script, and no failure of it is counted
//! against anybody. Dovecot shows no hash to whoever asks in this way, so the script shows the one thing that tells which
//! entry it has read (see [`EntryMark`](crate::model::maps::EntryMark)) to the service that asks here.
//!
//! Every call makes a connection of its own. That costs some sixty microseconds, and a Dovecot that read its
//! configuration again answers the next call: a connection that is kept goes on with the process, and so with the
//! configuration, that it was made to.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::wire::nobody_listens;
pub use crate::model::maps::Answer;
use crate::model::{address::Address, maps::EntryMark};

/// The one major version of the protocol.
const PROTOCOL_MAJOR: &str = "1";
/// In whose name the Lua script is asked.
const SERVICE: &str = "inboxd";
/// The field in which the script says which entry it has read.
const ENTRY_FIELD: &str = "inboxd_entry";
/// Longest line that is read. Dovecot reads lines of 1,024 octets, and adds fields of ours to what it has read.
const LINE_MAX_OCTETS: u64 = 8 * 1024;
/// Longest wait to learn whether a Dovecot that does not listen here runs at all.
const NEIGHBOUR_TIMEOUT_MS: u64 = 500;

/// A client of Dovecot's authentication service.
#[derive(Clone, Debug)]
pub struct AuthSocket {
    socket: PathBuf,
    administration: PathBuf,
}

/// Why Dovecot did not answer for every login.
#[derive(Debug, thiserror::Error)]
pub enum AuthSocketError {
    /// No Dovecot is running.
    #[error("no Dovecot is running: nobody listens on {}", .0.display())]
    NoServer(PathBuf),
    /// Dovecot is running with a configuration that has no such socket.
    #[error(
        "Dovecot is running and does not listen on {}: its configuration is older than this inboxd. Put in place what \
         `inboxd stack render dovecot` prints now, and reload Dovecot", .0.display()
    )]
    NoListener(PathBuf),
    /// The exchange failed.
    #[error("look up logins on {}", socket.display())]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something was said that is not of this protocol.
    #[error("look up logins on {}: Dovecot said {line:?}", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was said, without what might be an entry.
        line: String,
    },
    /// Not all answers came in time.
    #[error("look up logins on {}: {missing} answers did not come in time", socket.display())]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// How many.
        missing: usize,
    },
}

impl AuthSocket {
    /// The socket that the daemon alone uses, and Dovecot's administration socket, which tells a Dovecot without this
    /// socket from none.
    pub fn new(socket: &Path, administration: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            administration: administration.to_owned(),
        }
    }

    /// Asks for all of these logins at once, and tells each answer as it comes, in any order, with the login's index.
    ///
    /// When it fails, the logins that no answer was told for are those that nothing is known about.
    pub async fn look_up(
        &self,
        logins: &[Address],
        deadline: Instant,
        mut told: impl FnMut(usize, Answer) + Send,
    ) -> Result<(), AuthSocketError> {
        if logins.is_empty() {
            return Ok(());
        }
        let mut answered = Answered::none_of(logins.len());
        let asked = timeout_at(deadline, self.ask(logins, &mut answered, &mut told)).await;
        asked.unwrap_or_else(|_| {
            Err(AuthSocketError::TimedOut {
                socket: self.socket.clone(),
                missing: answered.missing,
            })
        })
    }

    async fn ask(
        &self,
        logins: &[Address],
        answered: &mut Answered,
        told: &mut (impl FnMut(usize, Answer) + Send),
    ) -> Result<(), AuthSocketError> {
        let mut stream = match UnixStream::connect(&self.socket).await {
            Ok(stream) => stream,
            Err(error) if nobody_listens(&error) => return Err(self.nobody().await),
            Err(error) => return Err(self.failed(error)),
        };
        let (from, mut to) = stream.split();
        let mut from = BufReader::new(from);
        // Both at once: what is not read for long makes Dovecot stop reading.
        let write = async {
            to.write_all(requests(logins).as_bytes())
                .await
                .map_err(|error| self.failed(error))
        };
        let read = async {
            self.handshake(&mut from).await?;
            while answered.missing > 0 {
                let line = self.line(&mut from).await?;
                let (index, answer) = parse_answer(&line, logins)
                    .filter(|(index, _)| answered.is_first(*index))
                    .ok_or_else(|| self.nonsense(&line))?;
                told(index, answer);
            }
            Ok(())
        };
        tokio::try_join!(write, read).map(drop)
    }

    /// `VERSION<tab>major<tab>minor`, lines that are of no use here, `SPID<tab>process`.
    async fn handshake(&self, from: &mut (impl AsyncBufRead + Unpin)) -> Result<(), AuthSocketError> {
        let version = self.line(from).await?;
        let mut words = version.split('\t');
        if (words.next(), words.next()) != (Some("VERSION"), Some(PROTOCOL_MAJOR)) {
            return Err(self.nonsense(&version));
        }
        while !self.line(from).await?.starts_with("SPID\t") {}
        Ok(())
    }

    async fn line(&self, from: &mut (impl AsyncBufRead + Unpin)) -> Result<String, AuthSocketError> {
        let mut line = Vec::new();
        let read = from.take(LINE_MAX_OCTETS).read_until(b'\n', &mut line).await;
        read.map_err(|error| self.failed(error))?;
        if line.pop() != Some(b'\n') {
            return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
        }
        String::from_utf8(line).map_err(|_| self.nonsense("something that is no text"))
    }

    /// Which of the two it is that nobody listens.
    async fn nobody(&self) -> AuthSocketError {
        let limit = Duration::from_millis(NEIGHBOUR_TIMEOUT_MS);
        let neighbour = tokio::time::timeout(limit, UnixStream::connect(&self.administration)).await;
        match neighbour {
            Ok(Ok(_)) => AuthSocketError::NoListener(self.socket.clone()),
            Ok(Err(_)) | Err(_) => AuthSocketError::NoServer(self.socket.clone()),
        }
    }

    fn failed(&self, source: io::Error) -> AuthSocketError {
        AuthSocketError::Exchange {
            socket: self.socket.clone(),
            source,
        }
    }

    fn nonsense(&self, line: &str) -> AuthSocketError {
        // The first word says what it is; the fields of an answer are for nobody's log.
        AuthSocketError::Protocol {
            socket: self.socket.clone(),
            line: line.split('\t').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Which answers have come.
struct Answered {
    by_index: Vec<bool>,
    missing: usize,
}

impl Answered {
    fn none_of(count: usize) -> Self {
        Self {
            by_index: vec![false; count],
            missing: count,
        }
    }

    /// Takes note of an answer; not the first one for its login is none.
    fn is_first(&mut self, index: usize) -> bool {
        let is_first = self
            .by_index
            .get_mut(index)
            .is_some_and(|answered| !std::mem::replace(answered, true));
        self.missing -= usize::from(is_first);
        is_first
    }
}

/// The client's half of the handshake, and a look-up for each login, numbered from one.
fn requests(logins: &[Address]) -> String {
    let look_ups = logins.iter().enumerate().map(|(index, login)| {
        // An address holds nothing that the protocol would escape.
        format!("PASS\t{}\t{login}\tservice={SERVICE}\n", index + 1)
    });
    std::iter::once(format!("VERSION\t{PROTOCOL_MAJOR}\t0\n"))
        .chain(look_ups)
        .collect()
}

/// `PASS<tab>id<tab>user=name[<tab>field=value ...]`, `NOTFOUND<tab>id` or `FAIL<tab>id[<tab>...]`.
fn parse_answer(line: &str, logins: &[Address]) -> Option<(usize, Answer)> {
    let mut words = line.split('\t');
    let (kind, id) = (words.next()?, words.next()?);
    let index = id.parse::<usize>().ok()?.checked_sub(1)?;
    let login = logins.get(index)?;
    let answer = match kind {
        "PASS" => {
            let user = words.next()?.strip_prefix("user=")?;
            if user != login.to_string() {
                return None;
            }
            let mark = words.find_map(|field| field.strip_prefix(ENTRY_FIELD)?.strip_prefix('='));
            Answer::Found(mark.map(EntryMark::from_shown))
        }
        "NOTFOUND" => Answer::Unknown,
        "FAIL" => Answer::Failed,
        _ => return None,
    };
    Some((index, answer))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn logins() -> [Address; 2] {
        ["a@example.com", "b@example.com"].map(|name| Address::parse(name).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn answers_of_both_versions_are_understood() {
        let found = |mark: Option<&str>| Answer::Found(mark.map(EntryMark::from_shown));
        for (line, expected) in [
            ("PASS\t1\tuser=a@example.com", (0, found(None))),
            (
                "PASS\t2\tuser=b@example.com\tnologin\tinboxd_entry={SHA512-CRYPT}$6$rounds=1000$salt",
                (1, found(Some("{SHA512-CRYPT}$6$rounds=1000$salt"))),
            ),
            ("NOTFOUND\t2", (1, Answer::Unknown)),
            ("FAIL\t1", (0, Answer::Failed)),
            ("FAIL\t1\tcode=temp_fail\treason=x", (0, Answer::Failed)),
        ] {
            assert_eq!(parse_answer(line, &logins()), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_answer_to_a_question_is_refused() {
        for line in [
            "",
            "PASS",
            "PASS\t1",
            "PASS\t1\tb@example.com",
            "PASS\t1\tuser=b@example.com",
            "PASS\t0\tuser=a@example.com",
            "PASS\t3\tuser=a@example.com",
            "NOTFOUND\tx",
            "NOTFOUND\t-1",
            "USER\t1\ta@example.com",
        ] {
            assert_eq!(parse_answer(line, &logins()), None, "{line:?}");
        }
    }

    /// What becomes of a look-up when a server says this and nothing else, and what was told before.
    async fn against(said: &'static str) -> (Result<(), AuthSocketError>, Vec<(usize, Answer)>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inboxd-userdb");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            // The end of what it says, not of the connection: that would be an error while the client still writes.
            stream.shutdown().await.unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            String::from_utf8(heard).unwrap()
        });
        let mut told = Vec::new();
        let outcome = AuthSocket::new(&path, &path)
            .look_up(&logins(), soon(), |index, answer| told.push((index, answer)))
            .await;
        assert_eq!(
            serving.await.unwrap(),
            "VERSION\t1\t0\nPASS\t1\ta@example.com\tservice=inboxd\nPASS\t2\tb@example.com\tservice=inboxd\n"
        );
        (outcome, told)
    }

    #[tokio::test]
    async fn answers_come_in_any_order() {
        let (outcome, told) = against("VERSION\t1\t3\nSPID\t7\nNOTFOUND\t2\nFAIL\t1\n").await;
        outcome.unwrap();
        assert_eq!(told, [(1, Answer::Unknown), (0, Answer::Failed)]);
    }

    #[tokio::test]
    async fn a_server_that_ends_in_between_is_an_error_and_what_it_said_before_counts() {
        for said in [
            "VERSION\t1\t3\nSPID\t7\nNOTFOUND\t2\n",
            "VERSION\t1\t3\nSPID\t7\nNOTFOUND\t2\nNOTFOU",
        ] {
            let (outcome, told) = against(said).await;
            assert!(
                matches!(outcome, Err(AuthSocketError::Exchange { .. })),
                "{outcome:?}"
            );
            assert_eq!(told, [(1, Answer::Unknown)]);
        }
    }

    #[tokio::test]
    async fn what_is_not_of_the_protocol_is_an_error() {
        for said in [
            "VERSION\t2\t0\nSPID\t7\n",
            "+OK hello\n",
            "VERSION\t1\t3\nSPID\t7\nNOTFOUND\t1\nNOTFOUND\t1\n",
            "VERSION\t1\t3\nSPID\t7\nOK\t1\tsecret\n",
        ] {
            let (outcome, _) = against(said).await;
            let error = outcome.unwrap_err();
            assert!(matches!(error, AuthSocketError::Protocol { .. }), "{error:?}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_waited_for_until_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inboxd-userdb");
        let _listener = UnixListener::bind(&path).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let socket = AuthSocket::new(&path, &path);
        let outcome = socket
            .look_up(&logins(), deadline, |_, _| panic!("an answer"))
            .await;
        assert!(
            matches!(outcome, Err(AuthSocketError::TimedOut { missing: 2, .. })),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn no_server_is_told_from_one_with_an_older_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (own, administration) = (folder.path().join("inboxd-userdb"), folder.path().join("http"));
        let socket = AuthSocket::new(&own, &administration);
        let look_up = async || {
            socket
                .look_up(&logins(), soon(), |_, _| panic!("an answer"))
                .await
        };
        assert!(matches!(look_up().await, Err(AuthSocketError::NoServer(_))));
        // What a server that was killed leaves.
        for path in [&own, &administration] {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        }
        assert!(matches!(look_up().await, Err(AuthSocketError::NoServer(_))));
        std::fs::remove_file(&administration).unwrap();
        let _dovecot = UnixListener::bind(&administration).unwrap();
        let error = look_up().await.unwrap_err();
        assert!(matches!(error, AuthSocketError::NoListener(_)), "{error:?}");
        assert!(error.to_string().contains("inboxd stack render dovecot"));
    }
}
