//! From received bytes to PDUs, and what each PDU of the full feature phase asks for.

use block::{Buf, BufMut, Data, Outcome, limits};

use super::connection::{Connection, LongText, Numbered, Presence, Stage};
use super::receive::{Broken, Sink, Step};
use super::{ConnectionId, Effect, LunState, Outbox, Target};
use crate::pdu::{self, Bhs, Lengths, LoginRequest, NO_TAG, Order, RejectReason, Request, TaskRequest, TextRequest};
use crate::text;
use crate::wire::{before, put32};

/// The tag under which an initiator asks for the rest of a text.
const TEXT_TAG: u32 = 1;
/// The tag of our own NOP-In.
const PING_TAG: u32 = 1;

/// The PDU whose data is being received.
#[derive(Clone, Debug)]
pub(super) enum Current {
    /// It leads to nothing.
    Ignored,
    Login(LoginRequest),
    /// NOP-Out that wants an answer.
    Ping(Bhs, u32),
    Text(TextRequest),
    Task(TaskRequest),
    Logout {
        itt: u32,
        reason: u8,
    },
    /// A command: its slot, and whether no more unsolicited data follows.
    Command {
        slot: u32,
        is_final: bool,
        bhs: Bhs,
    },
    /// Data-Out for a command.
    Data {
        slot: u32,
        is_final: bool,
        bhs: Bhs,
    },
    /// To be rejected.
    Reject(Bhs, RejectReason),
}

/// The initiator broke the protocol in a way that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// Where the data of a PDU goes, and what happens when all of it is there.
pub(super) struct Placed {
    pub current: Current,
    pub sink: Sink,
    pub at: usize,
    pub keep: usize,
}

impl Placed {
    /// Data that goes into a buffer of its own.
    fn whole(current: Current) -> Placed {
        Placed { current, sink: Sink::Segment, at: 0, keep: usize::MAX }
    }
    /// Data that is dropped.
    pub fn dropped(current: Current) -> Placed {
        Placed { current, sink: Sink::Nowhere, at: 0, keep: 0 }
    }
}

impl Target {
    /// Takes a buffer back with `received` new bytes, and does what they ask for.
    pub fn on_received(&mut self, id: ConnectionId, buf: BufMut, received: usize, out: &mut Outbox) {
        self.connection(id).give_back(buf, received);
        self.pump(id, out);
    }

    /// A disk has answered.
    pub fn on_done(&mut self, id: ConnectionId, slot: u32, outcome: Outcome, out: &mut Outbox) {
        self.disk_answered(id, slot, outcome, out);
    }

    fn pump(&mut self, id: ConnectionId, out: &mut Outbox) {
        loop {
            let connection = self.connection(id);
            if !connection.listens() {
                return connection.receiver.discard();
            }
            match connection.receiver.step() {
                Ok(Step::More) => return,
                Ok(Step::Header(bhs)) => match self.on_header(id, &bhs, out) {
                    Ok(placed) => {
                        let connection = self.connection(id);
                        connection.current = placed.current;
                        connection.receiver.begin(&bhs, placed.sink, placed.at, placed.keep);
                    }
                    Err(Violation) => self.violation(id, &bhs, out),
                },
                Ok(Step::Staged(slot)) => {
                    let Connection { tasks, receiver, .. } = connection;
                    let buf = tasks.get_mut(slot).and_then(|task| task.buf.as_mut());
                    receiver.copy_into(buf.expect("data is received for a command that waits for it"));
                }
                Ok(Step::End { damaged }) => self.on_pdu(id, damaged, out),
                Err(Broken::HeaderDigest | Broken::TooLong) => self.close(id, out),
            }
        }
    }

    /// Ends a connection because the initiator broke the protocol: it is told, then the connection is closed.
    pub(super) fn violation(&mut self, id: ConnectionId, bhs: &Bhs, out: &mut Outbox) {
        if self.connection(id).stage != Stage::Full {
            return self.close(id, out);
        }
        self.connection(id).reject(bhs, RejectReason::Protocol);
        self.finish(id, out);
    }

