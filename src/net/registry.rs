//! A connection's questions to the client registry, and the way back of the answers.
//!
//! An answer goes to the asking connection alone: into its gate, never through the router. A decision that falls later
//! takes the same way, for as long as the connection lives.

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    Server,
    login::{self, Admitted},
    sessions::{Gate, SessionCell},
};
use crate::{
    access::{UserId, Username},
    audit::{Place, Word},
    authn::Identity,
    directory::{Actor, Right},
    metrics::{DropCause, RefusedAction},
    mqtt::{ClientId, TopicName},
    registry::{Answer, AnswerSink, Binding, Caller, Door, Format, Invitation, Origin, ReturnPath},
    session::{AdminOperation, Context, Disposition, RegistryAnswer, RegistryOperation, RegistryRequest},
};

/// Requests to the registry that one connection may have open.
const OPEN_REQUESTS: usize = 4;

/// Answers that may wait for a connection: one for each request that it may have open, and the decisions on them.
const WAITING_ANSWERS: usize = 16;

/// Hands answers to one connection.
pub(super) struct Mouth {
    cell: Weak<SessionCell>,
    connection: u64,
}

impl Mouth {
    pub(super) fn new(cell: &Arc<SessionCell>, connection: u64) -> Arc<Self> {
        Arc::new(Self { cell: Arc::downgrade(cell), connection })
    }
}

impl AnswerSink for Mouth {
    fn answer(&self, answer: &Answer, path: &ReturnPath) {
        let Some(cell) = self.cell.upgrade() else { return };
        let mut gate = cell.gate();
        if gate.connection != self.connection {
            return;
        }
        push(&mut gate, message(answer, path));
        drop(gate);
        cell.mailbox.call();
    }
}

/// The first connection of a renewed certificate retires the old one.
pub(super) fn confirm(server: &Arc<Server>, admitted: &Admitted, user: UserId) {
    let policy = server.directory.policy();
    let Some(record) = admitted.certificate(&policy).filter(|record| record.replaces.is_some()) else { return };
    let (registry, serial) = (Arc::clone(&server.registry), record.serial.clone());
    tokio::spawn(async move {
        if let Err(error) = registry.confirm(user, serial).await {
            tracing::error!(%error, "a renewed certificate has connected, but the old one could not be retired");
        }
    });
}

/// What a client is told when its certificate should be renewed; `None`: it is on record no more.
pub(super) fn invitation(server: &Server, gate: &Gate, topic: TopicName) -> Option<RegistryAnswer> {
    let identity = gate.identity.as_ref()?;
    let fingerprint = &identity.certificate()?.fingerprint;
    let policy = server.directory.policy();
    let records = &policy.user(identity.user())?.certificates;
    let record = records.iter().find(|record| record.fingerprint == *fingerprint)?;
    server.metrics.registry_invitations.inc();
    let invitation = Invitation { serial: &record.serial, not_after: record.not_after };
    Some(RegistryAnswer {
        response_topic: topic,
        correlation_data: None,
        payload: Bytes::from(invitation.to_json()),
        content_type: Format::Json.media_type(),
    })
}

/// Where the trust bundle is answered, asked for or not.
const BUNDLE: &str = "$registry/ca/response";

impl Server {
    /// Tells whoever listens the new trust bundle, and invites whose certificate is of the CA before this one.
    pub(crate) fn authority_changed(&self) {
        let Ok(topic) = TopicName::try_from(ByteString::from_static(BUNDLE)) else { return };
        let payload = Bytes::from(self.registry.bundle().encode(Format::Json));
        for cell in self.sessions.all() {
            let mut gate = cell.gate();
            if !gate.session.is_attached() {
                continue;
            }
            let invite = gate.identity.as_ref().and_then(|identity| login::early_invitation(identity, self));
            // A guest may not ask for it either.
            let guest = gate.identity.as_ref().is_some_and(Identity::is_guest);
            let hears = !guest && gate.session.hears(&topic);
            if let Some(at) = invite {
                gate.session.invite_by(at);
            }
            if hears {
                let answer = RegistryAnswer {
                    response_topic: topic.clone(),
                    correlation_data: None,
                    payload: payload.clone(),
                    content_type: Format::Json.media_type(),
                };
                push(&mut gate, answer);
            }
            drop(gate);
            if hears || invite.is_some() {
                cell.mailbox.call();
            }
        }
    }
}

fn push(gate: &mut Gate, answer: RegistryAnswer) {
    if gate.answers.len() >= WAITING_ANSWERS {
        gate.answers.pop_front();
    }
    gate.answers.push_back(answer);
}

