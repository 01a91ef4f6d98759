//! The directory of a store: which files there are, and how one is read frame by frame.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FRAME_HEAD_BYTES, FileKind, MAGIC, Record, checksum, decode, encode},
    error::OpenError,
};

/// The file whose lock says that a store is open.
const LOCK: &str = "LOCK";
/// How often a lock that another process has is tried again, and what is waited before each: a second in all, for a process
/// that was killed holds its lock until the kernel has cleared it away.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// The extension of a file that is not whole yet.
const DRAFT: &str = "draft";

/// A directory that nobody else has open.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The lock is the operating system's, and so ends with the process, however it ends.
    lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it; waits a second for one that is locked.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(OpenError::io(path))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(OpenError::io(&file))?;
        let mut locked = lock.try_lock();
        for _ in 0..LOCK_TRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_WAIT);
            locked = lock.try_lock();
        }
        match locked {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(OpenError::Io { file, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    /// Closing the file alone would leave the lock to a child that another thread has forked and that has not yet
    /// executed its program.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, directory = %self.path.display(), "can't unlock a store");
        }
    }
}

/// The path of the log of the commits after `base`, or of the checkpoint as of it.
pub(super) fn file_path(directory: &Path, kind: FileKind, base: Revision) -> PathBuf {
    directory.join(format!("{}-{:020}", stem(kind), base.0))
}

fn stem(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Log => "log",
        FileKind::Checkpoint => "checkpoint",
    }
}

/// The revisions of the files of `kind`, in order. What has another name is not looked at.
pub(super) fn revisions(directory: &Path, kind: FileKind) -> Result<Vec<Revision>, OpenError> {
    let mut revisions = Vec::new();
    for entry in fs::read_dir(directory).map_err(OpenError::io(directory))? {
        let name = entry.map_err(OpenError::io(directory))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(stem(kind))?.strip_prefix('-')?.parse().ok());
        revisions.extend(number.map(Revision));
    }
    revisions.sort_unstable();
    Ok(revisions)
}

/// Writes a file that is there whole or not at all, even after a crash, and returns it ready to be appended to.
pub(super) fn create_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let draft = path.with_extension(DRAFT);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&draft)?;
    write(&mut file)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    if let Some(directory) = path.parent() {
        sync_directory(directory)?;
    }
    OpenOptions::new().append(true).open(path)
}

/// Makes an empty log of the commits after `base`.
pub(super) fn create_log(directory: &Path, base: Revision) -> io::Result<(PathBuf, File, u64)> {
    let path = file_path(directory, FileKind::Log, base);
    let mut head = Vec::new();
    encode(&Record::Header { format: FORMAT, kind: FileKind::Log, revision: base }, &mut head);
    let file = create_whole(&path, |file| file.write_all(&head))?;
    Ok((path, file, head.len() as u64))
}

/// Makes the names in a directory durable; only Unix has a call for it, and needs one.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Removes the logs and checkpoints before `base`.
///
/// One that stays, for example after a crash, does no harm and is removed when the store next opens.
pub(super) fn remove_before(directory: &Path, base: Revision) -> Result<(), OpenError> {
    for kind in [FileKind::Log, FileKind::Checkpoint] {
        for revision in revisions(directory, kind)?.into_iter().filter(|revision| *revision < base) {
            let path = file_path(directory, kind, revision);
            fs::remove_file(&path).map_err(OpenError::io(&path))?;
        }
    }
    Ok(())
}

/// Removes the files that a crash kept from becoming whole.
pub(super) fn remove_drafts(directory: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(directory).map_err(OpenError::io(directory))? {
        let path = entry.map_err(OpenError::io(directory))?.path();
        if path.extension().is_some_and(|extension| extension == DRAFT) {
            fs::remove_file(&path).map_err(OpenError::io(&path))?;
        }
    }
    Ok(())
}

/// What a look for the next frame came to.
#[derive(Debug)]
pub(super) enum Next {
    /// A whole record.
    Record(Record),
    /// The file ends here.
    End,
    /// No whole frame begins here, nor anywhere after: what a crash leaves of a write that was not synced.
    Torn,
}

