//! The first minutes.
//!
//! The README leads through a whole enrolment with `openssl` and the mosquitto clients, command by command. This page says what
//! happens behind those commands.
//!
//! # The first start
//!
//! `cargo run --release`, or `portcullis` where it is installed, reads `broker.toml` in the current directory (or the file that
//! `--config` names; without any file all defaults hold) and then, in this order:
//!
//! 1. reads and checks the whole configuration; one mistake, and nothing is started;
//! 2. makes the data directory (mode 0700) and opens the store in it, which keeps a second broker out;
//! 3. loads the certificate authority, or makes one: P-256, ten years, `certs/ca.pem` and `certs/ca.key` (0600);
//! 4. loads the server certificate, or makes one for `localhost`, the host name and the addresses of this machine: one year,
//!    renewed at a start when two thirds of that are over or when a name is missing;
//! 5. binds every listener, the metrics endpoint and the admin socket;
//! 6. brings the users and roles of broker.toml into the store;
//! 7. draws a password for `admin`, when nobody can administer the broker yet;
//! 8. accepts connections, and says where.
//!
//! A later start finds all of it and says nothing secret.
//!
//! # The two listeners
//!
//! | name | address | who gets in |
//! |---|---|---|
//! | `mqtts` | `0.0.0.0:8883`, TLS | a certificate of the broker's CA, or a password; without either, a registration session that can do nothing but enrol |
//! | `local` | `127.0.0.1:1883`, plaintext | a password |
//!
//! # The password of `admin`
//!
//! `admin` holds the built-in role `admin`. The command line does not ask for it: it uses the Unix socket in the data directory.
//! The password is for an MQTT client that logs in as `admin`, which may then publish to and read every topic. On a terminal
//! it is shown once. Otherwise it stands in `initial-admin-password` in the data directory (mode 0600), until it is changed:
//!
//! ```text
//! portcullis user passwd admin
//! ```
//!
//! `admin.admin_password_file` in broker.toml gives the first password instead; once there is an administrator that key has no effect.
//!
//! # The first user
//!
//! A user with a password, and a rule of its own:
//!
//! ```text
//! $ portcullis user add ada --permission '{"context":"mqtt","operation":"read","resource":"plant/#"}'
//! Password for ada:
//! Again:
//! added the user ada
//! ```
//!
//! With `--password-stdin` the password is read from one line of standard input. It is never an argument: other users of the
//! machine can read those.
