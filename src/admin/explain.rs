//! `/api/explain`: asks the very code that enforces, and says its reasons.

use axum::extract::Json;
use jiff::Timestamp;

use super::api::{Action, DecidingRule, Explain, Explanation};
use super::caller::Caller;
use super::extract::Body;
use super::problem::{Kind, Problem};
use super::{Answer, Shared, blocking};
use crate::access::{Auth, Authority, Decision, Effect, Permission, RoleName, SubscribeVerdict, User, Verdict};
use crate::mqtt::{ClientId, QoS, TopicFilter, TopicName};
use crate::session::{
    AdminOperation, PartialSubscription, RegistryOperation, Settings, is_admin_answer_filter, is_answer_filter,
    routed_topic,
};

const RESERVED: &str =
    "no client may publish to a `$` topic but for the operations of the registry, whatever the rules";

pub(super) async fn explain(
    state: Shared,
    Caller(actor): Caller,
    Body(mut question): Body<Explain>,
) -> Answer<Json<Explanation>> {
    let invalid = |detail: String| Problem::new(Kind::Invalid, detail);
    if question.qos > 2 {
        return Err(invalid(format!("`qos` is 0, 1 or 2, not {}", question.qos)));
    }
    let policy = match question.with.take() {
        None => state.directory.policy(),
        Some(document) => {
            let directory = std::sync::Arc::clone(&state.directory);
            blocking(move || Ok(directory.preview(|policy| document.plan(policy), &actor)?.change.new)).await?
        }
    };
    let user = policy.user_named(&question.username);
    let user = user.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no user `{}`", question.username)))?;
    if question.action == Action::Http {
        let now = state.clock.timestamp();
        return http(&question, user, policy.authority_without_client(user.id), now).map(Json);
    }
    let client_id = question.client_id.as_deref().unwrap_or(user.username.as_str());
    if client_id.is_empty() {
        return Err(invalid("name a client identifier: for an empty one the broker draws another".to_owned()));
    }
    let client_id =
        ClientId::try_from(client_id).map_err(|error| invalid(format!("the client identifier: {error}")))?;
    let wrong_topic = |error| invalid(format!("the topic `{}`: {error}", question.topic));
    let Some(authority) = policy.authority(user.id, &client_id) else {
        return Ok(Json(refused(&question, unable(user, &client_id, state.clock.timestamp()))));
    };
    let answer = match question.action {
        Action::Publish => {
            let topic = TopicName::try_from(question.topic.as_str()).map_err(wrong_topic)?;
            match RegistryOperation::of(&topic) {
                Some(RegistryOperation::Admin(_)) if user.auth == Auth::None => refused(
                    &question,
                    format!("`{}` proves nothing, so anybody can be it: it decides nothing", user.username),
                ),
                Some(RegistryOperation::Admin(_)) => publish(&question, &topic, authority.explain_administer(&topic)),
                Some(_) => {
                    open(&question, format!("every session may publish to `{topic}`, an operation of the registry"))
                }
                None if topic.is_reserved() => refused(&question, RESERVED.to_owned()),
                None => match routed_topic(&topic, &authority, &state.session) {
                    Ok(topic) => publish(&question, &topic, authority.explain_publish(&topic)),
                    Err(topic) => too_long(&question, topic.as_str(), &state.session),
                },
            }
        }
        Action::Receive => {
            let topic = TopicName::try_from(question.topic.as_str()).map_err(wrong_topic)?;
            if let Some(operation) = AdminOperation::answered_on(&topic) {
                let decision = authority.explain_administer(&operation.topic());
                let who_asks = format!("the registry answers there whoever may publish to `{}`", operation.topic());
                match decision.verdict {
                    Verdict::Allow => Explanation { rules: rules(decision.rules), ..open(&question, who_asks) },
                    Verdict::Deny => Explanation { rules: rules(decision.rules), ..refused(&question, who_asks) },
                }
            } else if TopicFilter::try_from(topic.as_str()).is_ok_and(|filter| is_answer_filter(&filter)) {
                open(&question, "the registry answers whoever asks it".to_owned())
            } else {
                receive(&question, authority.explain_receive(&topic))
            }
        }
        Action::Subscribe => {
            let filter = TopicFilter::try_from(question.topic.as_str()).map_err(wrong_topic)?;
            // In the order in which a session looks at it.
            if filter.as_str().starts_with("$share/") {
                refused(&question, "shared subscriptions are not available in this version".to_owned())
            } else if filter.levels().nth(state.session.topic_levels).is_some() {
                too_long(&question, filter.as_str(), &state.session)
            } else if is_answer_filter(&filter) {
                open(&question, format!("every session may subscribe to `{filter}`, for the registry's answers"))
            } else if is_admin_answer_filter(&filter) {
                open(&question, format!("every user may subscribe to `{filter}`, for the registry's answers to itself"))
            } else {
                subscribe(&question, &authority, &filter, state.session.partial_subscription)
            }
        }
        // Answered above: a request has no client identifier.
        Action::Http => refused(&question, String::new()),
    };
    Ok(Json(answer))
}

