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
}

impl Media for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// A directory of the operating system.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
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
        &self.0
    }

    /// Names that are no text are nobody's of ours.
    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn read(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let file = File::open(self.0.join(name))?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(for_its_owner(OpenOptions::new().append(true).create_new(true)).open(self.0.join(name))?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Media>> {
        Ok(Box::new(OpenOptions::new().append(true).open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    /// Only Unix has a call for it, and needs one.
    fn sync_names(&self) -> io::Result<()> {
        if cfg!(unix) { File::open(&self.0)?.sync_all() } else { Ok(()) }
    }
}
