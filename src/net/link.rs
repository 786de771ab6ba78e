//! What one connection owns beside its session: buffers, codec, and the outputs of the session turned into effects.

use std::sync::Arc;

use super::{
    Server,
    output::OutputBuffer,
    sessions::{Gate, SessionCell},
};
use crate::{
    clock::Instant,
    metrics::{Answer, DropCause, RefusedAction},
    mqtt::{ProtocolVersion, QoS},
    router::{Origin, RouteMemory, Routed, retained_delivery},
    session::{CloseReason, Context, Delivery, Disposition, EndCause, Message, Output, Owner, RegistryRequest},
};

/// No more deliveries are encoded while this many bytes wait for the socket. Large enough for one efficient write,
/// small enough that a change of the rules leaves little to take back.
pub(super) const HIGH_WATER: usize = 64 * 1024;

/// QoS 1 and 2 messages with smaller payloads (bytes) are copied out of the read buffer that they arrived in.
const DETACH_BELOW: usize = 16 * 1024;

/// The outgoing half of a connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) output: OutputBuffer,
    pub(super) memory: RouteMemory,
    /// For the registry, to be asked outside of the gate.
    pub(super) requests: Vec<RegistryRequest>,
    pub(super) closing: Option<CloseReason>,
}

impl Link {
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self { output: OutputBuffer::new(version), memory: RouteMemory::default(), requests: Vec::new(), closing: None }
    }

    /// Does everything that the session asks for. Without a link (a session that nobody is connected to) packets have
    /// nowhere to go and are dropped.
    pub(super) fn settle(
        server: &Server,
        cell: &Arc<SessionCell>,
        gate: &mut Gate,
        cx: &Context<'_>,
        mut link: Option<&mut Self>,
    ) {
        while let Some(output) = gate.session.poll_output() {
            Self::perform(server, cell, gate, cx, link.as_deref_mut(), output);
        }
    }

    /// Does one thing that the session asks for.
    pub(super) fn perform(
        server: &Server,
        cell: &Arc<SessionCell>,
        gate: &mut Gate,
        cx: &Context<'_>,
        link: Option<&mut Self>,
        output: Output,
    ) {
        match output {
            Output::Send(packet) => {
                let Some(link) = link else { return };
                match link.output.push(&packet) {
                    Ok(()) => server.metrics.packet_sent(&packet),
                    Err(error) => {
                        tracing::error!(%error, "a packet of the broker cannot be encoded");
                        link.closing.get_or_insert(CloseReason::PacketTooLargeForClient);
                    }
                }
            }
            Output::Deliver(outgoing) => {
                let Some(link) = link else { return };
                let (packet_id, qos, length) = (outgoing.packet_id, outgoing.qos, outgoing.message.payload.len());
                match link.output.push_delivery(outgoing) {
                    Ok(()) => server.metrics.publish_sent(qos, length),
                    Err(error) => {
                        tracing::warn!(%error, "a message cannot be encoded for its receiver, and is dropped");
                        if let Some(packet_id) = packet_id {
                            gate.session.handle_undelivered(packet_id, cx);
                        }
                    }
                }
            }
            Output::Route { message, ticket } => {
                let mut unremembered = RouteMemory::default();
                let memory = link.map_or(&mut unremembered, |link| &mut link.memory);
                let key = gate.session.key();
                let origin = match key.owner {
                    Owner::User(user) => Some(Origin { user, client_id: &key.client_id, quota: cx.authority.quota() }),
                    Owner::Registration(_) => None,
                };
                let message = prompt(message);
                let routed = server.router.route(&message, origin.as_ref(), memory);
                server.routed(&routed);
                if let Some(ticket) = ticket {
                    gate.session.handle_accepted(ticket, Routed::outcome(routed), cx);
                }
            }
            Output::Answer { message, requester, ticket } => {
                let routed = Ok(server.router.answer(&prompt(message), requester));
                server.routed(&routed);
                server.metrics.answers.inc(match routed {
                    Ok(Routed { matched: 0, .. }) => Answer::NoRequester,
                    _ => Answer::Delivered,
                });
                if let Some(ticket) = ticket {
                    gate.session.handle_accepted(ticket, Routed::outcome(routed), cx);
                }
            }
            Output::Subscribed { filter, number, options, send_retained } => {
                server.router.subscribe(&filter, gate.session.number(), number, options.qos, &cell.mailbox);
                if send_retained {
                    let found = server.router.retained(&filter, cx.now);
                    gate.backlog.add(number, filter, found);
                }
            }
            Output::Unsubscribed { filter, number } => {
                server.router.unsubscribe(&filter, gate.session.number(), number);
                gate.backlog.remove(number);
            }
            Output::Registry(request) => {
                if let Some(link) = link {
                    link.requests.push(request);
                }
            }
            Output::Refused(refusal) => server.refused(gate.session.key(), &refusal),
            Output::Close(reason) => {
                if let Some(link) = link {
                    link.closing.get_or_insert(reason);
                }
            }
        }
    }

    /// Gives the session what waits for it, while it and the output buffer have room. Says whether more is waiting.
    pub(super) fn deliver(
        &mut self,
        server: &Server,
        cell: &Arc<SessionCell>,
        gate: &mut Gate,
        cx: &Context<'_>,
    ) -> bool {
        while self.closing.is_none() && gate.session.can_deliver() {
            if self.output.len() >= HIGH_WATER {
                return true;
            }
            let Some(delivery) = next_delivery(server, cell, gate, cx.now) else { return false };
            let disposition = gate.session.handle_delivery(delivery, cx);
            match disposition {
                Disposition::Sent | Disposition::Waiting | Disposition::NotWanted | Disposition::NotNow => {}
                Disposition::Withheld => server.metrics.refused.inc(RefusedAction::Receive),
                Disposition::Expired => server.metrics.dropped.inc(DropCause::Expired),
                Disposition::TooLarge => server.metrics.dropped.inc(DropCause::TooLarge),
            }
            Self::settle(server, cell, gate, cx, Some(self));
        }
        false
    }
}

