//! Why a source cannot be taken over at all: the operator's to repair, told with its place.

use std::fmt;

use serde::Serialize;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `password_file`
    Passwords,
    /// `acl_file`
    Acls,
    /// The file of the dynamic security plugin.
    DynamicSecurity,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passwords => "password file",
            Self::Acls => "ACL file",
            Self::DynamicSecurity => "dynamic security file",
        })
    }
}

/// Nothing is made of the sources. It repeats no line, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_file}{}: {what}", at(*place))]
pub struct ImportError {
    source_file: Source,
    place: Option<(usize, usize)>,
    what: String,
}

fn at(place: Option<(usize, usize)>) -> String {
    place.map_or_else(String::new, |(line, column)| format!(", line {line}, column {column}"))
}

impl ImportError {
    pub(super) fn at(source: Source, place: Option<(usize, usize)>, what: impl Into<String>) -> Self {
        Self { source_file: source, place, what: what.into() }
    }

    /// Which file.
    pub fn source_file(&self) -> Source {
        self.source_file
    }

    /// Line and column (in characters), from 1.
    pub fn place(&self) -> Option<(usize, usize)> {
        self.place
    }
}
