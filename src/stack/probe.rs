//! Whether a mail server of ours answers on this machine.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Longest greeting that is read.
const GREETING_MAX_OCTETS: usize = 1024;

/// One thing that a server must answer.
#[derive(Clone, Debug)]
pub(super) enum Probe {
    /// `* OK` over TLS, with this certificate (RFC 9051, 7.1.1).
    Imaps { port: u16, certificate: PathBuf },
    /// `220` (RFC 5321, 4.2).
    Smtp { port: u16 },
}

impl Probe {
    /// Connects and reads the greeting. Has no time limit of its own.
    pub(super) async fn run(&self) -> io::Result<()> {
        match self {
            Self::Imaps { port, certificate } => {
                let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()
                    .map_err(io::Error::other)?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Expected {
                        certificate,
                        provider,
                    }))
                    .with_no_client_auth();
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let tcp = TcpStream::connect(("127.0.0.1", *port)).await?;
                let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
                expect_greeting(tls, "* OK", "a1 LOGOUT\r\n").await
            }
            Self::Smtp { port } => {
                let tcp = TcpStream::connect(("127.0.0.1", *port)).await?;
                expect_greeting(tcp, "220", "QUIT\r\n").await
            }
        }
    }
}

/// Accepts the one certificate that the server was given, whoever signed it: that it is served is what is asked here.
#[derive(Debug)]
struct Expected {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(
                "the server has another certificate than it was given".to_owned(),
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Reads the greeting, and takes leave: a connection that is only closed is a complaint in the server's log.
async fn expect_greeting(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    expected: &str,
    leave: &str,
) -> io::Result<()> {
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\n") {
        if greeting.len() >= GREETING_MAX_OCTETS || stream.read_buf(&mut greeting).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no greeting"));
        }
    }
    if greeting.starts_with(expected.as_bytes()) {
        stream.write_all(leave.as_bytes()).await?;
        stream.flush().await
    } else {
        let line = String::from_utf8_lossy(&greeting).trim_end().to_owned();
        Err(io::Error::new(io::ErrorKind::InvalidData, line))
    }
}
