//! Recorded workloads, read into shapes and nodes.

pub mod openb;

use std::{collections::BTreeMap, fmt::Display, io, str::FromStr, sync::Arc, time::Duration};

use crate::scheduler::Shape;

/// A pod of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name there.
    pub name: Box<str>,
    /// What it needs.
    pub shape: Arc<Shape>,
    /// When it comes, from the beginning of the trace.
    pub arrives: Duration,
    /// How long it runs; `None` if the trace doesn't say.
    pub runs: Option<Duration>,
}

/// Why a trace can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A field holds what it may not.
    #[error("{file}:{line}: {field}: {problem}")]
    Field {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// The line, from 1.
        line: u64,
        /// The column's name.
        field: Box<str>,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// A column is not there.
    #[error("{file}: there is no column {column:?}")]
    Column {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// The column's name.
        column: Box<str>,
    },
    /// It is no CSV, or can't be read at all.
    #[error("{file}: can't be read")]
    Csv {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// Why.
        #[source]
        source: csv::Error,
    },
}

/// A CSV file with a line of names.
pub(super) struct Table<R> {
    file: Box<str>,
    reader: csv::Reader<R>,
    columns: BTreeMap<String, usize>,
}

/// One of its lines.
pub(super) struct Row<'a> {
    file: &'a str,
    columns: &'a BTreeMap<String, usize>,
    record: csv::StringRecord,
}

impl<R: io::Read> Table<R> {
    /// Reads the names, all of `needed` among them.
    pub(super) fn new(input: R, file: &str, needed: &[&str]) -> Result<Self, TraceError> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let names = reader.headers().map_err(|source| TraceError::Csv { file: file.into(), source })?;
        let columns: BTreeMap<String, usize> =
            names.iter().enumerate().map(|(at, name)| (name.to_owned(), at)).collect();
        if let Some(column) = needed.iter().find(|column| !columns.contains_key(**column)) {
            return Err(TraceError::Column { file: file.into(), column: (*column).into() });
        }
        Ok(Self { file: file.into(), reader, columns })
    }

    /// Reads every line by `read`.
    pub(super) fn rows<T>(mut self, read: impl Fn(&Row<'_>) -> Result<T, TraceError>) -> Result<Vec<T>, TraceError> {
        let mut all = Vec::new();
        for record in self.reader.records() {
            let record = record.map_err(|source| TraceError::Csv { file: self.file.clone(), source })?;
            all.push(read(&Row { file: &self.file, columns: &self.columns, record })?);
        }
        Ok(all)
    }
}

impl Row<'_> {
    /// The text of a column; empty if the table has no such column.
    pub(super) fn text(&self, column: &str) -> &str {
        self.columns.get(column).and_then(|at| self.record.get(*at)).unwrap_or_default()
    }

    /// The number in a column, within bounds.
    pub(super) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &self,
        column: &str,
        least: T,
        most: T,
    ) -> Result<T, TraceError> {
        let text = self.text(column);
        let number =
            text.parse::<T>().map_err(|_| self.problem(column, format!("{text:?} is no number of this kind")))?;
        if number < least || number > most {
            return Err(self.problem(column, format!("{number} is not between {least} and {most}")));
        }
        Ok(number)
    }

    fn problem(&self, field: &str, problem: impl Into<Box<str>>) -> TraceError {
        let line = self.record.position().map_or(0, csv::Position::line);
        TraceError::Field { file: self.file.into(), line, field: field.into(), problem: problem.into() }
    }
}
