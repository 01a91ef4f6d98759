//! Amounts of what pods take and nodes have.

use std::{collections::BTreeMap, str::FromStr as _};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::api::quantity::Quantity;

/// Amounts by resource: the four that nearly every pod or node names as fields, all others by name.
///
/// Fields for the common ones make sums and comparisons a few instructions (as kube-scheduler's `framework.Resource`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    /// `cpu`, in thousandths of a core.
    pub cpu: i64,
    /// `memory`, in bytes.
    pub memory: i64,
    /// `ephemeral-storage`, in bytes.
    pub ephemeral_storage: i64,
    /// `pods`: how many.
    pub pods: i64,
    /// Extended resources and huge pages, in whole units or bytes.
    pub others: BTreeMap<Box<str>, i64>,
}

impl Resources {
    /// Reads a list as the API has it; what is no quantity counts as none.
    pub fn of(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let quantity = Quantity::from_str(&quantity.0).unwrap_or_default();
            resources.set(name, if name == "cpu" { quantity.as_millis() } else { quantity.as_units() });
        }
        resources
    }

    /// The amount of a resource; 0 if it is not named.
    #[must_use]
    pub fn amount(&self, resource: &str) -> i64 {
        match resource {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    /// Sets the amount of a resource.
    pub fn set(&mut self, resource: &str, amount: i64) {
        match resource {
            "cpu" => self.cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            "pods" => self.pods = amount,
            other => drop(self.others.insert(other.into(), amount)),
        }
    }

    /// The resources of which there is more or less than nothing, each with its amount, in the order of names but for the
    /// `others`, which come last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let common = [
            ("cpu", self.cpu),
            ("ephemeral-storage", self.ephemeral_storage),
            ("memory", self.memory),
            ("pods", self.pods),
        ];
        let others = self.others.iter().map(|(name, amount)| (&**name, *amount));
        common.into_iter().chain(others).filter(|(_, amount)| *amount != 0)
    }

    /// Adds each amount of `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes off each amount of `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to that of `other`.
    pub fn maximum(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// Whether `wanted` fits into what `taken` leaves of these; what is not wanted may be overdrawn.
    #[must_use]
    pub fn take(&self, wanted: &Self, taken: &Self) -> bool {
        let fits = |wanted: i64, taken: i64, all: i64| wanted <= 0 || taken.saturating_add(wanted) <= all;
        fits(wanted.cpu, taken.cpu, self.cpu)
            && fits(wanted.memory, taken.memory, self.memory)
            && fits(wanted.pods, taken.pods, self.pods)
            && fits(wanted.ephemeral_storage, taken.ephemeral_storage, self.ephemeral_storage)
            && wanted.others.iter().all(|(name, wanted)| fits(*wanted, taken.amount(name), self.amount(name)))
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (resource, amount) in &other.others {
            match self.others.get_mut(resource) {
                Some(own) => *own = with(*own, *amount),
                None => drop(self.others.insert(resource.clone(), with(0, *amount))),
            }
        }
    }
}

impl<'a> FromIterator<(&'a str, i64)> for Resources {
    fn from_iter<T: IntoIterator<Item = (&'a str, i64)>>(amounts: T) -> Self {
        let mut resources = Self::default();
        amounts.into_iter().for_each(|(resource, amount)| resources.set(resource, amount));
        resources
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Resources;

    const NAMES: [&str; 6] = ["cpu", "memory", "ephemeral-storage", "pods", "example.com/fpga", "hugepages-2Mi"];

    prop_compose! {
        fn resources()(amounts in prop::collection::vec((0..6_usize, 0..9_i64), 0..8)) -> Resources {
            amounts.into_iter().map(|(at, amount)| (NAMES[at], amount)).collect()
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_taken_of_each_resource(all in resources(), wanted in resources(), taken in resources()) {
            let each = |name: &&str| {
                let wanted = wanted.amount(name);
                wanted == 0 || taken.amount(name) + wanted <= all.amount(name)
            };
            prop_assert_eq!(all.take(&wanted, &taken), NAMES.iter().all(each));
        }

        #[test]
        fn what_is_added_and_taken_off_leaves_no_trace(own in resources(), other in resources()) {
            let mut sum = own.clone();
            sum.add(&other);
            for name in NAMES {
                prop_assert_eq!(sum.amount(name), own.amount(name) + other.amount(name));
            }
            sum.subtract(&other);
            for name in NAMES {
                prop_assert_eq!(sum.amount(name), own.amount(name));
            }
        }
    }
}
