//! The last words of a container: what it wrote to its termination message file, or the end of its log.

use std::{
    fs,
    path::{Path, PathBuf},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Container;
use orchestra_core::runtime::{ContainerId, ContainerStatus, LogOptions, Mount};

use super::{Shared, volume};

/// Where a container writes its last words, unless it says so.
const MESSAGE_PATH: &str = "/dev/termination-log";
/// How much of them is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// How much of a log is taken for them: lines, and bytes.
const LOG_LINES_MAX: usize = 80;
const LOG_BYTES_MAX: usize = 2_048;

/// Makes the file for an attempt's last words, and shows it to the container, unless a volume is there.
pub(super) fn mount(
    dir: &Path,
    id: &ContainerId,
    container: &Container,
    mounts: &mut Vec<Mount>,
) -> Result<(), String> {
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(MESSAGE_PATH);
    if mounts.iter().any(|mount| Path::new(path).starts_with(&mount.container_path)) {
        return Ok(());
    }
    let host_path = file(dir, id);
    let made = volume::make_dir(host_path.parent().unwrap_or(dir), 0o755).and_then(|()| fs::File::create(&host_path));
    made.map_err(|error| error.to_string())?;
    mounts.push(Mount { host_path, container_path: path.into(), read_only: false });
    Ok(())
}

/// Reads the last words of an attempt that has exited; empty if there are none.
pub(super) async fn message(shared: &Shared, dir: &Path, container: &Container, status: &ContainerStatus) -> String {
    let mut bytes = fs::read(file(dir, &status.id)).unwrap_or_default();
    bytes.truncate(MESSAGE_BYTES_MAX);
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !bytes.is_empty() || !falls_back || status.state.exit_code() == Some(0) {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let options = LogOptions { tail_lines: Some(LOG_LINES_MAX), ..LogOptions::default() };
    let Some(logs) = shared.runtime.logs() else { return String::new() };
    let Ok(mut log) = logs.open(&status.id, options).await else { return String::new() };
    let mut text = Vec::new();
    while let Some(Ok(line)) = log.next().await {
        text.extend_from_slice(&line.text);
        text.extend(line.complete.then_some(b'\n'));
    }
    let start = text.len().saturating_sub(LOG_BYTES_MAX);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
}

fn file(dir: &Path, id: &ContainerId) -> PathBuf {
    dir.join("termination").join(format!("{}.{}", id.name, id.attempt))
}
