"""The whole story of a device, told by foreign clients only: openssl, paho, mosquitto, and the operator at the CLI.

A device makes a key and a request, finds the registry locked, waits with a pairing code that it computes itself, is
granted a role, and works with its certificate; what it may not do is refused in both versions of MQTT; and whoever
comes with another certificate, another key or another password stays outside.
"""

import base64
import datetime
import hashlib
import http.client
import json
import re
import signal
import ssl
import subprocess

import cbor2
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import (V311, V5, VERSION_NAMES, Broker, Client, binary, chapter, check, equal, main, openssl, run, spawn)

STRONG = "correct horse battery staple"
RESPONSES = "$registry/+/response"
CROCKFORD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ")
TAKEN = (0, 0x10)  # success, and success without anybody who listens
BAD_CREDENTIALS, NOT_AUTHORIZED = 0x86, 0x87


def rule(operation, resource, context="mqtt", **more):
    return json.dumps({"context": context, "operation": operation, "resource": resource, **more})


class Device:
    """A key that never leaves its directory, and requests for it: all made by openssl."""

    def __init__(self, directory, name, algorithm=("EC", "-pkeyopt", "ec_paramgen_curve:P-256"), file=None):
        self.name = name
        file = file or name
        self.key, self.certificate = directory / f"{file}.key", directory / f"{file}.pem"
        self.csr = directory / f"{file}.csr"
        openssl("genpkey", "-algorithm", *algorithm, "-out", self.key)
        openssl("req", "-new", "-key", self.key, "-subj", f"/CN={name}", "-out", self.csr)

    def pairing_code(self):
        """Crockford base32 of the first 80 bits of SHA-256 over the SubjectPublicKeyInfo."""
        spki = openssl("pkey", "-in", self.key, "-pubout", "-outform", "DER")
        code = base64.b32encode(hashlib.sha256(spki).digest()[:10]).decode().translate(CROCKFORD)
        return "-".join(code[at : at + 4] for at in range(0, 16, 4))

    def self_signed(self):
        """A certificate of a CA that nobody here knows."""
        foreign = self.certificate.with_suffix(".foreign.pem")
        openssl("req", "-new", "-x509", "-key", self.key, "-subj", f"/CN={self.name}", "-days", 1, "-out", foreign)
        return foreign

    def signed_by(self, broker, start, end, file):
        """A certificate that the broker's own CA key has signed behind the broker's back."""
        directory = self.key.parent / f"ca-{file}"
        directory.mkdir()
        (directory / "index").touch()
        (directory / "config").write_text(f"""
[ca]
default_ca = rogue
[rogue]
dir = {directory}
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = client
[any]
commonName = supplied
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
""")
        certificate = directory / f"{file}.pem"
        form = "%Y%m%d%H%M%SZ"
        openssl("ca", "-batch", "-notext", "-config", directory / "config", "-in", self.csr, "-out", certificate, "-cert", broker.ca,
                "-keyfile", broker.ca.with_suffix(".key"), "-startdate", start.strftime(form), "-enddate", end.strftime(form))
        return certificate


def enrolling(broker, client_id, version=V5):
    """An unprovisioned client in a registration session, subscribed to its answers."""
    client = Client(broker, client_id, version, tls=True)
    equal(client.connect(), 0, f"a client without credentials ({VERSION_NAMES[version]}) is let in to enrol")
    check(client.subscribe(RESPONSES) in (0, 1, 2), "it may subscribe to the answers of the registry")
    return client


def register(client, device, **more):
    return client.ask("register", username=device.name, csr=device.csr.read_text(), **more)


def request_id(broker, username, state="pending"):
    found = [item["id"] for item in broker.cli("registry", "list", "--state", state)["items"] if item["username"] == username]
    return found[0] if found else None


def door_is_shut(broker, directory):
    chapter("a locked registry")
    device = Device(directory, "station-7")
    client = enrolling(broker, "unprovisioned")
    answer = register(client, device, id="first")
    equal((answer["status"], answer["state"], answer.get("id")), (423, "locked", "first"), "it answers 423 locked, and echoes the id")
    check(answer.get("retry_after", 0) > 0 and answer.get("message"), "it says when to come back, and what to do", answer)
    equal(broker.cli("registry", "list")["items"], [], "nothing is on record")
    check(client.subscribe("plant/#") == NOT_AUTHORIZED, "a client that enrols may subscribe to nothing else")
    equal(client.publish("plant/station-7/x", "x"), NOT_AUTHORIZED, "nor publish")
    return device, client


