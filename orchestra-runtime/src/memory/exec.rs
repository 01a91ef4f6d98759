//! Pretended commands in pretended containers.

use std::sync::Arc;

use async_trait::async_trait;
use orchestra_core::runtime::{
    ContainerExec, ContainerId, Error, ExecControl, ExecSession, ExecSpec, Result, TerminalSize,
};
use tokio::{
    io::duplex,
    sync::{Notify, watch},
    task::JoinHandle,
};

use crate::memory::{
    MemoryRuntime,
    process::{Output, Process, Unknown},
    script::Program,
};

/// How much a pipe holds, in bytes: Linux's usual.
const PIPE_BYTES: usize = 65_536;

#[async_trait]
impl ContainerExec for MemoryRuntime {
    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession> {
        let env = self.answer()?.running(id).map(|container| container.env.clone());
        let env = env.ok_or_else(|| Error::NoContainer(id.clone()))?;
        let program = Program::new(&spec.command)?;
        let (stdin, stdin_writer) = duplex(PIPE_BYTES);
        let (stdout, stdout_writer) = duplex(PIPE_BYTES);
        let (stderr, stderr_writer) = duplex(PIPE_BYTES);
        let output = Output::Pipes {
            stdout: Box::new(stdout_writer),
            stderr: (!spec.tty).then(|| Box::new(stderr_writer) as _),
        };
        let mut process = Process::new(program, &env, output, Arc::new(Notify::new()), Unknown::Succeeds);
        if spec.stdin {
            process.stdin = Some(Box::pin(stdin));
        }
        let (end, code) = watch::channel(None);
        let task = tokio::spawn(async move {
            end.send_replace(Some(process.run().await));
        });
        Ok(ExecSession {
            stdin: spec.stdin.then(|| Box::pin(stdin_writer) as _),
            stdout: Box::pin(stdout),
            stderr: (!spec.tty).then(|| Box::pin(stderr) as _),
            control: Box::new(Control { task, code }),
        })
    }
}

struct Control {
    task: JoinHandle<()>,
    code: watch::Receiver<Option<i32>>,
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, _size: TerminalSize) -> Result<()> {
        Ok(())
    }

    async fn wait(&self) -> Result<i32> {
        let mut code = self.code.clone();
        let code = code.wait_for(Option::is_some).await.map_err(Error::unavailable)?;
        code.ok_or_else(|| Error::unavailable("the command was cut off"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}
