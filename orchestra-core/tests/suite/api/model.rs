//! The API against a plain model of it: whatever is written in whatever order, uids, versions, generations, lists and
//! watches are as SEMANTICS 10, 21, 24, 25 and 28 say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::{Cluster, DEPLOYMENTS, MERGE_PATCH, deployment, version};

/// What a client does to the object of a name.
#[derive(Clone, Debug)]
enum Act {
    Create { held: bool },
    Update { seen: Seen, replicas: i64, label: u8 },
    Report { replicas: i64 },
    Label { label: u8 },
    Delete,
    Release,
}

/// The version that an update says it has seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Current,
    Stale,
    Unsaid,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    uid: String,
    version: u64,
    generation: i64,
    replicas: i64,
    reported: i64,
    label: u8,
    held: bool,
    going: bool,
}

/// What there should be, and what should have happened.
#[derive(Debug, Default)]
struct Model {
    objects: BTreeMap<String, Known>,
    revision: u64,
    events: Vec<(&'static str, String, Known)>,
}

impl Model {
    /// The code that an act gets; the model is as it is afterwards, but for the uid of what is new.
    fn act(&mut self, name: &str, act: &Act) -> u16 {
        let Some(old) = self.objects.get(name).cloned() else {
            let Act::Create { held } = act else { return 404 };
            let new = Known {
                uid: String::new(),
                version: 0,
                generation: 1,
                replicas: 1,
                reported: 0,
                label: 0,
                held: *held,
                going: false,
            };
            self.write("ADDED", name, new);
            return 201;
        };
        let mut new = old.clone();
        match act {
            Act::Create { .. } => return 409,
            Act::Update { seen: Seen::Stale, .. } => return 409,
            Act::Update { replicas, label, .. } => {
                (new.replicas, new.label) = (*replicas, *label);
                new.generation += i64::from(new.replicas != old.replicas);
            }
            Act::Report { replicas } => new.reported = *replicas,
            Act::Label { label } => new.label = *label,
            Act::Release => new.held = false,
            Act::Delete if old.held && !old.going => (new.going, new.generation) = (true, old.generation + 1),
            Act::Delete => {}
        }
        let gone = (matches!(act, Act::Delete) || new.going) && !new.held;
        if gone {
            self.objects.remove(name);
            self.revision += 1;
            // The last that was there.
            self.events.push(("DELETED", name.to_owned(), Known { version: self.revision, ..old }));
        } else if new != old {
            self.write("MODIFIED", name, new);
        }
        200
    }

    fn write(&mut self, event: &'static str, name: &str, new: Known) {
        self.revision += 1;
        let new = Known { version: self.revision, ..new };
        self.events.push((event, name.to_owned(), new.clone()));
        self.objects.insert(name.to_owned(), new);
    }

