//! TLS as a client: which authorities are trusted, and who we are.

use std::sync::Arc;

use rumqttc::tokio_rustls::rustls::pki_types::pem::PemObject;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

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
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|error| Error::config(format!("{key}: no private key in PEM form: {error}")))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| Error::config(format!("{certificate}: {error}")))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(Error::config("a client certificate needs its key and the key its certificate")),
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| Error::config(format!("{path}: {error}")))?;
                }
            }
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
