//! Commands that the engine runs in containers.

use async_trait::async_trait;
use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults},
};
use futures::StreamExt as _;
use orchestra_core::runtime::{
    ContainerExec, ContainerId, Error, ExecControl, ExecSession, ExecSpec, Result, TerminalSize,
};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
};

use super::{DockerRuntime, convert::container_name};

/// How much output waits for its reader, in bytes.
const PIPE_BYTES: usize = 65_536;

#[async_trait]
impl ContainerExec for DockerRuntime {
    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession> {
        if !self.state(id).await?.is_some_and(|state| state.is_running()) {
            return Err(Error::NoContainer(id.clone()));
        }
        let options = CreateExecOptions {
            attach_stdin: Some(spec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(spec.tty),
            cmd: Some(spec.command.iter().map(ToString::to_string).collect::<Vec<String>>()),
            ..CreateExecOptions::default()
        };
        let program = spec.command.first().cloned().unwrap_or_default();
        let failed = |source: bollard::errors::Error| Error::Start { program, source: source.into() };
        let exec =
            self.engine.create_exec(&container_name(&self.node, id), options).await.map_err(Error::unavailable)?;
        let start = StartExecOptions { tty: spec.tty, ..StartExecOptions::default() };
        let started = self.engine.start_exec(&exec.id, Some(start)).await.map_err(failed)?;
        let StartExecResults::Attached { mut output, input } = started else {
            return Err(Error::unavailable("the engine did not attach"));
        };
        let (stdout, mut to_stdout) = duplex(PIPE_BYTES);
        let (stderr, mut to_stderr) = duplex(PIPE_BYTES);
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Some(Ok(chunk)) = output.next().await {
                pass_on(chunk, &mut to_stdout, &mut to_stderr).await;
            }
            end.send_replace(true);
        });
        let control = Control { engine: self.engine.clone(), exec: exec.id, ended, task };
        Ok(ExecSession {
            stdin: spec.stdin.then_some(input),
            stdout: Box::pin(stdout),
            stderr: (!spec.tty).then(|| Box::pin(stderr) as _),
            control: Box::new(control),
        })
    }
}

/// Hands output to its reader; to one that is gone, in vain.
async fn pass_on(chunk: LogOutput, stdout: &mut DuplexStream, stderr: &mut DuplexStream) {
    let _gone = match chunk {
        LogOutput::StdErr { message } => stderr.write_all(&message).await,
        LogOutput::StdOut { message } | LogOutput::Console { message } => stdout.write_all(&message).await,
        LogOutput::StdIn { .. } => Ok(()),
    };
}

struct Control {
    engine: Docker,
    exec: String,
    ended: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let size = ResizeExecOptions { height: size.height, width: size.width };
        self.engine.resize_exec(&self.exec, size).await.map_err(Error::unavailable)
    }

    async fn wait(&self) -> Result<i32> {
        // The engine ends the output when the command ends.
        self.ended.clone().wait_for(|ended| *ended).await.map_err(Error::unavailable)?;
        let exec = self.engine.inspect_exec(&self.exec).await.map_err(Error::unavailable)?;
        let code = exec.exit_code.and_then(|code| code.try_into().ok());
        code.ok_or_else(|| Error::unavailable("the engine has no exit code of the command"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}
