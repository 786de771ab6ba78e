"""What the interop scripts share: a broker in a directory of its own, paho clients that say what happened, checks.

Environment: PORTCULLIS names the binary (default: target/debug/portcullis of this repository).
Enters: the binary. Leaves: one line per check and `N passed, N failed`. Ports are free ones on loopback; every process
that was started is ended by its own handle, whatever happens.
"""

import atexit
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WAIT = 15.0  # seconds until something that has to happen counts as missing
QUIET = 0.7  # seconds without it until something counts as not happening

V311, V5 = 4, 5
VERSION_NAMES = {V311: "3.1.1", V5: "5.0"}


def binary():
    default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "debug" / "portcullis"
    path = pathlib.Path(os.environ.get("PORTCULLIS", default)).resolve()
    if not path.exists():
        sys.exit(f"no broker at {path}: run `cargo build`, or set PORTCULLIS")
    return path


# --- Checks ----------------------------------------------------------------------------------------------------------

_passed, _failed = 0, []


def check(condition, sentence, seen=None):
    """Counts; a failure does not end the script, so that one run tells all."""
    global _passed
    if condition:
        _passed += 1
        print(f"ok    {sentence}", flush=True)
    else:
        _failed.append(sentence)
        print(f"FAIL  {sentence}" + ("" if seen is None else f"\n      seen: {seen!r}"), flush=True)
    return bool(condition)


def equal(seen, expected, sentence):
    return check(seen == expected, sentence, f"{seen!r}, expected {expected!r}")


def chapter(title):
    print(f"\n-- {title}", flush=True)


def main(story):
    """Runs it, and ends the process with 0 when every check passed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        story()
    except Exception:
        traceback.print_exc()
        _failed.append("the script went to its end")
    for sentence in _failed:
        print(f"FAILED: {sentence}")
    print(f"{_passed} passed, {len(_failed)} failed")
    sys.exit(1 if _failed else 0)


# --- Processes -------------------------------------------------------------------------------------------------------

_processes = []
_directories = []


@atexit.register
def _clean():
    for process in _processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)


def directory():
    path = pathlib.Path(tempfile.mkdtemp(prefix="portcullis-interop-"))
    _directories.append(path)
    return path


def spawn(*command, **options):
    process = subprocess.Popen([str(word) for word in command], **options)
    _processes.append(process)
    return process


def run(*command, input=None, expect=0, timeout=60, **options):
    """Runs a command to its end and returns it; anything but the expected exit code is an error of the script."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=input, capture_output=True, timeout=timeout, **options)
    if expect is not None and done.returncode != expect:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done


def openssl(*arguments, **options):
    return run("openssl", *arguments, **options).stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


LISTENERS = """
[[listener]]
name = "mqtts"
bind = "127.0.0.1:{tls}"
tls = true
client_certificate = "optional"
registration = true

[[listener]]
name = "local"
bind = "127.0.0.1:{tcp}"

[metrics]
bind = "off"

[admin]
bind = "127.0.0.1:{api}"
"""


