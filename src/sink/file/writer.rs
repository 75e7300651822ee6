//! The running part of the `file` sink.
//!
//! A position names the open file by its number, how many of its bytes count, and the files that are finished but
//! may not have their final name yet: a crash between the commit and the rename is made good when it opens again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::parquet;
use crate::core::{DeliveryId, Epoch, Position, Sink};
use crate::error::{Error, Result};
use crate::sink::encode::{RowEncoder, RowFormat};

/// Bytes collected before they are given to the operating system.
const BUFFER_BYTES: usize = 256 << 10;

/// How a file sink works.
pub struct FileSettings {
    /// The path as configured.
    pub path: PathBuf,
    /// The format; `None` for Parquet.
    pub rows: Option<RowFormat>,
    /// Begin a new file when the open one is this old.
    pub rotate_every: Option<Duration>,
    /// Begin a new file when the open one is this large.
    pub rotate_bytes: Option<u64>,
    /// Whether a file that is there without a checkpoint is replaced.
    pub replace: bool,
    /// The columns.
    pub schema: SchemaRef,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Place {
    /// Number of the open file, from 1.
    number: u64,
    /// How many of its bytes count.
    bytes: u64,
    /// Numbers of files that are finished and wait for their final name.
    finished: Vec<u64>,
    /// Which path all this is about; empty in positions from before it was noted.
    #[serde(default)]
    path: PathBuf,
}

struct Open {
    file: File,
    path: PathBuf,
    since: Instant,
}

/// The `file` sink.
pub struct FileSink {
    settings: FileSettings,
    encoder: Option<RowEncoder>,
    open: Option<Open>,
    place: Place,
    /// Finished files by the epoch whose commit gives them their name.
    finishing: VecDeque<(Epoch, u64)>,
    buffer: Vec<u8>,
    unsynced: bool,
    ended: bool,
}

impl FileSink {
    /// Nothing open yet.
    pub fn new(settings: FileSettings) -> Self {
        let place = Place { number: 1, path: settings.path.clone(), ..Place::default() };
        Self {
            encoder: settings.rows.map(RowEncoder::new),
            settings,
            open: None,
            place,
            finishing: VecDeque::new(),
            buffer: Vec::new(),
            unsynced: false,
            ended: false,
        }
    }

    fn rotates(&self) -> bool {
        self.settings.rotate_every.is_some() || self.settings.rotate_bytes.is_some()
    }

    /// Whether a file gets its name only when it is finished.
    fn staged(&self) -> bool {
        self.rotates() || self.settings.rows.is_none()
    }

    fn final_path(&self, number: u64) -> PathBuf {
        let path = &self.settings.path;
        if !self.rotates() && number == 1 {
            return path.clone();
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let ending =
            path.extension().map(|ending| format!(".{}", ending.to_string_lossy())).unwrap_or_default();
        path.with_file_name(format!("{stem}-{number:06}{ending}"))
    }

    fn open_path(&self, number: u64) -> PathBuf {
        let path = self.final_path(number);
        if self.staged() { with_suffix(&path, ".part") } else { path }
    }

    /// Starts without a checkpoint: behind what is there, or anew.
    fn open_fresh(&mut self) -> Result<()> {
        if self.settings.replace {
            let mut number = 1;
            loop {
                let mut there = false;
                for path in [self.final_path(number), self.open_path(number)] {
                    match fs::remove_file(&path) {
                        Ok(()) => there = true,
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => return Err(Error::io(format!("removing {}", path.display()), &error)),
                    }
                }
                if !there {
                    return Ok(());
                }
                number += 1;
            }
        }
        if self.staged() {
            // What a run without checkpoints left behind keeps its name; a `.part` of it is of no use to anyone.
            while self.final_path(self.place.number).exists() {
                self.place.number += 1;
            }
            let part = self.open_path(self.place.number);
            if part.exists() {
                fs::remove_file(&part)
                    .map_err(|error| Error::io(format!("removing {}", part.display()), &error))?;
            }
        } else if self.settings.path.exists() {
            // Opened now, so that the first position already stands behind what was there.
            self.open_file()?;
        }
        Ok(())
    }

    /// Opens the file of the current number at the position that counts.
    fn open_file(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let path = self.open_path(self.place.number);
            let failed = |error: std::io::Error| Error::io(format!("opening {}", path.display()), &error);
            if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                fs::create_dir_all(directory).map_err(failed)?;
            }
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            let there = file.seek(SeekFrom::End(0)).map_err(failed)?;
            if there > 0 && self.place.bytes == 0 && !self.staged() {
                self.place.bytes = self.behind(&mut file, there).map_err(failed)?;
            }
            if there < self.place.bytes {
                return Err(Error::state(format!(
                    "{} has {there} bytes, but {} were committed: it was changed from outside",
                    path.display(),
                    self.place.bytes
                )));
            }
            file.set_len(self.place.bytes).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
            if self.place.bytes == 0
                && let Some(encoder) = &self.encoder
            {
                encoder.head(&self.settings.schema, &mut self.buffer);
            }
            sync_directory(&path)?;
            self.open = Some(Open { file, path, since: Instant::now() });
        }
        self.open.as_mut().ok_or_else(|| Error::data("the file is not open"))
    }

