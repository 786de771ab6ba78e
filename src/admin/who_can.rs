//! `/api/who-can`: the users who may, and the rules that say so.

use axum::extract::Json;

use super::api::{AbleUser, Action, WhoCan, WhoCanQuestion};
use super::caller::Caller;
use super::explain::rules;
use super::extract::Ask;
use super::problem::{Kind, Problem};
use super::{Answer, Shared, blocking};
use crate::mqtt::TopicName;
use crate::session::RegistryOperation;

pub(super) async fn who_can(state: Shared, _: Caller, Ask(question): Ask<WhoCanQuestion>) -> Answer<Json<WhoCan>> {
    let WhoCanQuestion { action, topic, limit } = question;
    let name = TopicName::try_from(topic.as_str())
        .map_err(|error| Problem::new(Kind::Invalid, format!("the topic `{topic}`: {error}")))?;
    let writes = match action {
        Action::Publish => true,
        Action::Receive => false,
        Action::Subscribe | Action::Http => {
            return Err(Problem::new(Kind::Invalid, "ask who can `publish` or `receive` a topic"));
        }
    };
    // Every user may have to be looked at.
    let policy = state.directory.policy();
    let too_deep = writes && name.levels().nth(state.session.topic_levels).is_some();
    let administers = matches!(RegistryOperation::of(&name), Some(RegistryOperation::Admin(_)));
    let able = blocking(move || {
        Ok(match writes {
            true if too_deep => Vec::new(),
            true if administers => policy.who_can_administer(&name),
            true => policy.who_can_publish(&name),
            false => policy.who_can_receive(&name),
        })
    });
    let able = able.await?;
    let count = able.len();
    let users = able.into_iter().take(limit.unwrap_or(usize::MAX)).map(|able| AbleUser {
        username: able.user.username.clone(),
        client_id: able.client_id.map(|client_id| client_id.to_string()),
        max_qos: able.decision.max_qos as u8,
        retain: writes.then_some(able.decision.retain),
        rules: rules(able.decision.rules),
    });
    Ok(Json(WhoCan { action, topic, count, users: users.collect() }))
}
