//! Whom the mail clients trust, and the rustls configuration made of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// The system's roots, as Debian's `ca-certificates` writes them (update-ca-certificates(8)).
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why there is nobody to trust.
#[derive(Debug, Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read the CA certificates in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("read {} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: pem::Error,
    },
    /// A certificate in a file that the operator named cannot be a trust anchor.
    #[error("trust certificate number {number} in {}", path.display())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// Which of its certificates, counted from 1.
        number: usize,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no CA certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// rustls refused the configuration.
    #[error("configure TLS with the CA certificates in {}", path.display())]
    Configure {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// lettre refused the configuration.
    #[error("configure STARTTLS for {host} with the CA certificates in {}", path.display())]
    Submission {
        /// The file.
        path: PathBuf,
        /// The server's name.
        host: String,
        /// Why.
        #[source]
        source: lettre::transport::smtp::Error,
    },
}

/// Certificate authorities that can vouch for a mail server: those of one file and no others.
#[derive(Debug, Clone)]
pub struct Roots {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
    store: RootCertStore,
}

impl Roots {
    /// Reads the operator's CA file, or without one the system's roots.
    pub async fn load(ca_file: Option<&Path>) -> Result<Self, Error> {
        let path = ca_file.unwrap_or(Path::new(SYSTEM_ROOTS));
        let text = tokio::fs::read(path).await.map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        // The system's file is a collection that others keep: one odd certificate in it is no reason to
        // stop. In a file that the operator named it is a mistake that he wants to hear of.
        Self::parse(path, &text, ca_file.is_none())
    }

    fn parse(path: &Path, text: &[u8], skip_odd: bool) -> Result<Self, Error> {
        let mut certificates = Vec::new();
        let mut store = RootCertStore::empty();
        for (index, item) in CertificateDer::pem_slice_iter(text).enumerate() {
            let certificate = item.map_err(|source| Error::Pem {
                path: path.to_owned(),
                source,
            })?;
            match store.add(certificate.clone()) {
                Ok(()) => certificates.push(certificate),
                Err(_) if skip_odd => {}
                Err(source) => {
                    return Err(Error::Anchor {
                        path: path.to_owned(),
                        number: index + 1,
                        source,
                    });
                }
            }
        }
        if certificates.is_empty() {
            return Err(Error::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            certificates,
            store,
        })
    }

    /// The configuration for a TLS client that trusts these roots. The provider is named, so that it does not
    /// matter which one the process installed, or whether it has.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| Error::Configure {
                path: self.path.clone(),
                source,
            })?
            .with_root_certificates(self.store.clone())
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// The same trust in the form that lettre takes: it does not accept a finished `ClientConfig`.
    pub fn submission_parameters(&self, host: &str) -> Result<TlsParameters, Error> {
        let fail = |source| Error::Submission {
            path: self.path.clone(),
            host: host.to_owned(),
            source,
        };
        let mut builder = TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::None);
        for certificate in &self.certificates {
            builder =
                builder.add_root_certificate(Certificate::from_der(certificate.to_vec()).map_err(fail)?);
        }
        builder.build_rustls().map_err(fail)
    }
}

/// `Roots::load` and `Roots::client_config` in one, for callers who need no submission.
pub async fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    Roots::load(ca_file).await?.client_config()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    #[tokio::test]
    async fn a_missing_ca_file_is_named() {
        let error = Roots::load(Some(Path::new("/nowhere/ca.pem"))).await.unwrap_err();
        assert_eq!(error.to_string(), "read the CA certificates in /nowhere/ca.pem");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let error = Roots::parse(Path::new("ca.pem"), b"# nothing yet\n", false).unwrap_err();
        assert_eq!(error.to_string(), "ca.pem holds no CA certificate");
    }

    #[test]
    fn an_odd_certificate_is_skipped_among_the_systems_roots_only() {
        let mut text = authority();
        text.push_str("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let error = Roots::parse(Path::new("ca.pem"), text.as_bytes(), false).unwrap_err();
        assert_eq!(error.to_string(), "trust certificate number 2 in ca.pem");
        let roots = Roots::parse(Path::new("ca.pem"), text.as_bytes(), true).unwrap();
        assert_eq!(roots.certificates.len(), 1);
    }

    #[test]
    fn roots_make_a_configuration_for_both_clients() {
        let roots = Roots::parse(Path::new("ca.pem"), authority().as_bytes(), false).unwrap();
        roots.client_config().unwrap();
        roots.submission_parameters("localhost").unwrap();
    }
}
