//! Laws of making, starting, ending and forgetting.

use std::time::Duration;

use futures::{StreamExt as _, future::join_all, poll};

use super::{Lab, container_id, patience, read_lines, sandbox_spec};
use crate::runtime::{
    ContainerId, ContainerSpec, ContainerState, Error, ExitReason, LogOptions, Mount, SandboxId, User,
};

const FOREVER: &str = "sleep 1000";
const STUBBORN: &str = "trap '' TERM; echo up; sleep 1000";
/// A wait in a shell returns when a signal comes, so the trap runs at once.
const POLITE: &str = "trap 'exit 7' TERM; echo up; sleep 1000 & wait";
const LONG_GRACE: Duration = Duration::from_secs(15);

/// Laws 1 and 2.
pub(super) async fn creating_a_sandbox_twice_changes_nothing(lab: Lab<'_>) {
    let id = lab.sandbox("a").await;
    let first = lab.sandbox_status(&id).await.expect("law 2: a made sandbox is listed");
    assert!(first.ready, "a made sandbox is ready");
    lab.sandbox("a").await;
    assert_eq!(lab.sandbox_status(&id).await, Some(first), "law 1");
}

/// Law 1: absent is as good as removed (SEMANTICS 56).
pub(super) async fn removing_what_is_absent_succeeds(lab: Lab<'_>) {
    let id = SandboxId("absent".into());
    lab.runtime.remove_sandbox(&id).await.expect("law 1: SEMANTICS 56");
    let container = container_id(&id, 0);
    lab.runtime.stop_container(&container, LONG_GRACE).await.expect("law 1");
    lab.runtime.remove_container(&container).await.expect("law 1");
    lab.sandbox("absent").await;
    lab.runtime.stop_container(&container, LONG_GRACE).await.expect("law 1");
    lab.runtime.remove_container(&container).await.expect("law 1");
}

/// Law 7: what can't be started is an error, and leaves nothing.
pub(super) async fn a_container_needs_a_sandbox(lab: Lab<'_>) {
    let id = container_id(&SandboxId("absent".into()), 0);
    let outcome = lab.runtime.start_container(&id, &lab.script(FOREVER)).await;
    assert!(matches!(outcome, Err(Error::NoSandbox(sandbox)) if sandbox == id.sandbox));
    assert!(lab.runtime.list().await.expect("a runtime lists").is_empty());
}

/// Law 7.
pub(super) async fn an_id_that_is_no_name_is_refused(lab: Lab<'_>) {
    let outcome = lab.runtime.create_sandbox(&SandboxId("../up".into()), &sandbox_spec()).await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    let sandbox = lab.sandbox("a").await;
    let id = ContainerId { sandbox, name: "../../up".into(), attempt: 0 };
    let outcome = lab.runtime.start_container(&id, &lab.script(FOREVER)).await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
}

/// Laws 1 and 2.
pub(super) async fn starting_twice_starts_once(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    let first = lab.state(&id).await;
    assert!(first.is_running(), "law 2");
    lab.start(&sandbox, 0, FOREVER).await;
    assert_eq!(lab.state(&id).await, first, "law 1");
}

/// Law 1: one incarnation, whoever asks (SEMANTICS 51).
pub(super) async fn starting_at_the_same_time_starts_once(lab: Lab<'_>) {
    const CALLS: usize = 8;
    let sandbox = lab.sandbox("a").await;
    let id = container_id(&sandbox, 0);
    let spec = lab.script("echo once; sleep 1000");
    for outcome in join_all((0..CALLS).map(|_| lab.runtime.start_container(&id, &spec))).await {
        outcome.expect("law 1");
    }
    let status = lab.sandbox_status(&sandbox).await.expect("the sandbox is listed");
    assert_eq!(status.containers.len(), 1);
    assert!(lab.state(&id).await.is_running());
}

/// Law 1: another start is another attempt.
pub(super) async fn an_exited_attempt_is_not_started_again(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "exit 3").await;
    lab.exit_code(&id).await;
    let first = lab.state(&id).await;
    lab.start(&sandbox, 0, FOREVER).await;
    assert_eq!(lab.state(&id).await, first, "law 1");
    let second = lab.start(&sandbox, 1, FOREVER).await;
    assert!(lab.state(&second).await.is_running(), "another attempt is another container");
    assert_eq!(lab.state(&id).await, first, "law 3");
}

