//! A password that Dovecot's workers have verified against a costly hash, as `inboxd-costly.lua` hands it to the daemon.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    Refused,
    password::PasswordHash,
    password_scheme::{self, Cost},
    sasl_name::SaslName,
};

/// Octets of a message, its line end included: below `PIPE_BUF` (pipe(7)), so that the messages of two workers never mix.
/// The script has the same limit.
pub const MESSAGE_OCTETS_MAX: usize = 4_000;
/// Octets of a pipe that are read at a time: all that fit into one (pipe(7)).
const READ_OCTETS_MAX: usize = 64 * 1024;
/// Octets of a password beyond which crypt(3) of Debian verifies none (`CRYPT_MAX_PASSPHRASE_SIZE`, with its NUL).
const PASSWORD_OCTETS_MAX: usize = 511;
/// Octets of a password that bcrypt takes into account. What is longer matches whatever stands behind them.
const BCRYPT_OCTETS: usize = 72;

/// A right password, and what it was verified against. Its `Debug` shows nothing of either.
pub struct VerifiedPassword {
    /// The inbox, and the generation of its credentials.
    pub sasl_name: SaslName,
    /// The hash as it was in the password entry.
    pub hash: PasswordHash,
    /// The password, in whatever character set the client sent it.
    pub password: Zeroizing<Vec<u8>>,
}

impl VerifiedPassword {
    /// Parses a message without its line end: SASL name, hash, and the password in hexadecimal digits, with blanks between.
    pub fn parse(message: &[u8]) -> Result<Self, Refused> {
        let refused = || Refused::because("must be SASL name, hash and password with blanks between them");
        let text = std::str::from_utf8(message).map_err(|_| refused())?;
        let mut fields = text.split(' ');
        let (Some(name), Some(hash), Some(digits), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(refused());
        };
        Ok(Self {
            sasl_name: SaslName::parse(name)?,
            hash: PasswordHash::parse(hash)?,
            password: decode_hex(digits).ok_or_else(refused)?,
        })
    }

    /// Whether a hash of our own scheme would take this password, and none that the hash takes would be refused by it. The
    /// hash must be a costly one: no other is ever handed over, so one that is comes from no script of ours.
    pub fn is_replaceable(&self) -> bool {
        let octets = self.password.len();
        let fits = (1..=PASSWORD_OCTETS_MAX).contains(&octets) && !self.password.contains(&0);
        let cost = password_scheme::parse(self.hash.scheme(), self.hash.value())
            .ok()
            .and_then(|verification| verification.cost);
        match cost {
            Some(Cost::Bcrypt(_)) => fits && octets < BCRYPT_OCTETS,
            Some(cost) => fits && cost.is_high(),
            None => false,
        }
    }
}

/// Into memory that is not moved while it grows, so that overwriting it leaves no copy.
fn decode_hex(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |octet: &u8| char::from(*octet).to_digit(16);
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let mut octets = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        octets.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
    }
    Some(octets)
}

impl fmt::Debug for VerifiedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedPassword")
            .field("sasl_name", &self.sasl_name)
            .finish_non_exhaustive()
    }
}

/// What was read of a pipe, cut into messages. Octets are overwritten when they have been handled.
pub struct Messages {
    buffer: Zeroizing<Vec<u8>>,
    filled: usize,
    /// In a message that is too long, whose end has not come yet.
    is_skipping: bool,
}

impl Default for Messages {
    /// Nothing read yet.
    fn default() -> Self {
        Self {
            buffer: Zeroizing::new(vec![0; READ_OCTETS_MAX]),
            filled: 0,
            is_skipping: false,
        }
    }
}

impl Messages {
    /// Where to read to. Never empty.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes so many octets that were read to the room, and passes on each message that is whole; none for one that is
    /// too long.
    pub fn read(&mut self, octets: usize, mut on_message: impl FnMut(Option<&[u8]>)) {
        self.filled += octets;
        let mut rest = &self.buffer[..self.filled];
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let message = &rest[..end];
            let is_too_long = std::mem::take(&mut self.is_skipping) || end >= MESSAGE_OCTETS_MAX;
            on_message((!is_too_long).then_some(message));
            rest = &rest[end + 1..];
        }
        let mut left = rest.len();
        if self.is_skipping || left >= MESSAGE_OCTETS_MAX {
            self.is_skipping = true;
            left = 0;
        }
        let begin = self.filled - left;
        self.buffer.copy_within(begin..self.filled, 0);
        self.buffer[left..self.filled].fill(0);
        self.filled = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00000000-0000-0000-0000-000000000001.7";
    /// `doveadm pw -s BLF-CRYPT -r 5 -p secret`
    const BCRYPT: &str = "{BLF-CRYPT}$2y$05$NR56CTKLkw03qn7psTEG7.7bQ0yf2O..Igo/AX1aqg5WKSfw4xRm.";
    const ARGON2: &str = "{ARGON2ID}$argon2id$v=19$m=65536,t=1,p=4$MDEyMzQ1Njc4OWFiY2RlZg$ETc5SJ2NTukpU8YWHI18X4NX3B86S7Qwi5/DBwH0ki8";
    const OURS: &str = "{SHA512-CRYPT}$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1";

