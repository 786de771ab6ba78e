//! CONNECT and CONNACK.

use super::*;

#[test]
fn a_client_identifier_with_wildcards_is_refused() {
    for version in BOTH {
        for text in ["a+b", "#"] {
            let connect = Connect { client_id: ClientId::try_from(text).unwrap(), ..clean(version) };
            let rejection = check_connect(&connect).unwrap_err();
            assert_eq!(rejection.reason_code, ReasonCode::ClientIdentifierNotValid);
            assert!(!rejection.connack().session_present);
        }
        assert_eq!(check_connect(&clean(version)), Ok(()));
    }
    let mut connect = Connect { client_id: ClientId::try_from("#").unwrap(), ..clean(ProtocolVersion::V5) };
    let rejection = check_connect(&connect).unwrap_err();
    assert!(rejection.connack_for(&connect).properties.reason_string.is_some());
    connect.properties.maximum_packet_size = NonZeroU32::new(20);
    assert_eq!(rejection.connack_for(&connect).properties.reason_string, None); // [MQTT-3.2.2-19]
}

#[test]
fn an_empty_client_identifier_needs_a_clean_session_in_3_1_1_alone() {
    let empty =
        |version, clean_start| Connect { client_id: ClientId::try_from("").unwrap(), clean_start, ..clean(version) };
    let rejection = check_connect(&empty(ProtocolVersion::V311, false)).unwrap_err();
    assert_eq!(rejection.reason_code, ReasonCode::ClientIdentifierNotValid); // [MQTT-3.1.3-8]
    assert!(check_connect(&empty(ProtocolVersion::V311, true)).is_ok());
    assert!(check_connect(&empty(ProtocolVersion::V5, false)).is_ok());
}

#[test]
fn an_authentication_method_is_refused() {
    let mut connect = clean(ProtocolVersion::V5);
    connect.properties.authentication_method = Some("SCRAM-SHA-1".into());
    assert_eq!(check_connect(&connect).unwrap_err().reason_code, ReasonCode::BadAuthenticationMethod);
}

#[test]
fn a_will_is_checked_against_the_rules_at_connect() {
    let mut bench = Bench::new(&["allow write w max_qos=1 retain=false", "allow write p/w"]);
    let owner = Owner::User(USER);
    let check = |bench: &Bench, owner, will: Will, version| {
        let connect = Connect { will: Some(will), ..clean(version) };
        check_will(&connect, owner, &bench.authority(), &bench.settings).map_err(|rejection| rejection.reason_code)
    };
    for version in BOTH {
        assert_eq!(check(&bench, owner, will("w"), version), Ok(()));
        for bad in [
            will("x"),
            Will { qos: QoS::ExactlyOnce, ..will("w") },
            Will { retain: true, ..will("w") },
            will("$SYS/x"),
            will("$registry/register"),
        ] {
            assert_eq!(check(&bench, owner, bad, version), Err(ReasonCode::NotAuthorized));
        }
        assert_eq!(check(&bench, Owner::Registration(1), will("w"), version), Err(ReasonCode::NotAuthorized));
    }
    bench.prefix(&["allow write p/w"], "p/");
    assert_eq!(check(&bench, owner, will("w"), ProtocolVersion::V5), Ok(()));
    assert_eq!(check(&bench, owner, will("p/w"), ProtocolVersion::V5), Err(ReasonCode::NotAuthorized));
    let long = will(&"l".repeat(65_535));
    assert_eq!(check(&bench, owner, long.clone(), ProtocolVersion::V5), Err(ReasonCode::TopicNameInvalid));
    assert_eq!(check(&bench, owner, long, ProtocolVersion::V311), Err(ReasonCode::NotAuthorized));
}

#[test]
fn connack_announces_what_is_there_and_what_is_not() {
    let mut bench = Bench::new(&[]);
    let connack = bench.connack(&clean(ProtocolVersion::V5));
    assert_eq!(
        connack,
        ConnAck {
            session_present: false,
            reason_code: ReasonCode::Success,
            properties: ConnAckProperties {
                receive_maximum: NonZeroU16::new(100),
                maximum_packet_size: NonZeroU32::new(1 << 20),
                shared_subscription_available: Some(false),
                ..ConnAckProperties::default()
            }
        }
    );
    bench.lose();
    assert_eq!(bench.connack(&clean(ProtocolVersion::V311)).properties, ConnAckProperties::default());
}

#[test]
fn connack_tells_an_assigned_client_identifier() {
    let mut bench = Bench::new(&[]);
    let terms = Terms { assigned_client_id: true, ..Terms::default() };
    let ((), outputs) = bench.give(|session, cx| session.handle_connect(&clean(ProtocolVersion::V5), &terms, cx));
    let Some(Packet::ConnAck(connack)) = sent(&outputs).pop() else { panic!() };
    assert_eq!(connack.properties.assigned_client_identifier.as_deref(), Some("c1")); // [MQTT-3.2.2-16]
}

#[test]
fn session_expiry_is_capped_and_told() {
    let mut bench = Bench::new(&[]);
    bench.settings.max_session_expiry = 60;
    let mut ask = |seconds| {
        let mut connect = clean(ProtocolVersion::V5);
        connect.properties.session_expiry_interval = seconds;
        let told = bench.connack(&connect).properties.session_expiry_interval;
        bench.lose();
        let granted = bench.session.expires_at().map(|at| at.duration_since(bench.now()).as_secs());
        (told, granted)
    };
    assert_eq!(ask(None), (None, None)); // over at once
    assert_eq!(ask(Some(30)), (None, Some(30)));
    assert_eq!(ask(Some(u32::MAX)), (Some(60), Some(60)));
    bench.connect(&lasting(ProtocolVersion::V311));
    bench.lose();
    assert_eq!(bench.session.expires_at(), Some(bench.now() + Duration::from_mins(1)));
}

#[test]
fn keep_alive_is_capped_for_version_5_alone() {
    let mut bench = Bench::new(&[]);
    bench.settings.max_keep_alive = NonZeroU16::new(60);
    for (version, asked, told, enforced) in [
        (ProtocolVersion::V5, 0, Some(60), Some(90)),
        (ProtocolVersion::V5, 90, Some(60), Some(90)),
        (ProtocolVersion::V5, 10, None, Some(15)),
        (ProtocolVersion::V311, 90, None, Some(135)),
        (ProtocolVersion::V311, 0, None, None),
    ] {
        let connect = Connect { keep_alive: asked, ..clean(version) };
        assert_eq!(bench.connack(&connect).properties.server_keep_alive, told);
        let limit = bench.session.poll_timeout().map(|at| at.duration_since(bench.now()).as_secs());
        assert_eq!(limit, enforced);
        bench.lose();
    }
}

#[test]
fn session_present_tells_of_kept_state_only() {
    for version in BOTH {
        let mut bench = Bench::new(&[]);
        assert!(!bench.connack(&lasting(version)).session_present); // [MQTT-3.2.2-3]
        bench.lose();
        assert!(bench.connack(&lasting(version)).session_present); // [MQTT-3.2.2-2] of 3.1.1
        bench.lose();
        assert!(!bench.connack(&clean(version)).session_present); // [MQTT-3.2.2-1] of 3.1.1, [MQTT-3.2.2-2] of 5.0
        bench.lose();
        assert!(bench.session.is_over());
        assert!(!bench.connack(&lasting(version)).session_present);
    }
}
