//! What a container's security context asks for: kept, refused, or said not to be kept. Pure.
//!
//! Whom a container runs as is kept, or the container is refused. All else that this kubelet's runtimes are not asked for
//! makes a container no weaker than one without it, and is told by an event.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use orchestra_core::runtime::User;

use super::status::full_name;

/// Whom a container is to run as, if it says so.
///
/// # Errors
///
/// Names the field that holds no number of a user or a group: nothing is to run as another than it says.
pub(super) fn user(pod: &Pod, container: &Container) -> Result<Option<User>, String> {
    let (pod, own) = contexts(pod, container);
    let uid = own.and_then(|own| own.run_as_user).or(pod.and_then(|pod| pod.run_as_user));
    let gid = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group));
    let number = |field: &str, id: Option<i64>| {
        id.map(|id| u32::try_from(id).map_err(|_| format!("{field}: {id} is not between 0 and {}", u32::MAX)))
            .transpose()
    };
    let (uid, gid) = (number("runAsUser", uid)?, number("runAsGroup", gid)?);
    Ok(uid.map(|uid| User { uid, gid }))
}

/// Whether a container may not run as root.
pub(super) fn is_non_root(pod: &Pod, container: &Container) -> bool {
    let (pod, own) = contexts(pod, container);
    own.and_then(|own| own.run_as_non_root).or(pod.and_then(|pod| pod.run_as_non_root)) == Some(true)
}

/// Why a container that may not run as root is not started: it is to run as root, or would, as `user` of its image.
pub(super) fn as_root(pod: &Pod, container: &Container, user: &str) -> String {
    let why = match user {
        _ if self::user(pod, container).is_ok_and(|user| user.is_some_and(|user| user.uid == 0)) => {
            "container's runAsUser breaks non-root policy".into()
        }
        "" | "0" | "root" => "container has runAsNonRoot and image will run as root".into(),
        name => {
            format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )
        }
    };
    format!("{why} (pod: {:?}, container: {})", full_name(pod), container.name)
}

/// What a container's security context asks for that no runtime is asked for, by the names of its fields.
pub(super) fn unenforced(pod: &Pod, container: &Container) -> Vec<&'static str> {
    let (none, no_pod) = (SecurityContext::default(), PodSecurityContext::default());
    let (all, own) = contexts(pod, container);
    let (all, own) = (all.unwrap_or(&no_pod), own.unwrap_or(&none));
    let some = |list: Option<usize>| list.is_some_and(|len| len > 0);
    let capabilities = own.capabilities.as_ref();
    let seccomp = own.seccomp_profile.as_ref().or(all.seccomp_profile.as_ref());
    let app_armor = own.app_armor_profile.as_ref().or(all.app_armor_profile.as_ref());
    let group = own.run_as_group.or(all.run_as_group).is_some();
    let asked = [
        ("privileged", own.privileged == Some(true)),
        ("allowPrivilegeEscalation", own.allow_privilege_escalation == Some(false)),
        ("readOnlyRootFilesystem", own.read_only_root_filesystem == Some(true)),
        ("capabilities.add", some(capabilities.and_then(|capabilities| capabilities.add.as_ref().map(Vec::len)))),
        ("capabilities.drop", some(capabilities.and_then(|capabilities| capabilities.drop.as_ref().map(Vec::len)))),
        ("seccompProfile", seccomp.is_some_and(|profile| profile.type_ != "Unconfined")),
        ("appArmorProfile", app_armor.is_some_and(|profile| profile.type_ != "Unconfined")),
        ("seLinuxOptions", own.se_linux_options.is_some() || all.se_linux_options.is_some()),
        ("procMount", own.proc_mount.as_deref().is_some_and(|mount| mount != "Default")),
        ("runAsGroup", group && user(pod, container).is_ok_and(|user| user.is_none())),
        ("fsGroup", all.fs_group.is_some()),
        ("supplementalGroups", some(all.supplemental_groups.as_ref().map(Vec::len))),
        ("sysctls", some(all.sysctls.as_ref().map(Vec::len))),
    ];
    asked.into_iter().filter_map(|(field, is_asked)| is_asked.then_some(field)).collect()
}

fn contexts<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> (Option<&'a PodSecurityContext>, Option<&'a SecurityContext>) {
    (pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()), container.security_context.as_ref())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, Pod};
    use serde_json::{Value, json};

    use super::{User, as_root, is_non_root, unenforced, user};

    fn pod(all: &Value, own: &Value) -> (Pod, Container) {
        let container = json!({"name": "web", "securityContext": own});
        let spec = json!({"securityContext": all, "containers": [container]});
        let metadata = json!({"name": "web-0", "namespace": "shop", "uid": "1"});
        let pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod");
        (pod, serde_json::from_value(container).expect("a container"))
    }

    #[test]
    fn a_container_has_the_last_word_on_root() {
        let of = |all, own| {
            let (pod, container) = pod(&all, &own);
            is_non_root(&pod, &container)
        };
        assert!(!of(json!({}), json!({})));
        assert!(of(json!({"runAsNonRoot": true}), json!({})));
        assert!(!of(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false})));
        assert!(of(json!({}), json!({"runAsNonRoot": true})));
    }

    /// Nobody runs as root, or in root's group, because a number could not be read.
    #[test]
    fn a_number_that_is_no_users_is_refused() {
        let of = |own| {
            let (pod, container) = pod(&json!({"runAsUser": 5}), &own);
            user(&pod, &container)
        };
        assert_eq!(of(json!({"runAsUser": 0, "runAsGroup": 1000})), Ok(Some(User { uid: 0, gid: Some(1000) })));
        for (field, bad) in [("runAsUser", -1), ("runAsUser", 4_294_968_296_i64), ("runAsGroup", 4_294_967_296)] {
            let why = of(json!({field: bad})).unwrap_err();
            assert!(why.starts_with(&format!("{field}: {bad} ")), "{why}");
        }
    }

    #[test]
    fn who_may_not_be_root_is_told_so_in_kubernetes_words() {
        let (plain, container) = pod(&json!({"runAsNonRoot": true}), &json!({}));
        let (root, root_container) = pod(&json!({}), &json!({"runAsNonRoot": true, "runAsUser": 0}));
        let suffix = "(pod: \"web-0_shop(1)\", container: web)";
        for (message, why) in [
            (as_root(&plain, &container, "0"), "container has runAsNonRoot and image will run as root"),
            (
                as_root(&plain, &container, "www"),
                "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root",
            ),
            (as_root(&root, &root_container, "0"), "container's runAsUser breaks non-root policy"),
        ] {
            assert_eq!(message, format!("{why} {suffix}"));
        }
    }

    /// Nothing is silently ignored: what is asked for and not had is named, and nothing else.
    #[test]
    fn what_is_asked_for_and_not_had_is_named() {
        let (quiet, container) = pod(
            &json!({"runAsUser": 1, "runAsGroup": 1, "seccompProfile": {"type": "Unconfined"}}),
            &json!({"privileged": false, "allowPrivilegeEscalation": true, "readOnlyRootFilesystem": false}),
        );
        assert_eq!(unenforced(&quiet, &container), [""; 0]);
        let (restricted, container) = pod(
            &json!({"fsGroup": 5, "runAsGroup": 5, "seccompProfile": {"type": "RuntimeDefault"}}),
            &json!({"readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": []}}),
        );
        let named = ["readOnlyRootFilesystem", "capabilities.drop", "seccompProfile", "runAsGroup", "fsGroup"];
        assert_eq!(unenforced(&restricted, &container), named);
    }
}
