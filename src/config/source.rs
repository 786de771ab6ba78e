//! Where each value of a configuration was written, kept so that what goes wrong later can still point at it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::error::{ConfigError, Invalid, Problem};

/// The file behind a [`Config`](super::Config): its name, its text without passwords, and the place of each key.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub(super) name: String,
    pub(super) text: Arc<str>,
    pub(super) places: BTreeMap<String, Range<usize>>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Every key that was asked for, present or not, as `limits.inflight` or `listener.bind`.
    #[cfg(test)]
    pub(super) asked: std::collections::BTreeSet<String>,
}

/// Two configurations are equal when they mean the same, however and wherever that was written.
impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Source {
    /// The name of the file as it was given; empty when there is none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text, with passwords blotted out by `*`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is allowed and yet deserves a look, in the order of the file.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// `name:line:column` of a key such as `tls.key` or `listener[0].bind`, when the file has it.
    pub fn position(&self, key: &str) -> Option<String> {
        let span = self.places.get(key)?;
        let (line, column) = line_and_column(&self.text, span.start);
        Some(format!("{}:{line}:{column}", self.name))
    }

    /// An error about a key that only showed when its value was used: an address that is taken, a certificate that
    /// cannot be loaded. `found` says what was wrong, `advice` what to write instead.
    pub fn error(&self, key: &str, found: impl Into<String>, advice: impl Into<String>) -> ConfigError {
        let problem = problem(&self.text, self.places.get(key).cloned(), found.into(), advice.into());
        ConfigError::Invalid(Invalid { name: self.name.clone(), text: self.text.clone(), problems: vec![problem] })
    }

    pub(super) fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn invalid(&self) -> Invalid {
        Invalid { name: self.name.clone(), text: self.text.clone(), problems: self.problems.clone() }
    }
}

pub(super) fn problem(text: &str, span: Option<Range<usize>>, found: String, advice: String) -> Problem {
    let (line, column) = span.as_ref().map_or((0, 0), |span| line_and_column(text, span.start));
    Problem { found, advice, span, line, column }
}

/// Both from 1; the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}
