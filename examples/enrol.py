"""Enrol a device with Python: python enrol.py NAME mqtts://HOST:PORT CA.pem   (pip install paho-mqtt; openssl makes the request)"""
import json, os, queue, subprocess, sys, urllib.parse
import paho.mqtt.client as mqtt

name, url, ca = sys.argv[1], urllib.parse.urlsplit(sys.argv[2]), sys.argv[3]
os.umask(0o077)
if not os.path.exists(f"{name}.key"):
    make = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out".split()
    subprocess.run([*make, f"{name}.key"], check=True)
csr = subprocess.check_output(["openssl", "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}"], text=True)
request = {"username": name, "csr": csr}
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
