//! The messages of the configuration, each as a snapshot: a message is an interface. And the proof that the shipped
//! broker.toml says what is true.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::pki::Naming;

const SHIPPED: &str = include_str!("../../broker.toml");
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$8PLL1fgUE8Gh8sQxiU0Zxw";

/// The messages of one text, the directory of the test left out.
fn messages(text: &str, base: &Path) -> String {
    let shown = match Config::parse(text, base) {
        Ok(config) if config.source.warnings().is_empty() => "accepted".to_owned(),
        Ok(config) => {
            let lines = config.source.warnings().iter().map(|w| format!("warning: {}:{}: {w}", w.line, w.column));
            lines.collect::<Vec<_>>().join("\n")
        }
        Err(error) => error.to_string(),
    };
    shown.replace(&base.display().to_string(), "BASE")
}

fn report(cases: &[&str], base: &Path) -> String {
    let mut all = String::new();
    for case in cases {
        writeln!(all, "{case}\n  => {}\n", messages(case, base).replace('\n', "\n     ")).unwrap();
    }
    all
}

fn snapshot(name: &str, cases: &[&str]) {
    let base = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(name, report(cases, base.path()));
}

#[test]
fn syntax_errors() {
    snapshot(
        "syntax",
        &[
            "[limits\ninflight = 1",
            "data_dir = data",
            "data_dir = /var/lib/portcullis # where it lives",
            "[[listener]]\nname = \"a\"\nbind = 0.0.0.0:8883",
            "[log]\nlevel = \"info\"\nlevel = \"warn\"",
            "just text",
            "[tls]\nkey = \"a\n[ca]\nkey = \"b\"",
            "[[user]]\nusername = \"historian\"\npassword = secret words\n",
        ],
    );
}

#[test]
fn unknown_keys() {
    snapshot(
        "unknown",
        &[
            "datadir = \"data\"",
            "colour = \"red\"",
            "[limits]\ninfligth = 20\nconections = 7",
            "[limit]\ninflight = 20",
            "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1883\"\nclient-certificate = \"off\"",
            "[[listeners]]\nname = \"a\"",
            "[password.argon2]\nmemory = 3",
            "[[role]]\nname = \"r\"\npermissions = [{ context = \"mqtt\", operation = \"read\", topic = \"a\" }]",
        ],
    );
}

#[test]
fn values_of_the_wrong_kind() {
    snapshot(
        "values",
        &[
            "data_dir = 3",
            "data_dir = \"\"",
            "workers = 0",
            "limits = 3",
            "listener = 3",
            "listener = [3]",
            "[limits]\nconnections = \"many\"\ninflight = 65536\npacket_size = \"1MB\"\nconnect_timeout = 10",
            "[limits]\nconnections = -1\nqueue_messages = 1.5\nqueue_bytes = \"1KiB\"\nsession_expiry = \"1500ms\"\nkeep_alive = \"1s\"",
            "[limits]\npacket_size = 10\ntopic_levels = 0xffff\nqueue_bytes = true",
            "[registry]\nunlock_for = \"1s\"\npending_ttl = \"5 minutes\"\nmax_pending = 0",
            "[access]\norphaned_retained = \"kepp\"\npartial_subscription = true\ndenied_publish = \"ignore\"",
            "[tls]\nmin_version = \"1.1\"\ncertificate = []",
            "[tls]\nmin_version = 1.3",
            "[store]\ndurability = \"synced\"",
            "[log]\nlevel = \"warning\"\nformat = \"xml\"",
            "[metrics]\nbind = false",
            "[password]\nmin = 0\nargon2 = { memory_kib = 8, parallelism = 4 }",
            "[password.argon2]\nmemory_kib = 262144\niterations = 64",
            "[ca]\nvalidity = \"20y\"",
        ],
    );
}

