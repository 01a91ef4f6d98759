//! What containers write.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{ContainerId, Result};
use crate::clock::Timestamp;

/// The longest line, in bytes, kept in one piece: 16 KiB, as the other container runtimes have it.
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;

/// An optional ability of a [`ContainerRuntime`](super::ContainerRuntime): to read what a container wrote.
#[async_trait]
pub trait ContainerLogs: Send + Sync {
    /// Opens the log of a container, running or exited, oldest line first.
    ///
    /// A log is bounded: of a long one the oldest lines are gone.
    ///
    /// # Cancellation
    ///
    /// Dropping the stream costs nothing and loses nothing.
    ///
    /// # Errors
    ///
    /// [`NoContainer`](super::Error::NoContainer) if there is none by this id. Items are errors if reading fails midway.
    async fn open(&self, id: &ContainerId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>>;
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// At most so many of the lines there are; absent for all.
    pub tail_lines: Option<usize>,
    /// Only lines written at this moment or later.
    pub since: Option<Timestamp>,
    /// Whether to wait for more, until the container has exited and all is read.
    pub follow: bool,
}

/// A line, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, as near as the runtime can tell.
    pub at: Timestamp,
    /// Where it was written to.
    pub stream: LogStream,
    /// What was written, without the line feed.
    pub text: Bytes,
    /// Whether a line feed followed; otherwise the line goes on in the next piece, or the container ended within it.
    pub complete: bool,
}

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStream {
    /// Standard output, and all that goes to a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}