/// Laws 2 and 3: the code, why, and both times.
pub(super) async fn the_exit_code_is_listed(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    for (attempt, code) in [(0, 0), (1, 3), (2, 255)] {
        let id = lab.start(&sandbox, attempt, &format!("exit {code}")).await;
        assert_eq!(lab.exit_code(&id).await, code);
        let ContainerState::Exited { reason, started_at, finished_at, .. } = lab.state(&id).await else {
            panic!("it has exited");
        };
        assert_eq!(reason, ExitReason::Ended);
        assert!(started_at <= finished_at);
    }
}

/// Law 3.
pub(super) async fn evidence_stays_until_removed(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let first = lab.start(&sandbox, 0, "echo one; exit 3").await;
    lab.exit_code(&first).await;
    let evidence = lab.state(&first).await;
    let second = lab.start(&sandbox, 1, "exit 4").await;
    assert_eq!(lab.exit_code(&second).await, 4);
    assert_eq!(lab.state(&first).await, evidence, "law 3: its code and its times");
    if let Some(logs) = lab.runtime.logs() {
        let log = logs.open(&first, LogOptions::default()).await.expect("law 3: its log");
        assert_eq!(read_lines(log).await, ["one"], "law 3: its log");
    }
    lab.runtime.remove_container(&first).await.expect("an exited container can be removed");
    assert_eq!(lab.status(&first).await, None, "law 2");
    assert_eq!(lab.exit_code(&second).await, 4);
    lab.runtime.remove_container(&first).await.expect("law 1");
}

/// Law 7.
pub(super) async fn a_running_container_cannot_be_removed(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, FOREVER).await;
    let outcome = lab.runtime.remove_container(&id).await;
    assert!(matches!(outcome, Err(Error::Running(running)) if running == id));
    assert!(lab.state(&id).await.is_running());
}

/// Law 6: the program may say its last word, and nobody waits longer than for that.
pub(super) async fn stopping_asks_first(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = started(&lab, &sandbox, POLITE).await;
    let before = tokio::time::Instant::now();
    lab.runtime.stop_container(&id, LONG_GRACE).await.expect("a running container can be stopped");
    assert_eq!(lab.state(&id).await.exit_code(), Some(7), "the program said its own last word, and law 2");
    assert!(before.elapsed() < LONG_GRACE, "nobody waits for the rest of the grace");
}

/// Law 6: no sooner than the grace allows, and not much later (SEMANTICS 53).
pub(super) async fn what_ignores_the_request_is_killed_after_the_grace(lab: Lab<'_>) {
    const GRACE: Duration = Duration::from_millis(300);
    let sandbox = lab.sandbox("a").await;
    let id = started(&lab, &sandbox, STUBBORN).await;
    let before = tokio::time::Instant::now();
    lab.runtime.stop_container(&id, GRACE).await.expect("a running container can be stopped");
    assert_eq!(lab.state(&id).await.exit_code(), Some(137));
    assert!(before.elapsed() >= GRACE, "the grace is kept");
    assert!(before.elapsed() < GRACE + Duration::from_secs(2), "SEMANTICS 53");
}

/// Law 6.
pub(super) async fn without_grace_it_is_killed_at_once(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = started(&lab, &sandbox, STUBBORN).await;
    patience(lab.runtime.stop_container(&id, Duration::ZERO), "a kill").await.expect("a container can be killed");
    assert_eq!(lab.state(&id).await.exit_code(), Some(137));
}

/// Law 6.
pub(super) async fn a_shorter_grace_overrides_a_longer_one(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = started(&lab, &sandbox, STUBBORN).await;
    let before = tokio::time::Instant::now();
    let (long, short) = futures::join!(
        lab.runtime.stop_container(&id, Duration::from_secs(600)),
        lab.runtime.stop_container(&id, Duration::from_millis(100)),
    );
    long.and(short).expect("a running container can be stopped");
    assert!(before.elapsed() < LONG_GRACE);
}

/// Laws 1 and 3.
pub(super) async fn stopping_an_exited_container_keeps_its_code(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = lab.start(&sandbox, 0, "exit 5").await;
    lab.exit_code(&id).await;
    lab.runtime.stop_container(&id, Duration::ZERO).await.expect("law 1");
    assert_eq!(lab.state(&id).await.exit_code(), Some(5), "law 3");
}

