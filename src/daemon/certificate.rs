//! The mail servers' certificate, where the private CA makes it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Error, wait_until_closed};
use crate::{clock::Clock, config::Config, stack::tls, telemetry};

/// Pause between two looks at the mail servers' certificate.
const CERTIFICATE_PAUSE_S: u64 = 3_600;

/// The certificate that the private CA makes for the mail servers.
#[derive(Clone)]
pub(super) struct PrivateCertificate {
    ca: PathBuf,
    /// Where the mail servers read certificate and key.
    server: PathBuf,
    names: Vec<String>,
}

impl PrivateCertificate {
    /// None, where the operator brings the certificate.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let ca = config.certificate.private_ca_dir.clone()?;
        let server = config.certificate.cert_file.parent()?.to_owned();
        let names = config.certificate_names().map(str::to_owned).to_vec();
        Some(Self { ca, server, names })
    }

    /// Makes what is missing or due.
    pub(super) async fn ensure(&self, clock: &dyn Clock) -> Result<(), Error> {
        let (this, now) = (self.clone(), clock.now());
        let made = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = this.names.iter().map(String::as_str).collect();
            tls::ensure_in(&this.ca, &this.server, &names, now)
        });
        made.await??;
        Ok(())
    }
}

/// Renews the certificate when it is due; the mail servers' side notices the new file.
pub(super) async fn renew(
    certificate: Option<PrivateCertificate>,
    clock: Arc<dyn Clock>,
    stopped: watch::Receiver<()>,
) {
    let Some(certificate) = certificate else { return };
    let mut until = std::pin::pin!(wait_until_closed(stopped));
    loop {
        tokio::select! {
            () = &mut until => return,
            () = tokio::time::sleep(Duration::from_secs(CERTIFICATE_PAUSE_S)) => {}
        }
        if let Err(error) = certificate.ensure(&*clock).await {
            tracing::error!(
                error = telemetry::chain(&error),
                "cannot renew the mail servers' certificate"
            );
        }
    }
}
