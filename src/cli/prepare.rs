//! From a checked file to a pipeline that can be started: what its data directory keeps, and what its first messages say.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use tracing::info;

use super::Failure;
use super::files::PipelineFile;
use crate::config::{Diagnostics, Outline, Pipeline, Planned};
use crate::error::Error;
use crate::runtime::durable::{DataDir, FoundColumns};
use crate::runtime::pipeline::{Running, start_in};
use crate::runtime::reload::{Rebuild, Reloader, Reread};
use crate::runtime::sampling::{WAIT_MAX, find_columns, put_in};

/// A pipeline on its way to the start.
pub enum Prepared {
    /// It can be started.
    Ready(Startable),
    /// Messages must be seen first.
    Waiting(Waiting),
}

/// A pipeline that can be started.
pub struct Startable {
    pipeline: Pipeline,
    /// Its data directory, if it was needed to know its columns.
    data: Option<DataDir>,
    file: PipelineFile,
    kept: FoundColumns,
}

/// A pipeline some of whose columns are unknown.
pub struct Waiting {
    file: PipelineFile,
    outline: Outline,
    data: Option<DataDir>,
    kept: FoundColumns,
}

/// Takes what the data directory keeps where the file alone is not enough.
///
/// # Errors
/// If the data directory cannot be used, or the file does not fit the columns kept.
pub fn prepare(file: PipelineFile, planned: Planned) -> Result<Prepared, Failure> {
    let outline = match planned {
        Planned::Ready(pipeline) => {
            let (data, kept) = (None, FoundColumns::new());
            return Ok(Prepared::Ready(Startable { pipeline: *pipeline, data, file, kept }));
        }
        Planned::Unsampled(outline) => *outline,
    };
    let settings = &outline.settings;
    let name = settings.name.clone();
    let Some(root) = settings.data_dir.clone() else {
        let kept = FoundColumns::new();
        return Ok(Prepared::Waiting(Waiting { file, outline, data: None, kept }));
    };
    let mut data = DataDir::open(Path::new(&root), &name).map_err(|error| error.at(&name))?;
    let kept = data.columns().map_err(|error| error.at(&name))?;
    if !kept.is_empty() {
        info!(pipeline = name, "columns as they are kept in {root}/{name}/schema.json");
    }
    Ok(match file.plan(&kept)? {
        Planned::Ready(pipeline) => {
            Prepared::Ready(Startable { pipeline: *pipeline, data: Some(data), file, kept })
        }
        Planned::Unsampled(outline) => {
            Prepared::Waiting(Waiting { file, outline: *outline, data: Some(data), kept })
        }
    })
}

impl Startable {
    /// What the file says and may not be as meant.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Starts it. What it was built from stays with it: for an engine that fails, and for reloads.
    ///
    /// # Errors
    /// If its data directory cannot be used or holds state that cannot be loaded.
    pub async fn start(self) -> Result<Running, Failure> {
        let Self { pipeline, data, file, kept } = self;
        let name = pipeline.name().to_owned();
        let running = start_in(pipeline, data, Some(rebuild(&file, &kept))).await;
        let mut running = running.map_err(|error| Failure::Error(error.at(&name)))?;
        if let Some(path) = file.path().map(Path::to_owned) {
            let control = Arc::clone(&running.served.metrics().control);
            let current = Arc::clone(running.served.current());
            let reloader =
                Reloader::new(path, reread(file, kept), running.requests.clone(), control, current);
            running.served.reloader = Some(Arc::new(reloader));
        }
        Ok(running)
    }
}

/// Builds a pipeline from the text that was read once.
fn rebuild(file: &PipelineFile, kept: &FoundColumns) -> Rebuild {
    let (file, kept) = (file.clone(), kept.clone());
    Arc::new(move || file.build(&kept).map_err(Error::config))
}

/// Reads the file again.
fn reread(file: PipelineFile, kept: FoundColumns) -> Reread {
    Arc::new(move || {
        let file = file.again().unwrap_or_else(|| Ok(file.clone()))?;
        Ok((file.build(&kept)?, rebuild(&file, &kept)))
    })
}

impl Waiting {
    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.outline.settings.name
    }

    /// Waits for messages, for ever if none come, and builds the pipeline over the columns they have.
    ///
    /// # Errors
    /// If a source fails, its messages say nothing about columns, or the pipeline does not fit them.
    pub async fn complete(self) -> Result<Startable, Failure> {
        let Self { file, outline, mut data, mut kept } = self;
        let name = outline.settings.name.clone();
        let (found, opened) =
            find_columns(outline.unsampled, WAIT_MAX).await.map_err(|error| error.at(&name))?;
        kept.extend(found);
        let mut pipeline = super::files::ready(file.plan(&kept)?)?;
        if let Some(data) = &mut data {
            data.keep_columns(&kept).map_err(|error| error.at(&name))?;
        }
        put_in(&mut pipeline, opened);
        Ok(Startable { pipeline, data, file, kept })
    }
}

/// Shows what may not be as meant.
pub fn show_warnings(warnings: &Diagnostics) {
    if !warnings.is_empty() {
        eprintln!("{}", warnings.render(std::io::stderr().is_terminal()));
    }
}
