//! Who may connect, and what they may publish and receive.
//!
//! # Things
//!
//! A **user** is one identity: a person, a program or a device. Its `id` is the identity and never changes or comes back; the
//! username is a label. Whoever gets the name of a deleted user inherits nothing of it.
//!
//! | field of a user | meaning |
//! |---|---|
//! | `username` | 3 to 64 characters of `A-Z a-z 0-9 . _ : @ -`, not dots alone; `admin`, `observer`, `system`, `local` are reserved |
//! | `enabled` | a disabled user may do nothing |
//! | `auth` | the proof that it must give: `password`, `certificate`, `either`, `both`; `none` only for the user that a listener names in `anonymous` |
//! | `roles` | roles that it holds |
//! | `permissions` | rules of its own |
//! | `publish_prefix` | put in front of every topic that it publishes to; ends in `/`, does not begin with `$` |
//! | `client_id` | pattern that its client identifiers must match: `*` is any run of characters, `${username}` its name; default any |
//! | `quota` | how much of the broker it may take up: see [below](#quotas) |
//! | `expires_at` | end of the user |
//! | `managed_by` | `config` (broker.toml), `api` (command line, REST, embedder) or `registry` |
//! | `last_seen_at` | when it last logged in over MQTT; saved once an hour and at shutdown, so a crash loses up to an hour of it |
//! | `last_seen_from` | from where it did: an IPv4 address or a /64 of IPv6. There it stays at home after a restart, whoever guesses in its name |
//! | `version` | counts its changes; a write names the version that it read and gets 409 when it lost the race |
//!
//! A **role** is a named set of permissions. Two are built in and cannot be changed: `admin` (everything) and `observer`
//! (read on `$SYS/#`, and on `/api/#` in `http`).
//!
//! A **permission** is one rule:
//!
//! | field | values | default |
//! |---|---|---|
//! | `context` | `mqtt` (topics), `http` (paths of the REST API) | required |
//! | `operation` | `read`: subscribe and receive. `write`: publish, the Will included. `read_write`: both | required |
//! | `resource` | a topic filter with `+` and `#`; `${username}` and `${client_id}` as whole levels | required |
//! | `effect` | `allow` or `deny` | `allow` |
//! | `max_qos` | highest QoS; on allow only | 2 |
//! | `retain` | may RETAIN be set? On allow only | yes |
//! | `not_after` | end of the rule, as in `2027-01-31T12:00:00Z`; on allow only | none |
//!
//! In JSON `readWrite` and `mqttPublishPrefix` are admitted too. Rules with the context `http` are
//! for the [REST API](super::rest) over HTTPS; at the Unix socket every caller has every right.
//!
//! # The decision
//!
//! 1. **What no rule allows is refused.**
//! 2. The rules of a user are those of its roles and its own. **A matching deny beats every allow.** Order never matters. Among
//!    matching allows the most generous condition counts.
//! 3. A wildcard at the first level never matches a topic that begins with `$`.
//! 4. A placeholder stands for one level with exactly that text. A name or client identifier that holds `/`, `+`, `#` or NUL makes
//!    an allow rule match nothing, and a deny rule match every value of that level.
//! 5. `${client_id}` in an allow rule is only for users whose `client_id` pattern ties it to their name: `${username}`, or
//!    `${username}` followed by a character that no username holds, as in `${username}~*`. Otherwise one user could name itself like
//!    another; such a policy is refused when it is made.
//! 6. With a `publish_prefix` the topic of a PUBLISH or Will is prefix and topic together, before the rules are asked.
//! 7. No client may publish to a topic that begins with `$`, whatever the rules say, but for the operations of the
//!    [registry](super::registry). Those of devices are open to everybody; to decide, by `$registry/admin/<operation>`, needs a rule to
//!    write that [names it](super::registry#deciding-over-mqtt). On `$registry/events/...` the registry tells what happens, to whom a
//!    rule lets read it.
//! 8. Too high a QoS, and RETAIN without the right to it, are refused on PUBLISH; on SUBSCRIBE the QoS is lowered. To clear a
//!    retained message needs the same right as to set it.
//!
//! The engine that decides is [`crate::access`]; it can be asked without a broker:
//!
//! ```
//! use portcullis::access::{Context, Operation, Permission, Policy, Role, SubscribeVerdict, User, UserId};
//! use portcullis::clock::Timestamp;
//! use portcullis::mqtt::QoS;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let line = Role::new("line".parse()?, vec![
//!     Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/${username}/#"),
//!     Permission::allow(Context::Mqtt, Operation::Read, "plant/alerts/#"),
//!     Permission::deny(Context::Mqtt, Operation::Write, "plant/+/firmware"),
//! ]);
//! let id = UserId(uuid::Uuid::from_u128(7));
//! let mut pump = User::new(id, "pump-7".parse()?, Timestamp::UNIX_EPOCH);
//! pump.roles.push(line.name.clone());
//! let policy = Policy::default().with([(line.name.clone(), Some(line))], [(id, Some(pump))], Timestamp::UNIX_EPOCH)?;
//! let pump = policy.authority(id, &"any".parse()?).ok_or("no such user")?;
//!
//! assert_eq!(pump.may_publish(&"plant/pump-7/speed".parse()?), Some((QoS::ExactlyOnce, true)));
//! assert_eq!(pump.may_publish(&"plant/pump-8/speed".parse()?), None, "no rule allows it");
//! assert_eq!(pump.may_publish(&"plant/pump-7/firmware".parse()?), None, "a rule denies it");
//! assert!(matches!(pump.may_subscribe(&"plant/alerts/+".parse()?), SubscribeVerdict::Granted { unconditional: true, .. }));
//! assert!(matches!(pump.may_subscribe(&"plant/#".parse()?), SubscribeVerdict::Partial { .. }));
//! assert!(matches!(pump.may_subscribe(&"#".parse()?), SubscribeVerdict::Partial { .. }));
//! assert!(matches!(pump.may_subscribe(&"office/#".parse()?), SubscribeVerdict::Refused));
//! # Ok(())
//! # }
//! ```
//!
//! # SUBSCRIBE, and delivery
//!
//! A filter is *covered* by a pattern when the pattern matches every topic that the filter can match: `a/#` covers `a`, `a/b` and
//! `a/+/c`; `a/+` does not cover `a/#`; `#` does not cover `$SYS/#`.
//!
//! | the filter | answer |
//! |---|---|
//! | is covered by one allow | granted; topics inside it that a deny names are withheld at delivery |
//! | is not covered, but overlaps an allow | `access.partial_subscription`: `refuse` (default) answers 0x87, `filter` grants it and delivers the permitted topics |
//! | overlaps no allow, or lies wholly inside a deny | refused, 0x87 |
//!
//! Each delivery is checked by the rules of that moment; a subscription that one allow covers and no deny touches needs no
//! check for each message. Retained and queued messages go the same way.
//!
//! A retained message whose publisher may no longer write its topic: `access.orphaned_retained` says `withhold` (default: kept, not
//! sent until the right returns), `keep` (sent as before) or `drop`.
//!
//! # What a refused client sees
//!
//! | packet | MQTT 5 | MQTT 3.1.1 |
//! |---|---|---|
//! | CONNECT, wrong proof or unknown user: not to be told apart, in time neither | CONNACK 0x86 | CONNACK 4 |
//! | CONNECT, proven but disabled, expired, wrong client identifier, or its Will not permitted | CONNACK 0x87 | CONNACK 5 |
//! | CONNECT, too many logins at once, or too many failures before | CONNACK 0x89 | CONNACK 3 |
//! | CONNECT, as many connections or sessions as the quota admits | CONNACK 0x97 | CONNACK 3 |
//! | CONNECT, client identifier with `+` or `#` | CONNACK 0x85 | CONNACK 2 |
//! | SUBSCRIBE | 0x87 for that filter, the others stand | 0x80 for that filter |
//! | PUBLISH, QoS 1 and 2 | PUBACK or PUBREC 0x87; the connection stays | `access.denied_publish`: `disconnect` (default), or `acknowledge` and drop |
//! | PUBLISH, QoS 0 | dropped and counted; the connection stays | the same |
//! | SUBSCRIBE, PUBLISH beyond the quota | as above, with 0x97 | as above |
//! | user disabled, deleted or expired, password changed, certificate revoked or expired | DISCONNECT 0x87 if it can still be written, then the connection is reset | the connection is reset |
//! | a client certificate of another CA, or one that is not valid now | the TLS handshake fails | the same |
//!
//! # Changes take effect at once
//!
//! A change of users, roles or permissions is one transaction: checked as a whole, written to disk (`store.durability`), published as a new policy
//! snapshot, and then every connection that it concerns passes it. Then it is answered. **After the answer nothing is given to the
//! kernel that the new rules forbid.** Packets that are encoded and not yet written are taken back at a packet boundary.
//!
//! - A subscription that is no longer permitted is *withheld*, not removed: it delivers nothing, and lives again when the right returns.
//! - A QoS 1 or 2 message that was under way and is now forbidden is not sent again on the next connection; a QoS 2 exchange that has
//!   reached PUBREC is finished.
//! - A change that ends a user's right to be connected ends its connections.
//! - Connections of other users see nothing of it.
//!
//! Sessions belong to users: the key of a session is the user and the client identifier together. Two users with the same client
//! identifier never meet, and cannot take over each other's sessions.
//!
//! What ends by the clock is such a change too: a rule at its `not_after`, a user at its `expires_at`. A later or earlier end, and
//! another `client_id` pattern, hold for the connections that are there.
//!
//! # Quotas
//!
//! | in `quota` | bounds |
//! |---|---|
//! | `connections` | connections at a time; one that takes over its own session is no further one |
//! | `sessions` | sessions, with and without a connection |
//! | `subscriptions` | subscriptions of all its sessions together |
//! | `publish_messages` | messages that it publishes: `{"per_second": 100, "burst": 500}` |
//! | `publish_bytes` | bytes of topics, payloads and properties that it publishes, in the same way |
//! | `retained_messages`, `retained_bytes` | retained messages of which it is the last publisher, and their bytes with 256 for each |
//! | `queue_messages`, `queue_bytes` | what waits for one of its sessions; a single message always may |
//!
//! Each is optional; a user has what `[limits]` admit where it has no quota, and the smaller bound where it has one. All
//! sessions of a user share its rates: over any stretch of `t` seconds it publishes at most `per_second * t + burst`. Nobody begins
//! anew by connecting anew. A message larger than the burst of `publish_bytes` is never taken. A message that the rules refuse,
//! and a QoS 2 message that is sent again, count for nothing; a Will is always published, and takes what is there. While one
//! connection of a user is in the middle of many messages, it holds up to a sixteenth of what is left; what it does not use of that is there
//! again when they are handled.
//!
//! A changed quota holds from the next packet on. It takes nothing away: whoever has more than a lower quota admits keeps it and
//! gets no more. What is refused is counted by kind, as `portcullis_quota_exceeded_total`.
//!
//! ```sh
//! portcullis user edit pump-7 --quota '{"connections":1,"publish_messages":{"per_second":10,"burst":50}}'
//! ```
//!
//! # Requests and answers
//!
//! A service that answers requests would need the right to publish to every topic that a client might name as its Response Topic.
//! With `access.response_grants = true` it needs none: **a client that received a request may answer it once.**
//!
//! - A request is a message with a Response Topic, delivered to a client of MQTT 5. For `access.response_grant_for` (default 30 s) its
//!   receiver may publish one message to that topic with the Correlation Data of that request.
//! - The answer is written to the session that asked and to no other, if it has a subscription that matches and may read the topic.
//!   It is never retained, and never on a topic that begins with `$`.
//! - What the rules permit is published as ever, to all, and uses nothing up. With a `publish_prefix` that is judged first; the
//!   Response Topic itself has no prefix.
//! - A deny on the Response Topic beats it, as it beats every allow.
//! - The right goes with the right to receive the request. It is not for retained requests, nor for one that is sent a second time.
//! - A session remembers 1,024 requests and 256 KiB of their topics and Correlation Data, 16 KiB for one; beyond that, whoever asked
//!   most loses its oldest.
//!
//! A second, late or otherwise different answer is refused like any PUBLISH without a right. PUBACK and PUBREC say 0x10 when the
//! requester is gone. `explain` knows the rules, and nothing of requests that wait.
//!
//! # Nobody hands out what they do not hold
//!
//! A user of the broker who makes changes (over [HTTPS](super::rest), [over MQTT](super::registry#deciding-over-mqtt), or through [`crate::directory`] with [`crate::directory::Actor::User`]) may give only what
//! its own rules cover, and administer only those who hold no more. The machine's owner at the Unix socket, broker.toml and holders of
//! `admin` are not bound by it.
//!
//! - A rule is *held* when one allow pattern of the giver covers all of it, no deny of the giver touches it, and the conditions (`max_qos`,
//!   `retain`, `not_after`) are no wider. A placeholder stands for every value: who holds `plant/${username}/#` holds its own tree only.
//! - To make, change, delete or rename a user takes all that the user holds, before and after. Their own password and description are
//!   everybody's own.
//! - To change a role takes every rule that it has before and after. A deny counts like an allow: only who holds a place may shut or open
//!   it for others. Roles that a holder of `admin` holds, and deny rules on `$share/...` in roles, are for holders of `admin`.
//! - Nobody gives a quota wider than their own.
//! - A giver that ends (`expires_at`, or a rule with `not_after`) gives nothing that lasts longer.
//! - What a transaction gives cannot be used within it.
//! - The right to ask (the path of the API, or the operation over MQTT) must still be there when the change is written: after a right was
//!   taken and that was answered, nothing is done by it any more, also not what had begun.
//!
//! What is refused is told with the rule that is too much: 403.
//!
//! # Sets of changes
//!
//! `portcullis apply FILE` makes all changes of a file, or none. The file is TOML, or JSON with the same names:
//!
//! ```toml
//! [[role]]
//! name = "line"
//! permissions = [{ context = "mqtt", operation = "read_write", resource = "plant/${username}/#" }]
//!
//! [[user]]
//! username = "pump-7"
//! auth = "certificate"
//! roles = ["line"]
//!
//! [[delete]]
//! user = "pump-6"
//! version = 3
//! ```
//!
//! | | |
//! |---|---|
//! | `[[role]]` | `name`, `description`, `permissions` (all of them) |
//! | `[[user]]` | `username`, `description`, `enabled`, `auth`, `password_hash` (a PHC string: argon2id, or PBKDF2 of another broker as `$pbkdf2-sha512$i=<iterations>$<salt>$<hash>`, see [security](super::security#passwords-of-another-broker)), `roles`, `permissions` (all of them), `quota` (all of it), `publish_prefix` and `client_id` (`""`: none), `expires_at` (`"never"`: none) |
//! | `[[delete]]` | `user` or `role` |
//!
//! What the file does not say stays as it is, and what it does not name too: only `[[delete]]` deletes. `version` is admitted on each
//! entry: then it must be the current one, and 0 means that nothing of the name is there yet. A file that is so already changes nothing.
//!
//! `--dry-run` makes no change and says what it would do: each user and role, and **each session that would lose or gain something**, with
//! the subscriptions that would be withheld, narrowed, widened or restored, the rules that go and come, and why it would end. In REST every
//! change of users and roles takes `?dry_run=true`.
//!
//! # The way back
//!
//! Each commit of users and roles has a version and stays on record, the last 1,000 of them (20,000 users and roles in all).
//! `portcullis history` lists them; `portcullis rollback VERSION [--dry-run]` makes users and roles what they were right after that commit, in one new transaction.
//!
//! - **Rights go back, proofs do not**: passwords, certificates and `auth` stay as they are, so that no leaked password works again
//!   and nothing revoked comes to life. No password hash is on record.
//! - Who was made since is deleted. **A deleted user does not come back**: the id is the identity. Such users, and what broker.toml owns, are
//!   listed as not restored; the rest goes back.
//! - When somebody else commits in between, nothing is done: 409.
//!
//! # Ask why, and what if
//!
//! `portcullis explain USER publish|subscribe|receive TOPIC [--client-id ID] [--qos N] [--retain]` answers through the same
//! engine and names the rules that decided; for `subscribe` those that cover the filter and the denies that withhold a part of it.
//! `explain USER http METHOD PATH` does so for a request of the REST API. Its exit code is 0 for yes and 1 for no.
//! With `--with FILE` the answer is what it would be if the changes of the file were made.
//!
//! `portcullis who-can publish|receive TOPIC` lists the users who may, and the rules that say so. The topic is the one that is
//! routed, a publish prefix included. A user is named with a client identifier when it takes that one, because of `${client_id}` in a rule.
