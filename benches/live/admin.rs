//! Administration as each broker offers it: REST over a Unix socket here, JSON on a control topic there.
//!
//! In: a change. Out: the broker's answer. A call blocks until the answer is there: its return is "the answer" of
//! everything that is measured.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::{self, Incoming};
use crate::words::{self, Packet};

type Result<T> = std::result::Result<T, String>;

/// Longer than any answer should take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A connection to the administration API.
pub(crate) struct Rest {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Rest {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| format!("{}: {error}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Waits for the socket to appear: a broker listens before it has read its users.
    pub(crate) fn wait_for(path: &Path) -> Result<Self> {
        let started = std::time::Instant::now();
        loop {
            match Self::open(path) {
                Err(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
                outcome => return outcome,
            }
        }
    }

    pub(crate) fn another(&self) -> Result<Self> {
        Self::open(&self.path)
    }

    /// One request; a status that is no success is an error.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) =
            self.exchange(method, path, body).map_err(|error| format!("{method} {path}: {error}"))?;
        if (200..300).contains(&status) { Ok(answer) } else { Err(format!("{method} {path}: {status} {answer}")) }
    }

    fn exchange(&mut self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: local\r\n{kind}content-length: {}\r\n\r\n", body.len());
        self.stream.get_mut().write_all((head + &body).as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok((status, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
    }
}

/// A connection that speaks to mosquitto's dynamic-security plugin.
pub(crate) struct Control {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Control {
    pub(crate) fn open(address: SocketAddr, client_id: &str, login: (&str, &str)) -> Result<Self> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut control = Self { stream, buffer: Vec::new() };
        let mut out = Vec::new();
        words::connect(&mut out, false, client_id, Some(login), true);
        wire::subscribe(&mut out, 1, "$CONTROL/dynamic-security/v1/response", 1);
        control.stream.write_all(&out).map_err(|error| error.to_string())?;
        while control.packet(|packet| matches!(packet, Packet::Suback { code: 0 | 1 }))?.is_none() {}
        Ok(control)
    }

    /// The payload of the next packet when it is a message; `Some` without one when `wanted` says so.
    fn packet(&mut self, wanted: impl Fn(&Packet<'_>) -> bool) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some((packet, length)) = words::decode(false, &self.buffer).map_err(|_| "malformed".to_owned())? {
                let found = match &packet {
                    Packet::Publish { payload, .. } => Some(payload.to_vec()),
                    other => wanted(other).then(Vec::new),
                };
                if let Packet::Connack { code: 1.. } | Packet::Suback { code: 0x80 } = packet {
                    return Err("the control client was refused".to_owned());
                }
                if let Ok(Some((Incoming::Publish { qos: 1, packet_identifier, .. }, _))) = wire::decode(&self.buffer) {
                    let mut out = Vec::new();
                    wire::ack(&mut out, wire::Ack::Puback, packet_identifier);
                    self.stream.write_all(&out).map_err(|error| error.to_string())?;
                }
                self.buffer.drain(..length);
                return Ok(found);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the control client was cut off".to_owned()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(format!("the control client: {error}")),
            }
        }
    }

    pub(crate) fn call(&mut self, commands: &[Value]) -> Result<()> {
        let mut out = Vec::new();
        let command = json!({ "commands": commands }).to_string();
        words::publish(&mut out, false, "$CONTROL/dynamic-security/v1", command.as_bytes());
        self.stream.write_all(&out).map_err(|error| error.to_string())?;
        loop {
            if let Some(answer) = self.packet(|_| false)? {
                let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
                let responses = answer["responses"].as_array().cloned().unwrap_or_default();
                return match responses.iter().find(|response| response.get("error").is_some()) {
                    Some(refused) => Err(format!("dynamic security: {refused}")),
                    None => Ok(()),
                };
            }
        }
    }
}

/// One connection to the plugin for many writers. It answers to everybody who has subscribed to its answers: with a connection
/// for each, each would get the answers of all.
pub(crate) struct SharedControl {
    stream: Mutex<TcpStream>,
    waiting: Arc<Mutex<HashMap<String, Sender<Result<()>>>>>,
    calls: AtomicU64,
}

impl SharedControl {
    pub(crate) fn new(mut control: Control) -> Result<Arc<Self>> {
        let stream = control.stream.try_clone().map_err(|error| error.to_string())?;
        let waiting = Arc::<Mutex<HashMap<String, Sender<Result<()>>>>>::default();
        let answered = Arc::clone(&waiting);
        std::thread::spawn(move || {
            // Ends with the connection; whoever still waits finds its sender gone.
            while let Ok(packet) = control.packet(|_| false) {
                let answer: Value = packet.and_then(|answer| serde_json::from_slice(&answer).ok()).unwrap_or_default();
                for response in answer["responses"].as_array().into_iter().flatten() {
                    let name = response["correlationData"].as_str().unwrap_or_default();
                    let Some(sender) = answered.lock().unwrap_or_else(PoisonError::into_inner).remove(name) else {
                        continue;
                    };
                    let refused = response.get("error").map(|_| format!("dynamic security: {response}"));
                    // Nobody hears it who has given up.
                    let _unheard = sender.send(refused.map_or(Ok(()), Err));
                }
            }
            answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Arc::new(Self { stream: Mutex::new(stream), waiting, calls: AtomicU64::new(0) }))
    }

    pub(crate) fn call(&self, mut command: Value) -> Result<()> {
        let name = self.calls.fetch_add(1, Ordering::Relaxed).to_string();
        command["correlationData"] = name.clone().into();
        let (sender, answer) = channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(name, sender);
        let mut out = Vec::new();
        let commands = json!({ "commands": [command] }).to_string();
        words::publish(&mut out, false, "$CONTROL/dynamic-security/v1", commands.as_bytes());
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(&out).map_err(|error| error.to_string())?;
        drop(stream);
        answer.recv_timeout(PATIENCE).map_err(|_| "the control client got no answer".to_owned())?
    }
}
