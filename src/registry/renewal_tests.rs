//! `renew`: in session and in grace, the swap of two steps, lost answers, and who gets none.

use serde_json::json;

use super::*;
use crate::access::{RevocationReason, User};
use crate::registry::core::MAX_ON_RECORD;

const LIFE: Duration = Duration::from_hours(90 * 24);

/// A device that was granted its name, with its keys and certificates.
struct Device {
    name: &'static str,
    user: crate::access::UserId,
    key: rcgen::KeyPair,
    certificate: Answer,
}

impl Device {
    async fn granted(stage: &Stage, name: &'static str) -> Self {
        stage.unlock().await;
        let key = new_key();
        let message = json!({"username": name, "csr": csr(name, &key, &[])});
        assert_eq!(stage.send(message.clone()).await.status, 202);
        let requests = stage.registry.list(Some(StateFilter::Pending)).await.unwrap();
        stage.registry.grant(requests[0].id, Stage::terms(), Actor::System).await.unwrap();
        let certificate = stage.send(message).await;
        let user = stage.directory.policy().user_named(&name.parse().unwrap()).unwrap().id;
        Self { name, user, key, certificate }
    }

    fn with(serial: &Answer, user: crate::access::UserId) -> Caller {
        Caller { user, certificate: Some((serial.serial.clone().unwrap(), serial.not_after.unwrap())) }
    }

    fn caller(&self) -> Caller {
        Self::with(&self.certificate, self.user)
    }
}

async fn renew(stage: &Stage, message: &Value, caller: Option<&Caller>) -> Answer {
    stage.registry.renew(message.to_string().as_bytes(), None, caller, &origin(None)).await
}

fn message(name: &str, key: &rcgen::KeyPair) -> Value {
    json!({"csr": csr(name, key, &[])})
}

fn user(stage: &Stage, device: &Device) -> Arc<User> {
    Arc::clone(stage.directory.policy().user(device.user).unwrap())
}

/// Serial numbers of the certificates that open the door now.
fn good(stage: &Stage, device: &Device) -> Vec<String> {
    let now = stage.clock.timestamp();
    let user = user(stage, device);
    let good = user.certificates.iter().filter(|it| it.revoked_at.is_none() && now <= it.not_after);
    good.map(|it| it.serial.clone()).collect()
}

fn edit(stage: &Stage, device: &Device, edit: impl FnOnce(&mut User) + Send + 'static) {
    stage.directory.update_user(device.user, Expected::Any, edit, &Actor::System).unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_good_at_once_and_the_old_one_until_the_new_one_has_connected() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let before = user(&stage, &device);
    let new = message("press-1", &new_key());
    let answer = renew(&stage, &new, Some(&device.caller())).await;
    assert_eq!((answer.status, answer.state), (201, "granted"));
    let (old, serial) = (device.certificate.serial.clone().unwrap(), answer.serial.clone().unwrap());
    assert_eq!(good(&stage, &device), [old.clone(), serial.clone()]);
    let after = user(&stage, &device);
    let only = User { certificates: before.certificates.clone(), version: before.version, ..User::clone(&after) };
    assert_eq!(only, *before, "nothing but certificates changes");
    assert_eq!(stage.registry.list(None).await.unwrap().len(), 1, "and no request is made");

    stage.registry.confirm(device.user, old.clone()).await.unwrap();
    assert_eq!(good(&stage, &device).len(), 2, "the old one confirms nothing");
    stage.registry.confirm(device.user, serial.clone()).await.unwrap();
    stage.registry.confirm(device.user, serial.clone()).await.unwrap();
    assert_eq!(good(&stage, &device), [serial]);
    let retired = user(&stage, &device).certificates[0].clone();
    assert_eq!((retired.serial, retired.reason), (old, Some(RevocationReason::Superseded)), "the CRL can name it");
    let refused = renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
    assert_eq!((refused.status, refused.error), (403, Some("superseded")));
    let poll = json!({"username": "press-1", "csr": csr("press-1", &device.key, &[])});
    let poll = stage.send(poll).await;
    assert_eq!((poll.status, poll.error), (409, Some("superseded")), "the request it came from has nothing to give");
}

