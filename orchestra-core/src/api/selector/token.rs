//! The words of a label selector.

use std::{iter::Peekable, str::CharIndices};

/// A word, and its text as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

/// What a word is; `in` and `notin` are names, too, where no operator is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Operator,
    Not,
    Open,
    Close,
    Comma,
    End,
}

/// Reads the words of a text, and then [`Kind::End`] for ever.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, chars: text.char_indices().peekable() }
    }

    /// The next word, which stays.
    pub(super) fn peek(&self) -> Token<'a> {
        self.clone().next()
    }

    /// The next word.
    pub(super) fn next(&mut self) -> Token<'a> {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some((start, first)) = self.chars.next() else { return Token { kind: Kind::End, text: "" } };
        let is_compound = |c: char| matches!(c, '=' | '<' | '>' | '!');
        match first {
            '(' | ')' | ',' => {}
            c if is_compound(c) => while self.chars.next_if(|(_, c)| is_compound(*c)).is_some() {},
            _ => {
                let ends = |c: char| is_compound(c) || c.is_whitespace() || matches!(c, '(' | ')' | ',');
                while self.chars.next_if(|(_, c)| !ends(*c)).is_some() {}
            }
        }
        let end = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        let text = self.text.get(start..end).expect("both are at characters of the text");
        let kind = match text {
            "(" => Kind::Open,
            ")" => Kind::Close,
            "," => Kind::Comma,
            "!" => Kind::Not,
            _ if is_compound(first) => Kind::Operator,
            _ => Kind::Name,
        };
        Token { kind, text }
    }
}
