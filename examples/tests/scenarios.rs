//! Whole clusters, end to end, and the rules of the house.

mod scenarios {
    mod crash;
    #[cfg(feature = "etcd")]
    mod etcd;
    mod examples;
    mod kubectl;
    mod leader;
    mod life;
    mod link;
    mod process;
    mod repeatable;
    mod simulated;
    mod tidy;
}