/// A rule that grants never lets everybody in, nor whoever claims a name.
#[test]
fn registry_rules() {
    let rule = |keys: &str| format!("[[registry.rule]]\n{keys}");
    let cases = [
        rule("action = \"grant\""),
        rule("action = \"grant\"\nusername = \"line3-*\"\nroles = [\"line\"]"),
        rule("action = \"grant\"\nusername = \"line3-*\"\nsource = []"),
        rule("action = \"grant\"\nsource = [\"10.0.0.0/8\", \"0.0.0.0/0\"]"),
        rule("action = \"grant\"\nsource = [\"::/0\"]"),
        rule("action = \"grant\"\nsource = [\"0.0.0.0/1\", \"128.0.0.0/1\"]"),
        rule("action = \"grant\"\nsource = [\"10.0.0.0/8\"]\nlistener = \"mqtts\"\nwhile_locked = true"),
        rule("action = \"grant\"\nlistener = \"mqtts\"\nwhile_locked = true"),
        rule("action = \"grant\"\nsource = [\"10.0.0.1/8\"]"),
        rule("action = \"grant\"\nkey = [\"p256\"]"),
        rule("action = \"grant\"\nkey = [\"p256\"]\nwhile_locked = true"),
        rule("action = \"grant\"\nkey = [\"dsa\"]"),
        rule("action = \"grant\"\nlistener = \"mqts\""),
        rule("action = \"grant\"\nlistener = \"elsewhere\""),
        rule("action = \"grant\"\nlistener = \"admin\"\nwhile_locked = true"),
        rule("action = \"grant\"\nsource = [\"10.0.0.0/8\"]\nreason = \"no\""),
        rule("action = \"grant\"\nsource = [\"10.0.0.0/8\"]\nvalidity = \"2h\""),
        rule("action = \"grant\"\nsource = [\"10.0.0.0/8\"]\nlimit = 0\nrole = \"line\""),
        rule(
            "action = \"grant\"\nsource = [\"10.0.0.0/8\"]\npublish_prefix = \"$SYS/\"\npermissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a/#/b\" }]",
        ),
        rule("action = \"deny\""),
        rule("action = \"deny\"\nusername = \"a/b\""),
        rule(
            "action = \"deny\"\nkey = [\"rsa\"]\nroles = [\"line\"]\nwhile_locked = true\nreason = \"make a P-256 key\"",
        ),
        rule("action = \"deny\"\nkey = [\"rsa\"]\nreason = \"make a P-256 key\""),
        rule("action = \"maybe\"\nusername = \"x\""),
        rule("source = [\"10.0.0.0/8\"]"),
        rule("name = \"a b\"\naction = \"deny\"\nusername = \"x\""),
        format!("{0}\n{0}", rule("name = \"x\"\naction = \"deny\"\nusername = \"x\"")),
        "registry.rule = 3".to_owned(),
        "[registry]\napprovals = 3".to_owned(),
        "[registry]\napprovals = 2".to_owned(),
    ];
    snapshot("rules", &cases.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn addresses() {
    let listener = |bind: &str| format!("[[listener]]\nname = \"a\"\nbind = {bind}");
    let cases = [
        "1883",
        "\"1883\"",
        "\":1883\"",
        "\"*:1883\"",
        "\"localhost:1883\"",
        "\"127.0.0.1\"",
        "\"127.0.0.1:70000\"",
        "\"broker.example:8883\"",
        "\"::1:1883\"",
    ];
    let cases: Vec<String> = cases.iter().map(|bind| listener(bind)).collect();
    snapshot("addresses", &cases.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn listeners_that_contradict_themselves_or_others() {
    let listener = |name: &str, rest: &str| format!("[[listener]]\nname = \"{name}\"\n{rest}\n");
    let user = "[[user]]\nusername = \"guest\"\nauth = \"none\"\n";
    let cases = [
        "listener = []".to_owned(),
        "[listener]\nname = \"a\"\nbind = \"127.0.0.1:1883\"".to_owned(),
        "[[listener]]".to_owned(),
        listener("a b", "bind = \"127.0.0.1:1883\""),
        listener("a", "bind = \"0.0.0.0:1883\"\nregistration = true"),
        listener("a", "bind = \"127.0.0.1:1883\"\nregistration = true"),
        listener("a", "bind = \"0.0.0.0:1883\"\nclient_certificate = \"optional\""),
        listener("a", "bind = \"0.0.0.0:8883\"\ntls = true\nclient_certificate = \"required\"\nregistration = true"),
        listener("a", "bind = \"127.0.0.1:1883\"\nregistration = true\nanonymous = \"guest\"") + user,
        listener("a", "bind = \"0.0.0.0:8883\"\ntls = true\nclient_certificate = \"required\"\nanonymous = \"guest\"")
            + user,
        listener("a", "bind = \"0.0.0.0:1883\"\nanonymous = \"guest\"") + user,
        listener("a", "bind = \"127.0.0.1:1883\"\nanonymous = \"guest\""),
        listener("a", "bind = \"127.0.0.1:1883\"\nanonymous = \"g\""),
        listener("a", "bind = \"127.0.0.1:1883\"\nanonymous = \"guest\"")
            + "[[user]]\nusername = \"guest\"\nauth = \"certificate\"",
        user.to_owned(),
        listener("a", "bind = \"127.0.0.1:1883\"") + &listener("a", "bind = \"127.0.0.1:1884\""),
        listener("a", "bind = \"127.0.0.1:1883\"") + &listener("b", "bind = \"0.0.0.0:1883\""),
        listener("a", "bind = \"127.0.0.1:9464\""),
        listener("a", "bind = \"127.0.0.1:9001\"\nprotocol = \"websocket\"\npath = \"/mqtt\""),
        listener("a", "bind = \"127.0.0.1:9001\"\nprotocol = \"amqp\""),
        "[metrics]\nbind = \"0.0.0.0:9464\"".to_owned(),
        listener("a", "bind = \"0.0.0.0:8443\""),
        listener("admin", "bind = \"127.0.0.1:1883\""),
        listener("a", "bind = \"0.0.0.0:8444\"\nprotocol = \"https\"\nregistration = true"),
        listener(
            "a",
            "bind = \"0.0.0.0:8444\"\nprotocol = \"https\"\ntls = false\nclient_certificate = \"optional\"\nanonymous = \"guest\"",
        ) + user,
        "[admin]\nbind = \"127.0.0.1:9464\"".to_owned(),
        "[admin]\nbind = false\nconnections = 0".to_owned(),
    ];
    snapshot("listeners", &cases.iter().map(String::as_str).collect::<Vec<_>>());
}

/// It would be hashed anew at the first login, and the file would bring it back at the next start.
#[test]
fn a_password_hash_of_another_broker_is_not_for_the_configuration() {
    let hash = format!("$pbkdf2-sha512$i=101$c2FsdHNhbHRzYWx0${}", "A".repeat(86));
    let text = format!("[[user]]\nusername = \"historian\"\npassword_hash = \"{hash}\"\n");
    assert!(Config::parse(&text, ".").is_err());
    assert!(Config::parse(&text.replace(&hash, HASH), ".").is_ok());
}

#[test]
fn users_and_roles() {
    let user = |rest: &str| format!("[[user]]\nusername = \"historian\"\n{rest}\n");
    let hashed = |rest: &str| user(&format!("password_hash = \"{HASH}\"\n{rest}"));
    let rule = |rule: &str| format!("[[role]]\nname = \"line\"\npermissions = [{{ {rule} }}]\n");
    let cases = [
        "[[user]]".to_owned(),
        "[[user]]\nusername = \"ab\"".to_owned(),
        "[[user]]\nusername = \"a/b/c\"".to_owned(),
        "[[user]]\nusername = \"Admin\"\nauth = \"certificate\"".to_owned(),
        "[[user]]\nusername = \"system\"\nauth = \"certificate\"".to_owned(),
        user(""),
        user("password = \"correct horse battery\""),
        user("password_hash = \"correct horse battery\""),
        user("password_hash = \"$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$8PLL1fgUE8Gh8sQxiU0Zxw\""),
        user("password_file = \"absent\""),
        hashed("password_file = \"absent\""),
        hashed("auth = \"certificate\""),
        hashed("auth = \"token\""),
        hashed("roles = [\"obsever\"]"),
        hashed("roles = [\"line\", 3]"),
        hashed("roles = \"observer\""),
        hashed("quota = 3"),
        hashed("quota = { conections = 3 }"),
        hashed("quota = { connections = -1, queue_bytes = \"1MB\", publish_messages = 3 }"),
        hashed("quota = { publish_messages = { burst = 3 }, publish_bytes = { per_second = 0 } }"),
        hashed("quota = { publish_messages = { per_second = 3, bursts = 4 } }"),
        hashed("quota = {}"),
        hashed("publish_prefix = \"site\""),
        hashed("publish_prefix = \"$SYS/\""),
        hashed("client_id = \"${client_id}\""),
        hashed("permissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a/${client_id}\" }]"),
        hashed("permissions = [{ context = \"http\", operation = \"read\", resource = \"/a\", max_qos = 1 }]"),
        hashed(
            "permissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a/${client_id}\" }]\nclient_id = \"${username}\"",
        ),
        hashed("expires_at = 2030-01-01"),
        hashed("expires_at = \"tomorrow\""),
        hashed("expires_at = 2030-01-01T00:00:00Z"),
        hashed("") + &hashed(""),
        "[[role]]\nname = \"admin\"".to_owned(),
        "[[role]]\nname = \"line 3\"".to_owned(),
        "[[role]]\nname = \"line\"\n[[role]]\nname = \"line\"".to_owned(),
        "[[role]]\nname = \"line\"\npermissions = \"all\"".to_owned(),
        rule(""),
        rule("context = \"mqtt\", operation = \"publish\", resource = \"a\""),
        rule("context = \"mqtt\", operation = \"readWrite\", resource = \"a/#\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a/#/b\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a/b+\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a/x${username}\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a/${user}\""),
        rule("context = \"http\", operation = \"read\", resource = \"api/users\""),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a\", effect = \"deny\", max_qos = 1"),
        rule("context = \"mqtt\", operation = \"read\", resource = \"a\", max_qos = 3"),
    ];
    snapshot("people", &cases.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn all_problems_are_reported_at_once_and_in_order() {
    snapshot(
        "together",
        &["[log]\nlevel = 3\n[limits]\ninflight = 0\ncolour = 1\n[[listener]]\nname = \"a\"\n[[user]]\n"],
    );
}

#[test]
fn a_password_in_the_file_is_in_no_message() {
    for text in [
        "[[user]]\nusername = \"historian\"\npassword = \"hunter2 hunter2\"\n",
        "[[user]]\nusername = \"historian\"\npassword_hash = 'hunter2'\nauth = 3",
        "user = [{ username = \"historian\", password = \"hunter2\" }]",
        "[[user]]\npassword = hunter2\n",
        "[ca]\npassphrase = \"hunter2\"\n",
        "[ca]\npassphrase = hunter2\n",
        "[[user]]\n\"password\" = \"hunter2\nfoo = [",
    ] {
        let error = Config::parse(text, ".").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let ConfigError::Invalid(invalid) = error else { panic!("{error}") };
        assert_eq!(invalid.text.len(), text.len(), "spans still fit");
    }
}

#[test]
fn password_files_lose_their_newline_and_nothing_else() {
    use secrecy::ExposeSecret;
    let base = tempfile::tempdir().unwrap();
    let text = "[admin]\nadmin_password_file = \"secret\"\n";
    for (content, expected) in
        [("correct horse", "correct horse"), ("a b \n", "a b "), ("a\r\n", "a"), (" x", " x"), ("größer\n", "größer")]
    {
        private(&base.path().join("secret"), content.as_bytes());
        let config = Config::parse(text, base.path()).unwrap();
        assert_eq!(config.admin.password.unwrap().expose_secret(), expected);
        assert!(config.source.warnings().is_empty());
    }
    let mut all = String::new();
    for content in [&b""[..], b"\n", b"two\nlines\n", b"\xff\xfe", &[b'x'; 2000]] {
        private(&base.path().join("secret"), content);
        writeln!(all, "{}", messages(text, base.path())).unwrap();
    }
    fs::remove_file(base.path().join("secret")).unwrap();
    fs::create_dir(base.path().join("secret")).unwrap();
    writeln!(all, "{}", messages(text, base.path())).unwrap();
    insta::assert_snapshot!("password_files", all);
}

/// A certificate, PEM.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(["partner.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

#[test]
fn the_passphrase_of_the_ca_comes_from_one_place() {
    use secrecy::ExposeSecret;
    let base = tempfile::tempdir().unwrap();
    private(&base.path().join("secret"), b"correct horse\n");
    let passphrase = |text: &str| {
        let config = Config::parse(text, base.path()).unwrap();
        config.ca.passphrase.map(|passphrase| passphrase.expose_secret().to_owned())
    };
    assert_eq!(passphrase(""), None);
    assert_eq!(passphrase("[ca]\npassphrase_file = \"secret\"").as_deref(), Some("correct horse"));
    // Cargo gives it to every test.
    assert_eq!(passphrase("[ca]\npassphrase_env = \"CARGO_PKG_NAME\"").as_deref(), Some("portcullis"));

    // The credential of systemd counts where broker.toml names nothing.
    let read = |text: &str, credentials: &std::path::Path| {
        let document = toml::de::DeTable::parse(text).unwrap();
        let report = super::reader::Report::new(text);
        let root = super::reader::Section::root(&report, document.get_ref());
        let found = super::files::passphrase(&root.section("ca"), base.path(), Some(credentials));
        assert!(report.is_clean());
        found.map(|passphrase| passphrase.expose_secret().to_owned())
    };
    let credentials = tempfile::tempdir().unwrap();
    assert_eq!(read("", credentials.path()), None);
    private(&credentials.path().join("ca-passphrase"), b"by systemd");
    assert_eq!(read("", credentials.path()).as_deref(), Some("by systemd"));
    assert_eq!(read("[ca]\npassphrase_file = \"secret\"", credentials.path()).as_deref(), Some("correct horse"));
}

#[test]
fn what_is_wrong_with_the_passphrase_or_with_a_further_ca_is_told() {
    let base = tempfile::tempdir().unwrap();
    private(&base.path().join("secret"), b"correct horse\n");
    private(&base.path().join("two"), b"two\nlines\n");
    fs::write(base.path().join("partner.pem"), authority()).unwrap();
    let trust = |lines: &str| format!("[[ca.trust]]\n{lines}");
    let cases = [
        "[ca]\npassphrase_file = \"secret\"\npassphrase_env = \"PATH\"".to_owned(),
        "[ca]\npassphrase_file = \"absent\"".to_owned(),
        "[ca]\npassphrase_file = \"two\"".to_owned(),
        "[ca]\npassphrase_env = \"NO_SUCH_VARIABLE\"".to_owned(),
        "[ca]\npassphrase = \"hunter2\"".to_owned(),
        trust(""),
        trust("certificate = \"partner.pem\""),
        trust("certificate = \"absent.pem\"\nusername = \"partner-*\""),
        trust("certificate = \"secret\"\nusername = \"partner-*\""),
        trust("certificate = \"partner.pem\"\nusername = \"partner *\""),
        trust("certificate = \"partner.pem\"\nusername = \"\""),
        trust("certificate = \"partner.pem\"\nusername = \"p-*\"\nfingerprint = \"ab\""),
        "ca.trust = \"partner.pem\"".to_owned(),
        "[ca]\nidentity = \"san_uri\"".to_owned(),
        "[ca]\nidentity = \"uri\"".to_owned(),
        "[ca]\nidentity = \"san_uri\"\nuri_prefix = \"spiffe://plant.example\"".to_owned(),
        trust("certificate = \"partner.pem\"\nusername = \"p-*\"\nidentity = \"san_uri\""),
        trust("certificate = \"partner.pem\"\nusername = \"p-*\"\nuri_prefix = \"urn:a:\""),
        trust("certificate = \"partner.pem\"\nusername = \"p-*\"\nidentity = \"cn\"\nuri_prefix = \"urn:a:\""),
        trust("certificate = \"partner.pem\"\nusername = \"p-*\"\nidentity = \"san_uri\"\nuri_prefix = \"urn:a\""),
    ];
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    insta::assert_snapshot!("authority", report(&cases, base.path()));
}

#[test]
fn a_further_ca_names_users_as_the_own_one_does_unless_it_says_how() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("partner.pem"), authority()).unwrap();
    let uri = |text: &str| Naming::Uri(text.to_owned().try_into().unwrap());
    let read = |ca: &str, trust: &str| {
        let text = format!("[ca]\n{ca}\n[[ca.trust]]\ncertificate = \"partner.pem\"\nusername = \"p-*\"\n{trust}");
        let ca = Config::parse(&text, base.path()).unwrap().ca;
        (ca.naming, ca.uri_prefix.map(|it| it.as_str().to_owned()), ca.trust[0].naming.clone())
    };
    let (by_uri, of_plant) = ("identity = \"san_uri\"", "uri_prefix = \"urn:plant:\"");
    let of_partner = "identity = \"san_uri\"\nuri_prefix = \"urn:partner:\"";
    let plant = Some("urn:plant:".to_owned());
    assert_eq!(read("", ""), (Naming::CommonName, None, Naming::CommonName));
    assert_eq!(read(of_plant, ""), (Naming::CommonName, plant.clone(), Naming::CommonName));
    assert_eq!(read(of_plant, by_uri), (Naming::CommonName, plant.clone(), uri("urn:plant:")));
    assert_eq!(read("", of_partner), (Naming::CommonName, None, uri("urn:partner:")));
    let both = format!("{by_uri}\n{of_plant}");
    assert_eq!(read(&both, ""), (uri("urn:plant:"), plant.clone(), uri("urn:plant:")));
    assert_eq!(read(&both, "uri_prefix = \"urn:partner:\""), (uri("urn:plant:"), plant.clone(), uri("urn:partner:")));
    assert_eq!(read(&both, "identity = \"cn\""), (uri("urn:plant:"), plant, Naming::CommonName));
}

#[cfg(unix)]
#[test]
fn secrets_that_others_can_read_are_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let base = tempfile::tempdir().unwrap();
    private(&base.path().join("secret"), b"correct horse");
    fs::set_permissions(base.path().join("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(
        messages("[admin]\nadmin_password_file = \"secret\"\n", base.path()),
        @"warning: 2:23: `BASE/secret` has mode 0644: others than its owner can read or change it; run `chmod 600 BASE/secret`"
    );
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let base = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| private(&base.path().join(name), content.as_bytes());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    write("own.pem", &certificate.pem());
    write("own.key", &key.serialize_pem());
    write("other.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    write("text", "hello");
    let cases = [
        "[tls]\ncertificate = \"own.pem\"\nkey = \"own.key\"",
        "[tls]\ncertificate = \"own.pem\"\nkey = \"other.key\"",
        "[tls]\ncertificate = \"own.pem\"\nkey = \"absent.key\"",
        "[tls]\ncertificate = \"absent.pem\"\nkey = \"own.key\"",
        "[tls]\ncertificate = \"absent.pem\"\nkey = \"absent.key\"",
        "[tls]\ncertificate = \"own.pem\"",
        "[tls]\ncertificate = \"own.pem\"\nkey = \"own.pem\"",
        "[tls]\ncertificate = \"text\"\nkey = \"own.key\"",
        "[tls]\ncertificate = \"own.pem\"\nkey = \"text\"",
        "[tls]\ncertificate = \"own.key\"\nkey = \"own.pem\"",
        "[ca]\ncertificate = \"own.pem\"\nkey = \"other.key\"",
        "data_dir = \"text\"",
    ];
    insta::assert_snapshot!("pairs", report(&cases, base.path()));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("broker.toml");
    let shown = |path: &Path| {
        let error = Config::load(path).unwrap_err().to_string();
        error.replace(&base.path().display().to_string(), "BASE")
    };
    let absent = shown(&path);
    fs::write(&path, b"data_dir = \"\xff\"").unwrap();
    let encoding = shown(&path);
    fs::write(&path, "\n\n  colour = 1").unwrap();
    insta::assert_snapshot!("load", [absent, encoding, shown(&path)].join("\n"));
}

#[test]
fn paths_refer_to_the_directory_of_the_file() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("broker.toml"), "data_dir = \"d\"\n[tls]\nkey = \"/k\"\ncertificate = \"c\"").unwrap();
    let config = Config::load(base.path().join("broker.toml")).unwrap();
    assert_eq!(config.data_dir, base.path().join("d"));
    assert_eq!((config.tls.key.as_path(), config.tls.certificate), (Path::new("/k"), base.path().join("c")));
    assert_eq!(config.ca.key, base.path().join("certs/ca.key"));
}

#[test]
fn a_mistake_elsewhere_does_not_hide_the_admin_socket() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("broker.toml");
    let socket = |text: &str| {
        fs::write(&path, text).unwrap();
        Config::admin_socket_of(&path)
    };
    assert_eq!(socket("data_dir = \"d\"\ncolour = 1").unwrap(), base.path().join("d/admin.sock"));
    assert_eq!(socket("").unwrap(), base.path().join("data/admin.sock"));
    assert!(socket("data_dir = 1").is_err() && socket("data_dir = ").is_err());
}

#[test]
fn an_error_of_later_points_into_the_file() {
    let config = Config::parse("[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1883\"\n", ".").unwrap();
    assert_eq!(config.source.position("listener[0].bind").as_deref(), Some("broker.toml:3:8"));
    let error = config.source.error("listener[0].bind", "the address is in use", "write another");
    assert_eq!(error.to_string(), "broker.toml:3:8: the address is in use; write another");
    let error = config.source.error("tls.key", "it is empty", "write another");
    assert_eq!(error.to_string(), "broker.toml: it is empty; write another");
}

// The shipped file.

fn private(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A commented-out setting or table header: `#` without a space, then the TOML.
fn setting(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with([' ', '#']))
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let base = tempfile::tempdir().unwrap();
    let config = Config::parse(SHIPPED, base.path()).unwrap();
    assert_eq!(config, Config::new(base.path()));
    assert_eq!(config, Config::parse("", base.path()).unwrap());
    assert!(config.source.warnings().is_empty());
}

#[test]
fn each_commented_setting_of_the_shipped_file_is_the_default() {
    let base = tempfile::tempdir().unwrap();
    let expected = Config::new(base.path());
    let lines: Vec<&str> = SHIPPED.lines().collect();
    let mut tried = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(uncommented) = setting(line).filter(|rest| !rest.ends_with("# example")) else { continue };
        let mut lines = lines.clone();
        lines[index] = uncommented;
        match Config::parse(&lines.join("\n"), base.path()) {
            Ok(config) => assert_eq!(config, expected, "{line}"),
            Err(error) => panic!("{line}: {error}"),
        }
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn the_examples_of_the_shipped_file_are_accepted_together() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("secrets")).unwrap();
    fs::create_dir(base.path().join("certs")).unwrap();
    fs::write(base.path().join("certs/partner.pem"), authority()).unwrap();
    private(&base.path().join("secrets/ca"), b"correct horse battery staple\n");
    private(&base.path().join("secrets/admin"), b"correct horse battery staple\n");
    private(&base.path().join("secrets/historian"), b"correct horse battery staple\n");
    let text: Vec<&str> = SHIPPED
        .lines()
        .map(|line| {
            let continued = line.strip_prefix('#').filter(|rest| rest.ends_with("# example"));
            continued.unwrap_or(line)
        })
        .collect();
    let config = Config::parse(&text.join("\n"), base.path()).unwrap();
    assert_eq!((config.roles.len(), config.users.len(), config.registry.rules.len()), (1, 3, 2));
    assert_eq!(config.listeners[1].anonymous.as_ref().unwrap().as_str(), "guest");
    assert!(config.admin.password.is_some() && config.workers.is_some());
    assert!(config.source.warnings().is_empty(), "{:?}", config.source.warnings());
}

