//! From what a program writes to its log.
//!
//! A program writes straight into two files, so that it never waits for a kubelet, alive or not. While the runtime
//! lives, it moves new bytes line by line, with stamp and stream, into a log in the format of the CRI, and gives the
//! space of what it has moved back to the file system by punching holes. The log is bounded by rotation.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use orchestra_core::{
    clock::Timestamp,
    runtime::{LOG_LINE_BYTES_MAX, LogStream},
};
use rustix::fs::{FallocateFlags, fallocate};

use super::{
    log::{LOG_FILE, OLD_LOG_FILE, encode},
    script::{STDERR_FILE, STDOUT_FILE},
};

/// How large a log grows before it becomes the old one, in bytes; there is one old one.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// How much moved space is kept before it is given back, in bytes.
const PUNCH_BYTES: u64 = 1 << 20;
/// Where it is written how far the files were moved.
const POSITION_FILE: &str = "moved";

/// Moves what one container writes. Dropped and made again, it repeats at most one chunk.
pub(super) struct Spool {
    dir: PathBuf,
    sources: [Source; 2],
    log: File,
    log_bytes: u64,
    position: File,
}

struct Source {
    stream: LogStream,
    file: File,
    /// How far it was read, the unfinished line included.
    read: u64,
    /// How far its space was given back.
    punched: u64,
    unfinished: Vec<u8>,
}

/// What a move did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Whether lines were added.
    pub(super) lines: bool,
    /// Whether the log was rotated.
    pub(super) rotated: bool,
    /// Whether there may be more to move.
    pub(super) more: bool,
}

impl Spool {
    /// Opens the files of a container's directory, and makes those that are not there.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let open = |name: &str| File::options().read(true).append(true).create(true).open(dir.join(name));
        let position =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join(POSITION_FILE))?;
        let mut moved = [0; 16];
        let _none_at_first = position.read_exact_at(&mut moved, 0);
        let half = |range: std::ops::Range<usize>| moved[range].try_into().map_or(0, u64::from_le_bytes);
        let source = |stream, file, read| Source { stream, file, read, punched: read, unfinished: Vec::new() };
        let log = open(LOG_FILE)?;
        Ok(Self {
            dir: dir.into(),
            sources: [
                source(LogStream::Stdout, open(STDOUT_FILE)?, half(0..8)),
                source(LogStream::Stderr, open(STDERR_FILE)?, half(8..16)),
            ],
            log_bytes: log.metadata()?.len(),
            log,
            position,
        })
    }

    /// Logs to another file.
    #[cfg(test)]
    pub(super) fn redirect_log(&mut self, log: File) {
        self.log = log;
    }

    /// The files that the program writes to.
    pub(super) fn sources(&self) -> [PathBuf; 2] {
        [STDOUT_FILE, STDERR_FILE].map(|name| self.dir.join(name))
    }

    /// Moves a chunk of each stream, stamped `now`.
    ///
    /// After an error, such as a full disk, nothing is moved, and nothing is lost: it is to be tried again.
    pub(super) fn advance(&mut self, now: Timestamp) -> io::Result<Moved> {
        let (mut lines, mut more) = (Vec::new(), false);
        let before = self.sources.each_ref().map(|source| (source.read, source.unfinished.clone()));
        let mut move_all = || {
            for source in &mut self.sources {
                more |= source.advance(now, &mut lines)?;
            }
            Ok(())
        };
        let outcome: io::Result<()> = move_all();
        let rotated = match outcome.and_then(|()| self.append(&lines)) {
            Ok(rotated) => rotated,
            Err(error) => {
                for (source, (read, unfinished)) in self.sources.iter_mut().zip(before) {
                    (source.read, source.unfinished) = (read, unfinished);
                }
                // Half a line may be there already.
                let _tried_again = self.log.set_len(self.log_bytes);
                return Err(error);
            }
        };
        Ok(Moved { lines: !lines.is_empty(), rotated, more })
    }

    /// Moves all that is left of a program that has ended, its unfinished lines too.
    pub(super) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        while self.advance(now)?.more {}
        let mut lines = Vec::new();
        for source in &mut self.sources {
            source.flush(false, now, &mut lines);
        }
        self.append(&lines)?;
        Ok(())
    }

    /// Adds lines to the log and writes down how far it is; true if it was rotated.
    fn append(&mut self, lines: &[u8]) -> io::Result<bool> {
        if lines.is_empty() {
            return Ok(false);
        }
        self.log.write_all(lines)?;
        self.log_bytes += lines.len() as u64;
        let mut moved = [0; 16];
        moved[..8].copy_from_slice(&self.sources[0].moved().to_le_bytes());
        moved[8..].copy_from_slice(&self.sources[1].moved().to_le_bytes());
        self.position.write_all_at(&moved, 0)?;
        self.sources.iter_mut().for_each(Source::punch);
        if self.log_bytes < LOG_BYTES_MAX {
            return Ok(false);
        }
        fs::rename(self.dir.join(LOG_FILE), self.dir.join(OLD_LOG_FILE))?;
        self.log = File::options().append(true).create(true).open(self.dir.join(LOG_FILE))?;
        self.log_bytes = 0;
        Ok(true)
    }
}

impl Source {
    /// How far the bytes are in the log.
    fn moved(&self) -> u64 {
        self.read - self.unfinished.len() as u64
    }

    fn advance(&mut self, now: Timestamp, lines: &mut Vec<u8>) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = self.file.read_at(&mut chunk, self.read)?;
        self.read += read as u64;
        for piece in chunk[..read].split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            for part in text.chunks(LOG_LINE_BYTES_MAX) {
                if self.unfinished.len() + part.len() > LOG_LINE_BYTES_MAX {
                    self.flush(false, now, lines);
                }
                self.unfinished.extend_from_slice(part);
            }
            if complete {
                self.flush(true, now, lines);
            }
        }
        Ok(read == CHUNK_BYTES)
    }

    fn flush(&mut self, complete: bool, now: Timestamp, lines: &mut Vec<u8>) {
        if complete || !self.unfinished.is_empty() {
            encode(now, self.stream, complete, &self.unfinished, lines);
            self.unfinished.clear();
        }
    }

    /// Gives moved space back; where the file system can't, it stays until the container is removed.
    fn punch(&mut self) {
        let moved = self.moved();
        if moved - self.punched >= PUNCH_BYTES {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _unsupported = fallocate(&self.file, flags, 0, moved);
            self.punched = moved;
        }
    }
}
