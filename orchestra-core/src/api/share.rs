//! Numbers of pods that may also be written as a percentage of all.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What becomes of a part of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// It counts as none.
    Down,
    /// It counts as a whole one.
    Up,
}

/// The number that `value` comes to of `all`: never negative, but it may be more than all. What is neither a number nor
/// a percentage, which validation refuses, comes to none.
#[must_use]
pub fn share(value: &IntOrString, all: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.saturating_mul(i64::from(all));
            let share = match rounding {
                Rounding::Down => hundredths / 100,
                Rounding::Up => hundredths.saturating_add(99) / 100,
            };
            i32::try_from(share).unwrap_or(i32::MAX).max(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{IntOrString, Rounding, share};

    #[test]
    fn a_percentage_is_rounded_as_asked_and_never_overflows() {
        let percent = |text: &str, all, rounding| share(&IntOrString::String(text.into()), all, rounding);
        assert_eq!(percent("25%", 10, Rounding::Down), 2);
        assert_eq!(percent("25%", 10, Rounding::Up), 3);
        assert_eq!(percent("50%", 10, Rounding::Up), 5);
        assert_eq!(percent("9223372036854775807%", i32::MAX, Rounding::Up), i32::MAX);
        assert_eq!(share(&IntOrString::Int(-1), 10, Rounding::Up), 0);
    }
}
