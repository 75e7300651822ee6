//! TLS: which authorities are trusted, and who we are, as a client and as a server.

use std::sync::Arc;

use rumqttc::tokio_rustls::rustls::pki_types::pem::PemObject;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::server::WebPkiClientVerifier;
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};

use crate::error::{Error, Result};

/// Files that TLS needs, all PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates of the authorities to trust; `None` for those of the system.
    pub ca: Option<String>,
    /// Our certificate chain, where the peer asks for one.
    pub certificate: Option<String>,
    /// The private key that belongs to it.
    pub key: Option<String>,
}

impl TlsSettings {
    /// Reads the files and makes the client's side.
    ///
    /// # Errors
    /// Names the file that cannot be read or holds nothing of its kind.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config(format!("TLS: {error}")))?
            .with_root_certificates(self.roots()?);
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| Error::config(format!("{certificate}: {error}")))?,
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(Error::config("a client certificate needs its key and the key its certificate")),
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => add_authorities(&mut roots, path)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(Error::config(
                        "the system has no trusted certificates; give the authority's with `ca = \"…\"`",
                    ));
                }
            }
        }
        Ok(roots)
    }
}

/// Files that TLS needs where clients come to us, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// Our certificate chain.
    pub certificate: String,
    /// The private key that belongs to it.
    pub key: String,
    /// Certificates of the authorities of which every client must have one; `None` if none is asked for.
    pub client_ca: Option<String>,
}

impl ServerTlsSettings {
    /// Reads the files and makes the server's side.
    ///
    /// # Errors
    /// Names the file that cannot be read or holds nothing of its kind.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config(format!("TLS: {error}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                add_authorities(&mut roots, path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| Error::config(format!("{path}: {error}")))?,
                )
            }
        };
        builder
            .with_single_cert(certificates(&self.certificate)?, private_key(&self.key)?)
            .map(Arc::new)
            .map_err(|error| Error::config(format!("{}: {error}", self.certificate)))
    }
}

fn add_authorities(roots: &mut RootCertStore, path: &str) -> Result<()> {
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::config(format!("{path}: {error}")))?;
    }
    Ok(())
}

fn private_key(path: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|error| Error::config(format!("{path}: no private key in PEM form: {error}")))
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io(format!("reading {path}"), &error))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::config(format!("{path}: no certificate in PEM form"))),
        Err(error) => Err(Error::config(format!("{path}: {error}"))),
    }
}
