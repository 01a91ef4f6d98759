//! Leaders that are paused as processes, by SIGSTOP: another one takes over, and what the first still writes is refused.

use std::{
    env,
    path::Path,
    process::{Command as Blocking, Stdio},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::ConfigMap,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use orchestra_core::{
    clock::SystemClock,
    controller::{LeaderElection, election::Timing},
    rng::Entropy,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines},
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::process::{PATIENCE, SeparateCluster, example};

/// Says to a child that it is one; in its absence a test binary is nobody's child.
const CHILD_VARIABLE: &str = "ORCHESTRA_SCENARIOS_LEADER";
/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a configuration");
    Client::try_from(config).expect("a client")
}

/// One of two candidates for the same lease, which lasts two seconds.
fn candidate(client: Client, host: &str) -> LeaderElection {
    let timing = Timing::new(2, Duration::from_secs(1), Duration::from_millis(200));
    LeaderElection::new(client, "writers", host, Arc::new(SystemClock), Entropy::from_os()).timing(timing)
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().expect("a child that runs").to_string();
    let sent = Blocking::new("kill").args([signal, &pid]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} can't be sent to {pid}");
}

/// The first line that holds `part`, of what a child goes on saying.
async fn line_with<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, part: &str) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.expect("a line of text") {
            if line.contains(part) {
                return line;
            }
        }
        panic!("the child ended before it said {part:?}")
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("nothing was said of {part:?}"))
}

async fn write(maps: &Api<ConfigMap>, writer: &str, number: u64) -> kube::Result<ConfigMap> {
    let data = json!({ "data": { "writer": writer, "number": number.to_string() } });
    maps.patch("state", &PatchParams::default(), &Patch::Merge(data)).await
}

/// SEMANTICS 47: wherever in its work a leader is stopped, none of its writes is carried out once another one leads.
#[tokio::test]
async fn what_a_leader_writes_after_a_pause_is_refused() {
    let cluster = SeparateCluster::server();
    let client = client(&cluster.kubeconfig()).await;
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let state = serde_json::from_value(json!({ "metadata": { "name": "state" } })).expect("a map");
    maps.create(&PostParams::default(), &state).await.expect("a map is made");

    let mut paused = Command::new(env::current_exe().expect("this test's path"))
        .args(["--exact", "scenarios::leader::a_child_writes_until_it_is_refused", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the test binary starts");
    let mut said = BufReader::new(paused.stderr.take().expect("a pipe")).lines();
    line_with(&mut said, "wrote 10").await;
    signal(&paused, "-STOP");

    let election = candidate(client, "successor");
    let led = election.led(async |client| {
        let maps = Api::<ConfigMap>::default_namespaced(client);
        let written = write(&maps, "successor", 0).await.expect("a leader writes");
        signal(&paused, "-CONT");
        let refused = line_with(&mut said, "refused").await;
        assert!(refused.contains("leader election lost: lease kube-system/writers is held by successor"), "{refused}");
        assert_eq!(maps.get("state").await.expect("the map"), written, "nothing was written after the successor");
    });
    timeout(PATIENCE, led).await.expect("the successor leads").expect("and keeps the lease");
    assert!(paused.wait().await.expect("the child ends").success());
}

/// Not a test of its own: the leader that is paused. What it spawns outlives its term, so only the server can stop it.
#[tokio::test]
async fn a_child_writes_until_it_is_refused() {
    if env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let election = candidate(Client::try_default().await.expect("the parent names a server"), "paused");
    let (done, refused) = tokio::sync::oneshot::channel::<()>();
    let writing = async move |maps: Api<ConfigMap>| {
        let _done = done;
        for number in 0.. {
            match write(&maps, "paused", number).await {
                Ok(_) => eprintln!("wrote {number}"),
                Err(error) => return eprintln!("refused: {error}"),
            }
        }
    };
    let led = election.led(async |client| {
        tokio::spawn(writing(Api::default_namespaced(client)));
        std::future::pending::<()>().await;
    });
    led.await.expect_err("a paused leader loses its lease");
    refused.await.expect_err("nothing is sent, only dropped");
}

/// SEMANTICS 47: of two programs with the controllers, the second goes on where the first was paused; the first, which
/// finds all that it has missed in its sockets, changes nothing and waits for its turn.
#[tokio::test]
async fn controllers_that_are_paused_are_replaced() {
    let cluster = SeparateCluster::server();
    let client = client(&cluster.kubeconfig()).await;
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-system");
    let holder = async || {
        let lease = leases.get_opt("kube-controller-manager").await.expect("an answer");
        lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    };
    let until_led_by = async |child: &Child| {
        let host = format!("controllers-{}_", child.id().expect("a child that runs"));
        while !holder().await.starts_with(&host) {
            sleep(LOOK_EVERY).await;
        }
    };
    let start = || {
        let mut command = Command::new(example("controller_manager"));
        command.env("KUBECONFIG", cluster.kubeconfig()).env("RUST_LOG", "info").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the example starts")
    };
    let mut first = start();
    let mut said = BufReader::new(first.stderr.take().expect("a pipe")).lines();
    timeout(PATIENCE, until_led_by(&first)).await.expect("the first leads");
    let second = start();
    signal(&first, "-STOP");
    let deployments = Api::<Deployment>::default_namespaced(client.clone());
    let template = json!({ "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": "web" }] } });
    let web = json!({ "metadata": { "name": "web" },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template } });
    let web = serde_json::from_value(web).expect("a deployment");
    deployments.create(&PostParams::default(), &web).await.expect("a deployment is made");
    timeout(PATIENCE, until_led_by(&second)).await.expect("the second takes over");
    let sets = Api::<ReplicaSet>::default_namespaced(client);
    let made = async || sets.list(&ListParams::default()).await.expect("a list").items;
    let settled = async {
        loop {
            let now = made().await;
            if matches!(&now[..], [set] if set.status.as_ref().is_some_and(|status| status.replicas == 3)) {
                return now;
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let before = timeout(PATIENCE, settled).await.expect("the second makes three pods");
    signal(&first, "-CONT");
    line_with(&mut said, "no longer leading").await;
    assert_eq!(made().await, before, "the first changed nothing");
    timeout(PATIENCE, until_led_by(&second)).await.expect("the second still leads");
}
