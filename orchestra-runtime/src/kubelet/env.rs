//! A container's environment: literals, references and `$(NAME)`, resolved by pure functions.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, EnvVarSource, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use orchestra_core::{api::quantity, runtime::EnvVar};

use super::sources::Sources;

/// What a container's environment is made from.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) sources: &'a Sources,
    pub(super) pod_ip: &'a str,
    pub(super) host_ip: &'a str,
    /// What the node has: the limit of a container that has none.
    pub(super) capacity: &'a BTreeMap<String, Quantity>,
}

/// The environment of a container, in order; `Err` says what is missing.
pub(super) fn environment(context: Context<'_>) -> Result<Vec<EnvVar>, String> {
    let mut values = context.sources.links.clone();
    for from in context.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (found, optional, what, name) = if let Some(source) = &from.config_map_ref {
            (context.sources.config_maps.get(&source.name), source.optional, "configmap", &source.name)
        } else if let Some(source) = &from.secret_ref {
            (context.sources.secrets.get(&source.name), source.optional, "secret", &source.name)
        } else {
            continue;
        };
        match found {
            Some(data) => {
                let text = data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)));
                values.extend(text);
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{what} {name:?} not found")),
        }
    }
    for variable in context.container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => referred(context, from)?,
            (value, None) => Some(expand(value.as_deref().unwrap_or_default(), &values)),
        };
        if let Some(value) = value {
            values.insert(variable.name.clone(), value);
        }
    }
    let usable = values.into_iter().filter(|(name, value)| !name.contains(['=', '\0']) && !value.contains('\0'));
    Ok(usable.map(|(name, value)| EnvVar { name: name.into(), value: value.into() }).collect())
}

/// Replaces `$(NAME)` by its value where there is one; `$$` is a dollar sign.
pub(super) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let named = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        rest = match (after.strip_prefix('$'), named) {
            (Some(rest), _) => {
                out.push('$');
                rest
            }
            (None, Some((name, rest))) => {
                match values.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest
            }
            (None, None) => {
                out.push('$');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

fn referred(context: Context<'_>, from: &EnvVarSource) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return self::field(context.pod, &field.field_path, context.pod_ip, context.host_ip).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return Ok(Some(self::resource(
            context.container,
            &resource.resource,
            resource.divisor.as_ref(),
            context.capacity,
        )));
    }
    let (data, key, optional, what, name) = if let Some(source) = &from.config_map_key_ref {
        (context.sources.config_maps.get(&source.name), &source.key, source.optional, "configmap", &source.name)
    } else if let Some(source) = &from.secret_key_ref {
        (context.sources.secrets.get(&source.name), &source.key, source.optional, "secret", &source.name)
    } else {
        return Ok(None);
    };
    match (data, data.and_then(|data| data.get(key))) {
        (_, Some(value)) => Ok(Some(text(value))),
        _ if optional == Some(true) => Ok(None),
        (None, _) => Err(format!("{what} {name:?} not found")),
        (Some(_), None) => Err(format!("couldn't find key {key} in {what} {name}")),
    }
}

/// The value of a field of the pod, by its path as in the downward API.
pub(super) fn field(pod: &Pod, path: &str, pod_ip: &str, host_ip: &str) -> Result<String, String> {
    let (metadata, spec) = (&pod.metadata, pod.spec.as_ref());
    let keyed = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key.trim_matches(['\'', '"']))).cloned().unwrap_or_default()
    };
    let all = |map: &Option<BTreeMap<String, String>>| {
        let lines: Vec<_> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    if let Some((map, key)) = path.strip_suffix(']').and_then(|path| path.split_once('[')) {
        return match map {
            "metadata.labels" => Ok(keyed(&metadata.labels, key)),
            "metadata.annotations" => Ok(keyed(&metadata.annotations, key)),
            _ => Err(format!("unsupported fieldPath: {path}")),
        };
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => all(&metadata.labels),
        "metadata.annotations" => all(&metadata.annotations),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => pod_ip.into(),
        "status.hostIP" | "status.hostIPs" => host_ip.into(),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A resource of a container, in units of `divisor` and rounded up. Without a limit, it is what the node has.
pub(super) fn resource(
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
    capacity: &BTreeMap<String, Quantity>,
) -> String {
    let resources = container.resources.as_ref();
    let quantity = match resource.split_once('.') {
        Some(("limits", name)) => {
            resources.and_then(|all| all.limits.as_ref()?.get(name)).or_else(|| capacity.get(name))
        }
        Some(("requests", name)) => resources.and_then(|all| all.requests.as_ref()?.get(name)),
        _ => None,
    };
    let value = quantity.and_then(thousandths).unwrap_or(0);
    let divisor = divisor.and_then(thousandths).filter(|divisor| *divisor > 0).unwrap_or(1_000);
    value.div_ceil(divisor).to_string()
}

/// A quantity in thousandths of its unit, rounded up; none if it isn't one.
pub(super) fn thousandths(quantity: &Quantity) -> Option<u64> {
    let exact: quantity::Quantity = quantity.0.trim().parse().ok()?;
    u64::try_from(exact.as_millis()).ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{expand, resource, thousandths};

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let values: BTreeMap<_, _> = [("A".to_owned(), "x".to_owned())].into();
        let cases = [("$(A)-$(B)", "x-$(B)"), ("$$(A)", "$(A)"), ("$A $( $(", "$A $( $("), ("$$$(A)", "$x"), ("", "")];
        for (text, expanded) in cases {
            assert_eq!(expand(text, &values), expanded, "{text}");
        }
    }

    #[test]
    fn quantities_are_read_in_thousandths() {
        let cases = [
            ("100m", Some(100)),
            ("1.5", Some(1_500)),
            ("1Ki", Some(1_024_000)),
            ("2e3", Some(2_000_000)),
            ("x", None),
        ];
        for (text, value) in cases {
            assert_eq!(thousandths(&Quantity(text.into())), value, "{text}");
        }
    }

    #[test]
    fn a_container_without_a_limit_may_have_what_the_node_has() {
        let capacity = [("cpu".to_owned(), Quantity("4".into())), ("memory".to_owned(), Quantity("8Gi".into()))].into();
        let mebi = Quantity("1Mi".into());
        let container = k8s_openapi::api::core::v1::Container::default();
        assert_eq!(resource(&container, "limits.memory", Some(&mebi), &capacity), "8192");
        assert_eq!(resource(&container, "limits.cpu", None, &capacity), "4");
        assert_eq!(resource(&container, "requests.cpu", None, &capacity), "0");
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_itself(text in "[^$]{0,32}") {
            prop_assert_eq!(expand(&text, &BTreeMap::new()), text);
        }
    }
}
