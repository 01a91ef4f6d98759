//! Amounts as Kubernetes writes them: `100m`, `1.5`, `64Mi`, `2e3`.

use std::{fmt, str::FromStr};

/// Billionths in one.
const NANO: i128 = 1_000_000_000;

/// An exact amount, in billionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

/// The text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

impl Quantity {
    /// The amount in thousandths, rounded up.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.scaled(NANO / 1_000)
    }

    /// The amount in whole units, rounded up.
    #[must_use]
    pub fn as_units(self) -> i64 {
        self.scaled(NANO)
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = self.0.div_euclid(unit) + i128::from(self.0.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up > 0 { i64::MAX } else { i64::MIN })
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError);
        }
        let (multiplier, divisor) = scale(suffix).ok_or(ParseError)?;
        let digits: i128 = format!("0{whole}{fraction}").parse().map_err(|_| ParseError)?;
        let places = u32::try_from(fraction.len()).map_err(|_| ParseError)?;
        let divisor = 10_i128.checked_pow(places).and_then(|tens| tens.checked_mul(divisor)).ok_or(ParseError)?;
        let scaled = digits.checked_mul(NANO).and_then(|nano| nano.checked_mul(multiplier)).ok_or(ParseError)?;
        // Finer than a billionth rounds up, away from zero.
        let nano = scaled / divisor + i128::from(scaled % divisor != 0);
        Ok(Self(if text.starts_with('-') { -nano } else { nano }))
    }
}

/// What a suffix multiplies by, and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let tens = 10_i128.checked_pow(power.unsigned_abs())?;
            Some(if power < 0 { (1, tens) } else { (tens, 1) })
        }
    }
}

impl fmt::Display for Quantity {
    /// A decimal number without a suffix, as short as it can be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / NANO.unsigned_abs(), self.0.unsigned_abs() % NANO.unsigned_abs());
        write!(f, "{sign}{whole}")?;
        if rest > 0 {
            write!(f, ".{}", format!("{rest:09}").trim_end_matches('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Quantity;

    fn millis(text: &str) -> Option<i64> {
        text.parse::<Quantity>().ok().map(Quantity::as_millis)
    }

    #[test]
    fn every_suffix_is_read() {
        for (text, expected) in [
            ("100m", 100),
            ("1", 1_000),
            ("1.5", 1_500),
            ("0.0001", 1),
            ("2e3", 2_000_000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("-1", -1_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1.2.3", "1 Gi", "1Kib", "--1", "1e", "."] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_the_same(nano in -10_i128.pow(27)..10_i128.pow(27)) {
            let quantity = Quantity(nano);
            prop_assert_eq!(quantity.to_string().parse::<Quantity>(), Ok(quantity));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Quantity>();
        }
    }
}
