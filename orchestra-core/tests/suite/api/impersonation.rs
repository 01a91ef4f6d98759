//! Acting as another user, as `kubectl --as` does: SEMANTICS 32.

use http::{Method, Request};
use http_body_util::Full;
use orchestra_core::server::{AUTHENTICATED_GROUP, UserInfo};
use serde_json::{Value, json};

use super::fixture::{CONFIG_MAPS, Cluster, PODS, Reply, config_map};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const CAN_I: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

async fn ask(cluster: &Cluster, method: Method, path: &str, body: &Value, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    cluster.request(request.body(Full::new(body.to_string().into())).expect("a request")).await
}

async fn get(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Reply {
    ask(cluster, Method::GET, path, &Value::Null, headers).await
}

async fn who(cluster: &Cluster, headers: &[(&str, &str)]) -> Value {
    ask(cluster, Method::POST, WHO, &json!({}), headers).await.ok()["status"]["userInfo"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_master_that_acts_as_another_may_do_what_that_one_may() {
    let admin = Cluster::new();
    let as_ann = [("Impersonate-User", "ann")];
    let status = get(&admin, PODS, &as_ann).await.failed(403, "Forbidden");
    let message =
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!(status["message"], message);
    ask(&admin, Method::POST, CONFIG_MAPS, &config_map("a"), &as_ann).await.failed(403, "Forbidden");
    get(&admin, "/metrics", &as_ann).await.failed(403, "Forbidden");
    get(&admin, "/apis", &as_ann).await.ok();
    let spec = json!({ "spec": { "resourceAttributes": { "verb": "list", "resource": "pods" } } });
    assert_eq!(ask(&admin, Method::POST, CAN_I, &spec, &as_ann).await.ok()["status"]["allowed"], false);
    let as_scheduler = [("Impersonate-User", "system:kube-scheduler")];
    get(&admin, PODS, &as_scheduler).await.ok();
    get(&admin, PODS, &[("Impersonate-User", "root"), ("Impersonate-Group", "system:masters")]).await.ok();
}

#[tokio::test(start_paused = true)]
async fn nobody_but_a_master_acts_as_another() {
    let admin = Cluster::new();
    for name in ["ann", "system:kube-controller-manager", "system:kube-scheduler"] {
        let user = admin.by(Some(UserInfo::new(name, [AUTHENTICATED_GROUP])));
        let refused = get(&user, "/apis", &[("Impersonate-User", "bob")]).await;
        let cannot =
            format!("User \"{name}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
        refused.failed_with(403, "Forbidden", &cannot);
        // Not even as itself in one more group.
        let masters = [("Impersonate-User", name), ("Impersonate-Group", "system:masters")];
        get(&user, PODS, &masters).await.failed(403, "Forbidden");
        ask(&user, Method::POST, WHO, &json!({}), &masters).await.failed(403, "Forbidden");
    }
    get(&admin.by(None), PODS, &[("Impersonate-User", "ann")]).await.failed(401, "Unauthorized");
}

#[tokio::test(start_paused = true)]
async fn the_impersonated_have_the_groups_given_and_those_implied() {
    let admin = Cluster::new();
    assert_eq!(who(&admin, &[("Impersonate-User", "ann")]).await["groups"], json!(["system:authenticated"]));
    let groups = [("Impersonate-User", "ann"), ("Impersonate-Group", "dev"), ("Impersonate-Group", "ops")];
    assert_eq!(who(&admin, &groups).await["groups"], json!(["dev", "ops", "system:authenticated"]));
    let account = who(&admin, &[("Impersonate-User", "system:serviceaccount:default:web")]).await;
    let implied = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(account["groups"], implied);
    let anonymous = who(&admin, &[("Impersonate-User", "system:anonymous")]).await;
    assert_eq!(anonymous["groups"], json!(["system:unauthenticated"]));
    let known = [
        ("Impersonate-User", "ann"),
        ("Impersonate-Uid", "u-1"),
        ("Impersonate-Extra-acme.com%2Fproject", "one"),
        ("Impersonate-Extra-acme.com%2Fproject", "two"),
    ];
    let known = who(&admin, &known).await;
    assert_eq!((&known["uid"], &known["extra"]), (&json!("u-1"), &json!({ "acme.com/project": ["one", "two"] })));
}

#[tokio::test(start_paused = true)]
async fn a_group_without_a_user_is_not_taken_for_oneself() {
    let admin = Cluster::new();
    for header in ["Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a"] {
        get(&admin, PODS, &[(header, "dev")]).await.failed_with(500, "InternalError", "without impersonating a user");
    }
}
