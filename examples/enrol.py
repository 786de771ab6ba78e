"""Enrol a device with Python: python enrol.py NAME mqtts://HOST:PORT CA.pem   (pip install paho-mqtt cryptography)"""
import json, os, queue, sys, urllib.parse
import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

name, url, ca = sys.argv[1], urllib.parse.urlsplit(sys.argv[2]), sys.argv[3]
os.umask(0o077)
if not os.path.exists(f"{name}.key"):
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    open(f"{name}.key", "xb").write(pem)
key = serialization.load_pem_private_key(open(f"{name}.key", "rb").read(), None)
subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
request = {"username": name, "csr": csr.public_bytes(serialization.Encoding.PEM).decode()}
if "TOKEN_FILE" in os.environ:  # a claim token: nobody has to decide
    request["token"] = open(os.environ["TOKEN_FILE"]).read().strip()
request = json.dumps(request)

answers = queue.Queue()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.tls_set(ca)
client.on_connect = lambda *_: client.subscribe("$registry/register/response")  # after each reconnection too
client.on_subscribe = lambda *_: client.publish("$registry/register", request)
client.on_message = lambda _client, _userdata, message: answers.put(json.loads(message.payload))
client.connect(url.hostname, url.port or 8883)
client.loop_start()

answer = answers.get()
while answer["status"] in (202, 423, 429):
    print(answer["state"], answer.get("pairing_code", ""), answer.get("message", ""), flush=True)
    try:
        answer = answers.get(timeout=answer["retry_after"])  # the decision is pushed the moment it falls
    except queue.Empty:
        client.publish("$registry/register", request)
        answer = answers.get()
if answer["status"] != 201:
    sys.exit(answer["message"])
open(f"{name}.pem", "w").write(answer["certificate"] + answer["chain"])
print("granted, good until", answer["not_after"])
