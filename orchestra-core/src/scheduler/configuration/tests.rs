use super::{ConfigurationError, Profile, read};
use crate::scheduler::{NodeInfo, PodId, PodView, Resources, Shape, Snapshot, Verdict};

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn of(body: &str) -> Result<Vec<Profile>, ConfigurationError> {
    read(&format!("{HEAD}{body}"))
}

/// The scores of a profile, each with its weight and points, by what it says of a half-full node.
fn scores(profile: &Profile) -> Vec<(String, i64, i64)> {
    let amounts = |cpu, memory| Resources { cpu, memory, pods: 1, ..Resources::default() };
    let allocatable = Resources { pods: 10, ..amounts(4_000, 4_000) };
    let nodes = [NodeInfo { name: "n".into(), allocatable, ..NodeInfo::default() }];
    let shape = |cpu| Shape { requests: amounts(cpu, cpu), weighed_requests: amounts(cpu, cpu), ..Shape::default() };
    let pods = [(PodView::new("waits", shape(1_000)), None), (PodView::new("runs", shape(1_000)), Some("n".into()))];
    let snapshot = Snapshot::new(nodes, pods);
    let explained = profile.pipeline.explain(&snapshot, PodId(0));
    let Verdict::Scored(points) = &explained[0].verdict else { panic!("{explained:?}") };
    points.iter().map(|one| (one.score.to_string(), one.weight, one.points)).collect()
}

fn names_and_weights(profile: &Profile) -> Vec<(String, i64)> {
    scores(profile).into_iter().map(|(name, weight, _)| (name, weight)).collect()
}

fn owned(list: &[(&str, i64)]) -> Vec<(String, i64)> {
    list.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

const USUAL: [(&str, i64); 5] =
    [("taints", 3), ("node-affinity", 2), ("least-allocated", 1), ("balanced-allocation", 1), ("image-locality", 1)];

#[test]
fn a_file_that_says_nothing_means_the_defaults() {
    let profiles = of("").expect("a configuration");
    let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["default-scheduler"]);
    assert_eq!(names_and_weights(&profiles[0]), owned(&USUAL));
}

/// As kube-scheduler's documentation has it ("Scheduler Configuration").
#[test]
fn plugins_are_merged_point_by_point() {
    let body = "
profiles:
- schedulerName: packer
  plugins:
    score:
      disabled: [{ name: NodeResourcesBalancedAllocation }]
      enabled: [{ name: NodeResourcesFit, weight: 5 }]
    multiPoint:
      enabled: [{ name: TaintToleration, weight: 7 }]
  pluginConfig:
  - name: NodeResourcesFit
    args: { scoringStrategy: { type: MostAllocated, resources: [{ name: cpu, weight: 1 }, { name: memory, weight: 1 }] } }
- schedulerName: bare
  plugins:
    multiPoint:
      disabled: [{ name: \"*\" }]
      enabled: [{ name: NodeResourcesFit }, { name: ImageLocality, weight: 2 }]
";
    let profiles = of(body).expect("a configuration");
    let scored = scores(&profiles[0]);
    assert!(scored.contains(&("most-allocated".into(), 5, 50)), "{scored:?}");
    assert!(
        scored.contains(&("taints".into(), 7, 100)) && scored.iter().all(|(name, ..)| name != "balanced-allocation")
    );
    assert_eq!(names_and_weights(&profiles[1]), owned(&[("least-allocated", 1), ("image-locality", 2)]));
}

#[test]
fn a_ratio_has_its_points_and_resources() {
    let body = "
profiles:
- pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{ name: cpu, weight: 3 }]
        requestedToCapacityRatio: { shape: [{ utilization: 0, score: 0 }, { utilization: 100, score: 10 }] }
";
    let scored = scores(&of(body).expect("a configuration")[0]);
    assert!(scored.contains(&("requested-to-capacity-ratio".into(), 1, 50)), "{scored:?}");
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    for (body, field) in [
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore: 101 is not between 0 and 100"),
        ("extenders: [{ urlPrefix: http://x }]", "extenders: are not asked"),
        ("profiles: [{ schedulerName: a }, { schedulerName: a }]", "profiles[1].schedulerName: \"a\" is empty, or"),
        (
            "profiles: [{ plugins: { score: { enabled: [{ name: Foo }] } } }]",
            "profiles[0].plugins.score.enabled[0].name: \"Foo\" is no plugin",
        ),
        (
            "profiles: [{ plugins: { score: { enabled: [{ name: ImageLocality, weight: -1 }] } } }]",
            "profiles[0].plugins.score.enabled[0].weight: -1 is not between",
        ),
        (
            "profiles: [{ plugins: { score: { enabled: [{ name: \"*\" }] } } }]",
            "profiles[0].plugins.score.enabled[0].name: \"*\" is no plugin",
        ),
        (
            "profiles: [{ pluginConfig: [{ name: NodeResourcesFit, args: { scoringStrategy: { type: Best } } }] }]",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: \"Best\" is not",
        ),
        (
            "profiles: [{ pluginConfig: [{ name: NodeResourcesFit, args: { ignoredResources: [a] } }] }]",
            "profiles[0].pluginConfig[0].args.ignoredResources: every",
        ),
        (
            "profiles: [{ pluginConfig: [{ name: InterPodAffinity, args: { hardPodAffinityWeight: 200 } }] }]",
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: 200 is not between",
        ),
        (
            "profiles: [{ pluginConfig: [{ name: InterPodAffinity, args: { typo: 1 } }] }]",
            "profiles[0].pluginConfig[0].args: unknown field `typo`",
        ),
        ("profiles: [{ pluginConfig: [{ name: ImageLocality, args: {} }] }]", "profiles[0].pluginConfig[0].name"),
    ] {
        let said = of(body).expect_err(body).to_string();
        assert!(said.starts_with(field), "{said}");
    }
    let unknown = of("profiles: [{ plugin: {} }]").expect_err("no such field");
    let ConfigurationError::Unreadable(cause) = unknown else { panic!("{unknown:?}") };
    assert!(cause.to_string().contains("profiles[0]: unknown field `plugin`"), "{cause}");
    let other = read("apiVersion: v1\nkind: KubeSchedulerConfiguration").expect_err("another version");
    assert!(other.to_string().starts_with("apiVersion: \"v1\" is not"), "{other}");
}

#[test]
fn what_decides_nothing_is_read_over() {
    let body = "
leaderElection: { leaderElect: true, leaseDuration: 15s }
clientConnection: { kubeconfig: /etc/kubernetes/scheduler.conf, qps: 50 }
parallelism: 16
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 10
profiles:
- percentageOfNodesToScore: 50
";
    assert_eq!(names_and_weights(&of(body).expect("a configuration")[0]), owned(&USUAL));
}
