//! What stands behind the scheme of a password hash (doveadm-pw(1), crypt(5)): whether Dovecot could ever find it equal to a
//! password, and what verifying costs.

use std::ops::RangeInclusive;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{
        GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{PAD, STANDARD_NO_PAD},
    },
};

use super::Refused;

/// Base64 as Dovecot reads it: with its padding, whatever the bits are that the last character has too many.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD_ANY_BITS);
const PAD_ANY_BITS: GeneralPurposeConfig = PAD.with_decode_allow_trailing_bits(true);
/// Rounds of SHA-crypt that are verified in a few milliseconds. Dovecot's Lua script draws the line at the same number.
pub const CHEAP_ROUNDS_MAX: u32 = 10_000;
/// SHA-crypt's rounds where none are written (crypt(5)).
const DEFAULT_ROUNDS: u32 = 5_000;
/// SHA-crypt's rounds, where they are written (crypt(5)).
const ROUNDS: RangeInclusive<u32> = 1_000..=999_999_999;
/// Iterations of SCRAM, as Dovecot takes them.
const SCRAM_ITERATIONS: RangeInclusive<u32> = 4_096..=0x7fff_ffff;
/// How the value is written may follow the scheme.
const ENCODINGS: [&str; 3] = [".B64", ".BASE64", ".HEX"];

/// A kind of values that are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A digest of so many octets; salted ones have the salt behind it.
    Digest {
        octets: usize,
        is_salted: bool,
    },
    /// What crypt(3) returns, in any of its forms.
    Crypt,
    /// What crypt(3) returns, in this form only.
    Bcrypt,
    Md5Crypt,
    /// MD5-CRYPT, or a digest.
    Md5,
    Argon2,
    Pbkdf2,
    /// Iterations, salt and two keys of so many octets.
    Scram {
        octets: usize,
    },
}

const fn digest(octets: usize) -> Kind {
    Kind::Digest {
        octets,
        is_salted: false,
    }
}

const fn salted(octets: usize) -> Kind {
    Kind::Digest {
        octets,
        is_salted: true,
    }
}

/// Schemes that hide the password, and whether Dovecot 2.4 takes them only with `auth_allow_weak_schemes = yes`.
const SCHEMES: [(&str, Kind, bool); 26] = [
    ("ARGON2I", Kind::Argon2, false),
    ("ARGON2ID", Kind::Argon2, false),
    ("BLF-CRYPT", Kind::Bcrypt, false),
    ("CRAM-MD5", digest(32), false),
    ("CRYPT", Kind::Crypt, false),
    ("DES-CRYPT", Kind::Crypt, true),
    ("DIGEST-MD5", digest(16), false),
    ("HMAC-MD5", digest(32), false),
    ("LDAP-MD5", digest(16), true),
    ("MD5", Kind::Md5, true),
    ("MD5-CRYPT", Kind::Md5Crypt, true),
    ("PBKDF2", Kind::Pbkdf2, false),
    ("PLAIN-MD4", digest(16), true),
    ("PLAIN-MD5", digest(16), true),
    ("SCRAM-SHA-1", Kind::Scram { octets: 20 }, false),
    ("SCRAM-SHA-256", Kind::Scram { octets: 32 }, false),
    ("SHA", digest(20), false),
    ("SHA1", digest(20), false),
    ("SHA256", digest(32), false),
    ("SHA256-CRYPT", Kind::Crypt, false),
    ("SHA512", digest(64), false),
    ("SHA512-CRYPT", Kind::Crypt, false),
    ("SMD5", salted(16), true),
    ("SSHA", salted(20), false),
    ("SSHA256", salted(32), false),
    ("SSHA512", salted(64), false),
];
/// Schemes that are the password itself.
const CLEAR_SCHEMES: [&str; 4] = ["CLEAR", "CLEARTEXT", "PLAIN", "PLAIN-TRUNC"];

/// What a hash is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verification {
    /// What verifying a password costs; none: the login is locked (passwd(1), `-l`), and no password is right.
    pub cost: Option<Cost>,
    /// Whether Dovecot 2.4 takes the scheme only with `auth_allow_weak_schemes = yes`.
    pub is_weak: bool,
}

