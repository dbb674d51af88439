//! The key of Dovecot's administration socket: one file, which Dovecot's configuration names and the daemon reads. And a
//! sender address that strangers cannot guess.

use std::{fs, io, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::files::{FileError, write_atomically};
use crate::clock::Entropy;

/// Random octets in a key.
const KEY_OCTETS: usize = 32;
/// Random octets in Postfix's own sender address. Its local part has at most 64 octets (RFC 5321, 4.5.3.1.1).
const SENDER_OCTETS: usize = 16;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read Dovecot's administration key")]
    Read(#[source] FileError),
    /// The file cannot be written.
    #[error("keep Dovecot's administration key")]
    Write(#[source] FileError),
}

/// The key in this file, which is made when it is missing or empty: random, mode 0600, and without a newline, because
/// Dovecot takes the file as it is.
pub fn ensure(path: &Path, entropy: &dyn Entropy) -> Result<SecretString, KeyError> {
    match fs::read_to_string(path) {
        Ok(key) if !key.is_empty() => return Ok(SecretString::from(key)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KeyError::Read(FileError::at(path)(error)));
        }
        _ => {}
    }
    let mut random = Zeroizing::new([0_u8; KEY_OCTETS]);
    entropy.fill(&mut *random);
    let key = BASE64_URL_SAFE_NO_PAD.encode(*random);
    write_atomically(path, key.as_bytes(), 0o600).map_err(KeyError::Write)?;
    Ok(SecretString::from(key))
}

/// Returns a new local part for `double_bounce_sender` of postconf(5). Postfix accepts mail for it from any client, so it
/// must not be guessable. It may change with every start of Postfix: a message in the queue that has the former one as
/// its sender, and cannot be delivered, is dropped.
pub fn double_bounce_sender(entropy: &dyn Entropy) -> String {
    let mut random = [0_u8; SENDER_OCTETS];
    entropy.fill(&mut random);
    let digits: String = random.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("double-bounce-{digits}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::clock::Machine;

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doveadm.key");
        let key = ensure(&path, &Machine).unwrap();
        assert_eq!(
            BASE64_URL_SAFE_NO_PAD.decode(key.expose_secret()).unwrap().len(),
            KEY_OCTETS
        );
        assert_eq!(
            ensure(&path, &Machine).unwrap().expose_secret(),
            key.expose_secret()
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
}