def enrolment(broker, device, client):
    chapter("the operator opens it; the device waits, and is granted")
    status = broker.cli("registry", "unlock", "--for", "4m")
    equal(status["locked"], False, "`registry unlock` opens it")
    answer = register(client, device, context={"model": "X-1", "says": "\u001b[2J"})
    equal((answer["status"], answer["state"]), (202, "pending"), "the request is pending")
    equal(answer.get("pairing_code"), device.pairing_code(), "its pairing code is the one that the device computed")
    again = register(client, device)
    equal((again["status"], again.get("pairing_code")), (202, answer.get("pairing_code")), "asking again is polling")

    request = request_id(broker, device.name)
    shown = broker.cli("registry", "show", request)
    equal((shown["pairing_code"], shown["context"]["model"], shown["state"]), (device.pairing_code(), "X-1", "pending"),
          "the operator sees the code and what the device says of itself")
    text = run_text(broker, "registry", "show", request)
    check("\x1b" not in text, "and no escape sequence of the device reaches the operator's terminal", text)

    broker.cli("role", "add", "station", "--permission", rule("write", "plant/${username}/#"), "--permission", rule("read", "plant/alerts/#"))
    broker.cli("registry", "grant", request, "--role", "station")
    pushed = client.answer()
    equal(pushed and (pushed["status"], pushed["state"], pushed["username"]), (201, "granted", device.name), "the decision is pushed on the same connection")
    device.certificate.write_text(pushed["certificate"] + pushed.get("chain", ""))
    again = register(client, device)
    equal((again["status"], again.get("certificate")), (201, pushed["certificate"]), "asking once more gives the same certificate")
    client.close()
    equal(broker.cli("user", "show", device.name)["auth"], "certificate", "the new user proves itself by certificate")
    return pushed


def run_text(broker, *arguments):
    return run(binary(), "--config", broker.config, *arguments).stdout.decode()


def certificate_profile(broker, device, answer):
    chapter("the certificate, read by openssl")
    ca = device.key.with_suffix(".ca.pem")
    ca.write_text(answer["ca"])
    equal(answer["ca"].strip(), broker.ca.read_text().strip(), "`ca` is the trust bundle of the broker")
    done = run("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", ca, device.certificate, expect=None)
    equal(done.returncode, 0, "openssl verifies it for clients, strictly")
    done = run("openssl", "verify", "-purpose", "sslserver", "-CAfile", ca, device.certificate, expect=None)
    check(done.returncode != 0, "and refuses it for servers")

    text = openssl("x509", "-in", device.certificate, "-noout", "-text").decode()

    def extension(name):
        found = re.search(rf"X509v3 {name}:( critical)?\s*\n\s*(.*)", text)
        return found and found.group(2).strip()

    check("Version: 3" in text, "X.509 version 3")
    subject = openssl("x509", "-in", device.certificate, "-noout", "-subject", "-nameopt", "RFC2253").decode().strip()
    equal(subject, f"subject=CN={device.name}", "the subject is the CN alone")
    equal(extension("Extended Key Usage"), "TLS Web Client Authentication", "extended key usage: clientAuth alone")
    equal(extension("Key Usage"), "Digital Signature", "key usage: digitalSignature alone")
    equal(extension("Basic Constraints"), "CA:FALSE", "not a CA")
    authority = openssl("x509", "-in", broker.ca, "-noout", "-ext", "subjectKeyIdentifier").decode().split()[-1]
    check(extension("Subject Key Identifier"), "it has a subject key identifier")
    check(authority in (extension("Authority Key Identifier") or ""), "its authority key identifier is the CA's", extension("Authority Key Identifier"))
    check("Subject Alternative Name" not in text, "nothing else of the request is taken over")
    serial = openssl("x509", "-in", device.certificate, "-noout", "-serial").decode().strip().split("=")[1]
    check(len(serial) >= 30 and serial.lower().lstrip("0") == answer["serial"].lower().lstrip("0"), "its serial number is long, and the one that was told", (serial, answer["serial"]))

    def date(which):
        words = openssl("x509", "-in", device.certificate, "-noout", f"-{which}").decode().strip().split("=")[1]
        return datetime.datetime.strptime(words, "%b %d %H:%M:%S %Y %Z")

    back = datetime.datetime.utcnow() - date("startdate")
    check(datetime.timedelta(minutes=4, seconds=30) < back < datetime.timedelta(minutes=7), "it is valid from five minutes ago", back)
    life = date("enddate") - datetime.datetime.utcnow()
    check(datetime.timedelta(days=89, hours=23) < life <= datetime.timedelta(days=90, minutes=1), "for 90 days", life)
    public = openssl("x509", "-in", device.certificate, "-noout", "-pubkey")
    equal(public, openssl("pkey", "-in", device.key, "-pubout"), "it holds the key of the device")


