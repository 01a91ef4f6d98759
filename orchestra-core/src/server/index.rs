//! `/`: the paths of what is served, as `kubectl get --raw /` shows them.

use serde_json::{Value, json};

use crate::server::{Inner, health, openapi};

/// The paths that are neither of the registry, nor of health or OpenAPI.
const OTHERS: [&str; 4] = ["/api", "/apis", "/metrics", "/version"];

impl Inner {
    /// The paths, in order.
    pub(super) fn index(&self) -> Value {
        json!({ "paths": self.paths() })
    }

    /// Whether there is something at a path, of which these are the segments.
    pub(super) fn is_served(&self, segments: &[&str]) -> bool {
        // Each group's document of OpenAPI is at the group's own path, below that of the list.
        let path = match segments {
            ["openapi", "v3", group_version @ ..] if group_version.len() > 1 => group_version,
            path => path,
        };
        path.is_empty() || self.paths().contains(&format!("/{}", path.join("/")))
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = OTHERS.iter().chain(&openapi::PATHS).map(ToString::to_string).collect();
        for kind in self.registry.iter() {
            let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
            paths.push(format!("{group}/{}", kind.version));
            paths.push(group);
        }
        paths.extend(health::paths());
        paths.sort();
        paths.dedup();
        paths
    }
}
