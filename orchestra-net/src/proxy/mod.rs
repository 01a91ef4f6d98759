//! Implementations of the [`Proxy`](orchestra_core::proxy::Proxy) contract, and the loop that feeds one.

mod balance;
mod memory;
mod service_proxy;
mod userspace;

pub use balance::{AFFINITY_CLIENTS_MAX, Balancer};
pub use memory::MemoryProxy;
pub use service_proxy::ServiceProxy;
pub use userspace::UserspaceProxy;
