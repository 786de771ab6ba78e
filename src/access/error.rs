//! Why a set of users and roles is refused as a policy. Every message says what to write instead.

use super::{RoleName, UserId, Username};

/// Why a change makes no policy. The change is then not made at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A permission that cannot be compiled.
    #[error("{holder}: permission {number} (`{resource}`): {fault}")]
    Rule {
        /// Whose permission it is.
        holder: RuleHolder,
        /// Its place in the list, from 1.
        number: usize,
        /// Its resource.
        resource: String,
        /// What is wrong with it.
        fault: RuleError,
    },
    /// More permissions than one role or user may hold.
    #[error("{holder} has {count} permissions; at most {max} are admitted")]
    TooManyRules {
        /// Who has them.
        holder: RuleHolder,
        /// How many.
        count: usize,
        /// How many are admitted.
        max: usize,
    },
    /// The resources of one role or user are too long together.
    #[error("the resources of {holder} have more than {max} bytes together")]
    TooManyBytes {
        /// Who has them.
        holder: RuleHolder,
        /// How many bytes are admitted.
        max: usize,
    },
    /// More roles than one user may hold.
    #[error("user `{user}` has {count} roles; at most {max} are admitted")]
    TooManyRoles {
        /// Who has them.
        user: Username,
        /// How many.
        count: usize,
        /// How many are admitted.
        max: usize,
    },
    /// A user holds a role that does not exist, or that the same change deletes.
    #[error("user `{user}` holds the role `{role}`, which does not exist: create it first or take it from the user")]
    RoleUnknown {
        /// The user.
        user: Username,
        /// The role.
        role: RoleName,
    },
    /// A role is to be deleted that somebody holds after the change.
    #[error("role `{role}` is held by user `{user}`: take it from its users before deleting it")]
    RoleInUse {
        /// The role.
        role: RoleName,
        /// One of those who hold it.
        user: Username,
    },
    /// `admin` and `observer` belong to the broker.
    #[error("role `{0}` is built in and cannot be created, changed or deleted: choose another name")]
    RoleBuiltIn(RoleName),
    /// The name belongs to another user.
    #[error("the username `{0}` is taken: choose another one")]
    UsernameTaken(Username),
    /// A public key is one identity's alone.
    #[error("user `{0}`: the public key of a certificate belongs to another user: make a new key")]
    KeyInUse(Username),
    /// One change names the same role or user twice, or under a key that is not its own.
    #[error("the change names {0} twice, or under a name that is not its own")]
    Inconsistent(RuleHolder),
    /// The publish prefix is no prefix of topics.
    #[error("user `{user}`: publish prefix `{prefix}`: {fault}")]
    PublishPrefix {
        /// The user.
        user: Username,
        /// The prefix.
        prefix: String,
        /// What is wrong with it.
        fault: PrefixError,
    },
    /// The `client_id` pattern cannot be read.
    #[error("user `{user}`: client_id `{pattern}`: {fault}")]
    ClientIdPattern {
        /// The user.
        user: Username,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        fault: ClientIdPatternError,
    },
    /// An allow rule with `${client_id}` reaches a user who may choose the client identifier of somebody else.
    #[error(
        "user `{user}` would get the allow rule `{resource}`{}, but may choose its client identifier freely: set its client_id to \
         `${{username}}`, or to `${{username}}` followed by a character that no username holds, as in `${{username}}~*`, \
         or write `${{username}}` in the rule",
        in_role(role.as_ref())
    )]
    ClientIdNotTied {
        /// The user.
        user: Username,
        /// The role that brings the rule; `None`: the user's own.
        role: Option<RoleName>,
        /// The resource of the rule.
        resource: String,
    },
}

impl PolicyError {
    /// Does the change contradict what is there already (HTTP 409), rather than being wrong in itself (422)?
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::RoleInUse { .. } | Self::RoleBuiltIn(_) | Self::UsernameTaken(_) | Self::KeyInUse(_))
    }
}

