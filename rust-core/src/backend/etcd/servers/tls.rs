//! The certificates to trust and to show, in the form that the transport takes.

use tonic::transport::{self, Certificate, ClientTlsConfig, Identity};

use crate::backend::pem::{self, Files};

/// Reads the files.
///
/// # Errors
/// Says what is expected instead.
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

/// The message when the transport rejects the contents of the files.
pub(super) fn unusable(error: &transport::Error) -> String {
    pem::unusable(std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
}
