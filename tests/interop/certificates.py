"""Certificates and revocation lists as others read them: openssl and Python's `cryptography`, with CAs of several kinds of key.

Enters: the binary (see harness.py). Leaves: checks. Everything is issued and revoked by a running broker.
"""

import datetime
import os
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import lint
from harness import Broker, Client, binary, chapter, check, equal, main, openssl, run

URL = "http://broker.example/crl"
SETTINGS = f'\n[ca]\ncrl_url = "{URL}"\ncrl_validity = "2d"\n'
EXTENSIONS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
CAS = {
    "the broker's own": None,
    "an operator's P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "an operator's Ed25519": ("ED25519",),
    "an operator's RSA": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


def operators_ca(broker, algorithm):
    """A root with a name that libraries like to rebuild in another way: repeated attributes, an odd string type."""
    certs = broker.ca.parent
    certs.mkdir()
    key = broker.ca.with_suffix(".key")
    openssl("genpkey", "-algorithm", *algorithm, "-out", key)
    key.chmod(0o600)
    config = broker.directory / "ca.cnf"
    config.write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\n0.DC=example\n1.DC=corp\nO=Acme & Söhne\nCN=Plant CA\n[ext]\n{EXTENSIONS}")
    openssl("req", "-x509", "-new", "-utf8", "-key", key, "-config", config, "-days", 30, "-out", broker.ca)


def enrol(broker, name):
    """A user with a certificate; the paths of key and certificate."""
    key, csr, certificate = (broker.directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", csr)
    client = Client(broker, "", tls=True)
    client.connect()
    client.subscribe("$registry/+/response")
    client.ask("register", username=name, csr=csr.read_text())
    request = next(item["id"] for item in broker.cli("registry", "list")["items"] if item["username"] == name)
    broker.cli("registry", "grant", request)
    certificate.write_text(client.answer()["certificate"])
    client.close()
    return key, certificate


def leaf_of(broker):
    """The broker's own certificate without its chain, as a file."""
    alone = broker.directory / "server.alone.pem"
    alone.write_bytes(openssl("x509", "-in", broker.ca.parent / "server.pem"))
    return alone


def serial(certificate):
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


def current_list(broker, at_least, seconds=20):
    """The list as DER, once it has that many entries."""
    out, deadline = broker.directory / "ca.crl", time.monotonic() + seconds
    while True:
        broker.cli("ca", "crl", "--out", out)
        crl = x509.load_der_x509_crl(out.read_bytes())
        if len(crl) >= at_least or time.monotonic() > deadline:
            return out, crl
        time.sleep(0.1)


def refused_csrs(broker):
    chapter("requests that ask for more")
    client = Client(broker, "", tls=True)
    client.connect()
    client.subscribe("$registry/+/response")
    for more, word in (("subjectAltName=DNS:broker.example", "alternative_name"), ("basicConstraints=CA:TRUE", "ca_requested"),
                       ("keyUsage=keyCertSign", "ca_requested")):
        csr = openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=greedy-1", "-addext", more)
        answer = client.ask("register", username="greedy-1", csr=csr.decode())
        equal((answer["status"], answer.get("error")), (400, word), f"a request with {more} is refused by name")
    client.close()


def with_ca(title, algorithm):
    chapter(f"{title} CA")
    broker = Broker(SETTINGS)
    if algorithm:
        operators_ca(broker, algorithm)
    broker.start()
    broker.cli("registry", "unlock")
    if not algorithm:
        refused_csrs(broker)
    devices = {name: enrol(broker, name) for name in ("kept-1", "stolen-1", "deleted-1", "replaced-1")}
    ca = x509.load_pem_x509_certificate(broker.ca.read_bytes())

    for name, (_, path) in devices.items():
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(ca)
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    equal([name.value for point in points for name in point.full_name], [URL], "cryptography: issued by the CA, naming the place of the list")

    lint.certificate(path, "what it has issued")
    if not algorithm:
        lint.certificate(broker.ca, "the CA that the broker has made")
    lint.certificate(broker.ca.parent / "server.pem", "the broker's own certificate")
    path, empty = current_list(broker, 0)
    equal(len(empty), 0, "cryptography reads the first, empty list")
    lint.revocation_list(path, "it")
    first = empty.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    broker.cli("user", "revoke", "stolen-1", f"{serial(devices['stolen-1'][1]):x}", "--reason", "keyCompromise", "--comment", "on a train")
    broker.cli("user", "revoke", "replaced-1", "--all", "--reason", "superseded")
    broker.cli("user", "delete", "deleted-1")
    path, crl = current_list(broker, 3)
    check(crl.is_signature_valid(ca.public_key()), "cryptography verifies the signature of the list")
    lint.revocation_list(path, "the list with three certificates")
    equal(crl.issuer, ca.subject, "its issuer is the subject of the CA")
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    check(number > first, "its number is higher", (first, number))
    authority = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    subject = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    equal(authority, subject, "its authority is the CA's key")
    life = crl.next_update_utc - crl.last_update_utc
    equal(life, datetime.timedelta(days=2), "it is good for as long as it is configured")

    reasons = {}
    for entry in crl:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        reasons[entry.serial_number] = reason.name
    expected = {serial(devices["stolen-1"][1]): "key_compromise", serial(devices["replaced-1"][1]): "superseded",
                serial(devices["deleted-1"][1]): "cessation_of_operation"}
    equal(reasons, expected, "the three are on it, each with its reason")

    done = run("openssl", "crl", "-inform", "DER", "-in", path, "-CAfile", broker.ca, "-noout", "-text", expect=None)
    check(b"verify OK" in done.stderr, "openssl verifies the list", done.stderr)
    check(b"Version 2" in done.stdout, "it is of version 2")
    pem = broker.directory / "crl.pem"
    pem.write_bytes(openssl("crl", "-inform", "DER", "-in", path, "-outform", "PEM"))
    for name, (_, certificate) in devices.items():
        done = run("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check", "-CAfile", broker.ca, "-CRLfile", pem, certificate, expect=None)
        if name == "kept-1":
            equal(done.returncode, 0, f"openssl verify -crl_check admits {name}")
        else:
            check(done.returncode != 0 and b"certificate revoked" in done.stderr, f"and refuses {name} as revoked", done.stderr)

    for name, (key, certificate) in devices.items():
        client = Client(broker, name, tls=True, certificate=certificate, key=key)
        equal(client.connect() == 0, name == "kept-1", f"the broker says the same of {name}")
        if name == "kept-1":
            client.close()

    broker.stop()
    broker.start()
    _, after = current_list(broker, 3)
    later = after.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    check(later > number and len(after) == 3, "after a restart the number goes on, and all three are still on the list", (number, later, len(after)))
    shown = broker.cli("ca", "show")
    fingerprint = ca.fingerprint(hashes.SHA256()).hex()
    equal((shown["fingerprint"], shown["certificates"]["live"], shown["crl"]["entries"]), (fingerprint, 1, 3), "`ca show` says so too")

    broker.cli("ca", "revoke", shown["key_identifier"], "--comment", "stolen")
    _, last = current_list(broker, 4)
    equal(len(last), 4, "with the issuer, the last certificate is on the list")
    key, certificate = devices["kept-1"]
    check(Client(broker, "kept-1", tls=True, certificate=certificate, key=key).connect() != 0, "and its device is not let in")
    broker.stop()


def below_a_root():
    """An operator's root, a CA below it, the broker's below that; devices trust the root alone."""
    chapter("a CA two levels below an operator's root")
    broker = Broker(SETTINGS)
    certs = broker.ca.parent
    certs.mkdir()
    levels = [("Corp Root", "P-384", 2), ("Corp Plants", "P-256", 1), ("Plant 4", "P-256", 0)]
    paths, above = {}, ()
    for name, curve, length in levels:
        key, csr, certificate, extensions = (broker.directory / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        extensions.write_text(f"basicConstraints=critical,CA:TRUE,pathlen:{length}\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-nodes", "-subj", f"/O=Corp/CN={name}", "-keyout", key, "-out", csr)
        signer = ("-CA", above[0], "-CAkey", above[1]) if above else ("-signkey", key)
        openssl("x509", "-req", "-in", csr, "-days", 30, "-extfile", extensions, *signer, "-out", certificate)
        above = paths[name] = (certificate, key)
    root, middle, issuer = (paths[name][0] for name, _, _ in levels)
    broker.ca.write_text(issuer.read_text() + middle.read_text() + root.read_text())
    broker.ca.with_suffix(".key").write_text(paths["Plant 4"][1].read_text())
    broker.ca.with_suffix(".key").chmod(0o600)
    broker.start()
    broker.cli("registry", "unlock")

    shown = run("openssl", "s_client", "-connect", f"127.0.0.1:{broker.tls}", "-CAfile", root, "-verify_return_error", "-showcerts", input=b"", expect=None)
    equal((shown.returncode, shown.stdout.count(b"BEGIN CERTIFICATE")), (0, 3), "openssl s_client verifies the broker by the root alone: leaf and two intermediates are shown")
    client = Client(broker, "", tls=True, ca=root)
    client.connect()
    client.subscribe("$registry/+/response")
    bundle = client.ask("ca")["ca"]
    equal(x509.load_pem_x509_certificates(bundle.encode()), [x509.load_pem_x509_certificate(root.read_bytes())], "paho does so too, and the trust bundle is the root")
    client.close()

    key, certificate = enrol(broker, "kept-1")
    lint.certificate(certificate, "what a CA below a root has issued")
    lint.certificate(leaf_of(broker), "the broker's certificate of that CA")
    enrol(broker, "stolen-1")
    stolen = broker.directory / "stolen-1.pem"
    untrusted = broker.directory / "untrusted.pem"
    untrusted.write_text(issuer.read_text() + middle.read_text())
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", untrusted, certificate)
    chain = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (certificate, issuer, middle, root)]
    for below, above in zip(chain, chain[1:]):
        below.verify_directly_issued_by(above)
    check(chain[0].not_valid_after_utc <= min(one.not_valid_after_utc for one in chain), "openssl and cryptography verify a device's certificate up to the root, and none of the chain ends before it")
    device = Client(broker, "kept-1", tls=True, certificate=certificate, key=key, ca=root)
    equal(device.connect(), 0, "the device connects")
    device.close()

    broker.cli("user", "revoke", "stolen-1", "--all")
    path, crl = current_list(broker, 1)
    equal(crl.issuer, x509.load_pem_x509_certificate(issuer.read_bytes()).subject, "the list is of the CA that issues")
    pem = broker.directory / "crl.pem"
    pem.write_bytes(openssl("crl", "-inform", "DER", "-in", path, "-outform", "PEM"))
    for name, path, good in (("kept-1", certificate, True), ("stolen-1", stolen, False)):
        done = run("openssl", "verify", "-crl_check", "-CAfile", root, "-untrusted", untrusted, "-CRLfile", pem, path, expect=None)
        equal((done.returncode == 0, b"certificate revoked" in done.stderr), (good, not good), f"openssl verify -crl_check says so of {name}")
    broker.stop()


def under_a_passphrase():
    """Keys under a passphrase, both ways: ours by openssl and cryptography, theirs by us."""
    chapter("a CA key under a passphrase")
    passphrase = "größer als 12"
    broker = Broker(SETTINGS + 'passphrase_file = "ca.secret"\n')
    secret = broker.directory / "ca.secret"
    secret.write_text(passphrase + "\n")
    secret.chmod(0o600)
    broker.start()
    enrolled = broker.cli("registry", "unlock") and enrol(broker, "first-1")
    key = broker.ca.with_suffix(".key")
    check(key.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "the broker makes its key under the passphrase")
    public = x509.load_pem_x509_certificate(broker.ca.read_bytes()).public_key()
    opened = serialization.load_pem_private_key(key.read_bytes(), passphrase.encode())
    equal(opened.public_key(), public, "cryptography opens it")
    plain = openssl("pkcs8", "-in", key, "-passin", f"file:{secret}")
    equal(serialization.load_pem_private_key(plain, None).public_key(), public, "openssl opens it")
    broker.stop()

    clear = broker.directory / "clear.key"
    clear.write_bytes(plain)
    forms = {
        "openssl, its defaults": ("pkcs8", "-topk8"),
        "openssl, AES-128 and SHA-512": ("pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"),
        "openssl, scrypt": ("pkcs8", "-topk8", "-scrypt"),
    }
    for form, command in forms.items():
        openssl(*command, "-in", clear, "-out", key, "-passout", f"file:{secret}")
        broker.start()
        device, certificate = enrolled
        equal(Client(broker, "first-1", tls=True, certificate=certificate, key=device).connect(), 0, f"the broker opens what is made by {form}")
        broker.stop()
    key.write_bytes(opened.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase.encode())))
    broker.start()
    broker.stop()
    check(True, "the broker opens what cryptography makes")

    # By the two other ways.
    broker.config.write_text(broker.config.read_text().replace('passphrase_file = "ca.secret"', ""))
    for name, environment in (("passphrase_env", {"CA_SECRET": passphrase}), ("the systemd credential", {"CREDENTIALS_DIRECTORY": str(broker.directory)})):
        text = broker.config.read_text()
        if name == "passphrase_env":
            broker.config.write_text(text.replace(SETTINGS, SETTINGS + 'passphrase_env = "CA_SECRET"\n'))
        else:
            (broker.directory / "ca-passphrase").write_text(passphrase)
            (broker.directory / "ca-passphrase").chmod(0o600)
        os.environ.update(environment)
        broker.start()
        broker.stop()
        check(True, f"the passphrase comes from {name}")
        for variable in environment:
            del os.environ[variable]
        broker.config.write_text(text)
    for content, word in ((None, "there is no passphrase"), ("wrong", "does not open it")):
        if content:
            broker.config.write_text(text.replace(SETTINGS, SETTINGS + 'passphrase_file = "ca.secret"\n'))
            secret.write_text(content)
        done = run(binary(), "--config", broker.config, expect=1)
        told = (done.stdout + done.stderr).decode()
        check(word in told and passphrase not in told and "wrong" not in told, f"a start without the right one says: {word}", told)


