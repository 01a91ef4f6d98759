//! What becomes of a new object: SEMANTICS 24 and 30.

use serde_json::json;

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, NAMESPACES, PODS, config_map, deployment, pod, version};

/// SEMANTICS 24.
#[tokio::test(start_paused = true)]
async fn the_server_names_stamps_and_counts_a_new_object() {
    let cluster = Cluster::new();
    let mut given = deployment("web");
    given["metadata"]["uid"] = "mine".into();
    given["metadata"]["generation"] = 7.into();
    given["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    given["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    given["metadata"]["managedFields"] = json!([{ "manager": "me" }]);
    given["status"] = json!({ "replicas": 5 });
    let reply = cluster.post(DEPLOYMENTS, &given).await;
    assert_eq!(reply.code, 201);
    let made = reply.json();
    let meta = &made["metadata"];
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("Deployment"), &json!("apps/v1")));
    assert_eq!((&meta["namespace"], &meta["generation"]), (&json!("default"), &json!(1)));
    assert_eq!(meta["uid"].as_str().map(str::len), Some(36));
    assert_eq!(meta["creationTimestamp"], "2030-01-01T00:00:00Z");
    assert!(meta.get("deletionTimestamp").is_none() && meta.get("managedFields").is_none());
    assert!(made["status"].get("replicas").is_none(), "a status is its observer's");
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await.ok(), made);
}

/// A kubelet registers its node with what that has, so that no scheduler sees one with nothing.
#[tokio::test(start_paused = true)]
async fn a_node_is_created_with_its_status() {
    let cluster = Cluster::new();
    let status = json!({ "allocatable": { "cpu": "4" }, "conditions": [{ "type": "Ready", "status": "True" }] });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" }, "status": status });
    let made = cluster.post("/api/v1/nodes", &node).await.ok();
    assert_eq!(
        (&made["status"]["allocatable"], &made["status"]["conditions"]),
        (&status["allocatable"], &status["conditions"])
    );
}

/// SEMANTICS 21 and 24.
#[tokio::test(start_paused = true)]
async fn a_name_is_taken_once_and_a_uid_never_again() {
    let cluster = Cluster::new();
    let first = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let status = cluster.post(CONFIG_MAPS, &config_map("a")).await.failed(409, "AlreadyExists");
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    assert_eq!(status["details"], json!({ "name": "a", "kind": "configmaps" }));
    cluster.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    let second = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    assert!(version(&second) > version(&first));
}

/// SEMANTICS 24.
#[tokio::test(start_paused = true)]
async fn generated_names_differ_and_keep_their_beginning() {
    let cluster = Cluster::new();
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let made = cluster.post(CONFIG_MAPS, &json!({ "metadata": { "generateName": "a-" } })).await.ok();
        let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
        assert!(name.starts_with("a-") && name.len() == 7, "{name}");
        assert!(names.insert(name));
    }
    let long = "x".repeat(100);
    let made = cluster.post(CONFIG_MAPS, &json!({ "metadata": { "generateName": long } })).await.ok();
    assert_eq!(made["metadata"]["name"].as_str().map(str::len), Some(63));
}

/// SEMANTICS 24.
#[tokio::test(start_paused = true)]
async fn a_new_object_has_no_resource_version_yet() {
    let cluster = Cluster::new();
    let mut given = config_map("a");
    given["metadata"]["resourceVersion"] = "5".into();
    let words = "resourceVersion should not be set on objects to be created";
    cluster.post(CONFIG_MAPS, &given).await.failed_with(400, "BadRequest", words);
}

/// SEMANTICS 29: a dry run changes nothing, not even the revision.
#[tokio::test(start_paused = true)]
async fn a_dry_run_answers_like_a_creation_and_makes_nothing() {
    let cluster = Cluster::new();
    let before = cluster.now().await;
    let reply = cluster.post(&format!("{PODS}?dryRun=All"), &pod("a")).await;
    assert_eq!(reply.code, 201);
    assert_eq!(reply.json()["spec"]["restartPolicy"], "Always");
    assert!(reply.json()["metadata"].get("resourceVersion").is_none());
    cluster.get(&format!("{PODS}/a")).await.failed(404, "NotFound");
    assert_eq!(cluster.now().await, before);
    cluster.post(PODS, &pod("a")).await.ok();
    cluster.post(&format!("{PODS}?dryRun=All"), &pod("a")).await.failed(409, "AlreadyExists");
}

/// SEMANTICS 30 and 71.
#[tokio::test(start_paused = true)]
async fn nothing_is_made_in_a_namespace_that_is_missing_or_on_its_way_out() {
    let cluster = Cluster::new();
    let there = "/api/v1/namespaces/there/configmaps";
    let status = cluster.post(there, &config_map("a")).await.failed(404, "NotFound");
    assert_eq!(status["message"], "namespaces \"there\" not found");

    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "there" } })).await.ok();
    cluster.post(there, &config_map("a")).await.ok();
    let going = cluster.delete(&format!("{NAMESPACES}/there")).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let status = cluster.post(there, &config_map("b")).await.failed(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    // What is there can still be seen, changed and deleted.
    cluster.put(&format!("{there}/a"), &config_map("a")).await.ok();
    cluster.delete(&format!("{there}/a")).await.ok();
}

/// A write to the namespace itself, such as of its status, is none of a creation's business.
#[tokio::test(start_paused = true)]
async fn creations_do_not_conflict_with_writes_to_their_namespace() {
    let cluster = Cluster::contended();
    let creations = (0..40).map(|at| {
        let cluster = cluster.clone();
        async move { cluster.post(CONFIG_MAPS, &config_map(&format!("c-{at}"))).await.code }
    });
    let labels = (0..40).map(|at| {
        let cluster = cluster.clone();
        async move {
            let patch = json!({ "metadata": { "labels": { "at": at.to_string() } } });
            cluster.patch("/api/v1/namespaces/default", super::fixture::MERGE_PATCH, &patch).await.code
        }
    });
    let (created, labelled) = tokio::join!(futures::future::join_all(creations), futures::future::join_all(labels));
    assert_eq!(created, [201; 40]);
    assert_eq!(labelled, [200; 40]);
}

/// SEMANTICS 71.
#[tokio::test(start_paused = true)]
async fn the_namespaces_and_the_service_that_every_cluster_has_are_there() {
    let cluster = Cluster::new();
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = cluster.get(&format!("{NAMESPACES}/{name}")).await.ok();
        assert_eq!(namespace["status"]["phase"], "Active");
    }
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_no_account_is_of_the_default_one() {
    let cluster = Cluster::new();
    for (at, given) in [json!(null), json!("")].into_iter().enumerate() {
        let mut pod = pod(&format!("p{at}"));
        pod["spec"]["serviceAccountName"] = given;
        let made = cluster.post(PODS, &pod).await.ok();
        assert_eq!(
            (&made["spec"]["serviceAccountName"], &made["spec"]["serviceAccount"]),
            (&json!("default"), &json!("default"))
        );
    }
}
