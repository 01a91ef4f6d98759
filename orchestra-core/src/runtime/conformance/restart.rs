//! Laws of what outlives a runtime: law 5, SEMANTICS 51 and 58.

use std::time::Duration;

use super::Lab;

/// Closes the lab's runtime and opens it again, on the same node.
async fn reopen(lab: Lab<'_>) -> Lab<'_> {
    let Lab { runtime, fixture } = lab;
    drop(runtime);
    Lab { runtime: fixture.open().await, fixture }
}

/// Law 5: it is adopted, not started again (SEMANTICS 51).
pub(super) async fn a_running_container_outlives_its_runtime(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let running = lab.start(&sandbox, 0, "sleep 1000").await;
    let exited = lab.start(&sandbox, 1, "exit 9").await;
    lab.exit_code(&exited).await;
    let before = lab.runtime.list().await.expect("a runtime lists");
    let lab = reopen(lab).await;
    assert_eq!(lab.runtime.list().await.expect("a runtime lists"), before, "law 5");
    lab.start(&sandbox, 0, "sleep 1000").await;
    assert_eq!(Some(lab.state(&running).await), before.first().map(|s| s.containers[0].state.clone()), "law 1");
}

/// Law 5.
pub(super) async fn an_exit_that_nobody_saw_is_known_later(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "sleep 0.2; exit 11").await;
    let lab = reopen(lab).await;
    assert_eq!(lab.exit_code(&id).await, 11, "law 5");
}

/// Laws 5 and 6.
pub(super) async fn a_container_of_before_can_be_stopped(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "trap 'exit 8' TERM; echo up; sleep 1000 & wait").await;
    super::logs::first_line(&lab, &id).await;
    let lab = reopen(lab).await;
    lab.runtime.stop_container(&id, Duration::from_secs(15)).await.expect("a running container can be stopped");
    assert_eq!(lab.state(&id).await.exit_code(), Some(8));
    lab.runtime.remove_sandbox(&sandbox).await.expect("a sandbox can be removed");
    assert_eq!(lab.sandbox_status(&sandbox).await, None);
}

/// Laws 5 and 6: and nobody else gets it (SEMANTICS 58).
pub(super) async fn an_address_outlives_the_runtime(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    lab.start(&sandbox, 0, "sleep 1000").await;
    let before = lab.sandbox_status(&sandbox).await.expect("the sandbox is listed").address;
    let lab = reopen(lab).await;
    let other = lab.sandbox("b").await;
    lab.start(&other, 0, "sleep 1000").await;
    assert_eq!(lab.sandbox_status(&sandbox).await.expect("the sandbox is listed").address, before);
    assert_ne!(lab.sandbox_status(&other).await.expect("the sandbox is listed").address, before, "SEMANTICS 58");
}

/// Law 2: whoever changed it.
pub(super) async fn two_handles_see_one_truth(lab: Lab<'_>) {
    let handle = lab.runtime.clone();
    let sandbox = lab.sandbox("a").await;
    lab.start(&sandbox, 0, "sleep 1000").await;
    handle.remove_sandbox(&sandbox).await.expect("a sandbox can be removed");
    assert_eq!(lab.runtime.list().await.expect("a runtime lists"), [], "law 2");
}
