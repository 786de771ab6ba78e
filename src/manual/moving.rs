//! Moving in from mosquitto: users with their passwords, rules, the dynamic security plugin.
//!
//! ```text
//! $ portcullis import --passwords /etc/mosquitto/passwd --acls /etc/mosquitto/acl --dry-run
//! $ portcullis import --passwords /etc/mosquitto/passwd --acls /etc/mosquitto/acl
//! $ portcullis import --dynamic-security /var/lib/mosquitto/dynamic-security.json --dry-run
//! ```
//!
//! All that is taken over is one [set of changes](super::access#sets-of-changes): made whole or not at all. A user or role that is there
//! already is in the way: each of them is named, and nothing is done. `--write FILE` writes the set down instead (mode 0600, it holds
//! password hashes), to be edited and given to `portcullis apply`; no broker is asked for that.
//!
//! `--dry-run` changes nothing and says of every line and every ACL what becomes of it, then what would be made:
//!
//! | word | |
//! |---|---|
//! | `same` | it means the same here |
//! | `narrower` | it allows less here, or denies more; why is said |
//! | `config` | it belongs into broker.toml; the text for it comes last |
//! | `left out` | it is not taken over; why, and what to do, is said |
//!
//! **Nobody gets a right that they did not have.** An allow without an exact counterpart becomes a narrower one or none, a deny without one
//! becomes a wider one. No name is changed: a user whose name is not 3 to 64 characters of `[A-Za-z0-9._:@-]`, or is reserved
//! (`admin`, `observer`, `system`, `local`), is named and left out.
//!
//! # Passwords
//!
//! | in the file | here |
//! |---|---|
//! | `$7$iterations$salt$hash` (PBKDF2-HMAC-SHA512, the default of `mosquitto_passwd`), and password, salt and iterations of dynamic security | stays, and becomes argon2id at the next login: see [security](super::security#passwords-of-another-broker) |
//! | `$argon2id$...` | stays |
//! | `$6$salt$hash` (one round of SHA-512) | left out: a stolen disk would give the password away |
//! | text | left out, as mosquitto does: run `mosquitto_passwd -U` on a copy of the file first |
//!
//! Users without a password (in the ACL file alone, or clients of dynamic security that log in with a certificate) are left out, or, with
//! `--certificates`, get `auth = "certificate"`: they log in once a certificate is on their record.
//!
//! # The ACL file
//!
//! | line | here |
//! |---|---|
//! | `topic [read\|write\|readwrite] FILTER` after `user NAME` | a rule of that user |
//! | `topic deny FILTER` | a deny of both |
//! | `topic` before the first `user` | of the user `anonymous`, for broker.toml: with `auth = "none"`, and named by the listener |
//! | `pattern ...` | a rule of the role `mosquitto-patterns`, which every imported user gets |
//! | `%u` as a whole level | `${username}` |
//! | `%c` as a whole level of an allow | left out: clients choose their identifier, so anybody could be anybody. `--client-id-is-username` takes it over as `${client_id}` and makes the users' client identifiers their names |
//! | `%u`, `%c` inside a level | an allow is left out, a deny gets `+` for that level |
//! | `write` on `$...`, and `read` on `$...` other than `$SYS/...` | left out: those topics are the broker's own |
//!
//! - mosquitto grants every SUBSCRIBE and withholds what may not be read. Here a filter that no rule covers is refused; with
//!   `access.partial_subscription = "filter"` it is granted for the part that may be read.
//! - A deny wins everywhere. In mosquitto what a user's own `topic` lines allow beats a `pattern deny`.
//! - mosquitto without an ACL file lets everybody do everything; here nobody may do anything without a rule.
//!
//! # Dynamic security
//!
//! | there | here |
//! |---|---|
//! | client | user; `disabled` and `clientid` too |
//! | role | role of the same name; `admin`, `observer` (the broker's own) and names that are not admitted are left out, but what they deny is denied to each of their clients |
//! | group | its roles, held by each of its clients |
//! | `anonymousGroup` | the user `anonymous`, for broker.toml |
//! | `publishClientSend` | `write` |
//! | `subscribePattern`, and `subscribeLiteral` without wildcards | `read`, on what `publishClientReceive` (of the same role, or by default) allows of it |
//! | `subscribeLiteral` with wildcards | an allow is left out, for `read` would admit narrower filters too; a deny denies all topics of it |
//! | deny on `subscribe...` | a deny of `read`: the topics are withheld from wider filters as well, which mosquitto does not do |
//! | `publishClientReceive` deny | a deny of `read` |
//! | `unsubscribe...` | nothing: UNSUBSCRIBE is never refused |
//! | `defaultACLAccess` that allows | the role `mosquitto-defaults`, with `#` |
//! | priorities | nothing: a deny wins over every allow |
//! | `%u`, `%c` | an allow is left out, a deny gets `+`: mosquitto 2.0 takes them for themselves, later versions for names |
//! | `$share/...` | an allow is left out; a deny stays |
//!
//! Keep `access.partial_subscription` at `"refuse"`, its default: mosquitto with this plugin refuses filters that no ACL admits.
//!
//! # Limits
//!
//! A file may have 16 MiB, the whole set of changes 32 MiB (about 100,000 users). A file that mosquitto would not load, or that names something
//! twice, is refused with line and column. Bridges, listeners, plugins, retained messages and sessions are not taken over.
//! The way back is `portcullis history` and `rollback`, as after every other change.
