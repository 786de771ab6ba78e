//! `serve`: the log, then the broker, until it is told to stop.

use portcullis::config::{Config, Log, LogFormat, LogLevel};
use tracing_subscriber::filter::LevelFilter;

use super::Failure;

/// Runs the broker in this process.
pub(crate) fn serve(config: &Config) -> Result<(), Failure> {
    start_log(config.log);
    for warning in config.source.warnings() {
        tracing::warn!(file = config.source.name(), line = warning.line, "{warning}");
    }
    Err(Failure::Serve("this build has no broker in it yet".to_owned()))
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
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
