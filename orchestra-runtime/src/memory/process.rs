//! Pretended programs, running.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use orchestra_core::{
    clock::Clock,
    runtime::{EnvVar, LogStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
    time::Instant,
};

use crate::memory::{
    log::Log,
    script::{Program, Statement, expand, parse},
};

/// The code of what a request to end has ended: 128 + SIGTERM.
const TERMINATED: i32 = 143;
/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 4_096;

/// A program in progress.
pub(super) struct Process {
    pub(super) stdin: Option<Pin<Box<dyn AsyncRead + Send>>>,
    program: Program,
    env: BTreeMap<Box<str>, Box<str>>,
    output: Output,
    term: Arc<Notify>,
    trap: Trap,
    unknown: Unknown,
    /// The code of the last statement.
    code: i32,
}

/// Where a program writes to.
pub(super) enum Output {
    /// A container's log.
    Log {
        /// The log.
        log: Arc<Log>,
        /// When lines are written.
        clock: Arc<dyn Clock>,
    },
    /// The caller of an exec; one pipe if it has a terminal.
    Pipes {
        /// Standard output.
        stdout: Box<dyn AsyncWrite + Send + Unpin>,
        /// Standard error.
        stderr: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    },
}

/// What a word that isn't known does.
#[derive(Clone, Copy)]
pub(super) enum Unknown {
    /// Runs until it is told to end.
    Runs,
    /// Succeeds at once.
    Succeeds,
}

/// What a request to end does.
enum Trap {
    Default,
    Ignore,
    Run(Vec<Statement>),
}

impl Process {
    pub(super) fn new(program: Program, env: &[EnvVar], output: Output, term: Arc<Notify>, unknown: Unknown) -> Self {
        let env = env.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect();
        Self { stdin: None, program, env, output, term, trap: Trap::Default, unknown, code: 0 }
    }

    /// Runs to the end and returns the exit code.
    pub(super) async fn run(mut self) -> i32 {
        let statements = std::mem::take(&mut self.program.statements);
        self.statements(&statements).await.unwrap_or(self.code)
    }

    /// Runs statements; returns the exit code if one of them ended the program.
    async fn statements(&mut self, statements: &[Statement]) -> Option<i32> {
        for statement in statements {
            let words = statement.words.iter().map(|word| expand(word, &self.env, &self.program.args));
            let words: Vec<String> = words.collect();
            if let Some(code) = self.statement(&words, statement.to_stderr).await {
                return Some(code);
            }
        }
        None
    }

    async fn statement(&mut self, words: &[String], to_stderr: bool) -> Option<i32> {
        let mut words = words.iter().map(String::as_str);
        let name = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        let stream = if to_stderr { LogStream::Stderr } else { LogStream::Stdout };
        let before = std::mem::take(&mut self.code);
        match (name.rsplit('/').next().unwrap_or(name), &words[..]) {
            ("exit", words) => return Some(words.first().and_then(|code| code.parse().ok()).unwrap_or(before)),
            ("true" | ":" | "wait", _) => {}
            ("false", _) => self.code = 1,
            ("echo", words) => self.output.write(stream, format!("{}\n", words.join(" ")).as_bytes()).await,
            ("printf", words) => self.output.write(stream, words.join(" ").as_bytes()).await,
            ("trap", [action, "TERM", ..]) => {
                self.trap = if action.is_empty() { Trap::Ignore } else { Trap::Run(parse(action)) };
            }
            ("sleep", [time, ..]) => return self.sleep(time.parse().ok()).await,
            ("cat", []) => self.cat(stream).await,
            _ => match self.unknown {
                Unknown::Runs => return self.sleep(None).await,
                Unknown::Succeeds => {}
            },
        }
        None
    }

    /// Waits for so many seconds, or for ever; returns the exit code if a request to end did.
    async fn sleep(&mut self, seconds: Option<f64>) -> Option<i32> {
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let end = time.map(|time| Instant::now() + time);
        loop {
            let elapsed = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.term.notified() => {}
                () = elapsed => return None,
            }
            match std::mem::replace(&mut self.trap, Trap::Default) {
                Trap::Default => return Some(TERMINATED),
                Trap::Ignore => self.trap = Trap::Ignore,
                Trap::Run(statements) => {
                    let ended = Box::pin(self.statements(&statements)).await;
                    if ended.is_some() {
                        return ended;
                    }
                    self.trap = Trap::Run(statements);
                }
            }
        }
    }

    /// Writes what is read, to its end.
    async fn cat(&mut self, stream: LogStream) {
        let mut chunk = [0; CHUNK_BYTES];
        while let Some(stdin) = &mut self.stdin
            && let Ok(read @ 1..) = stdin.read(&mut chunk).await
        {
            self.output.write(stream, &chunk[..read]).await;
        }
    }
}

impl Output {
    /// Writes; to a caller that is gone, in vain.
    async fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        match self {
            Self::Log { log, clock } => log.write(stream, bytes, clock.now()),
            Self::Pipes { stdout, stderr } => {
                let stderr = stderr.as_mut().filter(|_| stream == LogStream::Stderr);
                let _gone = stderr.unwrap_or(stdout).write_all(bytes).await;
            }
        }
    }
}
