"""The broker is killed while users, roles and requests change, again and again: what was answered is there afterwards.

    kill.py [--rounds 50] [--seed N]

In each round operators change things by CLI and devices ask to be registered, all at the same time; at a random moment
the broker gets SIGKILL; it starts again on the same directory. A change that was answered has to be there, one that was
refused may not be, one that was not answered is there as a whole or not at all: a request is granted if and only if its
user exists.
"""

import argparse
import json
import random
import threading
import time

from harness import Broker, Client, binary, chapter, check, equal, main, run

CHEAP = """
[password]
argon2 = { memory_kib = 64, iterations = 1, parallelism = 1 }
[registry]
requests_per_minute = 100000
max_pending = 1000000
max_pending_per_source = 1000000
"""
PASSWORD = "correct horse battery staple"
RULE = '{"context":"mqtt","operation":"read","resource":"plant/#"}'


class Book:
    """What must be true, and what nobody knows because the answer never came."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sure = {}  # (kind, name) -> state
        self.open = {}  # (kind, name) -> the states that it may have
        self.errors = []
        self.answered = 0

    def change(self, thing, new, act):
        """`act` answers True when the change was acknowledged and False when no answer came."""
        with self.lock:
            self.open[thing] = {self.sure.get(thing), new}
        if act():
            with self.lock:
                del self.open[thing]
                self.sure[thing] = new
                self.answered += 1
            return True
        return False

    def compare(self, seen, round_number):
        wrong = []
        for thing in set(self.sure) | set(self.open) | set(seen):
            found, allowed = seen.get(thing), self.open.get(thing, {self.sure.get(thing)})
            if found not in allowed:
                wrong.append((thing, found, allowed))
            self.sure[thing] = found
        self.open.clear()
        check(not wrong, f"round {round_number}: all that was answered is there, and nothing else", wrong[:5])


def command(broker, book, *arguments, input=""):
    """True: done. False: no answer, for the broker was killed under it."""
    done = run(binary(), "--config", broker.config, "--json", *arguments, input=input.encode(), expect=None)
    if done.returncode == 0:
        return True
    if not broker.dying.is_set():
        # It may have died just now: then the next command cannot reach it.
        time.sleep(0.2)
        if not broker.dying.is_set():
            book.errors.append((arguments, done.stderr.decode(errors="replace")))
    return False


def operator(broker, book, numbers, rng):
    """Adds, disables, enables and deletes users and roles of its own."""
    mine = []
    while not broker.dying.is_set():
        user = next(numbers)
        choice = rng.random()
        if choice < 0.4 or not mine:
            name = f"user-{user}"
            if book.change(("user", name), True, lambda: command(broker, book, "user", "add", name, "--password-stdin", input=PASSWORD + "\n")):
                mine.append(name)
        elif choice < 0.6:
            name, on = rng.choice(mine), rng.random() < 0.5
            book.change(("user", name), on, lambda: command(broker, book, "user", "enable" if on else "disable", name))
        elif choice < 0.8:
            name = mine.pop(rng.randrange(len(mine)))
            book.change(("user", name), None, lambda: command(broker, book, "user", "delete", name))
        else:
            name = f"role-{user}"
            book.change(("role", name), True, lambda: command(broker, book, "role", "add", name, "--permission", RULE))


def devices(broker, book, numbers, rng):
    """Asks for identities; some are granted at once."""
    client = Client(broker, "", tls=True)
    if client.connect() != 0 or client.subscribe("$registry/register/response") is None:
        return
    while not broker.dying.is_set():
        name = f"device-{next(numbers)}"

        def ask():
            client.publish("$registry/register", json.dumps({"username": name, "password": PASSWORD}), wait=False)
            while not broker.dying.is_set():
                answer = client.answer(0.2)
                if answer and answer.get("username", name) == name and answer["state"] != "granted":
                    if answer["status"] != 202:
                        book.errors.append((name, answer))
                    return answer["status"] == 202
            return False

        if not book.change(("request", name), "pending", ask):
            break
        if rng.random() < 0.5:
            grant(broker, book, name)
    client.paho.loop_stop()


def grant(broker, book, name):
    done = run(binary(), "--config", broker.config, "--json", "registry", "list", expect=None)
    if done.returncode != 0:
        return
    ids = [item["id"] for item in json.loads(done.stdout)["items"] if item["username"] == name]
    if not ids:
        if not broker.dying.is_set():
            book.errors.append((name, "was answered 202 and is not in the list"))
        return
    # Two records, one commit: the user appears with the decision or not at all.
    book.change(("request", name), "granted",
                lambda: book.change(("user", name), True, lambda: command(broker, book, "registry", "grant", ids[0])))


def inventory(broker):
    seen = {}
    for user in broker.cli("user", "list")["items"]:
        seen["user", user["username"]] = user["enabled"]
    for role in broker.cli("role", "list")["items"]:
        seen["role", role["name"]] = True
    for request in broker.cli("registry", "list", "--state", "all")["items"]:
        seen["request", request["username"]] = request["state"]
    return seen


class Numbers:
    def __init__(self):
        self.lock, self.last = threading.Lock(), 0

    def __next__(self):
        with self.lock:
            self.last += 1
            return self.last


def story():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = arguments.parse_args()
    print(f"{options.rounds} rounds, seed {options.seed}")
    rng, book, numbers = random.Random(options.seed), Book(), Numbers()
    broker = Broker(CHEAP)
    broker.dying = threading.Event()
    broker.start()
    book.sure = inventory(broker)
    for number in range(1, options.rounds + 1):
        broker.cli("registry", "unlock", "--for", "1h")
        workers = [threading.Thread(target=operator, args=(broker, book, numbers, random.Random(rng.random()))) for _ in range(2)]
        workers.append(threading.Thread(target=devices, args=(broker, book, numbers, random.Random(rng.random()))))
        for worker in workers:
            worker.start()
        time.sleep(rng.uniform(0.02, 2.0))
        broker.process.kill()
        broker.dying.set()
        broker.process.wait()
        for worker in workers:
            worker.join(120)
        broker.dying.clear()
        begin = time.monotonic()
        broker.start()
        check(time.monotonic() - begin < 20, f"round {number}: it starts again in time")
        seen = inventory(broker)
        book.compare(seen, number)
        granted = {name for (kind, name), state in seen.items() if kind == "request" and state == "granted"}
        made = {name for kind, name in seen if kind == "user" and name.startswith("device-")}
        equal(granted ^ made, set(), f"round {number}: a request is granted if and only if its user exists")
        check(broker.cli("audit", "verify")["whole"], f"round {number}: the audit log is whole")
    chapter("in all")
    equal(book.errors, [], "nothing was refused while the broker ran")
    check(book.answered > options.rounds, f"{book.answered} changes were answered", book.answered)
    equal(broker.stop(), 0, "SIGTERM: exit code 0")


if __name__ == "__main__":
    main(story)
