"""Another CA under load: a fleet of paho clients that reconnect all the time while the CA is rotated, they renew, and the old one is retired.

Enters: the binary (see harness.py). Leaves: checks. Every single connection is counted, and none may fail: not one handshake, not one CONNACK.
"""

import collections
import json
import random
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import Broker, Client, chapter, check, equal, main, run

DEVICES = 50
ROUNDS = 3  # connections of each device in each phase, at least
PATIENCE = 240.0  # seconds for a phase on a busy machine
SETTINGS = "\n[registry]\nrequests_per_minute = 100000\n"


def request(name):
    """A key and a CSR for it, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, csr.public_bytes(serialization.Encoding.PEM).decode()


class Device(threading.Thread):
    """Connects, stays a moment, disconnects, again and again, with what it keeps: key, certificate, roots."""

    def __init__(self, fleet, name, token):
        super().__init__(daemon=True)
        self.fleet, self.device, self.token = fleet, name, token
        self.key, self.certificate, self.roots = (fleet.broker.directory / f"{name}.{end}" for end in ("key", "pem", "roots"))
        self.connections = collections.Counter()  # by phase
        self.failures, self.pushed, self.renewed = [], 0, False

    def keep(self, key, answer):
        self.key.write_bytes(key)
        self.certificate.write_text(answer["certificate"] + answer["chain"])
        self.roots.write_text(answer["ca"])

    def enrol(self):
        key, csr = request(self.device)
        client = Client(self.fleet.broker, "", tls=True)
        client.connect()
        client.subscribe("$registry/register/response")
        answer = client.ask("register", username=self.device, csr=csr, token=self.token)
        client.close()
        if answer["status"] != 201:
            raise RuntimeError(f"{self.device} is not granted: {answer}")
        self.keep(key, answer)

    def run(self):
        try:
            while not self.fleet.stop.is_set():
                self.once(self.fleet.phase)
        except Exception as error:  # a thread that ends unseen would count as no failure
            self.failures.append(repr(error))

    def once(self, phase):
        client = Client(self.fleet.broker, self.device, tls=True, certificate=self.certificate, key=self.key, ca=self.roots)
        code = client.connect()
        if code != 0:
            self.failures.append((phase, code, client.ended))
            return
        client.subscribe("$registry/+/response")
        if phase == "renew" and not self.renewed:
            key, csr = request(self.device)
            client.publish("$registry/renew", json.dumps({"csr": csr}))
            answer = client.answer()
            while answer and "certificate" not in answer and answer["status"] == 200:
                answer = client.answer()  # the bundle, pushed meanwhile
            if not answer or answer["status"] != 201:
                self.failures.append((phase, answer, client.ended))
            else:
                self.keep(key, answer)
                self.renewed = True
        time.sleep(random.uniform(0.05, 0.3))
        # A new trust bundle comes by itself to whoever is there.
        while not client.messages.empty():
            self.pushed += client.messages.get().topic == "$registry/ca/response"
        if client.ended:
            self.failures.append((phase, "ended", client.ended))
        client.close()
        self.connections[phase] += 1


class Fleet:
    def __init__(self):
        self.broker = Broker(SETTINGS)
        self.broker.start()
        self.stop, self.phase = threading.Event(), "before"
        token = self.broker.cli("registry", "token", "create", "--uses", DEVICES)["token"]
        self.devices = [Device(self, f"pump-{number:03}", token) for number in range(DEVICES)]
        for device in self.devices:
            device.enrol()

    def through(self, phase, done=lambda device: True):
        """Lets the fleet reconnect until each device has done so often enough, and what else there is."""
        self.phase = phase
        deadline = time.monotonic() + PATIENCE
        ready = lambda device: device.connections[phase] >= ROUNDS and done(device)
        while not all(map(ready, self.devices)) and time.monotonic() < deadline and all(map(Device.is_alive, self.devices)):
            time.sleep(0.1)
        late = [device.device for device in self.devices if not ready(device)]
        check(not late, f"{phase}: each of {DEVICES} devices has reconnected {ROUNDS} times at least", late)


def story():
    chapter("a fleet that reconnects while the CA changes")
    fleet = Fleet()
    broker = fleet.broker
    before = broker.cli("ca", "show")
    equal(before["certificates"]["live"], DEVICES, "every device has a certificate of the first CA")
    first = broker.directory / "first.pem"
    first.write_bytes(broker.ca.read_bytes())
    for device in fleet.devices:
        device.start()

    fleet.through("before")
    rotated = broker.cli("ca", "rotate")
    equal(rotated["former"]["certificates"], DEVICES, "rotated: all of them live on the old one")
    fleet.through("rotated")
    fleet.through("renew", lambda device: device.renewed)
    deadline = time.monotonic() + PATIENCE
    while (left := broker.cli("ca", "show")["former"]["certificates"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    equal(left, 0, "renewed: the report says that nobody lives on the old one any more")
    equal(broker.cli("ca", "living", before["key_identifier"])["items"], [], "and lists nobody")
    retired = broker.cli("ca", "retire", before["key_identifier"])
    check(retired.get("former") is None, "retired, without force", retired)
    fleet.through("retired")
    shows = lambda: run("openssl", "s_client", "-connect", f"127.0.0.1:{broker.tls}", "-CAfile", first, "-verify_return_error", input=b"", expect=None).returncode == 0
    deadline = time.monotonic() + PATIENCE
    while shows() and time.monotonic() < deadline:
        time.sleep(0.2)
    check(not shows(), "the broker shows a certificate of the new CA")
    fleet.through("after")

    fleet.stop.set()
    for device in fleet.devices:
        device.join(timeout=60)
    connections = sum((device.connections for device in fleet.devices), collections.Counter())
    failures = [failure for device in fleet.devices for failure in device.failures]
    print(f"      {sum(connections.values())} connections: {dict(connections)}", flush=True)
    equal((len(failures), failures[:5]), (0, []), "not one connection has failed or was ended")
    check(sum(device.pushed for device in fleet.devices) > 0, "the new trust bundle was pushed to whoever was there")
    newest = x509.load_pem_x509_certificate(broker.ca.read_bytes())
    for device in fleet.devices:
        x509.load_pem_x509_certificates(device.certificate.read_bytes())[0].verify_directly_issued_by(newest)
    equal(broker.cli("ca", "show")["certificates"]["live"], DEVICES, "and every device has one certificate that is good, of the new CA")
    equal(broker.stop(), 0, "SIGTERM: exit code 0")


if __name__ == "__main__":
    main(story)
