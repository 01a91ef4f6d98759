//! What informers, controllers and the scheduler do to a cluster: SEMANTICS 38 to 50.
