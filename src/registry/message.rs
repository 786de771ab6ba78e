//! What a device says: the JSON or CBOR of `register`, checked field by field.
//!
//! Entering: bytes of anybody, at most 16 KiB. Leaving: a [`RegisterMessage`] whose parts are all of their types, or a
//! [`MessageError`] with a stable word and a sentence. Never: a secret or a whole payload in an error.

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::format::Format;
use super::token::TokenDigest;
use crate::access::{Permission, RoleName, Username};
use crate::pki::{CsrError, PairingCode, PeerCertificate, VerifiedCsr, base64};

/// Largest payload of a registry operation, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// Largest `context`, in bytes of compact JSON.
pub const MAX_CONTEXT: usize = 4 * 1024;

/// Most lists and objects around any value of `context`. What the registry says of a request has it further in: it must stay far
/// from the 128 levels at which readers of JSON give up.
pub(super) const MAX_CONTEXT_DEPTH: usize = 16;

/// Most roles, and most permissions, that a device may ask for.
pub const MAX_WISHES: usize = 32;

/// Longest `id` that is echoed, in bytes of JSON.
pub const MAX_ID: usize = 128;

/// A registration, checked.
pub(super) struct RegisterMessage {
    pub(super) username: Username,
    pub(super) password: Option<SecretString>,
    /// The pairing code that belongs to the password, at door 2.
    pub(super) code: Option<PairingCode>,
    /// The text and what it proves.
    pub(super) csr: Option<(String, VerifiedCsr)>,
    pub(super) context: Option<Value>,
    pub(super) roles: Vec<RoleName>,
    pub(super) permissions: Vec<Permission>,
    /// Of the claim token that came along.
    pub(super) token: Option<TokenDigest>,
    /// To echo: a string or a number.
    pub(super) id: Option<Value>,
}

/// What the old key signs for a renewal in grace: this, then the nonce as it was given, then SHA-256 of the CSR in DER.
const RENEW_DOMAIN: &[u8] = b"portcullis-renew-v1";

/// A renewal, checked.
pub(super) struct RenewMessage {
    pub(super) csr: VerifiedCsr,
    pub(super) lapsed: Option<LapsedProof>,
    /// To echo.
    pub(super) id: Option<Value>,
}

/// A certificate whose private key has signed this nonce and the CSR that it comes with. Only the check makes one.
pub(super) struct LapsedProof {
    certificate: PeerCertificate,
    username: Username,
    nonce: Option<String>,
}

impl LapsedProof {
    /// Whom it names.
    pub(super) fn username(&self) -> &Username {
        &self.username
    }

    /// What it is found by.
    pub(super) fn fingerprint(&self) -> &str {
        self.certificate.fingerprint()
    }

