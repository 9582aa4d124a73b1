//! Whom to trust, and who we are: the PEM files that the URL names.

use std::fs;
use std::path::{Path, PathBuf};

use tonic::transport::{self, Certificate, ClientTlsConfig, Identity};

/// The files that the URL names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Certificates to trust instead of the system's.
    pub(super) ca: Option<PathBuf>,
    /// Our own certificate.
    pub(super) cert: Option<PathBuf>,
    /// Its private key.
    pub(super) key: Option<PathBuf>,
}

/// Reads the files. An error says what is expected instead.
pub(super) fn config(files: &Files) -> Result<ClientTlsConfig, String> {
    let config = ClientTlsConfig::new();
    let config = match &files.ca {
        Some(path) => config.ca_certificate(Certificate::from_pem(read("ca", path, "CERTIFICATE")?)),
        None => config.with_native_roots(),
    };
    Ok(match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            config.identity(Identity::from_pem(read("cert", cert, "CERTIFICATE")?, read("key", key, "PRIVATE KEY")?))
        }
        (None, None) => config,
        _ => return Err("cert and key only together".to_owned()),
    })
}

fn read(name: &str, path: &Path, kind: &str) -> Result<String, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{name} must be a readable PEM file: {}: {error}", path.display()))?;
    if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind)) {
        return Err(format!("{name} must be a PEM file: {} has no {kind}", path.display()));
    }
    Ok(text)
}

/// What to say when the library does not take what is in the files.
pub(super) fn unusable(error: &transport::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("certificates and a key that can be used: {cause}")
}