#[tokio::test]
async fn a_lost_answer_is_given_again_also_after_a_restart() {
    let mut stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let new = message("press-1", &new_key());
    let answer = renew(&stage, &new, Some(&device.caller())).await;
    assert_eq!(renew(&stage, &new, Some(&device.caller())).await, answer);
    stage.restart();
    assert_eq!(renew(&stage, &new, Some(&device.caller())).await, answer);
    // Once it is used the device needs it no more, but a message that comes twice does no harm.
    stage.registry.confirm(device.user, answer.serial.clone().unwrap()).await.unwrap();
    let caller = Device::with(&answer, device.user);
    assert_eq!(renew(&stage, &new, Some(&caller)).await, answer);
    // The very same request is good again when the certificate should be renewed: some keys sign the same way each time.
    stage.clock.advance(LIFE / 3 * 2);
    let next = renew(&stage, &new, Some(&caller)).await;
    assert_eq!(next.status, 201);
    assert_ne!(next.serial, answer.serial);
}

#[tokio::test]
async fn a_renewal_that_was_never_used_gives_way_to_the_next_one() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let lost = renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
    let next = renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
    let old = device.certificate.serial.clone().unwrap();
    assert_eq!(good(&stage, &device), [old, next.serial.clone().unwrap()], "two at most");
    stage.registry.confirm(device.user, lost.serial.unwrap()).await.unwrap();
    assert_eq!(good(&stage, &device).len(), 2, "a retired one confirms nothing");
}

#[tokio::test]
async fn a_successor_that_renews_before_it_is_confirmed_takes_its_whole_line_with_it() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let first = renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
    let second = renew(&stage, &message("press-1", &new_key()), Some(&Device::with(&first, device.user))).await;
    assert_eq!(good(&stage, &device).len(), 3);
    stage.registry.confirm(device.user, second.serial.clone().unwrap()).await.unwrap();
    assert_eq!(good(&stage, &device), [second.serial.unwrap()]);
}

#[tokio::test]
async fn who_may_not_renew_is_told_why() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let other = Device::granted(&stage, "press-2").await;
    let good_message = message("press-1", &new_key());
    let caller = device.caller();
    let error = async |message: &Value, caller: Option<&Caller>| {
        let answer = renew(&stage, message, caller).await;
        (answer.status, answer.error.unwrap())
    };
    assert_eq!(error(&good_message, None).await, (401, "not_authenticated"));
    let by_password = Caller { user: device.user, certificate: None };
    assert_eq!(error(&good_message, Some(&by_password)).await, (403, "no_certificate"));
    assert_eq!(error(&message("press-2", &new_key()), Some(&caller)).await, (400, "common_name"));
    assert_eq!(error(&message("press-1", &other.key), Some(&caller)).await, (409, "key_in_use"));
    assert_eq!(error(&json!({"csr": "x"}), Some(&caller)).await, (400, "csr_malformed"));
    let half = json!({"csr": csr("press-1", &new_key(), &[]), "signature": "AAAA"});
    assert_eq!(error(&half, Some(&caller)).await, (400, "no_proof"));
    // A key that waits for a decision under another name.
    let pending = new_key();
    stage.send(json!({"username": "press-3", "csr": csr("press-3", &pending, &[])})).await;
    assert_eq!(error(&message("press-1", &pending), Some(&caller)).await, (409, "key_in_use"));

    edit(&stage, &device, |user| user.enabled = false);
    assert_eq!(error(&good_message, Some(&caller)).await, (403, "disabled"));
    let now = stage.clock.timestamp();
    edit(&stage, &device, move |user| (user.enabled, user.expires_at) = (true, Some(now)));
    assert_eq!(error(&good_message, Some(&caller)).await, (403, "expired"));
    edit(&stage, &device, |user| (user.expires_at, user.auth) = (None, Auth::Password));
    assert_eq!(error(&good_message, Some(&caller)).await, (403, "not_admitted"));
    // As `user pin` puts it on record: whoever issued it may end it, and ours would go on.
    edit(&stage, &device, |user| (user.auth, user.certificates[0].issuer) = (Auth::Either, None));
    assert_eq!(error(&good_message, Some(&caller)).await, (403, "foreign"));
    edit(&stage, &device, move |user| {
        user.certificates[0].issuer = Some("the one before".into());
        user.certificates[0].revoked_at = Some(now);
    });
    assert_eq!(error(&good_message, Some(&caller)).await, (403, "revoked"));
    assert_eq!(user(&stage, &device).certificates.len(), 1, "nothing was issued");
}

