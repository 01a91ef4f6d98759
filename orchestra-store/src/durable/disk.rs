//! What a store is kept on: the files of one directory, or in tests a disk that forgets what was not synced.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The files of a store, by name; all that it asks of a file system.
///
/// What is written survives a crash once it is synced, and what is made, renamed or removed once the names are.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// Where the files are, for messages.
    fn path(&self) -> &Path;

    /// The names there are, in any order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file to be read from its start, and tells its length in bytes.
    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)>;

    /// Makes a file, which must not be there.
    fn create(&self, name: &str) -> io::Result<Box<dyn Media>>;

    /// Opens a file to be written to at its end.
    fn append(&self, name: &str) -> io::Result<Box<dyn Media>>;

    /// Gives a file another name, whose file, if there is one, goes.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns once the names are on the disk as they are.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that is written to at its end.
pub(super) trait Media: Write + Send {
    /// Returns once all that was written is on the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts off what is after `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Whether it is still the file at `path`; true where the system can't tell.
    fn is_at(&self, path: &Path) -> io::Result<bool>;
}

/// The error that something is not where it was any more.
pub(super) fn moved() -> io::Error {
    io::Error::other("it was moved, removed or replaced while the store has it open")
}

impl Media for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_at(path, identity(&self.metadata()?))
    }
}

/// What tells a file from all others, for as long as it is held open: device and inode. `None` where there are none.
type Identity = Option<(u64, u64)>;

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> Identity {
    None
}

/// Whether what is at `path` is that file or directory.
fn is_at(path: &Path, held: Identity) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(identity(&metadata) == held),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A directory of the operating system.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The directory itself, where the system can hold one: its files are reached through it, wherever it is moved to.
    held: Option<File>,
}

/// What a file is opened for.
#[derive(Clone, Copy)]
enum Use {
    Read,
    Create,
    Append,
}

impl Directory {
    /// Whichever is at `path` when it is asked.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), held: None }
    }

    /// The one that is open as `held`, and was at `path`: should another come to be there, that one's files are left alone.
    pub(super) fn held(path: impl Into<PathBuf>, held: &File) -> io::Result<Self> {
        let held = if cfg!(unix) { Some(held.try_clone()?) } else { None };
        Ok(Self { path: path.into(), held })
    }

    fn open(&self, name: &str, to: Use) -> io::Result<File> {
        #[cfg(unix)]
        if let Some(held) = &self.held {
            use rustix::fs::{Mode, OFlags, openat};
            let flags = match to {
                Use::Read => OFlags::RDONLY,
                Use::Create => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL,
                Use::Append => OFlags::WRONLY | OFlags::APPEND,
            };
            return Ok(openat(held, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?.into());
        }
        let path = self.path.join(name);
        match to {
            Use::Read => File::open(path),
            Use::Create => for_its_owner(OpenOptions::new().append(true).create_new(true)).open(path),
            Use::Append => OpenOptions::new().append(true).open(path),
        }
    }
}

/// Makes a file for its owner alone, where there are owners: a store may hold secrets.
pub(super) fn for_its_owner(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

impl Disk for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    /// Names that are no text are nobody's of ours.
    fn names(&self) -> io::Result<Vec<String>> {
        #[cfg(unix)]
        if let Some(held) = &self.held {
            let names =
                rustix::fs::Dir::read_from(held)?.map(|entry| Ok(entry?.file_name().to_str().ok().map(str::to_owned)));
            return names.filter_map(io::Result::transpose).collect();
        }
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let file = self.open(name, Use::Read)?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(self.open(name, Use::Create)?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(self.open(name, Use::Append)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(held) = &self.held {
            return Ok(rustix::fs::renameat(held, from, held, to)?);
        }
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(held) = &self.held {
            return Ok(rustix::fs::unlinkat(held, name, rustix::fs::AtFlags::empty())?);
        }
        fs::remove_file(self.path.join(name))
    }

    /// Only Unix has a call for it, and needs one.
    fn sync_names(&self) -> io::Result<()> {
        match &self.held {
            Some(held) => held.sync_all(),
            None if cfg!(unix) => File::open(&self.path)?.sync_all(),
            None => Ok(()),
        }
    }
}
