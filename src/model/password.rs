//! Mailbox passwords: made by inboxd, or chosen by people elsewhere; hashed for Dovecot as SHA512-CRYPT (crypt(5)).

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha_crypt::{Algorithm, Params, PasswordHasher, ShaCrypt};

use super::{Refused, password_scheme::CHEAP_ROUNDS_MAX};
use crate::clock::Entropy;

/// Octets of randomness in a password: 160 bits, which no number of rounds could make safer.
const PASSWORD_OCTETS: usize = 20;
/// SHA512-CRYPT rounds: the minimum that crypt(5) allows. Every login pays them, and 160 random bits cannot be
/// guessed at any price per guess.
const ROUNDS: u32 = 1_000;
/// SHA512-CRYPT rounds for a password that a person chose, which can be guessed: the most that Dovecot's main process
/// verifies itself, where others wait for it (about 2 ms of a core).
const CHOSEN_ROUNDS: u32 = CHEAP_ROUNDS_MAX;
/// Octets of salt: they become 16 characters, the most that crypt(5) takes. More (the crate's own default is 22)
/// is refused by Dovecot.
const SALT_OCTETS: usize = 12;
/// RFC 4648, 6, in lower case: no character that any configuration, shell or URL treats specially.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A mailbox password in clear, secret. Its `Debug` shows nothing of it.
#[derive(Clone, Debug)]
pub struct MailPassword(SecretString);

impl MailPassword {
    /// A new password: 32 characters, 160 random bits.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut random = [0_u8; PASSWORD_OCTETS];
        entropy.fill(&mut random);
        let mut text = String::with_capacity(PASSWORD_OCTETS * 8 / 5);
        for group in random.chunks(5) {
            let bits = group
                .iter()
                .fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
            text.extend(
                (0..8)
                    .rev()
                    .map(|digit| char::from(ALPHABET[(bits >> (digit * 5) & 31) as usize])),
            );
        }
        Self(text.into())
    }

    /// A password that was sealed earlier.
    pub fn from_clear(text: String) -> Self {
        Self(text.into())
    }

    /// The password itself, for the answers that carry it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Hashes it with a fresh salt. Takes about half a millisecond of a core: not for an async thread.
    pub fn hash(&self, entropy: &dyn Entropy) -> Result<PasswordHash, HashError> {
        hash_octets(self.expose().as_bytes(), ROUNDS, entropy)
    }
}

/// Hashes a password that a person chose, in whatever character set, with a fresh salt. Takes about ten times as long as
/// [`MailPassword::hash`].
pub fn hash_chosen(password: &[u8], entropy: &dyn Entropy) -> Result<PasswordHash, HashError> {
    hash_octets(password, CHOSEN_ROUNDS, entropy)
}

fn hash_octets(password: &[u8], rounds: u32, entropy: &dyn Entropy) -> Result<PasswordHash, HashError> {
    let mut salt = [0_u8; SALT_OCTETS];
    entropy.fill(&mut salt);
    let params = Params::new(rounds).map_err(|_| HashError)?;
    let crypt = ShaCrypt::new(Algorithm::Sha512Crypt, params);
    let hash = crypt
        .hash_password_with_salt(password, &salt)
        .map_err(|_| HashError)?;
    PasswordHash::parse(&format!("{{SHA512-CRYPT}}{hash}")).map_err(|_| HashError)
}

/// Hashing failed, which these parameters do not allow.
#[derive(Debug, thiserror::Error)]
#[error("hash a mailbox password")]
pub struct HashError;

/// A password hash as Dovecot reads it: `{SCHEME}value`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Parses `{SCHEME}value`; nothing in it may separate fields or lines of a passwd-file.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let scheme_ends = text.strip_prefix('{').and_then(|rest| rest.find('}'));
        let fits = scheme_ends.is_some_and(|end| end > 0 && text.len() > end + 2)
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refused::because(
                "must be {SCHEME}value without ':' or white space",
            ))
        }
    }

    /// The name between the braces, as it was written.
    pub fn scheme(&self) -> &str {
        let end = self.0.find('}').unwrap_or(self.0.len());
        &self.0[1..end]
    }

    /// What stands behind the scheme.
    pub fn value(&self) -> &str {
        let end = self.0.find('}').unwrap_or(0);
        &self.0[end + 1..]
    }

    /// The text of it, scheme included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, parameters and salt of a hash in the form of crypt(5). As the salt is random, no two hashes share them; as
    /// the digest is not among them, they are no secret. `None` for a scheme of another form.
    pub fn without_digest(&self) -> Option<&str> {
        self.0.rsplit_once('$').map(|(parameters, _digest)| parameters)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Machine, model::password_scheme};

    #[test]
    fn passwords_are_32_characters_of_base32() {
        let password = MailPassword::generate(&Machine);
        assert_eq!(password.expose().len(), 32);
        assert!(password.expose().bytes().all(|b| ALPHABET.contains(&b)));
        assert_ne!(password.expose(), MailPassword::generate(&Machine).expose());
    }

    #[test]
    fn hashes_have_the_form_that_dovecot_takes() {
        let hash = MailPassword::generate(&Machine).hash(&Machine).unwrap();
        let fields: Vec<&str> = hash.as_str().split('$').collect();
        assert_eq!(fields[..3], ["{SHA512-CRYPT}", "6", "rounds=1000"]);
        assert_eq!(fields[3].len(), 16);
        assert_eq!(fields[4].len(), 86);
    }

    #[test]
    fn passwords_of_people_have_more_rounds_and_no_worker_is_needed_for_them() {
        let hash = hash_chosen(b"caf\xe9", &Machine).unwrap();
        assert!(hash.value().starts_with("$6$rounds=10000$"), "{}", hash.value());
        let verification = password_scheme::parse(hash.scheme(), hash.value()).unwrap();
        assert!(!verification.cost.unwrap().is_high());
    }

    #[test]
    fn hashes_differ_without_their_digests() {
        let hash = |text| PasswordHash::parse(text).unwrap();
        let crypt = hash("{SHA512-CRYPT}$6$rounds=1000$salt$digest");
        assert_eq!(crypt.without_digest(), Some("{SHA512-CRYPT}$6$rounds=1000$salt"));
        assert_eq!(hash("{PLAIN}secret").without_digest(), None);
        let password = MailPassword::generate(&Machine);
        let [one, other] = [(); 2].map(|()| password.hash(&Machine).unwrap());
        assert_ne!(one.without_digest(), other.without_digest());
    }

    #[test]
    fn hashes_that_would_break_a_passwd_file_are_refused() {
        for bad in ["", "$6$x", "{}x", "{X}", "{X}a:b", "{X}a b", "{X}a\nb"] {
            assert!(PasswordHash::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_password() {
        let password = MailPassword::generate(&Machine);
        assert!(!format!("{password:?}").contains(password.expose()));
        let hash = password.hash(&Machine).unwrap();
        assert!(!format!("{hash:?}").contains("$6$"));
    }
}
