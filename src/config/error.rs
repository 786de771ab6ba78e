//! What is wrong with a configuration, in words for the person who wrote it.
//!
//! Plain values: how they are drawn on a terminal is the business of the command line.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Why there is no [`Config`](super::Config). All of these are the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}; name a file that exists and that this user may read with `--config FILE`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error("`{}` is not UTF-8 text; TOML files are: save it in that encoding", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
    },
    /// The text, or something that it names, is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Every problem of one file, in the order of the file.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// The name of the file as it was given.
    pub name: String,
    /// Its text, with passwords blotted out by `*`.
    pub text: Arc<str>,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, or that deserves a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was found.
    pub found: String,
    /// What to write instead.
    pub advice: String,
    /// Bytes of the text that it is about; `None` when it is about something that the file leaves at its default.
    pub span: Option<Range<usize>>,
    /// Line of the first of them, from 1; 0 without a span.
    pub line: usize,
    /// Column of the first of them in characters, from 1; 0 without a span.
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found, self.advice)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            match problem.span {
                Some(_) => write!(f, "{}:{}:{}: {problem}", self.name, problem.line, problem.column)?,
                None if self.name.is_empty() => write!(f, "{problem}")?,
                None => write!(f, "{}: {problem}", self.name)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
