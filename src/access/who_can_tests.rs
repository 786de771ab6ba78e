//! Who can, against asking everybody.

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

use super::reference::tests::universe;
use super::*;
use crate::mqtt::{ClientId, QoS, TopicName};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn rule() -> impl Strategy<Value = Permission> {
    let resource = select(
        ["a/#", "a/+", "+/b", "a/${username}", "a/${client_id}/#", "${client_id}", "#", "$SYS/#", "p/#", "p/a/+"]
            .as_slice(),
    );
    let operation = select([Operation::Read, Operation::Write, Operation::ReadWrite].as_slice());
    (resource, operation, 0..4_u8, prop::option::of(0..3_u8)).prop_map(|(resource, operation, deny, max_qos)| {
        if deny == 0 {
            Permission::deny(Context::Mqtt, operation, resource)
        } else {
            Permission { max_qos, ..Permission::allow(Context::Mqtt, operation, resource) }
        }
    })
}

/// What the broker would let this user do under this client identifier, as `session` asks for it.
fn may(policy: &Policy, user: &User, client_id: &str, topic: &TopicName, write: bool) -> Option<QoS> {
    let authority = policy.authority(user.id, &ClientId::try_from(client_id).ok()?)?;
    if !write {
        return authority.may_receive(topic);
    }
    let Some(prefix) = authority.publish_prefix().filter(|_| !topic.is_reserved()) else {
        return authority.may_publish(topic).map(|(qos, _)| qos);
    };
    let sent = topic.as_str().strip_prefix(prefix).filter(|sent| !sent.is_empty() && !sent.starts_with('$'))?;
    authority.may_publish(&format!("{prefix}{sent}").as_str().try_into().unwrap()).map(|(qos, _)| qos)
}

proptest! {
    #[test]
    fn who_can_names_just_those_whom_the_broker_lets(
        roles in prop::collection::vec(prop::collection::vec(rule(), 0..3), 2), at in any::<prop::sample::Index>(),
        users in prop::collection::vec((prop::collection::vec(0..2_usize, 0..2), prop::collection::vec(rule(), 0..3), select([None, Some("${username}"), Some("${username}~*"), Some("a*"), Some("b")].as_slice()), select([None, Some("p/")].as_slice()), any::<bool>()), 3),
    ) {
        let names: [RoleName; 2] = ["one", "two"].map(|name| name.parse().unwrap());
        let mut policy = Policy::default();
        for (name, rules) in names.iter().zip(roles) {
            policy = policy.with([(name.clone(), Some(Role::new(name.clone(), rules)))], [], NOW).unwrap();
        }
        for (number, (roles, permissions, client_id, prefix, enabled)) in users.into_iter().enumerate() {
            let id = UserId(Uuid::from_u128(number as u128));
            let mut user = User::new(id, ["bob", "eve", "fresh"][number].parse().unwrap(), NOW);
            (user.roles, user.permissions, user.enabled) = (roles.iter().map(|role| names[*role].clone()).collect(), permissions, enabled);
            (user.client_id, user.publish_prefix) = (client_id.map(str::to_owned), prefix.map(str::to_owned));
            // Rules with `${client_id}` need a user who is tied to its own.
            if let Ok(next) = policy.with([], [(id, Some(user))], NOW) {
                policy = next;
            }
        }
        let mut topics = universe("a");
        topics.extend(["p", "p/a", "p/a/b", "p/$x", "a/eve~x", "bob"].map(str::to_owned));
        let topic: TopicName = at.get(&topics).as_str().try_into().unwrap();
        let client_ids = ["a", "ab", "b", "bob", "eve", "fresh", "bob~", "eve~x", "neutral", "aneutral", "eve~neutral", "bob~neutral", "fresh~neutral"];
        for write in [false, true] {
            let able = if write { policy.who_can_publish(&topic) } else { policy.who_can_receive(&topic) };
            let expected: Vec<_> = policy.users().filter(|user| client_ids.iter().any(|id| may(&policy, user, id, &topic, write).is_some())).map(|user| user.id).collect();
            prop_assert_eq!(able.iter().map(|able| able.user.id).collect::<Vec<_>>(), expected, "{} {}", topic, write);
            for Able { user, client_id, decision } in able {
                prop_assert!(decision.verdict == Verdict::Allow && !decision.rules.is_empty());
                if let Some(client_id) = client_id {
                    prop_assert_eq!(may(&policy, &user, client_id.as_str(), &topic, write), Some(decision.max_qos));
                }
            }
        }
    }
}