/// What verifying a password costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// Next to nothing.
    Digest,
    /// bcrypt, the base-2 logarithm of its rounds.
    Bcrypt(u32),
    /// Argon2 (RFC 9106).
    Argon2 {
        /// Its memory.
        memory_kib: u32,
        /// How often it passes over that.
        passes: u32,
    },
    /// SHA256-CRYPT and SHA512-CRYPT, and the two of crypt(5) that are made likewise, in rounds.
    Rounds(u32),
    /// PBKDF2 and SCRAM, in iterations.
    Iterations(u32),
    /// yescrypt and scrypt in crypt(5).
    Memory {
        /// Their memory.
        memory_kib: u32,
    },
}

/// The most that hashes may cost which are imported. Each try at a login costs as much, whoever makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CostLimits {
    /// bcrypt's cost, the base-2 logarithm of its rounds.
    pub bcrypt_cost: u32,
    /// Memory of Argon2, yescrypt and scrypt.
    pub memory_mib: u32,
    /// Passes of Argon2 over its memory.
    pub argon2_passes: u32,
    /// Rounds of SHA-crypt.
    pub sha_crypt_rounds: u32,
    /// Iterations of PBKDF2 and SCRAM.
    pub pbkdf2_iterations: u32,
}

/// How many hashes of an import are worth a warning.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HashCounts {
    /// Dovecot 2.4 takes them only with `auth_allow_weak_schemes = yes`.
    pub weak: u64,
    /// They are locks: no password is right.
    pub locked: u64,
    /// Verifying takes so long that Dovecot does it in processes of its own.
    pub costly: u64,
}

impl HashCounts {
    /// Counts one hash.
    pub fn add(&mut self, hash: &Verification) {
        self.weak += u64::from(hash.is_weak);
        self.locked += u64::from(hash.cost.is_none());
        self.costly += u64::from(hash.cost.is_some_and(Cost::is_high));
    }

