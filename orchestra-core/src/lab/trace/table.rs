//! Lines of text, and tables in CSV, whose errors name the line and the field.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, BufRead as _},
    str::FromStr,
    time::Duration,
};

use super::{SECONDS_MAX, TraceError};

/// A CSV file.
pub(in crate::lab) struct Table<R> {
    file: Box<str>,
    reader: csv::Reader<R>,
    columns: BTreeMap<String, usize>,
    /// The first line, if it gives no names.
    first: Option<csv::StringRecord>,
    width: usize,
}

/// One of its lines.
pub(in crate::lab) struct Row<'a> {
    file: &'a str,
    columns: &'a BTreeMap<String, usize>,
    record: csv::StringRecord,
}

impl<R: io::Read> Table<R> {
    /// A table that begins with a line of names, all of `needed` among them.
    pub(in crate::lab) fn new(input: R, file: &str, needed: &[&str]) -> Result<Self, TraceError> {
        let table = Self::open(input, file, |_| true, &[])?;
        match needed.iter().find(|column| !table.has(column)) {
            Some(column) => Err(TraceError::Column { file: file.into(), column: (*column).into() }),
            None => Ok(table),
        }
    }

    /// A table whose columns are `names`, unless its first line gives names, which `named` tells.
    pub(super) fn open(
        input: R,
        file: &str,
        named: impl Fn(&csv::StringRecord) -> bool,
        names: &[&str],
    ) -> Result<Self, TraceError> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).has_headers(false).flexible(true).from_reader(input);
        let mut first = csv::StringRecord::new();
        let is_any = reader.read_record(&mut first).map_err(|error| TraceError::unreadable(file, error))?;
        let (columns, width, first) = if is_any && named(&first) {
            (numbered(first.iter()), first.len(), None)
        } else {
            (numbered(names.iter().copied()), names.len(), is_any.then_some(first))
        };
        Ok(Self { file: file.into(), reader, columns, first, width })
    }

    /// Whether there is such a column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// Reads every line by `read`.
    pub(in crate::lab) fn rows<T>(
        mut self,
        mut read: impl FnMut(&Row<'_>) -> Result<T, TraceError>,
    ) -> Result<Vec<T>, TraceError> {
        let mut all = Vec::new();
        for record in self.first.take().map(Ok).into_iter().chain(self.reader.records()) {
            let record = record.map_err(|error| TraceError::unreadable(&self.file, error))?;
            let row = Row { file: &self.file, columns: &self.columns, record };
            if row.record.len() != self.width {
                let problem = format!("there are {}, where {} are to be", row.record.len(), self.width);
                return Err(row.problem("columns", problem));
            }
            all.push(read(&row)?);
        }
        Ok(all)
    }
}

impl Row<'_> {
    /// Its line in the file, from 1.
    pub(super) fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    /// The text of a column; empty if the table has no such column.
    pub(in crate::lab) fn text(&self, column: &str) -> &str {
        self.columns.get(column).and_then(|at| self.record.get(*at)).unwrap_or_default()
    }

    /// The number in a column, within bounds.
    pub(in crate::lab) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &self,
        column: &str,
        least: T,
        most: T,
    ) -> Result<T, TraceError> {
        number(self.text(column), least, most).map_err(|problem| self.problem(column, problem))
    }

    /// A number of seconds, which may have a fraction.
    pub(super) fn seconds(&self, column: &str) -> Result<Duration, TraceError> {
        self.number(column, 0.0, SECONDS_MAX).map(Duration::from_secs_f64)
    }

    pub(in crate::lab) fn problem(&self, field: &str, problem: impl Into<Box<str>>) -> TraceError {
        TraceError::field(self.file, self.line(), field, problem)
    }
}

fn numbered<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    names.zip(0..).map(|(name, at)| (name.to_owned(), at)).collect()
}

/// A number within bounds, or what is wrong with it.
pub(super) fn number<T: FromStr + PartialOrd + Display + Copy>(text: &str, least: T, most: T) -> Result<T, String> {
    let number = text.parse::<T>().map_err(|_| format!("{text:?} is no number of this kind"))?;
    // What is no number at all is in no order to others.
    if number >= least && number <= most {
        Ok(number)
    } else {
        Err(format!("{number} is not between {least} and {most}"))
    }
}

/// Reads every line that isn't blank by `read`, which is told its number, from 1.
pub(super) fn lines(
    input: impl io::Read,
    file: &str,
    mut read: impl FnMut(u64, &str) -> Result<(), TraceError>,
) -> Result<(), TraceError> {
    for (number, line) in (1..).zip(io::BufReader::new(input).lines()) {
        let line = line.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => TraceError::field(file, number, "line", "it is no text in UTF-8"),
            _ => TraceError::unreadable(file, error),
        })?;
        if !line.trim().is_empty() {
            read(number, line.trim())?;
        }
    }
    Ok(())
}
