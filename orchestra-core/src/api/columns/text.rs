//! What several kinds' cells have in common.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::Value;

use super::duration::human;
use crate::clock::Timestamp;

/// What stands in a cell about nothing.
pub(super) const NONE: &str = "<none>";
/// How many items a cell lists before it counts the rest.
const LISTED_MAX: usize = 3;

pub(super) fn name(meta: &ObjectMeta) -> Value {
    meta.name.as_deref().unwrap_or_default().into()
}

/// How long ago an object was created.
pub(super) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(meta.creation_timestamp.as_ref().map(|time| time.0), now).into()
}

/// How long ago something was.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |then| human(now.duration_since(then)))
}

/// A text that may be absent or empty.
pub(super) fn or_none(text: Option<&str>) -> Value {
    text.filter(|text| !text.is_empty()).unwrap_or(NONE).into()
}

/// `a=b,c=d`.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>) -> Value {
    let pairs: Vec<_> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    or_none(Some(&pairs.join(",")))
}

/// A selector as a query; `<none>` if it is absent or empty, `<error>` if it can't be one.
pub(super) fn selector(selector: Option<&LabelSelector>) -> Value {
    match selector.map(query) {
        Some(None) => "<error>".into(),
        Some(Some(query)) => or_none(Some(&query)),
        None => NONE.into(),
    }
}

/// A selector as a query, its terms by key: `app=web,tier in (a,b),!old`; none if an operator is unknown or lacks values.
pub(super) fn query(selector: &LabelSelector) -> Option<String> {
    let labels = selector.match_labels.iter().flatten();
    let mut terms: Vec<_> = labels.map(|(key, value)| (key.as_str(), format!("{key}={value}"))).collect();
    for expression in selector.match_expressions.iter().flatten() {
        let key = expression.key.as_str();
        let mut values = expression.values.clone().unwrap_or_default();
        values.sort_unstable();
        let list = values.join(",");
        let term = match expression.operator.as_str() {
            "In" if !values.is_empty() => format!("{key} in ({list})"),
            "NotIn" if !values.is_empty() => format!("{key} notin ({list})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    Some(terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","))
}

/// The names of a template's containers, and their images.
pub(super) fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let containers = template.and_then(|template| template.spec.as_ref()).map(|spec| spec.containers.as_slice());
    let containers = containers.unwrap_or_default();
    let joined = |text: fn(&Container) -> &str| containers.iter().map(text).collect::<Vec<_>>().join(",").into();
    [joined(|container| container.name.as_str()), joined(|container| container.image.as_deref().unwrap_or_default())]
}

/// The first few of a list, and how many more there are: `a,b,c + 2 more...`.
pub(super) fn first_few(items: &[String]) -> String {
    match items.get(..LISTED_MAX) {
        Some(first) if items.len() > LISTED_MAX => {
            format!("{} + {} more...", first.join(","), items.len() - LISTED_MAX)
        }
        _ => items.join(","),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{first_few, selector};

    #[test]
    fn selectors_read_as_queries_by_key() {
        for (given, expected) in [
            (json!({}), "<none>"),
            (json!({ "matchLabels": { "b": "2", "a": "1" } }), "a=1,b=2"),
            (
                json!({ "matchLabels": { "app": "web" }, "matchExpressions": [
                    { "key": "tier", "operator": "In", "values": ["y", "x"] },
                    { "key": "old", "operator": "DoesNotExist" },
                    { "key": "a", "operator": "Exists" },
                    { "key": "z", "operator": "NotIn", "values": ["1"] }] }),
                "a,app=web,!old,tier in (x,y),z notin (1)",
            ),
            (json!({ "matchExpressions": [{ "key": "a", "operator": "Near" }] }), "<error>"),
            (json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": [] }] }), "<error>"),
        ] {
            let parsed = serde_json::from_value(given.clone()).expect("a selector");
            assert_eq!(selector(Some(&parsed)), expected, "{given}");
        }
        assert_eq!(selector(None), "<none>");
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let items = |count: usize| (0..count).map(|item| item.to_string()).collect::<Vec<_>>();
        assert_eq!(first_few(&items(0)), "");
        assert_eq!(first_few(&items(3)), "0,1,2");
        assert_eq!(first_few(&items(5)), "0,1,2 + 2 more...");
    }
}
