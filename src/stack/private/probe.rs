//! Whether a server answers.

use std::{io, path::PathBuf, sync::Arc};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Longest greeting that is read.
const GREETING_MAX_OCTETS: usize = 1024;

/// One thing that a server must answer.
#[derive(Clone, Debug)]
pub(super) enum Probe {
    /// `* OK` over TLS, with a certificate of this CA (RFC 9051, 7.1.1).
    Imaps { port: u16, ca_cert: PathBuf },
    /// `220` (RFC 5321, 4.2).
    Smtp { port: u16 },
}

impl Probe {
    /// Connects and reads the greeting. Has no time limit of its own.
    pub(super) async fn run(&self) -> io::Result<()> {
        match self {
            Self::Imaps { port, ca_cert } => {
                let mut roots = rustls::RootCertStore::empty();
                let ca = CertificateDer::from_pem_file(ca_cert).map_err(io::Error::other)?;
                roots.add(ca).map_err(io::Error::other)?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(io::Error::other)?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let tcp = TcpStream::connect(("127.0.0.1", *port)).await?;
                let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
                expect_greeting(tls, "* OK").await
            }
            Self::Smtp { port } => {
                let tcp = TcpStream::connect(("127.0.0.1", *port)).await?;
                expect_greeting(tcp, "220").await
            }
        }
    }
}

async fn expect_greeting(mut stream: impl AsyncRead + Unpin, expected: &str) -> io::Result<()> {
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\n") {
        if greeting.len() >= GREETING_MAX_OCTETS || stream.read_buf(&mut greeting).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no greeting"));
        }
    }
    if greeting.starts_with(expected.as_bytes()) {
        Ok(())
    } else {
        let line = String::from_utf8_lossy(&greeting).trim_end().to_owned();
        Err(io::Error::new(io::ErrorKind::InvalidData, line))
    }
}
