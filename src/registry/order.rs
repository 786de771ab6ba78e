//! What operators order over MQTT: each message to `$registry/admin/<operation>` comes to the function that the REST API calls.
//!
//! Entering: messages of users whose rules admit the operation, and who they are. Leaving: an [`Answer`] whose `result` is what the API
//! would answer. The fields are those of the API's bodies and queries, with what it takes from the path beside them. Never: a list without
//! a bound, the same field twice, a decision here.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use super::answer::Answer;
use super::format::Format;
use super::message::{MessageError, echo, parse};
use super::operator::{RegistryError, RequestFilter};
use super::service::Registry;
use super::token::TokenCreated;
use crate::access::Username;
use crate::directory::Actor;
use crate::session::AdminOperation;

/// The most of a list in one answer.
pub const MAX_ANSWERED: usize = 32;

impl Registry {
    /// `$registry/admin/<operation>`, in the name of `actor`, which may ask for it.
    pub async fn order(
        &self,
        operation: AdminOperation,
        payload: &[u8],
        content_type: Option<&str>,
        actor: Actor,
    ) -> Answer {
        let limited = actor.user().map_or(Ok(()), |(user, _)| self.limit_user(user));
        let fields = limited.and_then(|()| Ok(Fields::read(payload, content_type)?));
        let answer = match fields {
            Ok((fields, id)) => {
                self.carry(operation, fields, actor).await.unwrap_or_else(|refused| *refused).with_id(id)
            }
            Err(refused) => *refused,
        };
        self.count(&answer);
        answer
    }

    async fn carry(&self, operation: AdminOperation, mut fields: Fields, actor: Actor) -> Result<Answer, Box<Answer>> {
        Ok(match operation {
            AdminOperation::List => {
                let RequestFilter { state, after, limit } = fields.rest()?;
                done(200, &self.page(state, after, at_most(limit)?).await?)
            }
            AdminOperation::Show => done(200, &self.show(fields.only("request")?).await?),
            AdminOperation::Grant => {
                let request = fields.take("request")?;
                done(200, &self.grant(request, fields.rest()?, actor).await?)
            }
            AdminOperation::Deny => {
                let request = fields.take("request")?;
                done(200, &self.deny(request, fields.rest()?, actor).await?)
            }
            AdminOperation::Unlock => done(200, &self.unlock(fields.rest()?, actor).await?),
            AdminOperation::Lock => {
                fields.none()?;
                done(200, &self.lock(actor).await?)
            }
            AdminOperation::Status => {
                fields.none()?;
                done(200, &self.status().await?)
            }
            AdminOperation::Replace => {
                let username = fields.take("username")?;
                done(200, &self.replace(username, fields.rest()?, actor).await?)
            }
            AdminOperation::ReplaceCancel => {
                self.cancel_replacement(fields.only("username")?, actor).await?;
                Answer::new(204, "ok")
            }
            AdminOperation::Replacements => {
                let window: Window<Username> = fields.rest()?;
                done(200, &window.of(self.replacements().await?, |opening| &opening.username)?)
            }
            AdminOperation::TokenCreate => {
                let (token, view) = self.create_token(fields.rest()?, actor).await?;
                done(201, &TokenCreated { token, view })
            }
            AdminOperation::TokenList => {
                let window: Window<_> = fields.rest()?;
                done(200, &window.of(self.tokens().await?, |token| &token.id)?)
            }
            AdminOperation::TokenShow => done(200, &self.token(fields.only("token")?).await?),
            AdminOperation::TokenRevoke => {
                self.revoke_token(fields.only("token")?, actor).await?;
                Answer::new(204, "ok")
            }
        })
    }
}

/// What was asked for, as the API would answer it. It may hold the secret of a token that was just made: shown to nobody else.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Told(Value);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told(..)")
    }
}

fn done(status: u16, result: &impl Serialize) -> Answer {
    match serde_json::to_value(result) {
        Ok(value) => Answer { result: Some(Told(value)), ..Answer::new(status, "ok") },
        // INVARIANT: what the API answers has a JSON form.
        Err(_) => Answer::failed(),
    }
}

impl From<RegistryError> for Box<Answer> {
    fn from(error: RegistryError) -> Self {
        let (status, state, word) = error.kind().words();
        Self::new(Answer::error(status, state, word, error.told()))
    }
}

