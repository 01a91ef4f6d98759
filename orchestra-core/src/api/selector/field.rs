//! Selectors by fields.

use std::fmt;

use super::ParseError;

/// Selects by fields: each is one of a fixed set for its kind, and is or is not one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads the query grammar: `spec.nodeName=n1,status.phase!=Failed`. In a value, `\` goes before a `\`, `,` or `=`.
    ///
    /// # Errors
    ///
    /// For text that is not of the grammar.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let terms = split_terms(text).into_iter().filter(|term| !term.is_empty());
        terms.map(|term| Term::parse(term, text)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|term| term.field.as_str())
    }

    /// The value that it requires of a field; `None` if it takes several.
    #[must_use]
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether an object whose fields `field_of` tells is selected.
    pub fn matches(&self, field_of: impl Fn(&str) -> String) -> bool {
        self.0.iter().all(|term| (field_of(&term.field) == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    /// The query that reads as this selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{}{value}", term.field, if term.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

impl Term {
    /// Reads one term of the selector `whole`.
    fn parse(text: &str, whole: &str) -> Result<Self, ParseError> {
        let split = text.char_indices().find_map(|(at, _)| {
            let (field, rest) = text.split_at(at);
            let operator = ["!=", "==", "="].into_iter().find(|operator| rest.starts_with(operator))?;
            Some((field, operator, rest.strip_prefix(operator)?))
        });
        let (field, operator, value) =
            split.ok_or_else(|| ParseError(format!("invalid selector: '{whole}'; can't understand '{text}'")))?;
        Ok(Self { field: field.into(), equal: operator != "!=", value: unescape(value)? })
    }
}

/// Splits at the commas that have no `\` before them.
fn split_terms(text: &str) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| {
        let splits = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
    .collect()
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let sequence: String = [c].into_iter().chain(other).collect();
                    return Err(ParseError(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            '=' => return Err(ParseError(format!("invalid field selector: unescaped character in value: {c}"))),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FieldSelector, Term};

    /// SEMANTICS 63.
    #[test]
    fn each_operator_selects_what_it_says() {
        let field_of = |field: &str| if field == "status.phase" { "Running".to_owned() } else { String::new() };
        for (selector, expected) in [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase==Running,spec.nodeName=", true),
            ("status.phase!=Running", false),
            ("status.phase!=Failed,spec.nodeName!=", false),
        ] {
            let parsed = FieldSelector::parse(selector).expect(selector);
            assert_eq!(parsed.matches(field_of), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_not_of_the_grammar_is_refused_in_the_words_of_kubernetes() {
        for (selector, words) in [
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            (r"a=\b", r"invalid field selector: invalid escape sequence: \b"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
        ] {
            let error = FieldSelector::parse(selector).expect_err(selector);
            assert_eq!(error.to_string(), words, "{selector}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_the_same(terms in prop::collection::vec(("[a-z.]{1,8}", any::<bool>(), r"[a\\,=! é]{0,6}"), 0..4)) {
            let terms = terms.into_iter().map(|(field, equal, value)| Term { field, equal, value });
            let selector = FieldSelector(terms.collect());
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
