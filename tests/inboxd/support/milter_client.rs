//! Postfix's side of the milter protocol, to say what no SMTP client on this machine can: from which address it comes.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::wait::LIMIT;

/// Octets of a part of a body, as Postfix sends them.
const PART_OCTETS: usize = 65_535;

/// A session with a milter.
pub struct MilterClient(UnixStream);

/// What stands around a message.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    pub client: &'a str,
    pub helo: &'a str,
    /// Empty: the null sender.
    pub sender: &'a str,
    pub recipients: &'a [&'a str],
}

/// What a milter does with a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Empty if it goes on, or else the SMTP reply.
    pub reply: String,
    /// Fields that it puts in front, the first one last.
    pub inserted: Vec<(String, String)>,
    /// Fields that it removes: name and number.
    pub removed: Vec<(String, u32)>,
    /// Recipients that it deletes.
    pub deleted: Vec<String>,
}

impl Judged {
    /// The value of a field that it adds, unfolded.
    pub fn field(&self, name: &str) -> Option<String> {
        let found = self.inserted.iter().find(|(inserted, _)| inserted == name);
        found.map(|(_, value)| value.replace("\n\t", " ").trim().to_owned())
    }
}

impl MilterClient {
    /// A session that has agreed on what Postfix offers.
    pub async fn connect(socket: &Path) -> Self {
        let mut client = Self(UnixStream::connect(socket).await.unwrap());
        let offer = [
            6_u32.to_be_bytes(),
            0x1ff_u32.to_be_bytes(),
            0x001f_ffff_u32.to_be_bytes(),
        ]
        .concat();
        client.send(b'O', &offer).await;
        let (command, _) = client.read().await;
        assert_eq!(command, b'O');
        client
    }

    /// Has a message judged: everything from `SMFIC_CONNECT` to the end of the body.
    pub async fn judge(&mut self, envelope: &Envelope<'_>, message: &[u8]) -> Judged {
        let family = if envelope.client.contains(':') { b'6' } else { b'4' };
        let connect = [
            b"client.test\0".as_slice(),
            &[family, 0, 25],
            envelope.client.as_bytes(),
            b"\0",
        ]
        .concat();
        self.expect(b'C', &connect).await;
        self.expect(b'H', &with_nul(envelope.helo)).await;
        self.message(envelope, message).await
    }

    /// The same for another message of the session.
    pub async fn message(&mut self, envelope: &Envelope<'_>, message: &[u8]) -> Judged {
        self.expect(b'M', &with_nul(&format!("<{}>", envelope.sender)))
            .await;
        for recipient in envelope.recipients {
            self.expect(b'R', &with_nul(&format!("<{recipient}>"))).await;
        }
        let end = find(message, b"\r\n\r\n").expect("a message has a header and a body");
        for (name, value) in fields(&message[..end + 2]) {
            self.expect(b'L', &[&name[..], b"\0", &value, b"\0"].concat())
                .await;
        }
        for part in message[end + 4..].chunks(PART_OCTETS) {
            self.expect(b'B', part).await;
        }
        self.send(b'E', b"").await;
        self.verdict().await
    }

    async fn verdict(&mut self) -> Judged {
        let mut judged = Judged::default();
        loop {
            let (command, data) = self.read().await;
            let strings = |from: usize| -> Vec<String> {
                data[from..]
                    .split(|&octet| octet == 0)
                    .map(|part| String::from_utf8_lossy(part).into_owned())
                    .collect()
            };
            match command {
                b'c' => return judged,
                b'y' => {
                    judged.reply = strings(0).remove(0);
                    return judged;
                }
                b'i' => {
                    let strings = strings(4);
                    judged.inserted.push((strings[0].clone(), strings[1].clone()));
                }
                b'm' => {
                    let number = u32::from_be_bytes(data[..4].try_into().unwrap());
                    judged.removed.push((strings(4).remove(0), number));
                }
                b'-' => judged.deleted.push(strings(0).remove(0)),
                other => panic!("the milter answers {:?}", char::from(other)),
            }
        }
    }

    async fn expect(&mut self, command: u8, data: &[u8]) {
        self.send(command, data).await;
        let (answer, _) = self.read().await;
        assert_eq!(char::from(answer), 'c', "answer to {:?}", char::from(command));
    }

    async fn send(&mut self, command: u8, data: &[u8]) {
        let length = u32::try_from(data.len() + 1).unwrap().to_be_bytes();
        let packet = [&length[..], &[command], data].concat();
        self.0.write_all(&packet).await.unwrap();
    }

    async fn read(&mut self) -> (u8, Vec<u8>) {
        let reading = async {
            let length = self
                .0
                .read_u32()
                .await
                .expect("the milter has closed the session");
            let mut packet = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut packet).await.unwrap();
            (packet[0], packet.split_off(1))
        };
        timeout(LIMIT, reading).await.expect("the milter answers")
    }
}

fn with_nul(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Names and values, these folded with newlines alone.
fn fields(header: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for line in header.split(|&octet| octet == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match (line.first(), fields.last_mut()) {
            (None, _) => {}
            (Some(b' ' | b'\t'), Some(field)) => {
                field.push(b'\n');
                field.extend_from_slice(line);
            }
            _ => fields.push(line.to_vec()),
        }
    }
    let split = |field: Vec<u8>| {
        let colon = field.iter().position(|&octet| octet == b':').unwrap();
        (field[..colon].to_vec(), field[colon + 1..].to_vec())
    };
    fields.into_iter().map(split).collect()
}
