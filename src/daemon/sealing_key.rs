//! The file of the sealing key: made on first start, mode 0600, never in the database.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    clock::Entropy,
    model::sealing::{SEALING_KEY_OCTETS, SealingKey},
    stack::files::{FileError, write_atomically},
    store::{self, Db},
};

/// What the file begins with, so that a person who finds it knows what it is.
const HEADER: &str = "inboxd-sealing-key-v1:";

/// The sealing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("make the sealing key")]
    Make(#[from] FileError),
    /// Others may read the file.
    #[error("{} may be read by others (mode {mode:o}): chmod 600 it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} is not a sealing key: it must be one line that begins with {HEADER}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// The store's secrets were sealed with another key, or the file has gone.
    #[error("{} is not the key that the store's passwords are sealed with: put the right one back (store.sealing_key_file)", path.display())]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// The store does not tell which key it needs.
    #[error("compare the sealing key with the store")]
    Store(#[from] store::Error),
}

/// The key that belongs to this store: read from its file, or made if the store has never used one.
pub async fn open(path: &Path, db: &Db, entropy: &dyn Entropy) -> Result<SealingKey, Error> {
    let expected = db.read().await?.sealing_key_fingerprint().await?;
    let key = match (read(path)?, &expected) {
        (Some(key), _) => key,
        (None, None) => make(path, entropy)?,
        (None, Some(_)) => {
            return Err(Error::Other {
                path: path.to_owned(),
            });
        }
    };
    match expected {
        Some(expected) if expected != key.fingerprint() => {
            return Err(Error::Other {
                path: path.to_owned(),
            });
        }
        Some(_) => {}
        None => {
            let mut tx = db.write().await?;
            tx.remember_sealing_key(&key.fingerprint()).await?;
            tx.commit().await?;
        }
    }
    Ok(key)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// The key in this file; none if there is no such file.
pub fn read(path: &Path) -> Result<Option<SealingKey>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read the sealing key", path)(error)),
    };
    let mode = fs::metadata(path)
        .map_err(failed("look at the sealing key", path))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    let octets = text
        .trim()
        .strip_prefix(HEADER)
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .map(Zeroizing::new);
    let key = octets.and_then(|octets| <[u8; SEALING_KEY_OCTETS]>::try_from(octets.as_slice()).ok());
    key.map(|octets| Some(SealingKey::from_octets(Zeroizing::new(octets))))
        .ok_or_else(|| Error::Content {
            path: path.to_owned(),
        })
}

/// Makes the file, durable before the key is used: a secret sealed with a key that a power cut takes is lost.
fn make(path: &Path, entropy: &dyn Entropy) -> Result<SealingKey, Error> {
    let key = SealingKey::generate(entropy);
    let text = Zeroizing::new(format!("{HEADER}{}\n", STANDARD.encode(key.octets())));
    write_atomically(path, text.as_bytes(), 0o600)?;
    tracing::info!(file = %path.display(), "made the key that seals passwords; back it up, but not with the database");
    Ok(key)
}
