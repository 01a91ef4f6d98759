//! Guards: a key for each node that is written with every write by which less fits on the node than before.
//!
//! Two writes that both looked at the same room, and each give it to another pod, touch no key in common: both would be committed
//! (write skew). So whoever binds a pod on condition that there is room checks the node's guard, and every write that takes room
//! writes it in the same transaction: a binding, a pod that is created with its node, one that starts to count again. The same goes
//! for a node that changes in what it has or takes. What makes room, and what only a heartbeat changes, leaves the guard alone.
//!
//! A node's guard comes and goes with it; a store of before there were guards gets one with the first such write.

use bytes::Bytes;
use serde_json::Value;

use crate::{
    api::{plan_step::SCHEDULING_GROUP, pod::is_final},
    server::{
        Inner,
        error::Result,
        object::{self, Object, meta},
        registry::Kind,
    },
    store::{Check, Key, Op, Revision, Txn},
};

/// What of a node decides which pods it takes.
const OF_NODES: [(&str, &str); 4] =
    [("spec", ""), ("metadata", "labels"), ("status", "allocatable"), ("status", "capacity")];
/// The value of a guard: only its revision says anything.
const VALUE: &[u8] = b"{}";

/// The key of a node's guard; `None` if no node can have that name.
pub(crate) fn guard_key(node: &str) -> Option<Key> {
    Key::new([SCHEDULING_GROUP, "guards", node]).ok()
}

/// The key of the one guard of all constraints that look at more than one node: it is written with each pod that has any.
pub(crate) fn surroundings_key() -> Key {
    Key::new([SCHEDULING_GROUP, "surroundings"]).expect("the segments are fixed")
}

impl Inner {
    /// Adds to a write of an object the guards that it has to write: `old` is `None` for a new one, `new` for one that goes.
    pub(crate) async fn guard(
        &self,
        kind: &Kind,
        old: Option<&Object>,
        new: Option<&Object>,
        txn: &mut Txn,
    ) -> Result<()> {
        match (kind.group, kind.kind, old, new) {
            ("", "Pod", old, Some(new)) if takes_room(old, new) => {
                self.write_guard(text(new.get("spec"), "nodeName"), false, txn).await?;
                if looks_around(new) {
                    self.write_key(surroundings_key(), true, txn).await?;
                }
                Ok(())
            }
            ("", "Node", old, Some(new)) if takes_other_pods(old, new) => {
                self.write_guard(meta(new, "name"), true, txn).await
            }
            ("", "Node", Some(old), None) => match guard_key(meta(old, "name")) {
                Some(key) => self.delete_guard(key, txn).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// `is_there` says that the node is; otherwise it is looked for if it has no guard yet, for a pod may be bound to what is no
    /// node, and that is no reason to keep a guard.
    async fn write_guard(&self, node: &str, is_there: bool, txn: &mut Txn) -> Result<()> {
        let Some(key) = guard_key(node) else { return Ok(()) };
        let nodes = self.registry.find("", "v1", "nodes").expect("built in");
        let is_there = is_there || self.store.get(&object::key(nodes, "", node)?).await?.is_some();
        self.write_key(key, is_there, txn).await
    }

    /// Writes a key, whatever it holds; if it is absent, only if it `may_be_made`, and else on condition that it stays so.
    async fn write_key(&self, key: Key, may_be_made: bool, txn: &mut Txn) -> Result<()> {
        let seen = self.store.get(&key).await?.map(|entry| entry.modified);
        if seen.is_some() || may_be_made {
            write_seen(key, seen, txn);
        } else {
            check_seen(key, seen, txn);
        }
        Ok(())
    }

    async fn delete_guard(&self, key: Key, txn: &mut Txn) -> Result<()> {
        if let Some(entry) = self.store.get(&key).await? {
            txn.checks.push(Check::Unchanged(key.clone(), entry.modified));
            txn.ops.push(Op::Delete(key));
        }
        Ok(())
    }
}

/// Adds the check that a guard was last written at `seen`; that it is absent, if `None`.
pub(crate) fn check_seen(key: Key, seen: Option<Revision>, txn: &mut Txn) {
    txn.checks.push(match seen {
        Some(seen) => Check::Unchanged(key, seen),
        None => Check::Absent(key),
    });
}

/// As [`check_seen`], and writes the guard.
pub(crate) fn write_seen(key: Key, seen: Option<Revision>, txn: &mut Txn) {
    check_seen(key.clone(), seen, txn);
    txn.ops.push(Op::Put(key, Bytes::from_static(VALUE)));
}

/// Whether a pod takes room on a node that it did not take before, or other room.
fn takes_room(old: Option<&Object>, new: &Object) -> bool {
    let takes =
        |pod: &Object| !text(pod.get("spec"), "nodeName").is_empty() && !is_final(text(pod.get("status"), "phase"));
    takes(new) && old.is_none_or(|old| !takes(old) || old.get("spec") != new.get("spec"))
}

/// Whether a node is new, or takes other pods than before.
fn takes_other_pods(old: Option<&Object>, new: &Object) -> bool {
    let part = |node: &Object, (part, field): (&str, &str)| {
        let part = node.get(part)?;
        if field.is_empty() { Some(part.clone()) } else { part.get(field).cloned() }
    };
    old.is_none_or(|old| OF_NODES.iter().any(|of| part(old, *of) != part(new, *of)))
}

/// Whether a pod has constraints that look at more than one node.
fn looks_around(pod: &Object) -> bool {
    let Some(spec) = pod.get("spec") else { return false };
    let given = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    given(&spec["affinity"]["podAffinity"])
        || given(&spec["affinity"]["podAntiAffinity"])
        || given(&spec["topologySpreadConstraints"])
}

fn text<'a>(part: Option<&'a Value>, field: &str) -> &'a str {
    part.and_then(|part| part.get(field)).and_then(Value::as_str).unwrap_or_default()
}
