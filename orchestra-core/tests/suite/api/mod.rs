//! What a client of the API server can see: SEMANTICS 21 to 37 and 61 to 76.

pub(crate) mod fixture;

mod advertise;
mod bad_input;
mod bodies;
mod create;
mod delete;
mod discovery;
mod events;
mod fence;
mod health;
mod identity;
mod impersonation;
mod limit;
mod list;
mod manifest;
mod model;
mod openapi;
mod patch;
mod paths;
mod plan_step;
mod priority;
mod protobuf;
mod rbac;
mod review;
mod security;
mod services;
mod subresources;
mod tables;
mod update;
mod watch;
mod yaml;
