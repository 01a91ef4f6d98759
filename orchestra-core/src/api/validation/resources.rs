//! The rules of resource names and amounts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::metadata::invalid;
use super::names;
use super::{FieldError, Path};

const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
const QUANTITY: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Checks what a container requests, and that it is no more than its limits.
pub(super) fn requirements(requirements: &ResourceRequirements, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    amounts(requirements.limits.as_ref(), &path.field("limits"), errors);
    amounts(requirements.requests.as_ref(), &path.field("requests"), errors);
    let limits = requirements.limits.as_ref();
    let requests_path = path.field("requests");
    for (resource, request) in requirements.requests.iter().flatten() {
        let Some(limit) = limits.and_then(|limits| limits.get(resource)) else { continue };
        let (Some(requested), Some(limited)) = (nanos(&request.0), nanos(&limit.0)) else { continue };
        if requested > limited {
            let detail = format!("must be less than or equal to {resource} limit of {}", limit.0);
            errors.push(FieldError::invalid(&requests_path, &request.0, detail));
        } else if requested != limited && !may_overcommit(resource) {
            let detail = format!("must be equal to {resource} limit of {}", limit.0);
            errors.push(FieldError::invalid(&requests_path, &request.0, detail));
        }
    }
}

/// Checks an amount: a quantity that is not negative.
pub(super) fn amount(quantity: &Quantity, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match nanos(&quantity.0) {
        None => errors.push(FieldError::invalid(path, &quantity.0, QUANTITY)),
        Some(nanos) if nanos < 0 => {
            errors.push(FieldError::invalid(path, &quantity.0, "must be greater than or equal to 0"));
        }
        Some(_) => {}
    }
}

fn amounts(amounts: Option<&BTreeMap<String, Quantity>>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (resource, quantity) in amounts.into_iter().flatten() {
        let path = path.key(resource);
        invalid(&path, resource, names::qualified_name(resource), errors);
        if !resource.contains('/') && !STANDARD.contains(&resource.as_str()) && !resource.starts_with("hugepages-") {
            errors.push(FieldError::invalid(&path, resource, "must be a standard resource for containers"));
        }
        amount(quantity, &path, errors);
    }
}

/// Only what a node can take back may be promised twice.
fn may_overcommit(resource: &str) -> bool {
    STANDARD.contains(&resource)
}

/// A quantity in billionths, the finest unit there is; none if it is malformed or beyond all measure.
fn nanos(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let suffix = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (whole, fraction) = {
        let number = unsigned.strip_suffix(suffix)?;
        number.split_once('.').unwrap_or((number, ""))
    };
    let (base, power) = scale(suffix)?;
    let digits = format!("{whole}{fraction}");
    let mut nanos: i128 = digits.parse().ok()?;
    if base == 2 {
        nanos = nanos.checked_mul(1_i128.checked_shl(u32::try_from(power).ok()?)?)?;
    }
    let decimal = if base == 2 { 9 } else { power + 9 } - i32::try_from(fraction.len()).ok()?;
    let factor = 10_i128.checked_pow(decimal.unsigned_abs())?;
    let nanos = if decimal < 0 { nanos.checked_add(factor - 1)? / factor } else { nanos.checked_mul(factor)? };
    Some(if text.starts_with('-') { -nanos } else { nanos })
}

fn scale(suffix: &str) -> Option<(i32, i32)> {
    Some(match suffix {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        exponent => (10, exponent.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_across_units() {
        for (smaller, larger) in [("100m", "0.2"), ("1G", "1Gi"), ("1e3", "1001"), ("-1", "0"), ("999n", "1u")] {
            assert!(nanos(smaller).unwrap() < nanos(larger).unwrap(), "{smaller} {larger}");
        }
        assert_eq!(nanos("1.5Gi"), nanos("1536Mi"));
        for text in ["", "x", "1x", "1.2.3", "e", "--1"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
