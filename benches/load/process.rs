//! A broker as a child process.
//!
//! In: a command, the directory that it runs in, the addresses that it will listen on. Out: a running process whose log
//! is kept in that directory; both are gone when the value is dropped. It never touches a process that it did not start.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A broker runs in a directory of its own, where a relative path would lead elsewhere. A bare name is looked up in PATH.
pub(crate) fn absolute(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        std::path::absolute(program).unwrap_or_else(|_| program.to_owned())
    } else {
        program.to_owned()
    }
}

/// The version that a program tells when it is called with `option`, or why it cannot be run.
pub(crate) fn version(program: &Path, option: &str) -> std::result::Result<String, String> {
    let output = Command::new(program)
        .arg(option)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`{}`: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    Ok(line.rsplit(' ').next().unwrap_or(line).to_owned())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A running broker. Dropping it kills the process.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    #[allow(dead_code, reason = "not every benchmark looks into it")]
    directory: tempfile::TempDir,
}

impl Process {
    /// Starts it and waits until it listens everywhere.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        directory: tempfile::TempDir,
        addresses: &[SocketAddr],
    ) -> Result<Self> {
        let log = directory.path().join("log");
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .stderr(fs::OpenOptions::new().append(true).open(&log)?)
            .spawn()
            .map_err(|error| format!("`{}`: {error}", command.get_program().display()))?;
        let mut process = Self { child, log, directory };
        process.wait_until_ready(name, addresses)?;
        Ok(process)
    }

    fn wait_until_ready(&mut self, name: &str, addresses: &[SocketAddr]) -> Result<()> {
        let started = Instant::now();
        for address in addresses {
            while TcpStream::connect(address).is_err() {
                if let Some(status) = self.child.try_wait()? {
                    return Err(format!("{name} ended at once, {status}: {}", self.last_words()).into());
                }
                if started.elapsed() > Duration::from_secs(15) {
                    return Err(format!("{name} does not listen after 15 s: {}", self.last_words()).into());
                }
                sleep(Duration::from_millis(20));
            }
        }
        // What the start itself costs is not part of any figure.
        sleep(Duration::from_millis(150));
        Ok(())
    }

    /// Its number, as in `/proc`.
    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    #[allow(dead_code, reason = "not every benchmark looks into it")]
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The end of what the broker wrote.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join(" | ")
    }

    /// How the process ended, when it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
