//! Every series, and what to watch.
//!
//! `metrics.bind` (default `127.0.0.1:9464`) serves `GET /metrics` in the text format of OpenMetrics 1.0, which Prometheus reads. It asks for no
//! credentials: keep it on loopback or on a network of your own. Labels are closed sets and names that the operator gave; no
//! client can make a series.
//!
//! | series | labels | |
//! |---|---|---|
//! | `portcullis_build_info` | `version` | always 1 |
//! | `portcullis_connections_open` | `listener` | connections that are open; the listener of the REST API is `admin` |
//! | `portcullis_connections_total` | `listener` | connections accepted, after the TLS handshake |
//! | `portcullis_connections_refused_total` | `reason` | ended before a successful CONNACK: `connections`, `connections_per_address`, `accept_failed`, `handshake`, `connect_missing`, `protocol`, `client_identifier`, `bad_credentials`, `not_authorized`, `busy`, `abandoned` (the client hung up before its login was decided), `shutting_down`, `other` |
//! | `portcullis_connections_ended_total` | `reason` | ended after it: `client`, `lost`, `keep_alive`, `taken_over`, `expired`, `protocol`, `publish_refused`, `packet_too_large`, `access`, `operator`, `shutting_down`, `other` |
//! | `portcullis_authentications_total` | `outcome` | `password`, `remembered_password`, `certificate`, `both`, `anonymous`, `registration`, `bad_credentials`, `not_authorized`, `busy`, `throttled`, `abandoned` |
//! | `portcullis_argon2_waiting`, `portcullis_argon2_busy` | | passwords that wait, threads that work |
//! | `portcullis_packets_received_total`, `portcullis_packets_sent_total` | `type` | control packets |
//! | `portcullis_publish_received_total`, `portcullis_publish_sent_total` | `qos` | PUBLISH packets |
//! | `portcullis_bytes_received_total`, `portcullis_bytes_sent_total` | | bytes inside TLS |
//! | `portcullis_payload_bytes_received_total`, `portcullis_payload_bytes_sent_total` | | payloads of PUBLISH |
//! | `portcullis_malformed_packets_total` | `reason_code` | packets that broke the protocol |
//! | `portcullis_answers_total` | `outcome` | messages to a Response Topic that only a request permitted: `delivered`, `no_requester` |
//! | `portcullis_quota_exceeded_total` | `quota` | what the quota of a user did not admit: `connections`, `sessions`, `publish_messages`, `publish_bytes`, `subscriptions`, `retained_messages`, `retained_bytes`, `queue` |
//! | `portcullis_messages_dropped_total` | `cause` | did not reach a subscriber who was entitled: `queue_full`, `expired`, `too_large` |
//! | `portcullis_refusals_total` | `action` | by the rules: `publish`, `subscribe`, `receive`, `will`, `http` |
//! | `portcullis_http_requests_total` | `outcome` | requests over HTTPS: `ok`, `unauthenticated` (401), `forbidden` (403), `busy` (429), `timeout` (408), `refused` (other 4xx), `failed` (5xx) |
//! | `portcullis_sessions`, `portcullis_subscriptions` | | with and without a connection; every few seconds |
//! | `portcullis_retained_messages`, `portcullis_retained_bytes` | | every few seconds |
//! | `portcullis_policy_version` | | number of the snapshot in force; begins anew with each start |
//! | `portcullis_commit_duration_seconds`, `portcullis_commit_failures_total` | | changes of users and roles: from the order until they are in force everywhere; those that the store failed |
//! | `portcullis_audit_records_total` | | records written to the [audit log](super::audit) |
//! | `portcullis_audit_collapsed_total` | | refusals and failed logins counted in a record that another one had begun |
//! | `portcullis_audit_dropped_total` | | refusals and failed logins that are in the log as a number only, or, when the store failed, not at all |
//! | `portcullis_registry_requests_total` | `state` | answers of the registry: `granted`, `pending`, `invalid`, `denied`, `conflict`, `refused`, `locked`, `answered` |
//! | `portcullis_registry_bad_input_total` | `input` | `json`, `csr`, `username`, `password`, `too_large`, `other` |
//! | `portcullis_certificates_revoked_total` | | certificates, and issuers, that were taken out of force |
//! | `portcullis_crl_number`, `portcullis_crl_entries` | | the [revocation list](super::certificates) in force: its number, the certificates on it |
//! | `portcullis_crl_next_update_timestamp_seconds` | | when it lapses, in seconds since 1970 |
//! | `portcullis_crl_failures_total` | | lists that could not be made; it is tried again every 10 seconds |
//! | `portcullis_ca_not_after_timestamp_seconds` | | end of the CA's certificate, in seconds since 1970 |
//! | `portcullis_ca_former` | | 1 while the CA before the one that issues is still trusted |
//! | `portcullis_server_certificate_not_after_timestamp_seconds` | | end of the broker's own certificate; 0 without TLS |
//! | `portcullis_registry_renewals_total` | `outcome` | new certificates: `issued`, `in_grace`, `repeated` (a lost answer), `refused` |
//! | `portcullis_registry_invitations_total` | | invitations to renew a certificate |
//! | `portcullis_registry_pending` | | requests that wait for a decision |
//! | `portcullis_registry_decisions_total` | `decision` | `granted`, `granted_by_token`, `denied` |
//! | `portcullis_registry_tokens` | | claim tokens whose time is not over |
//! | `portcullis_registry_tokens_refused_total` | `cause` | claims with a token that was not good: `unknown`, `expired`, `spent`, `name`, `network`, `author` (who does not hold it any more) |
//!
//! # What to watch
//!
//! | when this grows | then |
//! |---|---|
//! | `messages_dropped{cause="queue_full"}` | a subscriber is too slow or away too long: messages are lost for it |
//! | `refusals{action="publish"}` | a device lacks a right, or somebody tries: `explain`, and the log at level `debug` |
//! | `authentications{outcome="bad_credentials"}`, `throttled` | somebody guesses, or a password was changed and not everywhere |
//! | `authentications{outcome="busy"}`, `argon2_waiting` | more logins than `password.workers` can check: more workers, or certificates |
//! | `connections_refused{reason="connections"}`, `accept_failed` | a limit of the broker, or of open files |
//! | `connections_refused{reason="handshake"}` | clients without the trust bundle, certificates that are over, or port scans |
//! | `audit_dropped` | a flood of refusals or logins, more than the audit log tells apart |
//! | `crl_failures`, or `crl_next_update_timestamp_seconds` comes near | other servers will soon refuse every certificate: the log says why |
//! | `server_certificate_not_after_timestamp_seconds` comes near | the broker renews what it made, an operator's own certificate is the operator's to replace |
//! | `registry_tokens_refused` | somebody guesses (`unknown`), or a token has leaked or is used up: the audit log names it |
//! | `registry_pending` | somebody waits for the operator |
