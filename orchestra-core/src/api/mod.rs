//! The API model: what objects are, and everything that can be said of one without a server.

#[cfg(feature = "server")]
pub mod columns;
#[cfg(feature = "server")]
pub mod defaults;
#[cfg(feature = "client")]
pub mod fence;
pub mod plan_step;
pub mod pod;
pub mod quantity;
#[cfg(feature = "server")]
pub mod schema;
pub mod selector;
#[cfg(feature = "server")]
pub mod service;
pub mod share;
#[cfg(feature = "server")]
pub mod validation;
