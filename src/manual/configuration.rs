//! broker.toml, the limits that are not in it, and the files on disk.
//!
//! # Rules
//!
//! - Every key is optional. An empty file and no file mean the same: the defaults, which are safe.
//! - The file is `broker.toml` in the current directory, or the one that `--config FILE` names. Relative paths in it begin at its
//!   own directory.
//! - It is read at start only.
//! - `portcullis config check` reads it like a start would, files that it names included, and changes nothing.
//! - All mistakes are told at once, each with line, column and what to write instead. A key that is planned but not there yet
//!   is refused as "not available yet".
//!
//! ```text
//! $ portcullis --config bad.toml config check
//!   × unknown key `packet_sise` in [limits]
//!    ╭─[bad.toml:2:1]
//!  1 │ [limits]
//!  2 │ packet_sise = "2MiB"
//!    · ───────────
//!  3 │ [metrics]
//!    ╰────
//!   help: write `packet_size`
//! ```
//!
//! The same from a program:
//!
//! ```
//! use portcullis::config::Config;
//!
//! let error = Config::parse("[limits]\npacket_sise = \"2MiB\"\n", ".").unwrap_err();
//! assert!(error.to_string().contains("broker.toml:2:1"));
//! assert!(error.to_string().contains("write `packet_size`"));
//! ```
//!
//! # The file
//!
//! This is the shipped broker.toml, which documents each key with its unit, its range and its default:
//!
#![doc = concat!("```toml\n", include_str!("../../broker.toml"), "```")]
//!
//! # Limits that are not configured
//!
//! | limit | value |
//! |---|---|
//! | CONNECT packet | 256 KiB, or `limits.packet_size` if that is less |
//! | registration sessions at a time | 1,000 in all, 50 of one source address (/64 for IPv6); one more is told "server busy" (0x89, 3.1.1: 3) |
//! | packets of a registration session | 16 KiB, 16 subscriptions, 4 unfinished QoS 1 or 2 messages |
//! | QoS 1 and 2 messages under way to one client | its Receive Maximum, at most 1,024 |
//! | bytes encoded ahead of a connection's socket | 64 KiB and one packet |
//! | registry operations under way of one connection | 4; one more is answered with 429 |
//! | `register`, `whoami`, `ca` messages | 16 KiB; `context` 4 KiB; 32 roles and 32 permissions asked for; `id` 128 bytes |
//! | connections that are told one request's decision | 8, the latest ones |
//! | requests over HTTPS | [rest](super::rest) lists their bounds |
//! | denied requests | kept for 24 hours, at most 4 for each name |
//! | failed passwords of one source address | 20 at once, then one in 6 seconds |
//! | failed passwords for one user name, from sources that never proved to be that user | 10 at once, then one in 30 seconds; from each source 3 at once, then one an hour, when the others have used that up |
//! | failed passwords for one user name, from a source that proved to be that user | 10 at once, then one in 6 seconds |
//! | sources that are remembered to have proved to be a user | 262,144; over a restart the last one of each user |
//! | users whose verified password is remembered in memory | 200,000 |
//! | reason of a denial, comment of a grant | 1,024 bytes |
//! | a nonce of the registry | 5 minutes, once; 131,072 spent ones are remembered, with more no request with a nonce is taken |
//! | certificates of one user on record | 64; 4 may be issued at once, then one in each 180th part of `ca.validity` |
//! | a name open to a new key | 1 second to 7 days, default 24 hours; 10,000 names |
//! | an unlock of the registry | 1 second to 7 days |
//! | a username | 3 to 64 characters of `A-Z a-z 0-9 . _ : @ -`, not dots alone |
//! | a certificate of the registry | `ca.validity`, never past the CA's own end |
//! | time that connections have to take their last packets | 1 second at an ordinary end, 2 seconds in all at a shutdown |
//!
//! At start the limit of open files is raised as far as the system allows; each connection needs one.
//!
//! # Files on disk
//!
//! | file | what it is | mode |
//! |---|---|---|
//! | `data/store/` | users, roles, when users were last seen, registration requests, records of issued certificates (sled 0.34) | 0700, files 0600 |
//! | `data/admin.sock` | the Unix socket of the command line, while the broker runs | 0600 |
//! | `data/audit.key`, `data/audit.pub` | signs the heads of the [audit log](super::audit); its public half | 0600, 0644 |
//! | `data/initial-admin-password` | first password of `admin`, when the first start was not on a terminal; goes away when the password is changed | 0600 |
//! | `certs/ca.pem` | the CA: trust bundle for clients, issuer of their certificates | 0644 |
//! | `certs/ca.key` | its private key | 0600 |
//! | `certs/server.pem` | the broker's certificate | 0644 |
//! | `certs/server.key` | its private key | 0600 |
//! | `certs/server.pem.managed` | fingerprint of a server certificate that the broker made, and so may renew; absent for one of your own | 0644 |
//!
//! With `store.durability = "memory"` there is no `data/store`: users, roles and requests are gone at the end.
//! Nothing else is written. Sessions, queued and retained messages are in memory only.
