//! The file's own words: `KubeSchedulerConfiguration`, `kubescheduler.config.k8s.io/v1`.

#![allow(dead_code, reason = "some fields are only there to be known: what is no matter of decisions is read over")]

use serde::{Deserialize, de::IgnoredAny};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    pub(super) profiles: Vec<Profile>,
    #[serde(default)]
    pub(super) extenders: Vec<IgnoredAny>,
    pub(super) parallelism: Option<IgnoredAny>,
    pub(super) leader_election: Option<IgnoredAny>,
    pub(super) client_connection: Option<IgnoredAny>,
    pub(super) enable_profiling: Option<IgnoredAny>,
    pub(super) enable_contention_profiling: Option<IgnoredAny>,
    pub(super) pod_initial_backoff_seconds: Option<IgnoredAny>,
    pub(super) pod_max_backoff_seconds: Option<IgnoredAny>,
    pub(super) delay_cache_until_active: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Profile {
    pub(super) scheduler_name: Option<String>,
    pub(super) percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    pub(super) plugins: Plugins,
    #[serde(default)]
    pub(super) plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Plugins {
    pub(super) multi_point: PluginSet,
    pub(super) pre_enqueue: PluginSet,
    pub(super) queue_sort: PluginSet,
    pub(super) pre_filter: PluginSet,
    pub(super) filter: PluginSet,
    pub(super) post_filter: PluginSet,
    pub(super) pre_score: PluginSet,
    pub(super) score: PluginSet,
    pub(super) reserve: PluginSet,
    pub(super) permit: PluginSet,
    pub(super) pre_bind: PluginSet,
    pub(super) bind: PluginSet,
    pub(super) post_bind: PluginSet,
}

impl Plugins {
    /// Every point with its name in the file.
    pub(super) fn points(&self) -> [(&'static str, &PluginSet); 13] {
        [
            ("multiPoint", &self.multi_point),
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
        ]
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PluginSet {
    pub(super) enabled: Vec<Plugin>,
    pub(super) disabled: Vec<Plugin>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugin {
    pub(super) name: String,
    #[serde(default)]
    pub(super) weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginConfig {
    pub(super) name: String,
    #[serde(default)]
    pub(super) args: serde_json::Value,
}

/// The arguments of `NodeResourcesFit`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FitArgs {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) ignored_resources: Vec<String>,
    pub(super) ignored_resource_groups: Vec<String>,
    pub(super) scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ScoringStrategy {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) resources: Option<Vec<Resource>>,
    pub(super) requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: String,
    #[serde(default)]
    pub(super) weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ratio {
    pub(super) shape: Vec<RatioPoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RatioPoint {
    pub(super) utilization: i64,
    pub(super) score: i64,
}

/// The arguments of `InterPodAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AffinityArgs {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) hard_pod_affinity_weight: Option<i64>,
    pub(super) ignore_preferred_terms_of_existing_pods: bool,
}
