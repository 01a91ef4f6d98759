//! kube-scheduler's configuration file: which profiles there are, of which plugins, with which weights.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use self::file::{AffinityArgs, File, FitArgs, Plugin, PluginSet, ScoringStrategy};
use super::{
    BalancedAllocation, DEFAULT_SCHEDULER, HostPortsFree, ImageLocality, LeastAllocated, Look, MostAllocated,
    NodeAffinityMatches, NodeNameMatches, NodeSchedulable, Pipeline, PodAffinityMatches, PreferredNodeAffinity,
    PreferredPodAffinity, PreferredSpread, PreferredTaints, RequestedToCapacityRatio, ResourcesFit, TaintsTolerated,
    Ties, TopologySpreads,
};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// The plugins of kube-scheduler's default profile, in its order, each with its weight as a score; 0 for those that are none.
const DEFAULTS: [(&str, i64); 18] = [
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
];

/// What a configuration file can't mean.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// It is no YAML, or not of this kind; the cause names the field and the line.
    #[error("the scheduler's configuration can't be read")]
    Unreadable(#[source] serde_yaml_ng::Error),
    /// A field says what it may not, or what isn't done here.
    #[error("{field}: {problem}")]
    Field {
        /// The field's path, such as `profiles[0].plugins.score.enabled[1].name`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A scheduler, and the pods it is for.
#[derive(Debug)]
pub struct Profile {
    /// The name that its pods call it by.
    pub name: String,
    /// The scheduler.
    pub pipeline: Pipeline,
}

/// Reads a `KubeSchedulerConfiguration` of `kubescheduler.config.k8s.io/v1`, as YAML or JSON; there is at least one profile.
///
/// Plugins are merged as kube-scheduler merges them: `multiPoint` with the defaults first, then each point for itself; `"*"` disables
/// all that isn't named. Fields that are no matter of decisions (`leaderElection`, `clientConnection`, `parallelism`, backoffs,
/// profiling) are read over. Where `percentageOfNodesToScore` is absent all nodes are looked at, as that costs nothing here. Volumes are
/// not known to the snapshot: their plugins may be named, and filter nothing. Services' pods are not spread unless they ask for it
/// (`defaultConstraints` is refused, the defaulting type `System` has no effect).
///
/// # Errors
///
/// [`ConfigurationError`] names the field: for unknown fields and plugins, for what is out of its range, and for arguments that would
/// change decisions and aren't done here.
pub fn read(text: &str) -> Result<Vec<Profile>, ConfigurationError> {
    let file: File = serde_yaml_ng::from_str(text).map_err(ConfigurationError::Unreadable)?;
    if file.api_version != API_VERSION {
        return Err(problem("apiVersion", format!("{:?} is not {API_VERSION}", file.api_version)));
    }
    if file.kind != KIND {
        return Err(problem("kind", format!("{:?} is not {KIND}", file.kind)));
    }
    if !file.extenders.is_empty() {
        return Err(problem("extenders", "are not asked; a policy in another program is `External`"));
    }
    let look = look("", file.percentage_of_nodes_to_score)?;
    let mut given = file.profiles;
    if given.is_empty() {
        given.push(file::Profile::default());
    }
    let (mut profiles, mut names) = (Vec::new(), BTreeSet::new());
    for (at, profile) in given.iter().enumerate() {
        let path = format!("profiles[{at}]");
        let name = profile.scheduler_name.clone().unwrap_or_else(|| DEFAULT_SCHEDULER.into());
        if name.is_empty() || !names.insert(name.clone()) {
            return Err(problem(format!("{path}.schedulerName"), format!("{name:?} is empty, or another profile's")));
        }
        let own = self::look(&format!("{path}."), profile.percentage_of_nodes_to_score)?;
        let pipeline = pipeline(&name, &path, profile)?.look(own.or(look).unwrap_or(Look::All));
        profiles.push(Profile { name, pipeline });
    }
    Ok(profiles)
}

fn problem(field: impl Into<String>, problem: impl Into<String>) -> ConfigurationError {
    ConfigurationError::Field { field: field.into(), problem: problem.into() }
}

fn look(path: &str, percentage: Option<i64>) -> Result<Option<Look>, ConfigurationError> {
    let Some(percentage) = percentage else { return Ok(None) };
    match u32::try_from(percentage) {
        Ok(percentage @ 0..=100) => Ok(Some(Look::Share(percentage))),
        _ => {
            let field = format!("{path}percentageOfNodesToScore");
            Err(problem(field, format!("{percentage} is not between 0 and 100")))
        }
    }
}

/// The plugins of a set, on top of those there are.
fn merged(base: &[Plugin], set: &PluginSet) -> Vec<Plugin> {
    let is_off = |name: &str| set.disabled.iter().any(|off| off.name == name || off.name == "*");
    let given = |name: &str| set.enabled.iter().find(|plugin| plugin.name == name);
    let kept = base.iter().filter(|plugin| !is_off(&plugin.name));
    let mut plugins: Vec<Plugin> = kept.map(|plugin| given(&plugin.name).unwrap_or(plugin).clone()).collect();
    for plugin in &set.enabled {
        if plugins.iter().all(|there| there.name != plugin.name) {
            plugins.push(plugin.clone());
        }
    }
    plugins
}

fn pipeline(name: &str, path: &str, profile: &file::Profile) -> Result<Pipeline, ConfigurationError> {
    let is_known = |name: &str| DEFAULTS.iter().any(|(known, _)| *known == name);
    for (point, set) in profile.plugins.points() {
        for (list, plugins) in [("enabled", &set.enabled), ("disabled", &set.disabled)] {
            let means_something = |name: &str| is_known(name) || (list == "disabled" && name == "*");
            if let Some(at) = plugins.iter().position(|plugin| !means_something(&plugin.name)) {
                let field = format!("{path}.plugins.{point}.{list}[{at}].name");
                return Err(problem(field, format!("{:?} is no plugin of this scheduler", plugins[at].name)));
            }
            if let Some(at) = plugins.iter().position(|plugin| !(0..=10_000).contains(&plugin.weight)) {
                let field = format!("{path}.plugins.{point}.{list}[{at}].weight");
                return Err(problem(field, format!("{} is not between 0 and 10000", plugins[at].weight)));
            }
        }
    }
    let defaults = DEFAULTS.map(|(name, weight)| Plugin { name: name.into(), weight });
    let everywhere = merged(&defaults, &profile.plugins.multi_point);
    let mut built = Pipeline::new(name).ties(Ties::Random);
    for plugin in merged(&everywhere, &profile.plugins.filter) {
        built = with_filter(built, &plugin.name);
    }
    let arguments = Arguments::of(path, profile)?;
    for plugin in merged(&everywhere, &profile.plugins.score) {
        // As upstream has it: whoever is enabled has a weight.
        built = arguments.with_score(built, &plugin.name, plugin.weight.max(1));
    }
    let preempts = merged(&everywhere, &profile.plugins.post_filter);
    Ok(if preempts.iter().any(|plugin| plugin.name == "DefaultPreemption") { built.preempting() } else { built })
}

fn with_filter(pipeline: Pipeline, plugin: &str) -> Pipeline {
    match plugin {
        "NodeUnschedulable" => pipeline.filter(NodeSchedulable),
        "NodeName" => pipeline.filter(NodeNameMatches),
        "TaintToleration" => pipeline.filter(TaintsTolerated),
        "NodeAffinity" => pipeline.filter(NodeAffinityMatches),
        "NodePorts" => pipeline.filter(HostPortsFree),
        "NodeResourcesFit" => pipeline.filter(ResourcesFit),
        "PodTopologySpread" => pipeline.relation(TopologySpreads),
        "InterPodAffinity" => pipeline.relation(PodAffinityMatches),
        _ => pipeline,
    }
}

/// What the plugins are told.
struct Arguments {
    strategy: Strategy,
    affinity: PreferredPodAffinity,
}

enum Strategy {
    Least,
    Most,
    Ratio(RequestedToCapacityRatio),
}

impl Arguments {
    fn of(path: &str, profile: &file::Profile) -> Result<Self, ConfigurationError> {
        let mut arguments = Self { strategy: Strategy::Least, affinity: PreferredPodAffinity::default() };
        for (at, config) in profile.plugin_config.iter().enumerate() {
            let path = format!("{path}.pluginConfig[{at}]");
            match config.name.as_str() {
                "NodeResourcesFit" => arguments.strategy = strategy(&path, decoded(&path, &config.args)?)?,
                "InterPodAffinity" => {
                    let given: AffinityArgs = decoded(&path, &config.args)?;
                    let weight = given.hard_pod_affinity_weight.unwrap_or(1);
                    if !(0..=100).contains(&weight) {
                        let field = format!("{path}.args.hardPodAffinityWeight");
                        return Err(problem(field, format!("{weight} is not between 0 and 100")));
                    }
                    arguments.affinity = PreferredPodAffinity {
                        required_weight: weight,
                        heeds_those_there: !given.ignore_preferred_terms_of_existing_pods,
                    };
                }
                "PodTopologySpread" if has_default_constraints(&config.args) => {
                    let field = format!("{path}.args.defaultConstraints");
                    return Err(problem(field, "pods are spread only if they ask for it"));
                }
                "PodTopologySpread" => {}
                name => {
                    let field = format!("{path}.name");
                    return Err(problem(field, format!("{name:?} takes no arguments here")));
                }
            }
        }
        Ok(arguments)
    }

    fn with_score(&self, pipeline: Pipeline, plugin: &str, weight: i64) -> Pipeline {
        match (plugin, &self.strategy) {
            ("TaintToleration", _) => pipeline.score(weight, PreferredTaints),
            ("NodeAffinity", _) => pipeline.score(weight, PreferredNodeAffinity),
            ("NodeResourcesFit", Strategy::Least) => pipeline.score(weight, LeastAllocated),
            ("NodeResourcesFit", Strategy::Most) => pipeline.score(weight, MostAllocated),
            ("NodeResourcesFit", Strategy::Ratio(ratio)) => pipeline.score(weight, ratio.clone()),
            ("PodTopologySpread", _) => pipeline.relation_score(weight, PreferredSpread),
            ("InterPodAffinity", _) => pipeline.relation_score(weight, self.affinity),
            ("NodeResourcesBalancedAllocation", _) => pipeline.score(weight, BalancedAllocation),
            ("ImageLocality", _) => pipeline.score(weight, ImageLocality),
            _ => pipeline,
        }
    }
}

fn has_default_constraints(args: &serde_json::Value) -> bool {
    args["defaultConstraints"].as_array().is_some_and(|list| !list.is_empty())
}

fn decoded<T: DeserializeOwned>(path: &str, args: &serde_json::Value) -> Result<T, ConfigurationError> {
    T::deserialize(args).map_err(|error| problem(format!("{path}.args"), error.to_string()))
}

fn strategy(path: &str, args: FitArgs) -> Result<Strategy, ConfigurationError> {
    let path = format!("{path}.args");
    for (field, list) in
        [("ignoredResources", args.ignored_resources), ("ignoredResourceGroups", args.ignored_resource_groups)]
    {
        if !list.is_empty() {
            return Err(problem(format!("{path}.{field}"), "every resource counts here"));
        }
    }
    let Some(ScoringStrategy { kind, resources, requested_to_capacity_ratio }) = args.scoring_strategy else {
        return Ok(Strategy::Least);
    };
    let path = format!("{path}.scoringStrategy");
    let resources = resources.unwrap_or_default();
    if let Some(at) = resources.iter().position(|resource| !(0..=100).contains(&resource.weight)) {
        let field = format!("{path}.resources[{at}].weight");
        return Err(problem(field, format!("{} is not between 1 and 100", resources[at].weight)));
    }
    let weighed = resources.iter().map(|resource| (resource.name.as_str(), resource.weight.max(1)));
    if kind == "RequestedToCapacityRatio" {
        let shape = requested_to_capacity_ratio.map(|ratio| ratio.shape).unwrap_or_default();
        let field = format!("{path}.requestedToCapacityRatio.shape");
        if shape.is_empty() || !shape.is_sorted_by(|a, b| a.utilization < b.utilization) {
            return Err(problem(field, "needs points, in the order of their utilization, each once"));
        }
        let is_out = |utilization: i64, score: i64| !(0..=100).contains(&utilization) || !(0..=10).contains(&score);
        if let Some(at) = shape.iter().position(|point| is_out(point.utilization, point.score)) {
            return Err(problem(format!("{field}[{at}]"), "utilization is 0 to 100, score is 0 to 10"));
        }
        let ratio = RequestedToCapacityRatio::new(shape.iter().map(|point| (point.utilization, point.score)));
        let weighed: Vec<_> = weighed.collect();
        return Ok(Strategy::Ratio(if weighed.is_empty() { ratio } else { ratio.resources(weighed) }));
    }
    let named: BTreeSet<(&str, i64)> = weighed.collect();
    let is_usual = |named: &BTreeSet<(&str, i64)>| {
        named.is_empty() || named.len() == 2 && ["cpu", "memory"].iter().all(|name| named.contains(&(*name, 1)))
    };
    if !is_usual(&named) {
        return Err(problem(format!("{path}.resources"), format!("{kind} counts cpu and memory, alike")));
    }
    match kind.as_str() {
        "LeastAllocated" => Ok(Strategy::Least),
        "MostAllocated" => Ok(Strategy::Most),
        _ => {
            let known = "LeastAllocated, MostAllocated or RequestedToCapacityRatio";
            Err(problem(format!("{path}.type"), format!("{kind:?} is not {known}")))
        }
    }
}
