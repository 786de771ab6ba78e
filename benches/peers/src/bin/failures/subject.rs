//! The broker under test: one that runs already, or one that is started afresh for each input.
//!
//! In: an address, or a command line with placeholders. Out: an address, a process whose memory can be read, and,
//! where the broker is a child, a restart that keeps its directory. Only children are ever ended.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How to start a broker. `{port}`, `{port5}`, `{dir}` and `{config}` stand for its port, a port for MQTT 5
/// where that needs one of its own, its directory, and the file that the template, with the same placeholders filled in, is written to.
#[derive(Clone)]
pub struct Recipe {
    pub command: String,
    pub template: Option<String>,
}

pub struct Subject {
    pub address: SocketAddr,
    /// The same, unless MQTT 5 has a listener of its own.
    pub address5: SocketAddr,
    process: Option<u32>,
    recipe: Option<Recipe>,
    child: Option<Child>,
    directory: PathBuf,
}

impl Subject {
    /// A broker that somebody else started and ends.
    pub fn attached(address: SocketAddr, process: Option<u32>) -> Self {
        Self { address, address5: address, process, recipe: None, child: None, directory: PathBuf::new() }
    }

    /// A broker of our own, started now.
    pub fn started(recipe: Recipe) -> io::Result<Self> {
        let mut subject = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            address5: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            process: None,
            recipe: Some(recipe),
            child: None,
            directory: PathBuf::new(),
        };
        subject.afresh()?;
        Ok(subject)
    }

    /// A new broker in a new directory; does nothing to one that is not ours.
    pub fn afresh(&mut self) -> io::Result<()> {
        let Some(recipe) = &self.recipe else { return Ok(()) };
        let own5 =
            [Some(&recipe.command), recipe.template.as_ref()].into_iter().flatten().any(|t| t.contains("{port5}"));
        self.end();
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        self.address = free()?;
        self.address5 = if own5 { free()? } else { self.address };
        let name = format!("failures-{}-{}", std::process::id(), self.address.port());
        self.directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&self.directory)?;
        self.start()
    }

    /// Kills the broker and starts it again over what it left behind. `false` when it is not ours.
    pub fn crash_and_restart(&mut self) -> io::Result<bool> {
        if self.recipe.is_none() {
            return Ok(false);
        }
        self.kill();
        self.start()?;
        Ok(true)
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(recipe) = self.recipe.clone() else { return Ok(()) };
        let port = self.address.port().to_string();
        let port5 = self.address5.port().to_string();
        let directory = self.directory.display().to_string();
        let configuration = self.directory.join("configuration");
        let fill = |text: &str| {
            text.replace("{port}", &port)
                .replace("{port5}", &port5)
                .replace("{dir}", &directory)
                .replace("{config}", &configuration.display().to_string())
        };
        if let Some(template) = &recipe.template {
            fs::write(&configuration, fill(template))?;
        }
        let words: Vec<String> = recipe.command.split_whitespace().map(fill).collect();
        let (program, arguments) = words.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let log = fs::File::create(self.log())?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| io::Error::other(format!("`{program}`: {error}")))?;
        self.process = Some(child.id());
        self.child = Some(child);
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if started.elapsed() > Duration::from_secs(15) {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                return Err(io::Error::other(format!("`{program}` does not listen: {}", log.trim())));
            }
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(200));
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the broker said of a panic, in its log.
    pub fn panic(&self) -> Option<String> {
        self.child.as_ref()?;
        let log = fs::read_to_string(self.log()).ok()?;
        let mut lines = log.lines().skip_while(|line| !line.contains("panicked at"));
        let place = lines.next()?;
        let thread = place.split('\'').nth(1).unwrap_or("?");
        let place = place.rsplit('/').next().unwrap_or(place).trim_end_matches(':');
        Some(format!("thread `{thread}` panicked at {place}: {}", lines.next().unwrap_or_default().trim()))
    }

    /// Resident memory in bytes, when the process is known.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(Path::new("/proc").join(self.process?.to_string()).join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }

    fn end(&mut self) {
        self.kill();
        if self.directory.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("failures: `{}` stays behind: {error}", self.directory.display());
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.end();
    }
}
