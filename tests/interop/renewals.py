"""Other people's clients through the life of a certificate, with every kind of key that openssl makes for it.

paho, MQTT.js and the mosquitto clients each enrol, renew in session and connect with the renewed certificate, after which
the old one opens nothing any more. Each certificate is verified by openssl and by Python's `cryptography`, for the key that
openssl has made. Enters: the binary (see harness.py). Leaves: checks.

Environment: NODE_PATH names the directory that holds the npm package mqtt.
"""

import json
import os
import pathlib
import subprocess
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from harness import WAIT, Broker, Client, chapter, check, equal, main, openssl, run

CONFIG = """
[registry]
requests_per_minute = 6000

[[role]]
name = "line"
permissions = [{ context = "mqtt", operation = "read_write", resource = "plant/${username}/#" }]
"""
KEYS = {
    "p256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "ed25519": ("ED25519",),
    "rsa2048": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "rsa4096": ("RSA", "-pkeyopt", "rsa_keygen_bits:4096"),
}


class Pair:
    """A key that openssl made, its request, and the certificate once there is one."""

    def __init__(self, broker, name, generation, algorithm):
        stem = broker.directory / f"{name}-{generation}"
        self.name, (self.key, self.csr, self.certificate) = name, [stem.with_suffix(end) for end in (".key", ".csr", ".pem")]
        openssl("genpkey", "-algorithm", *algorithm, "-out", self.key)
        openssl("req", "-new", "-key", self.key, "-subj", f"/CN={name}", "-out", self.csr)


class Paho:
    """paho-mqtt in this process."""

    def __init__(self, broker):
        self.broker = broker

    def _client(self, pair):
        files = {"certificate": pair.certificate, "key": pair.key} if pair else {}
        return Client(self.broker, pair.name if pair else "", tls=True, **files)

    def ask(self, operation, fields, pair=None):
        with self._client(pair) as client:
            client.connect()
            client.subscribe(f"$registry/{operation}/response")
            return client.ask(operation, **fields)

    def publish(self, topic, pair):
        with self._client(pair) as client:
            return client.connect() == 0 and client.publish(topic, "1") in (0, 0x10)  # nobody need listen


class Mosquitto:
    """mosquitto_rr and mosquitto_pub."""

    def __init__(self, broker):
        self.common = ["-h", "localhost", "-p", broker.tls, "--cafile", broker.ca, "-V", "5"]

    def _words(self, pair):
        return self.common + (["--cert", pair.certificate, "--key", pair.key] if pair else [])

    def ask(self, operation, fields, pair=None):
        topic = f"$registry/{operation}"
        done = run("mosquitto_rr", *self._words(pair), "-W", 15, "-t", topic, "-e", f"{topic}/response", "-m", json.dumps(fields), expect=None)
        return json.loads(done.stdout) if done.stdout else {"status": None, "said": done.stderr}

    def publish(self, topic, pair):
        done = run("mosquitto_pub", *self._words(pair), "-q", "1", "-t", topic, "-m", "1", expect=None)
        return done.returncode == 0 and b"Not authorized" not in done.stdout + done.stderr


class MqttJs:
    """MQTT.js under Node."""

    def __init__(self, broker):
        self.environment = dict(os.environ, URL=f"mqtts://localhost:{broker.tls}", VERSION="5", CA=str(broker.ca))
        self.script = pathlib.Path(__file__).with_name("client.cjs")

    def _run(self, pair, *words):
        files = {"CERTIFICATE": str(pair.certificate), "KEY": str(pair.key)} if pair else {}
        return subprocess.run(["node", self.script, *words], env=self.environment | files, capture_output=True, timeout=30)

    def ask(self, operation, fields, pair=None):
        done = self._run(pair, "ask", operation, json.dumps(fields))
        return json.loads(done.stdout) if done.returncode == 0 else {"status": None, "said": done.stderr}

    def publish(self, topic, pair):
        return self._run(pair, "publish", topic, "1", "1", "0").returncode == 0


def collect(broker, pair, answer, what):
    """Keeps the certificate of an answer, and has others verify it."""
    if not equal(answer["status"], 201, f"{what}: a certificate") or not check("certificate" in answer, f"{what}: in the answer", answer):
        return False
    pair.certificate.write_text(answer["certificate"] + answer["chain"])
    done = run("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", broker.ca, pair.certificate, expect=None)
    equal(done.returncode, 0, f"{what}: openssl verifies it as one of a TLS client")
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer["ca"].encode()))
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None).public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    equal(certificate.public_key().public_bytes(*form), key.public_bytes(*form), f"{what}: cryptography verifies it for the key that openssl made")
    return True


def retired(broker, name):
    """Until one certificate alone is in force."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        records = broker.cli("user", "show", name)["certificates"]
        reasons = [record.get("reason") for record in records]
        if reasons.count(None) == 1 and len(reasons) == 2:
            return reasons
        time.sleep(0.1)
    return reasons


def life(broker, client, kind, name):
    first, second = (Pair(broker, name, generation, KEYS[kind]) for generation in (1, 2))
    question = {"username": name, "csr": first.csr.read_text()}
    pending = client.ask("register", question)
    if not check(pending["status"] == 202, f"{kind}: on record", pending):
        return
    request = next(item["id"] for item in broker.cli("registry", "list")["items"] if item["username"] == name)
    broker.cli("registry", "grant", request, "--role", "line")
    if not collect(broker, first, client.ask("register", question), f"{kind}, enrolled"):
        return
    topic = f"plant/{name}/speed"
    check(client.publish(topic, first), f"{kind}: connects and publishes with it")

    question = {"csr": second.csr.read_text()}
    renewed = client.ask("renew", question, first)
    if not collect(broker, second, renewed, f"{kind}, renewed in session"):
        return
    again = client.ask("renew", question, first)
    equal(again.get("certificate"), renewed["certificate"], f"{kind}: an answer that is lost is asked for again")
    check(client.publish(topic, second), f"{kind}: connects again with the renewed one")
    equal(sorted(map(str, retired(broker, name))), ["None", "superseded"], f"{kind}: the old one is retired")
    check(not client.publish(topic, first), f"{kind}: and opens nothing any more")
    check(client.publish(topic, second), f"{kind}: while the new one does")


def story():
    broker = Broker(CONFIG)
    broker.start()
    broker.cli("registry", "unlock", "--for", "1h")
    for client in (Paho(broker), Mosquitto(broker), MqttJs(broker)):
        chapter(client.__doc__)
        for kind in KEYS:
            life(broker, client, kind, f"{type(client).__name__.lower()}-{kind}")
    equal(broker.stop(), 0, "SIGTERM: exit code 0")


if __name__ == "__main__":
    main(story)