/// Every key that the reader asks for is in the shipped file, in its own section.
#[test]
fn every_key_is_documented_in_the_shipped_file() {
    let all = "[[ca.trust]]\ncertificate = \"partner.pem\"\nusername = \"partner-*\"\n[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\n[[user]]\nusername = \"abc\"\nauth = \"certificate\"\n\
        permissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a\" }]\n\
        [[role]]\nname = \"r\"\npermissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a\" }]\n\
        [[registry.rule]]\naction = \"grant\"\nlistener = \"a\"\n\
        permissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a\" }]";
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("partner.pem"), authority()).unwrap();
    let asked = Config::parse(all, base.path()).unwrap().source.asked;
    // Refused with a reason of their own, so not for anybody to write.
    let refused =
        ["listener.path", "listener.origins", "user.quota", "user.certificates", "user.password", "ca.passphrase"];
    // Another spelling of a documented key, or another place of what it names.
    let aliases = ["user.mqttPublishPrefix", "ca.passphrase_env"];
    let mut documented: BTreeSet<String> = BTreeSet::new();
    let mut section = String::new();
    let mut item = String::new();
    for line in SHIPPED.lines() {
        let toml = setting(line).unwrap_or(line);
        if let Some(header) = toml.strip_prefix('[') {
            section = header.trim_start_matches('[').split(']').next().unwrap().to_owned();
            documented.insert(section.clone());
        } else if let (false, Some((key, value))) =
            (toml.starts_with('#') || toml.starts_with(' '), toml.split_once('='))
        {
            let key = if section.is_empty() { key.trim().to_owned() } else { format!("{section}.{}", key.trim()) };
            if let Some(inner) = value.trim().strip_prefix('{') {
                for (inner, _) in inner.split(',').filter_map(|part| part.split_once('=')) {
                    documented.insert(format!("{key}.{}", inner.trim()));
                }
            }
            documented.insert(key);
        } else if let Some(row) = line.strip_prefix("#   ") {
            // The tables of keys: `# [thing] key  text`.
            let mut words = row.split_whitespace().peekable();
            if let Some(thing) = words.next_if(|word| ["role", "rule", "user", "permission"].contains(word)) {
                item = thing.to_owned();
            }
            let Some(key) = words.next() else { continue };
            match item.as_str() {
                "permission" => {
                    documented
                        .extend(["role", "user", "registry.rule"].map(|owner| format!("{owner}.permissions.{key}")));
                }
                "rule" => _ = documented.insert(format!("registry.rule.{key}")),
                "" => _ = documented.insert(format!("listener.{key}")),
                item => _ = documented.insert(format!("{item}.{key}")),
            }
        }
    }
    let missing: Vec<_> = asked
        .iter()
        .filter(|key| {
            !documented.contains(*key) && !refused.contains(&key.as_str()) && !aliases.contains(&key.as_str())
        })
        .collect();
    assert!(missing.is_empty(), "not in broker.toml: {missing:?}");
}