    fn on_header(&mut self, id: ConnectionId, bhs: &Bhs, out: &mut Outbox) -> Result<Placed, Violation> {
        let request = Request::parse(bhs);
        let connection = self.connection(id);
        if connection.stage == Stage::Login {
            return match request {
                Request::Login(login) => Ok(Placed::whole(Current::Login(login))),
                _ => Err(Violation),
            };
        }
        if connection.stage != Stage::Full {
            return Err(Violation);
        }
        let is_discovery = connection.export().is_none();
        let len = Lengths::of(bhs).data;
        match request {
            Request::NopOut { order, itt } => {
                // The answer to ours uses up no number.
                if itt == NO_TAG {
                    return Ok(Placed::dropped(Current::Ignored));
                }
                connection.in_order(order, |_| Placed::whole(Current::Ping(*bhs, itt)))
            }
            Request::Text(text) => connection.in_order(text.order, |_| Placed::whole(Current::Text(text))),
            Request::Logout { order, reason, itt, .. } => {
                connection.in_order(order, |_| Placed::dropped(Current::Logout { itt, reason }))
            }
            Request::Task(task) if !is_discovery => {
                connection.in_order(task.order, |_| Placed::dropped(Current::Task(task)))
            }
            Request::Command(command) if !is_discovery => {
                let order = command.order;
                if connection.tasks.find(command.itt).is_some() || command.itt == NO_TAG {
                    let reject = Current::Reject(*bhs, RejectReason::InProgress);
                    return connection.in_order(order, |_| Placed::dropped(reject));
                }
                if order.immediate && connection.tasks.immediate() >= limits::ISCSI_IMMEDIATE_TASKS {
                    return Ok(Placed::dropped(Current::Reject(*bhs, RejectReason::TooManyImmediate)));
                }
                match connection.number(order) {
                    Ok(true) => self.on_command(id, &command, len, bhs, out),
                    Ok(false) => Ok(Placed::dropped(Current::Ignored)),
                    Err(violation) => Err(violation),
                }
            }
            Request::DataOut(data) if !is_discovery => self.on_data_out(id, &data, len, bhs),
            Request::Snack => Ok(Placed::dropped(Current::Reject(*bhs, RejectReason::Snack))),
            Request::Task(_) | Request::Command(_) | Request::DataOut(_) | Request::Unknown => {
                Ok(Placed::dropped(Current::Reject(*bhs, RejectReason::Unsupported)))
            }
            Request::Login(_) => Err(Violation),
        }
    }

    /// All data of a PDU is there.
    fn on_pdu(&mut self, id: ConnectionId, damaged: bool, out: &mut Outbox) {
        let connection = self.connection(id);
        let current = std::mem::replace(&mut connection.current, Current::Ignored);
        let segment = connection.receiver.take_segment();
        out.push(Effect::Wake(id));
        match current {
            Current::Command { slot, is_final, bhs } | Current::Data { slot, is_final, bhs } => {
                if damaged {
                    self.data_damaged(id, slot, &bhs);
                }
                if is_final {
                    self.data_arrived(id, slot, out);
                }
            }
            Current::Ping(bhs, _) if damaged => connection.reject(&bhs, RejectReason::DataDigest),
            Current::Text(_) | Current::Login(_) if damaged => self.close(id, out),
            Current::Ignored => {}
            Current::Login(login) => self.on_login(id, login, &segment, out),
            Current::Ping(_, itt) => connection.pong(itt, &segment),
            Current::Text(text) => self.on_text(id, text, &segment, out),
            Current::Task(task) => self.on_task(id, task, out),
            Current::Logout { itt, reason } => self.on_logout(id, itt, reason, out),
            Current::Reject(bhs, reason) => connection.reject(&bhs, reason),
        }
    }

    /// A text request: discovery.
    fn on_text(&mut self, id: ConnectionId, request: TextRequest, segment: &[u8], out: &mut Outbox) {
        let connection = self.connection(id);
        if request.ttt != NO_TAG && request.ttt != TEXT_TAG {
            return connection.text_reply(&request, Vec::new(), true);
        }
        if request.ttt == NO_TAG {
            connection.text = LongText::default();
        }
        if connection.text.request.len() + segment.len() > text::TEXT_BYTES {
            return self.close(id, out);
        }
        connection.text.request.extend_from_slice(segment);
        if request.more {
            return connection.text_reply(&request, Vec::new(), false);
        }
        if connection.text.reply.is_empty() {
            let whole = std::mem::take(&mut connection.text.request);
            let Ok(pairs) = text::parse(&whole) else { return self.close(id, out) };
            let reply = self.text_answer(id, &pairs);
            let connection = self.connection(id);
            let segment = (connection.params.peer_segment as usize).min(limits::ISCSI_SEGMENT_BYTES);
            connection.text.reply = reply.chunks(segment).map(<[u8]>::to_vec).collect();
        }
        let connection = self.connection(id);
        let piece = connection.text.reply.pop_front().unwrap_or_default();
        let is_last = connection.text.reply.is_empty();
        connection.text_reply(&request, piece, is_last);
    }

