//! Certificates: the authority, what takes them out of force, and the revocation list.
//!
//! # The authority
//!
//! The first start makes a CA (P-256, ten years) in `certs/`, or the broker uses [yours](#a-ca-of-yours). It issues to users who registered
//! with a CSR, see [registry](super::registry), and the broker's own certificate. `portcullis ca show` says what it is, how much of what it issued is in force, and which revocation list is:
//!
//! ```text
//! subject       CN=Portcullis CA 5c0e93f1
//! key           P-256
//! issuer        1d5e...
//! fingerprint   SHA-256 77a0...
//! valid         2026-11-24 10:00:00Z to 2036-11-21 10:00:00Z
//! certificates  17 in force, 3 revoked, 1 expired
//! crl           number 7, 3 certificates, made 2026-11-27 10:00:00Z, next by 2026-12-04 10:00:00Z
//! ```
//!
//! # A CA of yours
//!
//! Put the key of the CA that is to issue into `[ca] key` (PKCS#8, SEC1 or PKCS#1 in PEM, mode 0600), and into `[ca] certificate`
//! its certificate first, then those above it, up to and including the root:
//!
//! ```sh
//! cat plant-4.pem corp-plants.pem corp-root.pem > certs/ca.pem
//! install -m 600 plant-4.key certs/ca.key
//! ```
//!
//! | who | gets |
//! |---|---|
//! | a device that asks for the trust bundle (`$registry/ca`, `GET /api/client-registry/ca`) | the root alone: it trusts the broker through every change below it |
//! | a device whose certificate is issued | the certificate, the intermediates as `chain`, the root as `ca` |
//! | whoever connects | the broker's own certificate with the intermediates (one of yours, `[tls] certificate`, as you put it there) |
//!
//! As a client the broker takes only what this CA itself has issued, however many others the root has below it; a device may send the
//! intermediates, and need not. No certificate is issued for longer than the first of the chain to end is good.
//!
//! At start each certificate of the chain is checked as clients will do it: it is one of a CA (basicConstraints), signs certificates
//! (keyUsage), admits as many CAs below it as there are (pathLenConstraint) and certificates of clients (extendedKeyUsage, if it has one), is
//! good now, and has a key of an admitted kind; the first fits the key, the last is a root. Otherwise the broker does not start, and says which
//! certificate of which file is wrong in what. A CA without serverAuth cannot issue the broker's own certificate: give it one of yours.
//!
//! Whatever else a certificate of the chain may say (name constraints, critical extensions), a client decides: before it is used, at a
//! start and at `ca import`, a certificate of a user and, where it has serverAuth, one of a server for `localhost` are issued in memory and
//! verified as clients of TLS do it. A CA whose certificates they refuse is refused, and nothing is written.
//!
//! # A key under a passphrase
//!
//! The key of the CA may be encrypted: PKCS#8 with PBES2 (AES, and PBKDF2 with SHA-2 or scrypt), as `openssl pkcs8 -topk8 -v2 aes-256-cbc`
//! writes it. The passphrase, one line of at most 1024 bytes, comes from one of these, the first that is named:
//!
//! | where | how |
//! |---|---|
//! | a file | `[ca] passphrase_file`, mode 0600 |
//! | a variable of the environment | `[ca] passphrase_env` names it |
//! | systemd | `LoadCredential=ca-passphrase:FILE` or `LoadCredentialEncrypted=`, and nothing in broker.toml |
//!
//! Where there is a passphrase, the first start makes the key under it (AES-256, PBKDF2 with 600,000 rounds of HMAC-SHA-256). A key that is there is left as
//! it is; a plaintext one is warned about. Without the right passphrase the broker does not start. A file that asks for more than
//! ten million rounds, or 256 MiB of scrypt, is refused before the work begins. The passphrase is in no log and no message, and memory that
//! held it or the opened key is wiped. It protects backups and disks; it does not protect against whoever can read the passphrase too.
//!
//! # Another CA
//!
//! | command | the new CA is | |
//! |---|---|---|
//! | `ca rotate` | made by the broker | for a CA that the broker has made; a root of your own is left to you |
//! | `ca csr`, then `ca import FILE` | certified by whoever keeps the root | the key is made by the broker and never leaves it; the request (PKCS#10) goes to the root, the answer, with the certificates above it up to the root, comes back |
//! | `ca import FILE` with a certificate for the key in use | the same, for longer | no overlap: everything stays as it is |
//!
//! What is imported is checked as at a start, and that it fits the key. Each of them needs a running broker and the role `admin`, and is in the audit log:
//! before a key is made or used, and when it is done.
//!
//! From then on the new CA issues, and the one before it stays trusted, with its revocation list, until you end that. Meanwhile:
//!
//! - The trust bundle holds both roots. `$registry/ca` answers it, and so do `register` and `renew` with each certificate; it is also pushed, as an
//!   answer that nobody asked for, on `$registry/ca/response` to every connection that is subscribed to that.
//! - The broker's own certificate remains one of the old CA as long as the root is another: a device that has the old root alone, and one that has
//!   both, can verify it. (No certificate of one CA by the other is needed for that, and none is made. With the same root above both, it changes at once.)
//! - Connections whose certificate is of the old CA are invited to renew (`$registry/renew/invite`), each at its own moment within ten minutes, or a tenth
//!   of what is left of its certificate; devices that come later, within ten minutes of their CONNECT.
//! - `ca show` counts who still lives on the old one, `ca living ISSUER` lists them; `portcullis_ca_former` is 1.
//!
//! `ca retire ISSUER` ends it. It is refused while certificates of the old CA are in force; with `--force` these are revoked, and
//! their sessions end. The broker's own certificate is then one of the new CA: **devices that were never given the new root cannot verify it any
//! more**, those that log in by password too, which no report can count. There is one overlap at a time. For a CA whose key is stolen there is none:
//! see [Revoking](#revoking).
//!
//! `certs/ca.pem` and `certs/ca.key` are rewritten by this: the new CA first, then the old one with its chain; both keys. Each file is replaced whole, in an
//! order in which every key is there as long as its certificate is. A crash leaves the old state or the new one, and a change that was cut short
//! can be made again. A key that waits for `ca import` lies in `ca.key.next`. Back up both files after a change. A change that TLS does not
//! take, or whose files cannot be written, leaves everything as it was (but `ca retire --force`: what it has revoked stays so).
//!
//! A former CA that comes to its own end before you end it is retired by the clock, with what is left of it, which the audit log tells
//! (`lapse`); one hour before, the broker's own certificate is one of the new CA.
//!
//! # Certificates of others
//!
//! `[[ca.trust]]` names further CAs, each good for users with such names only:
//!
//! ```toml
//! [[ca.trust]]
//! certificate = "partner.pem"
//! username = "partner-*"
//! ```
//!
//! A client with a certificate of such a CA, or of one below it if it sends that too, is the user that it [names](#names-in-certificates), if that matches,
//! exists, is enabled, and has an `auth` that admits certificates. Nothing has to be on record, and so nothing can be
//! revoked but by disabling the user, or on the partner's side by not renewing: revocation lists of partners are not read. Therefore:
//!
//! - Whoever administers is not logged in, unless that very certificate is pinned: `portcullis user pin NAME FILE`. That is a holder of the role
//!   `admin`, and any user with a rule, its own or of a role, that lets it write over HTTP or to `$registry/admin/#` (denies are not looked at). What
//!   is pinned can be revoked like any other. Who gets such a right while connected loses the connection.
//! - What the broker's own CA has signed must be on record, whatever else is trusted. Naming that CA here is refused, and so is any CA that
//!   ever was the broker's: it remembers them all, by key and key identifier.
//! - A CA above the broker's own may stand here, for others below it. No way to it leads through a CA that is or was the broker's, nor through
//!   one that such a CA has signed: neither a stolen key nor a certificate of a deleted user becomes good again when its CA is revoked or
//!   retired. The broker says at the start, and whenever its CA changes, that one is above it.
//! - A revoked issuer anywhere on the way of a certificate makes it worthless.
//! - A CA whose time is over logs nobody in; the broker starts nevertheless, and says so. `ca show` lists all of them.
//!
//! # Names in certificates
//!
//! Whose a certificate is, it says by the only common name of its subject, which must be a user name. Where devices are named by URIs
//! (SPIFFE, URNs), it can be the only URI among its subject alternative names:
//!
//! ```toml
//! [ca]
//! identity = "san_uri"
//! uri_prefix = "spiffe://plant.example/device/"
//!
//! [[ca.trust]]
//! certificate = "partner.pem"
//! username = "partner-*"
//! uri_prefix = "spiffe://partner.example/line/"     # identity and prefix are those of [ca] where they are not said
//! ```
//!
//! The URI must be the prefix and behind it the user name, byte for byte: `spiffe://plant.example/device/pump-7` is `pump-7`. Nothing is decoded or
//! folded, so that two ways to write a URI are two names, and one of them at most is somebody's. No URI, two of them (equal ones too), or
//! alternative names that are malformed name nobody; other kinds of names (DNS, e-mail, addresses) do not count, and neither does the common name:
//! it is never a second way. Conversely, URIs do not count where the common name does. With the prefix `urn:`, the user name is the rest of a
//! URN: `urn:dev:mac:0024befffe804ff1` is `dev:mac:0024befffe804ff1`. (SPIFFE admits no `:` and `@` in paths: leave them out of names there.)
//!
//! With `uri_prefix` what the broker itself issues has such a URI, too, whatever `identity` says; the common name stays the user name, and a
//! CSR still must not ask for names. What was issued before has none, and logs in no more once `identity` is `"san_uri"`: CONNACK 0x86,
//! and in the audit log the cause `certificate_names_nobody` (the log of the broker says why, with the fingerprint). So change in two steps:
//!
//! 1. Set `uri_prefix`, and restart. Everybody logs in as before.
//! 2. Have each certificate renewed: wait until all have passed two thirds of their life, or `ca rotate`, which invites every device at once
//!    and counts in `ca show` whose certificate is still of the CA before.
//! 3. Set `identity`, and restart. Back again is one step: the common names are there.
//!
//! A device that slept through this gets its new certificate when the old one has lapsed, in [grace](super::registry#renewal), where the record of
//! the certificate counts and not what it says; until then, or later, open its name with `registry replace`.
//!
//! # The broker's own certificate
//!
//! Without files of yours the CA makes it: one year, for the host name, `localhost` and the addresses of the interfaces. While the broker
//! runs it renews it, for the same key, at two thirds of its life and when the machine gets a name or address that is not on it; the file
//! is rewritten whole, handshakes from then on show the new one, and connections notice nothing. Files of yours (`[tls] certificate`,
//! `key`) are never written: replace them, the key and the certificate, and within seconds the broker shows the new one. While they
//! do not fit together, or are not valid now, it keeps the one that it has, and says so in its log. Each change is in the audit log;
//! `portcullis_server_certificate_not_after_timestamp_seconds` says until when the one in use is good.
//!
//! A device knows the broker by the CA of this certificate. Where that is another one than the broker's own CA, give devices that one: the `ca`
//! which they are given with their certificates is of the CA that issues, and has to be kept beside it, not in its place.
//!
//! # Revoking
//!
//! | command | takes out of force |
//! |---|---|
//! | `user revoke NAME SERIAL [--reason REASON] [--comment TEXT]` | one certificate |
//! | `user revoke NAME --all [--reason REASON] [--comment TEXT]` | all certificates of a user; the user stays, with its password if it has one |
//! | `user delete NAME` | the user with all of them; the list says `cessationOfOperation` |
//! | `ca revoke ISSUER [--reason REASON] [--comment TEXT]` | everything that an issuer has issued and will issue; only holders of the role `admin` |
//!
//! Each is one commit: when it is answered, the sessions that stood on these certificates have ended, logins with them and renewals are
//! refused, and it is in the audit log and on record for the revocation list. Nothing revoked comes to life again. Reasons are those of
//! RFC 5280 5.3.1 that make sense here: `unspecified`, `keyCompromise`, `cACompromise`, `affiliationChanged`, `superseded`,
//! `cessationOfOperation`, `privilegeWithdrawn`. The comment is kept with the certificate, and is not on the list.
//!
//! `ca revoke` is for a CA whose key is lost or stolen, one that was retired before included: every device must enrol anew. Revoke, move the CA's files away, start (a new CA is
//! made, or yours is read), hand out the new trust bundle. While the revoked issuer is still the one in use, no certificate is issued.
//!
//! # The revocation list
//!
//! The broker asks its own records, at every CONNECT and at every change: it needs no list. The list is for other servers that trust the CA. It
//! is an X.509 v2 CRL (RFC 5280 5), signed by the CA. Where there are two, a list that cannot be made holds up no other one; it is tried again after
//! 10 seconds, and less and less often, at least every 10 minutes:
//!
//! - `GET /crl` on the admin socket: DER, `application/pkix-crl`; `GET /crl/ISSUER` is that of one issuer, while two are trusted. `portcullis ca crl` prints it as PEM, `ca crl --out FILE` writes it as DER.
//! - A new list is made within about a second of a revocation (those of the same second share one), and at half of `ca.crl_validity`
//!   (default 7 days), so that it never lapses while the broker runs. Its number grows with each list, restarts included.
//! - Certificates of deleted users are on it too. A certificate leaves after it has been on one scheduled list of after its own end.
//! - With `ca.crl_url` every issued certificate names that place (CRL distribution point); the broker does not check that it answers. `{issuer}` in it stands
//!   for the key identifier: `http://broker.example/crl/{issuer}` names the list of its issuer, before and after another CA has taken over.
//! - The CA certificate must admit it (keyUsage with cRLSign, or none): with one of yours that does not, there is no list.
//!
//! A million revoked certificates make a list of 50 MB, which is built beside everything else; a flood of revocations takes at most a
//! tenth of the time of one core for lists.
//!
//! ```sh
//! portcullis ca crl > ca.crl
//! openssl verify -crl_check -CAfile certs/ca.pem -CRLfile ca.crl pump-7.pem
//! ```
