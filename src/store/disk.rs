//! The real store: files under one directory, through `std::fs`. The only file in `store` that touches the world.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FileId, Store, parent};
use crate::{Error, Kind, Result};

/// The name of the file that keeps a second process out of a directory.
const LOCK: &str = "lock";

/// Most files one handle appends to at a time: a log has one, a checkpoint one for a moment.
const OPEN_FILES_MAX: usize = 256;

/// A directory of the file system, held by this process alone.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// Dropped with the last handle, which gives the directory free again. None for those who only look.
    lock: Option<Arc<File>>,
    appending: HashMap<FileId, (PathBuf, File)>,
    next_file: u64,
    /// The file read last: a log is read block after block, and opening it for each would double the system calls.
    reading: Option<(String, File)>,
}

impl Disk {
    /// Makes the directory where needed and takes it for this process.
    ///
    /// # Errors
    /// [`Kind::Io`] when the directory cannot be made, and when another process (or another `Disk` of this one) has
    /// it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Disk> {
        let root = root.into();
        create_dirs(&root)?;
        let path = root.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io(format!("opening {}", path.display()), &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&root, &mut lock)),
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format!("locking {}", path.display()), &error));
            }
        }
        // Only a help for whoever meets the lock: nothing is decided by it, so a failure to write it is none.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Disk { root, lock: Some(Arc::new(lock)), appending: HashMap::new(), next_file: 0, reading: None })
    }

    fn writable(&self) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Error::new(Kind::Io, format!("{} was opened to be read only", self.root.display()))),
        }
    }

    /// A directory for those who only look, also while another process has it: nothing is made or locked, and what would
    /// change a file is an error.
    ///
    /// # Errors
    /// [`Kind::Io`] when there is no such directory, or no process ever had it.
    pub fn look(root: impl Into<PathBuf>) -> Result<Disk> {
        let root = root.into();
        let path = root.join(LOCK);
        File::open(&path).map_err(|error| failed("opening", &path, &error))?;
        Ok(Disk { root, lock: None, appending: HashMap::new(), next_file: 0, reading: None })
    }

    /// Where the files are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let plain = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain || path.contains(['\\', '\0']) {
            let message = format!("path {path:?} does not stay below {}", self.root.display());
            return Err(Error::new(Kind::Io, message));
        }
        Ok(self.root.join(path))
    }

    fn appending(&mut self, file: FileId) -> Result<&mut (PathBuf, File)> {
        let closed = || Error::new(Kind::Io, format!("file {} was closed before", file.0));
        self.appending.get_mut(&file).ok_or_else(closed)
    }

    fn open_for_reading(&mut self, path: &str) -> Result<&mut File> {
        if self.reading.as_ref().is_none_or(|(open, _)| open != path) {
            let full = self.resolve(path)?;
            let file = File::open(&full).map_err(|error| failed("opening", &full, &error))?;
            self.reading = Some((path.to_owned(), file));
        }
        match &mut self.reading {
            Some((_, file)) => Ok(file),
            None => Err(Error::new(Kind::Io, format!("opening {path}: no file"))),
        }
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    Error::io(format!("{doing} {}", path.display()), error)
}

fn in_use(root: &Path, lock: &mut File) -> Error {
    let mut owner = String::new();
    // A process identifier has at most 20 digits; more would be somebody else's file.
    let known = lock.take(20).read_to_string(&mut owner).is_ok() && owner.parse::<u32>().is_ok();
    let owner = if known { format!("process {owner}") } else { "another process".to_owned() };
    Error::new(
        Kind::Io,
        format!(
            "data directory {} is in use by {owner}; stop it or choose another directory",
            root.display()
        ),
    )
}

/// Makes a directory and those above it, and the name of each durable in the one above.
fn create_dirs(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        create_dirs(above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("creating directory", path, &error));
        }
        _ => {}
    }
    sync_directory(above.unwrap_or(Path::new(".")))
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| failed("syncing directory", path, &error))
}