/// A paragraph that a merge has left there twice is no fault of any key: it would be passed over by everything above.
#[test]
fn the_shipped_file_says_everything_once() {
    let mut seen = BTreeSet::new();
    // Short lines, examples of a list of tables, and rows of the tables of keys may well be there twice.
    for line in SHIPPED.lines().filter(|line| line.starts_with("# ") && !line.starts_with("#   ") && line.len() > 40) {
        assert!(seen.insert(line), "twice: {line}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]{}a-z_=\"'#.,0-9 \n\\\\é]{0,200}") {
        let _ = Config::parse(&text, "/nonexistent");
    }

    /// A shipped file with one line broken is read or refused, and a refusal has a place in the text.
    #[test]
    fn a_damaged_file_is_refused_with_its_place(at in 0..SHIPPED.len(), junk in "[ -~]{1,4}") {
        prop_assume!(SHIPPED.is_char_boundary(at));
        let mut text = SHIPPED.replace("\n#", "\n");
        prop_assume!(text.is_char_boundary(at.min(text.len())));
        text.insert_str(at.min(text.len()), &junk);
        if let Err(ConfigError::Invalid(invalid)) = Config::parse(&text, "/nonexistent") {
            prop_assert!(!invalid.problems.is_empty());
            prop_assert!(invalid.problems.iter().all(|problem| problem.span.as_ref().is_none_or(|span| span.end <= text.len())));
        }
    }
}
