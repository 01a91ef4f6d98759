//! The rules of single values that many kinds share.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::invalid;
use super::names;
use super::{FieldError, Path};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
     '93%', regex used for validation is '[0-9]+%')";

/// Checks that a number is not negative; absent is fine.
pub(super) fn non_negative(value: Option<impl Into<i64>>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(value) = value.map(Into::into).filter(|value| *value < 0) {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// Checks that a text that has to be given is one of a few.
pub(super) fn one_of(value: Option<&str>, supported: &[&str], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        value if supported.contains(&value) => {}
        value => errors.push(FieldError::not_supported(path, value, supported)),
    }
}

/// Checks that a text, if it is given, is one of a few.
pub(super) fn one_of_or_absent(value: Option<&str>, supported: &[&str], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if value.is_some_and(|value| !value.is_empty()) {
        one_of(value, supported, path, errors);
    }
}

/// Checks that a text is given.
pub(super) fn required(value: Option<&str>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if value.unwrap_or_default().is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

/// Checks that a port is one, by number or by name.
pub(super) fn port(port: &IntOrString, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => invalid(path, name, names::port_name(name), errors),
    }
}

/// Checks that a number is a port's.
pub(super) fn port_number(port: i32, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(problem) = names::port_number(port) {
        errors.push(FieldError::invalid(path, port, problem));
    }
}

/// Checks a count that is a number or a percentage; neither may be negative.
pub(super) fn count_or_percent(value: &IntOrString, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        IntOrString::Int(number) => non_negative(Some(*number), path, errors),
        IntOrString::String(text) if percent(text).is_none() => errors.push(FieldError::invalid(path, text, PERCENT)),
        IntOrString::String(_) => {}
    }
}

/// Checks that a percentage is no more than all.
pub(super) fn not_more_than_all(value: &IntOrString, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let IntOrString::String(text) = value
        && percent(text).is_some_and(|percent| percent > 100)
    {
        errors.push(FieldError::invalid(path, text, "must not be greater than 100%"));
    }
}

/// Whether a count that is a number or a percentage is nothing.
pub(super) fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(text) => percent(text) == Some(0),
    }
}

fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    let digits_only = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Too many digits for a number is still a percentage, of more than all.
    digits_only.then(|| digits.parse().unwrap_or(u32::MAX))
}
