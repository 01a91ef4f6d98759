//! What informers, controllers and the scheduler do to a cluster: SEMANTICS 38 to 50.

mod binder;
mod conformance;
mod election;
mod fencing;
mod gangs;
mod network;
mod omega;
mod preemption;
mod repair;
mod scheduling;
mod steady;
mod world;
