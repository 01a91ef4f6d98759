//! Logs on disk: their format, and how they are read.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, ContainerLogs, Error, LogLine, LogOptions, LogStream, Result},
};
use tokio::sync::watch;

use super::{
    ProcessRuntime,
    container::{Container, Progress},
};

/// The log.
pub(super) const LOG_FILE: &str = "log";
/// What the log was before it was rotated.
pub(super) const OLD_LOG_FILE: &str = "log.1";

/// Adds a line in the format of the CRI: stamp, stream, `F` for a full line or `P` for a part, text.
pub(super) fn encode(at: Timestamp, stream: LogStream, complete: bool, text: &[u8], lines: &mut Vec<u8>) {
    let stream = if stream == LogStream::Stdout { "stdout" } else { "stderr" };
    let tag = if complete { 'F' } else { 'P' };
    lines.extend_from_slice(format!("{at:.9} {stream} {tag} ").as_bytes());
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

/// Reads what [`encode`] wrote, with or without the line feed; none of anything else.
pub(super) fn decode(line: &[u8]) -> Option<LogLine> {
    const FIELDS: usize = 4;
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(FIELDS, |&byte| byte == b' ');
    let at = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = if fields.next()? == b"stderr" { LogStream::Stderr } else { LogStream::Stdout };
    let complete = fields.next()? == b"F";
    Some(LogLine { at, stream, complete, text: Bytes::copy_from_slice(fields.next()?) })
}

/// Reads a container's log, the old one first, and goes on as it grows.
struct Reader {
    dir: PathBuf,
    /// What is yet to be read before the current log.
    old: Option<BufReader<File>>,
    current: BufReader<File>,
    /// How often the current log had been rotated when it was opened.
    rotations: u64,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
    progress: watch::Receiver<Progress>,
}

impl Reader {
    fn open(dir: &Path, mut progress: watch::Receiver<Progress>) -> std::io::Result<Self> {
        let rotations = progress.borrow_and_update().rotations;
        let old = File::open(dir.join(OLD_LOG_FILE)).ok().map(BufReader::new);
        let current = BufReader::new(File::open(dir.join(LOG_FILE))?);
        Ok(Self { dir: dir.into(), old, current, rotations, partial: Vec::new(), progress })
    }

    /// The next line that is there already.
    fn next(&mut self) -> std::io::Result<Option<LogLine>> {
        loop {
            let source = self.old.as_mut().unwrap_or(&mut self.current);
            source.read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") {
                let line = decode(&self.partial);
                self.partial.clear();
                if line.is_some() {
                    return Ok(line);
                }
            } else if self.old.take().is_none() {
                return Ok(None);
            }
        }
    }

    /// The next line, whenever it comes; none when the container has exited and all is read.
    async fn follow(&mut self) -> std::io::Result<Option<LogLine>> {
        loop {
            let progress = *self.progress.borrow_and_update();
            if let Some(line) = self.next()? {
                return Ok(Some(line));
            }
            if progress.rotations != self.rotations {
                self.current = BufReader::new(File::open(self.dir.join(LOG_FILE))?);
                self.rotations = progress.rotations;
            } else if progress.exit.is_some() || self.progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

#[async_trait]
impl ContainerLogs for ProcessRuntime {
    async fn open(&self, id: &ContainerId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        let container = self.container(id).ok_or_else(|| Error::NoContainer(id.clone()))?;
        let skip = match options.tail_lines {
            None => 0,
            Some(tail) => count(&container, options.since)?.saturating_sub(tail),
        };
        let reader = reader(&container)?;
        let lines = stream::unfold(reader, move |mut reader| async move {
            let line = if options.follow { reader.follow().await } else { reader.next() };
            line.map_err(Error::unavailable).transpose().map(|line| (line, reader))
        });
        let is_new = move |line: &Result<LogLine>| {
            let at = line.as_ref().map(|line| line.at).unwrap_or(Timestamp::MAX);
            options.since.is_none_or(|since| at >= since)
        };
        Ok(lines.filter(move |line| std::future::ready(is_new(line))).skip(skip).boxed())
    }
}

fn reader(container: &Arc<Container>) -> Result<Reader> {
    Reader::open(&container.dir, container.progress.subscribe()).map_err(Error::unavailable)
}

/// How many lines there are of that time or later.
fn count(container: &Arc<Container>, since: Option<Timestamp>) -> Result<usize> {
    let mut reader = reader(container)?;
    let mut count = 0;
    while let Some(line) = reader.next().map_err(Error::unavailable)? {
        count += usize::from(since.is_none_or(|since| line.at >= since));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use orchestra_core::{clock::Timestamp, runtime::LogStream};
    use proptest::prelude::{Strategy as _, any, prop, prop_assert_eq, proptest};

    use super::{decode, encode};

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            text in prop::collection::vec(any::<u8>().prop_filter("no line feed", |&b| b != b'\n'), 0..64),
            nanos in 0..i128::from(i64::MAX),
            complete: bool,
        ) {
            let at = Timestamp::from_nanosecond(nanos).unwrap();
            let mut line = Vec::new();
            encode(at, LogStream::Stderr, complete, &text, &mut line);
            let decoded = decode(&line).unwrap();
            prop_assert_eq!((decoded.at, decoded.stream, decoded.complete), (at, LogStream::Stderr, complete));
            prop_assert_eq!(&decoded.text[..], &text[..]);
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..64)) {
            decode(&line);
        }
    }
}
