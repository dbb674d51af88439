//! A client of the API that costs next to nothing, because it shares the cores with what is measured: HTTP/1.1 over one
//! connection that is kept.

use std::{fmt::Write as _, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Octets read at a time.
const READ_OCTETS: usize = 16 * 1024;

/// A connection to the API with one key.
pub struct Connection {
    stream: TcpStream,
    host: String,
    key: String,
    request: String,
    answer: Vec<u8>,
}

/// Where things are in an answer that is complete.
struct Parts {
    status: u16,
    body: usize,
    end: usize,
}

impl Connection {
    /// Connects; `base` is `http://host:port`.
    pub async fn open(base: &str, key: &str) -> Self {
        Self::try_open(base, key).await.unwrap()
    }

    /// The same, where nobody may be listening yet.
    pub async fn try_open(base: &str, key: &str) -> io::Result<Self> {
        let host = base.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            key: key.to_owned(),
            request: String::new(),
            answer: Vec::with_capacity(READ_OCTETS),
        })
    }

    /// Posts JSON and reads the answer: its status and its body.
    pub async fn post(&mut self, path: &str, body: &str) -> (u16, &[u8]) {
        self.call("POST", path, body).await
    }

    /// Gets something and reads the answer: its status.
    pub async fn get(&mut self, path: &str) -> u16 {
        self.call("GET", path, "").await.0
    }

    async fn call(&mut self, method: &str, path: &str, body: &str) -> (u16, &[u8]) {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            self.key,
            body.len()
        )
        .unwrap();
        self.stream.write_all(self.request.as_bytes()).await.unwrap();
        self.answer.clear();
        let parts = loop {
            if let Some(parts) = parts_of(&self.answer) {
                break parts;
            }
            let read = self.stream.read_buf(&mut self.answer).await.unwrap();
            assert!(read > 0, "the daemon hung up");
        };
        (parts.status, &self.answer[parts.body..parts.end])
    }
}

/// The parts of an answer; none, while some of it is missing.
fn parts_of(answer: &[u8]) -> Option<Parts> {
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..body]).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let length: usize = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, length)| length.parse().unwrap())
        .expect("every answer has a length");
    let end = body + length;
    (answer.len() >= end).then_some(Parts { status, body, end })
}
