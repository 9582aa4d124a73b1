//! The PEM files that a URL names as `ca`, `cert` and `key`: whom to trust, and how to identify this client.

use std::fs;
use std::path::{Path, PathBuf};

/// The files that a URL names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// The contents of those files.
pub(super) struct Pem {
    /// Certificates to trust instead of the system's.
    pub(super) ca: Option<String>,
    /// This client's certificate and its private key.
    pub(super) identity: Option<(String, String)>,
}

impl Files {
    /// Takes a parameter of the URL; false if it names no file. An error says what is expected.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let slot = match name {
            "ca" => &mut self.ca,
            "cert" => &mut self.cert,
            "key" => &mut self.key,
            _ => return Ok(false),
        };
        if slot.replace(value.into()).is_some() {
            return Err(format!("{name} is given twice"));
        }
        Ok(true)
    }

    /// Reads the files. An error says what is expected.
    pub(super) fn read(&self) -> Result<Pem, String> {
        let ca = self.ca.as_deref().map(|path| read("ca", path, "CERTIFICATE")).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read("cert", cert, "CERTIFICATE")?, read("key", key, "PRIVATE KEY")?)),
            (None, None) => None,
            _ => return Err("cert and key only together".to_owned()),
        };
        Ok(Pem { ca, identity })
    }
}

fn read(name: &str, path: &Path, kind: &str) -> Result<String, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{name} must be a readable PEM file: {}: {error}", path.display()))?;
    if !text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind)) {
        return Err(format!("{name} must be a PEM file: {} has no {kind}", path.display()));
    }
    Ok(text)
}

/// The error for contents that a library does not accept.
pub(super) fn unusable(cause: impl std::fmt::Display) -> String {
    format!("certificates and a key that can be used: {cause}")
}
