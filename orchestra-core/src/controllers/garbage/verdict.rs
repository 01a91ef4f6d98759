//! What becomes of one object, given its owners and dependents: pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// One object as the collector sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thing {
    /// Its uid.
    pub uid: String,
    /// Its resource version.
    pub version: String,
    /// Those it belongs to.
    pub owners: Vec<OwnerReference>,
    /// What holds it back.
    pub finalizers: Vec<String>,
    /// Whether it was asked to go.
    pub going: bool,
}

impl Thing {
    /// What the collector sees of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            going: meta.deletion_timestamp.is_some(),
        }
    }

    pub(super) fn held_by(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }
}

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It has an owner left, but these, by uid, are gone or only wait for it: it forgets them.
    Forget(Vec<String>),
    /// Every owner is gone: it goes as well.
    Delete,
    /// It waits for an owner's dependents in the foreground: it goes, in the foreground too.
    DeleteInForeground,
    /// It was deleted to orphan its dependents: they are cut loose, then it may go.
    Orphan,
    /// It was deleted in the foreground, and the dependents that block it are judged first.
    AwaitDependents,
    /// It was deleted in the foreground, and nothing holds it any longer.
    Release,
}

/// Decides about one object, given its owners as they are, in the order of its references, and its dependents; pure.
#[must_use]
pub fn verdict(thing: &Thing, owners: &[Option<Thing>], dependents: &[Thing]) -> Verdict {
    if thing.going && thing.held_by(ORPHAN) {
        return Verdict::Orphan;
    }
    if thing.going && thing.held_by(FOREGROUND) {
        let blocks = |dependent: &Thing| {
            dependent.owners.iter().any(|owner| owner.uid == thing.uid && owner.block_owner_deletion == Some(true))
        };
        return if dependents.iter().any(blocks) { Verdict::AwaitDependents } else { Verdict::Release };
    }
    if thing.going || thing.owners.is_empty() {
        return Verdict::Keep;
    }
    let waits = |owner: &Thing| owner.going && owner.held_by(FOREGROUND);
    let solid = |owner: &Option<Thing>| owner.as_ref().is_some_and(|owner| !waits(owner));
    if owners.iter().any(solid) {
        let idle = thing.owners.iter().zip(owners).filter(|(_, owner)| !solid(owner));
        let idle: Vec<_> = idle.map(|(reference, _)| reference.uid.clone()).collect();
        return if idle.is_empty() { Verdict::Keep } else { Verdict::Forget(idle) };
    }
    if owners.iter().any(Option::is_some) { Verdict::DeleteInForeground } else { Verdict::Delete }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use proptest::prelude::*;

    use super::{FOREGROUND, ORPHAN, Thing, Verdict, verdict};

    fn thing(uid: &str, owners: &[String], finalizers: &[&str], going: bool) -> Thing {
        let owner =
            |uid: &String| OwnerReference { uid: uid.clone(), block_owner_deletion: Some(true), ..Default::default() };
        Thing {
            uid: uid.into(),
            owners: owners.iter().map(owner).collect(),
            finalizers: finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect(),
            going,
            ..Thing::default()
        }
    }

    #[test]
    fn the_deletion_says_what_becomes_of_dependents() {
        let dependent = thing("d", &["o".to_owned()], &[], false);
        assert_eq!(verdict(&dependent, &[None], &[]), Verdict::Delete);
        let foreground = thing("o", &[], &[FOREGROUND], true);
        assert_eq!(verdict(&dependent, &[Some(foreground.clone())], &[]), Verdict::DeleteInForeground);
        assert_eq!(verdict(&foreground, &[], std::slice::from_ref(&dependent)), Verdict::AwaitDependents);
        assert_eq!(verdict(&foreground, &[], &[]), Verdict::Release);
        assert_eq!(verdict(&thing("o", &[], &[ORPHAN], true), &[], &[dependent]), Verdict::Orphan);
    }

    #[test]
    fn one_of_two_owners_that_is_gone_is_forgotten() {
        let dependent = thing("d", &["gone".to_owned(), "there".to_owned()], &[], false);
        let owners = [None, Some(thing("there", &[], &[], false))];
        assert_eq!(verdict(&dependent, &owners, &[]), Verdict::Forget(vec!["gone".into()]));
    }

    /// Carries out a verdict on one object of a small world.
    fn carry_out(world: &mut BTreeMap<String, Thing>, uid: &str, verdict: Verdict) {
        let Some(thing) = world.get_mut(uid) else { return };
        match verdict {
            Verdict::Keep | Verdict::AwaitDependents => {}
            Verdict::Forget(gone) => thing.owners.retain(|owner| !gone.contains(&owner.uid)),
            Verdict::Delete => drop(world.remove(uid)),
            Verdict::DeleteInForeground => {
                thing.going = true;
                thing.finalizers.push(FOREGROUND.into());
            }
            Verdict::Orphan => {
                world.remove(uid);
                world.values_mut().for_each(|other| other.owners.retain(|owner| owner.uid != uid));
            }
            Verdict::Release => drop(world.remove(uid)),
        }
    }

    proptest! {
        /// SEMANTICS 48: whatever the graph, and whatever root is deleted how, those go whose owners all go, no others,
        /// and the collector comes to rest.
        #[test]
        fn exactly_what_lost_its_last_owner_goes(
            edges in proptest::collection::vec(proptest::collection::btree_set(0..8_usize, 0..3), 8),
            root in 0..8_usize,
            how in 0..3_usize,
            order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            // An object's owners come before it, so that there are no circles.
            let owners = |n: usize| edges[n].iter().filter(|&&owner| owner < n).map(ToString::to_string).collect::<Vec<_>>();
            let mut world: BTreeMap<String, Thing> =
                (0..8).map(|n| (n.to_string(), thing(&n.to_string(), &owners(n), &[], false))).collect();
            let mut expected: Vec<usize> = (0..8).filter(|&n| n != root).collect();
            if how != 1 {
                let mut gone = vec![root];
                for n in 0..8 {
                    let all = owners(n);
                    if n != root && !all.is_empty() && all.iter().all(|owner| gone.iter().any(|gone| gone.to_string() == *owner)) {
                        gone.push(n);
                    }
                }
                expected.retain(|n| !gone.contains(n));
            }
            let root = root.to_string();
            match how {
                0 => drop(world.remove(&root)),
                _ => {
                    let deleted = world.get_mut(&root).expect("there");
                    deleted.going = true;
                    deleted.finalizers.push(if how == 1 { ORPHAN } else { FOREGROUND }.into());
                }
            }
            let mut rounds = 0;
            loop {
                let before = world.clone();
                for n in &order {
                    let uid = n.to_string();
                    let Some(own) = world.get(&uid).cloned() else { continue };
                    let owners: Vec<_> = own.owners.iter().map(|owner| world.get(&owner.uid).cloned()).collect();
                    let is_dependent = |other: &&Thing| other.owners.iter().any(|owner| owner.uid == uid);
                    let dependents: Vec<_> = world.values().filter(is_dependent).cloned().collect();
                    let verdict = verdict(&own, &owners, &dependents);
                    carry_out(&mut world, &uid, verdict);
                }
                if world == before {
                    break;
                }
                rounds += 1;
                prop_assert!(rounds < 50, "still busy: {world:?}");
            }
            let left: Vec<_> = world.keys().filter_map(|uid| uid.parse::<usize>().ok()).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
