//! Author fields, good and bad, made by rules from a seed: the same ones in every run.

/// Random numbers that are the same in every run (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// The header fields of a message that say who it is from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Case {
    pub fields: Vec<(&'static str, Vec<u8>)>,
}

impl Case {
    /// A message with them, its subject told.
    pub fn message(&self, subject: &str) -> Vec<u8> {
        let mut message = Vec::new();
        for (name, value) in &self.fields {
            message.extend([name.as_bytes(), b":", value, b"\r\n"].concat());
        }
        message.extend(format!("Subject: {subject}\r\n\r\nx\r\n").into_bytes());
        message
    }

    /// For a test that fails.
    pub fn shown(&self) -> Vec<String> {
        let shown = |(name, value): &(&str, Vec<u8>)| format!("{name}:{}", String::from_utf8_lossy(value));
        self.fields.iter().map(shown).collect()
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (*name, value.as_slice()))
    }
}

const FOREIGN: [&str; 5] = [
    "victim@inboxd.test",
    "ceo@bank.example",
    "scout@bank.example",
    "victim@xn--bcher-kva.example",
    "root@localhost",
];
const WORDS: [&str; 16] = [
    "Scout",
    "Dog",
    "J.",
    "R.",
    "victim",
    "3rd",
    "O'Neil",
    "a=b",
    "x-y",
    "_",
    "Inc.",
    "J\u{f6}rg",
    "\u{65e5}\u{672c}",
    "&",
    "!",
    "bank.example",
];
const QUOTED: [&str; 17] = [
    "\"Scout\"",
    "\"Scout, the dog\"",
    "\"a\\\"b\"",
    "\"\\\\\"",
    "\"\"",
    "\" \"",
    "\"J\u{f6}rg\"",
    "\"victim@inboxd.test\"",
    "\"ceo@bank.example, Inc.\"",
    "\"<victim@inboxd.test>\"",
    "\"x\\\" <victim@inboxd.test>, \\\"y\"",
    "\"a (b\"",
    "\"a) b\"",
    "\"a; b: c\"",
    "\"=?utf-8?q?J=C3=B6rg?=\"",
    "\"=?utf-8?q?=22_=3Cvictim=40inboxd.test=3E=2C?=\"",
    "\"victim.\"",
];
const ENCODED: [&str; 26] = [
    "=?utf-8?q?J=C3=B6rg?=",
    "=?UTF-8?B?SsO2cmc=?=",
    "=?iso-8859-1?Q?J=F6rg?=",
    "=?us-ascii?q?Scout?=",
    "=?utf-8?q?M=C3=BCller=2C_J=C3=B6rg?=",
    "=?utf-8?q?Scout_=28Sales=29?=",
    "=?utf-8?q?a=28?=",
    "=?utf-8?q?=29victim.?=",
    "=?utf-8?q?x=3A?=",
    "=?utf-8?q?x=3B?=",
    "=?utf-8?q?=5Bx?=",
    "=?utf-8?q?=E6=97=A5=E6=9C=AC?=",
    "=?utf-8?q?victim=40inboxd.test?=",
    "=?utf-8?b?dmljdGltQGluYm94ZC50ZXN0LA==?=",
    "=?utf-8?q?victim=40inboxd.test=2C_?=",
    "=?utf-8?q?=3Cvictim=40inboxd.test=3E?=",
    "=?utf-8?q?=22?=",
    "=?utf-8?q?=5C?=",
    "=?utf-8?q?=3D=3Futf-8=3Fq=3Fvictim=3D40inboxd.test=3F=3D?=",
    "=?utf-8?q?a=00b?=",
    "=?utf-8?q?a=0D=0AFrom:_victim=40inboxd.test?=",
    "=?utf-7?q?victim+AEA-inboxd.test?=",
    "=?utf-16?b?AHYAQABi?=",
    "=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=",
    "=?cp037?q?=A5=89=7C?=",
    "=?utf-8?q?unfinished",
];
const COMMENTS: [&str; 13] = [
    "(Scout)",
    "(the, dog.)",
    "()",
    "(=?utf-8?q?J=C3=B6rg?=)",
    "(J\u{f6}rg)",
    "(x.evil)",
    "(a (b (c)))",
    "(victim@inboxd.test)",
    "(<victim@inboxd.test>)",
    "(a\\)b)",
    "(\")",
    "(=?utf-8?q?=29victim=40inboxd.test?=)",
    "(unfinished",
];
/// The last ones are none, and white space of the obsolete form.
const SPACES: [&str; 10] = [
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\r\n ",
    "\r\n\t",
    " \r\n  ",
    "",
    "\r\n \r\n ",
];
/// What a mutation puts anywhere.
const DICTIONARY: [&str; 44] = [
    "victim@inboxd.test",
    "ceo@bank.example",
    "<victim@inboxd.test>",
    "victim",
    "@inboxd.test",
    "@",
    "<",
    ">",
    "<>",
    "\"",
    "\\",
    "(",
    ")",
    ",",
    ";",
    ":",
    ".",
    "..",
    "[",
    "]",
    "[127.0.0.1]",
    "'",
    "=?",
    "?=",
    "=?utf-8?q?",
    "=40",
    "+",
    "%",
    "!",
    " ",
    "\t",
    "\r\n ",
    "\r",
    "\n",
    "\r\n",
    "\0",
    "\u{b}",
    "\u{c}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{ff20}",
    "\u{2028}",
    "friends:",
];

/// Makes cases of a login that owns these addresses.
pub struct Generator<'a> {
    dice: Dice,
    own: &'a [&'a str],
}

