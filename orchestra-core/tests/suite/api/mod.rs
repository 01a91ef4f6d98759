//! What a client of the API server can see: SEMANTICS 21 to 37 and 61 to 76.

mod fixture;

mod discovery;
mod events;
mod openapi;
mod protobuf;
mod rbac;
mod tables;
