//! Selectors by labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiLabelSelector;

use super::{
    ParseError,
    token::{Kind, Token, Tokens},
};

/// Selects by labels: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Absent(String),
    Above(String, i64),
    Below(String, i64),
}

impl LabelSelector {
    /// Reads the query grammar: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`. Empty text selects everything.
    ///
    /// # Errors
    ///
    /// For text that is not of the grammar.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut tokens = Tokens::new(text);
        let mut requirements = Vec::new();
        if tokens.peek().kind == Kind::End {
            return Ok(Self::default());
        }
        loop {
            let first = tokens.peek();
            if !matches!(first.kind, Kind::Name | Kind::Not) {
                let expected = match requirements.is_empty() {
                    true => "!, identifier, or 'end of string'",
                    false => "identifier after ','",
                };
                return Err(found(first, expected));
            }
            let requirement = requirement(&mut tokens);
            requirements
                .push(requirement.map_err(|error| ParseError(format!("unable to parse requirement: {error}")))?);
            match tokens.next() {
                Token { kind: Kind::End, .. } => return Ok(Self(requirements)),
                Token { kind: Kind::Comma, .. } => {}
                other => return Err(found(other, "',' or 'end of string'")),
            }
        }
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with `labels` is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key| labels.get(key).and_then(|value: &String| value.parse::<i64>().ok());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::Above(key, bound) => number(key).is_some_and(|value| value > *bound),
            Requirement::Below(key, bound) => number(key).is_some_and(|value| value < *bound),
        })
    }
}

impl fmt::Display for LabelSelector {
    /// The query that reads as this selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        for (at, requirement) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
                Requirement::In(key, values) => write!(f, "{key} in ({})", list(values)),
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
                Requirement::Exists(key) => f.write_str(key),
                Requirement::Absent(key) => write!(f, "!{key}"),
                Requirement::Above(key, bound) => write!(f, "{key}>{bound}"),
                Requirement::Below(key, bound) => write!(f, "{key}<{bound}"),
            }?;
        }
        Ok(())
    }
}

impl TryFrom<&ApiLabelSelector> for LabelSelector {
    type Error = ParseError;

    /// Reads the selector of an object; an empty one selects everything.
    fn try_from(selector: &ApiLabelSelector) -> Result<Self, ParseError> {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<_> =
            labels.map(|(key, value)| Requirement::In(key.clone(), [value.clone()].into())).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.iter().flatten().cloned().collect();
            let key = expression.key.clone();
            requirements.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
            });
        }
        Ok(Self(requirements))
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, ParseError> {
    let absent = tokens.peek().kind == Kind::Not;
    if absent {
        tokens.next();
    }
    let key = match tokens.next() {
        Token { kind: Kind::Name, text } => text.to_owned(),
        other => return Err(found(other, "identifier")),
    };
    if absent {
        return Ok(Requirement::Absent(key));
    }
    if matches!(tokens.peek().kind, Kind::End | Kind::Comma) {
        return Ok(Requirement::Exists(key));
    }
    let operator = tokens.next();
    match operator.text {
        "in" => Ok(Requirement::In(key, values(tokens)?)),
        "notin" => Ok(Requirement::NotIn(key, values(tokens)?)),
        "=" | "==" => Ok(Requirement::In(key, [exact(tokens)?].into())),
        "!=" => Ok(Requirement::NotIn(key, [exact(tokens)?].into())),
        ">" => Ok(Requirement::Above(key, bound(tokens)?)),
        "<" => Ok(Requirement::Below(key, bound(tokens)?)),
        _ => Err(found(operator, "in, notin, =, ==, !=, gt, lt")),
    }
}

/// The one value after an operator; none is the empty one.
fn exact(tokens: &mut Tokens<'_>) -> Result<String, ParseError> {
    if matches!(tokens.peek().kind, Kind::End | Kind::Comma) {
        return Ok(String::new());
    }
    match tokens.next() {
        Token { kind: Kind::Name, text } => Ok(text.to_owned()),
        other => Err(found(other, "identifier")),
    }
}

fn bound(tokens: &mut Tokens<'_>) -> Result<i64, ParseError> {
    let text = exact(tokens)?;
    let not_a_number = "for 'Gt', 'Lt' operators, the value must be an integer";
    text.parse().map_err(|_| ParseError(format!("values[0]: Invalid value: {text:?}: {not_a_number}")))
}

/// The values between parentheses; between two commas is the empty one.
fn values(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, ParseError> {
    let open = tokens.next();
    if open.kind != Kind::Open {
        return Err(found(open, "'('"));
    }
    if tokens.peek().kind == Kind::Close {
        let empty = "for 'in', 'notin' operators, values set can't be empty";
        return Err(ParseError(format!("values: Invalid value: []: {empty}")));
    }
    let mut values = BTreeSet::new();
    loop {
        let value = match tokens.peek() {
            Token { kind: Kind::Name, text } => {
                tokens.next();
                text
            }
            Token { kind: Kind::Comma | Kind::Close, .. } => "",
            other => return Err(found(other, "',', ')' or identifier")),
        };
        values.insert(value.to_owned());
        match tokens.next() {
            Token { kind: Kind::Comma, .. } => {}
            Token { kind: Kind::Close, .. } => return Ok(values),
            other => return Err(found(other, "',' or ')'")),
        }
    }
}

fn found(token: Token<'_>, expected: &str) -> ParseError {
    ParseError(format!("found '{}', expected: {expected}", token.text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::LabelSelector;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LabelSelector::parse(selector).expect(selector).matches(&labels)
    }

    /// SEMANTICS 63.
    #[test]
    fn each_operator_selects_what_it_says() {
        let labels = [("app", "web"), ("tier", ""), ("weight", "5"), ("in", "notin")];
        for selector in [
            "",
            " ",
            "app",
            "app=web",
            "app==web",
            "app = web",
            "app!=db",
            "none!=x",
            "!none",
            "! none",
            "tier=",
            "app in (db, web)",
            "app in(web)",
            "tier in (,x)",
            "tier in (x,)",
            "app notin (db)",
            "none notin (db)",
            "weight>4,weight<6",
            "in=notin",
            "app in (web),!none,app",
        ] {
            assert!(selects(selector, &labels), "{selector}");
        }
        for selector in
            ["none", "app=db", "app!=web", "!app", "app in (db)", "app notin (web)", "weight>5", "weight<5", "app>1"]
        {
            assert!(!selects(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn what_is_not_of_the_grammar_is_refused_in_the_words_of_kubernetes() {
        for (selector, words) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a===b", "unable to parse requirement: found '===', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b', expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
        ] {
            let error = LabelSelector::parse(selector).expect_err(selector);
            assert_eq!(error.to_string(), words, "{selector}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r"([a-z=!<>(), é]|in|notin){0,12}") {
            let _ = LabelSelector::parse(&text);
        }

        #[test]
        fn in_and_notin_are_opposites(value in "[a-c]?", labels: BTreeMap<bool, bool>) {
            let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let parse = |operator| LabelSelector::parse(&format!("true {operator} ({value},false)")).expect("grammatical");
            prop_assert_ne!(parse("in").matches(&labels), parse("notin").matches(&labels));
        }
    }
}
