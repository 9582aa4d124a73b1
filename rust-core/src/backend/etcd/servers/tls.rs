//! Whom to trust, and who we are, as the transport wants it.

use tonic::transport::{self, Certificate, ClientTlsConfig, Identity};

use crate::backend::pem::{self, Files};

/// Reads the files. An error says what is expected instead.
pub(super) fn config(files: &Files) -> Result<ClientTlsConfig, String> {
    let pem = files.read()?;
    let config = ClientTlsConfig::new();
    let config = match pem.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
        None => config.with_native_roots(),
    };
    Ok(match pem.identity {
        Some((cert, key)) => config.identity(Identity::from_pem(cert, key)),
        None => config,
    })
}

/// What to say when the library does not take what is in the files.
pub(super) fn unusable(error: &transport::Error) -> String {
    pem::unusable(std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
}