#[tokio::test]
async fn a_key_that_was_revoked_is_not_renewed_by_another_certificate_of_its_user() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let key = new_key();
    let answer = renew(&stage, &message("press-1", &key), Some(&device.caller())).await;
    let now = stage.clock.timestamp();
    edit(&stage, &device, move |user| user.certificates[1].revoked_at = Some(now));
    let refused = renew(&stage, &message("press-1", &key), Some(&device.caller())).await;
    assert_eq!((refused.status, refused.error), (409, Some("key_revoked")));
    let caller = Device::with(&answer, device.user);
    assert_eq!(renew(&stage, &message("press-1", &new_key()), Some(&caller)).await.error, Some("revoked"));
}

#[tokio::test]
async fn whoever_renews_again_and_again_is_bounded() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let mut issued = 0;
    let mut refused = Vec::new();
    for _ in 0..200 {
        let answer = renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
        if answer.status == 201 {
            issued += 1;
        } else {
            refused.push((answer.status, answer.error.unwrap()));
            assert!(answer.retry_after.is_some());
            stage.clock.advance(LIFE / 180);
        }
        assert!(good(&stage, &device).len() <= 2);
    }
    assert_eq!(issued, MAX_ON_RECORD - 1);
    assert!(refused.contains(&(429, "rate")) && refused.contains(&(429, "too_many_certificates")));
    assert!(user(&stage, &device).certificates.len() <= MAX_ON_RECORD);
}

#[tokio::test]
async fn a_renewal_that_the_disk_refuses_changes_nothing() {
    let mut stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let new = message("press-1", &new_key());
    for n in 0..10 {
        stage.store.fail_at(n, Fault::Refused);
        let answer = renew(&stage, &new, Some(&device.caller())).await;
        if answer.status == 201 {
            assert!(n > 0);
            stage.restart();
            assert_eq!(renew(&stage, &new, Some(&device.caller())).await, answer);
            return;
        }
        assert_eq!(answer.status, 500);
        assert_eq!(user(&stage, &device).certificates.len(), 1);
        stage.restart();
        assert_eq!(good(&stage, &device).len(), 1);
    }
    panic!("it was never granted");
}

#[tokio::test]
async fn what_is_kept_of_a_renewal_goes_with_its_user() {
    let mut stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    renew(&stage, &message("press-1", &new_key()), Some(&device.caller())).await;
    stage.directory.delete_user(device.user, Expected::Any, &Actor::System).unwrap();
    stage.clock.advance(Duration::from_mins(2));
    stage.registry.tick().await.unwrap();
    stage.restart();
    assert_eq!(RENEWALS.iter(&*stage.store).count(), 0);
}

// --- Grace ---

/// What a device whose certificate has lapsed sends.
fn in_grace(stage: &Stage, device: &Device, signer: &rcgen::KeyPair, new: &rcgen::KeyPair, from: &Origin) -> Value {
    use rcgen::SigningKey as _;
    let nonce = stage.registry.challenge(b"", None, from).nonce.unwrap();
    let csr = csr(device.name, new, &[]);
    let mut bytes = b"portcullis-renew-v1".to_vec();
    bytes.extend_from_slice(nonce.as_bytes());
    bytes.extend_from_slice(VerifiedCsr::from_pem(csr.as_bytes()).unwrap().digest());
    let signature = crate::pki::pem("X", &signer.sign(&bytes).unwrap());
    let signature: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
    let certificate = device.certificate.certificate.clone().unwrap();
    json!({"csr": csr, "certificate": certificate, "signature": signature, "nonce": nonce})
}