impl<'a> Generator<'a> {
    pub fn new(seed: u64, own: &'a [&'a str]) -> Self {
        Self {
            dice: Dice::new(seed),
            own,
        }
    }

    fn own_address(&mut self) -> String {
        let address = self.dice.pick(self.own);
        let (local_part, domain) = address.split_once('@').unwrap();
        match self.dice.below(10) {
            0 => address.to_uppercase(),
            1 => format!("{local_part}+a.b@{domain}"),
            2 => format!("{local_part}+v=bank.example!x%y@{domain}"),
            3 => format!("{local_part}@{}", domain.to_uppercase()),
            _ => address.to_owned(),
        }
    }

    fn address(&mut self) -> String {
        let address = if self.dice.chance(93) {
            self.own_address()
        } else {
            self.dice.pick(&FOREIGN).to_owned()
        };
        let (local_part, domain) = address.split_once('@').unwrap();
        match self.dice.below(100) {
            0 => format!("{address}."),
            1 => format!("\"{local_part}\"@{domain}"),
            2 => format!("{local_part}@[{domain}]"),
            3 => format!("{local_part} @ {domain}"),
            4 => format!("{local_part}(x)@{domain}"),
            5 => format!("@bank.example:{address}"),
            6 => format!("\"victim@inboxd.test x\"@{domain}"),
            7 => format!("{local_part}+=?utf-8?q?x=40bank.example=2C?=@{domain}"),
            8 => format!("{local_part}@b\u{fc}cher.example"),
            _ => address,
        }
    }

    fn space(&mut self) -> &'static str {
        let all = if self.dice.chance(90) {
            &SPACES[..8]
        } else {
            &SPACES[..]
        };
        self.dice.pick(all)
    }

    fn word(&mut self) -> String {
        match self.dice.below(20) {
            0..=8 => self.dice.pick(&WORDS).to_owned(),
            9..=12 => self.dice.pick(&QUOTED).to_owned(),
            // The first ones are harmless.
            13..=15 => self.dice.pick(&ENCODED[..12]).to_owned(),
            16 => self.dice.pick(&ENCODED).to_owned(),
            17 => self.comment(),
            18 if self.dice.chance(50) => self.dice.pick(&FOREIGN).to_owned(),
            19 if self.dice.chance(50) => self.own_address(),
            _ => "Scout".to_owned(),
        }
    }

    fn comment(&mut self) -> String {
        let all = if self.dice.chance(75) {
            &COMMENTS[..6]
        } else {
            &COMMENTS[..]
        };
        self.dice.pick(all).to_owned()
    }

    fn name(&mut self) -> String {
        let mut name = self.word();
        for _ in 0..[0, 0, 1, 2][self.dice.below(4)] {
            name += self.space();
            name += &self.word();
        }
        name
    }

    fn mailbox(&mut self) -> String {
        let address = self.address();
        let mut text = match self.dice.below(10) {
            0..=1 => address,
            2 => format!("<{address}>"),
            3 => format!("{}{}<{address}>", self.own_address(), self.space()),
            _ => {
                let name = self.name();
                format!("{name}{}<{address}>", self.space())
            }
        };
        if self.dice.chance(8) {
            text = format!("{}{}{text}", self.comment(), self.space());
        }
        if self.dice.chance(8) {
            text = format!("{text}{}{}", self.space(), self.comment());
        }
        text
    }

    fn mutated(&mut self, text: String) -> Vec<u8> {
        let mut octets = text.into_bytes();
        let mutations = [0, 0, 0, 0, 0, 1, 1, 2][self.dice.below(8)];
        for _ in 0..mutations {
            let at = self.dice.below(octets.len() + 1);
            let end = (at + 1 + self.dice.below(6)).min(octets.len());
            match self.dice.below(6) {
                0..=2 => {
                    let piece = self.dice.pick(&DICTIONARY).bytes();
                    octets.splice(at..at, piece);
                }
                3 => drop(octets.drain(at..end)),
                4 => {
                    let piece = octets[at..end].to_vec();
                    octets.splice(at..at, piece);
                }
                _ => {
                    let octet = u8::try_from(self.dice.below(256)).unwrap();
                    octets.splice(at..end.min(at + 1), [octet]);
                }
            }
        }
        octets
    }

    fn value(&mut self, mailboxes_max: usize) -> Vec<u8> {
        let mut text = format!("{}{}", self.space(), self.mailbox());
        for _ in 0..self.dice.below(mailboxes_max) {
            text += self.dice.pick(&[",", ", ", ", ", ",\r\n ", " , ", ";", ",,"]);
            text += &self.mailbox();
        }
        if self.dice.chance(2) {
            text = format!("friends:{text};");
        }
        self.mutated(text)
    }

    pub fn case(&mut self) -> Case {
        let own = || [b" ", self.own[0].as_bytes()].concat();
        let fields = match self.dice.below(20) {
            0..=13 => vec![("From", self.value(2))],
            14 => vec![("FROM", self.value(4))],
            15 => vec![("From", own()), ("Sender", self.value(1))],
            16 => vec![("From", own()), ("Resent-From", self.value(3))],
            17 => vec![("sender", self.value(1)), ("From", self.value(1))],
            18 => vec![
                ("Resent-From", own()),
                ("Resent-Sender", self.value(1)),
                ("Resent-From", self.value(1)),
                ("From", own()),
            ],
            _ => {
                let second = self
                    .dice
                    .pick(&["From", "fROM", "From ", "Sender", "SENDER", "Resent-From"]);
                vec![("From", own()), ("Sender", own()), (second, self.value(1))]
            }
        };
        Case { fields }
    }
}
