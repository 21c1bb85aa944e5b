//! The TOML of a cluster file, read key by key with the line of each, collecting what is wrong
//! instead of stopping at it. Called by `parse`; knows no meaning beyond types and ranges, and
//! never puts a value of the wrong type into a message, since it could be the secret.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{ConfigError, similar};

/// The most problems that are kept: more help nobody, and a file of garbage has no end of them.
const PROBLEMS_MAX: usize = 100;

/// Something of the file, and the line where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
}

/// What is wrong with a text so far, and where its lines begin.
pub(crate) struct Problems {
    line_starts: Vec<usize>,
    found: Vec<ConfigError>,
}

/// A key that a section may hold, and how to give it.
pub(crate) type KnownKey = (&'static str, Give);

/// What to tell an operator who did not give a key, or gave it wrongly.
#[derive(Clone, Copy)]
pub(crate) enum Give {
    /// An example value as it would be written.
    Value(&'static str),
    /// What to do, where an example would not help.
    Advice(&'static str),
}

/// One table of the file.
pub(crate) struct Section<'t, 'p> {
    title: &'static str,
    keys: &'static [KnownKey],
    line: usize,
    table: &'t DeTable<'t>,
    pub(crate) problems: &'p mut Problems,
}

impl Problems {
    pub(crate) fn new(text: &str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { line_starts: std::iter::once(0).chain(after_newlines).collect(), found: Vec::new() }
    }

    /// The line, from 1, that holds the byte at `offset`.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(crate) fn add(&mut self, line: impl Into<Option<usize>>, what: impl Display, help: impl Display) {
        if self.found.len() < PROBLEMS_MAX {
            let (what, help) = (what.to_string(), help.to_string());
            self.found.push(ConfigError { line: line.into(), what, help });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many were found so far, at most as many as are kept.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// All problems in the order of their lines, those of the whole file last.
    pub(crate) fn into_errors(mut self) -> Vec<ConfigError> {
        self.found.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        self.found
    }
}

impl<'t, 'p> Section<'t, 'p> {
    /// Opens a table, reporting each key that is not among `keys`.
    pub(crate) fn open(
        title: &'static str,
        keys: &'static [KnownKey],
        table: &'t DeTable<'t>,
        line: usize,
        problems: &'p mut Problems,
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !keys.iter().any(|(known, _)| *known == name) {
                let known: Vec<_> = keys.iter().map(|(known, _)| *known).collect();
                let line = problems.line_at(key.span().start);
                let offer = similar::offer(name, known.iter().copied());
                problems.add(
                    line,
                    format_args!("unknown key `{}` in {title}", name.escape_debug()),
                    format_args!("{offer}{title} takes {}; remove or correct this one", known.join(", ")),
                );
            }
        }
        Self { title, keys, line, table, problems }
    }

    /// [`Section::open`] for one table of a list.
    pub(crate) fn open_at(
        title: &'static str,
        keys: &'static [KnownKey],
        at: Located<&'t DeTable<'t>>,
        problems: &'p mut Problems,
    ) -> Self {
        Self::open(title, keys, at.value, at.line, problems)
    }

    /// The line of the section's header.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// Whether the key is there; if not, that is a problem.
    fn require(&mut self, key: &str) -> bool {
        let found = self.table.contains_key(key);
        if !found {
            let what = format!("{} lacks `{key}`", self.title);
            let help = self.help("add", key);
            self.problems.add(self.line, what, help);
        }
        found
    }

    /// How to give the key: `verb` and an example, or the advice that stands for both.
    fn help(&self, verb: &str, key: &str) -> String {
        match self.keys.iter().find(|(known, _)| *known == key) {
            Some((_, Give::Value(example))) => format!("{verb} `{key} = {example}`"),
            Some((_, Give::Advice(advice))) => (*advice).to_owned(),
            None => format!("{verb} `{key}`"),
        }
    }

    /// The value of a key as `read` takes it. A value that it does not take is a problem.
    fn value<T>(
        &mut self,
        key: &str,
        kind: &str,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Located<T>> {
        let value = self.table.get(key)?;
        let line = self.problems.line_at(value.span().start);
        let read = read(value.get_ref());
        if read.is_none() {
            let what = format!("`{key}` must be {kind}, not {}", kind_of(value.get_ref()));
            let help = self.help("write it as", key);
            self.problems.add(line, what, help);
        }
        read.map(|value| Located { value, line })
    }

    pub(crate) fn string(&mut self, key: &str) -> Option<Located<&'t str>> {
        self.value(key, "a string", DeValue::as_str)
    }

    pub(crate) fn required_string(&mut self, key: &str) -> Option<Located<&'t str>> {
        self.require(key).then(|| self.string(key)).flatten()
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool).map(|found| found.value)
    }

    /// A whole number in `range`.
    pub(crate) fn number<N>(&mut self, key: &str, range: RangeInclusive<N>) -> Option<Located<N>>
    where
        N: TryFrom<u64> + PartialOrd + Display,
    {
        let digits = self.value(key, "a whole number", DeValue::as_integer)?;
        let number = u64::from_str_radix(digits.value.as_str(), digits.value.radix()).ok();
        match number.and_then(|number| N::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(value) => Some(Located { value, line: digits.line }),
            None => {
                let (low, high) = (range.start(), range.end());
                self.problems.add(
                    digits.line,
                    format_args!("`{key}` is {}, which is not within {low} to {high}", digits.value),
                    format_args!("choose a value from {low} to {high}"),
                );
                None
            }
        }
    }

    pub(crate) fn required_number<N>(&mut self, key: &str, range: RangeInclusive<N>) -> Option<Located<N>>
    where
        N: TryFrom<u64> + PartialOrd + Display,
    {
        self.require(key).then(|| self.number(key, range)).flatten()
    }

    /// A list of strings, and the line where it begins.
    pub(crate) fn strings(&mut self, key: &str) -> Option<Located<Vec<Located<&'t str>>>> {
        let list = self.value(key, "a list of strings", DeValue::as_array)?;
        let mut strings = Vec::new();
        for item in list.value.iter() {
            let line = self.problems.line_at(item.span().start);
            match item.get_ref().as_str() {
                Some(value) => strings.push(Located { value, line }),
                None => {
                    let what = format!("`{key}` holds {}, not only strings", kind_of(item.get_ref()));
                    let help = self.help("write it as", key);
                    self.problems.add(line, what, help);
                    return None;
                }
            }
        }
        Some(Located { value: strings, line: list.line })
    }

    pub(crate) fn required_strings(&mut self, key: &str) -> Option<Located<Vec<Located<&'t str>>>> {
        self.require(key).then(|| self.strings(key)).flatten()
    }

    /// A table within this one.
    pub(crate) fn section(
        &mut self,
        key: &str,
        title: &'static str,
        keys: &'static [KnownKey],
    ) -> Option<Section<'t, '_>> {
        let table = self.value(key, "a table", DeValue::as_table)?;
        Some(Section::open(title, keys, table.value, table.line, self.problems))
    }

    /// The line of a key's value, if it is given.
    pub(crate) fn line_of(&self, key: &str) -> Option<usize> {
        self.table.get(key).map(|value| self.problems.line_at(value.span().start))
    }

    /// The tables of a list, each with the line of its header, which is as `header` says.
    pub(crate) fn tables(&mut self, key: &str, header: &str) -> Vec<Located<&'t DeTable<'t>>> {
        let kind = format!("a list of tables, {header} with double brackets");
        let list = self.value(key, &kind, |value| {
            let list = value.as_array()?;
            list.iter().all(|item| item.get_ref().is_table()).then_some(list)
        });
        let located = |item: &'t Spanned<DeValue<'t>>| {
            let line = self.problems.line_at(item.span().start);
            item.get_ref().as_table().map(|value| Located { value, line })
        };
        list.into_iter().flat_map(|list| list.value.iter()).filter_map(located).collect()
    }

    /// The tables of a list that must hold one at least; `needed` says what to do if it does not.
    pub(crate) fn required_tables(
        &mut self,
        key: &str,
        header: &str,
        needed: &str,
    ) -> Vec<Located<&'t DeTable<'t>>> {
        let before = self.problems.count();
        let tables = self.tables(key, header);
        if tables.is_empty() && self.problems.count() == before {
            self.problems.add(None, format_args!("there is no {key}"), needed);
        }
        tables
    }
}

/// What a value is, in words.
fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
