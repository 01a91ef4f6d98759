//! The laws of the proxies, over real sockets where they have any.

mod mutants;
mod proxy;
mod serve;