    /// Where to go on behind a file that an earlier run without checkpoints left: behind its last whole line.
    fn behind(&self, file: &mut File, there: u64) -> std::io::Result<u64> {
        if !matches!(self.settings.rows, Some(RowFormat::Ndjson | RowFormat::Csv)) {
            return Ok(there);
        }
        let mut end = there;
        let mut chunk = vec![0; 64 << 10];
        while end > 0 {
            let start = end.saturating_sub(chunk.len() as u64);
            let part = &mut chunk[..(end - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            std::io::Read::read_exact(file, part)?;
            if let Some(index) = memchr::memrchr(b'\n', part) {
                return Ok(start + index as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    fn write_out(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        let open = self.open_file()?;
        open.file
            .write_all(&bytes)
            .map_err(|error| Error::io(format!("writing {}", open.path.display()), &error))?;
        self.place.bytes += bytes.len() as u64;
        self.unsynced = true;
        // Opening may have put a header into the buffer; otherwise keep the room.
        if self.buffer.is_empty() {
            self.buffer = bytes;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<()> {
        let Some(open) = self.open.as_ref().filter(|_| self.unsynced) else { return Ok(()) };
        let failed = |error: std::io::Error| Error::io(format!("syncing {}", open.path.display()), &error);
        let file = open.file.try_clone().map_err(failed)?;
        match tokio::task::spawn_blocking(move || file.sync_data()).await {
            Ok(outcome) => outcome.map_err(failed)?,
            Err(error) => return Err(Error::data(format!("syncing failed: {error}"))),
        }
        self.unsynced = false;
        Ok(())
    }

    fn is_due(&self) -> bool {
        let Some(open) = &self.open else { return false };
        let old = self.settings.rotate_every.is_some_and(|every| open.since.elapsed() >= every);
        let large = self.settings.rotate_bytes.is_some_and(|bytes| self.place.bytes >= bytes);
        self.staged() && self.place.bytes > 0 && (old || large || self.ended)
    }

    /// Gives a finished file its final name; again and again the same.
    async fn finish(&self, number: u64) -> Result<()> {
        let (part, target) = (self.open_path(number), self.final_path(number));
        if !part.exists() {
            return match target.exists() {
                true => Ok(()),
                false => Err(Error::state(format!("{} is gone", part.display()))),
            };
        }
        let failed = |error: std::io::Error| Error::io(format!("renaming to {}", target.display()), &error);
        if self.settings.rows.is_none() {
            let converted = with_suffix(&target, ".tmp");
            let (source, converting, schema) =
                (part.clone(), converted.clone(), self.settings.schema.clone());
            match tokio::task::spawn_blocking(move || parquet::convert(&source, &converting, &schema)).await {
                Ok(outcome) => outcome?,
                Err(error) => return Err(Error::data(format!("writing Parquet failed: {error}"))),
            }
            fs::rename(&converted, &target).map_err(failed)?;
            sync_directory(&target)?;
            fs::remove_file(&part).map_err(failed)?;
        } else {
            fs::rename(&part, &target).map_err(failed)?;
        }
        sync_directory(&target)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn sync_directory(path: &Path) -> Result<()> {
    let directory =
        path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::io(format!("syncing {}", directory.display()), &error))
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self, committed: Option<&Position>) -> Result<()> {
        match committed {
            Some(position) => {
                let place: Place = position.get()?;
                if !place.path.as_os_str().is_empty() && place.path != self.settings.path {
                    // The pipeline file names another path now: what was written stands where it is.
                    return self.open_fresh();
                }
                self.place = Place { path: self.settings.path.clone(), ..place };
                for number in std::mem::take(&mut self.place.finished) {
                    self.finish(number).await?;
                }
                if self.place.bytes > 0 || self.open_path(self.place.number).exists() {
                    let bytes = self.place.bytes;
                    if bytes == 0 {
                        // Nothing of it counts.
                        let path = self.open_path(self.place.number);
                        fs::remove_file(&path)
                            .map_err(|error| Error::io(format!("removing {}", path.display()), &error))?;
                    } else {
                        self.open_file()?;
                    }
                }
                Ok(())
            }
            None => self.open_fresh(),
        }
    }

    async fn write(&mut self, _id: DeliveryId, batch: RecordBatch) -> Result<()> {
        self.open_file()?;
        match &mut self.encoder {
            Some(encoder) => encoder.encode(&batch, &mut self.buffer)?,
            None => parquet::append_block(&batch, &mut self.buffer)?,
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    async fn show(&mut self) -> Result<()> {
        self.write_out()
    }

    async fn flush(&mut self, epoch: Epoch) -> Result<Position> {
        self.write_out()?;
        self.sync().await?;
        if self.is_due() {
            self.finishing.push_back((epoch, self.place.number));
            self.open = None;
            self.place.number += 1;
            self.place.bytes = 0;
        }
        let finished = self.finishing.iter().map(|(_, number)| *number).collect();
        Position::of(&Place { finished, ..self.place.clone() })
    }

    async fn committed(&mut self, epoch: Epoch) -> Result<()> {
        while let Some((_, number)) = self.finishing.pop_front_if(|(due, _)| *due <= epoch) {
            self.finish(number).await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.ended = true;
        Ok(())
    }
}
