//! Running the broker: command line, log, backups, signals.
//!
//! # The command line
//!
//! The same binary is server and command line. It reaches the running broker through the Unix socket in the data directory, which
//! it finds by the configuration (`--config FILE`, else `broker.toml` in the current directory, else `./data`), or by `--socket PATH`. Whoever may open the
//! socket (mode 0600: the user who runs the broker, and root) may do everything; the log names them `local:<uid>`. What it does is done through the [REST API](super::rest), which any other program can use too.
//!
//! **A broker elsewhere** is reached over HTTPS, as one of its users and with that user's rights:
//!
//! ```text
//! $ portcullis --url https://broker.example:8443 --ca ca.pem --user ada --password-file ada.password user list
//! $ portcullis --url https://broker.example:8443 --ca ca.pem --cert ops.pem --key ops.key registry watch
//! ```
//!
//! | command | |
//! |---|---|
//! | `serve` | runs the broker; the default |
//! | `config check` | what a configuration means, or what is wrong with it |
//! | `user add\|list\|show\|edit\|passwd\|enable\|disable\|delete` | users |
//! | `user revoke NAME SERIAL` or `--all`, `[--reason REASON] [--comment TEXT]` | takes one certificate of a user out of force, or all, and ends the sessions that stand on it |
//! | `ca show`, `ca crl [--out FILE]`, `ca revoke ISSUER` | the authority, its revocation list, an issuer that is revoked: see [certificates](super::certificates) |
//! | `user passwd NAME --offline` | sets a password in the store while no broker runs |
//! | `role add\|list\|show\|edit\|delete` | roles |
//! | `registry list\|show\|grant\|deny\|lock\|unlock\|status\|watch`, `registry token create\|list\|show\|revoke` | enrolment: see [registry](super::registry) |
//! | `audit verify\|tail\|export\|head` | who did what, and what was refused: see [audit](super::audit) |
//! | `explain USER publish\|subscribe\|receive TOPIC`, `explain USER http METHOD PATH` | may it, and which rule says so; `--with FILE`: what if: see [access](super::access) |
//! | `who-can publish\|receive TOPIC` | who may, and which rules say so |
//! | `apply FILE [--dry-run]` | all changes of a file, or none |
//! | `import --passwords FILE --acls FILE`, `import --dynamic-security FILE`, `[--dry-run]` | users and rights of mosquitto: see [moving](super::moving) |
//! | `history`, `rollback VERSION [--dry-run]` | what was changed, and back |
//!
//! Every command has `--help` and `--json`. Colours are off when output is not a terminal or `NO_COLOR` is set.
//!
//! `user edit` and `role edit` change what is named and leave the rest. Permissions are taken away by the numbers that `show` gives them,
//! all counted before the change:
//!
//! ```text
//! $ portcullis user edit pump-7 --role observer --drop-role line --no-expires
//! $ portcullis role edit line --permission '{"context":"mqtt","operation":"read","resource":"plant/alerts/#"}' --drop-permission 2
//! ```
//!
//! A user with `auth = "certificate"` gets a password in two steps: `user edit NAME --auth either`, then `user passwd NAME`.
//!
//! | exit code | |
//! |---|---|
//! | 0 | done; `explain`: yes; `audit verify`: whole |
//! | 1 | refused or failed; `explain`: no; `audit verify`: not whole |
//! | 2 | wrong usage |
//! | 3 | no broker is reached |
//!
//! # Users and roles in broker.toml
//!
//! `[[role]]` and `[[user]]` are brought into the store at each start, belong to the file (`managed_by` is `config`), are read-only elsewhere
//! (409), and are deleted when they are no longer in the file. A name that the API or the registry owns already makes
//! the start fail, with the name. Passwords stand there as `password_hash` (argon2id, PHC) or in a file of mode 0600 that `password_file` names, never as text.
//!
//! # The log
//!
//! Records go to standard error, the few lines of a start to standard output. `log.level` and `log.format` choose; the libraries below
//! speak at `warn` and `error` only. At `info`: refused logins and connections with their cause, changes of users and roles with who made
//! them, everything that the registry decides, start and stop. At `debug`: each refused PUBLISH, SUBSCRIBE and Will, and each subscription that a change withholds. No record
//! holds a password or a key.
//!
//! # Signals
//!
//! | signal | |
//! |---|---|
//! | SIGTERM, SIGINT | clean end: no new connections, DISCONNECT 0x8B to MQTT 5 clients, two seconds at most; exit code 0 |
//! | SIGKILL | what was answered about users, roles and requests is on disk with `store.durability = "sync"` |
//!
//! # Backup and restore
//!
//! 1. Stop the broker.
//! 2. Copy the data directory and `certs/`, with modes. Keep the copy like a password: it holds `ca.key`.
//! 3. Start the broker.
//!
//! To restore, put both back while the broker is stopped. `data/` without the `certs/` that belong to it leaves devices with
//! certificates of an authority that is gone; `certs/` without `data/` leaves certificates that are on record nowhere: they are refused.
//!
//! An upgrade keeps the data directory. A store that a newer version wrote is refused by an older one, with both versions named, and left alone.
//!
//! # Certificates of your own
//!
//! Put them where `[tls]` and `[ca]` say before the first start. The broker only reads them. A certificate without its key, or with
//! one that does not fit, is refused. The server certificate may be followed by its intermediates, and so may the CA's. See `certs/README.md`.
