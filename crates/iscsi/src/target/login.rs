//! The login phase (6.3): who the initiator is, what it wants to work with, and what both agree on.

use block::{Buf, Data, limits};

use super::connection::{Numbered, SILENCE, Session, Stage, Timer};
use super::{ConnectionId, Effect, ExportId, LunState, Outbox, Target};
use crate::IscsiName;
use crate::chap::{self, Algorithm, Chap};
use crate::pdu::{self, LoginRequest, LoginStatus};
use crate::scsi::reserve::Port;
use crate::text::{self, Pair};

/// The longest text in a login answer: what an initiator that has said nothing yet takes in one PDU.
const ANSWER_BYTES: usize = 8192;
/// The longest challenge and response of CHAP.
const CHAP_BYTES: usize = 1024;

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// How far the initiator has proven who it is.
///
/// `Open ─AuthMethod=CHAP─► Chosen ─CHAP_A─► Challenged ─right CHAP_R─► Proven`, and `Open ─AuthMethod=None─► Proven`
#[derive(Debug)]
enum Auth {
    Open,
    Chosen,
    Challenged { algorithm: Algorithm, identifier: u8, challenge: Vec<u8> },
    Proven,
}

/// What a login has come to.
#[derive(Debug)]
pub(super) struct Login {
    seed: [u8; 16],
    /// Text of requests that go on in the next.
    text: Vec<u8>,
    /// The stage that both are in, once there was a request.
    stage: Option<u8>,
    auth: Auth,
    identity: Option<(Port, Option<ExportId>)>,
    /// Whether our own declarations were sent.
    declared: bool,
    /// The last answer, while it is held back.
    held: Option<(LoginRequest, Vec<u8>)>,
}

impl Login {
    pub fn new(seed: [u8; 16]) -> Login {
        Login { seed, text: Vec::new(), stage: None, auth: Auth::Open, identity: None, declared: false, held: None }
    }

    /// The security stage: one exchange of keys.
    fn security(&mut self, pairs: &[Pair], chap: Option<&Chap>, reply: &mut Vec<u8>) -> Result<(), LoginStatus> {
        if let (Auth::Open, Some(methods)) = (&self.auth, find(pairs, "AuthMethod")) {
            let method = if chap.is_some() { "CHAP" } else { "None" };
            if !methods.split(',').any(|m| m == method) {
                return Err(LoginStatus::AuthenticationFailed);
            }
            text::push(reply, "AuthMethod", method);
            self.auth = if chap.is_some() { Auth::Chosen } else { Auth::Proven };
        }
        let Some(chap) = chap else { return Ok(()) };
        match &self.auth {
            Auth::Chosen => {
                let Some(list) = find(pairs, "CHAP_A") else { return Ok(()) };
                let algorithm = Algorithm::choose(list).ok_or(LoginStatus::AuthenticationFailed)?;
                let (identifier, challenge) = (self.seed[0], self.seed.to_vec());
                text::push(reply, "CHAP_A", algorithm.number());
                text::push(reply, "CHAP_I", &identifier.to_string());
                text::push(reply, "CHAP_C", &text::hex(&challenge));
                self.auth = Auth::Challenged { algorithm, identifier, challenge };
            }
            Auth::Challenged { algorithm, identifier, challenge } => {
                let refused = LoginStatus::AuthenticationFailed;
                let (name, response) = (find(pairs, "CHAP_N"), find(pairs, "CHAP_R"));
                let response = response.and_then(|r| text::binary(r, CHAP_BYTES)).ok_or(refused)?;
                let expected = algorithm.respond(*identifier, &chap.initiator.secret, challenge);
                if name != Some(&chap.initiator.name) || !chap::same(&response, &expected) {
                    return Err(refused);
                }
                prove(pairs, chap, *algorithm, challenge, reply)?;
                self.auth = Auth::Proven;
            }
            Auth::Open | Auth::Proven => {}
        }
        Ok(())
    }
}

/// Mutual CHAP: answers the initiator's challenge, if there is one.
fn prove(
    pairs: &[Pair],
    chap: &Chap,
    algorithm: Algorithm,
    ours: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), LoginStatus> {
    let Some(challenge) = find(pairs, "CHAP_C") else { return Ok(()) };
    let refused = LoginStatus::AuthenticationFailed;
    let challenge = text::binary(challenge, CHAP_BYTES).ok_or(refused)?;
    let identifier = find(pairs, "CHAP_I").and_then(text::number).and_then(|n| u8::try_from(n).ok()).ok_or(refused)?;
    let target = chap.target.as_ref().ok_or(refused)?;
    // Whoever sends our own challenge back wants us to answer it.
    if challenge == ours {
        return Err(refused);
    }
    text::push(reply, "CHAP_N", &target.name);
    text::push(reply, "CHAP_R", &text::hex(&algorithm.respond(identifier, &target.secret, &challenge)));
    Ok(())
}

