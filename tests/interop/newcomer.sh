#!/usr/bin/env bash
# What somebody sees who has just cloned this repository and does what the README says; and what the broker says to
# somebody who has made a mistake.
#
# Enters: this repository at HEAD, cargo, openssl, mosquitto's clients. Leaves: a line for each check and
# `N passed, N failed`. Works in a clone in a temporary directory. The ports of the shipped broker.toml are used where
# nobody else has them, free ones otherwise. What was started is ended by its process id.
set -uo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$repository/target}" NO_COLOR=1
binary=$CARGO_TARGET_DIR/release/portcullis
work=$(mktemp -d)
passed=0 failed=0 broker=

trap 'stop KILL >/dev/null 2>&1; rm -rf "$work"' EXIT
trap 'exit 143' TERM INT

# --- Checks ----------------------------------------------------------------------------------------------------------

check() { # check SENTENCE COMMAND...: passes when the command does
  local sentence=$1
  shift
  # Not in a subshell: what the command starts is a child of this one.
  if "$@" >"$work/seen" 2>&1; then
    passed=$((passed + 1))
    echo "ok    $sentence"
  else
    failed=$((failed + 1))
    printf 'FAIL  %s\n      %s\n' "$sentence" "$*"
    head -n 12 "$work/seen" | sed 's/^/      | /'
  fi
}
not() { ! "$@"; }
is() { [ "$1" = "$2" ] || { echo "is \`$1\`, not \`$2\`"; return 1; }; }
mode() { is "$(stat -c %a "$1")" "$2"; }
says() { grep -qF -- "$2" "$1" || { cat "$1"; return 1; }; }
mentions() { grep -qiE -- "$2" "$1" || { cat "$1"; return 1; }; }
chapter() { printf '\n-- %s\n' "$1"; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# --- The broker ------------------------------------------------------------------------------------------------------

start() { # start DIRECTORY COMMAND...: standard output to out, the log to log; returns when it listens or has ended
  local directory=$1
  shift
  : >"$directory/out"
  : >"$directory/log"
  (cd "$directory" && exec "$@" >out 2>log </dev/null) &
  broker=$!
  for _ in $(seq 3000); do
    if grep -q 'trust bundle' "$directory/out"; then return 0; fi
    kill -0 "$broker" 2>/dev/null || return 1
    sleep 0.2
  done
  return 1
}
stop() { # stop SIGNAL: its exit code
  [ -n "$broker" ] || return 0
  local pid=$broker
  broker=
  kill "-$1" "$pid" 2>/dev/null
  wait "$pid"
}
ends_with() { # ends_with CODE DIRECTORY COMMAND...: it ends by itself, soon, with that exit code
  local code=$1 directory=$2 status=0
  shift 2
  (cd "$directory" && exec timeout 30 "$@" >out 2>log </dev/null) || status=$?
  is "$status" "$code" || { cat "$directory/out" "$directory/log"; return 1; }
}
runs() { # runs BLOCK: as somebody who types it into a terminal in the clone
  (cd "$clone" && timeout 60 bash -euo pipefail "$1" 2>&1 | tee -a "$work/readme-output")
}
fresh() { # a directory of its own with this broker.toml
  local directory
  directory=$(mktemp -d -p "$work")
  cat >"$directory/broker.toml"
  echo "$directory"
}
small() { # a configuration with one plain listener on PORT
  printf '[[listener]]\nname = "local"\nbind = "127.0.0.1:%s"\n[metrics]\nbind = "off"\n[admin]\nbind = "off"\n' "$1"
}

# --- The README ------------------------------------------------------------------------------------------------------

chapter "a clone"
clone=$work/clone
git clone -q "$repository" "$clone" || exit 1
# The README says `target/release/portcullis`: the clone builds where this repository does.
rm -rf "$CARGO_TARGET_DIR/demo"
mkdir -p "$CARGO_TARGET_DIR"
ln -s "$CARGO_TARGET_DIR" "$clone/target"
check "no certificate, key or data is in git" is "$(git -C "$clone" ls-files certs data)" certs/README.md

tls=8883 tcp=1883
if taken 8883 || taken 1883 || taken 9464 || taken 8443; then
  tls=$(free_port) tcp=$(free_port)
  echo "note: the ports of the shipped broker.toml are in use here; the clone gets others"
  sed -i "s/:8883\"/:$tls\"/; s/:1883\"/:$tcp\"/; s/^#bind = \"127.0.0.1:9464\"/bind = \"127.0.0.1:$(free_port)\"/; s/^#bind = \"127.0.0.1:8443\"/bind = \"127.0.0.1:$(free_port)\"/" "$clone/broker.toml"
fi
(cd "$clone" && cargo build --release --quiet) || exit 1

# The fenced `sh` blocks of one chapter of the README, a file each, in order.
blocks() {
  mkdir -p "$work/blocks/$1"
  awk -v chapter="## $2" -v to="$work/blocks/$1" '
    /^## / { inside = ($0 == chapter) }
    inside && /^```sh$/ { open = sprintf("%s/%02d", to, ++n); next }
    /^```$/ { open = "" }
    open { print > open }' "$clone/README.md"
  sed -i "s/-p 8883/-p $tls/; s/-p 1883/-p $tcp/" "$work/blocks/$1"/*
}
blocks start "Start"
blocks device "The first device"
blocks why "Why may it, why may it not?"

chapter "the first start"
umask 000 # what is secret must not rely on the user's habits
check "the README starts the broker by \`cargo run --release\`" is "$(cat "$work"/blocks/start/*)" "cargo run --release"
check "which starts it" start "$clone" cargo run --release
umask 022
for name in ca.key server.key; do check "certs/$name has mode 0600" mode "$clone/certs/$name" 600; done
for name in ca.pem server.pem; do check "certs/$name is made" test -s "$clone/certs/$name"; done
check "the data directory is the owner's alone" mode "$clone/data" 700
check "the admin socket too" mode "$clone/data/admin.sock" 600
check "the admin password is in a file of mode 0600" mode "$clone/data/initial-admin-password" 600
password=$(cat "$clone/data/initial-admin-password" 2>/dev/null)
check "it is a long one" test ${#password} -ge 16
check "the broker tells where it is" says "$clone/out" initial-admin-password
check "but not what it is" not grep -qF -- "${password:-none}" "$clone/out" "$clone/log"
check "the broker tells where it listens" says "$clone/out" ":$tls"
check "where the trust bundle lies" says "$clone/out" certs/ca.pem
check "and what enrols a first device" says "$clone/out" "portcullis registry unlock"
check "it takes few lines" test "$(wc -l <"$clone/out")" -le 10
check "the log holds no warning" not grep -E 'WARN|ERROR' "$clone/log"
is_raised() { awk '/Max open files/ { exit !($4 == $5) }' "/proc/$broker/limits"; }
check "the limit of open files is raised" is_raised

chapter "TLS and logins"
handshake() { openssl s_client -connect "127.0.0.1:$tls" -CAfile "$clone/certs/ca.pem" -verify_return_error "$@" </dev/null; }
check "openssl trusts the broker as localhost" handshake -verify_hostname localhost
check "as this machine" handshake -verify_hostname "$(hostname)"
check "as 127.0.0.1" handshake -verify_ip 127.0.0.1
check "TLS 1.2 is spoken" handshake -tls1_2
check "TLS 1.3 is spoken" handshake -tls1_3
check "TLS 1.1 is not" not handshake -tls1_1 -cipher DEFAULT@SECLEVEL=0
address=$(hostname -I 2>/dev/null | tr ' ' '\n' | grep -m1 -E '^[0-9]+\.')
if [ -n "$address" ]; then
  check "the interface address is in the certificate" handshake -verify_ip "$address"
  elsewhere() { (exec 3<>"/dev/tcp/$address/$tcp"); }
  check "the plain listener is on loopback only" not elsewhere
fi
publish() { mosquitto_pub -h localhost -q 1 -t hello -m world "$@"; }
check "nobody publishes without credentials" not publish -p "$tcp"
check "nor with an easy guess" not publish -p "$tcp" -u admin -P admin
check "admin does with the password of the file" publish -p "$tcp" -u admin -P "$password"
check "over TLS too" publish -p "$tls" --cafile "$clone/certs/ca.pem" -u admin -P "$password"
check "which a client without the trust bundle does not accept" not publish -p "$tls" --tls-use-os-certs -u admin -P "$password"

chapter "the first device, word for word from the README"
listener=
for block in "$work"/blocks/device/* "$work"/blocks/why/*; do
  title=$(sed -n 1p "$block" | cut -c1-100)
  if grep -q '^mosquitto_sub' "$block"; then
    # "leave it running in a third terminal"
    (cd "$clone" && exec timeout 120 bash -c "$(cat "$block")" >"$work/third-terminal" 2>&1) &
    listener=$!
    sleep 2
  else
    check "$title" runs "$block"
  fi
done
for answer in '"status": 423' '"status": 202' '"pairing_code"' 'Not authorized'; do
  check "what it prints holds $answer" says "$work/readme-output" "$answer"
done
pairing=$(sed -n 's/.*"pairing_code": "\(.*\)".*/\1/p' "$work/readme-output" | head -n 1)
check "the pairing code is told once by the broker, once computed, once listed" test "$(grep -c -- "${pairing:-none}" "$work/readme-output")" -ge 3
sleep 1
check "what may be published arrives, and nothing else" is "$(cat "$work/third-terminal")" "plant/pump-7/speed 1450"
if [ -n "$listener" ]; then kill "$listener" 2>/dev/null; wait "$listener" 2>/dev/null; fi

chapter "the operator"
operator() { (cd "$clone" && "$binary" "$@"); }
check "\`registry status\` says that the registry is locked" operator registry status
check "\`registry unlock\` opens it" operator registry unlock --for 1m
check "\`registry lock\` closes it" operator registry lock
change() { printf 'a better password than drawn\n' | operator user passwd admin --password-stdin; }
check "\`user passwd admin\` sets a password" change
check "which deletes the file" not test -e "$clone/data/initial-admin-password"
check "the new one is good" publish -p "$tcp" -u admin -P "a better password than drawn"
check "the old one is not" not publish -p "$tcp" -u admin -P "$password"
check "a second broker on the same directory is refused" ends_with 1 "$work" "$binary" --config "$clone/broker.toml"
check "and the first one goes on" publish -p "$tcp" -u admin -P "a better password than drawn"

chapter "the second start"
sums=$(cat "$clone"/certs/*.pem "$clone"/certs/*.key | sha256sum)
check "SIGTERM: exit code 0" stop TERM
check "the socket is gone or dead: the CLI says that no broker is reached, exit code 3" ends_with 3 "$clone" "$binary" user list
check "it starts again" start "$clone" "$binary"
check "it says nothing of passwords" not grep -qi password "$clone/out" "$clone/log"
check "it made nothing anew" is "$(cat "$clone"/certs/*.pem "$clone"/certs/*.key | sha256sum)" "$sums"
check "the password is the one that was set" publish -p "$tcp" -u admin -P "a better password than drawn"
check "SIGINT: exit code 0" stop INT
check "git sees nothing of all this" is "$(git -C "$clone" status --porcelain | grep -v ' broker.toml$\|?? out$\|?? log$')" ""

# --- Mistakes --------------------------------------------------------------------------------------------------------

chapter "mistakes in broker.toml"
mistake() { # mistake SENTENCE LINE COLUMN PATTERN: broker.toml from standard input; what the broker must say
  local directory
  directory=$(fresh)
  check "$1: exit code 1" ends_with 1 "$directory" "$binary"
  check "$1: line $2, column $3" says "$directory/log" "broker.toml:$2:$3"
  check "$1: says what to do" mentions "$directory/log" "$4"
  check "$1: nothing is made" not ls -d "$directory/data" "$directory/certs"
  check "$1: \`config check\` says so too" ends_with 1 "$directory" "$binary" config check
}
mistake "an unknown key" 2 1 'queue_messages' <<<$'[limits]\nqueue_mesages = 5'
mistake "an unknown section" 1 3 'listener' <<<$'[[listner]]\nname = "a"'
mistake "a wrong type" 2 15 'connections|number|integer' <<<$'[limits]\nconnections = "many"'
mistake "a bad address" 3 8 '127.0.0.1|port' <<<$'[[listener]]\nname = "a"\nbind = "localhost"'
mistake "a missing file" 3 17 'secrets/none' <<<$'[[user]]\nusername = "historian"\npassword_file = "secrets/none"'
mistake "no TOML" 1 8 '' <<<$'[limits\nx = 1'

directory=$(small "$(free_port)" | fresh)
mkdir "$directory/certs"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=one -keyout "$directory/one.key" -out "$directory/certs/server.pem" 2>/dev/null
openssl genpkey -algorithm ED25519 -out "$directory/certs/server.key"
sed -i 's/^name = "local"/&\ntls = true/' "$directory/broker.toml"
check "a certificate that does not fit its key: exit code 1" ends_with 1 "$directory" "$binary"
check "it is named" says "$directory/log" server.key
rm "$directory/certs/server.key"
check "a certificate without its key: exit code 1" ends_with 1 "$directory" "$binary"
check "the key is named" says "$directory/log" server.key

check "a missing --config file: exit code 1" ends_with 1 "$work" "$binary" --config "$work/nowhere.toml"
check "it is named" says "$work/log" nowhere.toml
check "an unknown command: exit code 2" ends_with 2 "$work" "$binary" sevre
check "an unknown option: exit code 2" ends_with 2 "$work" "$binary" --cofnig x

chapter "nothing half-started"
port=$(free_port) other=$(free_port)
directory=$(small "$port" | fresh)
printf '[[listener]]\nname = "second"\nbind = "127.0.0.1:%s"\n' "$other" >>"$directory/broker.toml"
python3 -c 'import socket, sys, time
s = socket.socket(); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print("here", flush=True); time.sleep(300)' "$other" >"$work/blocker" &
blocker=$!
until grep -qs here "$work/blocker"; do sleep 0.05; done
check "a port in use: exit code 1" ends_with 1 "$directory" "$binary"
check "the address is named" says "$directory/log" "127.0.0.1:$other"
check "and its line" says "$directory/log" "broker.toml:$(grep -n ":$other\"" "$directory/broker.toml" | cut -d: -f1):8"
check "nothing is made" not test -e "$directory/data"
check "it never said that it listens" not grep -q "mqtt://" "$directory/out"
kill "$blocker" && wait "$blocker" 2>/dev/null
check "the port free again: it starts" start "$directory" "$binary"
check "and the admin password is not lost" test -s "$directory/data/initial-admin-password"
stop TERM

chapter "on a terminal"
directory=$(small "$(free_port)" | fresh)
(cd "$directory" && TERM=xterm timeout 60 script -qec "timeout --foreground -s INT 3 $binary" "$directory/terminal" >/dev/null 2>&1 </dev/null)
check "the password of admin is shown once" mentions "$directory/terminal" 'admin, password [A-Za-z0-9]{16,} \(shown only now\)'
check "and written nowhere" not test -e "$directory/data/initial-admin-password"

chapter "another file, another directory"
directory=$(small "$(free_port)" | fresh)
mv "$directory/broker.toml" "$directory/other.toml"
check "--config names another file" start "$work" "$binary" --config "$directory/other.toml"
check "relative paths begin at that file" test -d "$directory/data"
(cd "$work" && "$binary" --config "$directory/other.toml" --json user list) >"$work/users.json" 2>&1
check "the CLI finds its broker by the same file" says "$work/users.json" '"admin"'
stop TERM
check "the shipped broker.toml is right" ends_with 0 "$clone" "$binary" config check

chapter "without a configuration"
if taken 8883 || taken 1883 || taken 9464 || taken 8443; then
  echo "note: left out, the default ports are in use here"
else
  for kind in "an empty broker.toml" "no broker.toml"; do
    directory=$(fresh </dev/null)
    [ "$kind" = "an empty broker.toml" ] || rm "$directory/broker.toml"
    check "$kind: it starts" start "$directory" "$binary"
    check "$kind: TLS on 8883" says "$directory/out" "mqtts://0.0.0.0:8883"
    check "$kind: without TLS on loopback only" says "$directory/out" "mqtt://127.0.0.1:1883"
    check "$kind: nobody comes in without credentials" not publish -p 1883
    check "$kind: the key has mode 0600" mode "$directory/certs/ca.key" 600
    stop TERM
  done
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
