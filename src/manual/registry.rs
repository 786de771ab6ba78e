//! How a device that nobody has configured becomes a user.
//!
//! It asks, a person decides, it collects its credentials. No password is carried around, and a new user holds nothing until
//! somebody grants it.
//!
//! # The way of a request
//!
//! ```text
//!   register  --locked--> 423, nothing is kept          register with a good token --> granted (201) at once, locked or not
//!      |
//!      | unlocked
//!      v
//!   pending --grant--> granted (201, a user now; with the certificate, if there was a CSR)
//!      |  \--deny----> denied  (403 for 24 hours, then forgotten)
//!      |
//!      +--registry.pending_ttl without a decision--> forgotten
//! ```
//!
//! Requests survive a restart. The registry is locked at start, and again at the end of each unlock.
//!
//! - **The same request is the same username with the same proof**: the same password, the same public key, or both. To send it
//!   again is to ask how it stands; its fields are those of the first message. This is answered whether the registry is locked or not.
//! - **The same username with another proof** gets 409 (423 while the registry is locked) and changes nothing. Nobody takes over a pending name, or a user.
//! - **Once granted**, the same request gets 201 and the same certificate again: a lost answer loses nothing.
//! - A request is answered on the connection that asked; while that connection stays up, **the decision is pushed** to it.
//!
//! # Registration sessions
//!
//! A client that gives no username, no password and no certificate gets a registration session where the listener says
//! `registration = true` (possible on TLS listeners and on loopback). It may publish to the operations below and subscribe
//! to their answers. It has no Will, no retained message and no persistent session; its packets are at most 16 KiB, and
//! after `registry.session_lifetime` it gets DISCONNECT 0xA0. So does one that has sent no `register`, `renew` or `challenge` within 30 seconds; once it
//! has, it may wait for its decision.
//!
//! There are at most 1,000 of them, 50 from one address (/64 for IPv6). When all are taken, one gives way to whoever comes, and gets DISCONNECT 0x89:
//! of the network (/16, /32 for IPv6) that holds most, and there of the address that holds most, the one that has asked for nothing for longest;
//! where nobody holds more than whoever comes, any that has asked for nothing for a minute. Its request stays on record: the device connects again, and
//! polls. If there is none either, the CONNECT is refused with 0x89 (3.1.1: 3). So whoever would keep all others out needs a thousand addresses in as
//! many networks, and must ask with each of them once a minute. Devices that can speak HTTPS are not concerned: that door has connections of its own.
//!
//! Users may use the same operations, on every listener; no rule is needed for them. What a user sends over a listener without TLS, a password for
//! another device included, can be read on the way, as the password that it has logged in with: `config check` warns about such a listener.
//!
//! A *guest* (a client without credentials at a listener with `anonymous`) has proven nothing and may use none of them: each is answered with 401
//! and `not_authenticated`. Its listener may be one where nobody may enrol, and a trust bundle that comes over plaintext is worth nothing.
//!
//! # With a plain CONNECT
//!
//! A client that can do nothing but connect enrols too: `registry unlock --implicit`, and a CONNECT with an unknown user name and a password
//! is a request, where the listener has `registration = true`. It is refused with 0x87 (3.1.1: 5) and a Reason String that says *pending* and gives
//! the pairing code. Once it is granted, the same CONNECT succeeds; the user's `auth` is `password`. The `[password]` policy applies: a password
//! that does not meet it is refused with 0x86 (3.1.1: 4) and what it lacks.
//!
//! - **It is no way to find out who exists.** A known user with a wrong password is told the very same, with a code that looks like one, after the same
//!   work: two argon2 (one makes the code, which is kept) and one write to the disk, also where there is nothing to write. So is a name that is pending with another password, and one for which
//!   there is no room: the operator sees what there is.
//! - A CONNECT of 3.1.1, one that wants no Reason String, and one whose Maximum Packet Size has no room for it (some 200 bytes) cannot be told a code:
//!   `registry grant` needs `--unpaired` then.
//! - **It opens the other doors as well**, which do say with 409 that a name is taken or pending: where a device and a stranger reach the same listener with
//!   `registration = true`, an unlock of any kind tells the stranger that. Narrow it with `--source` or `--username`.
//! - Each such CONNECT counts as a wrong password, of its address and of its name, so a device should try again after 30 seconds, not sooner; and as eleven
//!   messages of its address: with the default of `registry.requests_per_minute` five at once, then one in 11 seconds. For many devices behind one
//!   address raise that, or let them register by a message.
//! - While the door is shut, or open without `--implicit`, nothing is recorded and the answer is the usual one; a request that is on record stays.
//! - [Rules](#rules) are asked here too, once the door is open: what one grants, the next CONNECT has. One with `while_locked` does not open this door.
//! - A CONNECT can hold no nonce: with `registry.require_nonce` this door stays shut.
//!
//! # Over HTTPS
//!
//! The same `register`, `challenge` (`POST`) and `ca` (`GET`) below `/api/client-registry/`: see [rest](super::rest).
//!
//! # Operations
//!
//! Publish JSON to `$registry/<operation>`, with any QoS; or, in MQTT 5 and over HTTPS, CBOR (RFC 8949) with the Content Type `application/cbor`.
//! The answer, also one that is pushed later, is in the form of its question, and says so in its Content Type. In CBOR the fields have the same names
//! and kinds: text where JSON has a string, PEM included. The invitation to renew is JSON.
//!
//! | operation | message | answer |
//! |---|---|---|
//! | `$registry/register` | below | below |
//! | `$registry/challenge` | empty, or `{"id": ...}` | 200 with `nonce` and `expires_at` |
//! | `$registry/renew` | see [Renewal](#renewal) | 201 as for `register`, or why not |
//! | `$registry/whoami` | empty, or `{"id": ...}` | 200 with `username`, `auth`, `roles`, `permissions`, and `serial` and `not_after` of the certificate in use; 401 in a registration session |
//! | `$registry/ca` | empty, or `{"id": ...}` | 200 with `ca`, the trust bundle (PEM); the same comes unasked on `$registry/ca/response` when the CA changes, see [certificates](super::certificates#another-ca) |
//!
//! The answer is a PUBLISH to the asking connection alone; it is never routed. It comes on `$registry/<operation>/response`, or on the
//! Response Topic of the request when that is `$registry/<operation>/response` or lies below it; and only if the connection holds a
//! matching subscription, so subscribe first. Correlation Data and a field `id` (a string or number of at most 128 bytes) are echoed.
//!
//! # `register`
//!
//! | field | |
//! |---|---|
//! | `username` | required; as in [access](super::access), not a reserved one |
//! | `csr` | a certification request, PEM |
//! | `password` | text that meets the `[password]` policy |
//! | `context` | anything that JSON can hold, at most 4 KiB of it and 16 lists or objects within each other, shown to the operator |
//! | `roles`, `permissions` | what it would like; shown to the operator, granted only if the operator says so |
//! | `token` | a [claim token](#claim-tokens) |
//! | `id` | echoed |
//!
//! One of `csr` and `password` is needed; the new user's `auth` is then `certificate`, `password` or, with both, `both`. An unknown field is an error.
//!
//! ```json
//! {"username": "pump-7", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n...", "context": {"model": "P100"}, "id": 1}
//! ```
//!
//! Every answer has `status` (HTTP's numbers) and `state`:
//!
//! | status | state | with, and why |
//! |---|---|---|
//! | 201 | `granted` | `username`; for a CSR `certificate`, `chain`, `ca` (PEM), `serial`, `not_after` |
//! | 202 | `pending` | `pairing_code`, `retry_after` (seconds), `expires_at` |
//! | 400 | `invalid` | `error` is one of `malformed`, `username`, `username_reserved`, `no_proof`, `weak_password`, `csr_malformed`, `csr_signature`, `key_not_admitted`, `common_name`, `alternative_name`, `ca_requested`, `unsupported` |
//! | 401 | `refused` | `not_authenticated`: a guest |
//! | 403 | `denied` | `denied` with the operator's `reason`; `token` for a claim token that is not good; `rule` for a rule that denies; `disabled`, `expired`, `revoked` for a user that was granted and is no longer good |
//! | 408 | `refused` | `timeout`: over HTTPS, a message that does not come to its end |
//! | 409 | `conflict` | `name_taken`, `name_pending`, `key_in_use`, `certificate_expired`, `superseded` (it was renewed) |
//! | 413 | `refused` | `too_large`, `csr_too_large` |
//! | 422 | `refused` | `nonce_missing`, `nonce_foreign`, `nonce_expired`, `nonce_spent` |
//! | 423 | `locked` | `retry_after` |
//! | 429 | `refused` | `rate`, `throttled` (too many wrong passwords), `busy`, `full`, with `retry_after` |
//! | 500 | `failed` | `internal`: the broker could not record it |
//!
//! `error` is a word for programs, `message` a sentence that says what to do:
//!
//! ```json
//! {"status": 202, "state": "pending", "username": "pump-7", "pairing_code": "VBBH-X7Y4-GP7B-SXBH", "retry_after": 30, "expires_at": "2026-11-24T22:28:52.328468676Z"}
//! {"status": 409, "state": "conflict", "error": "name_pending", "message": "this username is pending with another proof; choose another one, or ask the operator to deny that request"}
//! {"status": 403, "state": "denied", "error": "denied", "message": "the operator denied this request: not ordered", "reason": "not ordered"}
//! ```
//!
//! # Nonces
//!
//! A request that somebody has heard can be sent again later, or handed on from somewhere else. With `registry.require_nonce = true` a new
//! request must hold a nonce of `$registry/challenge`: as the challengePassword attribute (PKCS#9, RFC 2985 5.4.1) of its CSR, so that
//! it is signed with the key. A request without a CSR is refused then.
//!
//! A nonce is 64 hexadecimal digits. It is good once, for 5 minutes, and only on the connection that drew it (over HTTP: from the address
//! that drew it, /64 for IPv6); not after a restart of the broker. It is looked at when a request is made: a poll needs none, and
//! the message of then is as good as any. Nothing is stored for a nonce that is drawn, so drawing many is of no use to anybody.
//!
//! ```sh
//! # $nonce is what `$registry/challenge` answered on this connection.
//! cat > request.conf <<END
//! [req]
//! prompt = no
//! distinguished_name = name
//! attributes = attributes
//! [name]
//! CN = pump-7
//! [attributes]
//! challengePassword = $nonce
//! END
//! openssl req -new -config request.conf -key pump-7.key -out pump-7.csr
//! ```
//!
//! # The pairing code
//!
//! Anybody can send a request for `pump-7` while the registry is open. The code tells the operator which request is from the
//! device in front of them. For a CSR it is Crockford's base32 of the first 80 bits of SHA-256 over the SubjectPublicKeyInfo (DER) of
//! the key, shown as `XXXX-XXXX-XXXX-XXXX`; the device computes it by itself. For a password alone the broker draws it and returns
//! it with 202. A client that does not listen when it sends its first message, or whose Maximum Packet Size has no room for such an answer (1 KiB and
//! what it echoes), is told no code: nobody can compare one, and `registry grant` needs `--unpaired`.
//!
//! ```
//! use portcullis::pki::{PairingCode, VerifiedCsr};
//!
//! let csr = VerifiedCsr::from_pem(b"-----BEGIN CERTIFICATE REQUEST-----
//! MIHLMHMCAQAwETEPMA0GA1UEAwwGcHVtcC03MFkwEwYHKoZIzj0CAQYIKoZIzj0D
//! AQcDQgAEdzi+L1SHoHjxnrYl7CvVtilpHL5ce7YHsyEFjTiqRWlRsfhEOeGgFfNE
//! fWhc30jdP3suS3bmFVN+rJxEV5CCWqAAMAoGCCqGSM49BAMCA0gAMEUCIQCfmNi8
//! Ot8gNyvt2nxLPex6dWzXtxu2WV9MKMGJLJT8dQIgNPVejV2n03ytmqqdMt/7LRLc
//! y/0Vh+RVKLoAL9CBaqE=
//! -----END CERTIFICATE REQUEST-----
//! ")?;
//! assert_eq!(csr.username().as_str(), "pump-7");
//! assert_eq!(PairingCode::of_key(csr.key()).to_string(), "VBBH-X7Y4-GP7B-SXBH");
//! # Ok::<(), portcullis::pki::CsrError>(())
//! ```
//!
//! # A ready client
//!
//! `portcullis device` is a device: it needs neither broker.toml nor the admin socket, only the broker's address and the CA of its certificate.
//!
//! ```sh
//! portcullis device enrol pump-7 --broker mqtts://broker.plant.example --ca ca.pem --directory /var/lib/pump
//! ```
//!
//! | file in the directory | mode | |
//! |---|---|---|
//! | `NAME.key` | 0600 | the key, P-256; one of any admitted kind that is there already is used |
//! | `NAME.pem` | 0600 | the certificate, with what lies between it and the root |
//! | `NAME.ca` | 0644 | the device's own trust bundle: give this to the program that connects, as its CA file |
//! | `ca.pem` | | yours, if you like: read where `--ca` is not given, never written |
//! | `NAME.key.new`, `NAME.csr.new`, `NAME.pem.new` | 0600 | a renewal under way |
//!
//! `device enrol` makes the key, asks, shows the pairing code, which it computes from its own key, and waits for the decision: 24 hours, or what
//! `--wait` says. Then it writes the certificate. Broken connections, a locked registry and a broker that is busy are tried
//! again; a refusal ends it, and a key that was made for a name that cannot be had is not left behind. Started again it goes on where it was: with the
//! same key, so that no answer is lost. Exit codes: 0 when there is a good certificate, 1 otherwise. A certificate that has lapsed it renews in grace; later the
//! operator opens its name (`registry replace`), and the device enrols with another key, after the old files were moved away.
//!
//! `device renew` puts a new key and certificate in the place of the old ones, with `--if-due` only when two thirds of the certificate's life are over
//! (for a timer, where no connection can be held). `device keep` enrols, stays connected, and renews when two thirds are over or the broker
//! [invites](#renewal), as a service:
//!
//! ```text
//! [Service]
//! User=pump
//! ExecStart=/usr/bin/portcullis device keep pump-7 --broker mqtts://broker.plant.example --directory /var/lib/pump
//! Restart=on-failure
//! RestartSec=60
//! ```
//!
//! What breaks it does again after one second, then two, up to a minute, a quarter more or less. It ends with 0 on SIGTERM and SIGINT, and with 1
//! and a sentence when the broker takes this identity no more (denied, revoked, disabled): started again after a minute, it asks again.
//!
//! **By what it knows the broker**: the CA of `--ca` (without it: `ca.pem` in the directory), which is read anew for each connection, and `NAME.ca`. The
//! CA that issues to devices need not be that of the broker's own certificate (`[tls] certificate` may be yours). What the broker delivers as
//! `ca` (with a certificate, on `$registry/ca`, or [pushed](super::certificates#another-ca)) is kept in `NAME.ca`, together with the CA that has verified that
//! very connection: so a device that was once told the right CA goes on by itself, through a change of the CA too. What is neither
//! delivered any more nor has verified the connection, such as a CA that was retired, leaves `NAME.ca`; what `--ca` says is trusted as long as
//! it says so. A device that only renews by a timer hears of another CA when it renews: wait for that with `ca retire`, or renew all now.
//!
//! With a [claim token](#claim-tokens) nobody has to decide: `--token-file FILE`, or `--token`, which asks for it on the terminal or takes a line of
//! standard input. A token is never an argument, which others on the machine could read; it is used until there is a certificate, and can be thrown away then.
//!
//! A renewal connects with the new certificate before that takes the old one's place, and whenever the power fails the directory holds a
//! key and a certificate that fit. Its key and request are kept until it is answered: when an answer is lost, the very same request is
//! sent again and gets the same certificate. `device keep` is one more connection of its user (see [quotas](super::access)), as client `NAME~renewal`
//! (`--client-id` says otherwise), so that it does not take over the session of the device itself. Programs find the same in [`device`](crate::device);
//! `examples/enrol.py`, `enrol.mjs`, `enrol.sh` and `enrol.rs` do it with other people's clients (`TOKEN_FILE` in the environment may name a file with a token).
//!
//! # The operator
//!
//! | command | |
//! |---|---|
//! | `registry unlock [--for 5m] [--listener NAME] [--source CIDR]... [--username 'line3-*'] [--count N] [--implicit]` | admits new requests for a while, and only such |
//! | `registry lock` | refuses new requests |
//! | `registry status` | locked or open, until when, how many wait |
//! | `registry watch` | what happens, as it happens |
//! | `registry list [--state pending\|granted\|denied\|all]`, `registry show ID` | the requests |
//! | `registry grant ID [--role R]... [--permission JSON]... [--publish-prefix P/] [--expires TIME] [--comment TEXT]` | makes the user, its rights and its certificate in one transaction; instead of the ID, here and below, also the user name of a pending request |
//! | `registry deny ID --reason TEXT [--comment TEXT]` | the device is told the reason, not the comment |
//! | `registry replace USERNAME [--for 24h] [--source CIDR]... [--cancel]`, `registry replacements` | lets a new key take the name of a user, see [Replacing](#replacing) |
//! | `registry token create [--role R]... [--permission JSON]... [--publish-prefix P/] [--expires TIME] [--uses N] [--for 24h] [--username PATTERN] [--source CIDR]... [--comment TEXT]`, `registry token list`, `show ID`, `revoke ID` | see [Claim tokens](#claim-tokens) |
//!
//! `registry watch` tells what happens; over MQTT a message on `$registry/events/<event>` does (`requested`, `approved`, `granted`, `denied`, `expired`,
//! `displaced`, `unlocked`, `locked`; QoS 1, JSON, not retained), to every session whose rules let it read that topic: `mqtt read $registry/events/#` for all of
//! them. When more than 256 happen faster than they can be told, `$registry/events/missed` says how many were left out.
//!
//! A comment of a grant, a denial or a token stays with it and goes into the [audit log](super::audit): write no secrets into it.
//!
//! What a device says of itself (`context`, the roles it asks for) is not verified. Compare the pairing code.
//!
//! A user of the broker may decide by the [API](super::rest) what its rules of the context `http` let it write to, for instance
//! `/api/client-registry/requests/+/grant`, and [over MQTT](#deciding-over-mqtt) by those of the context `mqtt`; it never grants more than it holds.
//!
//! # Deciding over MQTT
//!
//! A user whose rules let it write to `$registry/admin/<operation>` decides there: a panel on the shop floor, or a program that holds a connection anyway.
//!
//! | operation | message | `result` of the answer |
//! |---|---|---|
//! | `list` | `state`, `after`, `limit` (1 to 32, default 32) | `items`, and `next` when there are more |
//! | `show` | `request`, the id of a request | the request |
//! | `grant` | `request`, and what the API takes: `roles`, `permissions`, `publish_prefix`, `expires_at`, `comment`, `unpaired` | the request |
//! | `deny` | `request`, `reason`, `comment` | the request |
//! | `unlock` | `for`, `count`, `listener`, `source`, `username`, `implicit`, or empty | how the door stands |
//! | `lock`, `status` | empty | how the door stands |
//! | `replace` | `username`, `for`, `source` | the opened name |
//! | `replace-cancel` | `username` | none, status 204 |
//! | `replacements` | `after` (a username), `limit` | `items`, `next` |
//! | `token-create` | `for`, `uses`, `username`, `source`, `roles`, ... as in the API | the token with its secret, status 201 |
//! | `token-list` | `after` (the id of a token), `limit` | `items`, `next` |
//! | `token-show` | `token`, the id of a token | the token |
//! | `token-revoke` | `token` | none, status 204 |
//!
//! ```json
//! {"request": "01a21e87-588b-758b-875c-62e380bd1272", "roles": ["line"], "comment": "press 7, hall 2", "id": 1}
//! {"status": 200, "state": "ok", "id": 1, "result": {"id": "01a21e87-588b-758b-875c-62e380bd1272", "username": "press-7", "state": "granted", "by": "user:ada", ...}}
//! {"status": 409, "state": "conflict", "error": "conflict", "message": "the request `01a21e87-588b-758b-875c-62e380bd1272` is granted already", "id": 1}
//! ```
//!
//! - **The fields are those of the [API](crate::admin::api)**, with `request`, `username` or `token` for what the API takes from the path; `result` is what it
//!   answers, and the work is done by the same functions. JSON or CBOR, `id`, Correlation Data, Response Topic and the need to subscribe first are as for [every
//!   operation](#operations): the answer comes on `$registry/admin/<operation>/response`, or below it. A message has at most 16 KiB, which is less than the API takes.
//! - **The right is a rule of the context `mqtt` that names the operation**: `write $registry/admin/grant`, or `write $registry/admin/+` for all of them. `#` and `+/...` match none:
//!   a wildcard at the first level never matches a `$`. A deny beats it, as everywhere; `max_qos` and `retain` of the rule count. Rules of the context `http` say nothing here, and these say nothing
//!   over HTTPS. To read `$registry/events/#` is another right.
//! - **Whoever has no such rule is refused like for any other topic**: PUBACK or PUBREC 0x87, in 3.1.1 as `access.denied_publish` says; metrics and the audit log count it. An operation
//!   that does not exist looks the same. Registration sessions and anonymous users (`auth = "none"`) never decide, whatever the rules, and neither does a Will.
//! - **The right is looked at three times**: when the message comes in, in the commit that does the deed, and when the answer is written. Who loses it in between is not answered.
//!   A token, and the first word of [two people](#two-people), stand as long as the right that they were given by does: that of the operation, for what was said over MQTT.
//! - To subscribe to `$registry/admin/<operation>/response`, also with `+` for the operation, needs no rule: what comes there was asked for by this very connection. Questions and answers are never routed, so that
//!   nobody else can read them, whatever they may subscribe to. RETAIN keeps nothing.
//! - One connection may have four questions open; the next one gets 429 with `busy`. A user may ask as often as `registry.requests_per_minute` says. Questions that are open together are answered in any order:
//!   wait for the answer where one builds on another.
//! - An answer that is larger than the Maximum Packet Size of the client gives way to a short one with 413 and `answer_too_large`: what was asked for is done.
//! - With QoS 1 a message whose PUBACK was lost comes twice, and is done twice: the second `grant` gets 409, but a second `token-create` makes a second token. QoS 2 does not.
//! - The audit log names the user, the address, the listener and the ClientId (at most 128 characters of it, of `A-Z a-z 0-9 : _ -`).
//!
//! | status | state | `error` |
//! |---|---|---|
//! | 200, 201, 204 | `ok` | |
//! | 400 | `invalid` | `malformed` (an unknown, missing or repeated field, and what has no form), `unsupported` (the Content Type) |
//! | 403 | `denied` | `forbidden`: more than you hold |
//! | 404 | `refused` | `not_found` |
//! | 409 | `conflict` | `conflict`: its state does not admit that |
//! | 413 | `refused` | `too_large`, `answer_too_large` |
//! | 422 | `invalid` | `invalid`: out of range, or a role that does not exist |
//! | 429 | `refused` | `rate`, `busy`, with `retry_after` |
//! | 500 | `failed` | `internal` |
//!
//! ```sh
//! mosquitto_rr -h localhost -p 8883 --cafile ca.pem -u ada -P "$PASSWORD" -t '$registry/admin/list' -e '$registry/admin/list/response' -m '{"state": "pending"}'
//! ```
//!
//! # Claim tokens
//!
//! For devices that nobody stands beside: whoever shows the token is admitted, locked or not, and granted at once what the token says, in the
//! same commit that counts the use.
//!
//! ```text
//! $ portcullis registry token create --role line --username 'line3-*' --source 10.3.0.0/16 --uses 40 --for 7d --comment 'refit of line 3'
//! ```
//!
//! The secret is 160 random bits in 32 of Crockford's digits, `XXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXX`: it can be typed (either case, with or without hyphens,
//! O for 0, I and L for 1) and fits into a QR code of its smaller kind. It is shown once. What is kept is its SHA-256: no slower hash is needed
//! for a secret that nobody can guess. A device sends it as `token` in `register`:
//!
//! ```json
//! {"username": "line3-7", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n...", "token": "7K2M-91QX-0ZFD-V5TN-8HRB-C3WJ-E6PA-4YGS"}
//! ```
//!
//! - **It gives no more than its author holds when it is used**: a token of a user who was deleted, disabled or has lost the right to make tokens, or
//!   does not hold all of what the token names (a role was enlarged since), gives nothing until that is mended. Tokens that were made through the Unix socket
//!   are bound by nobody's rules, as everything there.
//! - **Whatever is wrong with it, the answer is the same**: 403 with `token`, for one that never was, is spent, expired, revoked, or for other names or
//!   networks. Nothing is recorded of the request; a wrong token counts as eleven messages of its source, and the audit log says which token it was (by id) and why.
//! - **A use is spent with the grant alone.** To poll spends nothing: the request is known by its name and proof, and gets its certificate again. Of two devices
//!   who show a token for one at once, one is granted.
//! - It is no way around the rest: reserved names, names and keys of others, a denied request, nonces and the password policy are as without it, and where a
//!   name is [open to a new key](#replacing) the token is not looked at. A request that is pending already stays so: its fields are those of the
//!   first message.
//!
//! A token lasts a day, or `--for` up to 366 days, never longer than the identities that it makes (`--expires`), and is forgotten then; a revoked one at once. The users that it has made stay. At most 10,000 tokens
//! are on record, each for at most 100,000 devices, with at most 32 roles, permissions and networks.
//!
//! # Rules
//!
//! What needs no person at all stands in broker.toml, which documents each key:
//!
//! ```toml
//! [[registry.rule]]
//! name = "line3"
//! action = "grant"
//! source = ["10.3.0.0/16"]
//! username = "line3-*"
//! key = ["p256"]
//! roles = ["line"]
//! validity = "30d"
//!
//! [[registry.rule]]
//! action = "deny"
//! key = ["rsa"]
//! reason = "make a P-256 key"
//! ```
//!
//! - They are asked about new requests, after the lock: while the registry is locked a rule decides nothing, and the answer is 423. A rule with `while_locked = true`
//!   grants then too; it must name a network or a listener, and is a door that stays open for them.
//! - A matching rule that denies beats every rule that grants, and a [claim token](#claim-tokens) and an [open name](#replacing) as well, wherever it stands. The answer is 403 with `rule` and
//!   its reason. Nothing is recorded of the request, so nobody fills the table by being denied: to ask again is to be denied again, until the rule is gone.
//! - Of the rules that grant the first one that matches decides, whole. The user, its rights and its certificate are made at once (201); the request on record and
//!   the audit log name the rule. Nothing is granted that the rule does not name, whatever the device asks for, and no pairing code is compared: whoever meets the conditions
//!   gets the identity. Where no rule matches, a person decides.
//! - **A rule that grants must name a network, a listener or a kind of key**: `config check` refuses one that goes by the name alone, and networks that together are everybody. A kind of
//!   key alone is warned about, for anybody can make one.
//! - It is on the rights of whoever writes broker.toml, the operator of the machine, who is bound by nobody's rules. A role that does not exist stops the start;
//!   one that is deleted later makes the rule pass the request on to a person, and the log says so.
//! - `validity` is the life of the certificates, those of renewals included, and `limit` bounds the users of one rule that are there. Rules never replace anybody; who
//!   is pending stays pending when the rules change.
//!
//! # Two people
//!
//! With `registry.approvals = 2` a request is granted by two different people, or not at all. The first `registry grant` is put on record, with all that it would give; `registry list`, `show` and
//! `watch` show it, and the device still waits. The second one must give the very same roles, permissions, prefix and end (comments are each one's own): then the
//! user is made. If it differs, it begins anew, as the first of two. The same person again gets 409.
//!
//! - Users of the broker are told apart by their identity. Everybody at the Unix socket is one person, whatever their uid, and so are the program that embeds the broker and broker.toml: who may
//!   open the socket can be anybody there.
//! - What the first one has said counts only as long as that one could grant it: a user who was deleted, disabled or lost rights meanwhile has said nothing.
//!   So has a rule that broker.toml has no more, or with another grant, and a token that was revoked.
//! - One person is enough to deny. The approval survives a restart and lapses with the request.
//! - Claim tokens and rules are no way around it: the request that they speak for becomes pending with the approval of the token's author, or of the machine, and
//!   another person must say the same. The use of a token is spent then.
//! - Who may create users can create a second person: give the right to write to `/api/users` to others than the right to grant.
//!
//! # Replacing
//!
//! A device that was wiped or repaired has lost its key, and the name that it had belongs to a user. `registry replace pump-7` opens that name: the
//! next request for it with a key that no user has becomes pending, whether the registry is locked or not, and shows whom it `replaces`. Compare
//! the pairing code as always, and grant it without roles. In one commit the user then has the new key (or password) and `auth`, all its earlier
//! certificates are revoked with the reason `replaced`, its earlier password is gone, and its sessions end. Its id, roles, permissions, prefix and end stay.
//!
//! The name is open for a day, or `--for` up to a week; the grant, `--cancel`, the end of the user and a new name of it end that too. A request
//! that came in time waits like any other; cancelling forgets it. The old key is good until the grant. Who opens a name, and who grants,
//! must hold all that the user holds; a user of broker.toml cannot be replaced.
//!
//! # Certificates
//!
//! A CSR must be PKCS#10 with one common name, equal to `username`, and signed by its own key with SHA-256 or better. Keys: P-256, P-384,
//! Ed25519, RSA of 2048 to 4096 bits with exponent 65537. Nothing of the CSR but name and key is taken over.
//! One that asks for another name (subject alternative names that are not the username) or for a CA (basicConstraints with CA:TRUE, keyUsage with
//! keyCertSign or cRLSign) is refused, so that no device takes its certificate for more than it is; other extensions and attributes are passed over.
//!
//! | of an issued certificate | |
//! |---|---|
//! | version, subject | X.509 v3, CN = username |
//! | serial number | 128 bits, random |
//! | validity | from 5 minutes back, for `ca.validity` (90 days), never past the CA's own end |
//! | basicConstraints (critical) | not a CA |
//! | keyUsage (critical) | digitalSignature |
//! | extendedKeyUsage | clientAuth |
//! | subjectKeyIdentifier, authorityKeyIdentifier | present |
//! | subjectAltName | none; with `ca.uri_prefix` one URI, the prefix and the username, see [certificates](super::certificates#names-in-certificates) |
//!
//! A certificate is good for a login when it is valid now, was issued by this CA, its common name (or URI, by `ca.identity`) is an enabled user whose `auth` admits
//! certificates, and it is on record for that very user. A username in CONNECT, where there is one, must be the same. All of this is
//! checked again at every CONNECT, TLS resumption or not, and a connection ends at the latest with its certificate.
//!
//! # Renewal
//!
//! A device renews its certificate by itself: nobody decides, and it gets nothing but the certificate. It is connected with the certificate
//! to renew, makes a key and a CSR for its own name (the old key will do, if that cannot be changed), and publishes to `$registry/renew`:
//!
//! ```json
//! {"csr": "-----BEGIN CERTIFICATE REQUEST-----\n...", "id": 1}
//! ```
//!
//! The answer is that of a granted registration: 201 with `certificate`, `chain`, `ca`, `serial`, `not_after`.
//!
//! - **The old certificate stays good until the new one has connected once.** Then it is retired: revoked with the reason `superseded`, so that
//!   its sessions end, it opens nothing any more, and a revocation list names it until its own end. Connect with the new one before you throw the
//!   old one away.
//! - **A lost answer loses nothing**: the same CSR gets the same certificate again, while that is the newest and younger than two thirds of its life.
//! - **Another CSR before the new certificate was used** retires the unused one: two certificates of one line are good at most. Four can be issued at
//!   once, then one in each 180th part of `ca.validity`; with 64 on record none is issued until one of them goes off the record: a
//!   day after its end, or `registry.renew_grace` after it when it was never revoked.
//!
//! | status | state | `error` |
//! |---|---|---|
//! | 400 | `invalid` | as for `register`; `common_name`: the CSR is for another name; `certificate`, `signature`, `no_proof`: in grace, below |
//! | 401 | `refused` | `not_authenticated`: a registration session without `certificate` |
//! | 403 | `denied` | `not_admitted`: the user's `auth` admits no certificates; `no_certificate`: the session was made by password; `revoked`, `superseded`, `disabled`, `expired`, `foreign` (pinned, and issued elsewhere), `configured` (defined in broker.toml), `certificate_unknown`, `grace_over` |
//! | 409 | `conflict` | `key_in_use` (by another user, or pending), `key_revoked`, `still_valid` |
//! | 422 | `refused` | the nonce, as for `register` |
//! | 429 | `refused` | `rate`, `busy`, `too_many_certificates`, with `retry_after` |
//!
//! **The invitation**: a client that subscribes to `$registry/renew/invite` (no rule is needed) gets `{"serial": ..., "not_after": ...}` there
//! once in each connection, when its certificate should be renewed: between two thirds and three quarters of its life, each certificate at
//! a moment of its own; a connection that is made later, within ten minutes, or as soon as it subscribes.
//!
//! **Grace**: a device that was switched off too long has a certificate that lapsed, and TLS lets it in no more. For `registry.renew_grace` (30 days;
//! 0 for never) it can still renew, in a registration session: it connects *without* certificate, asks `$registry/challenge`, and sends `renew` with
//! `csr`, its old `certificate` (PEM), the `nonce`, and a `signature` (base64) by the old key over these bytes in a row:
//!
//! | bytes | |
//! |---|---|
//! | 19 | `portcullis-renew-v1`, ASCII |
//! | 64 | the nonce, as it was given |
//! | 32 | SHA-256 of the CSR in DER |
//!
//! ```sh
//! { printf 'portcullis-renew-v1%s' "$nonce"; openssl req -in new.csr -outform DER | openssl dgst -sha256 -binary; } > to-sign
//! openssl dgst -sha256 -sign old.key to-sign | openssl base64 -A             # P-256 (ECDSA in DER), RSA (PKCS#1 v1.5)
//! openssl dgst -sha384 -sign old.key to-sign | openssl base64 -A             # P-384 (ECDSA in DER)
//! openssl pkeyutl -sign -inkey old.key -rawin -in to-sign | openssl base64 -A # Ed25519
//! ```
//!
//! Never for a certificate that was revoked or superseded, nor for a disabled or expired user. After the grace an operator decides:
//! `registry replace`.
//!
//! # Bounds
//!
//! At most `registry.max_pending` requests are pending, `registry.max_pending_per_source` of them from one source address. When there
//! is no room, a new request displaces the oldest one of its own source that was silent for a minute and whose device is not
//! connected, or is answered with 429; it never displaces one of somebody else. The last tenth of `registry.max_pending` is for
//! networks (/16; /32 for IPv6) that hold less than a hundredth of it, so a flood out of one provider's addresses leaves room for
//! devices that are elsewhere. A source may do `registry.requests_per_minute` operations;
//! a password that proves nothing and makes no request, a token that is not good, and a wrong signature of a lapsed certificate count as eleven. What a source has not got
//! left it owes, up to a minute's worth: until that has come back it is told 429 with `rate`.
//!
//! 64 messages with a password, 64 of strangers with a key alone and 64 renewals of users are worked on at once; more of the same kind get 429 and `busy`.
//! None of them counts while argon2 works for it: passwords wait for that in a queue of their own, which is fair between addresses. So a
//! flood of strangers with passwords keeps out others with passwords, and neither keys nor renewals.
//!
//! # Guessing passwords
//!
//! A password in `register` is a login by its limits, at all three doors, whatever the name: those of a free name, of a user, of a pending and of a denied request.
//!
//! - **One that proves nothing and makes no request is a failed login** of its source and of that name; the limits are those of [logins](super::configuration), and the
//!   failures of all doors add up. Beyond them every password for that name from there is told 429 with `throttled`, right or wrong.
//! - **It takes one argon2** in a queue of its own, which is bounded, and is told the same after the same work whether the registry knows the name or not, while that is locked. While it
//!   is unlocked, 409 says that a name is taken or pending: that is what it is for.
//! - A device that polls with the right password fails at nothing: after the first time it costs no argon2 either.
//! - So a device that asks by password, and is not on record yet, should wait for `retry_after` while the registry is locked: to ask is to fail. Where more than ten of them in a
//!   minute do so behind one address, they wait longer. A CSR is not concerned: it proves itself by a key.
//! - Refusals are in the [audit log](super::audit) as `registrations_refused`, with the word that the device was told, whose name it was, and how many there were.
