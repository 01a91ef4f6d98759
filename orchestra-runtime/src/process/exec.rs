//! Commands beside a container's program: with its environment and place, in a group or a terminal session of their own.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    pin::Pin,
    process::{ExitStatus, Stdio},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use orchestra_core::runtime::{
    ContainerExec, ContainerId, Error, ExecControl, ExecSession, ExecSpec, Result, TerminalSize,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
    process::{Child, Command},
    sync::watch,
};

use super::{
    ProcessRuntime,
    image::{DEFAULT_PATH, HOST_IMAGE},
    launch::find,
    record::ProcessRecord,
};

#[async_trait]
impl ContainerExec for ProcessRuntime {
    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession> {
        let container = self.container(id).filter(|container| container.is_running());
        let record = container.as_ref().map(|container| &container.record);
        let place = match record.and_then(|record| Some((record.program.as_ref()?, &*record.image != HOST_IMAGE))) {
            Some((program, rooted)) => Place::of(program, rooted).await,
            None => None,
        };
        let place = place.ok_or_else(|| Error::NoContainer(id.clone()))?;
        let (name, args) = spec.command.split_first().ok_or_else(|| Error::Invalid("no command to run".into()))?;
        let program = place.program(name)?;
        let started = if spec.tty {
            in_terminal(place.command("setsid").arg("--ctty").args(program).args(args.iter().map(|arg| &**arg)))
        } else {
            let mut command = place.command(&program[0]);
            command.args(&program[1..]).args(args.iter().map(|arg| &**arg)).process_group(0);
            with_pipes(&mut command, spec.stdin)
        };
        started.map_err(|source| Error::Start { program: name.clone(), source: source.into() })
    }
}

/// Where a program is and what it was told.
struct Place {
    env: Vec<(OsString, OsString)>,
    working_dir: PathBuf,
    /// Its root, if that is not the node's; a path by way of the process, which sees its mounts as well.
    root: Option<PathBuf>,
}

impl Place {
    /// Looks at a process, whose root is its own if it is `rooted`; none if it has ended.
    async fn of(program: &ProcessRecord, rooted: bool) -> Option<Self> {
        /// How often to look at one that has just started, whose supervisor is about to become the program: the kernel
        /// shows no environment for that moment, and the node's root until the program's own is there.
        const LOOKS_MAX: usize = 5_000;
        const LOOK_AGAIN: Duration = Duration::from_millis(1);
        for _ in 0..LOOKS_MAX {
            let place = Self::look(program.pid).filter(|_| program.lives())?;
            if !place.env.is_empty() && place.root.is_some() == rooted {
                return Some(place);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        None
    }

    fn look(pid: i32) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let environ = fs::read(proc.join("environ")).ok()?;
        let variables = environ.split(|&byte| byte == 0).filter_map(|variable| {
            let equals = variable.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (variable.get(..equals)?, variable.get(equals + 1..)?);
            Some((OsStr::from_bytes(name).into(), OsString::from_vec(value.into())))
        });
        let own_root = fs::read_link(proc.join("root")).ok()? != Path::new("/");
        let root = own_root.then(|| proc.join("root"));
        let working_dir = if own_root { "/".into() } else { fs::read_link(proc.join("cwd")).ok()? };
        Some(Self { env: variables.collect(), working_dir, root })
    }

    /// The words that run a program there.
    fn program(&self, name: &str) -> Result<Vec<OsString>> {
        match &self.root {
            None => Ok(vec![find(name, &self.path(), &self.working_dir)?.into()]),
            Some(root) => Ok(vec![find("chroot", DEFAULT_PATH, Path::new("/"))?.into(), root.into(), name.into()]),
        }
    }

    fn path(&self) -> String {
        let path = self.env.iter().find(|(name, _)| name == "PATH");
        path.map(|(_, path)| path.to_string_lossy().into()).unwrap_or_default()
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env.iter().cloned()).current_dir(&self.working_dir);
        command
    }
}

fn with_pipes(command: &mut Command, stdin: bool) -> io::Result<ExecSession> {
    let input = if stdin { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    Ok(ExecSession {
        stdin: child.stdin.take().map(|stdin| Box::pin(stdin) as _),
        stdout: Box::pin(child.stdout.take().expect("the command was spawned with a pipe")),
        stderr: child.stderr.take().map(|stderr| Box::pin(stderr) as _),
        control: Box::new(Control::new(child, None)),
    })
}

/// Runs a command, whose program is setsid(1), on a new terminal.
fn in_terminal(command: &mut Command) -> io::Result<ExecSession> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let child = command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs).spawn()?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    // The command builder holds the other side open, and so the end of the output back.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(ExecSession {
        stdin: Some(Box::pin(pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?)),
        stdout: Box::pin(TerminalOutput(pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?)),
        stderr: None,
        control: Box::new(Control::new(child, Some(ours))),
    })
}

/// What comes out of a terminal: once nobody has it open at the other side, the kernel says EIO, which is the end.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = std::task::ready!(Pin::new(&mut self.0).poll_read(cx, buf));
        let hung_up = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        Poll::Ready(match read {
            Err(error) if hung_up(&error) => Ok(()),
            read => read,
        })
    }
}

/// The handle on a command: a task reaps it, and dropping the handle kills its group.
struct Control {
    group: Option<Pid>,
    code: watch::Receiver<Option<i32>>,
    terminal: Option<OwnedFd>,
}

impl Control {
    fn new(mut child: Child, terminal: Option<OwnedFd>) -> Self {
        let group = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let (end, code) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            end.send_replace(status.ok().map(code_of));
        });
        Self { group, code, terminal }
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        match &self.terminal {
            Some(terminal) => tcsetwinsize(terminal, size).map_err(Error::unavailable),
            None => Ok(()),
        }
    }

    async fn wait(&self) -> Result<i32> {
        let mut code = self.code.clone();
        let code = *code.wait_for(Option::is_some).await.map_err(Error::unavailable)?;
        code.ok_or_else(|| Error::unavailable("the command's end was not seen"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(group) = self.group.filter(|_| self.code.borrow().is_none()) {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The exit status as a shell tells it.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    /// What a shell adds to the number of a signal.
    const SIGNALED: i32 = 128;
    status.code().unwrap_or_else(|| SIGNALED + status.signal().unwrap_or_default())
}
