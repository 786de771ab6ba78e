//! rumqttd 0.20 as a server process: what the load driver and `failures` start when they measure it.
//!
//! In: a port for plain MQTT 3.1.1, optionally one for MQTT 5, one with certificate and key for TLS, and a file of `user:password`
//! lines. Out: a broker that runs until it is killed. It sets rumqttd up as its own example does, with two changes
//! that favour it: no pause between accepted connections, and a larger payload limit. There is no access control to
//! switch on beyond the static map of passwords: rumqttd has no permissions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings, TlsConfig};

#[derive(Default)]
struct Arguments {
    port: Option<u16>,
    port5: Option<u16>,
    tls_port: Option<u16>,
    certificate: Option<String>,
    key: Option<String>,
    users: Option<String>,
    inflight: Option<usize>,
    connections: Option<usize>,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("`{word}` needs a value"))?;
        let number = || value.parse::<usize>().map_err(|error| format!("`{word} {value}`: {error}"));
        let port = || value.parse::<u16>().map_err(|error| format!("`{word} {value}`: {error}"));
        match word.as_str() {
            "--port" => arguments.port = Some(port()?),
            "--port5" => arguments.port5 = Some(port()?),
            "--tls-port" => arguments.tls_port = Some(port()?),
            "--certificate" => arguments.certificate = Some(value),
            "--key" => arguments.key = Some(value),
            "--users" => arguments.users = Some(value),
            "--inflight" => arguments.inflight = Some(number()?),
            "--connections" => arguments.connections = Some(number()?),
            _ => return Err(format!("unknown option `{word}`")),
        }
    }
    Ok(arguments)
}

fn users(path: &str) -> Result<HashMap<String, String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"))?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, password) =
                line.split_once(':').ok_or_else(|| format!("`{path}`: `{line}` is not user:password"))?;
            Ok((name.to_owned(), password.to_owned()))
        })
        .collect()
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let auth = arguments.users.as_deref().map(users).transpose()?;
    let settings = |name: &str, port: u16, tls: Option<TlsConfig>| ServerSettings {
        name: name.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        tls,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 60_000,
            max_payload_size: 1 << 20,
            max_inflight_count: arguments.inflight.unwrap_or(100),
            auth: auth.clone(),
            external_auth: None,
            // A subscription to a filter that is not yet in its log is accepted only with this.
            dynamic_filters: true,
        },
    };
    let mut servers = HashMap::new();
    if let Some(port) = arguments.port {
        servers.insert("plain".to_owned(), settings("plain", port, None));
    }
    if let Some(port) = arguments.tls_port {
        let certpath = arguments.certificate.clone().ok_or("--tls-port needs --certificate")?;
        let keypath = arguments.key.clone().ok_or("--tls-port needs --key")?;
        let tls = TlsConfig::Rustls { capath: None, certpath, keypath };
        servers.insert("tls".to_owned(), settings("tls", port, Some(tls)));
    }
    let config = Config {
        id: 0,
        router: RouterConfig {
            max_connections: arguments.connections.unwrap_or(100_000),
            max_outgoing_packet_count: 200,
            max_segment_size: 104_857_600,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(servers),
        // rumqttd speaks one protocol version per listener.
        v5: arguments.port5.map(|port| HashMap::from([("v5".to_owned(), settings("v5", port, None))])),
        ..Config::default()
    };
    let mut broker = Broker::new(config);
    // Returns only when every listener thread has ended. The router's thread may have ended long before.
    broker.start().map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("rumqttd 0.20.0");
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "rumqttd=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-rumqttd: {error}");
            ExitCode::FAILURE
        }
    }
}