    /// A sentence for each number that is not 0.
    pub fn warnings(&self) -> Vec<String> {
        let Self { weak, locked, costly } = self;
        [
            (
                weak,
                "have a weak hash, which Dovecot 2.4 takes with auth_allow_weak_schemes = yes only",
            ),
            (
                locked,
                "are locked (\"!\" or \"*\" in place of a hash): they get mail, and no login is possible until rotate-password",
            ),
            (
                costly,
                "have a hash that takes long to verify: Dovecot does that in two processes, and tries at these logins wait for each other",
            ),
        ]
        .into_iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

impl Cost {
    /// Whether verifying takes so long that Dovecot does it in processes of its own.
    pub fn is_high(self) -> bool {
        match self {
            Self::Digest => false,
            Self::Rounds(rounds) => rounds > CHEAP_ROUNDS_MAX,
            _ => true,
        }
    }
}

impl CostLimits {
    /// Fails for what costs more, and names the key of the configuration.
    pub fn check(&self, cost: Cost) -> Result<(), Refused> {
        let at_most = |what: &str, value: u32, limit: u32, key: &str| {
            if value <= limit {
                Ok(())
            } else {
                Err(Refused(format!(
                    "password: {what} {value} is above the limit {limit} (import.{key})"
                )))
            }
        };
        let memory = |memory_kib: u32| {
            let mib = memory_kib.div_ceil(1024);
            at_most("memory in MiB", mib, self.memory_mib, "argon2_memory_max_mib")
        };
        match cost {
            Cost::Digest => Ok(()),
            Cost::Bcrypt(cost) => at_most("bcrypt's cost", cost, self.bcrypt_cost, "bcrypt_cost_max"),
            Cost::Argon2 { memory_kib, passes } => memory(memory_kib).and_then(|()| {
                at_most(
                    "Argon2's number of passes",
                    passes,
                    self.argon2_passes,
                    "argon2_passes_max",
                )
            }),
            Cost::Rounds(rounds) => {
                let limit = self.sha_crypt_rounds;
                at_most("the number of rounds", rounds, limit, "sha_crypt_rounds_max")
            }
            Cost::Iterations(iterations) => {
                let limit = self.pbkdf2_iterations;
                at_most(
                    "the number of iterations",
                    iterations,
                    limit,
                    "pbkdf2_iterations_max",
                )
            }
            Cost::Memory { memory_kib } => memory(memory_kib),
        }
    }
}

/// Parses what stands behind a scheme. Fails for a scheme that Dovecot does not know, for a password in clear, and for a value
/// that no password can have in this scheme.
pub fn parse(scheme: &str, value: &str) -> Result<Verification, Refused> {
    let name = scheme.to_ascii_uppercase();
    let (bare, encoding) = ENCODINGS
        .iter()
        .find_map(|encoding| Some((name.strip_suffix(encoding)?, Some(*encoding))))
        .unwrap_or((&name, None));
    if CLEAR_SCHEMES.contains(&bare) {
        return Err(Refused::because(
            "password: must be hashed; `doveadm pw` makes a hash of it",
        ));
    }
    let Some((_, kind, is_weak)) = SCHEMES.iter().find(|(known, ..)| *known == bare) else {
        return Err(Refused::because(
            "password: must have a scheme that Dovecot knows (doveadm pw -l)",
        ));
    };
    let text = decode_text(value, encoding);
    let is_lock = text.as_deref().is_some_and(|text| kind.is_lock(text));
    let cost = match kind {
        Kind::Digest { .. } => kind.digest(value, encoding).then_some(Cost::Digest),
        _ => text.and_then(|text| kind.cost(&text)),
    };
    match cost {
        None if !is_lock => Err(Refused(format!(
            "password: no password has this {name} value: {}",
            kind.rule()
        ))),
        cost => Ok(Verification {
            cost,
            is_weak: *is_weak,
        }),
    }
}

impl Kind {
    /// What a value of the kind is.
    fn rule(self) -> String {
        match self {
            Self::Digest { octets, is_salted: false } => {
                format!("it must be {octets} octets in base64 with its padding, or in hexadecimal digits")
            }
            Self::Digest { octets, is_salted: true } => {
                format!("it must be {octets} octets and a salt, in base64 with its padding")
            }
            Self::Crypt => "it must be a hash as crypt(5) has it, whole: of $2b$ 60 characters, behind the salt of $5$ 43, of $6$ 86, of $1$ 22, of $y$ 43"
                .to_owned(),
            Self::Bcrypt => "it must be $2y$ (or $2a$, $2b$), two digits from 04 to 31, $, and 53 characters".to_owned(),
            Self::Md5Crypt => "it must be $1$, a salt of up to 8 characters, $, and 22 characters".to_owned(),
            Self::Md5 => "it must be $1$, a salt of up to 8 characters, $, and 22 characters; or 16 octets in base64 or hexadecimal digits".to_owned(),
            Self::Argon2 => "it must be $argon2id$v=19$m=KIB,t=PASSES,p=LANES$salt$hash (or $argon2i$), with a salt of 8 octets and a hash of 16, or more, in base64 without padding"
                .to_owned(),
            Self::Pbkdf2 => "it must be $1$salt$iterations$, and 40 hexadecimal digits".to_owned(),
            Self::Scram { octets } => {
                format!("it must be iterations (4096 or more), salt, and two keys of {octets} octets, in base64, with commas between them")
            }
        }
    }

    fn digest(self, value: &str, encoding: Option<&str>) -> bool {
        let Self::Digest { octets, is_salted } = self else {
            return false;
        };
        let is_hex = match encoding {
            Some(encoding) => encoding == ".HEX",
            // As Dovecot guesses, which it does not for salted ones.
            None => !is_salted && value.len() == octets * 2,
        };
        let decoded = if is_hex {
            decode_hex(value)
        } else {
            BASE64.decode(value).ok()
        };
        decoded.is_some_and(|found| {
            if is_salted {
                found.len() > octets
            } else {
                found.len() == octets
            }
        })
    }

    /// Whether a value is a lock (passwd(1), `-l`).
    fn is_lock(self, text: &str) -> bool {
        let is_crypt = matches!(self, Self::Crypt | Self::Bcrypt | Self::Md5Crypt | Self::Md5);
        is_crypt && text.starts_with(['!', '*'])
    }

    /// The cost of a value that is text; `None` for one that cannot be of the kind.
    fn cost(self, text: &str) -> Option<Cost> {
        match self {
            Self::Digest { .. } => None,
            Self::Crypt => crypt(text),
            Self::Bcrypt => bcrypt(text),
            Self::Md5Crypt => md5_crypt(text),
            Self::Md5 => md5_crypt(text).or_else(|| digest(16).digest(text, None).then_some(Cost::Digest)),
            Self::Argon2 => argon2(text),
            Self::Pbkdf2 => pbkdf2(text),
            Self::Scram { octets } => scram(text, octets),
        }
    }
}

fn decode_text(value: &str, encoding: Option<&str>) -> Option<String> {
    match encoding {
        None => Some(value.to_owned()),
        Some(".HEX") => String::from_utf8(decode_hex(value)?).ok(),
        Some(_) => String::from_utf8(BASE64.decode(value).ok()?).ok(),
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok())
        .collect()
}

/// Whether this is so many characters of the alphabet of crypt(5).
fn is_crypt64(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| crypt64(byte).is_some())
}

/// The value of a character in crypt(5): `./0-9A-Za-z`.
fn crypt64(byte: u8) -> Option<u32> {
    Some(match byte {
        b'.' => 0,
        b'/' => 1,
        b'0'..=b'9' => u32::from(byte - b'0') + 2,
        b'A'..=b'Z' => u32::from(byte - b'A') + 12,
        b'a'..=b'z' => u32::from(byte - b'a') + 38,
        _ => return None,
    })
}

/// A number without leading zeros, in this range.
fn number(text: &str, range: &RangeInclusive<u32>) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|number| plain && range.contains(number))
}