fn in_role(role: Option<&RoleName>) -> String {
    role.map_or_else(String::new, |role| format!(" of role `{role}`"))
}

/// Who holds a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleHolder {
    /// A role.
    Role(RoleName),
    /// A user, by its own permissions.
    User(Username),
    /// A user that is not there.
    Unknown(UserId),
}

impl std::fmt::Display for RuleHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role `{name}`"),
            Self::User(name) => write!(f, "user `{name}`"),
            Self::Unknown(id) => write!(f, "user {id}"),
        }
    }
}

/// What is wrong with a permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// No characters at all.
    #[error("the resource is empty; `#` stands for every topic that does not begin with `$`")]
    Empty,
    /// Too many bytes.
    #[error("the resource has {0} bytes; at most 4,096 are admitted")]
    TooLong(usize),
    /// Too many levels.
    #[error("the resource has {0} levels; at most 128 are admitted")]
    TooDeep(usize),
    /// Holds U+0000.
    #[error("the resource holds the character NUL, which no topic can hold")]
    Nul,
    /// `+` or `#` beside other characters, or `#` before the last level.
    #[error("`+` must be a whole level and `#` the whole last level, as in `a/+/c` or `a/#`")]
    Wildcard,
    /// A placeholder beside other characters.
    #[error("a placeholder must be a whole level: write `a/${{username}}`, not `a-${{username}}`")]
    PlaceholderInside,
    /// A placeholder that does not exist.
    #[error("there is no placeholder `{0}`; `${{username}}` and, in topics, `${{client_id}}` are admitted")]
    UnknownPlaceholder(String),
    /// `$share` without group or filter.
    #[error("a rule on shared subscriptions is `$share/GROUP/FILTER`, or `$share/#` for all of them")]
    Share,
    /// A `$share` rule that is only about writing.
    #[error("joining a shared subscription is `read`; nothing can be published to `$share/...`")]
    ShareWrite,
    /// A path that does not begin with `/`.
    #[error("a resource of the context `http` begins with `/`, as in `/api/#`")]
    NotAPath,
    /// A path with a segment that no request can have.
    #[error("a path may not have an empty segment, `.` or `..`")]
    Segment,
    /// Conditions make a grant narrower; a denial has none.
    #[error("`{0}` is a condition of allow rules: leave it out of a deny rule")]
    ConditionOnDeny(&'static str),
    /// Conditions of messages on a path.
    #[error("`{0}` is about messages: leave it out of a rule of the context `http`")]
    ConditionOnPath(&'static str),
    /// No such QoS.
    #[error("max_qos is {0}; 0, 1 and 2 exist")]
    MaxQos(u8),
}

/// What is wrong with a publish prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Does not end in `/`.
    #[error("must end in `/`, as in `plant/line-3/`")]
    NoSlash,
    /// Begins with `$`.
    #[error("may not begin with `$`: those topics belong to the broker")]
    Reserved,
    /// `+`, `#` or NUL.
    #[error("may not hold `+`, `#` or NUL: it becomes a part of topic names")]
    Character,
    /// `${`.
    #[error("placeholders are not resolved in a prefix: write the name itself")]
    Placeholder,
    /// Over 4,096 bytes or 128 levels.
    #[error("at most 4,096 bytes and 128 levels are admitted")]
    TooLong,
}

/// What is wrong with a `client_id` pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientIdPatternError {
    /// No characters at all.
    #[error("is empty and would admit nobody: leave it out, or write `*` for any client identifier")]
    Empty,
    /// Over 1,024 bytes.
    #[error("has {0} bytes; at most 1,024 are admitted")]
    TooLong(usize),
    /// Holds U+0000.
    #[error("holds the character NUL, which no client identifier can hold")]
    Nul,
    /// A placeholder that does not exist.
    #[error("there is no placeholder `{0}`; only `${{username}}` is admitted")]
    UnknownPlaceholder(String),
}