    fn name_uid(&mut self, name: &str, uid: &str) {
        let (_, _, event) = self.events.last_mut().expect("it was just made");
        event.uid = uid.to_owned();
        self.objects.get_mut(name).expect("it was just made").uid = uid.to_owned();
    }
}

fn known(object: &Value) -> Known {
    let (meta, count) = (&object["metadata"], |value: &Value| value.as_i64().unwrap_or(0));
    Known {
        uid: meta["uid"].as_str().expect("a uid").to_owned(),
        version: version(object),
        generation: count(&meta["generation"]),
        replicas: count(&object["spec"]["replicas"]),
        reported: count(&object["status"]["replicas"]),
        label: meta["labels"]["l"].as_str().and_then(|label| label.parse().ok()).unwrap_or(0),
        held: meta["finalizers"].is_array(),
        going: meta["deletionTimestamp"].is_string(),
    }
}

async fn perform(cluster: &Cluster, name: &str, act: &Act, now: Option<&Known>) -> super::fixture::Reply {
    let path = format!("{DEPLOYMENTS}/{name}");
    let merge = |path: String, patch: Value| async move { cluster.patch(&path, MERGE_PATCH, &patch).await };
    match act {
        Act::Create { held } => {
            let mut given = deployment(name);
            if *held {
                given["metadata"]["finalizers"] = json!(["example.com/hold"]);
            }
            cluster.post(DEPLOYMENTS, &given).await
        }
        Act::Update { seen, replicas, label } => {
            let mut given = deployment(name);
            given["spec"]["replicas"] = (*replicas).into();
            given["status"] = json!({ "replicas": 99 });
            given["metadata"]["labels"] = json!({ "l": label.to_string() });
            if now.is_some_and(|now| now.held) {
                given["metadata"]["finalizers"] = json!(["example.com/hold"]);
            }
            match (seen, now) {
                (Seen::Current, Some(now)) => given["metadata"]["resourceVersion"] = now.version.to_string().into(),
                (Seen::Stale, Some(now)) => given["metadata"]["resourceVersion"] = (now.version - 1).to_string().into(),
                _ => {}
            }
            cluster.put(&path, &given).await
        }
        Act::Report { replicas } => {
            let patch = json!({ "spec": { "replicas": 77 }, "status": { "replicas": replicas } });
            merge(format!("{path}/status"), patch).await
        }
        Act::Label { label } => merge(path, json!({ "metadata": { "labels": { "l": label.to_string() } } })).await,
        Act::Release => merge(path, json!({ "metadata": { "finalizers": null } })).await,
        Act::Delete => cluster.delete(&path).await,
    }
}

fn act() -> impl Strategy<Value = (String, Act)> {
    let seen = proptest::sample::select(vec![Seen::Current, Seen::Stale, Seen::Unsaid]);
    let act = prop_oneof![
        any::<bool>().prop_map(|held| Act::Create { held }),
        (seen, 0..3_i64, 1..3_u8).prop_map(|(seen, replicas, label)| Act::Update { seen, replicas, label }),
        (1..3_i64).prop_map(|replicas| Act::Report { replicas }),
        (1..3_u8).prop_map(|label| Act::Label { label }),
        Just(Act::Delete),
        Just(Act::Release),
    ];
    ("[ab]", act)
}

async fn check(acts: Vec<(String, Act)>) {
    let cluster = Cluster::new();
    let start = cluster.now().await;
    let mut model = Model { revision: start, ..Model::default() };
    let path = format!("{DEPLOYMENTS}?watch=1&resourceVersion={start}");
    let mut watch = cluster.watch(&path).await;
    for (name, act) in acts {
        let now = model.objects.get(&name).cloned();
        let expected = model.act(&name, &act);
        let reply = perform(&cluster, &name, &act, now.as_ref()).await;
        assert_eq!(reply.code, expected, "{name} {act:?}: {}", reply.text());
        if reply.code == 201 {
            model.name_uid(&name, reply.json()["metadata"]["uid"].as_str().expect("a uid"));
        }
        match model.objects.get(&name) {
            Some(now) => {
                if reply.code < 300 {
                    assert_eq!(&known(&reply.json()), now, "{act:?}");
                }
                assert_eq!(&known(&cluster.get(&format!("{DEPLOYMENTS}/{name}")).await.ok()), now, "{act:?}");
            }
            None => drop(cluster.get(&format!("{DEPLOYMENTS}/{name}")).await.failed(404, "NotFound")),
        }
    }
    let list = cluster.get(DEPLOYMENTS).await.ok();
    assert_eq!(version(&list), model.revision);
    let listed: Vec<_> = list["items"].as_array().expect("items").iter().map(known).collect();
    assert_eq!(listed, model.objects.values().cloned().collect::<Vec<_>>());
    let mut resumed = cluster.watch(&path).await;
    for (event, name, object) in &model.events {
        for watch in [&mut watch, &mut resumed] {
            let told = watch.next().await.expect("the watch goes on");
            assert_eq!((&told["type"], &told["object"]["metadata"]["name"]), (&json!(event), &json!(name)));
            assert_eq!(&known(&told["object"]), object);
        }
    }
    assert!(watch.is_quiet().await && resumed.is_quiet().await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_api_is_as_its_model(acts in proptest::collection::vec(act(), 1..40)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(check(acts));
    }
}