/// Any of the forms of crypt(5) that Debian's library verifies.
fn crypt(text: &str) -> Option<Cost> {
    if let Some(rest) = text.strip_prefix('_') {
        return is_crypt64(rest, 19).then_some(Cost::Digest);
    }
    let Some(rest) = text.strip_prefix('$') else {
        // DES: two characters of salt and eleven.
        return is_crypt64(text, 13).then_some(Cost::Digest);
    };
    match rest.split(['$', ',']).next()? {
        "1" => md5_crypt(text),
        "2a" | "2b" | "2x" | "2y" => bcrypt(text),
        "5" => sha_crypt(rest.strip_prefix("5$")?, 43),
        "6" => sha_crypt(rest.strip_prefix("6$")?, 86),
        "7" => scrypt(rest.strip_prefix("7$")?),
        "y" => yescrypt(rest.strip_prefix("y$")?),
        "gy" => yescrypt(rest.strip_prefix("gy$")?),
        "sha1" => {
            let [rounds, salt, hash] = parts(rest.strip_prefix("sha1$")?)?;
            let fits = (1..=64).contains(&salt.len()) && is_crypt64(hash, 28);
            number(rounds, &(1..=u32::MAX)).filter(|_| fits).map(Cost::Rounds)
        }
        "md5" => {
            let (settings, hash) = text.rsplit_once('$')?;
            let rounds = settings
                .strip_prefix("$md5,rounds=")
                .map_or(Some("0"), |rest| rest.split('$').next());
            let rounds = rounds?.parse::<u32>().ok()?;
            is_crypt64(hash, 22).then_some(Cost::Rounds(rounds.saturating_add(4096)))
        }
        _ => None,
    }
}

fn parts<const COUNT: usize>(text: &str) -> Option<[&str; COUNT]> {
    text.split('$').collect::<Vec<_>>().try_into().ok()
}

fn md5_crypt(text: &str) -> Option<Cost> {
    let [salt, hash] = parts(text.strip_prefix("$1$")?)?;
    (salt.len() <= 8 && is_crypt64(hash, 22)).then_some(Cost::Digest)
}

fn bcrypt(text: &str) -> Option<Cost> {
    let [kind, cost, rest] = parts(text.strip_prefix('$')?)?;
    let is_known = matches!(kind, "2a" | "2b" | "2x" | "2y") && cost.len() == 2 && is_crypt64(rest, 53);
    let cost = cost.parse().ok().filter(|cost| (4..=31).contains(cost))?;
    is_known.then_some(Cost::Bcrypt(cost))
}

fn sha_crypt(rest: &str, length: usize) -> Option<Cost> {
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (rounds, rest) = rest.split_once('$')?;
            (number(rounds, &ROUNDS)?, rest)
        }
        None => (DEFAULT_ROUNDS, rest),
    };
    let [salt, hash] = parts(rest)?;
    (salt.len() <= 16 && is_crypt64(hash, length)).then_some(Cost::Rounds(rounds))
}