def work(broker, device):
    chapter("the device works: its certificate, no password")
    broker.cli("user", "add", "historian", "--password-stdin", "--permission", rule("read", "plant/#"), input=STRONG)
    listener = spawn("stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", broker.tls, "--cafile", broker.ca, "-u", "historian", "-P", STRONG,
                     "-t", "plant/#", "-q", 1, "-d", "-W", 60, "-F", "MESSAGE %t %p", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check(any("Subscribed (mid" in line for line in listener.stdout), "mosquitto_sub is subscribed, by password")

    for version in (V5, V311):
        name = VERSION_NAMES[version]
        client = Client(broker, f"station-{version}", version, tls=True, certificate=device.certificate, key=device.key)
        equal(client.connect(), 0, f"{name}: the device is in with its certificate")
        check(client.subscribe("$registry/whoami/response") in (0, 1, 2), f"{name}: it subscribes to the answers of `whoami`")
        me = client.ask("whoami")
        equal(me and (me["status"], me.get("username")), (200, device.name), f"{name}: `whoami` knows it")
        for qos in (0, 1, 2):
            equal(client.publish(f"plant/{device.name}/t{version}{qos}", f"{21 + qos}", qos), 0, f"{name}: it publishes where it may, QoS {qos}")
            expected = f"MESSAGE plant/{device.name}/t{version}{qos} {21 + qos}"
            seen = next((line.strip() for line in listener.stdout if line.startswith("MESSAGE")), None)
            equal(seen, expected, f"{name}: mosquitto_sub receives it")
        equal(client.subscribe("plant/alerts/#"), 1, f"{name}: it subscribes where it may")
        refusal = NOT_AUTHORIZED if version == V5 else 0x80
        for filter in ("plant/#", "#", f"plant/{device.name}/#", "$SYS/#", "$registry/events/#"):
            equal(client.subscribe(filter), refusal, f"{name}: SUBSCRIBE to {filter} is refused")
        if version == V5:
            equal(client.publish("plant/station-8/t", "x", 1), NOT_AUTHORIZED, f"{name}: PUBLISH elsewhere gets 0x87")
            # paho goes on with PUBREL after a PUBREC that refuses, and reports the PUBCOMP: mosquitto_pub tells what came first.
            done = run("mosquitto_pub", "-h", "127.0.0.1", "-p", broker.tls, "--cafile", broker.ca, "--cert", device.certificate, "--key", device.key,
                       "-V", "mqttv5", "-q", 2, "-t", "plant/station-8/t", "-m", "x", "-d", expect=None)
            check(b"received PUBREC (Mid: 1, RC:135)" in done.stdout or b"Not authorized" in done.stderr, f"{name}: so it does with QoS 2", done)
            client.publish("plant/station-8/t", "x", 0)
            equal(client.publish(f"plant/{device.name}/after", "x"), 0, f"{name}: and the connection stays")
            equal(client.publish("$SYS/broker", "x"), NOT_AUTHORIZED, f"{name}: $SYS is the broker's")
            equal(next((line.strip() for line in listener.stdout if line.startswith("MESSAGE")), None),
                  f"MESSAGE plant/{device.name}/after x", f"{name}: nothing of what was refused is received")
            client.close()
        else:
            equal(client.publish("plant/station-8/t", "x"), None, f"{name}: PUBLISH elsewhere is not acknowledged")
            equal(client.end(), ("closed", None), f"{name}: the connection is closed")
            client.paho.loop_stop()
        said = broker.cli("explain", device.name, "publish", f"plant/{device.name}/x")
        equal(said["allowed"], True, f"{name}: `explain` says why it may")
    denied = broker.cli("explain", device.name, "publish", "plant/station-8/x", expect=1)
    equal(json.loads(denied.stdout)["allowed"], False, "`explain` says that it may not, with exit code 1")
    listener.terminate()
    listener.wait()


def impostors(broker, device, directory):
    chapter("certificates that do not count")
    now = datetime.datetime.utcnow()
    day = datetime.timedelta(days=1)
    stranger = Device(directory, "stranger")
    cases = [
        ("a certificate of a foreign CA", device, device.self_signed(), {None}),
        ("an expired certificate of the broker's CA", device, device.signed_by(broker, now - 9 * day, now - day, "expired"), {None}),
        ("one that is not valid yet", device, device.signed_by(broker, now + day, now + 9 * day, "early"), {None}),
        ("a CN without a user", stranger, stranger.signed_by(broker, now - day, now + day, "stranger"), {BAD_CREDENTIALS, NOT_AUTHORIZED}),
        ("one for a user that the CA never issued", device, device.signed_by(broker, now - day, now + day, "unrecorded"), {BAD_CREDENTIALS, NOT_AUTHORIZED}),
    ]
    for version in (V5, V311):
        for sentence, owner, certificate, codes in cases:
            client = Client(broker, "impostor", version, tls=True, certificate=certificate, key=owner.key)
            code = client.connect()
            check(code in codes, f"{VERSION_NAMES[version]}: {sentence} is refused", code)
    for version in (V5, V311):
        name = VERSION_NAMES[version]
        other = Client(broker, "other", version, "historian", tls=True, certificate=device.certificate, key=device.key)
        check(other.connect() in (BAD_CREDENTIALS, NOT_AUTHORIZED), f"{name}: a certificate with the name of another user is refused", other.connack)
        password = Client(broker, "password", version, device.name, STRONG, tls=True)
        equal(password.connect(), BAD_CREDENTIALS, f"{name}: a password for a certificate user is refused")
        wrong = Client(broker, "wrong", version, "historian", "wrong " + STRONG, tls=True)
        equal(wrong.connect(), BAD_CREDENTIALS, f"{name}: a wrong password is refused")
        nobody = Client(broker, "nobody", version, "nobody", STRONG, tls=True)
        equal(nobody.connect(), BAD_CREDENTIALS, f"{name}: so is an unknown user, by the same code")
        plain = Client(broker, "plain", version)
        check(plain.connect() in (BAD_CREDENTIALS, NOT_AUTHORIZED), f"{name}: without credentials the plain listener lets nobody in", plain.connack)
    good = Client(broker, "good", tls=True, certificate=device.certificate, key=device.key)
    equal(good.connect(), 0, "and the device itself is still let in")
    good.close()


def other_requests(broker, device, directory):
    chapter("passwords, conflicts, denials, bad input")
    broker.cli("registry", "unlock", "--for", "4m")
    client = enrolling(broker, "many", V311)
    answer = client.ask("register", username="pump-1", password=STRONG)
    equal((answer["status"], answer["state"]), (202, "pending"), "a password can be registered")
    check(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", answer.get("pairing_code", "")), "the broker draws a pairing code", answer)
    equal(client.ask("register", username="pump-1", password="another " + STRONG)["status"], 409, "the same name with another password is a conflict")
    thief = Device(directory, "pump-1", file="thief")
    equal(register(client, thief)["status"], 409, "so it is with a key")
    equal(register(client, Device(directory, device.name, file="usurper"))["status"], 409, "nobody takes the name of a user that exists")
    broker.cli("registry", "grant", request_id(broker, "pump-1"), "--permission", rule("read_write", "pumps/${username}/#"))
    pushed = client.answer()
    equal(pushed and (pushed["status"], pushed["state"]), (201, "granted"), "it is granted, and told")
    with Client(broker, "pump", V5, "pump-1", STRONG, tls=True) as pump:
        equal(pump.connect(), 0, "the pump logs in with its password")
        check(pump.publish("pumps/pump-1/rpm", "1450") in TAKEN, "and may do what it was granted")
        equal(pump.publish("pumps/pump-2/rpm", "1450"), NOT_AUTHORIZED, "and nothing else")

    unwanted = Device(directory, "unwanted", ("ED25519",))
    equal(register(client, unwanted)["status"], 202, "an Ed25519 key is admitted")
    broker.cli("registry", "deny", request_id(broker, "unwanted"), "--reason", "not ours: ask at gate 3")
    pushed = client.answer()
    equal(pushed and (pushed["status"], pushed["state"]), (403, "denied"), "a denial is pushed")
    check("gate 3" in json.dumps(pushed), "with the reason", pushed)
    equal(register(client, unwanted)["status"], 403, "and stands when it is asked again")

    equal(client.ask("register", username="pump-3", password="short")["status"], 400, "a weak password is refused")
    equal(client.ask("register", username="admin", password=STRONG)["status"], 400, "a reserved name is refused")
    equal(client.ask("register", username="a/b", password=STRONG)["status"], 400, "so is one that is no name")
    misfit = Device(directory, "pump-4")
    equal(client.ask("register", username="pump-5", csr=misfit.csr.read_text())["status"], 400, "the CN of the request has to be the username")
    weak = Device(directory, "pump-6", ("RSA", "-pkeyopt", "rsa_keygen_bits:1024"))
    equal(register(client, weak)["status"], 400, "a weak key is refused")
    client.publish("$registry/register", "{ no json")
    answer = client.answer()
    equal(answer and answer["status"], 400, "so is what is no JSON")
    check(answer and answer.get("error") and answer.get("message"), "with a word and a sentence", answer)
    bundle = client.ask("ca")
    check(bundle and broker.ca.read_text().strip() in bundle.get("ca", ""), "`ca` gives the trust bundle to a client that has none", bundle)
    client.close()


def in_cbor(broker, directory):
    chapter("a device that speaks CBOR")
    client = enrolling(broker, "small")
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/cbor"

    def told():
        message = client.message()
        check(message and getattr(message.properties, "ContentType", None) == "application/cbor", "the answer is CBOR, and says so", message)
        return cbor2.loads(message.payload) if message else {}

    device = Device(directory, "small-1")
    client.publish("$registry/register", cbor2.dumps({"username": device.name, "csr": device.csr.read_text(), "id": 3}), properties=properties)
    answer = told()
    equal((answer.get("status"), answer.get("id"), answer.get("pairing_code")), (202, 3, device.pairing_code()), "a request in CBOR waits for its decision")
    broker.cli("registry", "grant", request_id(broker, device.name))
    answer = told()
    equal((answer.get("status"), answer.get("id")), (201, 3), "the decision is pushed")
    check(str(answer.get("certificate")).startswith("-----BEGIN CERTIFICATE-----"), "with the certificate", answer)
    client.publish("$registry/register", b"\xa1\x61", properties=properties)
    equal((told().get("status")), 400, "half a map is refused")
    client.close()


def by_connecting():
    chapter("a client that can do nothing but connect")
    broker = Broker()
    broker.start()

    def connect(name, password, version=V5):
        client = Client(broker, "lamp", version, name, password, tls=True)
        code = client.connect()
        reason = getattr(client.connack_properties, "ReasonString", "") if version == V5 else ""
        if code == 0:
            client.close()
        return code, reason

    equal(connect("lamp-1", STRONG)[0], BAD_CREDENTIALS, "while the door is shut, an unknown name is a wrong one")
    broker.cli("registry", "unlock", "--for", "4m")
    equal(connect("lamp-1", STRONG)[0], BAD_CREDENTIALS, "and so it is by an unlock that does not say `--implicit`")
    broker.cli("registry", "unlock", "--for", "4m", "--implicit")
    code, reason = connect("lamp-1", STRONG)
    equal(code, NOT_AUTHORIZED, "then the CONNECT is a request")
    asked = broker.cli("registry", "show", request_id(broker, "lamp-1"))
    check("pending" in reason and asked["pairing_code"] in reason, "and is told so, with the pairing code", reason)
    broker.cli("registry", "grant", asked["id"], "--permission", rule("write", "lamps/${username}"))
    equal(connect("lamp-1", STRONG)[0], 0, "once it is granted, the same CONNECT succeeds")
    code, decoy = connect("lamp-1", "not the password of the lamp")
    equal((code, len(decoy)), (NOT_AUTHORIZED, len(reason)), "whoever guesses is told that it is pending, as if nobody had the name")
    equal(connect("lamp-2", STRONG, V311)[0], NOT_AUTHORIZED, "a client of 3.1.1 can ask as well")
    equal(broker.cli("registry", "show", request_id(broker, "lamp-2"))["pairing_shown"], False, "but is told no code")
    equal(broker.stop(signal.SIGTERM), 0, "that broker stops")


def restart(broker, directory):
    chapter("what waits survives a restart")
    waiting = Device(directory, "station-9", ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"))
    client = enrolling(broker, "waiting")
    equal(register(client, waiting)["status"], 202, "an RSA key is admitted")
    request = request_id(broker, "station-9")
    equal(broker.stop(signal.SIGTERM), 0, "the broker stops")
    equal(client.end(), ("disconnect", 0x8B), "the waiting device is told: server shutting down")
    client.paho.loop_stop()
    said = broker.start()
    check("password" not in said.lower() and "made now" not in said, "the second start finds everything and says nothing secret", said)
    equal(request_id(broker, "station-9"), request, "the request is there")
    client = enrolling(broker, "waiting")
    equal(register(client, waiting)["status"], 202, "a poll is answered although the registry is locked")
    equal(register(client, Device(directory, "station-10"))["status"], 423, "a new request is not admitted")
    broker.cli("registry", "grant", request, "--role", "station")
    pushed = client.answer()
    equal(pushed and pushed["status"], 201, "and it is granted over the connection of now")
    waiting.certificate.write_text(pushed["certificate"])
    client.close()
    with Client(broker, "station-9", tls=True, certificate=waiting.certificate, key=waiting.key) as device:
        equal(device.connect(), 0, "the certificate works")
        device.subscribe("plant/alerts/#")
        broker.cli("user", "disable", "station-9")
        ended = device.end()
        check(ended in (("disconnect", NOT_AUTHORIZED), ("closed", None)), "disabling the user ends its session", ended)
    again = Client(broker, "station-9", tls=True, certificate=waiting.certificate, key=waiting.key)
    equal(again.connect(), NOT_AUTHORIZED, "and it comes no more")
    broker.cli("user", "delete", "station-9")
    gone = Client(broker, "station-9", tls=True, certificate=waiting.certificate, key=waiting.key)
    check(gone.connect() in (BAD_CREDENTIALS, NOT_AUTHORIZED), "deleted, its certificate opens nothing", gone.connack)


def by_curl(broker, method, path, *arguments, user="ops", body=None):
    """Status, headers and JSON of what curl gets from the API."""
    data = () if body is None else ("-H", "Content-Type: application/json", "--data-binary", "@-")
    login = () if user is None else ("-u", f"{user}:{STRONG}")
    done = run("curl", "-sS", "-i", "--cacert", broker.ca, *login, "-X", method, *data, *arguments,
               f"https://localhost:{broker.api}{path}", input=json.dumps(body).encode() if body is not None else b"")
    head, _, text = done.stdout.decode().partition("\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    return int(head.split()[1]), headers, json.loads(text) if "json" in headers.get("content-type", "") else text


def over_https(broker, directory):
    chapter("enrolment over HTTPS, by Python's http.client; the operator by curl")
    rules = [rule("read_write", "/api/client-registry/#", context="http"), rule("read", "/api/roles/station", context="http")]
    broker.cli("user", "add", "ops", "--password-stdin", *(word for text in rules for word in ("--permission", text)), input=STRONG)
    broker.cli("registry", "lock")
    device = Device(directory, "station-11")
    context = ssl.create_default_context(cafile=str(broker.ca))

    def ask(method, path, body=None):
        connection = http.client.HTTPSConnection("localhost", broker.api, context=context, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, response.headers, text

    def register():
        body = json.dumps({"username": device.name, "csr": device.csr.read_text()})
        status, headers, text = ask("POST", "/api/client-registry/register", body)
        return status, headers, json.loads(text)

    status, headers, answer = register()
    equal((status, answer["state"], headers["Retry-After"]), (423, "locked", str(answer["retry_after"])), "locked: 423 with Retry-After")
    status, _, answer = by_curl(broker, "POST", "/api/client-registry/unlock", body={"for": 120, "listener": "admin"})
    equal((status, answer["locked"]), (200, False), "curl unlocks the listener of the API, by password")
    status, headers, answer = register()
    equal((status, answer["pairing_code"]), (202, device.pairing_code()), "pending: 202 with the pairing code")
    status, _, listed = by_curl(broker, "GET", "/api/client-registry/requests?state=pending")
    found = [item for item in listed["items"] if item["username"] == device.name]
    equal([(item["door"], item["pairing_code"]) for item in found], [("rest", device.pairing_code())], "the operator sees door and code")
    path = f"/api/client-registry/requests/{found[0]['id']}/grant"
    status, _, problem = by_curl(broker, "POST", path, body={"roles": ["station"]})
    equal((status, problem["type"]), (403, "urn:portcullis:problem:forbidden"), "who does not hold the role cannot grant it")
    status, _, granted = by_curl(broker, "POST", path, body={})
    equal((status, granted["by"]), (200, "user:ops"), "it grants what it holds: nothing")
    broker.cli("user", "edit", device.name, "--role", "station")
    status, _, answer = register()
    equal((status, answer["username"]), (201, device.name), "the device collects its certificate")
    device.certificate.write_text(answer["certificate"] + answer["chain"])
    with Client(broker, device.name, tls=True, certificate=device.certificate, key=device.key) as client:
        equal(client.connect(), 0, "and connects over MQTT with it")
        check(client.publish(f"plant/{device.name}/t", "21") in TAKEN, "and works")
        client.subscribe(RESPONSES)
        polled = client.ask("register", username=device.name, csr=device.csr.read_text())
        check(polled and polled.get("certificate") == answer["certificate"], "the request of door 3 is polled at door 1", polled)
    equal(ask("GET", "/api/client-registry/ca")[2], broker.ca.read_text(), "the trust bundle is the CA's")

    certificate = ("--cert", device.certificate, "--key", device.key)
    equal(by_curl(broker, "GET", "/api/users", *certificate, user=None)[0], 403, "the certificate is a login to the API, without rights there")
    equal(by_curl(broker, "GET", "/api/roles/station")[0], 200, "a rule of the context `http` is a right")
    status, _, problem = by_curl(broker, "GET", "/api/roles/admin")
    equal((status, problem["status"]), (403, 403), "without one it is 403, with problem details")
    equal(by_curl(broker, "GET", "/api/roles/x/../admin", "--path-as-is")[0], 400, "a path with dots is 400")
    status, headers, _ = by_curl(broker, "GET", "/api/roles", user=None)
    equal((status, headers.get("www-authenticate")), (401, 'basic realm="portcullis", charset="utf-8"'), "without credentials it is 401")
    equal(by_curl(broker, "POST", "/api/client-registry/lock", "-H", "Transfer-Encoding: chunked", body={})[0], 411, "chunks are 411")
    equal(by_curl(broker, "POST", "/api/client-registry/lock", "-H", "Origin: https://evil.example", body={})[0], 403, "another origin is 403")
    broker.cli("user", "disable", "ops")
    equal(by_curl(broker, "GET", "/api/client-registry/status")[0], 403, "a disabled user is out at once")
    done = run("curl", "-sS", f"http://127.0.0.1:{broker.api}/api/users", expect=None)
    check(b"HTTP" not in done.stdout and done.returncode != 0, "plaintext is not spoken", done)


def request_with(directory, name, key, challenge):
    """A CSR whose challengePassword is the nonce: as the manual shows it."""
    config, csr = directory / "request.conf", directory / f"{name}.nonce.csr"
    config.write_text(f"""
[req]
prompt = no
distinguished_name = name
attributes = attributes
[name]
CN = {name}
[attributes]
challengePassword = {challenge}
""")
    openssl("req", "-new", "-config", config, "-key", key, "-out", csr)
    return csr.read_text()


def renewal(broker, device, directory):
    chapter("a certificate is renewed in session")
    old = Client(broker, "renewing", tls=True, certificate=device.certificate, key=device.key)
    equal(old.connect(), 0, "the device is connected with its certificate")
    for filter in ("$registry/renew/response", "$registry/renew/invite"):
        check(old.subscribe(filter) in (0, 1, 2), f"it subscribes to {filter} without a rule")
    fresh = Device(directory, device.name, file="renewed")
    answer = old.ask("renew", csr=fresh.csr.read_text())
    equal((answer["status"], answer["state"], answer.get("username")), (201, "granted", device.name), "`renew` with a fresh key gets a certificate")
    again = old.ask("renew", csr=fresh.csr.read_text())
    equal(again.get("certificate"), answer.get("certificate"), "the same request gets the same certificate: a lost answer loses nothing")
    fresh.certificate.write_text(answer["certificate"] + answer.get("chain", ""))
    done = run("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", broker.ca, fresh.certificate, expect=None)
    equal(done.returncode, 0, "openssl verifies it")
    with Client(broker, "beside", tls=True, certificate=device.certificate, key=device.key) as beside:
        equal(beside.connect(), 0, "the old one is good until the new one was used")
    other = Device(directory, "station-8", file="other-name")
    equal(old.ask("renew", csr=other.csr.read_text())["error"], "common_name", "another name is refused")
    new = Client(broker, "renewed", tls=True, certificate=fresh.certificate, key=fresh.key)
    equal(new.connect(), 0, "the new one connects")
    check(new.publish(f"plant/{device.name}/renewed", "x") in TAKEN, "and may do what it could before")
    check(old.end() in (("disconnect", NOT_AUTHORIZED), ("closed", None)), "then the session of the old one ends", old.ended)
    gone = Client(broker, "gone", tls=True, certificate=device.certificate, key=device.key)
    check(gone.connect() in (BAD_CREDENTIALS, NOT_AUTHORIZED, None), "and it opens nothing any more", gone.connack)
    reasons = [it.get("reason") for it in broker.cli("user", "show", device.name)["certificates"]]
    equal(reasons, ["superseded", None], "it is on record as superseded")
    new.close()
    device.key, device.certificate, device.csr = fresh.key, fresh.certificate, fresh.csr


def signatures(broker, directory):
    chapter("openssl signs a renewal in grace with every admitted kind of key")
    client = enrolling(broker, "grace")
    new = Device(directory, "grace-1", file="grace-new")
    digest = openssl("dgst", "-sha256", "-binary", input=openssl("req", "-in", new.csr, "-outform", "DER"))
    kinds = {
        "P-256": (("EC", "-pkeyopt", "ec_paramgen_curve:P-256"), ("dgst", "-sha256", "-sign")),
        "P-384": (("EC", "-pkeyopt", "ec_paramgen_curve:P-384"), ("dgst", "-sha384", "-sign")),
        "RSA": (("RSA", "-pkeyopt", "rsa_keygen_bits:2048"), ("dgst", "-sha256", "-sign")),
        "Ed25519": (("ED25519",), None),
    }
    for kind, (algorithm, sign) in kinds.items():
        old = Device(directory, "grace-1", algorithm, file=f"grace-{kind}")
        certificate = old.self_signed().read_text()
        nonce = client.ask("challenge")["nonce"]
        to_sign = directory / "to-sign"
        to_sign.write_bytes(f"portcullis-renew-v1{nonce}".encode() + digest)
        if sign:
            signature = openssl(*sign, old.key, to_sign)
        else:
            signature = openssl("pkeyutl", "-sign", "-inkey", old.key, "-rawin", "-in", to_sign)
        fields = {"csr": new.csr.read_text(), "certificate": certificate, "nonce": nonce}
        answer = client.ask("renew", signature=base64.b64encode(signature).decode(), **fields)
        equal((answer["status"], answer.get("error")), (403, "certificate_unknown"), f"{kind}: the signature is good, the certificate is not on record")
        wrong = signature[:-1] + bytes([signature[-1] ^ 1])
        answer = client.ask("renew", signature=base64.b64encode(wrong).decode(), **fields)
        equal((answer["status"], answer.get("error")), (400, "signature"), f"{kind}: a changed one is no signature")
    client.close()


def replacing(broker, device, directory):
    chapter("a device that was wiped gets its name back")
    wiped = Device(directory, device.name, file="wiped")
    client = enrolling(broker, "wiped")
    broker.cli("registry", "lock")
    equal(register(client, wiped)["status"], 423, "a new key gets nothing by itself")
    opened = broker.cli("registry", "replace", device.name, "--for", "1h", "--source", "127.0.0.0/8")
    equal(opened["username"], device.name, "`registry replace` opens the name")
    equal(register(client, wiped)["status"], 202, "the new key waits, although the registry is locked")
    request = request_id(broker, device.name)
    user = broker.cli("user", "show", device.name)
    equal(broker.cli("registry", "show", request)["replaces"], user["id"], "the operator sees whom it replaces")
    session = Client(broker, "old-key", tls=True, certificate=device.certificate, key=device.key)
    equal(session.connect(), 0, "the old key is good until somebody decides")
    broker.cli("registry", "grant", request)
    pushed = client.answer()
    equal(pushed and pushed["status"], 201, "it is granted")
    check(session.end() in (("disconnect", NOT_AUTHORIZED), ("closed", None)), "the session of the old key ends", session.ended)
    wiped.certificate.write_text(pushed["certificate"])
    with Client(broker, "new-key", tls=True, certificate=wiped.certificate, key=wiped.key) as new:
        equal(new.connect(), 0, "the new key is in")
        check(new.publish(f"plant/{device.name}/back", "x") in TAKEN, "with the rights of before")
    after = broker.cli("user", "show", device.name)
    equal((after["id"], after["roles"]), (user["id"], user["roles"]), "it is the same user")
    broker.cli("registry", "unlock", "--for", "4m")
    client.close()


def operators(broker, directory):
    chapter("an operator decides over MQTT")
    rights = (rule("write", "$registry/admin/+"), rule("read", "$registry/events/#"), rule("write", "plant/#"), rule("read", "plant/alerts/#"))
    broker.cli("user", "add", "panel", "--password-stdin", *(word for right in rights for word in ("--permission", right)), input=STRONG)
    broker.cli("user", "add", "onlooker", "--password-stdin", "--permission", rule("read_write", "#"), "--permission", rule("read", "$registry/#"), input=STRONG)
    for version in (V5, V311):
        name = VERSION_NAMES[version]
        panel = Client(broker, f"panel-{version}", version, "panel", STRONG, tls=True)
        equal(panel.connect(), 0, f"{name}: the operator is in")
        check(panel.subscribe("$registry/admin/+/response") in (0, 1, 2), f"{name}: and hears the answers to its orders")
        opened = panel.ask("admin/unlock", **{"for": 60}, id="a")
        equal((opened["status"], opened.get("id"), opened["result"]["locked"]), (200, "a", False), f"{name}: it unlocks the registry")
        check(panel.subscribe("$registry/events/requested") in (0, 1, 2), f"{name}: it asks to be told of requests")

        device = Device(directory, f"gauge-{version}")
        client = enrolling(broker, f"gauge-{version}", version)
        equal(register(client, device)["status"], 202, f"{name}: a device asks")
        request = panel.answer()["request"]
        equal((request["username"], request["pairing_code"]), (device.name, device.pairing_code()), f"{name}: the operator sees who, and the pairing code")

        onlooker = Client(broker, "onlooker", version, "onlooker", STRONG, tls=True)
        equal(onlooker.connect(), 0, f"{name}: somebody is in who may publish to `#`")
        refused = onlooker.publish("$registry/admin/grant", json.dumps({"request": request["id"]}))
        if version == V5:
            equal(refused, NOT_AUTHORIZED, f"{name}: to grant needs a rule that names it: 0x87")
            onlooker.close()
        else:
            equal((refused, onlooker.end()), (None, ("closed", None)), f"{name}: to grant needs a rule that names it: closed")
            onlooker.paho.loop_stop()
        equal(request_id(broker, device.name), request["id"], f"{name}: nothing was decided")

        more = panel.ask("admin/grant", request=request["id"], roles=["admin"])
        equal((more["status"], more["error"]), (403, "forbidden"), f"{name}: the operator grants no more than it holds")
        granted = panel.ask("admin/grant", request=request["id"], roles=["station"])
        equal((granted["status"], granted["result"]["state"], granted["result"]["by"]), (200, "granted", "user:panel"), f"{name}: and grants what it holds")
        pushed = client.answer()
        equal(pushed and pushed["status"], 201, f"{name}: the device is told, and has its certificate")
        device.certificate.write_text(pushed["certificate"] + pushed.get("chain", ""))
        client.close()
        with Client(broker, device.name, version, tls=True, certificate=device.certificate, key=device.key) as at_work:
            equal(at_work.connect(), 0, f"{name}: it is in with it")
            check(at_work.publish(f"plant/{device.name}/x", "1") in TAKEN, f"{name}: and does what it may")
        equal(panel.ask("admin/lock")["result"]["locked"], True, f"{name}: the operator shuts the door")
        allowed = broker.cli("explain", "panel", "publish", "$registry/admin/grant")
        equal(allowed["allowed"], True, f"{name}: `explain` knows who may")
        panel.close()
    equal(broker.cli("registry", "unlock", "--for", "4m")["locked"], False, "for what follows it is open again")


def nonces():
    chapter("nonces")
    broker = Broker("\n[registry]\nrequire_nonce = true\n")
    broker.start()
    directory = broker.directory / "devices"
    directory.mkdir()
    broker.cli("registry", "unlock", "--for", "4m")
    device = Device(directory, "careful-1")
    first, second = enrolling(broker, "first"), enrolling(broker, "second")
    equal(register(first, device)["error"], "nonce_missing", "a request without a nonce is refused")
    nonce = first.ask("challenge")["nonce"]
    csr = request_with(directory, device.name, device.key, nonce)
    equal(second.ask("register", username=device.name, csr=csr)["error"], "nonce_foreign", "a nonce of another connection is refused")
    equal(first.ask("register", username=device.name, csr=csr)["status"], 202, "openssl's challengePassword holds the nonce")
    equal(register(second, device)["status"], 202, "a poll needs none")
    clone = Device(directory, "careful-2")
    csr = request_with(directory, clone.name, clone.key, nonce)
    equal(first.ask("register", username=clone.name, csr=csr)["error"], "nonce_spent", "a nonce is good once")
    first.close()
    second.close()
    equal(broker.stop(signal.SIGTERM), 0, "that broker stops")


def story():
    # Wrong signatures and passwords cost what guesses do, and all of this comes from one address.
    broker = Broker("\n[registry]\nrequests_per_minute = 6000\n")
    said = broker.start()
    check("made now" in said, "the first start makes a CA", said)
    directory = broker.directory / "devices"
    directory.mkdir()
    device, client = door_is_shut(broker, directory)
    answer = enrolment(broker, device, client)
    certificate_profile(broker, device, answer)
    work(broker, device)
    impostors(broker, device, directory)
    over_https(broker, directory)
    other_requests(broker, device, directory)
    in_cbor(broker, directory)
    renewal(broker, device, directory)
    signatures(broker, directory)
    replacing(broker, device, directory)
    operators(broker, directory)
    nonces()
    by_connecting()
    restart(broker, directory)
    equal(broker.stop(signal.SIGINT), 0, "Ctrl-C ends the broker with exit code 0")
    log = broker.log.read_text()
    check(STRONG not in log and "BEGIN" not in log, "no password and no PEM is in the log")
    check("panicked" not in log, "nothing panicked", log[-2000:])


if __name__ == "__main__":
    main(story)
