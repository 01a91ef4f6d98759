//! The little language of pretended programs: pure, text in and statements out.

use std::collections::BTreeMap;

use orchestra_core::runtime::{Error, Result};

/// Where programs can't be found.
const MISSING_PROGRAMS: &str = "/no/";

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) statements: Vec<Statement>,
    /// `$0`, `$1` and so on.
    pub(super) args: Vec<Box<str>>,
}

/// A command and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) words: Vec<Word>,
    pub(super) to_stderr: bool,
}

/// A word, in parts that are joined when it is used.
pub(super) type Word = Vec<Part>;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Itself.
    Text(String),
    /// The value of a variable or argument.
    Variable(String),
}

impl Program {
    /// Reads a command line; an empty one is the image's own program, of which nothing is known.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] for a program that is missing.
    pub(super) fn new<'a>(line: impl IntoIterator<Item = &'a Box<str>>) -> Result<Self> {
        let mut line = line.into_iter();
        let program: &str = line.next().map_or("", |program| program);
        if program.starts_with(MISSING_PROGRAMS) {
            return Err(Error::Start { program: program.into(), source: "no such file".into() });
        }
        let mut rest: Vec<Box<str>> = line.cloned().collect();
        let is_shell = matches!(program.rsplit('/').next(), Some("sh" | "bash" | "ash" | "dash"));
        if is_shell && rest.len() > 1 && &*rest[0] == "-c" {
            let args = rest.split_off(2);
            return Ok(Self { statements: parse(&rest[1]), args });
        }
        let words = std::iter::once(program).chain(rest.iter().map(AsRef::as_ref));
        let words = words.map(|word| vec![Part::Text(word.into())]).collect();
        Ok(Self { statements: vec![Statement { words, to_stderr: false }], args: Vec::new() })
    }
}

/// Reads a script. There is no wrong one: what isn't understood is text.
pub(super) fn parse(script: &str) -> Vec<Statement> {
    let mut parser = Parser { rest: script, ..Parser::default() };
    while let Some(char) = parser.take() {
        match char {
            ';' | '\n' | '&' => parser.end_statement(),
            ' ' | '\t' => parser.end_word(),
            '>' if parser.rest.starts_with("&2") => {
                parser.rest = &parser.rest[2..];
                parser.end_word();
                parser.statement.to_stderr = true;
            }
            '\'' => parser.quoted(),
            '"' => parser.double_quoted(),
            '$' => parser.variable(),
            char => parser.text(char),
        }
    }
    parser.end_statement();
    parser.statements
}

/// Joins a word's parts, with the values of its variables.
pub(super) fn expand(word: &Word, env: &BTreeMap<Box<str>, Box<str>>, args: &[Box<str>]) -> String {
    let value = |name: &str| match name.parse::<usize>() {
        Ok(number) => args.get(number).map_or("", |arg| arg),
        Err(_) => env.get(name).map_or("", |value| value),
    };
    let parts = word.iter().map(|part| match part {
        Part::Text(text) => text,
        Part::Variable(name) => value(name),
    });
    parts.collect()
}

#[derive(Default)]
struct Parser<'a> {
    rest: &'a str,
    statements: Vec<Statement>,
    statement: Statement,
    word: Option<Word>,
}

impl Parser<'_> {
    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let char = chars.next()?;
        self.rest = chars.as_str();
        Some(char)
    }

    fn text(&mut self, char: char) {
        let word = self.word.get_or_insert_default();
        match word.last_mut() {
            Some(Part::Text(text)) => text.push(char),
            _ => word.push(Part::Text(char.into())),
        }
    }

    fn quoted(&mut self) {
        self.word.get_or_insert_default();
        while let Some(char) = self.take().filter(|&char| char != '\'') {
            self.text(char);
        }
    }

    fn double_quoted(&mut self) {
        self.word.get_or_insert_default();
        while let Some(char) = self.take().filter(|&char| char != '"') {
            match char {
                '$' => self.variable(),
                char => self.text(char),
            }
        }
    }

    fn variable(&mut self) {
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let (name, rest) = match self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some(braced) => braced,
            None => self.rest.split_at(self.rest.find(|char| !is_name(char)).unwrap_or(self.rest.len())),
        };
        if name.is_empty() {
            return self.text('$');
        }
        let part = Part::Variable(name.into());
        self.rest = rest;
        self.word.get_or_insert_default().push(part);
    }

    fn end_word(&mut self) {
        self.statement.words.extend(self.word.take());
    }

    fn end_statement(&mut self) {
        self.end_word();
        let statement = std::mem::take(&mut self.statement);
        if !statement.words.is_empty() {
            self.statements.push(statement);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{expand, parse};

    fn words(script: &str) -> Vec<Vec<String>> {
        let env = [("NAME".into(), "a b".into())].into();
        let args = ["sh".into(), "one".into()];
        let expand = |statement: super::Statement| statement.words.iter().map(|w| expand(w, &env, &args)).collect();
        parse(script).into_iter().map(expand).collect()
    }

    #[test]
    fn words_are_quoted_and_expanded_as_in_a_shell() {
        assert_eq!(words("echo \"$NAME\"x ${NAME}; exit 3"), [vec!["echo", "a bx", "a b"], vec!["exit", "3"]]);
        assert_eq!(
            words("trap 'exit 7' TERM\n\nsleep 1 & wait"),
            [vec!["trap", "exit 7", "TERM"], vec!["sleep", "1"], vec!["wait"]]
        );
        assert_eq!(words("echo '' $1 '$1' $"), [["echo", "", "one", "$1", "$"]]);
        assert!(parse("echo oops >&2")[0].to_stderr);
    }

    proptest! {
        #[test]
        fn every_script_can_be_read(script in ".{0,64}") {
            prop_assert!(parse(&script).iter().all(|statement| !statement.words.is_empty()));
        }

        #[test]
        fn a_quoted_word_is_itself(text in "[^']{0,32}") {
            prop_assert_eq!(words(&format!("echo '{text}'")), [["echo", &*text]]);
        }
    }
}
