//! What a transaction would do, without doing it; and what it did, object by object.

use serde::{Deserialize, Serialize};

use super::{Actor, Committed, Directory, DirectoryError, Document, PolicyChange, Transaction};
use crate::access::Policy;

/// What kind of thing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A user.
    User,
    /// A role.
    Role,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectAction {
    /// It was not there before.
    Created,
    /// It was.
    Changed,
    /// It is not there any more.
    Deleted,
}

/// One user or role that a transaction touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChange {
    /// User or role.
    pub kind: ObjectKind,
    /// By name.
    pub name: String,
    /// What became of it.
    pub action: ObjectAction,
    /// Its version from then on; absent where it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A commit that was thought through to its end and not made.
#[derive(Clone)]
pub struct Preview {
    /// From the snapshot in force to the one that would be.
    pub change: PolicyChange,
    /// What would be touched, users first.
    pub changes: Vec<ObjectChange>,
    /// The number that the commit would have.
    pub history_version: u64,
}

impl Directory {
    /// What [`Directory::commit_with`] would answer now. Waits for nobody; the commit itself may come out differently when
    /// another one comes between.
    ///
    /// # Errors
    /// Those of the commit, but for what the store may say.
    pub fn preview<P>(&self, plan: P, actor: &Actor) -> Result<Preview, DirectoryError>
    where
        P: FnOnce(&Policy) -> Result<Transaction, DirectoryError>,
    {
        let state = self.state();
        let step = state.apply(plan(&state.policy)?, actor, self.now())?;
        let change =
            PolicyChange { old: state.policy.clone(), new: step.state.policy.clone(), affected: step.affected };
        Ok(Preview { change, changes: step.changes, history_version: step.state.history.last() })
    }

    /// Makes every change of the document, or none.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use portcullis::{clock::SystemClock, store::MemoryStore};
    /// use portcullis::directory::{Actor, Directory, Document};
    ///
    /// # let directory = Directory::open(Arc::new(MemoryStore::new()), Arc::new(SystemClock))?;
    /// let document: Document = toml::from_str("[[role]]\nname = \"line\"\n")?;
    /// let committed = directory.apply(document.clone(), &Actor::System)?;
    /// assert_eq!(committed.changes.len(), 1);
    /// assert!(!directory.apply(document, &Actor::System)?.changed, "it is so already");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Document::plan`] and [`Directory::commit`].
    pub fn apply(&self, document: Document, actor: &Actor) -> Result<Committed, DirectoryError> {
        self.commit_with(move |policy| document.plan(policy), actor)
    }
}
