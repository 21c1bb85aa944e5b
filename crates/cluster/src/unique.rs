//! What stands twice in a cluster file: values that should differ, and the line of the first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::read::{Located, Problems};

/// What was seen so far, and on which line first.
pub(crate) struct Seen<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Seen<T> {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// The line where an equal value stood before; remembers this one if there was none.
    pub(crate) fn before(&mut self, value: T, line: usize) -> Option<usize> {
        match self.0.entry(value) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(place) => {
                place.insert(line);
                None
            }
        }
    }

    /// The line where an equal value stood first.
    pub(crate) fn line_of(&self, value: &T) -> Option<usize> {
        self.0.get(value).copied()
    }
}

/// Reports each name that was given before; `of` says what is named.
pub(crate) fn unique_names<'d>(
    of: &str,
    names: impl Iterator<Item = &'d Option<Located<String>>>,
    problems: &mut Problems,
) {
    let mut seen = Seen::new();
    for Located { value, line } in names.flatten() {
        if let Some(first) = seen.before(value, *line) {
            let what = format!("a second {of} is named \"{value}\"; the first is on line {first}");
            problems.add(*line, what, format_args!("give each {of} a name of its own"));
        }
    }
}
