//! The one visible list of components.

use crate::registry::Registry;
use crate::{operator, sink, source};

/// Everything that a pipeline file can name.
pub fn registry() -> Registry {
    Registry::new()
        .source::<source::file::FileConfig>()
        .source::<source::heartbeat::HeartbeatConfig>()
        .source::<source::mqtt::MqttConfig>()
        .source::<source::mqtt_listen::MqttListenConfig>()
        .source::<source::simulate::SimulateConfig>()
        .operator::<operator::compress::CompressConfig>()
        .operator::<operator::decode::DecodeConfig>()
        .operator::<operator::dedup::DedupConfig>()
        .operator::<operator::detect::DetectConfig>()
        .operator::<operator::filter::FilterConfig>()
        .operator::<operator::pivot::PivotConfig>()
        .operator::<operator::select::SelectConfig>()
        .operator::<operator::union::UnionConfig>()
        .operator::<operator::window::WindowConfig>()
        .sink::<sink::dead_letters::DeadLettersConfig>()
        .sink::<sink::file::FileConfig>()
        .sink::<sink::http::HttpConfig>()
        .sink::<sink::mqtt::MqttConfig>()
        .sink::<sink::stdout::StdoutConfig>()
}