    /// What was signed; whether it is a good one is not known yet.
    pub(super) fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }

    fn verify(
        certificate: &str,
        signature: &str,
        nonce: Option<String>,
        csr: &VerifiedCsr,
    ) -> Result<Self, MessageError> {
        let certificate = PeerCertificate::from_pem(certificate.as_bytes()).map_err(|_| MessageError::Certificate)?;
        let key = certificate.key().ok_or(MessageError::Certificate)?;
        // Of what this broker has issued, whatever `ca.identity` says. It finds the record, and that says whose the certificate is.
        let username = certificate.common_name().map_err(|_| MessageError::Certificate)?.clone();
        let mut message = RENEW_DOMAIN.to_vec();
        message.extend_from_slice(nonce.as_deref().unwrap_or_default().as_bytes());
        message.extend_from_slice(csr.digest());
        let signature = base64(signature).ok_or(MessageError::Signature)?;
        if key.has_signed(&message, &signature) {
            Ok(Self { certificate, username, nonce })
        } else {
            Err(MessageError::Signature)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenewWire {
    csr: String,
    certificate: Option<String>,
    signature: Option<String>,
    nonce: Option<String>,
    id: Option<Value>,
}

impl RenewMessage {
    /// Reads a message. An error comes with the `id` to echo, where one could be found.
    pub(super) fn parse(payload: &[u8], content_type: Option<&str>) -> Result<Self, (MessageError, Option<Value>)> {
        let wire: RenewWire = parse(payload, content_type)?;
        let id = echo(wire.id).map_err(|error| (error, None))?;
        let refuse = |error| (error, id.clone());
        let csr = VerifiedCsr::from_pem(wire.csr.as_bytes()).map_err(|error| refuse(error.into()))?;
        let lapsed = match (wire.certificate, wire.signature) {
            (None, None) => None,
            (Some(certificate), Some(signature)) => {
                Some(LapsedProof::verify(&certificate, &signature, wire.nonce, &csr).map_err(refuse)?)
            }
            _ => return Err(refuse(MessageError::HalfProof)),
        };
        Ok(Self { csr, lapsed, id })
    }
}

/// Why a message is refused. The fault is the client's, always.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum MessageError {
    #[error("the message has {0} bytes; send at most 16384")]
    TooLarge(usize),
    #[error("the message is not the {0} of this operation: {1}")]
    Malformed(Format, String),
    #[error("`id` must be a string or a number of at most 128 bytes")]
    Id,
    #[error("`username` is no username: {0}")]
    Username(crate::access::NameError),
    #[error("the username `{0}` is reserved; choose another one")]
    Reserved(Username),
    #[error("give a `csr` or a `password`, or both")]
    NoProof,
    #[error("{0}")]
    Csr(#[from] CsrError),
    #[error("the common name (CN) of the CSR is `{0}`, which is not the `username`; make them equal")]
    CommonName(Username),
    #[error("give `certificate` and `signature`, or neither of them")]
    HalfProof,
    #[error("`certificate` is not the PEM of one certificate with a username and an admitted key")]
    Certificate,
    #[error(
        "`signature` is not the base64 of a signature by the key of `certificate` over `portcullis-renew-v1`, the `nonce` and the SHA-256 of the CSR in DER"
    )]
    Signature,
    #[error("`context` has {0} bytes; send at most 4096")]
    Context(usize),
    #[error("`context` is nested more than 16 levels deep; send a flatter one")]
    ContextDepth,
    #[error("`{0}` has more than 32 entries; ask for less")]
    Wishes(&'static str),
    #[error("the content type `{0}` is not known here; send `application/json` or `application/cbor`")]
    ContentType(String),
}

impl MessageError {
    /// HTTP's number.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::TooLarge(_) | Self::Context(_) | Self::Csr(CsrError::TooLarge(_)) => 413,
            _ => 400,
        }
    }

    /// A stable word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Context(_) => "too_large",
            Self::Malformed(..) | Self::Id | Self::Wishes(_) | Self::ContextDepth => "malformed",
            Self::Username(_) => "username",
            Self::Reserved(_) => "username_reserved",
            Self::NoProof | Self::HalfProof => "no_proof",
            Self::Certificate => "certificate",
            Self::Signature => "signature",
            Self::Csr(error) => error.word(),
            Self::CommonName(_) => "common_name",
            Self::ContentType(_) => "unsupported",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    username: String,
    password: Option<SecretText>,
    csr: Option<String>,
    context: Option<Value>,
    roles: Option<Vec<RoleName>>,
    permissions: Option<Vec<Permission>>,
    token: Option<SecretText>,
    id: Option<Value>,
}

/// A registration of which everything is checked that costs next to nothing.
pub(super) struct RegisterDraft {
    username: Username,
    password: Option<SecretString>,
    csr: Option<String>,
    context: Option<Value>,
    roles: Vec<RoleName>,
    permissions: Vec<Permission>,
    token: Option<TokenDigest>,
    id: Option<Value>,
}

