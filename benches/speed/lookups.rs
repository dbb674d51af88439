//! Look-ups that the mail servers get out of the maps, each in the server's own words.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::UnixStream,
};

use super::{
    bench::Bench,
    report::{Column, Took},
};

/// Questions that are sent before the answers are read.
const AT_ONCE: usize = 50;
/// Recipients of one message: Postfix takes 1,000 (`smtpd_recipient_limit`).
const RECIPIENTS_MAX: usize = 900;

impl Bench<'_> {
    /// Measures each kind of look-up, one connection or process each.
    pub async fn measure_lookups(&mut self, column: &mut Column) {
        let users = self.user_lookups().await;
        tell(
            "Dovecot: userdb look-ups/s",
            "dovecot_userdb_lookups",
            &users,
            column,
        );
        let passwords = self.password_lookups().await;
        tell(
            "Dovecot: passdb look-ups/s",
            "dovecot_passdb_lookups",
            &passwords,
            column,
        );
        let keys = self.postmap_lookups();
        tell(
            "Postfix: `postmap -q -` keys/s",
            "postfix_postmap_keys",
            &keys,
            column,
        );
        let recipients = self.recipients().await;
        tell(
            "Postfix: RCPT/s, one session",
            "postfix_recipients",
            &recipients,
            column,
        );
    }

    /// As LMTP asks: `USER` on the socket `auth-userdb` (doc.dovecot.org, "Auth Master Protocol").
    async fn user_lookups(&self) -> Took {
        self.ask_dovecot("auth-userdb", "USER", "USER\t").await
    }

    /// As `doveadm auth lookup` asks: `PASS` on `auth-master`. The hash is looked up and not checked: no login is.
    async fn password_lookups(&self) -> Took {
        self.ask_dovecot("auth-master", "PASS", "PASS\t").await
    }

    async fn ask_dovecot(&self, socket: &str, command: &str, found: &str) -> Took {
        let doveadm = self.world.layout.doveadm_socket();
        let socket = UnixStream::connect(doveadm.with_file_name(socket)).await.unwrap();
        let mut stream = BufStream::new(socket);
        stream.write_all(b"VERSION\t1\t1\n").await.unwrap();
        stream.flush().await.unwrap();
        while !line(&mut stream).await.starts_with("SPID\t") {}
        let mut took = Took::begin();
        let deadline = self.deadline();
        let mut asked = 0;
        while Instant::now() < deadline {
            for number in asked..asked + AT_ONCE {
                let user = self.seeds.some(number).email;
                let question = format!("{command}\t{}\t{user}\tservice=imap\n", number + 1);
                stream.write_all(question.as_bytes()).await.unwrap();
            }
            stream.flush().await.unwrap();
            for _ in 0..AT_ONCE {
                let answer = line(&mut stream).await;
                assert!(answer.starts_with(found), "{answer}");
            }
            asked += AT_ONCE;
        }
        took.end();
        took.of(asked)
    }

    /// As Postfix's daemons look up, by its own program: many keys on standard input.
    fn postmap_lookups(&self) -> Took {
        let keys = self.world.daemon.folder.join("keys");
        let text: String = (0..self.scale.postmap_keys)
            .map(|number| self.seeds.some(number).email + "\n")
            .collect();
        fs::write(&keys, text).unwrap();
        let table = self.world.daemon.maps().join("postfix/recipients");
        let mut took = Took::begin();
        let output = Command::new("postmap")
            .arg("-c")
            .arg(self.world.layout.postfix_conf_dir())
            .args(["-q", "-"])
            .arg(format!("lmdb:{}", table.display()))
            .stdin(Stdio::from(File::open(&keys).unwrap()))
            .output()
            .unwrap();
        took.end();
        fs::remove_file(keys).unwrap();
        let found = String::from_utf8(output.stdout).unwrap().lines().count();
        assert_eq!(
            found,
            self.scale.postmap_keys,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        took.of(found)
    }

    /// As other mail servers ask, pipelined (RFC 2920) in one session.
    async fn recipients(&self) -> Took {
        let mut smtp = self.world.mail.inbound().await;
        let mut took = Took::begin();
        let deadline = self.deadline();
        let mut asked = 0;
        while Instant::now() < deadline {
            smtp.expect("MAIL FROM:<friend@example.net>", "250").await;
            for _ in 0..RECIPIENTS_MAX / AT_ONCE {
                for number in asked..asked + AT_ONCE {
                    let command = format!("RCPT TO:<{}>\r\n", self.seeds.some(number).email);
                    smtp.stream.write_all(command.as_bytes()).await.unwrap();
                }
                smtp.stream.flush().await.unwrap();
                for _ in 0..AT_ONCE {
                    let answer = line(&mut smtp.stream).await;
                    assert!(answer.starts_with("250 "), "{answer}");
                }
                asked += AT_ONCE;
            }
            smtp.expect("RSET", "250").await;
        }
        took.end();
        smtp.expect("QUIT", "221").await;
        took.of(asked)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.scale.seconds_each)
    }
}

async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> String {
    let mut line = String::new();
    assert!(
        stream.read_line(&mut line).await.unwrap() > 0,
        "the server hung up"
    );
    line
}

fn tell(line: &str, name: &str, took: &Took, column: &mut Column) {
    let per_second = took.per_second();
    column.show(line, format!("{per_second:.0} (n = {})", took.count()));
    column.keep(
        name,
        json!({ "n": took.count(), "seconds": took.seconds(), "per_second": per_second }),
    );
}
