//! Whether a text is a cron schedule, in the words of the parser that Kubernetes uses (`robfig/cron` v3).

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

struct Field {
    min: u32,
    max: u32,
    /// The names of the values, from the smallest on.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: &MONTHS },
    Field { min: 0, max: 6, names: &DAYS },
];

/// Says what is wrong with a schedule of five fields (minute, hour, day, month, weekday) or a word such as `@daily`.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        let every = text.strip_prefix("@every ");
        return match every {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(duration) => Err(format!("failed to parse duration {text}: time: invalid duration \"{duration}\"")),
            None if DESCRIPTORS.contains(&text) => Ok(()),
            None => Err(format!("unrecognized descriptor: {text}")),
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        text.split(',').filter(|part| !part.is_empty()).try_for_each(|part| field.check(part))?;
    }
    Ok(())
}

impl Field {
    /// Checks one range: `*`, `5`, `1-5`, each with an optional `/step`.
    fn check(&self, text: &str) -> Result<(), String> {
        let mut parts = text.split('/');
        let range = parts.next().unwrap_or_default();
        let step = parts.next();
        if parts.next().is_some() {
            return Err(format!("too many slashes: {text}"));
        }
        let mut ends = range.split('-');
        let low = ends.next().unwrap_or_default();
        let (start, end) = if matches!(low, "*" | "?") {
            (self.min, self.max)
        } else {
            let start = self.value(low)?;
            let end = match ends.next() {
                None if step.is_some() => self.max,
                None => start,
                Some(high) => self.value(high)?,
            };
            (start, end)
        };
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {text}"));
        }
        let step = step.map_or(Ok(1), number)?;
        if start < self.min {
            Err(format!("beginning of range ({start}) below minimum ({}): {text}", self.min))
        } else if end > self.max {
            Err(format!("end of range ({end}) above maximum ({}): {text}", self.max))
        } else if start > end {
            Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"))
        } else if step == 0 {
            Err(format!("step of range should be a positive number: {text}"))
        } else {
            Ok(())
        }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match (self.min..).zip(self.names).find(|(_, name)| **name == lower) {
            Some((value, _)) => Ok(value),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
}

/// Whether a text is a Go duration, such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let has_digit = rest.strip_suffix(unit).is_some_and(|number| number.bytes().any(|b| b.is_ascii_digit()));
        let known = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().filter_map(|one| unit.strip_prefix(one));
        // The shortest remainder belongs to the longest unit.
        match known.min_by_key(|remainder| remainder.len()) {
            Some(remainder) if has_digit => rest = remainder,
            _ => return false,
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn schedules_are_accepted_as_by_cron() {
        for right in ["* * * * *", "*/5 0-6,12 1 JAN sun", "0 0 ? * 1-5/2", "@daily", "@every 1h30m", "5/15 * * * *"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for (wrong, problem) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@soon", "unrecognized descriptor: @soon"),
        ] {
            assert_eq!(check(wrong), Err(problem.to_owned()));
        }
        assert!(check("a * * * *").is_err() && check("@every x").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[-@*?/, 0-9a-z]{0,24}") {
            let _ = check(&text);
        }

        #[test]
        fn every_value_in_range_is_accepted(minute in 0..60, hour in 0..24, day in 1..=31, month in 1..=12, week in 0..7) {
            prop_assert_eq!(check(&format!("{minute} {hour} {day} {month} {week}")), Ok(()));
        }
    }
}
