//! The key of Dovecot's administration socket: one file, which Dovecot's configuration names and the daemon reads.

use std::{fs, io, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::files::{FileError, write_atomically};
use crate::clock::Entropy;

/// Random octets in a key.
const KEY_OCTETS: usize = 32;

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