#[tokio::test]
async fn a_certificate_that_lapsed_lately_is_renewed_by_a_signature() {
    let mut stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let new = new_key();
    let send = in_grace(&stage, &device, &device.key, &new, &origin(None));
    assert_eq!(renew(&stage, &send, None).await.error, Some("still_valid"));
    stage.clock.advance(LIFE + Duration::from_secs(1));
    let send = in_grace(&stage, &device, &device.key, &new, &origin(None));
    let answer = renew(&stage, &send, None).await;
    assert_eq!((answer.status, answer.state), (201, "granted"), "{answer:?}");
    assert_eq!(good(&stage, &device), [answer.serial.clone().unwrap()]);
    assert_eq!(renew(&stage, &send, None).await.error, Some("nonce_spent"), "replayed");
    stage.restart();
    // The answer was lost: the same CSR with another nonce.
    let mut again = in_grace(&stage, &device, &device.key, &new, &origin(None));
    let fresh = again["csr"].clone();
    again["csr"].clone_from(&send["csr"]);
    let refused = renew(&stage, &again, None).await;
    assert_eq!(refused.error, if fresh == send["csr"] { None } else { Some("signature") }, "signed for another CSR");
    stage.registry.confirm(device.user, answer.serial.unwrap()).await.unwrap();
    let late = in_grace(&stage, &device, &device.key, &new_key(), &origin(None));
    assert_eq!(renew(&stage, &late, None).await.error, Some("superseded"));
}

#[tokio::test]
async fn a_relayed_a_foreign_and_a_late_renewal_in_grace_are_refused() {
    let stage = Stage::new();
    let device = Device::granted(&stage, "press-1").await;
    let late = Device::granted(&stage, "press-2").await;
    stage.clock.advance(LIFE + Duration::from_secs(1));
    let here = origin(None);
    let elsewhere = Origin { binding: Binding::Connection(2), ..origin(None) };
    let error = async |message: Value| {
        let answer = renew(&stage, &message, None).await;
        (answer.status, answer.error.unwrap_or_default())
    };
    let relayed = in_grace(&stage, &device, &device.key, &new_key(), &elsewhere);
    assert_eq!(error(relayed).await, (422, "nonce_foreign"));
    let thief = in_grace(&stage, &device, &new_key(), &new_key(), &here);
    assert_eq!(error(thief).await, (400, "signature"));
    let mut without = in_grace(&stage, &device, &device.key, &new_key(), &here);
    without.as_object_mut().unwrap().remove("nonce");
    assert_eq!(error(without).await, (400, "signature"), "the nonce is a part of what is signed");
    // A certificate that somebody made for this name: nobody learns from it whether the name is anybody's.
    for name in ["press-1", "nobody-1"] {
        let key = new_key();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let own = Answer { certificate: Some(params.self_signed(&key).unwrap().pem()), ..device.certificate.clone() };
        let forger = Device { name, user: device.user, key, certificate: own };
        let forged = in_grace(&stage, &forger, &forger.key, &new_key(), &here);
        assert_eq!(error(forged).await, (403, "certificate_unknown"));
    }
    edit(&stage, &device, |user| user.enabled = false);
    assert_eq!(error(in_grace(&stage, &device, &device.key, &new_key(), &here)).await, (403, "disabled"));
    edit(&stage, &device, |user| user.enabled = true);
    let now = stage.clock.timestamp();
    edit(&stage, &device, move |user| user.certificates[0].revoked_at = Some(now));
    assert_eq!(error(in_grace(&stage, &device, &device.key, &new_key(), &here)).await, (403, "revoked"));
    stage.clock.advance(stage.settings.renew_grace);
    assert_eq!(error(in_grace(&stage, &late, &late.key, &new_key(), &here)).await, (403, "grace_over"));
    for device in [&device, &late] {
        assert_eq!(user(&stage, device).certificates.len(), 1, "nothing was issued");
    }
}

#[tokio::test]
async fn without_grace_a_lapsed_certificate_is_not_renewed() {
    let stage = Stage::with(Settings { renew_grace: Duration::ZERO, ..Settings::default() });
    let device = Device::granted(&stage, "press-1").await;
    stage.clock.advance(LIFE + Duration::from_secs(1));
    let send = in_grace(&stage, &device, &device.key, &new_key(), &origin(None));
    assert_eq!(renew(&stage, &send, None).await.error, Some("grace_over"));
}
