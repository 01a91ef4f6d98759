//! What a request asks for, read off its method, path and query; pure.

use http::{Method, Uri};

use crate::server::error::{Failure, Result};

/// The query of a request, decoded; the first value of a name counts, but for those that repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    /// The value of `name`; empty if absent.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Changes the values of `name`.
    pub(crate) fn change(&mut self, name: &str, change: impl Fn(&str) -> String) {
        for (_, value) in self.0.iter_mut().filter(|(key, _)| key == name) {
            *value = change(value);
        }
    }

    /// Whether `name` is there, with whatever value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is `true`.
    ///
    /// # Errors
    ///
    /// For anything but a boolean.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.value(name) {
            "" | "false" | "0" | "False" => Ok(false),
            "true" | "1" | "True" => Ok(true),
            other => Err(Failure::bad_request(format!("invalid value {other:?} for {name}: must be a boolean"))),
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.value(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Failure::bad_request(format!("invalid value {text:?} for {name}: must be a number"))),
        }
    }
}

/// Decodes percent escapes; what is no escape stays as it is.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex =
            text.get(at + 1..at + 3).filter(|hex| byte == b'%' && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                decoded.push(escaped);
                at += 2;
            }
            None => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Where in the API a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// Absent for cluster-scoped kinds, and for all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// `status`, `scale`, `log`, …
    pub(crate) subresource: Option<String>,
    /// Whether the path says to watch, as those do that Kubernetes had before `?watch=1`: `/api/v1/watch/pods`.
    pub(crate) watched: bool,
}

/// A routed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A resource of the API.
    Resource(Target),
    /// Anything else: discovery, health, version; the path's segments.
    Path(Vec<String>),
}

impl Route {
    pub(crate) fn parse(uri: &Uri) -> Self {
        let path = uri.path().trim_matches('/');
        let segments: Vec<String> =
            if path.is_empty() { Vec::new() } else { path.split('/').map(percent_decoded).collect() };
        match Target::parse(&segments) {
            Some(target) => Self::Resource(target),
            None => Self::Path(segments),
        }
    }
}

impl Target {
    /// Whether the answer is no object: a log, or a stream.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward"))
    }

    fn parse(segments: &[String]) -> Option<Self> {
        // What has no name is nowhere.
        if segments.iter().any(String::is_empty) {
            return None;
        }
        let (group, version, rest) = match segments {
            [api, version, rest @ ..] if api == "api" => (String::new(), version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" => (group.clone(), version, rest),
            _ => return None,
        };
        let (watched, rest) = match rest {
            [watch, rest @ ..] if watch == "watch" => (true, rest),
            _ => (false, rest),
        };
        let target = |namespace: Option<&String>, plural: &String, rest: &[String]| Self {
            group: group.clone(),
            version: version.clone(),
            plural: plural.clone(),
            namespace: namespace.cloned(),
            name: rest.first().cloned(),
            subresource: (rest.len() > 1).then(|| rest[1..].join("/")),
            watched,
        };
        let target = match rest {
            [] => None,
            // A namespace has subresources of its own names; no kind is called `status` or `finalize`.
            [namespaces, name, sub] if namespaces == "namespaces" && matches!(sub.as_str(), "status" | "finalize") => {
                Some(target(None, namespaces, &[name.clone(), sub.clone()]))
            }
            [namespaces, namespace, plural, rest @ ..] if namespaces == "namespaces" => {
                Some(target(Some(namespace), plural, rest))
            }
            [plural, rest @ ..] => Some(target(None, plural, rest)),
        };
        target.filter(|target| !target.watched || target.subresource.is_none())
    }
}

/// The verb of a request, as RBAC names it.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let watching = target.watched || query.flag("watch").unwrap_or(false);
    match *method {
        Method::GET | Method::HEAD if target.name.is_some() && !watching => "get",
        Method::GET | Method::HEAD if watching => "watch",
        Method::GET | Method::HEAD => "list",
        // What says to watch takes no other verb.
        _ if target.watched => "",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Query, Route, Target};

    fn target(path: &str) -> Option<Target> {
        match Route::parse(&path.parse().expect("a path")) {
            Route::Resource(target) => Some(target),
            Route::Path(_) => None,
        }
    }

    #[test]
    fn paths_name_group_namespace_name_and_subresource() {
        let log = target("/api/v1/namespaces/default/pods/web-0/log").expect("a resource");
        assert_eq!((log.namespace.as_deref(), log.plural.as_str()), (Some("default"), "pods"));
        assert_eq!((log.name.as_deref(), log.subresource.as_deref()), (Some("web-0"), Some("log")));
        let finalize = target("/api/v1/namespaces/a/finalize").expect("a resource");
        assert_eq!((finalize.plural.as_str(), finalize.subresource.as_deref()), ("namespaces", Some("finalize")));
        let all = target("/apis/apps/v1/deployments").expect("a resource");
        assert_eq!((all.group.as_str(), all.namespace, all.name), ("apps", None, None));
        for nowhere in ["/apis/apps/v1", "/api/v1//pods", "/api/v1/namespaces//pods", "/api//pods"] {
            assert_eq!(target(nowhere), None, "{nowhere}");
        }
        let role = target("/apis/rbac.authorization.k8s.io/v1/clusterroles/a+b%3Ac%+5").expect("a resource");
        assert_eq!(role.name.as_deref(), Some("a+b:c%+5"), "in a path, a plus is no space");
    }

    /// SEMANTICS 63: selectors are percent-decoded.
    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1&command=a&command=b");
        assert_eq!(query.value("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch").expect("a boolean"));
        assert_eq!(query.values("command").collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn no_query_panics(query in ".*") {
            Query::parse(&query);
        }
    }
}
