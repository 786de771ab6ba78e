//! A connection's questions to the client registry, and the way back of the answers.
//!
//! An answer goes to the asking connection alone: into its gate, never through the router. A decision that falls later
//! takes the same way, for as long as the connection lives.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

use bytes::Bytes;

use super::{Server, sessions::SessionCell};
use crate::{
    registry::{Answer, AnswerSink, Caller, Door, Origin, ReturnPath},
    session::{RegistryAnswer, RegistryOperation, RegistryRequest},
};

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
        if gate.answers.len() >= WAITING_ANSWERS {
            gate.answers.pop_front();
        }
        gate.answers.push_back(RegistryAnswer {
            response_topic: path.response_topic.clone(),
            correlation_data: path.correlation_data.clone(),
            payload: Bytes::from(answer.to_json()),
        });
        drop(gate);
        cell.mailbox.call();
    }
}

/// Whoever asks.
pub(super) struct Asker {
    pub(super) server: Arc<Server>,
    pub(super) mouth: Arc<Mouth>,
    pub(super) connection: u64,
    /// `None`: a registration session.
    pub(super) caller: Option<Caller>,
    pub(super) source: IpAddr,
    pub(super) listener: Arc<str>,
}

impl Asker {
    /// Asks, and answers.
    pub(super) async fn ask(&self, request: RegistryRequest, busy: bool) {
        let registry = &self.server.registry;
        let path = ReturnPath { response_topic: request.response_topic, correlation_data: request.correlation_data };
        let sink: Arc<dyn AnswerSink> = Arc::clone(&self.mouth) as _;
        let origin = Origin {
            source: self.source,
            listener: Arc::clone(&self.listener),
            door: Door::Mqtt,
            connection: self.connection,
            sink: Some((Arc::downgrade(&sink), path.clone())),
        };
        let (payload, content_type) = (&request.payload, request.content_type.as_deref());
        let answer = match request.operation {
            _ if busy => registry.busy(payload, content_type),
            RegistryOperation::Register => registry.register(payload, content_type, &origin).await,
            RegistryOperation::Whoami => registry.whoami(payload, content_type, self.caller.as_ref(), &origin),
            RegistryOperation::Ca => registry.ca(payload, content_type, &origin),
            RegistryOperation::Challenge | RegistryOperation::Renew => {
                registry.unsupported(payload, content_type, request.operation.as_str())
            }
        };
        self.mouth.answer(&answer, &path);
    }
}
