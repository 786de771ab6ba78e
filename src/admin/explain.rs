//! `/api/explain`: asks the very code that enforces, and says its reasons.

use axum::extract::Json;
use jiff::Timestamp;

use super::api::{Action, DecidingRule, Explain, Explanation};
use super::extract::Body;
use super::problem::{Kind, Problem};
use super::server::Caller;
use super::{Answer, Shared};
use crate::access::{Authority, Decision, Permission, RoleName, SubscribeVerdict, User, Verdict};
use crate::mqtt::{ClientId, QoS, TopicFilter, TopicName};
use crate::session::{RegistryOperation, is_answer_filter};

pub(super) async fn explain(state: Shared, _: Caller, Body(question): Body<Explain>) -> Answer<Json<Explanation>> {
    let invalid = |detail: String| Problem::new(Kind::Invalid, detail);
    if question.qos > 2 {
        return Err(invalid(format!("`qos` is 0, 1 or 2, not {}", question.qos)));
    }
    let policy = state.directory.policy();
    let user = policy.user_named(&question.username);
    let user = user.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no user `{}`", question.username)))?;
    let client_id = question.client_id.as_deref().unwrap_or(user.username.as_str());
    let client_id =
        ClientId::try_from(client_id).map_err(|error| invalid(format!("the client identifier: {error}")))?;
    let wrong_topic = |error| invalid(format!("the topic `{}`: {error}", question.topic));
    let Some(authority) = policy.authority(user.id, &client_id) else {
        return Ok(Json(refused(&question, unable(user, &client_id, state.clock.timestamp()))));
    };
    let answer = match question.action {
        Action::Publish => {
            let topic = prefixed(&authority, &question.topic);
            let topic = TopicName::try_from(topic.as_str()).map_err(wrong_topic)?;
            if RegistryOperation::of(&topic).is_some() {
                open(&question, format!("every session may publish to `{topic}`, an operation of the registry"))
            } else {
                publish(&question, &topic, authority.explain_publish(&topic))
            }
        }
        Action::Receive => {
            let topic = TopicName::try_from(question.topic.as_str()).map_err(wrong_topic)?;
            if TopicFilter::try_from(topic.as_str()).is_ok_and(|filter| is_answer_filter(&filter)) {
                open(&question, "the registry answers whoever asks it".to_owned())
            } else {
                receive(&question, authority.explain_receive(&topic))
            }
        }
        Action::Subscribe => {
            let filter = TopicFilter::try_from(question.topic.as_str()).map_err(wrong_topic)?;
            if is_answer_filter(&filter) {
                open(&question, format!("every session may subscribe to `{filter}`, for the registry's answers"))
            } else if filter.as_str().starts_with("$share/") {
                refused(&question, "shared subscriptions are not available in this version".to_owned())
            } else {
                subscribe(&question, &authority, &filter, state.filter_partial)
            }
        }
    };
    Ok(Json(answer))
}

/// As a PUBLISH of this user would be routed.
fn prefixed(authority: &Authority, topic: &str) -> String {
    match authority.publish_prefix() {
        Some(prefix) if !topic.starts_with('$') => format!("{prefix}{topic}"),
        _ => topic.to_owned(),
    }
}

/// Why a user has no authority at all.
fn unable(user: &User, client_id: &ClientId, now: Timestamp) -> String {
    if !user.enabled {
        format!("`{}` is disabled", user.username)
    } else if let Some(end) = user.expires_at.filter(|end| *end <= now) {
        format!("`{}` has expired at {end}", user.username)
    } else {
        format!("`{}` may not connect with the client identifier `{client_id}`", user.username)
    }
}

