//! Devices of a node, such as GPUs: whole ones, and shares of one.

use std::fmt;

/// A whole device, in the thousandths that shares are counted in.
pub const DEVICE_MILLIS: u16 = 1_000;

/// The most devices a node may have.
pub const DEVICES_MAX: usize = 64;

/// What a pod needs of a node's devices: `count` of them, `millis` of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceRequest {
    /// How many; 0 if it needs none.
    pub count: u8,
    /// How much of each, in thousandths: [`DEVICE_MILLIS`] for whole ones.
    pub millis: u16,
    /// The models it can do with; any if there are none.
    pub models: Box<[Box<str>]>,
}

impl DeviceRequest {
    /// Whether it can do with devices of this model.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|allowed| **allowed == *model)
    }

    /// How much it needs in all, in thousandths.
    #[must_use]
    pub fn total_millis(&self) -> u64 {
        u64::from(self.count) * u64::from(self.millis)
    }

    /// Whether enough devices have enough left.
    #[must_use]
    pub fn fits(&self, left: &[u16]) -> bool {
        self.count == 0 || left.iter().filter(|left| **left >= self.millis).count() >= usize::from(self.count)
    }

    /// Whether these devices are as many as it needs, with enough left of each.
    #[must_use]
    pub fn is_met_by(&self, devices: DeviceSet, left: &[u16]) -> bool {
        let has_enough = |device: usize| left.get(device).is_some_and(|left| *left >= self.millis);
        devices.len() == usize::from(self.count) && devices.iter().all(has_enough)
    }

    /// The kind of pod it makes, by what pods of one kind leave on a node for each other.
    #[must_use]
    pub fn class(&self) -> Option<DeviceClass> {
        (self.count > 0).then_some(DeviceClass { count: self.count, shared: self.millis < DEVICE_MILLIS })
    }
}

/// Pods that need as many devices, whole or shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceClass {
    /// How many devices.
    pub count: u8,
    /// Whether less than the whole of each.
    pub shared: bool,
}

/// Some of a node's devices, by their numbers from 0 to 63.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceSet(u64);

impl DeviceSet {
    /// No device.
    pub const EMPTY: Self = Self(0);

    /// Whether a device is one of them.
    #[must_use]
    pub fn contains(self, device: usize) -> bool {
        device < DEVICES_MAX && self.0 >> device & 1 == 1
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (first < DEVICES_MAX).then_some(first)
        })
    }
}

impl FromIterator<usize> for DeviceSet {
    /// Numbers beyond the last possible one are left out.
    fn from_iter<T: IntoIterator<Item = usize>>(devices: T) -> Self {
        Self(devices.into_iter().filter(|device| *device < DEVICES_MAX).fold(0, |set, device| set | 1 << device))
    }
}

impl fmt::Debug for DeviceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