/// What somebody has to acknowledge may wait long, and must not hold a whole read buffer meanwhile. A large payload is
/// most of its buffer anyway.
fn prompt(message: Arc<Message>) -> Arc<Message> {
    if message.qos > QoS::AtMostOnce && message.payload.len() < DETACH_BELOW {
        Arc::new(message.detached())
    } else {
        message
    }
}

fn next_delivery(server: &Server, cell: &Arc<SessionCell>, gate: &mut Gate, now: Instant) -> Option<Delivery> {
    while let Some((entry, number)) = gate.backlog.next(|filter| server.router.retained(filter, now)) {
        if server.may_stand(&entry) {
            return Some(retained_delivery(&entry, number));
        }
    }
    if gate.pending.is_empty() {
        cell.mailbox.take(64, &mut gate.pending);
    }
    gate.pending.pop_front()
}

/// The connection of a session is gone, or was never there: keeps or forgets what is left of it. The caller holds the
/// gate, and the session is detached.
pub(super) fn leave(server: &Server, cell: &Arc<SessionCell>, gate: &mut Gate) {
    gate.connection = 0;
    gate.ended = None;
    gate.place = None;
    gate.answers.clear();
    gate.backlog.detach();
    cell.mailbox.put_back(std::mem::take(&mut gate.pending).into_iter());
    cell.mailbox.detach(|delivery| delivery.message.qos);
    if gate.session.is_over() {
        server.sessions.remove(cell, gate);
    } else {
        let deadline: Option<Instant> = gate.session.poll_timeout();
        server.sessions.set_deadline(cell, gate, deadline);
    }
}

/// Ends a session for good although nobody is connected to it.
pub(super) fn purge(server: &Server, cell: &Arc<SessionCell>, gate: &mut Gate, cause: EndCause, cx: &Context<'_>) {
    gate.session.handle_end(cause, cx);
    Link::settle(server, cell, gate, cx, None);
    leave(server, cell, gate);
}