/// One character for the base-2 logarithm of N, five for r, five for p; salt; hash.
fn scrypt(rest: &str) -> Option<Cost> {
    let (settings, hash) = rest.split_once('$')?;
    let log_n = crypt64(*settings.as_bytes().first()?)?;
    let r = settings
        .get(1..6)?
        .bytes()
        .enumerate()
        .try_fold(0, |sum, (place, byte)| {
            Some(sum | crypt64(byte)?.checked_shl(u32::try_from(place * 6).ok()?)?)
        })?;
    let is_whole = settings.len() >= 11 && is_crypt64(hash, 43);
    is_whole.then_some(Cost::Memory {
        memory_kib: memory_kib(log_n, r),
    })
}

/// `j9T$salt$hash`: flavour, base-2 logarithm of N, r, each in one character for what is not out of the ordinary.
fn yescrypt(rest: &str) -> Option<Cost> {
    let [settings, salt, hash] = parts(rest)?;
    let [flavour, log_n, r, more @ ..] = settings.as_bytes() else {
        return None;
    };
    let fits = crypt64(*flavour).is_some()
        && is_crypt64(salt, salt.len())
        && salt.len() <= 86
        && is_crypt64(hash, 43)
        && more.iter().all(|byte| crypt64(*byte).is_some());
    let memory_kib = memory_kib(crypt64(*log_n)? + 1, crypt64(*r)? + 1);
    fits.then_some(Cost::Memory { memory_kib })
}

/// 128 octets, times N, times r (RFC 7914, 2).
fn memory_kib(log_n: u32, r: u32) -> u32 {
    let octets = u64::from(r).saturating_mul(128) << log_n.min(24);
    let octets = octets.saturating_mul(1 << log_n.saturating_sub(24).min(20));
    u32::try_from(octets.div_ceil(1024)).unwrap_or(u32::MAX)
}

fn argon2(text: &str) -> Option<Cost> {
    let rest = text
        .strip_prefix("$argon2id$")
        .or_else(|| text.strip_prefix("$argon2i$"))?;
    let [version, settings, salt, hash] = parts(rest)?;
    let settings: [&str; 3] = settings.split(',').collect::<Vec<_>>().try_into().ok()?;
    let any = 1..=u32::MAX;
    let value = |index: usize, name: &str| number(settings[index].strip_prefix(name)?, &any);
    let (memory_kib, passes, lanes) = (value(0, "m=")?, value(1, "t=")?, value(2, "p=")?);
    let octets = |text: &str| STANDARD_NO_PAD.decode(text).map_or(0, |octets| octets.len());
    let fits = version == "v=19"
        && lanes < 1 << 24
        && memory_kib / 8 >= lanes
        && octets(salt) >= 8
        && octets(hash) >= 16;
    fits.then_some(Cost::Argon2 { memory_kib, passes })
}

fn pbkdf2(text: &str) -> Option<Cost> {
    let [salt, iterations, hash] = parts(text.strip_prefix("$1$")?)?;
    let fits = !salt.is_empty() && hash.len() == 40 && decode_hex(hash).is_some();
    let iterations = number(iterations, &(1..=u32::MAX))?;
    fits.then_some(Cost::Iterations(iterations))
}

