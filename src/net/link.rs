//! What one connection owns beside its session: buffers, codec, and the outputs of the session turned into effects.

use std::sync::Arc;

use super::{
    Server, backlog,
    output::OutputBuffer,
    registry,
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

/// Deliveries that one turn judges at most, so that others on the same thread get theirs, and the gate comes free.
const TURN_DELIVERIES: usize = 1024;

/// What looking up the retained messages of a filter costs of it.
const SEARCH: usize = 256;

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
                    gate.backlog.add(number, filter);
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
            Output::Invite(topic) => {
                if let Some(invitation) = registry::invitation(server, gate, topic) {
                    gate.session.handle_registry_answer(invitation, cx);
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
        let mut budget = TURN_DELIVERIES;
        while self.closing.is_none() && gate.session.can_deliver() {
            // Those that are withheld fill no buffer, but take their time too.
            if self.output.len() >= HIGH_WATER || budget == 0 {
                return true;
            }
            let delivery = match next_delivery(server, cell, gate, cx.now) {
                Waiting::Delivery(delivery) => delivery,
                Waiting::Again(cost) => {
                    budget = budget.saturating_sub(cost);
                    continue;
                }
                Waiting::Nothing => return false,
            };
            budget -= 1;
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

/// What there is to deliver next.
enum Waiting {
    Delivery(Delivery),
    /// Nothing yet: look again, at this cost in deliveries.
    Again(usize),
    Nothing,
}

fn next_delivery(server: &Server, cell: &Arc<SessionCell>, gate: &mut Gate, now: Instant) -> Waiting {
    match gate.backlog.next(|filter| server.router.retained(filter, now)) {
        backlog::Next::Message(entry, number) if server.may_stand(&entry) => {
            return Waiting::Delivery(retained_delivery(&entry, number));
        }
        backlog::Next::Message(..) => return Waiting::Again(1),
        backlog::Next::Searched => return Waiting::Again(SEARCH),
        backlog::Next::Nothing => {}
    }
    if gate.pending.is_empty() {
        cell.mailbox.take(64, &mut gate.pending);
    }
    gate.pending.pop_front().map_or(Waiting::Nothing, Waiting::Delivery)
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