/// Laws 2 and 6: and nothing beside it.
pub(super) async fn removing_a_sandbox_ends_all_in_it(lab: Lab<'_>) {
    let (going, staying) = (lab.sandbox("a").await, lab.sandbox("b").await);
    started(&lab, &going, STUBBORN).await;
    let other = lab.start(&staying, 0, FOREVER).await;
    patience(lab.runtime.remove_sandbox(&going), "a removal").await.expect("a sandbox can be removed");
    assert_eq!(lab.sandbox_status(&going).await, None, "law 2");
    assert!(lab.state(&other).await.is_running());
    lab.sandbox("a").await;
    let again = lab.sandbox_status(&going).await.expect("a removed sandbox can be made again");
    assert_eq!(again.containers, [], "and it is a new one");
}

/// Law 6: a grandchild that minds no request is gone when the call returns. A runtime without files passes.
pub(super) async fn what_a_container_started_ends_with_it(lab: Lab<'_>) {
    const A_FEW_BEATS: Duration = Duration::from_millis(300);
    const BEATS: &str = "(trap '' TERM; while :; do echo beat; sleep 0.02; done) \
        >>\"${CONTAINER_SANDBOX_MOUNT_POINT:-}/shared/beats\" & echo up; wait";
    let Some(host_path) = lab.fixture.shared_dir() else { return };
    let beats = || std::fs::metadata(host_path.join("beats")).map_or(0, |beats| beats.len());
    let mount = Mount { host_path: host_path.clone(), container_path: "/shared".into(), read_only: false };
    for attempt in 0..2 {
        let sandbox = lab.sandbox("a").await;
        let id = container_id(&sandbox, attempt);
        let spec = ContainerSpec { mounts: vec![mount.clone()], ..lab.script(BEATS) };
        lab.runtime.start_container(&id, &spec).await.expect("a shell can be started");
        let before = beats();
        let beat = async {
            while beats() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        patience(beat, "a beat").await;
        match attempt {
            0 => lab.runtime.stop_container(&id, LONG_GRACE).await.expect("a running container can be stopped"),
            _ => lab.runtime.remove_sandbox(&sandbox).await.expect("a sandbox can be removed"),
        }
        let last = beats();
        tokio::time::sleep(A_FEW_BEATS).await;
        assert_eq!(beats(), last, "law 6: what it started goes on");
    }
}

/// Law 1.
pub(super) async fn removing_at_the_same_time_succeeds(lab: Lab<'_>) {
    let id = lab.sandbox("a").await;
    lab.start(&id, 0, FOREVER).await;
    let (one, two) = futures::join!(lab.runtime.remove_sandbox(&id), lab.runtime.remove_sandbox(&id));
    one.and(two).expect("law 1");
    assert_eq!(lab.sandbox_status(&id).await, None);
}

/// Law 6: no address has two holders (SEMANTICS 58).
pub(super) async fn sandboxes_have_addresses_of_their_own(lab: Lab<'_>) {
    let mut addresses = Vec::new();
    for name in ["a", "b", "c"] {
        let id = lab.sandbox(name).await;
        lab.start(&id, 0, FOREVER).await;
        let status = lab.sandbox_status(&id).await.expect("the sandbox is listed");
        addresses.push(status.address.expect("a sandbox with a network of its own has an address"));
    }
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
}

/// Law 2: what was given comes back, whatever letters it has.
pub(super) async fn labels_come_back(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = container_id(&sandbox, 0);
    let labels = [("hash".into(), "{\"a\": 1}".into())];
    let spec = ContainerSpec { labels: labels.clone().into(), ..lab.script(FOREVER) };
    lab.runtime.start_container(&id, &spec).await.expect("a shell can be started");
    let status = lab.sandbox_status(&sandbox).await.expect("the sandbox is listed");
    assert_eq!(status.labels, sandbox_spec().labels);
    assert_eq!(status.containers.len(), 1);
    assert_eq!(status.containers[0].labels, labels.into());
    assert_eq!(status.containers[0].image, lab.fixture.image());
    assert_eq!(
        Some(&status.containers[0].image_id),
        lab.runtime.image_id(&lab.fixture.image()).await.expect("it answers").as_ref()
    );
}

/// Law 7.
pub(super) async fn a_missing_image_is_an_error(lab: Lab<'_>) {
    let image = lab.fixture.missing_image();
    assert!(matches!(lab.runtime.image_id(&image).await, Ok(None)));
    let outcome = patience(lab.runtime.pull_image(&image), "an answer").await;
    assert!(matches!(outcome, Err(Error::Image { image: named, .. }) if named == image));
    let sandbox = lab.sandbox("a").await;
    let spec = ContainerSpec { image: image.clone(), ..lab.script(FOREVER) };
    let outcome = lab.runtime.start_container(&container_id(&sandbox, 0), &spec).await;
    assert!(matches!(outcome, Err(Error::Image { image: named, .. }) if named == image));
}

/// Law 7.
pub(super) async fn a_missing_program_is_an_error_or_an_exit(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let id = container_id(&sandbox, 0);
    let spec = ContainerSpec { command: vec![lab.fixture.missing_program()], ..lab.script("") };
    match lab.runtime.start_container(&id, &spec).await {
        Ok(()) => assert_ne!(lab.exit_code(&id).await, 0),
        Err(Error::Start { program, .. }) => assert_eq!(program, lab.fixture.missing_program()),
        Err(error) => panic!("a missing program is no reason for {error}"),
    }
    let next = lab.start(&sandbox, 1, FOREVER).await;
    assert!(lab.state(&next).await.is_running(), "a failed start spoils nothing");
}

/// Law 7: what the capabilities leave out is refused, and nothing of it runs.
pub(super) async fn what_is_no_capability_is_refused(lab: Lab<'_>) {
    const NOBODY: User = User { uid: 65_534, gid: Some(65_534) };
    let (sandbox, capabilities) = (lab.sandbox("a").await, lab.runtime.capabilities());
    let with_user = ContainerSpec { user: Some(NOBODY), ..lab.script(FOREVER) };
    let with_tty = ContainerSpec { tty: true, ..lab.script(FOREVER) };
    for (attempt, able, spec) in [(0, capabilities.users, with_user), (1, capabilities.tty, with_tty)] {
        let id = container_id(&sandbox, attempt);
        match lab.runtime.start_container(&id, &spec).await {
            Ok(()) => assert!(able, "law 7: {spec:?} was ignored"),
            Err(Error::Invalid(_)) => {
                assert!(!able, "law 7: {spec:?} was promised");
                assert_eq!(lab.status(&id).await, None, "law 7: what was refused is not there");
            }
            Err(error) => panic!("law 7: what can't be had is no reason for {error}"),
        }
    }
}

/// Law 4: the hint is there in the end, and what it hints at is in the list by then.
pub(super) async fn an_exit_is_hinted(lab: Lab<'_>) {
    let sandbox = lab.sandbox("a").await;
    let mut events = lab.runtime.events();
    let id = lab.start(&sandbox, 0, "sleep 0.2; exit 6").await;
    let told = async {
        while lab.state(&id).await.exit_code().is_none() {
            assert_eq!(events.next().await, Some(sandbox.clone()));
        }
    };
    patience(told, "a hint for the exit").await;
}

/// Law 1, and the contract's word on cancellation.
pub(super) async fn a_dropped_call_can_be_made_again(lab: Lab<'_>) {
    const POLLS_MAX: usize = 12;
    let sandbox = lab.sandbox("a").await;
    let spec = lab.script(FOREVER);
    for polls in 1..=POLLS_MAX {
        let id = container_id(&sandbox, u32::try_from(polls).expect("it is small"));
        {
            let mut call = std::pin::pin!(lab.runtime.start_container(&id, &spec));
            for _ in 0..polls {
                if poll!(&mut call).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        lab.runtime.start_container(&id, &spec).await.expect("the contract's cancellation clause");
        assert!(lab.state(&id).await.is_running());
    }
    drop(lab.runtime.remove_sandbox(&sandbox));
    let _polled_once = poll!(std::pin::pin!(lab.runtime.remove_sandbox(&sandbox)));
    patience(lab.runtime.remove_sandbox(&sandbox), "a removal").await.expect("the contract's cancellation clause");
    assert_eq!(lab.sandbox_status(&sandbox).await, None);
}

/// Starts `script` and waits until it has written its first line, and so has set its traps.
async fn started(lab: &Lab<'_>, sandbox: &SandboxId, script: &str) -> ContainerId {
    let id = lab.start(sandbox, 0, script).await;
    super::logs::first_line(lab, &id).await;
    id
}
