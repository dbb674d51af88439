//! A certificate and its key, as files that somebody else may replace at any time.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

/// What the two files hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    certificate_file: PathBuf,
    key_file: PathBuf,
    /// The certificate chain, PEM, the server's own first.
    pub certificate: String,
    /// The key, PEM.
    pub key: Zeroizing<String>,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} must hold {expected} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// The two do not belong together, or the key is of a kind that no server uses.
    #[error("{} must be the key of {}", key_file.display(), certificate_file.display())]
    Strangers {
        /// The certificate.
        certificate_file: PathBuf,
        /// The key.
        key_file: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
}

impl Pair {
    /// Reads both files, whatever is in them.
    pub async fn read(certificate_file: &Path, key_file: &Path) -> Result<Self, PairError> {
        let read = async |path: &Path| {
            tokio::fs::read_to_string(path)
                .await
                .map_err(|source| PairError::Read {
                    path: path.to_owned(),
                    source,
                })
        };
        Ok(Self {
            certificate_file: certificate_file.to_owned(),
            key_file: key_file.to_owned(),
            certificate: read(certificate_file).await?,
            key: Zeroizing::new(read(key_file).await?),
        })
    }

    /// Whether a server can use them: both are what they should be, and they belong together.
    pub fn check(&self) -> Result<(), PairError> {
        let is_not = |path: &Path, expected| {
            let path = path.to_owned();
            move |source| PairError::Pem {
                path,
                expected,
                source,
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .and_then(|chain| {
                if chain.is_empty() {
                    Err(pem::Error::NoItemsFound)
                } else {
                    Ok(chain)
                }
            })
            .map_err(is_not(&self.certificate_file, "a certificate chain"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(is_not(&self.key_file, "a private key without a passphrase"))?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map(drop)
            .map_err(|source| PairError::Strangers {
                certificate_file: self.certificate_file.clone(),
                key_file: self.key_file.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).unwrap();
        let files = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        fs::write(&files.0, made.cert.pem()).unwrap();
        fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[tokio::test]
    async fn a_pair_is_usable_and_strangers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (write(folder.path(), "one"), write(folder.path(), "other"));
        let pair = Pair::read(&one.0, &one.1).await.unwrap();
        pair.check().unwrap();
        assert!(pair == Pair::read(&one.0, &one.1).await.unwrap());
        // As it is while somebody replaces both files one after the other.
        let strangers = Pair::read(&one.0, &other.1).await.unwrap();
        let refused = strangers.check().unwrap_err();
        assert!(matches!(refused, PairError::Strangers { .. }), "{refused}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = write(folder.path(), "one");
        let missing = folder.path().join("missing");
        let told = Pair::read(&certificate, &missing)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(told.ends_with("/missing"), "{told}");
        let half = folder.path().join("half");
        let text = fs::read_to_string(&certificate).unwrap();
        fs::write(&half, &text[..text.len() / 2]).unwrap();
        let told = |pair: Pair| pair.check().unwrap_err().to_string();
        let cut = told(Pair::read(&half, &key).await.unwrap());
        assert!(cut.contains("/half must hold a certificate chain"), "{cut}");
        let swapped = told(Pair::read(&certificate, &certificate).await.unwrap());
        assert!(swapped.contains("one.pem must hold a private key"), "{swapped}");
    }
}
