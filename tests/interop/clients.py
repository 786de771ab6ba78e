"""mosquitto_pub and mosquitto_sub, paho and MQTT.js against the broker: both versions, TCP and TLS.

For each: QoS 0, 1 and 2 both ways, a retained message that is set, found and cleared, and a Will. What each of them
publishes is watched by a paho client of the other version, so that messages cross from 3.1.1 to 5.0 and back.

Environment: NODE_PATH names the directory that holds the npm package mqtt.
"""

import itertools
import os
import pathlib
import signal
import subprocess

from harness import QUIET, V311, V5, VERSION_NAMES, Broker, Client, chapter, check, equal, main, run, spawn

PASSWORD = "correct horse battery staple"
CONFIG = """
[[role]]
name = "tester"
permissions = [{ context = "mqtt", operation = "read_write", resource = "it/#" }]

[[user]]
username = "tester"
password_file = "tester.password"
roles = ["tester"]
"""


class Paho:
    """paho-mqtt in this process."""

    name = "paho"

    def __init__(self, broker, version, tls):
        self.make = lambda client_id, **more: Client(broker, client_id, version, "tester", PASSWORD, tls=tls, **more)

    def publish(self, topic, payload, qos, retain=False):
        with self.make("paho-pub") as client:
            return client.connect() == 0 and client.publish(topic, payload, qos, retain) is not None

    def subscribe(self, topic, qos):
        client = self.make("paho-sub")
        client.connect()
        client.subscribe(topic, qos)
        return PahoSubscription(client)

    def die(self, topic, payload):
        client = self.make("paho-will", will=(topic, payload))
        client.connect()
        client.paho._sock_close()  # no DISCONNECT: the network went away
        client.paho.loop_stop()


class PahoSubscription:
    def __init__(self, client):
        self.client = client

    def next(self, seconds=15):
        message = self.client.message(seconds)
        return message and (message.topic, message.payload.decode(), message.qos, message.retain)

    def close(self):
        self.client.close()


class LineSubscription:
    """A process that prints a line for its SUBACK and then one per message: topic, QoS, retain, payload."""

    def __init__(self, process, subscribed):
        self.process = process
        self.early = []  # MQTT.js tells of messages before it tells of the SUBACK that came first
        for line in process.stdout:
            if subscribed in line:
                return
            self.early.append(line)
        raise RuntimeError(f"{process.args}: no subscription: {''.join(self.early)}")

    def next(self):
        # The process ends by itself when nothing comes: the wait is bounded.
        for line in itertools.chain(self.early, self.process.stdout):
            fields = line.rstrip("\n").split("|", 4)
            if fields[0] == "MESSAGE":
                return (fields[1], fields[4], int(fields[2]), fields[3] == "1")
        return None

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