/// What no rule can allow.
fn too_long(question: &Explain, topic: &str, settings: &Settings) -> Explanation {
    let levels = settings.topic_levels;
    let reason =
        format!("more than {levels} levels (`limits.topic_levels`), or with its publish prefix more than 65,535 bytes");
    Explanation { topic: topic.to_owned(), ..refused(question, reason) }
}

/// Why a user has no authority at all.
fn unable(user: &User, client_id: &ClientId, now: Timestamp) -> String {
    if user.enabled && user.expires_at.is_none_or(|end| end > now) {
        format!("`{}` may not connect with the client identifier `{client_id}`", user.username)
    } else {
        unable_at_all(user, now)
    }
}

fn unable_at_all(user: &User, now: Timestamp) -> String {
    match user.expires_at.filter(|end| user.enabled && *end <= now) {
        Some(end) => format!("`{}` has expired at {end}", user.username),
        None => format!("`{}` is disabled", user.username),
    }
}

fn publish(question: &Explain, topic: &TopicName, decision: Decision) -> Explanation {
    let who = &question.username;
    let allowed = decision.verdict == Verdict::Allow;
    let too_high = allowed && question.qos > decision.max_qos as u8;
    let no_retain = allowed && question.retain && !decision.retain;
    let reason = if !allowed {
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

/// A request of this API: its path is judged by its segments, as the server splits it.
fn http(question: &Explain, user: &User, authority: Option<Authority>, now: Timestamp) -> Answer<Explanation> {
    let invalid = |detail: String| Problem::new(Kind::Invalid, detail);
    let method = question.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(invalid(format!("`{method}` is no method: write GET, POST, PUT, PATCH or DELETE")));
    }
    let path = &question.topic;
    let segments: Vec<&str> = match path.strip_prefix('/') {
        None => return Err(invalid(format!("the path `{path}` does not begin with `/`"))),
        Some("") => Vec::new(),
        Some(path) => path.split('/').collect(),
    };
    if path.contains(['%', '?']) || segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
        return Err(invalid(format!("write the path `{path}` plainly: no `%`, no query, no empty segment or dots")));
    }
    let Some(authority) = authority else {
        return Ok(refused(question, unable_at_all(user, now)));
    };
    let write = !matches!(&*method, "GET" | "HEAD");
    let decision = authority.explain_http(write, &segments);
    let allowed = decision.verdict == Verdict::Allow;
    let reason = if allowed {
        format!("`{}` may {method} `{path}`", question.username)
    } else {
        denied(&decision.rules, &format!("{method} `{path}`"))
    };
    Ok(Explanation { allowed, reason, rules: rules(decision.rules), ..refused(question, String::new()) })
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

fn subscribe(
    question: &Explain,
    authority: &Authority,
    filter: &TopicFilter,
    partial: PartialSubscription,
) -> Explanation {
    let decision = authority.explain_subscribe(filter);
    let who = &question.username;
    let granted = |max_qos: QoS, checked: bool| {
        let lower =
            if question.qos > max_qos as u8 { format!(", with QoS {} at most", max_qos as u8) } else { String::new() };
        let (allows, denies): (Vec<_>, Vec<_>) =
            decision.rules.iter().partition(|(_, rule)| rule.effect == Effect::Allow);
        let part = match (decision.verdict, allows.len(), denies.len()) {
            (SubscribeVerdict::Partial { .. }, ..) => ", and is sent the topics that rules allow",
            (_, _, 1..) => ", but is not sent the topics that rules deny",
            _ => "",
        };
        (true, format!("`{who}` may subscribe to `{filter}`{lower}{part}"), Some(max_qos as u8), checked)
    };
    let (allowed, reason, max_qos, checked_at_delivery) = match decision.verdict {
        SubscribeVerdict::Granted { max_qos, unconditional } => granted(max_qos, !unconditional),
        SubscribeVerdict::Partial { max_qos } if partial == PartialSubscription::Filter => granted(max_qos, true),
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

pub(super) fn rules(rules: Vec<(Option<RoleName>, Permission)>) -> Vec<DecidingRule> {
    rules.into_iter().map(|(role, permission)| DecidingRule { role, permission }).collect()
}
