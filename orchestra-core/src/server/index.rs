//! `/`: the paths of what is served, as `kubectl get --raw /` shows them.

use serde_json::{Value, json};

use crate::server::{Inner, health, openapi};

/// The paths that are neither of the registry, nor of health or OpenAPI.
const OTHERS: [&str; 4] = ["/api", "/apis", "/metrics", "/version"];

impl Inner {
    /// The paths, in order.
    pub(super) fn index(&self) -> Value {
        let mut paths: Vec<String> = OTHERS.iter().chain(&openapi::PATHS).map(ToString::to_string).collect();
        for kind in self.registry.iter() {
            let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
            paths.push(format!("{group}/{}", kind.version));
            paths.push(group);
        }
        paths.extend(health::paths());
        paths.sort();
        paths.dedup();
        json!({ "paths": paths })
    }
}
