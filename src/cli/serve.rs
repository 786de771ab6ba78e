//! `serve`: the log, then the broker, until it is told to stop.

use std::io::IsTerminal;

use portcullis::broker::{Broker, FirstAdmin, StartError, Started};
use portcullis::config::{Config, Log, LogFormat, LogLevel};
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::output::printable;
use super::{Failure, Shell};

/// Runs the broker in this process until SIGTERM or SIGINT.
pub(crate) fn serve(config: Config, shell: &mut Shell<'_>) -> Result<(), Failure> {
    start_log(config.log);
    for warning in config.source.warnings() {
        tracing::warn!(file = config.source.name(), line = warning.line, "{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the broker is there: a signal that comes early must not be lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let show_password = std::io::stdout().is_terminal();
        let broker =
            Broker::builder(config).show_password(show_password).bind().await.map_err(|error| match error {
                StartError::Bind { told, .. } => Failure::Config(*told),
                error => Failure::Serve(error.to_string()),
            })?;
        tell(broker.started(), shell)?;
        shell.out.flush()?;
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        broker.shutdown().await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// The few lines of a start.
fn tell(started: &Started, shell: &mut Shell<'_>) -> std::io::Result<()> {
    let (out, program) = (&mut *shell.out, printable(shell.program));
    writeln!(out, "Portcullis {}", env!("CARGO_PKG_VERSION"))?;
    for (name, address, scheme) in &started.listeners {
        writeln!(out, "  {name:<14} {scheme}://{address}")?;
    }
    if let Some(address) = started.admin {
        writeln!(out, "  {:<14} https://{address}/api", "REST API")?;
    }
    if let Some(address) = started.metrics {
        writeln!(out, "  {:<14} http://{address}/metrics", "metrics")?;
    }
    let made = if started.ca_made { " (made now)" } else { "" };
    writeln!(out, "  {:<14} {}{made}", "trust bundle", started.trust_bundle.display())?;
    match &started.first_admin {
        None => return Ok(()),
        Some(FirstAdmin::Shown(password)) => {
            writeln!(out, "  {:<14} admin, password {} (shown only now)", "first login", password.expose_secret())?;
        }
        Some(FirstAdmin::Written(path)) => {
            writeln!(out, "  {:<14} admin, password in {}", "first login", path.display())?;
        }
        Some(_) => writeln!(out, "  {:<14} admin, password from admin_password_file", "first login")?,
    }
    writeln!(out, "To let a first device enrol: {program} registry unlock && {program} registry watch")
}

/// Records go to standard error.
fn start_log(log: Log) {
    let level = match log.level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries below speak to their own developers: from them only what is wrong.
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("portcullis", level);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines.with_target(false)).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
