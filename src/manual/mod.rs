//! The manual.
//!
//! What the broker does, how to set it up, and what it answers. Everything here is there; what is missing is said where one
//! would look for it, and listed in the README.
//!
//! | chapter | for |
//! |---|---|
//! | [`start`] | the first minutes: start, first device, first user |
//! | [`configuration`] | broker.toml in full, fixed limits, files on disk |
//! | [`access`] | users, roles, permissions; what a refused client sees |
//! | [`registry`] | how a device becomes a user; messages, states, certificates |
//! | [`moving`] | users and rights of mosquitto: what maps to what |
//! | [`certificates`] | the authority, revoking, the revocation list |
//! | [`mqtt`] | what of MQTT 3.1.1 and 5.0 is supported, and where the broker decides for itself |
//! | [`operating`] | command line, log, backups, signals, exit codes |
//! | [`rest`] | the REST API over HTTPS and the Unix socket: who gets in, routes, refusals, enrolment over HTTPS |
//! | [`audit`] | the audit log: what is in it, verifying, retention |
//! | [`metrics`] | every series and what to watch |
//! | [`security`] | threats, what stands against each, and the test that says so |
//! | [`embedding`] | the broker in a program of yours |
//! | [`troubleshooting`] | by the message that you see |

pub mod access;
pub mod audit;
pub mod certificates;
pub mod configuration;
pub mod embedding;
pub mod metrics;
pub mod moving;
pub mod mqtt;
pub mod operating;
pub mod registry;
pub mod rest;
pub mod security;
pub mod start;
pub mod troubleshooting;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    fn read_all(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }

    /// The last column of the tables of `security` names them in backticks.
    #[test]
    fn the_tests_that_the_threat_model_names_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        read_all(&root.join("src"), &mut code);
        read_all(&root.join("tests"), &mut code);
        let rows = include_str!("security.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        let mut named = 0;
        for row in rows {
            let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            for test in tests.split('`').skip(1).step_by(2) {
                named += 1;
                assert!(code.contains(&format!("fn {test}(")), "there is no test `{test}`");
            }
        }
        assert!(named > 50, "{named}");
    }

    #[test]
    fn every_series_is_in_the_manual() {
        let manual = include_str!("metrics.rs");
        let text = crate::metrics::Metrics::new().encode();
        for series in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = series.split(' ').next().unwrap_or_default();
            assert!(manual.contains(name), "`{name}` is missing");
        }
    }
}
