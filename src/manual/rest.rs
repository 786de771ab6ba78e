//! The REST API: where it is, who gets in, what it answers.
//!
//! | entrance | for | rights |
//! |---|---|---|
//! | `data/admin.sock`, HTTP/1.1 | root and the user that runs the broker | all; the audit log names `local:<uid>` |
//! | `https://127.0.0.1:8443` (`admin.bind`, "off" turns it off), HTTP/1.1 over TLS | users of the broker | their rules of the context `http`; the audit log names the user and the address |
//! | a `[[listener]]` with `protocol = "https"` | devices that enrol, and whoever checks certificates | the five routes of [enrolment](#enrolment), nothing else |
//!
//! There is no listener without TLS. The certificate is that of `[tls]`, so clients need `certs/ca.pem`, or what your own certificate stands on.
//! `admin.bind = "0.0.0.0:8443"` opens the API to the network.
//!
//! # Who asks
//!
//! Each request says it, and nothing is remembered for the next: there is no session and no cookie. A user that was disabled, deleted, given
//! another password or other rules, or whose certificate was revoked, finds out at its next request, also on a connection
//! that is open.
//!
//! - **By password**: HTTP Basic (RFC 7617), in UTF-8. Checks, limits on guessing, and the memory of passwords that were right are those of
//!   MQTT logins: who guesses at one door is slow at the other. A user name with a `:` cannot be given this way; such a user needs a certificate.
//! - **By certificate** of the broker's CA in the TLS handshake, under the rules of [access](super::access): on record, not revoked, in its time.
//! - A user with `auth = "both"` gives both. A user name beside a certificate must be the same.
//!
//! ```text
//! $ curl --cacert certs/ca.pem -u ada https://localhost:8443/api/users
//! $ curl --cacert certs/ca.pem --cert ops.pem --key ops.key https://localhost:8443/api/users
//! ```
//!
//! # What it may
//!
//! GET and HEAD need a rule of the context `http` with `read` on the path, every other method one with `write`. A deny beats every allow. The role
//! `admin` has all of it, `observer` reads `/api/#`:
//!
//! ```text
//! $ portcullis user add ops --role observer
//! $ portcullis user edit ops --permission '{"context":"http","operation":"write","resource":"/api/client-registry/#"}'
//! $ portcullis explain ops http POST /api/client-registry/unlock
//! allowed: `ops` may POST `/api/client-registry/unlock`
//! ```
//!
//! It is decided on the decoded segments of the path. A path with an empty segment, `.`, `..`, `%2F`, a control character or a `%` that is itself encoded
//! gets 400; a name in a path has one spelling (identifiers as the API shows them, serials in lower-case hexadecimal), any other gets 404.
//! Whoever changes users, roles or requests hands out and administers no more than its own rules cover: 403, see
//! [access](super::access).
//!
//! # Routes
//!
//! `GET /api/openapi.json` describes all of them for programs (OpenAPI 3.1).
//!
//! | route | methods |
//! |---|---|
//! | `/api/users` | GET, POST |
//! | `/api/users/{name}` | GET, PATCH, DELETE (`?version=N`) |
//! | `/api/users/{name}/password` | PUT |
//! | `/api/users/{name}/enable`, `/api/users/{name}/disable` | POST |
//! | `/api/users/{name}/certificates` | POST, puts one of another CA on record |
//! | `/api/users/{name}/certificates/{serial}/revoke`, `/api/users/{name}/certificates/revoke` | POST |
//! | `/api/ca` | GET |
//! | `/api/ca/rotate`, `/api/ca/csr`, `/api/ca/import` | POST |
//! | `/api/ca/issuers/{issuer}/certificates` | GET, those in force; `after`, `limit` (1 to 1000) |
//! | `/api/ca/issuers/{issuer}/retire`, `/api/ca/issuers/{issuer}/revoke` | POST |
//! | `/crl`, `/crl/{issuer}` | GET, DER |
//! | `/api/openapi.json` | GET |
//! | `/api/roles` | GET, POST |
//! | `/api/roles/{name}` | GET, PUT, DELETE (`?version=N`) |
//! | `/api/client-registry/requests` | GET (`?state=pending`, `granted`, `denied`; `&limit=N&after=ID`) |
//! | `/api/client-registry/requests/{id}` | GET |
//! | `/api/client-registry/tokens` | GET, POST (the answer holds the secret, once) |
//! | `/api/client-registry/tokens/{id}` | GET, DELETE |
//! | `/api/client-registry/requests/{id}/grant`, `.../deny` | POST |
//! | `/api/client-registry/replacements` | GET |
//! | `/api/client-registry/replacements/{name}` | POST, DELETE |
//! | `/api/client-registry/unlock`, `/api/client-registry/lock` | POST |
//! | `/api/client-registry/status` | GET |
//! | `/api/client-registry/events` | GET, server-sent events |
//! | `/api/audit` | GET (`?after=N`, `?last=N`, `&limit=N`) |
//! | `/api/audit/head` | GET |
//! | `/api/audit/events` | GET, server-sent events |
//! | `/api/audit/verify` | POST |
//! | `/api/explain` | POST |
//! | `/api/who-can` | GET (`?action=publish&topic=T`) |
//! | `/api/apply`, `/api/rollback` | POST |
//! | `/api/history` | GET (`?limit=N`) |
//!
//! The bodies are the types of [`crate::admin::api`]. A change names the `version` that it was made from, and gets 409 when somebody else
//! was faster. Every change of users and roles takes `?dry_run=true`: nothing is changed, and the answer says what would be, live sessions included.
//!
//! ```text
//! $ curl -s --unix-socket data/admin.sock http://localhost/api/users/pump-7 | jq -c '{version, roles}'
//! {"version":1,"roles":["line"]}
//! $ curl -s --unix-socket data/admin.sock -X PATCH -H 'Content-Type: application/json' \
//!     -d '{"version":1,"roles":["line","observer"]}' http://localhost/api/users/pump-7 | jq -c '{version, roles}'
//! {"version":2,"roles":["line","observer"]}
//! ```
//!
//! **Requests** come in pages, oldest first: at most `limit` (1,000) of them, and `next` when there are more. Ask again with `after=` that.
//!
//! **Streams** are `text/event-stream` with one JSON object in each event, and a heartbeat (a comment) every 15 seconds. A client that reads slowly is told how
//! many events it missed (`{"missed":N}`); one that takes nothing for 30 seconds is cut off. A stream ends with the right to it: what happens
//! after the change of a user or a rule was answered is not told any more.
//!
//! # Refusals
//!
//! Problem details (RFC 9457, `application/problem+json`):
//!
//! ```json
//! {"type": "urn:portcullis:problem:not-found", "title": "Not found", "status": 404, "detail": "there is no user `pump-9`"}
//! ```
//!
//! | status | `urn:portcullis:problem:` | |
//! |---|---|---|
//! | 400 | `malformed` | path, query, Host or JSON cannot be read |
//! | 401 | `unauthenticated` | no credentials, wrong ones, nobody of that name: one answer for all, with `WWW-Authenticate` |
//! | 403 | `forbidden` | no rule allows it, a rule denies it, more than one's own rules cover; or the user is disabled or has expired |
//! | 403 | `cross-site` | a browser asks for a page of another site |
//! | 404, 405 | `not-found`, `method` | 405 with `Allow`; both only for those who may ask there |
//! | 408 | `timeout` | the body did not come within 60 seconds |
//! | 409 | `version`, `conflict`, `managed` | changed meanwhile (`version` is the present one); in conflict; owned by broker.toml |
//! | 411 | `length` | a body in chunks (`Transfer-Encoding`): send `Content-Length`; the connection is closed |
//! | 413 | `too-large` | more than 1 MiB, 32 MiB for `apply` and `explain` |
//! | 415 | `media-type` | a body that is not `application/json` |
//! | 422 | `invalid` | well-formed, and not admitted |
//! | 429 | `busy` | too many passwords are being checked, or were wrong; `Retry-After` |
//! | 500 | `internal` | the log says more |
//!
//! What is no HTTP gets a bare 400, a head that is too large a bare 431, and a connection that is too slow is closed.
//! Failed logins and refusals by rules are in the [audit log](super::audit) and counted in [metrics](super::metrics).
//!
//! # Browsers
//!
//! The API is for programs. A browser that knows a password would send it along with the requests of any page, so: requests with an `Origin` other than the
//! API's own, or with `Sec-Fetch-Site` other than `same-origin` or `none`, get 403; a body, and whatever has a Content-Type, must be JSON (or, at the routes of enrolment, CBOR), which
//! no form can send; no answer has a CORS header. Answers carry `Cache-Control: no-store`, `X-Content-Type-Options: nosniff`,
//! `Cross-Origin-Resource-Policy: same-origin`, `Referrer-Policy: no-referrer` and a Content-Security-Policy that admits nothing.
//! There is no `Strict-Transport-Security`: it would bind every port of the host, and there is no plaintext to protect from.
//!
//! # Enrolment
//!
//! Door 3 of the [registry](super::registry), without credentials: on the listener of the API (unless `admin.registration = false`) and on
//! listeners of their own, which can be reachable where the API is not:
//!
//! ```toml
//! [[listener]]
//! name = "enrol"
//! bind = "0.0.0.0:8444"
//! protocol = "https"
//! registration = true
//! ```
//!
//! | route | |
//! |---|---|
//! | `POST /api/client-registry/register` | the message of [`register`](super::registry#register), `application/json` or `application/cbor` |
//! | `POST /api/client-registry/challenge` | a nonce, good for the address that asks (/64 for IPv6); the body is empty or holds an `id` |
//! | `GET /api/client-registry/ca` | the trust bundle, `application/pem-certificate-chain` |
//! | `GET /crl`, `GET /crl/{issuer}` | the [revocation list](super::certificates) of the CA that issues, or of that issuer, DER (`application/pkix-crl`) |
//!
//! The registry's answers have its `status`, `state`, `error` and `message` and are in the form of the question; `status` is that of HTTP, and `retry_after` the
//! header `Retry-After`. So has a message that is too large (413: more than 16 KiB), too slow (408), or of another content type (400 with `unsupported`, as at
//! every door). Problem details come only from what is looked at before anybody is asked: path, method, Host, Origin, length.
//!
//! ```text
//! $ jq -n --rawfile csr pump-7.csr '{username: "pump-7", csr: $csr}' > register.json
//! $ curl -s --cacert certs/ca.pem --json @register.json https://localhost:8443/api/client-registry/register | jq -c '{status, pairing_code}'
//! {"status":202,"pairing_code":"VBBH-X7Y4-GP7B-SXBH"}
//! ```
//!
//! Sending the same message again is the poll. Lock, pairing code, limits and answers are the same as over MQTT, and a request that was made at one
//! door can be polled at the other. `registry unlock --listener enrol` opens that listener alone; the API's is called `admin`.
//!
//! # Bounds
//!
//! | bound | value |
//! |---|---|
//! | connections | `admin.connections` in all (512), `admin.connections_per_address` of one source address (32; /64 for IPv6), for each HTTPS listener |
//! | requests under way of one connection | 1; further ones wait in the socket |
//! | TLS handshake | 10 seconds |
//! | head of a request, from the end of the answer before: also how long an idle connection is kept | 10 seconds, 16 KiB, 64 headers |
//! | body | 60 seconds; the sizes above |
//! | a client that takes nothing of its answer | 30 seconds |
//! | events that wait for a stream | 256 at the registry, 16 at the connection |