fn publish(question: &Explain, topic: &TopicName, decision: Decision) -> Explanation {
    let who = &question.username;
    let allowed = decision.verdict == Verdict::Allow;
    let too_high = allowed && question.qos > decision.max_qos as u8;
    let no_retain = allowed && question.retain && !decision.retain;
    let reason = if topic.as_str().starts_with("$registry/admin/") {
        "the operations of `$registry/admin/` are not available over MQTT in this version, whatever the rules: \
         use `portcullis registry`"
            .to_owned()
    } else if topic.is_reserved() {
        "no client may publish to a `$` topic but for the operations of the registry, whatever the rules".to_owned()
    } else if !allowed {
        denied(&decision.rules, &format!("publish to `{topic}`"))
    } else if too_high {
        format!("`{who}` may publish to `{topic}` with QoS up to {}", decision.max_qos as u8)
    } else if no_retain {
        format!("`{who}` may publish to `{topic}` without RETAIN")
    } else {
        format!("`{who}` may publish to `{topic}`")
    };
    Explanation {
        allowed: allowed && !too_high && !no_retain,
        reason,
        topic: topic.to_string(),
        max_qos: allowed.then_some(decision.max_qos as u8),
        retain: allowed.then_some(decision.retain),
        checked_at_delivery: false,
        rules: rules(decision.rules),
    }
}

fn receive(question: &Explain, decision: Decision) -> Explanation {
    let allowed = decision.verdict == Verdict::Allow;
    let reason = if allowed {
        format!("`{}` may receive `{}`", question.username, question.topic)
    } else {
        denied(&decision.rules, &format!("receive `{}`", question.topic))
    };
    Explanation {
        allowed,
        reason,
        topic: question.topic.clone(),
        max_qos: allowed.then_some(decision.max_qos as u8),
        retain: None,
        checked_at_delivery: false,
        rules: rules(decision.rules),
    }
}

fn subscribe(question: &Explain, authority: &Authority, filter: &TopicFilter, filter_partial: bool) -> Explanation {
    let decision = authority.explain_subscribe(filter);
    let who = &question.username;
    let granted = |max_qos: QoS, checked: bool| {
        let lower =
            if question.qos > max_qos as u8 { format!(", with QoS {} at most", max_qos as u8) } else { String::new() };
        (true, format!("`{who}` may subscribe to `{filter}`{lower}"), Some(max_qos as u8), checked)
    };
    let (allowed, reason, max_qos, checked_at_delivery) = match decision.verdict {
        SubscribeVerdict::Granted { max_qos, unconditional } => granted(max_qos, !unconditional),
        SubscribeVerdict::Partial { max_qos } if filter_partial => granted(max_qos, true),
        SubscribeVerdict::Partial { .. } => {
            let reason = format!(
                "`{who}` may receive a part of `{filter}` only, and `access.partial_subscription` is \"refuse\""
            );
            (false, reason, None, false)
        }
        SubscribeVerdict::Refused => (false, denied(&decision.rules, &format!("subscribe to `{filter}`")), None, false),
    };
    Explanation {
        allowed,
        reason,
        topic: question.topic.clone(),
        max_qos,
        retain: None,
        checked_at_delivery,
        rules: rules(decision.rules),
    }
}

fn denied(rules: &[(Option<RoleName>, Permission)], what: &str) -> String {
    if rules.is_empty() { format!("no rule allows to {what}") } else { format!("a rule denies to {what}") }
}

/// What is open to every session, without a rule.
fn open(question: &Explain, reason: String) -> Explanation {
    Explanation { allowed: true, max_qos: Some(QoS::ExactlyOnce as u8), ..refused(question, reason) }
}

fn refused(question: &Explain, reason: String) -> Explanation {
    Explanation {
        allowed: false,
        reason,
        topic: question.topic.clone(),
        max_qos: None,
        retain: None,
        checked_at_delivery: false,
        rules: Vec::new(),
    }
}

fn rules(rules: Vec<(Option<RoleName>, Permission)>) -> Vec<DecidingRule> {
    rules.into_iter().map(|(role, permission)| DecidingRule { role, permission }).collect()
}
