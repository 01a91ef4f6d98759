//! The rules of security contexts, of pods and of containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, SeccompProfile, SecurityContext, Sysctl};

use super::container::relative_path;
use super::values::one_of;
use super::{FieldError, Path};

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
const FS_GROUP_CHANGE_POLICIES: [&str; 2] = ["Always", "OnRootMismatch"];
const PROC_MOUNTS: [&str; 2] = ["Default", "Unmasked"];
/// The most bytes of a sysctl's name.
const SYSCTL_BYTES_MAX: usize = 253;
const SYSCTL: &str = "must have at most 253 characters and match regex \
     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Checks what holds for all containers of a pod.
pub(super) fn pod(context: &PodSecurityContext, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    id(context.fs_group, &path.field("fsGroup"), errors);
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    let groups = path.field("supplementalGroups");
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &groups.index(index), errors);
    }
    sysctls(context.sysctls.as_deref().unwrap_or_default(), &path.field("sysctls"), errors);
    if let Some(policy) = context.fs_group_change_policy.as_deref() {
        one_of(Some(policy), &FS_GROUP_CHANGE_POLICIES, &path.field("fsGroupChangePolicy"), errors);
    }
    seccomp(context.seccomp_profile.as_ref(), path, errors);
    app_armor(context.app_armor_profile.as_ref(), path, errors);
}

/// Checks what holds for one container.
pub(super) fn container(context: &SecurityContext, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    if let Some(mount) = context.proc_mount.as_deref() {
        one_of(Some(mount), &PROC_MOUNTS, &path.field("procMount"), errors);
    }
    seccomp(context.seccomp_profile.as_ref(), path, errors);
    escalation(context, path, errors);
    app_armor(context.app_armor_profile.as_ref(), path, errors);
}

/// Checks that what may not gain privileges has none that would let it.
fn escalation(context: &SecurityContext, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    for (present, other) in [
        (context.privileged == Some(true), "`privileged` to true"),
        (added.is_some_and(|added| added.iter().any(|one| one == "CAP_SYS_ADMIN")), "`capabilities.Add` CAP_SYS_ADMIN"),
    ] {
        if present {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {other}");
            errors.push(FieldError::invalid(path, context, detail));
        }
    }
}

/// Checks the number of a user or a group.
fn id(id: Option<i64>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.push(FieldError::invalid(path, id, format!("must be between 0 and {}, inclusive", i32::MAX)));
    }
}

fn sysctls(sysctls: &[Sysctl], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let (path, name) = (path.index(index), sysctl.name.as_str());
        let path = path.field("name");
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(&path, name, SYSCTL));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inner = |byte: u8| end(Some(byte)) || b"-_".contains(&byte);
    let is_segment = |text: &str| end(text.bytes().next()) && end(text.bytes().next_back()) && text.bytes().all(inner);
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(is_segment)
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(SeccompProfile { localhost_profile, type_ }) = profile else { return };
    let path = path.field("seccompProfile");
    let local = localhost_profile.as_deref();
    profile_type("seccomp", type_, local, &path, errors);
    if let Some(local) = local.filter(|_| type_ == "Localhost") {
        relative_path(local, &path.field("localhostProfile"), errors);
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(AppArmorProfile { localhost_profile, type_ }) = profile else { return };
    let path = path.field("appArmorProfile");
    let local = localhost_profile.as_deref();
    profile_type("AppArmor", type_, local, &path, errors);
    if let Some(local) = local.filter(|local| type_ == "Localhost" && local.trim() != *local) {
        errors.push(FieldError::invalid(&path.field("localhostProfile"), local, "must not be padded with whitespace"));
    }
}

/// Checks that a profile is of a type there is, and names a file if and only if it is one of the node's.
fn profile_type(what: &str, type_: &str, local: Option<&str>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    one_of(Some(type_), &PROFILE_TYPES, &path.field("type"), errors);
    let path = path.field("localhostProfile");
    match (type_, local) {
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(&path, format!("must be set when {what} type is Localhost")));
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(local)) => {
            errors.push(FieldError::invalid(&path, local, format!("can only be set when {what} type is Localhost")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn of_pod(context: Value) -> Vec<String> {
        let mut errors = Vec::new();
        pod(&from_value(context).unwrap(), &Path::root("s"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn of_container(context: Value) -> Vec<String> {
        let mut errors = Vec::new();
        container(&from_value(context).unwrap(), &Path::root("s"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_right_passes() {
        let profiles = json!({ "runAsUser": 0, "runAsGroup": 2_147_483_647, "seccompProfile": { "type": "RuntimeDefault" },
            "appArmorProfile": { "type": "Localhost", "localhostProfile": "a" } });
        assert_eq!(of_pod(profiles.clone()), [""; 0]);
        assert_eq!(of_container(profiles), [""; 0]);
        let sysctls = json!([{ "name": "net.ipv4.ip_forward", "value": "1" }, { "name": "net/a.b-c", "value": "" }]);
        let policy = json!({ "sysctls": sysctls, "fsGroupChangePolicy": "Always", "supplementalGroups": [1] });
        assert_eq!(of_pod(policy), [""; 0]);
        let held = json!({ "allowPrivilegeEscalation": false, "privileged": false, "procMount": "Unmasked" });
        assert_eq!(of_container(held), [""; 0]);
    }

    #[test]
    fn a_sysctl_has_a_name_of_its_own() {
        let named = |names: &[&str]| {
            let sysctls: Vec<_> = names.iter().map(|name| json!({ "name": name, "value": "" })).collect();
            of_pod(json!({ "sysctls": sysctls }))
        };
        assert_eq!(named(&["a", ""]), ["s.sysctls[1].name: Required value"]);
        assert_eq!(named(&["a.b", "a.b"]), [r#"s.sysctls[1].name: Duplicate value: "a.b""#]);
        for wrong in ["A", "a..b", "_a", "a-", "/a", "ä", &"a".repeat(254)] {
            assert_eq!(named(&[wrong]), [format!("s.sysctls[0].name: Invalid value: {wrong:?}: {SYSCTL}")]);
        }
    }

    #[test]
    fn a_profile_has_a_file_only_if_it_is_the_nodes() {
        for (type_, file, errors) in [
            ("Localhost", None, vec![".localhostProfile: Required value: must be set when seccomp type is Localhost"]),
            ("Localhost", Some("/a"), vec![".localhostProfile: Invalid value: \"/a\": must be a relative path"]),
            (
                "Unconfined",
                Some("a"),
                vec![".localhostProfile: Invalid value: \"a\": can only be set when seccomp type is Localhost"],
            ),
            (
                "Odd",
                None,
                vec![
                    ".type: Unsupported value: \"Odd\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
                ],
            ),
        ] {
            let found = of_container(json!({ "seccompProfile": { "type": type_, "localhostProfile": file } }));
            let wanted: Vec<_> = errors.iter().map(|error| format!("s.seccompProfile{error}")).collect();
            assert_eq!(found, wanted);
        }
        let padded = of_pod(json!({ "appArmorProfile": { "type": "Localhost", "localhostProfile": " a" } }));
        let words = r#"s.appArmorProfile.localhostProfile: Invalid value: " a": must not be padded with whitespace"#;
        assert_eq!(padded, [words]);
    }
}
