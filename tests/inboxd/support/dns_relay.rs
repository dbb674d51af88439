//! A relay in front of a name server, which holds back what is asked about some names: as if their servers were silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// How long the name server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message over UDP, in octets.
const MESSAGE_MAX_OCTETS: usize = 4096;
/// Octets of a message before its question (RFC 1035, 4.1.1).
const HEADER_OCTETS: usize = 12;

/// The relay. It ends with the test's process.
pub struct DnsRelay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// These names, and all below them, get no answer.
    silent: BTreeSet<String>,
    /// How often each name was asked about.
    asked: BTreeMap<String, usize>,
}

impl DnsRelay {
    /// Starts one in front of this name server.
    pub fn start(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: socket.local_addr().unwrap(),
            state: Arc::default(),
        };
        let state = Arc::clone(&relay.state);
        thread::spawn(move || {
            let mut message = [0; MESSAGE_MAX_OCTETS];
            loop {
                let (octets, asker) = socket.recv_from(&mut message).unwrap();
                let name = name_in(&message[..octets]);
                let is_silent = {
                    let mut state = state.lock().unwrap();
                    *state.asked.entry(name.clone()).or_default() += 1;
                    let is_at_or_below =
                        |silent: &String| name == *silent || name.ends_with(&format!(".{silent}"));
                    state.silent.iter().any(is_at_or_below)
                };
                if !is_silent && let Some(answer) = ask(server, &message[..octets]) {
                    socket.send_to(&answer, asker).unwrap();
                }
            }
        });
        relay
    }

    /// Where it listens, over UDP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets a name and all below it go without an answer.
    pub fn silence(&self, name: &str) {
        self.state.lock().unwrap().silent.insert(name.to_owned());
    }

    /// Lets them be answered again.
    pub fn answer(&self, name: &str) {
        self.state.lock().unwrap().silent.remove(name);
    }

    /// How often a name was asked about.
    pub fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }
}

fn ask(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
    socket.send_to(question, server).unwrap();
    let mut answer = [0; MESSAGE_MAX_OCTETS];
    let octets = socket.recv(&mut answer).ok()?;
    Some(answer[..octets].to_vec())
}

/// The name that a question is about, in lower case.
fn name_in(message: &[u8]) -> String {
    let (mut labels, mut at) = (Vec::new(), HEADER_OCTETS);
    while message[at] > 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    labels.join(".")
}
