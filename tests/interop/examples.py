"""The examples that enrol a device, and the ready client of the binary, as a reader would run them.

Each runs against a real broker: with a claim token it is granted at once, and once; without, it finds the registry locked or
open, shows a pairing code that the operator sees too, waits, and is granted. Then its key is its owner's alone, and mosquitto's client logs in with what it wrote.
"""

import os
import pathlib
import subprocess
import sys
import time

from harness import REPOSITORY, WAIT, Broker, binary, chapter, check, directory, equal, main, run, spawn

EXAMPLES = REPOSITORY / "examples"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
ROLE = '{"context":"mqtt","operation":"read_write","resource":"plant/${username}/#"}'


def commands(broker, suffix="1"):
    url, ca = f"mqtts://localhost:{broker.tls}", str(broker.ca)
    ready = [binary(), "device", "enrol", "--broker", url, "--ca", ca]
    return {
        f"py-{suffix}": [sys.executable, EXAMPLES / "enrol.py", f"py-{suffix}", url, ca],
        f"mjs-{suffix}": ["node", EXAMPLES / "enrol.mjs", f"mjs-{suffix}", url, ca],
        f"shell-{suffix}": ["sh", EXAMPLES / "enrol.sh", f"shell-{suffix}", "localhost", str(broker.tls), ca],
        f"rust-{suffix}": [TARGET / "debug" / "examples" / "enrol", f"rust-{suffix}", url, ca],
        f"ready-{suffix}": [*ready, f"ready-{suffix}"],
    }


def pending(broker, name):
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        found = [item for item in broker.cli("registry", "list")["items"] if item["username"] == name]
        if found:
            return found[0]
        time.sleep(0.1)
    return None


def enrol(broker, name, command):
    chapter(name)
    place = directory()
    log = place / "said"
    with open(log, "wb") as said:
        process = spawn(*command, cwd=place, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                        env={**os.environ, "POLL": "1"})
    request = pending(broker, name)
    if not check(request is not None, "asks to be registered", log.read_text()):
        return
    deadline = time.monotonic() + WAIT
    while request["pairing_code"] not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    check(request["pairing_code"] in log.read_text(), "shows the pairing code that the operator sees", log.read_text())
    broker.cli("registry", "grant", request["id"], "--role", "line")
    try:
        equal(process.wait(timeout=WAIT), 0, "is granted, and ends with 0")
    except subprocess.TimeoutExpired:
        check(False, "is granted, and ends", log.read_text())
        return
    check("granted" in log.read_text(), "says so", log.read_text())
    key, certificate = place / f"{name}.key", place / f"{name}.pem"
    equal(oct(key.stat().st_mode & 0o777), "0o600", "keeps its key to itself")
    equal(oct(certificate.stat().st_mode & 0o777), "0o600", "and its certificate")
    login = publishing(broker, key, certificate)
    equal(run(*login, "-t", f"plant/{name}/speed", expect=None).returncode, 0, "publishes where it may")
    refused = run(*login, "-t", "plant/other/speed", expect=None)
    check(b"Not authorized" in refused.stderr + refused.stdout, "and not where it may not", refused)
    if name == "ready-1":
        renew(broker, name, place, login)


def publishing(broker, key, certificate):
    return ["mosquitto_pub", "-h", "localhost", "-p", broker.tls, "--cafile", broker.ca, "--cert", certificate,
            "--key", key, "-V", "5", "-q", "1", "-m", "1"]


def with_token(broker):
    """A claim token of one use for each: nobody decides, the registry is locked, and the second device gets nothing."""
    for (name, command), (late, late_command) in zip(commands(broker, "2").items(), commands(broker, "3").items()):
        chapter(f"{name} with a claim token")
        place = directory()
        secret = place / "token"
        secret.write_text(broker.cli("registry", "token", "create", "--role", "line", "--username", f"{name[:-2]}-*")["token"] + "\n")
        secret.chmod(0o600)
        more = ["--token-file", secret] if name.startswith("ready") else []
        environment = {**os.environ, "POLL": "1", "TOKEN_FILE": str(secret)}

        def asks(command):
            return run(*command, *more, cwd=place, env=environment, expect=None)

        done = asks(command)
        equal(done.returncode, 0, "is granted at once, and ends with 0")
        check(b"granted" in done.stdout and b"pending" not in done.stdout, "without a pairing code or an operator", done)
        key, certificate = place / f"{name}.key", place / f"{name}.pem"
        equal(oct(key.stat().st_mode & 0o777), "0o600", "keeps its key to itself")
        equal(run(*publishing(broker, key, certificate), "-t", f"plant/{name}/speed", expect=None).returncode, 0, "publishes with the role of the token")

        done = asks(late_command)
        check(done.returncode != 0 and done.returncode < 128, "another device with the same token is refused", done)
        said = done.stdout + done.stderr
        check(b"token" in said and b"granted" not in said, "with a sentence that says why", said)
        check(secret.read_bytes().strip() not in said, "and without the secret", said)
        check(not (place / f"{late}.pem").exists(), "and nothing is written in place of a certificate")
    equal([item["username"] for item in broker.cli("registry", "list")["items"]], [], "no request is left to decide")


def renew(broker, name, place, login):
    """The ready client renews: the new pair is good, and the old one no more."""
    chapter(f"{name} renews")
    old = place / "old"
    old.mkdir()
    for suffix in ("key", "pem"):
        (old / f"{name}.{suffix}").write_bytes((place / f"{name}.{suffix}").read_bytes())
    ready = [binary(), "device", "renew", name, "--broker", f"mqtts://localhost:{broker.tls}", "--directory", place]
    equal(run(*ready, "--if-due").stdout, b"", "nothing to do while it is young")
    done = run(*ready)
    check(b"renewed" in done.stdout, "says that it has another certificate", done)
    check((place / f"{name}.pem").read_bytes() != (old / f"{name}.pem").read_bytes(), "it is another one")
    equal(run(*login, "-t", f"plant/{name}/speed", expect=None).returncode, 0, "publishes with it")
    stale = [old / word.name if isinstance(word, pathlib.Path) and word.parent == place else word for word in login]
    check(run(*stale, "-t", f"plant/{name}/speed", expect=None).returncode != 0, "and not with the old one any more")


def story():
    broker = Broker()
    broker.start()
    broker.cli("role", "add", "line", "--permission", ROLE)

    chapter("a registry that is locked")
    place = directory()
    done = run(*commands(broker)["ready-1"], "--wait", "1s", "--directory", place, expect=1)
    check(b"the registry is locked" in done.stdout + done.stderr, "the ready client says so, and gives up in time", done)
    equal(oct((place / "ready-1.key").stat().st_mode & 0o777), "0o600", "its key is made and kept")

    with_token(broker)
    broker.cli("registry", "unlock", "--for", "1h")
    for name, command in commands(broker).items():
        enrol(broker, name, command)
    equal(broker.stop(), 0, "SIGTERM: exit code 0")


if __name__ == "__main__":
    main(story)
