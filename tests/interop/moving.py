"""Moving in from mosquitto: its own tools make the files, `portcullis import` takes them over, and both brokers answer one table.

Enters: the binary, mosquitto with mosquitto_passwd, mosquitto_ctrl and the dynamic security plugin. Leaves: one line per
check and `N passed, N failed`. What the table says may differ in one direction only, towards no, and only where the dry run
has said so: each such row names the line of the report that says it.
"""

import getpass
import json
import pathlib
import time

from harness import WAIT, Broker, Client, binary, chapter, check, directory, equal, free_port, main, run, spawn

PASSWORDS = {name: f"{name} correct horse" for name in ("ada", "bob", "boss", "carl", "dora", "old", "root", "off", "bound")}
SETTLE = 0.25  # seconds after the last PUBACK until a message counts as withheld


class Mosquitto:
    """A mosquitto of its own, with these lines of configuration."""

    def __init__(self, folder, *lines):
        self.tcp, self.tls = free_port(), None
        config = folder / "mosquitto.conf"
        common = [f"listener {self.tcp} 127.0.0.1", "allow_anonymous false", f"user {getpass.getuser()}", "persistence false"]
        config.write_text("\n".join([*common, *lines, ""]))
        self.log = folder / "mosquitto.log"
        with open(self.log, "wb") as log:
            self.process = spawn("mosquitto", "-c", config, stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT
        while b"running" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto does not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def connect(broker, user, client_id=None):
    client = Client(broker, client_id or user, username=user, password=PASSWORDS[user])
    return client, client.connect()


def ask(broker, users, publishes, filters, topics):
    """What the broker answers: {(user, action, what): yes or no}."""
    answers = {}
    boss, code = connect(broker, "boss", "the-boss")
    assert code == 0, f"boss: {code}"
    for user in users:
        name, client_id = user if isinstance(user, tuple) else (user, user)
        who = name if name == client_id else f"{name} as {client_id}"
        client, code = connect(broker, name, client_id)
        answers[who, "connect", ""] = code == 0
        if code != 0:
            continue
        with client:
            for topic in publishes:
                code = client.publish(topic, "x")
                answers[who, "publish", topic] = code is not None and code < 0x80
        for wanted in filters:
            client, code = connect(broker, name, client_id)
            assert code == 0, f"{who}: {code}"
            with client:
                granted = client.subscribe(wanted) < 0x80
                answers[who, "subscribe", wanted] = granted
                for topic in topics:
                    assert boss.publish(topic, topic) < 0x80, topic
                time.sleep(SETTLE)
                seen = set()
                while message := client.message(0):
                    seen.add(message.topic)
                for topic in topics:
                    answers[who, f"receive through {wanted}", topic] = topic in seen
    boss.close()
    return answers


def compare(there, here, report, differences):
    """`differences` says of rows that mosquitto answers with yes why the answer is no here: (rows, what stands in the report)."""
    said = "\n".join(
        [f"{entry['source']} {entry.get('note', '')}" for entry in report["entries"] if entry["outcome"] != "same"] + report["notes"]
    )
    for _, where in differences:
        check(where in said, f"the dry run says: {where}", said)
    granted, refused, unexplained = 0, 0, []
    for row, answer in sorted(there.items()):
        # Who is not let in here is told by that row alone.
        mine = here.get(row, False)
        if answer == mine:
            granted, refused = granted + answer, refused + (not answer)
        elif mine or not any(rows(row) for rows, _ in differences):
            unexplained.append((row, f"mosquitto {answer}", f"here {mine}"))
    equal(unexplained, [], f"{granted} rows are granted by both, {refused} refused by both, and every other was foretold")
    check(granted >= 8 and refused >= 8, "the table is no empty one", (granted, refused))


def old_clients(broker, user, allowed, refused):
    """mosquitto's own clients, with the password that they always had."""
    address = ["-h", "127.0.0.1", "-p", broker.tcp, "-V", "5"]
    login = [*address, "-u", user, "-i", user]
    listener = spawn("mosquitto_sub", *login, "-P", PASSWORDS[user], "-t", allowed, "-C", "1", "-W", "15", stdout=-1)
    time.sleep(0.5)
    published = run("mosquitto_pub", *address, "-u", "boss", "-P", PASSWORDS["boss"], "-q", "1", "-t", allowed, "-m", "moved")
    equal(published.stderr, b"", "mosquitto_pub publishes with the password that it had")
    equal(listener.communicate(timeout=20)[0], b"moved\n", "mosquitto_sub receives with the password that it had")
    denied = run("mosquitto_pub", *login, "-P", PASSWORDS[user], "-q", "1", "-t", refused, "-m", "no", expect=None)
    check(b"Not authorized" in denied.stderr, "and is refused where it was", denied.stderr)
    wrong = run("mosquitto_pub", *login, "-P", "wrong", "-t", allowed, "-m", "no", expect=None)
    check(wrong.returncode != 0, "a wrong password is none", wrong)


def rehashed(broker, user):
    """Until the commit that follows the first login."""
    deadline = time.monotonic() + WAIT
    while broker.cli("user", "show", user).get("password_imported") and time.monotonic() < deadline:
        time.sleep(0.05)
    shown = broker.cli("user", "show", user)
    check(shown["has_password"] and "password_imported" not in shown, f"the password of {user} is on record as argon2id now", shown)
    events = run(binary(), "--config", broker.config, "audit", "export").stdout.decode()
    check("password_rehashed" in events, "and the audit log says so")


def take_over(broker, *sources):
    """A dry run, then the import, then the same again."""
    before = broker.cli("user", "list")
    dry = broker.cli("import", *sources, "--dry-run")
    equal(broker.cli("user", "list"), before, "the dry run changes nothing")
    check(dry["applied"]["dry_run"] and dry["applied"]["changes"], "and says what would be made", dry["applied"])
    done = broker.cli("import", *sources)
    equal(done["report"], dry["report"], "the import does what the dry run said")
    again = broker.cli("import", *sources, expect=1)
    named = json.loads(again.stdout)["conflicts"]
    equal(len(named), len(done["applied"]["changes"]), "a second import names everything that is in its way")
    check(b"nothing was imported" in again.stderr, "and does nothing", again.stderr)
    return dry["report"]


ACLS = """\
# before the first user: for nobody with a name
topic read public/#

user ada
topic plant/ada/#
topic read plant/+/state
topic deny plant/ada/secret
topic write inbox/with space

user bob
topic read plant/#
topic deny plant/+/secret
topic write $SYS/own

user boss
topic readwrite #

user carl
topic read lost/#

pattern readwrite home/%u/#
pattern deny home/%u/locked
pattern read dev-%u/state
pattern write client/%c/up
"""


def files():
    chapter("password_file and acl_file")
    folder = directory()
    passwords, acls = folder / "passwords", folder / "acls"
    passwords.touch(0o600)
    for name in ("ada", "bob", "boss", "root"):
        run("mosquitto_passwd", "-b", passwords, name, PASSWORDS[name])
    run("mosquitto_passwd", "-H", "sha512", "-b", passwords, "old", PASSWORDS["old"])
    acls.write_text(ACLS)

    users = ["ada", "bob", "root", "old", ("ada", "other")]
    publishes = ["plant/ada/x", "plant/ada/secret", "plant/bob/x", "inbox/with space", "home/ada/x", "home/ada/locked", "home/bob/x", "public/x",
                 "client/ada/up", "client/other/up", "nowhere"]
    filters = ["plant/+/state", "plant/#", "#", "home/ada/#", "home/bob/#", "dev-ada/state", "public/x"]
    topics = ["plant/ada/state", "plant/ada/secret", "plant/bob/state", "plant/bob/secret", "home/ada/x", "home/ada/locked", "home/bob/x", "dev-ada/state", "public/x"]
    mosquitto = Mosquitto(folder, f"password_file {passwords}", f"acl_file {acls}")
    there = ask(mosquitto, users, publishes, filters, topics)
    mosquitto.stop()

    broker = Broker('\n[access]\npartial_subscription = "filter"\n')
    broker.start()
    report = take_over(broker, "--passwords", passwords, "--acls", acls)
    here = ask(broker, users, publishes, filters, topics)
    compare(there, here, report, [
        (lambda row: row[1] == "subscribe", "mosquitto grants every SUBSCRIBE and withholds what may not be read"),
        (lambda row: row[2].startswith("client/"), "pattern write client/%c/up"),
        (lambda row: row[2] == "dev-ada/state", "pattern read dev-%u/state"),
        (lambda row: row[0] == "old", "user old one round of SHA-512"),
    ])
    old_clients(broker, "ada", "plant/ada/state", "plant/bob/x")
    rehashed(broker, "ada")
    equal(connect(broker, "ada")[1], 0, "and it logs in with it")
    carl = next(entry for entry in report["entries"] if entry["source"] == "user carl")
    check(carl["outcome"] == "left_out" and carl["note"].startswith("there is no password of it"), "a user without a password is named", carl)

    chapter("the same with client identifiers tied to names")
    tied = Broker('\n[access]\npartial_subscription = "filter"\n')
    tied.start()
    report = take_over(tied, "--passwords", passwords, "--acls", acls, "--client-id-is-username")
    code = connect(tied, "boss", "the-boss")[1]
    equal(code, 0x87, "another client identifier is refused")
    ada, code = connect(tied, "ada")
    equal((code, ada.publish("client/ada/up", "x"), ada.publish("client/other/up", "x")), (0, 0x10, 0x87), "and `%c` is the name")
    tied.stop()
    broker.stop()


def dynamic_security():
    chapter("the dynamic security plugin")
    folder = directory()
    state = folder / "dynamic-security.json"
    plugins = sorted(pathlib.Path("/usr").glob("lib*/**/mosquitto_dynamic_security.so"))
    assert plugins, "mosquitto has no dynamic security plugin here"
    run("mosquitto_ctrl", "dynsec", "init", state, "admin", "the admin of mosquitto")
    mosquitto = Mosquitto(folder, f"plugin {plugins[0]}", f"plugin_opt_config_file {state}")

    def dynsec(*words):
        login = ["-h", "127.0.0.1", "-p", mosquitto.tcp, "-u", "admin", "-P", "the admin of mosquitto"]
        done = run("mosquitto_ctrl", *login, "dynsec", *words)
        assert b"rror" not in done.stdout + done.stderr, (words, done)

    roles = {
        "boss": [("publishClientSend", "#", "allow", 0)],
        "line": [
            ("publishClientSend", "line/#", "allow", 0),
            ("publishClientSend", "line/secret", "deny", 10),
            ("publishClientSend", "line/open/#", "deny", 0),
            ("publishClientSend", "line/open/door", "allow", 10),
            ("subscribePattern", "line/+/state", "allow", 0),
        ],
        "reader": [
            ("subscribePattern", "hall/#", "allow", 0),
            ("subscribePattern", "hall/vault/#", "deny", 5),
            ("subscribeLiteral", "yard/gate", "allow", 0),
            ("subscribeLiteral", "yard/+/gate", "allow", 0),
            ("publishClientReceive", "hall/hidden", "deny", 0),
            ("unsubscribePattern", "hall/#", "deny", 0),
        ],
        "percent": [("publishClientSend", "p/%u/x", "allow", 0)],
    }
    for role, acls in roles.items():
        dynsec("createRole", role)
        for kind, topic, verdict, priority in acls:
            dynsec("addRoleACL", role, kind, topic, verdict, str(priority))
    dynsec("createGroup", "hall")
    dynsec("addGroupRole", "hall", "reader", "3")
    for name, held in {"boss": ["boss"], "ada": ["line"], "bob": ["line", "percent"], "dora": [], "off": ["line"], "bound": ["line"]}.items():
        dynsec("createClient", name, "-p", PASSWORDS[name], *(["-c", "bound-1"] if name == "bound" else []))
        for role in held:
            dynsec("addClientRole", name, role, "2")
    for name in ("bob", "dora"):
        dynsec("addGroupClient", "hall", name)
    dynsec("disableClient", "off")

    users = ["ada", "bob", "dora", "off", "bound", ("bound", "bound-1")]
    publishes = ["line/x", "line/secret", "line/open/window", "line/open/door", "hall/x", "p/%u/x", "p/bob/x"]
    filters = ["line/a/state", "line/+/state", "line/#", "hall/#", "hall/+", "hall/vault/a", "hall/vault/#", "yard/gate", "yard/a/gate", "yard/+/gate", "#"]
    topics = ["line/a/state", "hall/x", "hall/hidden", "hall/vault/a", "yard/gate", "yard/a/gate"]
    there = ask(mosquitto, users, publishes, filters, topics)
    mosquitto.stop()

    broker = Broker()
    broker.start()
    report = take_over(broker, "--dynamic-security", state)
    here = ask(broker, users, publishes, filters, topics)
    compare(there, here, report, [
        (lambda row: row[2].startswith("line/open/"), "role line: publishClientSend line/open/# deny it beats every allow"),
        (lambda row: "yard/+/gate" in row[1] or row[2] == "yard/+/gate", "role reader: subscribeLiteral yard/+/gate allow it admits this filter alone"),
        (lambda row: row[2] == "hall/vault/a", "role reader: subscribePattern hall/vault/# deny mosquitto refuses such filters"),
        (lambda row: row[2] == "p/%u/x", "role percent: publishClientSend p/%u/x allow mosquitto 2.0 takes"),
    ])
    named = {entry["source"]: entry["note"] for entry in report["entries"] if entry["outcome"] == "left_out"}
    check("reserved" in named["client admin"], "the client admin is named and left out", named)
    check("comes with the broker" in named["role admin"], "and so is its role", named)
    check("never refused" in named["role reader: unsubscribePattern hall/# deny"], "UNSUBSCRIBE has no rules here", named)
    old_clients(broker, "dora", "hall/x", "line/x")
    rehashed(broker, "dora")
    written = folder / "policy.toml"
    run(binary(), "import", "--dynamic-security", state, "--write", written)
    equal(written.stat().st_mode & 0o777, 0o600, "a written set of changes is for its owner")
    broker.cli("apply", written, "--dry-run", expect=1)
    broker.stop()


def story():
    files()
    dynamic_security()


main(story)
