//! The parts of a container orchestrator that decide: the API, its contracts, and what acts on them.
//!
//! A cluster is a store, an API server over it, and loops that read and write the API: controllers, a scheduler, a
//! kubelet for each node, a service proxy. This crate holds the five contracts ([`store::Store`],
//! [`scheduler::Scheduler`], [`controller::Controller`], [`runtime::ContainerRuntime`], [`proxy::Proxy`]) and everything
//! that needs neither a socket nor a file; `control_plane::ControlPlane` (feature `server`) wires it.
//!
//! Modules are listed in reading order, which is also the only direction of `use crate::…`.

pub mod clock;
pub mod rng;
#[cfg(feature = "client")]
mod watermark;

pub mod api;
pub mod store;

#[cfg(feature = "client")]
pub mod informer;

#[cfg(feature = "client")]
pub mod manifest;

#[cfg(feature = "client")]
pub mod controller;

#[cfg(feature = "client")]
pub mod controllers;

pub mod scheduler;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "lab")]
pub mod lab;

pub mod runtime;

pub mod proxy;

#[cfg(feature = "server")]
pub mod control_plane;

/// The examples of the README.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
mod readme {}