/// Goes from the parser into a [`SecretString`], which wipes it.
#[derive(Deserialize)]
#[serde(from = "String")]
struct SecretText(SecretString);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl RegisterMessage {
    /// What a CONNECT with a name and a password says.
    pub(super) fn of_password(username: Username, password: SecretString, code: PairingCode) -> Self {
        Self {
            username,
            password: Some(password),
            code: Some(code),
            csr: None,
            context: None,
            roles: Vec::new(),
            permissions: Vec::new(),
            token: None,
            id: None,
        }
    }

    /// Reads a message, whatever that costs.
    #[cfg(test)]
    fn parse(payload: &[u8], content_type: Option<&str>) -> Result<Self, (MessageError, Option<Value>)> {
        RegisterDraft::read(payload, content_type)?.verify()
    }
}

impl RegisterDraft {
    /// Reads a message. An error comes with the `id` to echo, where one could be found.
    pub(super) fn read(payload: &[u8], content_type: Option<&str>) -> Result<Self, (MessageError, Option<Value>)> {
        let wire: Wire = parse(payload, content_type)?;
        let id = echo(wire.id).map_err(|error| (error, None))?;
        let refuse = |error| (error, id.clone());
        let username: Username = wire.username.parse().map_err(|error| refuse(MessageError::Username(error)))?;
        if username.is_reserved() {
            return Err(refuse(MessageError::Reserved(username)));
        }
        let context_size = wire.context.as_ref().map_or(0, |context| context.to_string().len());
        if context_size > MAX_CONTEXT {
            return Err(refuse(MessageError::Context(context_size)));
        }
        if wire.context.as_ref().is_some_and(|context| is_deeper(context, MAX_CONTEXT_DEPTH)) {
            return Err(refuse(MessageError::ContextDepth));
        }
        let roles = wire.roles.unwrap_or_default();
        let permissions = wire.permissions.unwrap_or_default();
        for (name, count) in [("roles", roles.len()), ("permissions", permissions.len())] {
            if count > MAX_WISHES {
                return Err(refuse(MessageError::Wishes(name)));
            }
        }
        if wire.csr.is_none() && wire.password.is_none() {
            return Err(refuse(MessageError::NoProof));
        }
        let password = wire.password.map(|password| password.0);
        let token = wire.token.map(|token| TokenDigest::of(token.0.expose_secret()));
        Ok(Self { username, password, csr: wire.csr, context: wire.context, roles, permissions, token, id })
    }

    /// Does it take argon2?
    pub(super) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// To echo.
    pub(super) fn id(&self) -> Option<Value> {
        self.id.clone()
    }

    /// Verifies the CSR, which costs.
    pub(super) fn verify(self) -> Result<RegisterMessage, (MessageError, Option<Value>)> {
        let Self { username, password, csr, context, roles, permissions, token, id } = self;
        let refuse = |error| (error, id.clone());
        let csr = match csr {
            None => None,
            Some(text) => {
                let verified = VerifiedCsr::from_pem(text.as_bytes()).map_err(|error| refuse(error.into()))?;
                if *verified.username() != username {
                    return Err(refuse(MessageError::CommonName(verified.username().clone())));
                }
                Some((text, verified))
            }
        };
        Ok(RegisterMessage { username, password, code: None, csr, context, roles, permissions, token, id })
    }
}

/// Does the value hold something within more than so many lists and objects? It is not looked at any further in.
pub(super) fn is_deeper(value: &Value, levels: usize) -> bool {
    let below = |inner: &Value| levels == 0 || is_deeper(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(below),
        Value::Object(members) => levels == 0 || members.values().any(below),
        _ => false,
    }
}

/// The only field of `whoami` and `ca`, whose payload may be empty too.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    id: Option<Value>,
}