fn scram(text: &str, octets: usize) -> Option<Cost> {
    let [iterations, salt, stored, server] = text.split(',').collect::<Vec<_>>().try_into().ok()?;
    let is_key = |text| BASE64.decode(text).is_ok_and(|key| key.len() == octets);
    let fits = BASE64.decode(salt).is_ok() && is_key(stored) && is_key(server);
    let iterations = number(iterations, &SCRAM_ITERATIONS)?;
    fits.then_some(Cost::Iterations(iterations))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form, of the password "secret", and its cost.
    const HASHES: [(&str, &str, Cost); 42] = [
        ("MD5", "$1$T4iYpbzS$yfEQY06r8gaprgoxLN03X1", Cost::Digest),
        ("MD5", "5ebe2294ecd0e0f08eab7690d2a6ee69", Cost::Digest),
        ("MD5", "Xr4ilOzQ4PCOq3aQ0qbuaQ==", Cost::Digest),
        ("MD5-CRYPT", "$1$1NOtGSUD$XW4cTntSPn9pONkjKxVgH1", Cost::Digest),
        ("PLAIN-MD5", "5EBE2294ECD0E0F08EAB7690D2A6EE69", Cost::Digest),
        ("PLAIN-MD5", "Xr4ilOzQ4PCOq3aQ0qbuaQ==", Cost::Digest),
        ("PLAIN-MD5.B64", "Xr4ilOzQ4PCOq3aQ0qbuaQ==", Cost::Digest),
        ("LDAP-MD5", "Xr4ilOzQ4PCOq3aQ0qbuaQ==", Cost::Digest),
        ("LDAP-MD5.HEX", "5ebe2294ecd0e0f08eab7690d2a6ee69", Cost::Digest),
        ("SMD5", "WueMNTx2n0UZ4YCUsuoo3fMkMP4=", Cost::Digest),
        ("SHA", "5en6G6MezRroT3XKqkdPOmY/BfQ=", Cost::Digest),
        (
            "sha1.hex",
            "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4",
            Cost::Digest,
        ),
        ("SHA", "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4", Cost::Digest),
        (
            "SHA256",
            "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
            Cost::Digest,
        ),
        (
            "SHA512.base64",
            "vSsar3708Jvp9Szi2NWZZ02Bqp1qRCFpbcTZPdBhnWgs5WtNZKnvCXdhztmeD2cmW192CF5bDufKRpayrW/isg==",
            Cost::Digest,
        ),
        ("SSHA", "RGpkeqo0noabQWQWeDIjcnsbax8owzci", Cost::Digest),
        (
            "SSHA.HEX",
            "a6768bbbdbd04aacfff67b059150e78c69fed9f5a7ce6a72",
            Cost::Digest,
        ),
        (
            "SSHA256",
            "zI5sqD/xm9DsB7HD2mmsmkjtGlb+TQgFtTJIvhChtnix2xF8",
            Cost::Digest,
        ),
        (
            "SSHA512",
            "VjCRxixHY5c9ztb9e0wnE94net+uPaVpgkHmRQisIOTCQhpXcO5bd9X39lGcIzPPqW0HlYL26pfVcGd2eO4+YMIKs5Q=",
            Cost::Digest,
        ),
        (
            "CRAM-MD5",
            "cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56",
            Cost::Digest,
        ),
        (
            "CRAM-MD5.B64",
            "zTun3qrW5cojRIukLjeXR6ng9/H7wAyKgbuqw5VzG1Y=",
            Cost::Digest,
        ),
        (
            "HMAC-MD5",
            "cd3ba7deaad6e5ca23448ba42e379747a9e0f7f1fbc00c8a81bbaac395731b56",
            Cost::Digest,
        ),
        ("PLAIN-MD4", "67d3dafef63ff00603aeef3769cfbf0d", Cost::Digest),
        ("DES-CRYPT", "I.SK/z6cihzYc", Cost::Digest),
        ("CRYPT", "I.SK/z6cihzYc", Cost::Digest),
        ("CRYPT", "_J9..abcd/H6HLCcf7nw", Cost::Digest),
        (
            "CRYPT",
            "$2y$05$NR56CTKLkw03qn7psTEG7.7bQ0yf2O..Igo/AX1aqg5WKSfw4xRm.",
            Cost::Bcrypt(5),
        ),
        (
            "BLF-CRYPT",
            "$2x$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            Cost::Bcrypt(5),
        ),
        (
            "SHA256-CRYPT",
            "$5$9AgnwlT2TmfAnosc$B0DMJld6fZyaceVF0ruUkvJfBaw3bsEmw50UYaUv0/9",
            Cost::Rounds(5000),
        ),
        (
            "DES-CRYPT",
            "$5$9AgnwlT2TmfAnosc$B0DMJld6fZyaceVF0ruUkvJfBaw3bsEmw50UYaUv0/9",
            Cost::Rounds(5000),
        ),
        (
            "SHA512-CRYPT",
            "$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1",
            Cost::Rounds(1000),
        ),
        (
            "SHA512-CRYPT.B64",
            "JDYkeTdnR2p6bzVLdWVwQzhmTiRzQWVncGY5OUR1L1Z2VEJHLm1CRUlHME1jbWxrTGN3NDJ3VjlRc1pmTEpIYUl4Z0FOanBneEtCMWNiY3RaZlU5blkxZkFJYjYuLlNvYkVRb3Y0WldhLg==",
            Cost::Rounds(5000),
        ),
        (
            "CRYPT",
            "$y$j9T$abcdefghijklmnop$3dL1LkYnZM.OVXuVdnnaKVDlLYT92dRwOzDZ5XiVCe.",
            Cost::Memory { memory_kib: 16_384 },
        ),
        (
            "CRYPT",
            "$gy$j9T$abcdefghijklmnop$mixfBgwqRYkgJa0E4eWmDF3HC/BbYXm8ztA717oxvqD",
            Cost::Memory { memory_kib: 16_384 },
        ),
        (
            "CRYPT",
            "$7$CU..../....abcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6",
            Cost::Memory { memory_kib: 65_536 },
        ),
        (
            "CRYPT",
            "$sha1$1000$abcdefgh$ji8ESnkwjcTjo4hThodnLYyi.3yG",
            Cost::Rounds(1000),
        ),
        (
            "CRYPT",
            "$md5,rounds=1000$abcdefgh$$oHAhBRD1/YRiW7/YQB1d60",
            Cost::Rounds(5096),
        ),
        (
            "PBKDF2",
            "$1$taN3cMADGyTrwrzz$5000$359d1ca86f39dad46e710d494b4a0a9043589b35",
            Cost::Iterations(5000),
        ),
        (
            "PBKDF2.HEX",
            "243124356532494c6a5459376d364a5867573524353030302462393564666236646235376633356538303431363833383232353466366162396234353865336433",
            Cost::Iterations(5000),
        ),
        (
            "SCRAM-SHA-1",
            "4096,ZUsror8hrOhK6KltDou4gQ==,zgCnMLbeBsHgI/vHMwuVU8PgLJc=,3hHyvlghjGtUhGQ6hYDSEcaf2xs=",
            Cost::Iterations(4096),
        ),
        (
            "SCRAM-SHA-256",
            "4096,elnoS/s/tEM2dg+BMRCT5Q==,omlznRrtO9flUtAsOC7nZNkmIAlvqv/xNGPkalfqnsM=,Zgsbq7PrVQVhZBdUFwLbkI9Z0s5gbvdcVKgZG2X2ZYQ=",
            Cost::Iterations(4096),
        ),
        // Of "s3cret!x"; Dovecot takes it under either name.
        (
            "ARGON2I",
            "$argon2id$v=19$m=65536,t=1,p=4$MDEyMzQ1Njc4OWFiY2RlZg$ETc5SJ2NTukpU8YWHI18X4NX3B86S7Qwi5/DBwH0ki8",
            Cost::Argon2 {
                memory_kib: 65_536,
                passes: 1,
            },
        ),
    ];

    #[test]
    fn each_form_of_each_scheme_is_taken_with_its_cost() {
        for (scheme, value, cost) in HASHES {
            let parsed = parse(scheme, value);
            assert_eq!(parsed.map(|hash| hash.cost), Ok(Some(cost)), "{scheme} {value}");
        }
    }

    #[test]
    fn a_value_that_lost_or_gained_a_character_is_refused() {
        for (scheme, value, _) in HASHES {
            // Salts have no fixed length, and base64 none that tells octets apart.
            let is_open = scheme.starts_with("SSHA") || scheme == "SMD5" || scheme.starts_with("ARGON2");
            let shorter = &value[..value.len() - 1];
            if !is_open {
                assert!(parse(scheme, shorter).is_err(), "{scheme} {shorter}");
            }
            for other in [format!("{value}x"), format!("x{value}"), value.replace('$', "")] {
                let is_possible = scheme.starts_with("ARGON2") && other.ends_with('x');
                if other != value && !is_possible {
                    let rule = parse(scheme, &other).expect_err(&other).0;
                    assert!(rule.starts_with("password: no password has this"), "{rule}");
                }
            }
        }
    }

    #[test]
    fn values_that_no_password_has_are_refused_with_the_rule() {
        for (scheme, value, rule) in [
            ("SHA512-CRYPT", "notahash", "of $6$ 86"),
            ("MD5-CRYPT", "7b0b9823a40c01ef5cef8e3f0c0a4d11", "$1$, a salt"),
            (
                "MD5-CRYPT",
                "$2y$05$AhbF7gZQUl06Rt8loSAmge.MsGZQIE30G8/DWTXuMa/hdzlRw6fQ.",
                "$1$, a salt",
            ),
            (
                "SSHA512",
                "WrqalleqIVIaxz9CKuOUKvNGM45ooMr",
                "64 octets and a salt",
            ),
            ("SSHA", "5en6G6MezRroT3XKqkdPOmY/BfQ=", "20 octets and a salt"),
            (
                "SHA",
                "5en6G6MezRroT3XKqkdPOmY/BfQ",
                "20 octets in base64 with its padding",
            ),
            (
                "SHA512-CRYPT",
                "$6$c93y1N4ePqZgpQGP$B8tar/5lKzTsnWcBl0dOESlbmj",
                "of $6$ 86",
            ),
            (
                "BLF-CRYPT",
                "$6$rounds=1000$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1",
                "$2y$",
            ),
            (
                "SHA512-CRYPT",
                "$6$rounds=999$LiU9L8qhroxaEySa$4XNFtUplpmpDptlMm/vxIY5zWp0b8vy89cfh1F7p.d0lHqrd9Z4THQhJQQZDGWiwnokMvQHqkY9PxteTsTGyC1",
                "of $6$ 86",
            ),
            (
                "SCRAM-SHA-1",
                "1000,MDEyMzQ1Njc4OWFiY2RlZg==,D7zcNzOrJKfXRBtzEiI2P57E5B4=,ycXRfyBGEUhUUM/rbgUF23PxJeA=",
                "4096 or more",
            ),
            ("PLAIN", "secret", "must be hashed"),
            ("cleartext.b64", "c2VjcmV0", "must be hashed"),
            ("SHA512CRYPT", "$6$x", "doveadm pw -l"),
        ] {
            let refused = parse(scheme, value).expect_err(value).0;
            assert!(refused.contains(rule), "{scheme} {value}: {refused}");
        }
    }

    #[test]
    fn locks_are_taken_and_counted() {
        let mut counts = HashCounts::default();
        for (scheme, value) in [("CRYPT", "!"), ("CRYPT", "*"), ("SHA512-CRYPT", "!$6$abc$def")] {
            let lock = parse(scheme, value).unwrap();
            assert_eq!(lock.cost, None, "{value}");
            counts.add(&lock);
        }
        for (scheme, value, _) in HASHES {
            counts.add(&parse(scheme, value).unwrap());
        }
        let expected = HashCounts {
            weak: 13,
            locked: 3,
            costly: 10,
        };
        assert_eq!(counts, expected);
        let warnings = counts.warnings();
        assert_eq!(warnings.len(), 3);
        assert!(warnings[1].starts_with("3 are locked"), "{warnings:?}");
        assert_eq!(HashCounts::default().warnings(), [""; 0]);
        for (scheme, value) in [("SSHA", "!"), ("PBKDF2", "*"), ("ARGON2ID", "!")] {
            assert!(parse(scheme, value).is_err(), "{scheme}");
        }
    }

    #[test]
    fn costs_are_limited_and_the_refusal_names_the_key() {
        let limits = CostLimits {
            bcrypt_cost: 12,
            memory_mib: 256,
            argon2_passes: 3,
            sha_crypt_rounds: 10_000,
            pbkdf2_iterations: 5_000,
        };
        let argon2 = |memory_kib, passes| Cost::Argon2 { memory_kib, passes };
        for fits in [
            Cost::Digest,
            Cost::Bcrypt(12),
            argon2(262_144, 3),
            Cost::Memory { memory_kib: 262_144 },
            Cost::Rounds(10_000),
            Cost::Iterations(5_000),
        ] {
            assert_eq!(limits.check(fits), Ok(()), "{fits:?}");
        }
        for (cost, key) in [
            (Cost::Bcrypt(13), "bcrypt_cost_max"),
            (argon2(262_145, 1), "argon2_memory_max_mib"),
            (argon2(8, 4), "argon2_passes_max"),
            (Cost::Memory { memory_kib: u32::MAX }, "argon2_memory_max_mib"),
            (Cost::Rounds(10_001), "sha_crypt_rounds_max"),
            (Cost::Iterations(5_001), "pbkdf2_iterations_max"),
        ] {
            let refused = limits.check(cost).expect_err(key).0;
            assert!(refused.contains(&format!("(import.{key})")), "{refused}");
        }
        let refused = limits.check(argon2(1_048_576, 1)).unwrap_err().0;
        let expected = "password: memory in MiB 1024 is above the limit 256 (import.argon2_memory_max_mib)";
        assert_eq!(refused, expected);
    }
}