fn find<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// What a request leads to.
enum Next {
    /// An answer in the same stage.
    Stay(Vec<u8>),
    /// An answer, and the next stage.
    Go(Vec<u8>),
}

impl Target {
    /// A login request, whole.
    pub(super) fn on_login(&mut self, id: ConnectionId, request: LoginRequest, segment: &[u8], out: &mut Outbox) {
        out.push(Effect::Wake(id));
        let stage = request.current << 2;
        let done = match self.negotiate(id, &request, segment) {
            Ok(Next::Stay(text)) => Ok((stage, text)),
            Ok(Next::Go(text)) if request.next == FULL_FEATURE => return self.establish(id, request, text, out),
            Ok(Next::Go(text)) => Ok((pdu::FINAL | stage | request.next, text)),
            Err(status) => Err(status),
        };
        match done {
            Ok((flags, text)) => {
                let bhs = pdu::login_response(&request, flags, request.tsih, LoginStatus::Success);
                self.connection(id).send(bhs, Data::from(Buf::copy_of(&text)), Numbered::Status);
            }
            Err(status) => {
                let bhs = pdu::login_response(&request, stage, request.tsih, status);
                self.connection(id).send(bhs, Data::empty(), Numbered::Status);
                self.finish(id, out);
            }
        }
    }

    fn negotiate(&mut self, id: ConnectionId, request: &LoginRequest, segment: &[u8]) -> Result<Next, LoginStatus> {
        let mut login = self.connection(id).login.take().ok_or(LoginStatus::InitiatorError)?;
        self.connection(id).exp_cmd_sn = request.cmd_sn;
        let next = self.negotiate_with(id, &mut login, request, segment);
        self.connection(id).login = Some(login);
        next
    }

    fn negotiate_with(
        &mut self,
        id: ConnectionId,
        login: &mut Login,
        request: &LoginRequest,
        segment: &[u8],
    ) -> Result<Next, LoginStatus> {
        if request.version_min > 0 {
            return Err(LoginStatus::Version);
        }
        let is_next = match (request.transit, request.current, request.next) {
            (false, SECURITY | OPERATIONAL, _) => true,
            (true, SECURITY, OPERATIONAL | FULL_FEATURE) | (true, OPERATIONAL, FULL_FEATURE) => !request.more,
            _ => false,
        };
        if !is_next || login.stage.is_some_and(|s| s != request.current) {
            return Err(LoginStatus::InitiatorError);
        }
        login.stage = Some(request.current);
        if login.text.len() + segment.len() > text::TEXT_BYTES {
            return Err(LoginStatus::InitiatorError);
        }
        login.text.extend_from_slice(segment);
        if request.more {
            return Ok(Next::Stay(Vec::new()));
        }
        let pairs = text::parse(&std::mem::take(&mut login.text)).map_err(|_| LoginStatus::InitiatorError)?;
        let mut reply = Vec::new();
        if login.identity.is_none() {
            let identity = self.identify(request, &pairs)?;
            if identity.1.is_some() {
                text::push(&mut reply, "TargetPortalGroupTag", &self.options.portal_group.to_string());
            }
            login.identity = Some(identity);
        }
        if request.current == SECURITY {
            login.security(&pairs, self.options.chap.as_ref(), &mut reply)?;
        } else if self.options.chap.is_some() && !matches!(login.auth, Auth::Proven) {
            return Err(LoginStatus::AuthenticationFailed);
        }
        self.answer_keys(id, login, &pairs, request.current, &mut reply);
        if reply.len() > ANSWER_BYTES {
            return Err(LoginStatus::InitiatorError);
        }
        let open = self.options.chap.is_some() && !matches!(login.auth, Auth::Proven);
        match (request.transit, open, &login.auth) {
            (true, true, Auth::Open) => Err(LoginStatus::AuthenticationFailed),
            (false, ..) | (true, true, _) => Ok(Next::Stay(reply)),
            (true, false, _) => {
                login.stage = Some(request.next);
                Ok(Next::Go(reply))
            }
        }
    }

    /// Answers the operational keys; in the security stage there should be none.
    fn answer_keys(&mut self, id: ConnectionId, login: &mut Login, pairs: &[Pair], stage: u8, reply: &mut Vec<u8>) {
        const OTHER: [&str; 10] = [
            "InitiatorName",
            "InitiatorAlias",
            "TargetName",
            "SessionType",
            "AuthMethod",
            "CHAP_A",
            "CHAP_I",
            "CHAP_C",
            "CHAP_N",
            "CHAP_R",
        ];
        for (key, value) in pairs.iter().filter(|(key, _)| !OTHER.contains(&key.as_str())) {
            let answer = self.connection(id).params.answer(key, value);
            if let Some(answer) = answer.text() {
                text::push(reply, key, answer);
            }
        }
        if stage == OPERATIONAL && !login.declared {
            login.declared = true;
            text::push(reply, "MaxRecvDataSegmentLength", &limits::ISCSI_SEGMENT_BYTES.to_string());
        }
    }

