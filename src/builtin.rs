//! The one visible list of components.

use crate::registry::Registry;
use crate::{sink, source};

/// Everything that a pipeline file can name.
pub fn registry() -> Registry {
    Registry::new()
        .source::<source::mqtt::MqttConfig>()
        .sink::<sink::file::FileConfig>()
        .sink::<sink::stdout::StdoutConfig>()
}
