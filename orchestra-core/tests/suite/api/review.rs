//! Questions about access, as `kubectl auth` asks them: SEMANTICS 32.

use orchestra_core::server::{AUTHENTICATED_GROUP, UserInfo};
use serde_json::{Value, json};

use super::fixture::Cluster;

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

fn ann(cluster: &Cluster) -> Cluster {
    cluster.by(Some(UserInfo::new("ann", [AUTHENTICATED_GROUP])))
}

async fn can_i(cluster: &Cluster, spec: Value) -> bool {
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    let reply = cluster.post(&path, &json!({ "spec": spec })).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    reply.ok()["status"]["allowed"].as_bool().expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn everyone_who_is_known_may_ask_what_they_may_do() {
    let admin = Cluster::new();
    let ann = ann(&admin);
    let pods = json!({ "resourceAttributes": { "namespace": "default", "verb": "list", "resource": "pods" } });
    assert!(can_i(&admin, pods.clone()).await);
    assert!(!can_i(&ann, pods).await);
    let version = json!({ "nonResourceAttributes": { "path": "/version", "verb": "get" } });
    assert!(can_i(&ann, version).await);
    assert!(!can_i(&ann, json!({ "nonResourceAttributes": { "path": "/versions", "verb": "get" } })).await);
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    ann.post(&path, &json!({ "spec": {} })).await.failed(400, "BadRequest");
    admin.by(None).post(&path, &json!({ "spec": {} })).await.failed(401, "Unauthorized");
}

#[tokio::test(start_paused = true)]
async fn rules_say_what_a_user_may_do() {
    let admin = Cluster::new();
    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let body = json!({ "spec": { "namespace": "default" } });
    let all = admin.post(&path, &body).await.ok();
    assert_eq!(all["status"]["resourceRules"], json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]));
    let few = ann(&admin).post(&path, &body).await.ok();
    assert!(!few.to_string().contains("\"*\""), "{few}");
}

#[tokio::test(start_paused = true)]
async fn who_one_is_is_told() {
    let ann = ann(&Cluster::new());
    let review = ann.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.ok();
    assert_eq!(review["status"]["userInfo"]["username"], "ann");
    assert_eq!(review["status"]["userInfo"]["groups"], json!([AUTHENTICATED_GROUP]));
}

#[tokio::test(start_paused = true)]
async fn of_others_only_those_may_ask_who_may_do_everything() {
    let admin = Cluster::new();
    let access = json!({ "verb": "get", "resource": "pods", "namespace": "default" });
    let body = |user: &str, groups: &[&str]| json!({ "spec": { "user": user, "groups": groups, "resourceAttributes": access } });
    for path in ["subjectaccessreviews", "namespaces/default/localsubjectaccessreviews"] {
        let path = format!("{AUTHORIZATION}/{path}");
        let allowed = admin.post(&path, &body("root", &["system:masters"])).await.ok();
        assert_eq!(allowed["status"]["allowed"], true);
        assert_eq!(admin.post(&path, &body("ann", &[])).await.ok()["status"]["allowed"], false);
        ann(&admin).post(&path, &body("ann", &[])).await.failed(403, "Forbidden");
    }
}

#[tokio::test(start_paused = true)]
async fn reviews_are_not_kept() {
    let cluster = Cluster::new();
    let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    cluster.get(&path).await.failed(405, "MethodNotAllowed");
    let group = cluster.get(AUTHORIZATION).await.ok();
    assert_eq!(group["resources"][0]["verbs"], json!(["create"]));
}
