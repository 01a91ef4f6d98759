//! Whole clusters, end to end, and the rules of the house.

mod scenarios {
    mod examples;
    mod kubectl;
    mod process;
    mod tidy;
}
