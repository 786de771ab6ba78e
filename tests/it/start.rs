//! Starts that fail: what they say, and what they leave behind.

use std::{net::TcpListener, path::Path};

use portcullis::{
    broker::{Broker, StartError},
    config::{Config, ConfigError},
};

/// The text of the error, with its address replaced.
async fn failure(config: &Config, address: &str) -> String {
    let error = Broker::builder(config.clone()).bind().await.err().expect("the address cannot be had");
    let StartError::Bind { told, .. } = &error else { panic!("{error}") };
    assert!(matches!(**told, ConfigError::Invalid(_)));
    assert!(error.to_string().contains(address), "{error}");
    error.to_string().replace(address, "ADDRESS")
}

fn is_empty(directory: &Path) -> bool {
    directory.read_dir().unwrap().next().is_none()
}

/// Whatever the store keeps: the second one would take the first one's admin socket away.
#[tokio::test]
async fn a_second_broker_in_a_directory_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let text = "metrics.bind = 'off'\nadmin.bind = 'off'\nstore.durability = 'memory'\nlistener = [{ name = 'a', bind = '127.0.0.1:0' }]";
    let config = Config::parse(text, directory.path()).unwrap();
    let socket = config.admin_socket();
    let first = Broker::builder(config.clone()).bind().await.unwrap();
    let error = Broker::builder(config.clone()).bind().await.err().expect("the directory is taken");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    first.shutdown().await;
    Broker::builder(config).bind().await.unwrap().shutdown().await;
}

#[tokio::test]
async fn an_address_in_use_is_told_with_its_line_and_nothing_is_left_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "[[listener]]\nname = \"free\"\nbind = \"127.0.0.1:0\"\ntls = true\n";
    let directory = tempfile::tempdir().unwrap();
    let parse = |text: &str| Config::parse(text, directory.path()).unwrap();

    let config = parse(&format!(
        "{free}[[listener]]\nname = \"mqtts\"\nbind = \"{address}\"\n[metrics]\nbind = \"off\"\n[admin]\nbind = \"off\"\n"
    ));
    assert_eq!(
        failure(&config, &address).await,
        "broker.toml:7:8: listener `mqtts` cannot listen on ADDRESS: another program listens there; \
         stop that program, or choose another `bind`"
    );
    let config = parse(&format!("[metrics]\nbind = \"{address}\"\n[admin]\nbind = \"off\"\n{free}"));
    assert_eq!(
        failure(&config, &address).await,
        "broker.toml:2:8: metrics cannot listen on ADDRESS: another program listens there; \
         stop that program, or choose another `bind`"
    );
    // What the file leaves at its default has no line.
    let mut config = parse("[metrics]\nbind = \"off\"\n[admin]\nbind = \"off\"\n");
    config.listeners.truncate(1);
    config.listeners[0].bind = taken.local_addr().unwrap();
    assert_eq!(
        failure(&config, &address).await,
        "broker.toml: listener `mqtts` cannot listen on ADDRESS: another program listens there; \
         stop that program, or name your own `[[listener]]`, with another `bind`"
    );
    assert!(is_empty(directory.path()));

    drop(taken);
    config.listeners[0].bind.set_port(0);
    Broker::builder(config).bind().await.unwrap().shutdown().await;
    assert!(!is_empty(directory.path()));
}

#[tokio::test]
async fn an_address_of_another_machine_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    // RFC 5737: no machine has it.
    let text = "[[listener]]\nname = \"mqtt\"\nbind = \"192.0.2.1:18830\"\ntls = true\n[metrics]\nbind = \"off\"\n[admin]\nbind = \"off\"\n";
    let config = Config::parse(text, directory.path()).unwrap();
    assert_eq!(
        failure(&config, "192.0.2.1:18830").await,
        "broker.toml:3:8: listener `mqtt` cannot listen on ADDRESS: this machine has no such address; \
         choose another `bind`; 0.0.0.0 stands for all that it has"
    );
    assert!(is_empty(directory.path()));
}