/// Gives the session an answer. One that its client does not take gives way to a short one that says so.
pub(super) fn tell(server: &Server, gate: &mut Gate, answer: RegistryAnswer, cx: &Context<'_>) {
    let (size, format) = (answer.payload.len(), Format::of(Some(answer.content_type)).unwrap_or_default());
    let (response_topic, correlation_data) = (answer.response_topic.clone(), answer.correlation_data.clone());
    let mut disposition = gate.session.handle_registry_answer(answer, cx);
    if disposition == Disposition::TooLarge {
        let path = ReturnPath { response_topic, correlation_data, format };
        disposition = gate.session.handle_registry_answer(message(&Answer::too_large(size), &path), cx);
    }
    match disposition {
        Disposition::TooLarge => server.metrics.dropped.inc(DropCause::TooLarge),
        Disposition::Withheld => server.metrics.refused.inc(RefusedAction::Receive),
        _ => {}
    }
}

/// An answer as the session takes it.
fn message(answer: &Answer, path: &ReturnPath) -> RegistryAnswer {
    RegistryAnswer {
        response_topic: path.response_topic.clone(),
        correlation_data: path.correlation_data.clone(),
        payload: Bytes::from(answer.encode(path.format)),
        content_type: path.format.media_type(),
    }
}

/// Whoever asks.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) server: Arc<Server>,
    pub(super) mouth: Arc<Mouth>,
    pub(super) connection: u64,
    /// `None`: a registration session.
    pub(super) caller: Option<Caller>,
    /// The user that the listener names for clients without credentials: nobody has proven anything.
    pub(super) guest: bool,
    /// `None`: a registration session.
    pub(super) operator: Option<(UserId, Username, ClientId)>,
    pub(super) source: IpAddr,
    pub(super) listener: Arc<str>,
    /// How many requests of the connection are being worked on.
    pub(super) open: Arc<AtomicUsize>,
}

impl Asker {
    /// Puts each to the registry, in a task of its own.
    pub(super) fn ask_all(self, requests: impl Iterator<Item = RegistryRequest>) {
        for request in requests {
            let busy = self.open.fetch_add(1, Ordering::Relaxed) >= OPEN_REQUESTS;
            let asker = self.clone();
            tokio::spawn(async move {
                asker.ask(request, busy).await;
                asker.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Asks, and answers.
    async fn ask(&self, request: RegistryRequest, busy: bool) {
        let registry = &self.server.registry;
        let (payload, content_type) = (&request.payload, request.content_type.as_deref());
        let path = ReturnPath {
            response_topic: request.response_topic,
            correlation_data: request.correlation_data,
            format: Format::of(content_type).unwrap_or_default(),
        };
        let sink: Arc<dyn AnswerSink> = Arc::clone(&self.mouth) as _;
        let origin = Origin {
            source: self.source,
            listener: Arc::clone(&self.listener),
            door: Door::Mqtt,
            hears: request.heard,
            binding: Binding::Connection(self.connection),
            sink: Some((Arc::downgrade(&sink), path.clone())),
        };
        let answer = match request.operation {
            _ if self.guest => registry.unproven(payload, content_type),
            _ if busy => registry.busy(payload, content_type),
            RegistryOperation::Register => registry.register(payload, content_type, &origin).await,
            RegistryOperation::Whoami => registry.whoami(payload, content_type, self.caller.as_ref(), &origin),
            RegistryOperation::Ca => registry.ca(payload, content_type, &origin),
            RegistryOperation::Challenge => registry.challenge(payload, content_type, &origin),
            RegistryOperation::Renew => registry.renew(payload, content_type, self.caller.as_ref(), &origin).await,
            RegistryOperation::Admin(operation) => {
                // The session lets nobody come here who has no identity.
                let Some(actor) = self.actor(operation) else { return };
                registry.order(operation, payload, content_type, actor).await
            }
        };
        self.mouth.answer(&answer, &path);
    }

    /// The user, by the right to this operation alone.
    fn actor(&self, operation: AdminOperation) -> Option<Actor> {
        let (id, username, client_id) = self.operator.clone()?;
        let from = Place::Network {
            address: self.source.to_canonical(),
            listener: Some(Word::name(&self.listener)),
            client_id: Some(Word::name(client_id.as_str())),
        };
        let right = Right::Mqtt { operation: operation.topic(), client_id: Some(client_id) };
        Some(Actor::User { id, username, from: Some(from), right: Some(right) })
    }
}
