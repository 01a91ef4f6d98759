//! Implementations of the [`Proxy`](orchestra_core::proxy::Proxy) contract, and the loop that feeds one.

mod balance;
mod memory;
mod metrics;
mod service_proxy;
mod userspace;

pub use balance::{AFFINITY_CLIENTS_MAX, Balancer};
pub use memory::MemoryProxy;
pub use metrics::Metrics;
pub use service_proxy::ServiceProxy;
pub use userspace::{CONNECTIONS_MAX, UserspaceProxy};
