//! TLS for connections to the server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::failure;
use crate::backend::pem::{self, Pem};
use crate::error::BackendError;

/// The TLS settings, read once and used for each connection.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    /// True from the start of a handshake until it ends.
    waiting: Arc<AtomicBool>,
}

impl Tls {
    /// # Errors
    /// What is expected instead.
    pub(super) fn new(pem: &Pem) -> Result<Self, String> {
        // The provider that the process has installed takes precedence, as for etcd.
        let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(pem::unusable)?;
        let config = config.with_root_certificates(roots(pem.ca.as_deref())?);
        let config = match &pem.identity {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem::unusable)?;
                config.with_client_auth_cert(certificates(cert)?, key).map_err(pem::unusable)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), waiting: Arc::default() })
    }

    /// Called before a connection is made.
    pub(super) fn begin(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// The error for a handshake that was not answered in time. A server without TLS may wait for more bytes for ever.
    pub(super) fn late(&self) -> Option<BackendError> {
        self.waiting.load(Ordering::Relaxed).then(failure::of_silence)
    }

    /// Makes the server prove that it is `host`.
    pub(super) async fn shake_hands(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.waiting.store(true, Ordering::Relaxed);
        let shaken = self.connector.connect(name, stream).await;
        self.waiting.store(false, Ordering::Relaxed);
        shaken
    }
}

/// The certificates of the file, else the system's.
fn roots(ca: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(pem::unusable)?;
        }
        return Ok(roots);
    }
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("a ca: this system names no certificates to trust".to_owned());
    }
    Ok(roots)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(pem::unusable)
}
