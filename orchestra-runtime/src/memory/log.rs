//! What a pretended container wrote.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, ContainerLogs, Error, LOG_LINE_BYTES_MAX, LogLine, LogOptions, LogStream, Result},
};
use tokio::sync::watch;

use crate::memory::MemoryRuntime;

/// How many lines of one container are kept.
const LOG_LINES_MAX: usize = 10_000;

/// A container's lines, and whether more may come.
#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<Lines>,
    /// Changes with every line; true once the container has exited.
    exited: watch::Sender<bool>,
}

#[derive(Default)]
struct Lines {
    /// The number of the first line kept.
    first: usize,
    kept: VecDeque<LogLine>,
    /// What was written after the last line feed, by stream.
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Adds what the container wrote at `now`.
    pub(super) fn write(&self, stream: LogStream, bytes: &[u8], now: Timestamp) {
        self.lock().write(stream, bytes, now);
        self.exited.send_modify(|_| {});
    }

    /// Marks the end of what the container writes.
    pub(super) fn close(&self, now: Timestamp) {
        let mut lines = self.lock();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            lines.flush(stream, false, now);
        }
        drop(lines);
        self.exited.send_replace(true);
    }

    /// Tells when the container exits.
    pub(super) fn exit(&self) -> watch::Receiver<bool> {
        self.exited.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn write(&mut self, stream: LogStream, bytes: &[u8], now: Timestamp) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            for chunk in text.chunks(LOG_LINE_BYTES_MAX) {
                if self.unfinished[stream as usize].len() + chunk.len() > LOG_LINE_BYTES_MAX {
                    self.flush(stream, false, now);
                }
                self.unfinished[stream as usize].extend_from_slice(chunk);
            }
            if complete {
                self.flush(stream, true, now);
            }
        }
    }

    fn flush(&mut self, stream: LogStream, complete: bool, at: Timestamp) {
        let text = Bytes::from(std::mem::take(&mut self.unfinished[stream as usize]));
        if text.is_empty() && !complete {
            return;
        }
        self.kept.push_back(LogLine { at, stream, text, complete });
        if self.kept.len() > LOG_LINES_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// The number of the first line that `options` asks for.
    fn start(&self, options: LogOptions) -> usize {
        let since = options.since.map_or(0, |since| self.kept.partition_point(|line| line.at < since));
        let tail = options.tail_lines.map_or(0, |lines| self.kept.len().saturating_sub(lines));
        self.first + since.max(tail)
    }

    /// The line of that number or, if it is gone, the first one kept; and the number after it.
    fn next(&self, number: usize) -> Option<(LogLine, usize)> {
        let number = number.max(self.first);
        Some((self.kept.get(number - self.first)?.clone(), number + 1))
    }
}

#[async_trait]
impl ContainerLogs for MemoryRuntime {
    async fn open(&self, id: &ContainerId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        let log = self.answer()?.container(id).map(|container| container.log.clone());
        let log = log.ok_or_else(|| Error::NoContainer(id.clone()))?;
        let (start, exited) = (log.lock().start(options), log.exit());
        let lines = stream::unfold((log, start, exited), move |(log, number, mut exited)| async move {
            loop {
                let over = *exited.borrow_and_update();
                if let Some((line, number)) = next(&log, number) {
                    return Some((Ok(line), (log, number, exited)));
                }
                if over || !options.follow || exited.changed().await.is_err() {
                    return None;
                }
            }
        });
        Ok(lines.boxed())
    }
}

fn next(log: &Arc<Log>, number: usize) -> Option<(LogLine, usize)> {
    log.lock().next(number)
}
