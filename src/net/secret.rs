//! Reading secrets where they are kept, only when a connection is opened.

use crate::error::{Error, Result};
use crate::units::Secret;

/// The secret itself.
///
/// # Errors
/// Names the variable or file that is not there; never the secret.
pub fn resolve(secret: &Secret) -> Result<String> {
    match secret {
        Secret::Env(name) => std::env::var(name).map_err(|_| {
            Error::config(format!("the environment variable {name}, which holds a secret, is not set"))
        }),
        Secret::File(path) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| Error::io(format!("reading the secret in {path}"), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_text_without_the_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "hunter2\n").unwrap();
        let path = path.to_string_lossy().into_owned();
        assert_eq!(resolve(&Secret::File(path.clone())).unwrap(), "hunter2");
        let missing = resolve(&Secret::File(format!("{path}.not"))).unwrap_err();
        assert!(missing.message.contains("password.not"), "{missing}");
        let unset = resolve(&Secret::Env("TIDEGATE_TEST_NO_SUCH_VARIABLE".to_owned())).unwrap_err();
        assert!(unset.message.contains("is not set"));
    }
}