def partners():
    """A CA of somebody else, for its own names."""
    chapter("a partner's CA")
    broker = Broker()
    root, key = broker.directory / "partner.pem", broker.directory / "partner.key"
    openssl("req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Partner Root", "-keyout", key, "-out", root, "-days", 30)
    broker.config.write_text(broker.config.read_text() + '\n[[ca.trust]]\ncertificate = "partner.pem"\nusername = "partner-*"\n')
    broker.start()
    made = {}
    for name in ("partner-1", "press-7", "partner-root"):
        made[name] = tuple(broker.directory / f"{name}.{end}" for end in ("key", "pem"))
        extensions = broker.directory / "client.ext"
        extensions.write_text("extendedKeyUsage=clientAuth\n")
        csr = broker.directory / f"{name}.csr"
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", made[name][0], "-out", csr)
        openssl("x509", "-req", "-in", csr, "-days", 3, "-CA", root, "-CAkey", key, "-extfile", extensions, "-out", made[name][1])
        broker.cli("user", "add", name, "--auth", "certificate", *(("--role", "admin") if name == "partner-root" else ()))
    code = lambda name: Client(broker, name, tls=True, certificate=made[name][1], key=made[name][0]).connect()
    equal([code(name) for name in made], [0, 0x86, 0x86], "its certificate logs in under its names: no other user, no administrator")
    broker.cli("user", "pin", "partner-root", made["partner-root"][1])
    equal(code("partner-root"), 0, "an administrator logs in with the pinned certificate")
    equal(broker.cli("ca", "show")["trust"][0]["username"], "partner-*", "`ca show` lists the CA")
    broker.stop()


