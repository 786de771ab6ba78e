//! By the message that you see.
//!
//! # At the start
//!
//! | message | what to do |
//! |---|---|
//! | `unknown key ...`, `... cannot be ...` with a line of the file | as the line `help:` says |
//! | `... is not available yet` | the key is planned; leave it out |
//! | `... cannot listen on ...: another program listens there` | another program, or another broker, has the port: stop it, or change `bind` |
//! | `... cannot listen on ...: this user may not` | ports below 1024 need a right of the system |
//! | `the store ... is in use by another process` | a broker runs on this data directory; or `user passwd --offline` was called while it runs |
//! | `the store has schema version ...` | the data directory was written by a newer version: run that one, or restore a backup |
//! | `the store ... is damaged`, `the record ... is damaged` | restore a backup |
//! | `the certificate ... is there but its key ... is not` | put the two files there that belong together, or remove both for a new pair |
//! | `the certificate ... does not fit the key ...` | the same |
//! | `the certificate in ... is valid from ... to ..., not now` | renew it, or correct the clock |
//! | `broker.toml defines ..., which the API or the registry owns` | rename it in the file, or delete the other one before, with the file as it was |
//! | `the password of user ... is too weak` | the file behind `password_file` or `admin_password_file` does not meet `[password]` |
//!
//! # On the command line
//!
//! | message | what to do |
//! |---|---|
//! | `no broker is reached at ...` (exit code 3) | start it; or call the command in its directory, or with its `--config`; or as the user that runs it |
//! | `... has version ..., not ...: read it again and repeat the change` | somebody else changed it in between: repeat |
//! | `... is defined in broker.toml: change it there` | edit the file and restart |
//! | `there is no role ...: create it first, or grant without it` | at a `grant`: make the role with `role add`, then grant again |
//! | `role ... is held by user ...: take it from its users before deleting it` | `user edit NAME --drop-role ROLE` for each of them, or delete them |
//! | `... is the last one who can administer the broker` | give another user the role `admin` first |
//! | `the user ... would get the allow rule ..., but may choose its client identifier freely` | set the user's `client_id`, or use `${username}` in the rule |
//! | `the request ... is denied already` | the device may ask again after 24 hours, or now with a new key |
//!
//! # Over HTTPS
//!
//! | answer | what to do |
//! |---|---|
//! | 401 although the password is right | the user's `auth` does not admit passwords, its name holds a `:`, or the certificate that is presented names somebody else: `audit tail` tells the cause |
//! | 403 `forbidden` with `no rule lets ...` | `portcullis explain NAME http METHOD PATH`; then `user edit` or a role |
//! | 403 `cross-site` | the page that asks is of another origin than the API; there is no way to allow one |
//! | 411 | the client sends the body in chunks: make it send `Content-Length` |
//!
//! # On the device
//!
//! | what it sees | why | what to do |
//! |---|---|---|
//! | the TLS handshake fails: unknown CA, self-signed certificate; `this device does not trust the broker` | it does not know the CA of the broker's own certificate | give it `certs/ca.pem`, or, with `[tls] certificate` of yours, the CA of that |
//! | the TLS handshake fails: host name does not match | the server certificate does not hold the name that it used | use one of the names in it (`openssl x509 -in certs/server.pem -noout -ext subjectAltName`), or a certificate of your own |
//! | the TLS handshake fails with its own certificate | that is of another CA, or not valid now | the clock of the device; else enrol anew |
//! | CONNACK 0x86 or 4, "bad user name or password" | unknown user, wrong password, or a certificate that is on nobody's record, or names nobody (`ca.identity`) | the log of the broker says `login refused` with the `cause` |
//! | the same, on port 1883 without credentials | that listener does not enrol | port 8883, or `registration = true` on a loopback listener |
//! | CONNACK 0x87 or 5 | the user is disabled or has expired, its client identifier does not match, or its Will is not permitted | `user show`; `explain` |
//! | CONNACK 0x89 or 3, "server busy" | too many logins wait, or too many failed before | try again; see `portcullis_authentications_total` |
//! | CONNACK 0x97, "as many sessions as limits.sessions admits" | there are too many sessions | a higher limit, or a shorter `limits.session_expiry` |
//! | CONNACK 0x85 or 2 | `+` or `#` in the client identifier | another one |
//! | PUBACK 0x87, or a 3.1.1 connection that closes after a PUBLISH | not permitted | `explain USER publish TOPIC` |
//! | SUBACK 0x87 or 0x80 | not permitted, or only in part | `explain USER subscribe FILTER`; perhaps `access.partial_subscription = "filter"` |
//! | connecting takes long while messages pass as ever | other programs take all cores: connections are brought in at a lower priority (on Linux nice 5, passwords nice 10), so that a storm of them yields to messages | give the broker more weight than those, as with `CPUWeight=` or `Nice=-5` in its systemd unit |
//! | DISCONNECT 0x8E | somebody connected as the same user with the same client identifier | different client identifiers |
//! | DISCONNECT 0x87, or a reset connection | the user was changed: disabled, deleted, another password; or its certificate or itself has expired | `user show` |
//! | DISCONNECT 0x93 | more unacknowledged messages than Receive Maximum | a fault of the client |
//! | DISCONNECT 0x94 | it used a topic alias | a fault of the client: none was announced |
//! | DISCONNECT 0x95 | a packet over `limits.packet_size` | smaller packets, or a higher limit |
//! | no answer from `$registry/...` | no matching subscription on the same connection | subscribe to `$registry/<operation>/response` first |
//! | `mosquitto_rr -f FILE` gets `malformed` | mosquitto_rr 2.0 does not send the file | `-m "$(cat FILE)"` |
//!
//! # Messages that do not come
//!
//! 1. `explain USER receive TOPIC` for the subscriber, `explain USER publish TOPIC` for the publisher.
//! 2. `portcullis_messages_dropped_total`: a full queue, an expired message, or one that is too large for the client.
//! 3. `portcullis_refusals_total{action="receive"}`: the subscription is withheld, or narrowed, by a rule.
//! 4. A retained message: its publisher may have lost the right to its topic (`access.orphaned_retained`).
//! 5. After a restart of the broker: sessions, queued and retained messages were in memory.
