//! How the image of a container comes to its node, and what people are told of that, in Kubernetes' words.

use k8s_openapi::api::core::v1::{Container, Pod};
use orchestra_core::runtime::Error;

use super::{
    Shared,
    decide::containers,
    events::{Severity, record},
    lifecycle::Refusal,
};
use crate::causes::chain;

/// Why a container waits whose image could not be pulled just now.
pub(super) const PULL_FAILED: &str = "ErrImagePull";
/// Why it waits when that happened before.
pub(super) const BACKING_OFF: &str = "ImagePullBackOff";

/// Makes a container's image present, as its pull policy has it.
pub(super) async fn pull(shared: &Shared, pod: &Pod, container: &Container) -> Result<(), Refusal> {
    let image = container.image.as_deref().unwrap_or_default();
    let tell = |severity, reason, message| record(shared, pod, Some(&container.name), severity, (reason, message));
    let present = shared.runtime.image_id(image).await.map_err(|error| {
        Refusal::new("ImageInspectError", format!("Failed to inspect image {image:?}: {}", chain(&error)))
    })?;
    match container.image_pull_policy.as_deref() {
        Some("Always") => {}
        _ if present.is_some() => {
            let message = format!("Container image {image:?} already present on machine");
            tell(Severity::Normal, "Pulled", message).await;
            return Ok(());
        }
        Some("Never") => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            return Err(Refusal::new("ErrImageNeverPull", message));
        }
        _ => {}
    }
    tell(Severity::Normal, "Pulling", format!("Pulling image {image:?}")).await;
    match shared.runtime.pull_image(image).await {
        Ok(_) => {
            tell(Severity::Normal, "Pulled", format!("Successfully pulled image {image:?}")).await;
            Ok(())
        }
        Err(error) => {
            let refusal = refusal(image, &error);
            let message = format!("Failed to pull image {image:?}: {}", refusal.message);
            tell(Severity::Warning, "Failed", message).await;
            Err(refusal)
        }
    }
}

/// The image of one of a pod's containers.
pub(super) fn of<'a>(pod: &'a Pod, container: &str) -> &'a str {
    let found = pod.spec.iter().flat_map(containers).find(|(_, other)| other.name == container);
    found.and_then(|(_, container)| container.image.as_deref()).unwrap_or_default()
}

/// What people are told while a pull has to wait.
pub(super) fn backing_off(image: &str) -> String {
    format!("Back-off pulling image {image:?}")
}

/// What a failed pull means for its container. Pure.
fn refusal(image: &str, error: &Error) -> Refusal {
    let message = match error {
        // The image is named beside it.
        Error::Image { source, .. } => chain(&**source),
        error => chain(error),
    };
    let later = format!("{}: {PULL_FAILED}: {message}", backing_off(image));
    Refusal { later: Some((BACKING_OFF, later)), ..Refusal::new(PULL_FAILED, message) }
}

#[cfg(test)]
mod tests {
    use orchestra_core::runtime::Error;

    use super::{BACKING_OFF, refusal};

    /// As Kubernetes has it since 1.30: why the pull failed is not hidden by the wait.
    #[test]
    fn a_container_that_waits_for_its_image_says_why_it_was_not_pulled() {
        let error = Error::Image { image: "web:9".into(), source: "no such tag".into() };
        let refusal = refusal("web:9", &error);
        assert_eq!((refusal.reason, refusal.message.as_str()), ("ErrImagePull", "no such tag"));
        let later = "Back-off pulling image \"web:9\": ErrImagePull: no such tag".to_owned();
        assert_eq!(refusal.later, Some((BACKING_OFF, later)));
    }
}
