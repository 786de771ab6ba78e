//! The audit log: what is in it, how it is verified, how long it is kept.
//!
//! # What is in it
//!
//! Every change of users and roles with who made it, from where, and the version before and after; what the registry was asked and
//! decided, each certificate that the CA was about to sign, issued, or that was revoked, each time the registry was opened (and whether for a plain CONNECT, too) and shut; logins that failed, and what the rules
//! refused, with the rule that decided; starts and stops of the broker. A change and its record are one batch of the store: there
//! is never one without the other, whatever fails.
//!
//! Refusals of one user, action and topic pattern (the first two levels) become one record with a count in each
//! `audit.interval`; so do failed logins, claims with a bad token, and registrations and renewals that were refused (`registrations_refused`), of one source with one cause. At most 256 of each kind are told apart in an interval;
//! what is beyond that is one record with the numbers, and counted in `portcullis_audit_dropped_total`. What an interval has
//! collected is lost when the broker is killed; changes never are.
//!
//! From where: the Unix socket, or the address and the listener, and for what an operator has [decided over MQTT](super::registry#deciding-over-mqtt) the ClientId.
//!
//! Comments of decisions and of claim tokens are in it as they were written, so write no secret into one; a claim token is named by its
//! id, and what a device got by it is on record as done by its author, with the token as the place.
//!
//! What is **not** in it: passwords, hashes, keys, nonces, pairing codes, the secrets of claim tokens; descriptions, and reasons of denials and
//! revocations, which are free text; payloads; the user name of a failed login or registration that names nobody, for it may be a password in the wrong field. Rights that
//! end by themselves (`not_after`, `expires_at`) make no record when they do: the record that gave them says when.
//!
//! # Reading it
//!
//! | command | REST | |
//! |---|---|---|
//! | `audit tail [-n COUNT] [--follow]` | `GET /api/audit?last=N`, `GET /api/audit/events` | the newest records, and what comes |
//! | `audit export [--after N]` | `GET /api/audit?after=N&limit=N` | each record a line of JSON |
//! | `audit verify [--head HEX]` | `POST /api/audit/verify` | is it as it was written? |
//! | `audit head` | `GET /api/audit/head` | the end, and its signature |
//!
//! `tail`, `export` and `verify` take `--offline`, and then read the store while no broker runs. A line of an export:
//!
//! ```json
//! {"hash":"5d0b...","record":{"sequence":7,"time":"2030-01-01T00:00:00Z","who":{"as":"local","uid":1000},"place":{"at":"machine"},
//!  "event":{"kind":"user_changed","user":{"id":"...","username":"pump-7"},"old":1,"new":2,"change":{"fields":["enabled"],"enabled":false}}}}
//! ```
//!
//! # The chain
//!
//! `hash` is SHA-256 over the 32 bytes of the hash of the record before (zeros before the first) and the bytes of `record` as they
//! stand there. So an edit, a record that was dropped, and two that changed places do not fit, and `verify` names the first
//! that does not. Every hour and when the broker stops, the last record is signed (Ed25519, `audit.key` in the data directory,
//! mode 0600); the signed head is kept in the store, and written to the broker's own log as `head of the audit log`. The
//! signature is over the text `portcullis-audit-head-v1 SEQUENCE HASH TIME`; `audit.pub` checks it.
//!
//! Whoever can write to the data directory can read the key, cut off the end and sign what is left. Against that one helps only
//! a head that was noted elsewhere: ship the log to another machine, and give one of its hashes to `audit verify --head`. It must be one
//! of the chain, or the log was written anew.
//!
//! A start never repairs: if the end is not where it was left, the log goes on behind the hole, and `verify` finds it.
//! Keep `audit.key` with the backups of the store: heads that another key signed do not verify.
//!
//! # How long it is kept
//!
//! Records go when they are older than `audit.keep`; the oldest tenth goes when there are more than `audit.max_records` or
//! `audit.max_bytes`. A record says so before it happens; the hash of the last record that went is signed, and the chain
//! verifies from there. A log that does not fit is not pruned: it is evidence.