    fn verified(hash: &str, password: &[u8]) -> VerifiedPassword {
        VerifiedPassword {
            sasl_name: SaslName::parse(NAME).unwrap(),
            hash: PasswordHash::parse(hash).unwrap(),
            password: Zeroizing::new(password.to_vec()),
        }
    }

    #[test]
    fn a_message_is_parsed_whatever_octets_the_password_has() {
        let parsed = VerifiedPassword::parse(format!("{NAME} {BCRYPT} 70c3a4ff20").as_bytes()).unwrap();
        assert_eq!(parsed.sasl_name.to_string(), NAME);
        assert_eq!(parsed.hash.as_str(), BCRYPT);
        assert_eq!(*parsed.password, b"p\xc3\xa4\xff ");
        let shown = format!("{parsed:?}");
        assert!(!shown.contains("2y") && !shown.contains("112"), "{shown}");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in [
            String::new(),
            NAME.to_owned(),
            format!("{NAME} {BCRYPT}"),
            format!("{NAME} {BCRYPT} 7"),
            format!("{NAME} {BCRYPT} zz"),
            format!("{NAME} {BCRYPT} 70 70"),
            format!("{NAME}  {BCRYPT} 70"),
            format!("scout@example.com {BCRYPT} 70"),
            format!("{NAME} plain 70"),
        ] {
            assert!(VerifiedPassword::parse(message.as_bytes()).is_err(), "{message}");
        }
        assert!(VerifiedPassword::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn only_costly_hashes_are_replaced_and_only_where_no_password_stops_working() {
        let fits = |hash, octets| verified(hash, &vec![b'x'; octets]).is_replaceable();
        for (hash, longest) in [(BCRYPT, 71), (ARGON2, 511)] {
            assert!(fits(hash, 1) && fits(hash, longest), "{hash}");
            assert!(!fits(hash, 0) && !fits(hash, longest + 1), "{hash}");
        }
        let crypt = BCRYPT.replace("BLF-CRYPT", "CRYPT");
        assert!(verified(&crypt, b"s3cret!x").is_replaceable());
        assert!(!verified(&crypt, &[b'x'; 72]).is_replaceable());
        assert!(verified(ARGON2, b"caf\xe9").is_replaceable());
        assert!(!verified(ARGON2, b"a\0b").is_replaceable());
        for hash in [
            OURS,
            "{CRYPT}!",
            "{BLF-CRYPT}!$2y$05$x",
            "{PLAIN}secret",
            "{NONE}x",
        ] {
            assert!(!verified(hash, b"secret").is_replaceable(), "{hash}");
        }
    }

    /// What comes out when this is read in pieces of so many octets.
    fn messages(stream: &[u8], piece: usize) -> Vec<Option<String>> {
        let mut found = Vec::new();
        let mut messages = Messages::default();
        for piece in stream.chunks(piece) {
            messages.room()[..piece.len()].copy_from_slice(piece);
            messages.read(piece.len(), |message| {
                found.push(message.map(|message| String::from_utf8(message.to_vec()).unwrap()));
            });
            let filled = messages.filled;
            assert!(!messages.room().is_empty());
            assert!(messages.buffer[filled..].iter().all(|octet| *octet == 0));
        }
        found
    }

    #[test]
    fn a_stream_is_cut_into_messages_however_it_arrives() {
        let longest = "l".repeat(MESSAGE_OCTETS_MAX - 1);
        let too_long = "t".repeat(3 * MESSAGE_OCTETS_MAX);
        let just_too_long = "j".repeat(MESSAGE_OCTETS_MAX);
        let stream = format!("one\n\n{longest}\n{too_long}\ntwo\n{just_too_long}\nthree\nhalf");
        let whole = |text: &str| Some(text.to_owned());
        let expected = [
            whole("one"),
            whole(""),
            whole(&longest),
            None,
            whole("two"),
            None,
            whole("three"),
        ];
        for piece in [1, 2, 7, 100] {
            assert_eq!(messages(stream.as_bytes(), piece), expected, "pieces of {piece}");
        }
    }
}