def by_uri():
    """Devices that URIs name: a partner's by openssl, and the broker's own, moved there while they are in use."""
    chapter("certificates that name their user by a URI")
    broker = Broker()
    plain = broker.config.read_text()
    prefix, partners = "spiffe://plant.example/device/", "spiffe://partner.example/line/"
    root, root_key = broker.directory / "partner.pem", broker.directory / "partner.key"
    openssl("req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Partner Root", "-keyout", root_key, "-out", root, "-days", 30)
    trust = f'[[ca.trust]]\ncertificate = "partner.pem"\nusername = "partner-*"\nidentity = "san_uri"\nuri_prefix = "{partners}"\n'
    broker.config.write_text(plain + trust)
    broker.start()
    broker.cli("registry", "unlock", "--for", "1h")

    def made(name, alternative, subject="/O=SPIRE"):
        key, csr, certificate, extensions = (broker.directory / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        extensions.write_text("extendedKeyUsage=clientAuth\n" + (f"subjectAltName={alternative}\n" if alternative else ""))
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout", key, "-out", csr)
        openssl("x509", "-req", "-in", csr, "-days", 3, "-CA", root, "-CAkey", root_key, "-extfile", extensions, "-out", certificate)
        return key, certificate

    def code(pair):
        return Client(broker, "", tls=True, key=pair[0], certificate=pair[1]).connect()

    for name in ("partner-1", "partner-2", "press-7"):
        broker.cli("user", "add", name, "--auth", "certificate")
    one = f"URI:{partners}partner-1"
    equal(code(made("good", f"{one},DNS:pump.example,email:partner-2@partner.example")), 0, "what openssl makes with a SPIFFE URI, and other kinds of names beside it, logs in")
    equal(code(made("other-subject", one, "/CN=partner-2")), 0, "whatever its subject says")
    for what, alternative in (("no alternative name", None), ("two URIs", f"{one},URI:{partners}partner-2"), ("the URI twice", f"{one},{one}"),
                              ("the name of a user that the CA is not good for", f"URI:{partners}press-7"), ("the prefix of the house", f"URI:{prefix}partner-1"),
                              ("a scheme in capitals", f"URI:{partners.upper()}partner-1"), ("a percent-encoded letter", f"URI:{partners}%70artner-1"),
                              ("a longer path", f"URI:{partners}partner-1/x"), ("the URI as a DNS name", f"DNS:{partners}partner-1")):
        equal(code(made("bad", alternative, "/CN=partner-1")), 0x86, f"and not with {what}")

    # The broker's own: as they are, with the URI beside, by the URI alone.
    pump = enrol(broker, "pump-1")
    asleep = enrol(broker, "pump-2")
    uris = lambda path: [name.value for extension in x509.load_pem_x509_certificate(path.read_bytes()).extensions
                         if isinstance(extension.value, x509.SubjectAlternativeName) for name in extension.value]
    equal((code(pump), uris(pump[1])), (0, []), "the broker's own devices go by the common name, and have no URI")

    def settings(more):
        broker.stop()
        broker.config.write_text(f"{plain}[ca]\n{more}\n{trust}")
        broker.start()

    settings(f'uri_prefix = "{prefix}"')
    equal(code(pump), 0, "with a prefix they still do")
    run(binary(), "device", "renew", "pump-1", "--broker", f"mqtts://localhost:{broker.tls}", "--directory", broker.directory, "--ca", broker.ca)
    equal(uris(pump[1]), [f"{prefix}pump-1"], "cryptography reads the URI in what is renewed")
    subject = x509.load_pem_x509_certificate(pump[1].read_bytes()).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    equal([it.value for it in subject], ["pump-1"], "and the common name beside it")
    check(f"URI:{prefix}pump-1".encode() in openssl("x509", "-in", pump[1], "-noout", "-ext", "subjectAltName"), "so does openssl")
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", broker.ca, pump[1])
    lint.certificate(pump[1], "it")
    equal((code(pump), code(asleep)), (0, 0), "both log in")
    settings(f'uri_prefix = "{prefix}"\nidentity = "san_uri"')
    equal((code(pump), code(asleep)), (0, 0x86), "by URI, what has one logs in, and what has none does not")
    broker.cli("registry", "unlock")
    late = enrol(broker, "pump-3")
    equal((code(late), uris(late[1])), (0, [f"{prefix}pump-3"]), "what is issued now has one")
    settings(f'uri_prefix = "{prefix}"')
    equal((code(pump), code(asleep), code(late)), (0, 0, 0), "and the way back is open")
    broker.stop()


def another_ca():
    """Rotation, then a CA below an offline root: openssl certifies the request, and everybody verifies everybody meanwhile."""
    chapter("another CA in place of the one that issues")
    broker = Broker('\n[ca]\ncrl_url = "http://broker.example/crl/{issuer}"\n')
    broker.start()
    broker.cli("registry", "unlock", "--for", "1h")
    first = broker.directory / "first.pem"
    first.write_bytes(broker.ca.read_bytes())
    shows = lambda trust: run("openssl", "s_client", "-connect", f"127.0.0.1:{broker.tls}", "-CAfile", trust, "-verify_return_error", input=b"", expect=None).returncode == 0
    key, certificate = enrol(broker, "pump-1")
    before = broker.cli("ca", "show")
    after = broker.cli("ca", "rotate")
    check(after["former"]["issuer"] == before["key_identifier"] != after["key_identifier"], "another CA issues, the one before is trusted", after)
    check(shows(first), "openssl verifies the broker by the old root alone")
    equal(Client(broker, "pump-1", tls=True, certificate=certificate, key=key, ca=first).connect(), 0, "and a device of the old CA connects")
    new_key, new_certificate = enrol(broker, "pump-2")
    lint.certificate(new_certificate, "what the CA after the rotation has issued")
    newest = broker.directory / "newest.pem"
    newest.write_bytes(openssl("x509", "-in", broker.ca))
    lint.certificate(newest, "that CA")
    roots = x509.load_pem_x509_certificates(broker.ca.read_bytes())
    x509.load_pem_x509_certificate(new_certificate.read_bytes()).verify_directly_issued_by(roots[0])
    equal([root.subject == root.issuer for root in roots], [True, True], "the trust bundle holds two roots, the new one first")
    equal(Client(broker, "pump-2", tls=True, certificate=new_certificate, key=new_key).connect(), 0, "a device of the new CA connects")
    lists = {}
    for root, issuer in zip(roots, (after["key_identifier"], before["key_identifier"])):
        out = broker.directory / f"{issuer}.crl"
        broker.cli("ca", "crl", "--issuer", issuer, "--out", out)
        lists[issuer] = x509.load_der_x509_crl(out.read_bytes()).is_signature_valid(root.public_key())
    equal(list(lists.values()), [True, True], "each has a revocation list, signed by itself")
    points = x509.load_pem_x509_certificate(new_certificate.read_bytes()).extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    equal([name.value for point in points for name in point.full_name], [f"http://broker.example/crl/{after['key_identifier']}"], "which its certificates name")
    refused = broker.cli("ca", "retire", before["key_identifier"], expect=1)
    check(b"1 certificates of 1 users" in refused.stderr + refused.stdout, "it is not retired while somebody lives on it", refused.stderr)
    equal([item["username"] for item in broker.cli("ca", "living", before["key_identifier"])["items"]], ["pump-1"], "and `ca living` says who")
    broker.stop()
    broker.start()
    equal(broker.cli("ca", "show")["former"]["issuer"], before["key_identifier"], "a restart changes nothing of that")
    broker.cli("ca", "retire", before["key_identifier"], "--force")
    check(Client(broker, "pump-1", tls=True, certificate=certificate, key=key).connect() != 0, "with --force it is")

    # Below an offline root.
    root_key, root = broker.directory / "root.key", broker.directory / "root.pem"
    openssl("req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-subj", "/O=Corp/CN=Corp Root", "-keyout", root_key, "-out", root, "-days", 365,
            "-addext", "basicConstraints=critical,CA:TRUE,pathlen:1", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    csr, issued, extensions = (broker.directory / name for name in ("plant.csr", "plant.pem", "plant.ext"))
    broker.cli("ca", "csr", "--name", "Plant 4", "--out", csr)
    check(b"verify OK" in run("openssl", "req", "-in", csr, "-noout", "-verify").stderr + openssl("req", "-in", csr, "-noout", "-verify"), "openssl verifies the request")
    extensions.write_text("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n")
    openssl("x509", "-req", "-in", csr, "-days", 100, "-CA", root, "-CAkey", root_key, "-extfile", extensions, "-out", issued)
    refused = broker.cli("ca", "import", issued, expect=1)
    check(b"Corp Root" in refused.stderr, "without the root it is refused", refused.stderr)
    issued.write_text(issued.read_text() + root.read_text())
    old = broker.directory / "old.pem"
    old.write_bytes(broker.ca.read_bytes())
    imported = broker.cli("ca", "import", issued)
    equal(imported["subject"], "CN=Plant 4", "the imported CA issues")
    check(shows(old) and not (broker.directory / "certs" / "ca.key.next").exists(), "the broker is verified by the old root, and the waiting key is in its place")
    broker.cli("registry", "unlock")
    plant_key, plant_certificate = enrol(broker, "pump-3")
    lint.certificate(plant_certificate, "what the imported CA has issued")
    untrusted = broker.directory / "plant.only.pem"
    untrusted.write_bytes(openssl("x509", "-in", issued))
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", untrusted, plant_certificate)
    equal(Client(broker, "pump-3", tls=True, certificate=plant_certificate, key=plant_key, ca=old).connect(), 0, "openssl verifies its certificates by the root, and they connect")
    broker.cli("ca", "retire", imported["former"]["issuer"], "--force")
    deadline = time.monotonic() + 20
    while not shows(root) and time.monotonic() < deadline:
        time.sleep(0.1)
    check(shows(root) and not shows(old), "after the old one is retired, the new root verifies the broker, and the old one does not")
    broker.stop()


def it_is_judged():
    chapter("pkilint")
    broker = Broker()
    faulty = broker.directory / "faulty.pem"
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=faulty", "-addext", "keyUsage=keyCertSign", "-addext",
            "basicConstraints=CA:FALSE", "-addext", "subjectAltName=DNS:-a.example", "-out", faulty)
    check(len(lint.faults(faulty)) >= 2, "finds the faults of a certificate that has some", lint.faults(faulty))


def story():
    it_is_judged()
    by_uri()
    another_ca()
    partners()
    under_a_passphrase()
    below_a_root()
    for title, algorithm in CAS.items():
        with_ca(title, algorithm)


if __name__ == "__main__":
    main(story)