    fn text_answer(&mut self, id: ConnectionId, pairs: &[text::Pair]) -> Vec<u8> {
        let mine = self.connection(id).export();
        let mut reply = Vec::new();
        for (key, value) in pairs {
            match key.as_str() {
                "SendTargets" => {
                    let address = format!("{},{}", self.options.advertised, self.options.portal_group);
                    for (name, export) in &self.by_name {
                        // In a normal session a target tells of itself only.
                        let asked = match mine {
                            None => value == "All" || *value == name.as_str(),
                            Some(mine) => *export == mine && (value.is_empty() || *value == name.as_str()),
                        };
                        if asked && self.luns[export.0 as usize].state == LunState::Serving {
                            text::push(&mut reply, "TargetName", name.as_str());
                            text::push(&mut reply, "TargetAddress", &address);
                        }
                    }
                }
                "MaxRecvDataSegmentLength" | "InitiatorAlias" => {
                    if let Some(answer) = self.connection(id).params.answer(key, value).text() {
                        text::push(&mut reply, key, answer);
                    }
                }
                // What was agreed on at login stays.
                _ => text::push(&mut reply, key, "Reject"),
            }
        }
        reply
    }

    fn on_logout(&mut self, id: ConnectionId, itt: u32, reason: u8, out: &mut Outbox) {
        let connection = self.connection(id);
        if reason > 1 {
            // Removal for recovery is not of this recovery level.
            return connection.logout_reply(itt, 2);
        }
        self.stop_listening(id, Stage::LoggingOut { itt }, out);
        self.end_if_drained(id, out);
    }
}

impl Connection {
    /// Whether a request is the next one. `Ok(false)`: it lies outside the window and is ignored (4.2.2.1). A gap inside
    /// the window cannot be filled, since there is no other connection.
    pub fn number(&mut self, order: Order) -> Result<bool, Violation> {
        if order.immediate {
            return Ok(!before(self.exp_cmd_sn.wrapping_add(limits::ISCSI_TASKS), order.cmd_sn));
        }
        let ahead = order.cmd_sn.wrapping_sub(self.exp_cmd_sn);
        if ahead >= self.window() {
            return Ok(false);
        }
        if ahead > 0 {
            return Err(Violation);
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        Ok(true)
    }

    fn in_order(&mut self, order: Order, placed: impl FnOnce(&mut Connection) -> Placed) -> Result<Placed, Violation> {
        Ok(if self.number(order)? { placed(self) } else { Placed::dropped(Current::Ignored) })
    }

    /// Answers a NOP-Out with its own data.
    fn pong(&mut self, itt: u32, data: &[u8]) {
        let mut bhs = pdu::header(pdu::opcode::NOP_IN, pdu::FINAL, itt);
        put32(&mut bhs, 20, NO_TAG);
        let len = data.len().min(self.params.peer_segment as usize);
        self.send(bhs, Data::from(Buf::copy_of(&data[..len])), Numbered::Status);
    }

    /// Asks whether the initiator is there.
    pub fn ping(&mut self) {
        let mut bhs = pdu::header(pdu::opcode::NOP_IN, pdu::FINAL, NO_TAG);
        put32(&mut bhs, 20, PING_TAG);
        self.presence = Presence::Asked;
        self.send(bhs, Data::empty(), Numbered::Next);
    }

    fn text_reply(&mut self, request: &TextRequest, piece: Vec<u8>, is_last: bool) {
        let goes_on = if piece.is_empty() { 0 } else { pdu::CONTINUE };
        let flags = if is_last { pdu::FINAL } else { goes_on };
        let mut bhs = pdu::header(pdu::opcode::TEXT_RESPONSE, flags, request.itt);
        put32(&mut bhs, 20, if is_last { NO_TAG } else { TEXT_TAG });
        self.send(bhs, Data::from(Buf::copy_of(&piece)), Numbered::Status);
    }

    pub fn logout_reply(&mut self, itt: u32, response: u8) {
        let mut bhs = pdu::header(pdu::opcode::LOGOUT_RESPONSE, pdu::FINAL, itt);
        bhs[2] = response;
        // Time2Wait and Time2Retain: at once, and nothing is kept.
        put32(&mut bhs, 40, 0);
        self.send(bhs, Data::empty(), Numbered::Status);
    }
}
