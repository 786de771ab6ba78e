#!/bin/sh
# Enrol a device with openssl, jq and the mosquitto clients: sh enrol.sh NAME HOST PORT CA.pem
set -eu
name=$1 host=$2 port=$3 ca=$4
umask 077
[ -e "$name.key" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$name.key"
openssl req -new -key "$name.key" -subj "/CN=$name" -out "$name.csr"
# TOKEN_FILE may name a file with a claim token: then nobody has to decide.
jq -n --arg username "$name" --rawfile csr "$name.csr" --rawfile token "${TOKEN_FILE:-/dev/null}" \
  '{$username, $csr} + if $token == "" then {} else {token: $token | rtrimstr("\n")} end' >"$name.json"

while :; do
  answer=$(mosquitto_rr -h "$host" -p "$port" --cafile "$ca" -V 5 -W 20 \
    -t '$registry/register' -e '$registry/register/response' -m "$(cat "$name.json")") || answer='{"state": "no answer"}'
  say() { printf '%s' "$answer" | jq -r "$1"; }
  case $(say .status) in
    201)
      say '.certificate + .chain' >"$name.pem"
      say '"granted, good until \(.not_after)"'
      exit ;;
    202 | 423 | 429 | null) say '"\(.state) \(.pairing_code // "") \(.message // "")"' ;;
    *)
      say .message >&2
      exit 1 ;;
  esac
  sleep "${POLL:-$(say '.retry_after // 10')}"
done
