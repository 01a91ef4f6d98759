//! Laws of logs; a runtime without them passes.

use std::time::Duration;

use futures::{StreamExt as _, future::ready};

use super::{Lab, container_id, patience, read_lines};
use crate::runtime::{ContainerId, ContainerSpec, Error, LogOptions, SandboxId};

const FOLLOW: LogOptions = LogOptions { tail_lines: None, since: None, follow: true };

/// Waits for the first line of a container; without logs, long enough for it to be there.
pub(super) async fn first_line(lab: &Lab<'_>, id: &ContainerId) {
    const A_MOMENT: Duration = Duration::from_millis(300);
    let Some(logs) = lab.runtime.logs() else { return tokio::time::sleep(A_MOMENT).await };
    let mut log = logs.open(id, FOLLOW).await.expect("a started container has a log");
    patience(log.next(), "a first line").await;
}

/// Law 7: what was asked for is what runs.
pub(super) async fn arguments_and_environment_arrive(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = container_id(&sandbox, 0);
    let args = ["zero", "it's \"one\" $HOME", "two\nlines"].map(Into::into).into();
    let spec = ContainerSpec { args, ..lab.script("echo \"$GREETING\"; echo \"$1\"; echo \"$2\"") };
    lab.runtime.start_container(&id, &spec).await.expect("a shell can be started");
    let lines = read_lines(logs.open(&id, FOLLOW).await.expect("it has a log")).await;
    assert_eq!(lines, ["hello world", "it's \"one\" $HOME", "two", "lines"]);
}

/// Law 3: an exited container's log is whole, in order.
pub(super) async fn lines_come_in_order_with_their_stream(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let id = exited(&lab, "echo one; sleep 0.1; echo oops >&2; sleep 0.1; echo two").await;
    let log = logs.open(&id, LogOptions::default()).await.expect("it has a log");
    assert_eq!(read_lines(log).await, ["one", "! oops", "two"]);
}

/// Law 3.
pub(super) async fn a_tail_is_the_last_lines(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let id = exited(&lab, "echo one; echo two; echo three").await;
    for (lines, expected) in [(0, 3..3), (1, 2..3), (2, 1..3), (3, 0..3), (9, 0..3)] {
        let options = LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
        let log = logs.open(&id, options).await.expect("it has a log");
        assert_eq!(read_lines(log).await, ["one", "two", "three"][expected]);
    }
}

/// Law 3: lines carry when they were written.
pub(super) async fn a_log_since_a_moment_leaves_out_the_older(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let id = exited(&lab, "echo one; sleep 0.3; echo two").await;
    let log = logs.open(&id, LogOptions::default()).await.expect("it has a log");
    let all: Vec<_> = log.map(|line| line.expect("a log can be read")).collect().await;
    assert!(all[0].at < all[1].at, "lines carry when they were written");
    let options = LogOptions { since: Some(all[1].at), ..LogOptions::default() };
    assert_eq!(read_lines(logs.open(&id, options).await.expect("it has a log")).await, ["two"]);
}

/// Law 3: the last words count most.
pub(super) async fn an_unfinished_line_is_not_lost(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let id = exited(&lab, "echo one; printf last").await;
    let log = logs.open(&id, FOLLOW).await.expect("it has a log");
    let all: Vec<_> = patience(log.map(|line| line.expect("a log can be read")).collect(), "a log ends").await;
    let all: Vec<_> = all.iter().map(|line| (&line.text[..], line.complete)).collect();
    assert_eq!(all, [(&b"one"[..], true), (&b"last"[..], false)]);
}

/// Laws 2 and 3: when the log ends, the exit is there to be read.
pub(super) async fn a_followed_log_ends_with_the_container(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "echo one; sleep 0.2; echo two; exit 3").await;
    let log = logs.open(&id, FOLLOW).await.expect("it has a log");
    assert_eq!(read_lines(log).await, ["one", "two"]);
    assert_eq!(lab.exit_code(&id).await, 3);
}

/// Law 2: for whoever follows, too.
pub(super) async fn a_followed_log_shows_what_comes(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "echo one; echo two; sleep 0.3; echo three; sleep 1000").await;
    first_line(&lab, &id).await;
    let options = LogOptions { tail_lines: Some(1), ..FOLLOW };
    let log = logs.open(&id, options).await.expect("it has a log");
    let texts = log.map(|line| line.expect("a log can be read").text);
    let mut texts = texts.skip_while(|text| ready(text != "three"));
    assert_eq!(patience(texts.next(), "a new line").await.as_deref(), Some(&b"three"[..]));
}

/// Law 3.
pub(super) async fn the_log_of_a_previous_attempt_stays(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let first = exited(&lab, "echo first").await;
    lab.start(&first.sandbox, 1, "echo second; sleep 1000").await;
    let log = logs.open(&first, FOLLOW).await.expect("law 3");
    assert_eq!(read_lines(log).await, ["first"]);
}

/// Law 7.
pub(super) async fn the_log_of_nothing_is_an_error(lab: Lab<'_>) {
    let Some(logs) = lab.runtime.logs() else { return };
    let id = container_id(&SandboxId("absent".into()), 0);
    let outcome = logs.open(&id, FOLLOW).await;
    assert!(matches!(outcome.err(), Some(Error::NoContainer(absent)) if absent == id));
}

async fn exited(lab: &Lab<'_>, script: &str) -> ContainerId {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, script).await;
    lab.exit_code(&id).await;
    id
}
