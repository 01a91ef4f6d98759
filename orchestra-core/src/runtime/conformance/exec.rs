//! Laws of commands in running containers; a runtime without them passes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Lab, container_id, patience};
use crate::runtime::{ContainerExec, ContainerId, Error, ExecSpec};

const FOREVER: &str = "sleep 1000";

/// Law 7: a command's failure is told, and is not the container's.
pub(super) async fn a_command_returns_its_code(lab: Lab<'_>) {
    let Some(exec) = lab.runtime.exec() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    for code in [0, 1, 42] {
        assert_eq!(run(exec, &id, &format!("exit {code}"), "").await, (String::new(), String::new(), code));
    }
    assert!(lab.state(&id).await.is_running());
}

/// Law 7: each stream arrives as itself.
pub(super) async fn a_command_reads_and_writes(lab: Lab<'_>) {
    let Some(exec) = lab.runtime.exec() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    let (out, err, code) = run(exec, &id, "cat; echo oops >&2; exit 2", "a line\nand more").await;
    assert_eq!((&*out, &*err, code), ("a line\nand more", "oops\n", 2));
}

/// Law 7.
pub(super) async fn a_command_has_the_container_s_environment(lab: Lab<'_>) {
    let Some(exec) = lab.runtime.exec() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    let (out, ..) = run(exec, &id, "echo \"$GREETING\"", "").await;
    assert_eq!(out, "hello world\n");
}

/// Law 7.
pub(super) async fn a_command_needs_a_running_container(lab: Lab<'_>) {
    let Some(exec) = lab.runtime.exec() else { return };
    let sandbox = lab.sandbox("a").await;
    let absent = exec.exec(&container_id(&sandbox, 7), &shell("exit 0", false)).await;
    assert!(matches!(absent, Err(Error::NoContainer(_))));
    let id = lab.start(&sandbox, 0, "exit 0").await;
    lab.exit_code(&id).await;
    let exited = exec.exec(&id, &shell("exit 0", false)).await;
    assert!(matches!(exited, Err(Error::NoContainer(named)) if named == id));
}

/// Law 6: only what was dropped ends.
pub(super) async fn a_dropped_session_leaves_the_container_alone(lab: Lab<'_>) {
    let Some(exec) = lab.runtime.exec() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    let mut session = exec.exec(&id, &shell("echo up; sleep 1000", false)).await.expect("a shell can be run");
    let mut start = [0; 3];
    patience(session.stdout.read_exact(&mut start), "a first line").await.expect("the output can be read");
    assert_eq!(&start, b"up\n");
    drop(session);
    assert!(lab.state(&id).await.is_running());
    let (_, _, code) = run(exec, &id, "exit 4", "").await;
    assert_eq!(code, 4);
}

fn shell(script: &str, stdin: bool) -> ExecSpec {
    ExecSpec { command: ["sh", "-c", script].map(Into::into).into(), stdin, tty: false }
}

/// Runs `script` with `input` to its end; returns both outputs and the code.
async fn run(exec: &dyn ContainerExec, id: &ContainerId, script: &str, input: &str) -> (String, String, i32) {
    let mut session = exec.exec(id, &shell(script, true)).await.expect("a shell can be run");
    let mut stdin = session.stdin.take().expect("input was asked for");
    let mut stderr = session.stderr.take().expect("there is no terminal");
    let (mut out, mut err) = (String::new(), String::new());
    let all = async {
        let write = async {
            // A command may end without reading.
            let _closed = stdin.write_all(input.as_bytes()).await;
            let _closed = stdin.shutdown().await;
            drop(stdin);
        };
        let (_, read_out, read_err) =
            futures::join!(write, session.stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        read_out.and(read_err).expect("the outputs can be read");
        session.control.wait().await.expect("a command ends")
    };
    let code = patience(all, "a command ends").await;
    (out, err, code)
}