class Broker:
    """A broker process with its directory: broker.toml, data/, certs/, log."""

    def __init__(self, more=""):
        self.directory = directory()
        self.tls, self.tcp, self.api = free_port(), free_port(), free_port()
        self.config = self.directory / "broker.toml"
        self.config.write_text(LISTENERS.format(tls=self.tls, tcp=self.tcp, api=self.api) + more)
        self.log = self.directory / "log"
        self.process = None

    @property
    def ca(self):
        return self.directory / "certs" / "ca.pem"

    def start(self):
        """Returns when the broker has said where it listens; its standard output so far."""
        out = self.directory / "out"
        with open(out, "wb") as stdout, open(self.log, "ab") as stderr:
            self.process = spawn(binary(), "--config", self.config, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the broker ended with {self.process.returncode}:\n{self.log.read_text()}")
            if "trust bundle" in out.read_text():
                return out.read_text()
            time.sleep(0.02)
        raise RuntimeError("the broker does not start")

    def stop(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=30)

    def resident(self):
        """Its resident memory in KiB."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")

    def cli(self, *arguments, input=None, expect=0):
        """The CLI against the running broker: what it answers as JSON, or the finished process where it should fail."""
        data = None if input is None else (input + "\n").encode()
        done = run(binary(), "--config", self.config, "--json", *arguments, input=data or b"", expect=expect)
        if expect == 0:
            return json.loads(done.stdout) if done.stdout.strip() else None
        return done


# --- paho ------------------------------------------------------------------------------------------------------------


class Client:
    """A paho client that keeps what it sees. Codes are those of MQTT 5; paho maps those of 3.1.1 to them."""

    def __init__(self, broker, client_id, version=V5, username=None, password=None, tls=False, certificate=None, key=None,
                 clean=True, expiry=None, will=None, ca=None):
        self.broker, self.version, self.tls, self.clean = broker, version, tls, clean
        self.messages = queue.Queue()
        self.acknowledged, self.subscribed = {}, {}
        self.connack = self.connack_properties = self.session_present = None
        self.ended = None  # ("disconnect", code) from the server, or ("closed", None)
        self.changed = threading.Condition()
        options = {"clean_session": clean} if version == V311 else {}
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version,
                                reconnect_on_failure=False, **options)
        self.properties = None
        if version == V5 and expiry is not None:
            self.properties = Properties(PacketTypes.CONNECT)
            self.properties.SessionExpiryInterval = expiry
        if username is not None:
            self.paho.username_pw_set(username, password)
        if will is not None:
            self.paho.will_set(will[0], will[1], qos=1)
        if tls:
            self.paho.tls_set(ca_certs=str(ca or broker.ca), certfile=certificate and str(certificate),
                              keyfile=key and str(key))
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(self.subscribed, mid, [c.value for c in codes])
        self.paho.on_publish = lambda _c, _u, mid, code, _p: self._note(self.acknowledged, mid, code.value)
        self.paho.on_message = lambda _c, _u, message: self.messages.put(message)

    def _note(self, where, key, value):
        with self.changed:
            where[key] = value
            self.changed.notify_all()

    def _on_connect(self, _client, _userdata, flags, code, properties):
        with self.changed:
            self.connack, self.connack_properties, self.session_present = code.value, properties, flags.session_present
            self.changed.notify_all()

    def _on_disconnect(self, _client, _userdata, flags, code, _properties):
        with self.changed:
            self.ended = ("disconnect", code.value) if flags.is_disconnect_packet_from_server else ("closed", None)
            self.changed.notify_all()

    def _until(self, condition, seconds=WAIT):
        with self.changed:
            self.changed.wait_for(condition, seconds)
            return condition()

    def connect(self, keepalive=60):
        """The code of CONNACK; None when there was none: the connection or its handshake was refused."""
        options = {"clean_start": self.clean, "properties": self.properties} if self.version == V5 else {}
        try:
            self.paho.connect("127.0.0.1", self.broker.tls if self.tls else self.broker.tcp, keepalive, **options)
        except (ssl.SSLError, OSError):
            return None
        self.paho.loop_start()
        self._until(lambda: self.connack is not None or self.ended is not None)
        if self.connack != 0:
            self.paho.loop_stop()
        return self.connack

    def subscribe(self, topic, qos=1):
        """The code of SUBACK."""
        _, mid = self.paho.subscribe(topic, qos)
        self._until(lambda: mid in self.subscribed or self.ended)
        return self.subscribed.get(mid, [None])[0]

    def publish(self, topic, payload, qos=1, retain=False, wait=True, properties=None):
        """The code of PUBACK or PUBREC; None when the connection ended instead. 0 for QoS 0."""
        mid = self.paho.publish(topic, payload, qos=qos, retain=retain, properties=properties).mid
        if wait:
            self._until(lambda: mid in self.acknowledged or self.ended)
        return self.acknowledged.get(mid)

    def message(self, seconds=WAIT):
        """The next message, or None."""
        try:
            return self.messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self, seconds=WAIT):
        """How the server ended the connection, or None when it did not."""
        self._until(lambda: self.ended is not None, seconds)
        return self.ended

    def close(self):
        """An orderly DISCONNECT."""
        self.paho.disconnect()
        self.paho.loop_stop()
        # paho closes the last of its sockets when it goes; what refers to this object again would keep it there for long, and paho
        # can do nothing with a socket whose number is above 1023.
        self.paho.on_connect = self.paho.on_disconnect = self.paho.on_subscribe = self.paho.on_publish = self.paho.on_message = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # The registry's door: JSON both ways.

    def ask(self, operation, **fields):
        """Publishes to a registry operation and returns the answer; one without a status when none came."""
        self.publish(f"$registry/{operation}", json.dumps(fields))
        return self.answer() or {"status": None, "state": None}

    def answer(self, seconds=WAIT):
        message = self.message(seconds)
        return json.loads(message.payload) if message else None
