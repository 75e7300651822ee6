//! Follows the files that the pipeline's sinks write, as a user would with `tail -f`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::plant::DemoPlant;
use crate::codec::timestamp::parse_rfc3339;
use crate::error::{Error, Result};

/// One scored window, as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
pub struct Window {
    window_start: String,
    window_end: String,
    /// The press.
    pub device: String,
    /// How strange the window is.
    pub score: Option<f64>,
    /// Which model said so.
    pub model: Option<String>,
    /// When it began, microseconds since 1970.
    #[serde(skip)]
    pub start_us: i64,
    /// When it ended.
    #[serde(skip)]
    pub end_us: i64,
}

/// A growing file of lines.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    partial: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new() }
    }

    fn new_windows(&mut self) -> Result<Vec<Window>> {
        let failed = |error: std::io::Error| Error::io(format!("reading {}", self.path.display()), &error);
        if self.file.is_none() && self.path.exists() {
            let mut file = File::open(&self.path).map_err(failed)?;
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.read_to_end(&mut self.partial).map_err(failed)?;
        let whole = memchr::memrchr(b'\n', &self.partial).map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.partial.drain(..whole).collect();
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(window).collect()
    }
}

fn window(line: &[u8]) -> Result<Window> {
    let mut window: Window = serde_json::from_slice(line).map_err(|error| {
        Error::data(format!("the sink wrote `{}`: {error}", String::from_utf8_lossy(line)))
    })?;
    let time = |text: &str| {
        parse_rfc3339(text.as_bytes()).ok_or_else(|| Error::data(format!("the sink wrote the time `{text}`")))
    };
    (window.start_us, window.end_us) = (time(&window.window_start)?, time(&window.window_end)?);
    Ok(window)
}

/// What has come out so far.
pub struct Watch {
    windows_file: Tail,
    alarms_file: Tail,
    frames: PathBuf,
    /// Scores of each press in order of time.
    pub scores: BTreeMap<String, Vec<f64>>,
    /// All windows.
    pub windows: u64,
    /// The anomalous ones.
    pub alarms: Vec<Window>,
    /// The models that appear, each with the first window's end in which it does.
    pub models: Vec<(String, i64)>,
    /// Per press: how often the model changed from one window to the next.
    pub changes: BTreeMap<String, (String, u32)>,
    /// Bytes of compressed readings.
    pub frame_bytes: u64,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(out: &Path, plant: &DemoPlant) -> Self {
        Self {
            windows_file: Tail::new(out.join("windows.ndjson")),
            alarms_file: Tail::new(out.join("alarms.ndjson")),
            frames: out.join("readings.tgf"),
            scores: plant.names().iter().map(|name| (name.clone(), Vec::new())).collect(),
            windows: 0,
            alarms: Vec::new(),
            models: Vec::new(),
            changes: BTreeMap::new(),
            frame_bytes: 0,
        }
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// If a file cannot be read or holds what no sink should write.
    pub fn look(&mut self) -> Result<()> {
        for window in self.windows_file.new_windows()? {
            self.windows += 1;
            self.scores.entry(window.device.clone()).or_default().push(window.score.unwrap_or(0.0));
            let Some(model) = window.model else { continue };
            if !self.models.iter().any(|(known, _)| *known == model) {
                self.models.push((model.clone(), window.end_us));
            }
            let last = self.changes.entry(window.device).or_insert_with(|| (model.clone(), 0));
            if last.0 != model {
                *last = (model, last.1 + 1);
            }
        }
        self.alarms.extend(self.alarms_file.new_windows()?);
        self.frame_bytes = std::fs::metadata(&self.frames).map_or(0, |metadata| metadata.len());
        Ok(())
    }
}
