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
    /// Which one it must be, if it is held.
    held: Identity,
}

impl Directory {
    /// Whichever is at `path`.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), held: None }
    }

    /// The one at `path` that is held open as `held`: should another come to be there, that one's files are left alone.
    pub(super) fn held(path: impl Into<PathBuf>, held: &File) -> io::Result<Self> {
        Ok(Self { path: path.into(), held: identity(&held.metadata()?) })
    }

    /// The path of the directory, if that is the one that is held.
    fn here(&self) -> io::Result<&Path> {
        if self.held.is_some() && !is_at(&self.path, self.held)? {
            return Err(moved());
        }
        Ok(&self.path)
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
        let names = fs::read_dir(self.here()?)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let file = File::open(self.here()?.join(name))?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(for_its_owner(OpenOptions::new().append(true).create_new(true)).open(self.here()?.join(name))?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(OpenOptions::new().append(true).open(self.here()?.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.here()?.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.here()?.join(name))
    }

    /// Only Unix has a call for it, and needs one.
    fn sync_names(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(self.here()?)?.sync_all() } else { Ok(()) }
    }
}
