//! Reading pipeline files and what they name.

use std::path::{Path, PathBuf};

use super::PipelineArgs;
use crate::config::{self, Diagnostics, Options, Pipeline};
use crate::error::{Error, Result};
use crate::registry::{Files, Registry};

/// Files of the disk, as named by a pipeline file.
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        std::fs::read(path).map_err(|error| Error::new(crate::Kind::Config, format!("{path}: {error}")))
    }
}

/// Why a pipeline file could not be loaded.
pub enum LoadFailure {
    /// It could not be read.
    Error(Error),
    /// It is wrong.
    Diagnostics(Diagnostics),
}

impl From<LoadFailure> for super::Failure {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::Error(error) => Self::Error(error),
            LoadFailure::Diagnostics(diagnostics) => Self::Diagnostics(diagnostics),
        }
    }
}

/// Reads, checks and builds a pipeline file.
///
/// # Errors
/// If it cannot be read, or everything that is wrong with it.
pub fn load(
    path: &Path,
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Pipeline, LoadFailure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| LoadFailure::Error(Error::config(format!("{}: {error}", path.display()))))?;
    load_text(&text, &path.display().to_string(), args, registry)
}

/// Checks and builds a pipeline from its text.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(
    text: &str,
    name: &str,
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Pipeline, LoadFailure> {
    let options =
        Options { set: args.set.clone(), data_dir: args.data_dir.clone(), ..Options::new(&DiskFiles) };
    config::load(text, name, registry, &options).map_err(LoadFailure::Diagnostics)
}

/// Loads several files; their names must differ.
///
/// # Errors
/// The first file's failure, or that two pipelines have the same name.
pub fn load_all(
    paths: &[PathBuf],
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Vec<Pipeline>, LoadFailure> {
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for path in paths {
        let pipeline = load(path, args, registry)?;
        if pipelines.iter().any(|known| known.name() == pipeline.name()) {
            return Err(LoadFailure::Error(Error::config(format!(
                "{}: another of the files names its pipeline `{}` too; names must differ",
                path.display(),
                pipeline.name()
            ))));
        }
        pipelines.push(pipeline);
    }
    Ok(pipelines)
}