/// Reads the message of an operation without parameters: the `id` to echo.
pub(super) fn parse_question(
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<Option<Value>, (MessageError, Option<Value>)> {
    if payload.is_empty() {
        return Ok(None);
    }
    echo(parse::<Question>(payload, content_type)?.id).map_err(|error| (error, None))
}

pub(super) fn parse<T: DeserializeOwned>(
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<T, (MessageError, Option<Value>)> {
    if payload.len() > MAX_PAYLOAD {
        return Err((MessageError::TooLarge(payload.len()), None));
    }
    let Some(format) = Format::of(content_type) else {
        let text = content_type.unwrap_or_default().chars().take(80).collect();
        return Err((MessageError::ContentType(text), find_id(payload, Format::Json)));
    };
    format.read(payload).map_err(|why| {
        // It may quote what was sent: not all of it is needed.
        (MessageError::Malformed(format, why.chars().take(200).collect()), find_id(payload, format))
    })
}

pub(super) fn echo(id: Option<Value>) -> Result<Option<Value>, MessageError> {
    match id {
        None | Some(Value::Null) => Ok(None),
        Some(id @ (Value::String(_) | Value::Number(_))) if id.to_string().len() <= MAX_ID => Ok(Some(id)),
        Some(_) => Err(MessageError::Id),
    }
}

/// The `id` of a message that is otherwise wrong, so that its sender knows which one was refused.
fn find_id(payload: &[u8], format: Format) -> Option<Value> {
    let value: Value = format.read(payload).ok()?;
    echo(value.get("id").cloned()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const CSR: &str = include_str!("../pki/testdata/p256.csr.pem");

    fn refusal(message: &Value) -> MessageError {
        match RegisterMessage::parse(message.to_string().as_bytes(), None) {
            Ok(_) => panic!("admitted: {message}"),
            Err((error, _)) => error,
        }
    }

    #[test]
    fn a_message_with_every_field_is_read() {
        let message = json!({
            "username": "press-7", "csr": CSR, "password": "long enough it is", "context": {"line": 3},
            "roles": ["sensor"], "permissions": [{"context": "mqtt", "operation": "readWrite", "resource": "a/#"}],
            "token": "0123", "id": 17,
        });
        let read = RegisterMessage::parse(message.to_string().as_bytes(), Some("application/json; charset=utf-8"));
        let Ok(read) = read else { panic!("refused") };
        assert_eq!((read.username.as_str(), read.id), ("press-7", Some(json!(17))));
        assert!(read.csr.is_some() && read.password.is_some());
        assert_eq!(read.token, Some(TokenDigest::of("o-i23")));
    }

    #[test]
    fn an_unknown_field_is_refused_by_name_and_the_id_is_still_echoed() {
        let message = json!({"username": "press-7", "csr": CSR, "usrname": 1, "id": "a"}).to_string();
        let Err((error, id)) = RegisterMessage::parse(message.as_bytes(), None) else { panic!("admitted") };
        assert!(error.to_string().contains("`usrname`"), "{error}");
        assert_eq!((error.status(), error.word(), id), (400, "malformed", Some(json!("a"))));
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_word() {
        let base = json!({"username": "press-7", "csr": CSR});
        let with = |field: &str, value: Value| {
            let mut message = base.clone();
            message[field] = value;
            let error = refusal(&message);
            (error.status(), error.word())
        };
        assert_eq!(with("username", json!("a/b")), (400, "username"));
        assert_eq!(with("username", json!("Admin")), (400, "username_reserved"));
        assert_eq!(with("username", json!("press-8")), (400, "common_name"));
        assert_eq!(with("csr", json!("nothing")), (400, "csr_malformed"));
        assert_eq!(with("csr", json!(null)), (400, "no_proof"));
        assert_eq!(with("context", json!("x".repeat(MAX_CONTEXT))), (413, "too_large"));
        assert_eq!(with("roles", json!(vec!["a"; MAX_WISHES + 1])), (400, "malformed"));
        assert_eq!(with("roles", json!(["a b"])), (400, "malformed"));
        assert_eq!(with("token", json!(7)), (400, "malformed"));
        assert_eq!(with("id", json!({})), (400, "malformed"));
        assert_eq!(with("id", json!("x".repeat(MAX_ID))), (400, "malformed"));
        assert_eq!(refusal(&json!("x".repeat(MAX_PAYLOAD))).status(), 413);
        assert_eq!(refusal(&json!([])).word(), "malformed");
        let twice = br#"{"username": "press-7", "username": "press-8", "password": "x"}"#;
        assert!(RegisterMessage::parse(twice, None).is_err());
        let other = RegisterMessage::parse(br#"{"id": 7}"#, Some("text/xml")).err().unwrap();
        assert_eq!((other.0.status(), other.0.word(), other.1), (400, "unsupported", Some(json!(7))));
        let cbor = RegisterMessage::parse(b"{}", Some("application/cbor")).err().unwrap().0;
        assert!(cbor.to_string().starts_with("the message is not the CBOR of this operation: "), "{cbor}");
        assert_eq!((cbor.status(), cbor.word()), (400, "malformed"));
    }

    #[test]
    fn a_context_is_as_deep_as_every_reader_can_follow() {
        let nested = |levels: usize| {
            (1..levels).fold(
                json!([]),
                |inner, level| {
                    if level % 2 == 0 { json!([7, inner]) } else { json!({ "a": inner }) }
                },
            )
        };
        for (format, content_type) in [(Format::Json, "application/json"), (Format::Cbor, "application/cbor")] {
            for (levels, admitted) in
                [(1, true), (MAX_CONTEXT_DEPTH, true), (MAX_CONTEXT_DEPTH + 1, false), (60, false)]
            {
                let message = json!({"username": "press-7", "csr": CSR, "context": nested(levels), "id": "a"});
                match RegisterMessage::parse(&format.write(&message), Some(content_type)) {
                    Ok(read) => assert!(admitted && read.context == Some(nested(levels)), "{format}: {levels}"),
                    Err((error, id)) => {
                        assert_eq!((error.status(), error.word(), id), (400, "malformed", Some(json!("a"))));
                        assert!(!admitted && error.to_string().contains("more than 16 levels"), "{format}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn cbor_is_held_to_the_same_fields() {
        let read = |message: &[u8]| RegisterMessage::parse(message, Some("application/cbor"));
        let message = json!({
            "username": "press-7", "csr": CSR, "password": "long enough it is", "context": {"line": 3},
            "roles": ["sensor"], "permissions": [{"context": "mqtt", "operation": "readWrite", "resource": "a/#"}],
            "id": 17,
        });
        let Ok(whole) = read(&Format::Cbor.write(&message)) else { panic!("refused") };
        assert_eq!((whole.username.as_str(), whole.id, whole.roles.len()), ("press-7", Some(json!(17)), 1));
        assert!(whole.csr.is_some() && whole.password.is_some() && whole.context == Some(json!({"line": 3})));
        let odd = Format::Cbor.write(&json!({"username": "press-7", "csr": CSR, "usrname": 1, "id": "a"}));
        let Err((error, id)) = read(&odd) else { panic!("admitted") };
        assert!(error.to_string().contains("`usrname`"), "{error}");
        assert_eq!((error.word(), id), ("malformed", Some(json!("a"))));
        let twice = b"\xa3\x68username\x67press-7\x68username\x67press-8\x68password\x61x";
        assert!(read(twice).is_err());
    }

    proptest! {
        #[test]
        fn broken_cbor_never_panics(at in 0_usize..60, byte in any::<u8>(), cut in 0_usize..80) {
            let message = json!({"username": "press-7", "password": "x", "context": [1, {"a": [null, 0.5]}], "id": "a"});
            let mut bytes = Format::Cbor.write(&message);
            if let Some(it) = bytes.get_mut(at) {
                *it = byte;
            }
            bytes.truncate(cut);
            let _ = RegisterMessage::parse(&bytes, Some("application/cbor"));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for content_type in [None, Some("application/cbor")] {
                let _ = RegisterMessage::parse(&bytes, content_type);
                let _ = RenewMessage::parse(&bytes, content_type);
                let _ = parse_question(&bytes, content_type);
            }
        }
    }
}
