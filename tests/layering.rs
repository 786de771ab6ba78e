//! Keeps the layers of the crate apart: it reads every `use crate::` and the words that a pure module may not say.
//!
//! Dependencies point one way, from the table below downwards; pure modules take time, randomness, storage and
//! sockets as parameters; three libraries may be named in one place each.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module with its layer: it may use modules of lower layers, and its own.
const LAYERS: &[(&str, u8)] = &[
    ("clock", 0),
    ("files", 0),
    ("mqtt", 0),
    ("priority", 0),
    ("metrics", 2),
    ("access", 1),
    ("pki", 2),
    ("audit", 3),
    ("authn", 3),
    ("session", 3),
    ("store", 2),
    ("journal", 3),
    ("config", 3),
    ("directory", 4),
    ("authority", 5),
    ("import", 5),
    ("crl", 5),
    ("device", 4),
    ("registry", 5),
    ("router", 5),
    ("net", 6),
    ("admin", 6),
    ("broker", 7),
    ("cli", 8),
    ("main", 9),
    ("manual", 10),
    ("lib", 10),
];

/// Modules without I/O, clocks and randomness, and the files in them that are exempt.
const PURE: &[(&str, &[&str])] = &[
    ("mqtt", &[]),
    ("session", &[]),
    ("access", &[]),
    (
        "pki",
        &[
            "pki/signer.rs",
            "pki/signer/encryption.rs",
            "pki/signer/error.rs",
            "pki/signer/keys.rs",
            "pki/signer/proof.rs",
            "pki/signer/rotation.rs",
            "pki/signer/server.rs",
        ],
    ),
    (
        "registry",
        &[
            "registry/jobs.rs",
            "registry/service.rs",
            "registry/commit.rs",
            "registry/grant.rs",
            "registry/knock.rs",
            "registry/renewal.rs",
            "registry/ruled.rs",
            "registry/tokens.rs",
        ],
    ),
    ("import", &[]),
    ("audit", &["audit/chain.rs", "audit/key.rs", "audit/keeper.rs"]),
    ("clock", &["clock.rs"]),
];

const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix",
    "std::fs",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "getrandom",
    "rand::",
    "now_v7",
    "new_v4",
    "std::thread",
];

/// Words that only the named places may say (a place is a file or a folder).
const RESERVED: &[(&str, &[&str])] = &[
    ("sled::", &["store/sled.rs"]),
    (
        "rustls::",
        &[
            "net/tls.rs",
            "authn/certificate.rs",
            "pki/signer.rs",
            "pki/signer/proof.rs",
            "authn/anchors.rs",
            "device/tls.rs",
            "cli/elsewhere.rs",
        ],
    ),
    ("axum", &["admin"]),
    ("miette", &["cli", "main.rs"]),
];

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("entry").path();
        let is_test = path.to_string_lossy().ends_with("_tests.rs");
        if path.is_dir() {
            source_files(&path, found);
        } else if !is_test && path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The file without comments, and without the test module at its end.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("source is UTF-8");
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    production.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn module_of(relative: &str) -> &str {
    relative.split(['/', '.']).next().unwrap_or_default()
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The modules named in `crate::X` and `crate::{X, Y::Z}`.
fn crate_uses(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut word = String::new();
            let mut at_start = true;
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.insert(std::mem::take(&mut word));
                        at_start = true;
                    }
                    c if depth == 0 && at_start && (c.is_alphanumeric() || c == '_') => word.push(c),
                    ':' if depth == 0 => at_start = false,
                    _ => {}
                }
            }
            found.insert(word);
        } else {
            found.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.retain(|word| layer_of(word).is_some());
    found
}

/// Files that exist under `cfg(test)` only.
fn is_test_code(file: &str) -> bool {
    file.split('/').any(|part| part.trim_end_matches(".rs").ends_with("tests"))
        || ["/testing.rs", "/faulty.rs", "/conformance.rs", "/reference.rs", "/attacks.rs"]
            .iter()
            .any(|end| file.ends_with(end))
}

fn every_file() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&root, &mut files);
    assert!(files.len() > 5, "the sources were not found");
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
            (relative, code_of(&path))
        })
        .filter(|(file, _)| !is_test_code(file))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let mut broken = Vec::new();
    for (file, code) in every_file() {
        if file.starts_with("manual") {
            continue;
        }
        let module = module_of(&file).to_owned();
        let Some(layer) = layer_of(&module) else {
            broken.push(format!("{file}: module `{module}` has no layer: add it to LAYERS"));
            continue;
        };
        for used in crate_uses(&code) {
            if used != module && layer_of(&used).is_some_and(|below| below >= layer) {
                broken.push(format!("{file} uses crate::{used}, which is not below {module}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn pure_modules_name_no_input_or_output() {
    let mut broken = Vec::new();
    for (file, code) in every_file() {
        let pure = PURE.iter().any(|(module, exempt)| module_of(&file) == *module && !exempt.contains(&file.as_str()));
        if pure {
            for word in IMPURE_WORDS.iter().filter(|word| code.contains(**word)) {
                broken.push(format!("{file} is pure, but says `{word}`"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn libraries_stay_in_their_rooms() {
    let mut broken = Vec::new();
    for (file, code) in every_file() {
        for (word, places) in RESERVED {
            let allowed = places.iter().any(|place| file == *place || file.starts_with(&format!("{place}/")));
            // `self::sled::` is a module of ours.
            let named = code.match_indices(word).any(|(at, _)| !code[..at].ends_with("self::"));
            if !allowed && named {
                broken.push(format!("{file} says `{word}`, which is for {places:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Files that decide by a secret that a client sends, and how often they compare one.
const SECRETS: &[(&str, usize)] =
    &[("authn/phc.rs", 1), ("authn/proofs.rs", 1), ("registry/core/examine.rs", 1), ("registry/nonce.rs", 1)];

/// What a secret is called in them.
const SECRET_WORDS: &[&str] = &["password", "secret", "tag", "output", "computed", "digest", "proof"];

/// The time that a comparison takes must not tell how much of a guess was right: such files compare by `ct_eq`, and no
/// secret with `==`.
#[test]
fn secrets_are_compared_in_constant_time() {
    let mut broken = Vec::new();
    let files = every_file();
    for (name, times) in SECRETS {
        let (_, code) = files.iter().find(|(file, _)| file == name).expect("the file is there");
        if code.matches(".ct_eq(").count() != *times {
            broken.push(format!("{name} is to compare {times} secrets with ct_eq"));
        }
        for line in code.lines().filter(|line| line.contains("==") || line.contains("!=")) {
            let said = |word: &&&str| line.split(|c: char| !c.is_alphanumeric()).any(|piece| piece == **word);
            if let Some(word) = SECRET_WORDS.iter().find(said) {
                broken.push(format!("{name} compares `{word}`: {}", line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_reader_of_uses_sees_groups_and_paths() {
    let code = "use crate::{access::{Policy, Role}, mqtt::QoS};\nlet x = crate::clock::SystemClock;";
    let found: Vec<_> = crate_uses(code).into_iter().collect();
    assert_eq!(found, ["access", "clock", "mqtt"]);
}