    /// The first request says who logs in, and for what.
    fn identify(&self, request: &LoginRequest, pairs: &[Pair]) -> Result<(Port, Option<ExportId>), LoginStatus> {
        let initiator = find(pairs, "InitiatorName").ok_or(LoginStatus::MissingParameter)?;
        let initiator = IscsiName::new(initiator).map_err(|_| LoginStatus::InitiatorError)?;
        let port = Port { initiator, isid: request.isid };
        let export = match find(pairs, "SessionType").unwrap_or("Normal") {
            "Discovery" => None,
            "Normal" => {
                let name = find(pairs, "TargetName").ok_or(LoginStatus::MissingParameter)?;
                let export = self.serves(&name.to_lowercase()).ok_or(LoginStatus::NotFound)?;
                Some(export)
            }
            _ => return Err(LoginStatus::SessionType),
        };
        if request.tsih != 0 {
            let sessions = self.connections.iter().filter_map(|(_, c)| c.session.as_ref());
            let exists = sessions.into_iter().any(|s| s.tsih == request.tsih && s.port == port);
            return Err(if exists { LoginStatus::TooManyConnections } else { LoginStatus::NoSession });
        }
        Ok((port, export))
    }

    /// The login is complete: the session takes the place of an older one of the same initiator's port.
    fn establish(&mut self, id: ConnectionId, request: LoginRequest, reply: Vec<u8>, out: &mut Outbox) {
        let Some((port, export)) = self.connection(id).login.as_mut().and_then(|l| l.identity.take()) else {
            return self.close(id, out);
        };
        // The target may have gone since the first request.
        if export.is_some_and(|e| self.luns.get(e.0 as usize).is_none_or(|l| l.state != LunState::Serving)) {
            return self.close(id, out);
        }
        self.next_tsih = self.next_tsih.wrapping_add(1).max(1);
        let session = Session { port, export, tsih: self.next_tsih };
        let connection = self.connection(id);
        connection.session = Some(session);
        connection.stage = Stage::Held;
        if let Some(login) = &mut connection.login {
            login.held = Some((request, reply));
        }
        let (headers, data) = (connection.params.header_digest, connection.params.data_digest);
        (connection.receiver.header_digest, connection.receiver.data_digest) = (headers, data);
        for older in self.rivals(id) {
            self.close(older, out);
        }
        self.release_held(out);
    }

    /// Other connections of the same initiator's port with the same target.
    fn rivals(&self, id: ConnectionId) -> Vec<ConnectionId> {
        let mine = self.connections[id.index()].session.as_ref();
        // Discovery sessions do not get into each other's way.
        let Some(mine) = mine.filter(|s| s.export.is_some()) else { return Vec::new() };
        let same = |s: &Session| s.port == mine.port && s.export == mine.export;
        let others =
            self.connections.iter().filter(|(index, c)| *index != id.index() && c.session.as_ref().is_some_and(same));
        others.map(|(index, _)| ConnectionId(index as u32)).collect()
    }

    /// Sends the last login answers for which no older session has a command at a disk any more.
    pub(super) fn release_held(&mut self, out: &mut Outbox) {
        let held = self.connections.iter().filter(|(_, c)| c.stage == Stage::Held);
        let held: Vec<ConnectionId> = held.map(|(index, _)| ConnectionId(index as u32)).collect();
        for id in held {
            if self.rivals(id).iter().all(|r| self.connections[r.index()].tasks.at_disk() == 0) {
                self.enter_full_feature(id, out);
            }
        }
    }

    fn enter_full_feature(&mut self, id: ConnectionId, out: &mut Outbox) {
        let connection = self.connection(id);
        let held = connection.login.take().and_then(|l| l.held);
        let (Some((request, reply)), Some(tsih)) = (held, connection.session.as_ref().map(|s| s.tsih)) else { return };
        connection.stage = Stage::Full;
        connection.timer = Timer::After(SILENCE);
        let flags = pdu::FINAL | request.current << 2 | FULL_FEATURE;
        let bhs = pdu::login_response(&request, flags, tsih, LoginStatus::Success);
        connection.send(bhs, Data::from(Buf::copy_of(&reply)), Numbered::Status);
        // From the next PDU on.
        connection.output.header_digest = connection.params.header_digest;
        connection.output.data_digest = connection.params.data_digest;
        out.push(Effect::Wake(id));
        out.push(Effect::Timer);
    }
}