class Mosquitto:
    """mosquitto_pub and mosquitto_sub."""

    name = "mosquitto"

    def __init__(self, broker, version, tls):
        protocol = {V311: "mqttv311", V5: "mqttv5"}[version]
        port = broker.tls if tls else broker.tcp
        self.common = ["-h", "127.0.0.1", "-p", port, "-V", protocol, "-u", "tester", "-P", PASSWORD]
        if tls:
            self.common += ["--cafile", broker.ca]

    def publish(self, topic, payload, qos, retain=False):
        body = ["-n"] if payload == "" else ["-m", payload]
        done = run("mosquitto_pub", *self.common, "-t", topic, "-q", qos, *body, *(["-r"] if retain else []), expect=None)
        return done.returncode == 0

    def subscribe(self, topic, qos, *more):
        process = spawn("stdbuf", "-oL", "mosquitto_sub", *self.common, "-t", topic, "-q", qos, "-d", "-W", 15,
                        "-F", "MESSAGE|%t|%q|%r|%p", *more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return LineSubscription(process, "Subscribed (mid")

    def die(self, topic, payload):
        client = self.subscribe("it/none", 0, "--will-topic", topic, "--will-payload", payload, "--will-qos", "1")
        client.process.kill()
        client.close()


class MqttJs:
    """MQTT.js under Node."""

    name = "MQTT.js"

    def __init__(self, broker, version, tls):
        scheme, port = ("mqtts", broker.tls) if tls else ("mqtt", broker.tcp)
        self.environment = dict(os.environ, URL=f"{scheme}://127.0.0.1:{port}", VERSION=str(version), CA=str(broker.ca),
                                PASSWORD=PASSWORD)
        self.script = pathlib.Path(__file__).with_name("client.cjs")

    def _spawn(self, *arguments):
        return spawn("node", self.script, *arguments, env=self.environment, stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT, text=True)

    def publish(self, topic, payload, qos, retain=False):
        process = self._spawn("publish", topic, payload, qos, int(retain))
        output, _ = process.communicate(timeout=30)
        return process.returncode == 0 or print(output)

    def subscribe(self, topic, qos):
        return LineSubscription(self._spawn("subscribe", topic, qos), "SUBSCRIBED")

    def die(self, topic, payload):
        client = LineSubscription(self._spawn("will", topic, payload), "SUBSCRIBED")
        client.process.kill()
        client.close()


def both_ways(subject, watcher, label):
    topic = f"it/{label.replace(' ', '-')}"
    for qos in (0, 1, 2):
        subscription = subject.subscribe(f"{topic}/{qos}", qos)
        check(subject.publish(f"{topic}/{qos}", f"payload {qos}", qos), f"{label}: QoS {qos} is published")
        expected = (f"{topic}/{qos}", f"payload {qos}", qos, False)
        equal(subscription.next(), expected, f"{label}: QoS {qos} is received")
        subscription.close()
        equal(watcher.next(), expected, f"{label}: QoS {qos} reaches a client of the other version")


def retained(subject, watcher, label):
    topic = f"it/{label.replace(' ', '-')}/retained"
    check(subject.publish(topic, "kept", 1, retain=True), f"{label}: a retained message is set")
    equal(watcher.next(), (topic, "kept", 1, False), f"{label}: a subscriber that was there sees it without RETAIN")
    subscription = subject.subscribe("it/+/retained", 1)
    equal(subscription.next(), (topic, "kept", 1, True), f"{label}: a later subscriber gets it with RETAIN")
    subscription.close()
    check(subject.publish(topic, "", 1, retain=True), f"{label}: it is cleared")
    equal(watcher.next(), (topic, "", 1, False), f"{label}: a subscriber sees the empty message")
    subscription = Paho(watcher.broker, V5, tls=False).subscribe(topic, 1)
    equal(subscription.next(QUIET), None, f"{label}: and nothing is left for a later one")
    subscription.close()


def will(subject, watcher, label):
    topic = f"it/{label.replace(' ', '-')}/will"
    subject.die(topic, "gone")
    equal(watcher.next(), (topic, "gone", 1, False), f"{label}: the Will is published when the client vanishes")


def story():
    broker = Broker(CONFIG)
    secret = broker.directory / "tester.password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    broker.start()
    watchers = {}
    for version in (V311, V5):
        watcher = Paho(broker, version, tls=False).make(f"watcher-{version}")
        equal(watcher.connect(), 0, f"the watcher of version {VERSION_NAMES[version]} is connected")
        watchers[version] = PahoSubscription(watcher)
        watchers[version].broker = broker

    for subject_class, version, tls in itertools.product((Mosquitto, Paho, MqttJs), (V311, V5), (False, True)):
        label = f"{subject_class.name} {VERSION_NAMES[version]} {'TLS' if tls else 'TCP'}"
        chapter(label)
        subject = subject_class(broker, version, tls)
        watcher = watchers[V311 if version == V5 else V5]
        watcher.client.subscribe("it/#", 2)
        both_ways(subject, watcher, label)
        retained(subject, watcher, label)
        will(subject, watcher, label)
        watcher.client.paho.unsubscribe("it/#")

    chapter("the end")
    equal(broker.stop(signal.SIGTERM), 0, "SIGTERM ends the broker with exit code 0")
    equal(watchers[V5].client.end(), ("disconnect", 0x8B), "a client of version 5.0 is told: server shutting down")
    equal(watchers[V311].client.end(), ("closed", None), "a client of version 3.1.1 sees the connection end")


if __name__ == "__main__":
    main(story)
