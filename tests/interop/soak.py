"""Clients come and go for a long time; the broker neither loses what it took nor grows.

    soak.py [--minutes 10] [--clients 16]

Each client connects in a random version, over TCP or TLS, with a clean or a lasting session, subscribes to filters and
publishes to topics that nobody used before, sets and clears retained messages, and leaves in order or by vanishing, with
a Will or without; an operator makes, changes and deletes users and roles. A subscriber that stays counts.
Bound: the resident memory of the last third of the time may not exceed that of the middle third by more than a tenth and
8 MiB; file descriptors return to where they were.
"""

import argparse
import os
import random
import threading
import time

from harness import V311, V5, Broker, Client, binary, chapter, check, equal, main, run

PASSWORD = "correct horse battery staple"
CONFIG = """
[password]
argon2 = { memory_kib = 64, iterations = 1, parallelism = 1 }
[limits]
session_expiry = "20s"
[[role]]
name = "soak"
permissions = [{ context = "mqtt", operation = "read_write", resource = "soak/#" }]
[[user]]
username = "soak"
password_file = "soak.password"
roles = ["soak"]
"""


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = self.connections = self.failures = 0
        self.stop = threading.Event()

    def add(self, **counts):
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


def churn(broker, tally, worker):
    rng = random.Random(worker)
    life = 0
    while not tally.stop.is_set():
        life += 1
        version, own = rng.choice((V311, V5)), f"soak/{worker}/{life}"
        client = Client(broker, f"churn-{worker}-{life % 50}", version, "soak", PASSWORD, tls=rng.random() < 0.3,
                        clean=rng.random() < 0.5, expiry=10 if version == V5 else None,
                        will=(f"{own}/will", "gone") if rng.random() < 0.3 else None)
        if client.connect() != 0:
            tally.add(failures=1)
            time.sleep(0.2)
            continue
        tally.add(connections=1)
        for filter in (f"{own}/+", f"{own}/#", f"soak/+/{life}/a"):
            client.subscribe(filter, rng.choice((0, 1, 2)))
        for number in range(10):
            client.publish(f"{own}/{number}", os.urandom(rng.choice((1, 100, 4000))), rng.choice((0, 1, 2)))
            if client.publish("soak/count", "x", rng.choice((1, 2))) == 0:
                tally.add(acknowledged=1)
        client.publish(f"{own}/kept", "kept", 1, retain=True)
        client.publish(f"{own}/kept", "", 1, retain=True)
        if rng.random() < 0.3:
            client.paho._sock_close()
            client.paho.loop_stop()
        else:
            client.close()


def administer(broker, tally):
    def cli(*arguments, input=""):
        if run(binary(), "--config", broker.config, *arguments, input=input.encode(), expect=None).returncode != 0:
            tally.add(failures=1)

    rule = '{"context":"mqtt","operation":"read","resource":"soak/other/#"}'
    while not tally.stop.wait(0.5):
        cli("role", "add", "passing", "--permission", rule)
        cli("user", "add", "passer", "--password-stdin", "--role", "passing", input=PASSWORD + "\n")
        cli("user", "disable", "passer")
        cli("user", "delete", "passer")
        cli("role", "delete", "passing")


def descriptors(broker):
    return len(os.listdir(f"/proc/{broker.process.pid}/fd"))


def story():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--clients", type=int, default=16)
    options = arguments.parse_args()
    broker, tally = Broker(CONFIG), Tally()
    secret = broker.directory / "soak.password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    broker.start()
    stayer = Client(broker, "stayer", V5, "soak", PASSWORD)
    equal(stayer.connect(), 0, "the subscriber that stays is connected")
    received = [0]
    stayer.paho.on_message = lambda *_: received.__setitem__(0, received[0] + 1)
    equal(stayer.subscribe("soak/count", 1), 1, "and subscribed")
    at_first = descriptors(broker)

    chapter(f"{options.minutes} minutes, {options.clients} clients")
    threads = [threading.Thread(target=churn, args=(broker, tally, number)) for number in range(options.clients)]
    threads.append(threading.Thread(target=administer, args=(broker, tally)))
    for thread in threads:
        thread.start()
    begin, samples = time.monotonic(), []
    while (elapsed := time.monotonic() - begin) < options.minutes * 60 and broker.process.poll() is None:
        samples.append((elapsed, broker.resident()))
        time.sleep(min(5, options.minutes * 60 / 30))
    tally.stop.set()
    for thread in threads:
        thread.join(120)

    third = options.minutes * 20
    middle = max(size for at, size in samples if third <= at < 2 * third)
    last = max(size for at, size in samples if at >= 2 * third)
    print(f"{tally.connections} connections, {tally.acknowledged} counted messages; KiB resident: "
          f"{samples[0][1]} at first, {middle} in the middle third, {last} in the last")
    check(broker.process.poll() is None, "the broker is alive")
    check(last <= middle * 1.1 + 8192, "its memory does not grow", samples)
    equal(tally.failures, 0, "every client was let in, every command of the operator was done")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (received[0] < tally.acknowledged or descriptors(broker) > at_first):
        time.sleep(0.2)
    equal(received[0], tally.acknowledged, "every acknowledged message reached the subscriber that stayed, once")
    check(descriptors(broker) <= at_first, "every connection was given back", (at_first, descriptors(broker)))
    stayer.close()
    equal(broker.stop(), 0, "SIGTERM: exit code 0")
    check("panicked" not in broker.log.read_text(), "nothing panicked")


if __name__ == "__main__":
    main(story)