fn read_up_to(file: &mut File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(offset))?;
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Store for Disk {
    fn create_dir(&mut self, dir: &str) -> Result<()> {
        self.writable()?;
        create_dirs(&self.resolve(dir)?)
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>> {
        let full = self.resolve(dir)?;
        let entries = match fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("listing", &full, &error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("listing", &full, &error))?;
            let is_file =
                entry.file_type().map_err(|error| failed("looking at", &entry.path(), &error))?.is_file();
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (is_file, entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&mut self, path: &str) -> Result<FileId> {
        self.writable()?;
        let full = self.resolve(path)?;
        if self.appending.len() >= OPEN_FILES_MAX {
            let message = format!("creating {}: {OPEN_FILES_MAX} files are open already", full.display());
            return Err(Error::new(Kind::Io, message));
        }
        self.reading = None;
        let file = OpenOptions::new().append(true).create_new(true).open(&full);
        let file = file.map_err(|error| failed("creating", &full, &error))?;
        let id = FileId(self.next_file);
        self.next_file += 1;
        self.appending.insert(id, (full, file));
        Ok(id)
    }

    fn append(&mut self, file: FileId, bytes: &[u8]) -> Result<()> {
        let (path, file) = self.appending(file)?;
        file.write_all(bytes).map_err(|error| failed("writing to", path, &error))
    }

    fn sync(&mut self, file: FileId) -> Result<()> {
        let (path, file) = self.appending(file)?;
        file.sync_data().map_err(|error| failed("syncing", path, &error))
    }

    fn close(&mut self, file: FileId) {
        self.appending.remove(&file);
    }

    fn sync_dir(&mut self, dir: &str) -> Result<()> {
        sync_directory(&self.resolve(dir)?)
    }

    fn read(&mut self, path: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.open_for_reading(path)?;
        let read = read_up_to(file, offset, buffer);
        read.map_err(|error| failed("reading", &self.root.join(path), &error))
    }

    fn len(&mut self, path: &str) -> Result<u64> {
        let full = self.resolve(path)?;
        let data = fs::metadata(&full).map_err(|error| failed("looking at", &full, &error))?;
        Ok(data.len())
    }

    fn truncate(&mut self, path: &str, len: u64) -> Result<()> {
        self.writable()?;
        let full = self.resolve(path)?;
        let cut = || {
            let file = OpenOptions::new().write(true).open(&full)?;
            file.set_len(len)?;
            file.sync_all()
        };
        cut().map_err(|error| failed("cutting", &full, &error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        debug_assert_eq!(parent(from), parent(to), "one sync of the directory must cover both names");
        self.writable()?;
        self.reading = None;
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        fs::rename(&from, &to)
            .map_err(|error| Error::io(format!("renaming {} to {}", from.display(), to.display()), &error))
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.writable()?;
        self.reading = None;
        let full = self.resolve(path)?;
        fs::remove_file(&full).map_err(|error| failed("removing", &full, &error))
    }

    fn share(&self) -> Box<dyn Store> {
        Box::new(Disk {
            root: self.root.clone(),
            lock: self.lock.clone(),
            appending: HashMap::new(),
            next_file: 0,
            reading: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_read_cut_renamed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(dir.path().join("deep/er")).unwrap();
        assert_eq!(disk.list("none").unwrap(), Vec::<String>::new());
        disk.create_dir("a/b").unwrap();
        let file = disk.create("a/b/one").unwrap();
        disk.append(file, b"hello ").unwrap();
        disk.append(file, b"world").unwrap();
        disk.sync(file).unwrap();
        disk.sync_dir("a/b").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(disk.read("a/b/one", 6, &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"world");
        disk.append(file, b"!").unwrap();
        assert_eq!(disk.read("a/b/one", 6, &mut buffer).unwrap(), 6, "a reader sees what was appended since");
        disk.close(file);
        assert!(disk.append(file, b"!").is_err());
        disk.truncate("a/b/one", 5).unwrap();
        assert_eq!(disk.len("a/b/one").unwrap(), 5);
        disk.rename("a/b/one", "a/b/two").unwrap();
        assert_eq!(disk.list("a/b").unwrap(), ["two"]);
        assert!(disk.read("a/b/one", 0, &mut buffer).is_err());
        assert_eq!(disk.list("a").unwrap(), Vec::<String>::new(), "directories are not listed");
        disk.remove("a/b/two").unwrap();
        assert_eq!(disk.list("a/b").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn errors_say_what_was_done_to_which_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(dir.path()).unwrap();
        disk.create("x").unwrap();
        let taken = disk.create("x").unwrap_err();
        assert_eq!(taken.kind, Kind::Io);
        let path = dir.path().join("x");
        assert!(taken.message.starts_with(&format!("creating {}: ", path.display())), "{taken}");
        for outside in ["../x", "/etc/passwd", "a//b", "a/./b", "a/.."] {
            let error = disk.len(outside).unwrap_err();
            assert!(error.message.contains("does not stay below"), "{outside}: {error}");
        }
    }

    #[test]
    fn a_second_owner_is_refused_until_the_last_handle_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::open(dir.path()).unwrap();
        let shared = first.share();
        drop(first);
        let error = Disk::open(dir.path()).unwrap_err();
        let owner = format!("in use by process {}; stop it", std::process::id());
        assert!(error.message.contains(&owner), "{error}");
        drop(shared);
        Disk::open(dir.path()).unwrap();
    }

    #[test]
    fn who_only_looks_needs_no_lock_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        disk.append(file, b"bytes").unwrap();
        let mut look = Disk::look(dir.path()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!((look.read("a", 0, &mut buffer).unwrap(), &buffer[..5]), (5, &b"bytes"[..]));
        assert_eq!(look.len("a").unwrap(), 5);
        assert!(look.list("").unwrap().contains(&"a".to_owned()));
        let refused = [
            look.create("b").map(|_| ()),
            look.create_dir("d"),
            look.truncate("a", 0),
            look.rename("a", "b"),
            look.remove("a"),
            look.share().remove("a"),
        ];
        for refused in refused {
            assert!(refused.unwrap_err().message.contains("read only"));
        }
        let elsewhere = dir.path().join("none");
        assert!(Disk::look(&elsewhere).is_err());
        assert!(!elsewhere.exists());
    }
}
