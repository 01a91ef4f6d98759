//! Leaves nothing behind on a node.

use std::time::Duration;

use futures::future::join_all;
use orchestra_core::runtime::{ContainerRuntime, Result, SandboxStatus};

/// Ends every container of a runtime, asking first and killing after `grace`, and removes every sandbox.
///
/// # Errors
///
/// The runtime's first, if something can't be ended or removed; the rest is.
pub async fn remove_all(runtime: &dyn ContainerRuntime, grace: Duration) -> Result<()> {
    let sandboxes = runtime.list().await?;
    let removals = sandboxes.iter().map(|sandbox| remove(runtime, sandbox, grace));
    join_all(removals).await.into_iter().collect()
}

/// Ends every container of a runtime, asking first and killing after `grace`, and keeps all that is known of them: a kubelet
/// over the same runtime goes on as after a restart of the machine.
///
/// # Errors
///
/// The runtime's first, if something can't be ended; the rest is.
pub async fn stop_all(runtime: &dyn ContainerRuntime, grace: Duration) -> Result<()> {
    let sandboxes = runtime.list().await?;
    let stops = sandboxes.iter().map(|sandbox| stop(runtime, sandbox, grace));
    join_all(stops).await.into_iter().collect()
}

async fn remove(runtime: &dyn ContainerRuntime, sandbox: &SandboxStatus, grace: Duration) -> Result<()> {
    let stopped = stop(runtime, sandbox, grace).await;
    let removed = runtime.remove_sandbox(&sandbox.id).await;
    stopped.and(removed)
}

async fn stop(runtime: &dyn ContainerRuntime, sandbox: &SandboxStatus, grace: Duration) -> Result<()> {
    let running = sandbox.containers.iter().filter(|container| container.state.is_running());
    let stops = running.map(|container| runtime.stop_container(&container.id, grace));
    join_all(stops).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use orchestra_core::{
        clock::TokioClock,
        runtime::{ContainerId, ContainerRuntime as _, ContainerSpec, SandboxId, SandboxSpec},
    };

    use super::remove_all;
    use crate::MemoryRuntime;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_a_node() {
        let runtime = MemoryRuntime::new(Arc::new(TokioClock::default()));
        for name in ["a", "b"] {
            let sandbox = SandboxId(name.into());
            runtime.create_sandbox(&sandbox, &SandboxSpec::default()).await.expect("a sandbox");
            let id = ContainerId { sandbox, name: "c".into(), attempt: 0 };
            runtime
                .start_container(&id, &ContainerSpec { image: "web".into(), ..ContainerSpec::default() })
                .await
                .expect("a container");
        }
        remove_all(&runtime, Duration::from_secs(1)).await.expect("all is removed");
        assert!(runtime.list().await.expect("a list").is_empty());
    }
}
