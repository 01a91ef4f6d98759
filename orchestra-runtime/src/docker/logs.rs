//! Logs that the engine keeps.

use async_trait::async_trait;
use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, ContainerLogs, Error, LogLine, LogOptions, LogStream, Result},
};

use super::{DockerRuntime, convert::container_name};

#[async_trait]
impl ContainerLogs for DockerRuntime {
    async fn open(&self, id: &ContainerId, options: LogOptions) -> Result<BoxStream<'static, Result<LogLine>>> {
        if self.state(id).await?.is_none() {
            return Err(Error::NoContainer(id.clone()));
        }
        let since = options.since.unwrap_or(Timestamp::UNIX_EPOCH);
        let query = LogsOptionsBuilder::default()
            .follow(options.follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            // The engine takes whole seconds; the rest is left out below.
            .since(since.as_second().try_into().unwrap_or(i32::MAX))
            .tail(&options.tail_lines.map_or("all".into(), |lines| lines.to_string()))
            .build();
        let log = self.engine.logs(&container_name(&self.node, id), Some(query));
        let lines = log.filter_map(move |output| {
            std::future::ready(match output {
                Ok(output) => line(&output).filter(|line| line.at >= since).map(Ok),
                Err(error) => Some(Err(Error::unavailable(error))),
            })
        });
        Ok(lines.boxed())
    }
}

/// Reads a line as the engine writes it: a stamp, a space, text.
fn line(output: &LogOutput) -> Option<LogLine> {
    let (stream, message) = match output {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (LogStream::Stdout, message),
        LogOutput::StdIn { .. } => return None,
    };
    let space = message.iter().position(|&byte| byte == b' ')?;
    let at = std::str::from_utf8(message.get(..space)?).ok()?.parse().ok()?;
    let text = message.get(space + 1..)?;
    let (text, complete) = text.strip_suffix(b"\n").map_or((text, false), |text| (text, true));
    Some(LogLine { at, stream, text: Bytes::copy_from_slice(text), complete })
}

#[cfg(test)]
mod tests {
    use bollard::container::LogOutput;

    use super::line;

    #[test]
    fn a_line_of_the_engine_is_read_with_its_stamp() {
        let read = |message: &'static str| line(&LogOutput::StdOut { message: message.into() });
        let full = read("2030-01-01T00:00:00.5Z a line\n").unwrap();
        assert_eq!(
            (full.at.as_millisecond(), &full.text[..], full.complete),
            (1_893_456_000_500, &b"a line"[..], true)
        );
        assert!(!read("2030-01-01T00:00:00Z part").unwrap().complete);
        assert_eq!(read("nonsense"), None);
    }
}