impl From<MessageError> for Box<Answer> {
    fn from(error: MessageError) -> Self {
        (error, None).into()
    }
}

/// The part of a list that is asked for. Keys are in order, and those of its things.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window<K> {
    after: Option<K>,
    limit: Option<usize>,
}

/// Some of a list, as a page of requests is.
#[derive(Serialize)]
struct Part<T, K> {
    items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<K>,
}

impl<K: Ord + Clone> Window<K> {
    fn of<T>(&self, items: Vec<T>, key: impl Fn(&T) -> &K) -> Result<Part<T, K>, Box<Answer>> {
        let limit = at_most(self.limit)?;
        let mut wanted = items.into_iter().filter(|item| self.after.as_ref().is_none_or(|after| key(item) > after));
        let items: Vec<T> = wanted.by_ref().take(limit).collect();
        let next = wanted.next().and_then(|_| items.last()).map(|last| key(last).clone());
        Ok(Part { items, next })
    }
}

fn at_most(limit: Option<usize>) -> Result<usize, RegistryError> {
    let limit = limit.unwrap_or(MAX_ANSWERED);
    let fits = (1..=MAX_ANSWERED).contains(&limit);
    if fits { Ok(limit) } else { Err(RegistryError::Invalid("`limit` is 1 to 32")) }
}

/// The fields of a message, without its `id`.
struct Fields {
    format: Format,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields, none in an empty message, and the `id` to echo.
    fn read(
        payload: &[u8],
        content_type: Option<&str>,
    ) -> Result<(Self, Option<Value>), (MessageError, Option<Value>)> {
        let format = Format::of(content_type).unwrap_or_default();
        if payload.is_empty() {
            return Ok((Self { format, left: Map::new() }, None));
        }
        let Object(mut left) = parse(payload, content_type)?;
        let id = echo(left.remove("id")).map_err(|error| (error, None))?;
        Ok((Self { format, left }, id))
    }

    fn wrong(&self, why: &str) -> MessageError {
        MessageError::Malformed(self.format, why.chars().take(200).collect())
    }

    /// What the API takes from the path.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, MessageError> {
        let value = self.left.remove(name).ok_or_else(|| self.wrong(&format!("missing field `{name}`")))?;
        serde_json::from_value(value).map_err(|error| self.wrong(&format!("`{name}`: {error}")))
    }

    /// The same, with nothing beside it.
    fn only<T: DeserializeOwned>(mut self, name: &str) -> Result<T, MessageError> {
        let value = self.take(name)?;
        self.none()?;
        Ok(value)
    }

    /// What the API takes from the body or the query.
    fn rest<T: DeserializeOwned>(&mut self) -> Result<T, MessageError> {
        let left = std::mem::take(&mut self.left);
        serde_json::from_value(Value::Object(left)).map_err(|error| self.wrong(&error.to_string()))
    }

    fn none(mut self) -> Result<(), MessageError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        self.rest().map(|Nothing {}| ())
    }
}

/// An object no object of which has the same field twice: there would be two messages in one.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Once::deserialize(deserializer)?.0 {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(D::Error::custom("it is no object")),
        }
    }
}

/// A value in which that holds.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON can hold")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Once(value))) = entries.next_entry::<String, Once>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Map<String, Value>, String> {
        Fields::read(bytes, content_type).map(|(fields, _)| fields.left).map_err(|(error, _)| error.to_string())
    }

    #[test]
    fn a_field_that_comes_twice_is_refused_at_any_depth() {
        for twice in [r#"{"a": 1, "a": 1}"#, r#"{"a": {"b": 1, "b": 2}}"#, r#"{"a": [{"b": [{"c": 1, "c": 1}]}]}"#] {
            assert!(read(twice.as_bytes(), None).unwrap_err().contains("duplicate field"), "{twice}");
        }
        let apart = json!({"a": {"a": {"a": [1, -1, 0.5, true, null, "x"]}}, "b": u64::MAX, "c": i64::MIN});
        for format in [Format::Json, Format::Cbor] {
            let same = read(&format.write(&apart), Some(format.media_type()));
            assert_eq!(same.map(Value::Object), Ok(apart.clone()), "{format}");
        }
        assert_eq!(read(b"", None), Ok(Map::new()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for content_type in [None, Some("application/cbor")] {
                let _ = read(&bytes, content_type);
            }
        }
    }
}
