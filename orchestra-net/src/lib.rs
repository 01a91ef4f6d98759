//! What connects a cluster: the API over TLS, and services to their pods.
//!
//! [`pki`] makes the cluster's certificates, [`kubeconfig`] writes the file that a client finds them by, and [`serve`]
//! serves any `tower::Service` with them, to those whom [`guard`] lets in; [`publish`] does all of that for an API server.
//! [`dial`] reaches the kubelets of other machines. [`address`] plans the addresses of a cluster that lives on one
//! machine, and [`proxy`] brings services to their pods.

mod private_file;

pub mod pki;

pub mod kubeconfig;

pub mod serve;

pub mod guard;

pub mod dial;

pub mod publish;

pub mod address;

pub mod proxy;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
