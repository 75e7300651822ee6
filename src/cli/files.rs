//! Reading pipeline files and what they name.

use std::path::{Path, PathBuf};

use super::PipelineArgs;
use crate::config::{self, Diagnostics, Options, Pipeline, Planned};
use crate::error::{Error, Result};
use crate::registry::{Files, Registry};
use crate::runtime::durable::{FoundColumns, peek_columns};

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

/// A pipeline file, read, and what the command line says about it.
#[derive(Clone)]
pub struct PipelineFile {
    text: String,
    name: String,
    path: Option<PathBuf>,
    args: PipelineArgs,
    registry: Registry,
}

impl PipelineFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(
        path: &Path,
        args: &PipelineArgs,
        registry: &Registry,
    ) -> std::result::Result<Self, LoadFailure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| LoadFailure::Error(Error::config(format!("{name}: {error}"))))?;
        let path = Some(path.to_owned());
        Ok(Self { text, name, path, args: args.clone(), registry: registry.clone() })
    }

    /// One that is not on disk; `name` is what it is called in messages.
    pub fn of(text: &str, name: &str, args: &PipelineArgs, registry: &Registry) -> Self {
        let (text, name) = (text.to_owned(), name.to_owned());
        Self { text, name, path: None, args: args.clone(), registry: registry.clone() }
    }

    /// Where it is on disk, if it is there.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The pipeline that it says, if its columns are known with these.
    ///
    /// # Errors
    /// All that is wrong with it, as text.
    pub fn build(&self, columns: &FoundColumns) -> std::result::Result<Pipeline, String> {
        self.plan(columns).and_then(ready).map_err(|failure| match failure {
            LoadFailure::Error(error) => error.to_string(),
            LoadFailure::Diagnostics(diagnostics) => diagnostics.render(false),
        })
    }

    /// The file as it is now; none where it is not on disk.
    ///
    /// # Errors
    /// If it cannot be read any more.
    pub fn again(&self) -> Option<std::result::Result<Self, String>> {
        let again = Self::read(self.path.as_deref()?, &self.args, &self.registry);
        Some(again.map_err(|failure| match failure {
            LoadFailure::Error(error) => error.to_string(),
            LoadFailure::Diagnostics(diagnostics) => diagnostics.render(false),
        }))
    }

    /// What the file is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks and builds it, as far as this goes with these columns for sources that do not say theirs.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn plan(&self, columns: &FoundColumns) -> std::result::Result<Planned, LoadFailure> {
        let options = Options {
            set: self.args.set.clone(),
            data_dir: self.args.data_dir.clone(),
            columns: columns.clone(),
            ..Options::new(&DiskFiles)
        };
        config::plan(&self.text, &self.name, &self.registry, &options).map_err(LoadFailure::Diagnostics)
    }

    /// The same with the columns that its data directory keeps, where they are needed; nothing is locked or made.
    ///
    /// # Errors
    /// Everything that is wrong with it, or that the columns kept cannot be read.
    pub fn plan_kept(&self) -> std::result::Result<Planned, LoadFailure> {
        let planned = self.plan(&FoundColumns::new())?;
        let settings = planned.settings();
        match (&planned, &settings.data_dir) {
            (Planned::Unsampled(_), Some(root)) => {
                let kept = peek_columns(Path::new(root), &settings.name).map_err(LoadFailure::Error)?;
                self.plan(&kept)
            }
            _ => Ok(planned),
        }
    }
}

/// Reads, checks and builds a pipeline file; columns that it does not say are those kept in its data directory.
///
/// # Errors
/// If it cannot be read, everything that is wrong with it, or that its columns are unknown.
pub fn load(
    path: &Path,
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Pipeline, LoadFailure> {
    ready(PipelineFile::read(path, args, registry)?.plan_kept()?)
}

/// Checks and builds a pipeline from its text.
///
/// # Errors
/// Everything that is wrong with it, or that its columns are unknown.
pub fn load_text(
    text: &str,
    name: &str,
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Pipeline, LoadFailure> {
    ready(PipelineFile::of(text, name, args, registry).plan(&FoundColumns::new())?)
}

/// The pipeline, if its columns are known.
///
/// # Errors
/// If they are not.
pub fn ready(planned: Planned) -> std::result::Result<Pipeline, LoadFailure> {
    match planned {
        Planned::Ready(pipeline) => Ok(*pipeline),
        Planned::Unsampled(outline) => Err(LoadFailure::Diagnostics(outline.refused())),
    }
}

/// Loads several files; their names must differ.
///
/// # Errors
/// The first file's failure, or that two pipelines have the same name.
pub fn load_all(
    paths: &[PathBuf],
    args: &PipelineArgs,
    registry: &Registry,
) -> std::result::Result<Vec<(PipelineFile, Planned)>, LoadFailure> {
    let mut pipelines: Vec<(PipelineFile, Planned)> = Vec::new();
    for path in paths {
        let file = PipelineFile::read(path, args, registry)?;
        let planned = file.plan(&FoundColumns::new())?;
        let name = &planned.settings().name;
        if pipelines.iter().any(|(_, known)| known.settings().name == *name) {
            return Err(LoadFailure::Error(Error::config(format!(
                "{}: another of the files names its pipeline `{name}` too; names must differ",
                path.display(),
            ))));
        }
        pipelines.push((file, planned));
    }
    Ok(pipelines)
}
