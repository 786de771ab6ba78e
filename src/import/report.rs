//! What became of each line: for people, and as JSON.

use serde::Serialize;

use super::Source;

/// As much of a line as is repeated, in characters.
const SHOWN: usize = 120;

/// Everything that was in the sources, in their order, and where the two brokers differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What there was.
    pub entries: Vec<Entry>,
    /// What is different for everybody.
    pub notes: Vec<String>,
}

/// One line of a file, or one thing in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What stands there: no secret, shortened.
    pub source: String,
    /// What became of it.
    pub outcome: Outcome,
    /// As what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why it is not the same, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// In which file.
    pub file: Source,
    /// On which line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It means the same here.
    Same,
    /// It allows less here, or denies more.
    Narrower,
    /// It belongs into broker.toml.
    Configuration,
    /// It is not taken over.
    LeftOut,
}

impl Report {
    pub(super) fn add(
        &mut self,
        place: Place,
        source: impl AsRef<str>,
        outcome: Outcome,
        target: Option<String>,
        note: Option<String>,
    ) {
        let source = source.as_ref();
        let mut shown: String = source.chars().take(SHOWN).collect();
        if shown.len() < source.len() {
            shown.push('…');
        }
        self.entries.push(Entry { place, source: shown, outcome, target, note });
    }

    pub(super) fn left_out(&mut self, place: Place, source: impl AsRef<str>, why: impl Into<String>) {
        self.add(place, source, Outcome::LeftOut, None, Some(why.into()));
    }

    /// How many had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == outcome).count()
    }
}

impl Place {
    pub(super) fn line(file: Source, line: usize) -> Self {
        Self { file, line: Some(line) }
    }

    pub(super) fn json() -> Self {
        Self { file: Source::DynamicSecurity, line: None }
    }
}