/// Reads a file record by record.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    /// Where the next frame begins.
    offset: u64,
    len: u64,
}

impl Reader {
    /// Opens a file and reads its header, which must be of `kind` and `base`.
    pub(super) fn open(directory: &Path, kind: FileKind, base: Revision) -> Result<Self, OpenError> {
        let path = file_path(directory, kind, base);
        let file = File::open(&path).map_err(OpenError::io(&path))?;
        let len = file.metadata().map_err(OpenError::io(&path))?.len();
        let mut reader = Self { path, input: BufReader::with_capacity(1 << 16, file), offset: 0, len };
        match reader.next()? {
            Next::Record(Record::Header { format, .. }) if format > FORMAT => {
                Err(OpenError::Format { file: reader.path, found: format, supported: FORMAT })
            }
            Next::Record(Record::Header { kind: found, revision, .. }) if (found, revision) == (kind, base) => {
                Ok(reader)
            }
            _ => Err(OpenError::corrupt(&reader.path, 0, "the header is not this file's")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether nothing follows.
    pub(super) fn is_at_end(&self) -> bool {
        self.offset == self.len
    }

    /// An error that names this file and the place before the next frame.
    pub(super) fn corrupt(&self, reason: &'static str) -> OpenError {
        OpenError::corrupt(&self.path, self.offset, reason)
    }

    /// Reads the next record.
    ///
    /// # Errors
    ///
    /// [`OpenError::Corrupt`] for a broken frame with a whole one after it: as each was synced before the next was
    /// written, the disk lost something.
    pub(super) fn next(&mut self) -> Result<Next, OpenError> {
        if self.is_at_end() {
            return Ok(Next::End);
        }
        match self.read_frame().map_err(OpenError::io(&self.path))? {
            Ok(payload) => {
                let record = decode(&payload).map_err(|reason| self.corrupt(reason))?;
                self.offset += (FRAME_HEAD_BYTES + payload.len()) as u64;
                Ok(Next::Record(record))
            }
            Err(rest) if has_whole_frame(rest.get(1..).unwrap_or_default()) => {
                Err(self.corrupt("a checksum does not match"))
            }
            Err(_) => Ok(Next::Torn),
        }
    }

    /// The payload of the next frame, or, if it is broken, all that is left of the file.
    fn read_frame(&mut self) -> io::Result<Result<Vec<u8>, Vec<u8>>> {
        let left = self.len - self.offset;
        let mut bytes = vec![0; FRAME_HEAD_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.input.read_exact(&mut bytes)?;
        if let Some((len, sum)) = parse_head(&bytes)
            && u64::from(u32::from_le_bytes(len)) <= left - FRAME_HEAD_BYTES as u64
        {
            let mut payload = vec![0; u32::from_le_bytes(len) as usize];
            self.input.read_exact(&mut payload)?;
            if checksum(len, &payload) == sum {
                return Ok(Ok(payload));
            }
            bytes.append(&mut payload);
        }
        self.input.read_to_end(&mut bytes)?;
        Ok(Err(bytes))
    }
}

/// The length bytes and the checksum of the frame that `bytes` begin with.
fn parse_head(bytes: &[u8]) -> Option<([u8; 4], u32)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let sum = rest.first_chunk::<4>()?;
    (*magic == MAGIC).then_some((*len, u32::from_le_bytes(*sum)))
}

/// Whether a whole frame begins anywhere in `bytes`.
fn has_whole_frame(bytes: &[u8]) -> bool {
    bytes.windows(FRAME_HEAD_BYTES).enumerate().any(|(start, head)| {
        parse_head(head).is_some_and(|(len, sum)| {
            let payload = bytes[start + FRAME_HEAD_BYTES..].get(..u32::from_le_bytes(len) as usize);
            payload.is_some_and(|payload| checksum(len, payload) == sum)
        })
    })
}
