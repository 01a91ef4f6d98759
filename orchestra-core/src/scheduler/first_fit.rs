//! The simplest scheduler there is, and the reference.

use super::{Ask, Pipeline, Plan, Scheduler};

/// Takes the first node, by name, that fits.
#[derive(Debug)]
pub struct FirstFit(Pipeline);

impl Default for FirstFit {
    fn default() -> Self {
        Self(Pipeline::new("first-fit").required())
    }
}

impl Scheduler for FirstFit {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        self.0.plan(ask)
    }
}
