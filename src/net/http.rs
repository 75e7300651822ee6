//! The HTTP client, with this program's TLS.

use crate::error::{Error, Result};
use crate::net::tls::TlsSettings;

/// A client that trusts the system's authorities.
///
/// # Errors
/// If the client cannot be made.
pub fn client() -> Result<reqwest::Client> {
    with_tls(&TlsSettings::default())
}

/// A client with its own authorities and certificate.
///
/// # Errors
/// If a file of the settings cannot be used.
pub fn with_tls(tls: &TlsSettings) -> Result<reqwest::Client> {
    finish(builder(tls)?)
}

/// A client in the making, with its own authorities and certificate.
///
/// # Errors
/// If a file of the settings cannot be used.
pub fn builder(tls: &TlsSettings) -> Result<reqwest::ClientBuilder> {
    let mut builder = reqwest::Client::builder();
    // Without any trusted authority only plain HTTP works; that is for the request to find out.
    match tls.client_config() {
        Ok(config) => builder = builder.tls_backend_preconfigured((*config).clone()),
        Err(error) if tls.ca.is_some() || tls.certificate.is_some() => return Err(error),
        Err(_) => {
            let roots = rustls::RootCertStore::empty();
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| Error::config(format!("TLS: {error}")))?
                .with_root_certificates(roots)
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(config);
        }
    }
    Ok(builder)
}

/// The client.
///
/// # Errors
/// If it cannot be made.
pub fn finish(builder: reqwest::ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| Error::config(format!("the HTTP client cannot be made: {error}")))
}
