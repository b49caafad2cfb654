//! The login phase (6.3), from the initiator's side.
//!
//! ```text
//!             AuthMethod=None
//!   Begin ───────────────────────────────────────────┐
//!     │ AuthMethod=CHAP       CHAP_A, CHAP_I, CHAP_C  ▼            transit
//!     └────────────▶ Chosen ─────────▶ Proving ──▶ Operational ──────────────▶ full feature phase
//!                                        right CHAP_R, or none wanted
//! ```

use block::limits;

use super::Violation;
use super::session::SessionOptions;
use crate::chap::{self, Algorithm};
use crate::params::Params;
use crate::text::{self, Pair};

/// Exchanges of one login; a target that goes on for longer does not want to end it.
const MOST_ROUNDS: usize = 16;
/// The longest challenge and response of CHAP.
const CHAP_BYTES: usize = 1024;

pub(super) const SECURITY: u8 = 0;
pub(super) const OPERATIONAL: u8 = 1;
pub(super) const FULL_FEATURE: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Chosen,
    Proving(Algorithm),
    Operational,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Say {
    /// Current stage.
    pub(super) stage: u8,
    /// The stage that we are ready for.
    pub(super) next: Option<u8>,
    pub(super) text: Vec<u8>,
}

/// A login that is under way.
#[derive(Debug)]
pub(super) struct Login {
    step: Step,
    rounds: usize,
    /// Text of answers that go on in the next.
    text: Vec<u8>,
    pub(super) params: Params,
    /// Whether the operational keys were offered.
    offered: bool,
}

fn find<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

impl Login {
    pub(super) fn new() -> Login {
        Login { step: Step::Begin, rounds: 0, text: Vec::new(), params: Params::default(), offered: false }
    }

    /// The first request.
    pub(super) fn begin(&self, options: &SessionOptions) -> Say {
        let mut text = Vec::new();
        text::push(&mut text, "InitiatorName", options.initiator.as_str());
        text::push(&mut text, "TargetName", options.target.as_str());
        text::push(&mut text, "SessionType", "Normal");
        text::push(&mut text, "AuthMethod", if options.chap.is_some() { "CHAP" } else { "None" });
        Say { stage: SECURITY, next: options.chap.is_none().then_some(OPERATIONAL), text }
    }

    /// An answer without an error: its stage, whether it goes on in the next (C), the stage that it grants (T), its text.
    /// What to say next, or `None` when the login is complete.
    pub(super) fn answer(
        &mut self,
        options: &SessionOptions,
        (stage, more, granted): (u8, bool, Option<u8>),
        segment: &[u8],
    ) -> Result<Option<Say>, Violation> {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS || self.text.len() + segment.len() > text::TEXT_BYTES {
            return Err(Violation::Login("it does not come to an end"));
        }
        let ours = if self.step == Step::Operational { OPERATIONAL } else { SECURITY };
        if stage != ours || more && granted.is_some() {
            return Err(Violation::Login("it is in another stage"));
        }
        self.text.extend_from_slice(segment);
        if more {
            return Ok(Some(Say { stage, next: None, text: Vec::new() }));
        }
        let text = std::mem::take(&mut self.text);
        let pairs = text::parse(&text).map_err(|_| Violation::Login("its keys make no sense"))?;
        match (self.step, granted) {
            (Step::Operational, granted) => self.operational(&pairs, granted),
            (Step::Begin, _) if options.chap.is_none() => {
                if find(&pairs, "AuthMethod").is_some_and(|method| method != "None") {
                    return Err(Violation::Authentication(
                        "it wants a proof of who we are, and no secret is configured",
                    ));
                }
                self.declared(&pairs)?;
                match granted {
                    Some(OPERATIONAL) => Ok(Some(self.offer(options))),
                    Some(_) => Ok(None),
                    None => Ok(Some(Say { stage: SECURITY, next: Some(OPERATIONAL), text: Vec::new() })),
                }
            }
            _ => self.security(options, &pairs, granted),
        }
    }

    /// CHAP (12.1.3): what we asked for is what we insist on.
    fn security(
        &mut self,
        options: &SessionOptions,
        pairs: &[Pair],
        granted: Option<u8>,
    ) -> Result<Option<Say>, Violation> {
        let wrong = |why| Err(Violation::Authentication(why));
        let Some(secrets) = options.chap.as_ref() else { return wrong("nobody asked for a proof") };
        self.declared(pairs)?;
        let mut text = Vec::new();
        match self.step {
            Step::Begin => {
                if find(pairs, "AuthMethod") != Some("CHAP") || granted.is_some() {
                    return wrong("it does not want a proof of who we are");
                }
                text::push(&mut text, "CHAP_A", "7,5");
                self.step = Step::Chosen;
                Ok(Some(Say { stage: SECURITY, next: None, text }))
            }
            Step::Chosen => {
                let algorithm = find(pairs, "CHAP_A").and_then(Algorithm::choose);
                let id = find(pairs, "CHAP_I").and_then(text::number).and_then(|n| u8::try_from(n).ok());
                let challenge = find(pairs, "CHAP_C").and_then(|c| text::binary(c, CHAP_BYTES));
                let (Some(algorithm), Some(id), Some(challenge)) = (algorithm, id, challenge) else {
                    return wrong("it did not challenge us");
                };
                text::push(&mut text, "CHAP_N", &secrets.initiator.name);
                let response = algorithm.respond(id, &secrets.initiator.secret, &challenge);
                text::push(&mut text, "CHAP_R", &text::hex(&response));
                if secrets.target.is_some() {
                    // It must not be able to let us answer our own question.
                    if challenge == options.seed {
                        return wrong("it sent our own challenge back");
                    }
                    text::push(&mut text, "CHAP_I", &options.seed[0].to_string());
                    text::push(&mut text, "CHAP_C", &text::hex(&options.seed));
                }
                self.step = Step::Proving(algorithm);
                Ok(Some(Say { stage: SECURITY, next: Some(OPERATIONAL), text }))
            }
            Step::Proving(algorithm) => {
                if let Some(target) = &secrets.target {
                    let response = find(pairs, "CHAP_R").and_then(|r| text::binary(r, CHAP_BYTES)).unwrap_or_default();
                    let expected = algorithm.respond(options.seed[0], &target.secret, &options.seed);
                    if find(pairs, "CHAP_N") != Some(&target.name) || !chap::same(&response, &expected) {
                        return wrong("it did not prove who it is");
                    }
                }
                match granted {
                    Some(OPERATIONAL) => Ok(Some(self.offer(options))),
                    Some(_) => Ok(None),
                    None => wrong("it does not accept our proof"),
                }
            }
            Step::Operational => unreachable!("has its own function"),
        }
    }

    /// Our offers.
    fn offer(&mut self, options: &SessionOptions) -> Say {
        self.step = Step::Operational;
        self.offered = true;
        let mut text = Vec::new();
        let digest = |wanted| if wanted { "CRC32C,None" } else { "None" };
        for (key, value) in [
            ("HeaderDigest", digest(options.header_digest)),
            ("DataDigest", digest(options.data_digest)),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxConnections", "1"),
            ("MaxOutstandingR2T", "1"),
            ("ErrorRecoveryLevel", "0"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("MaxBurstLength", &limits::TRANSFER_BYTES.to_string()),
            ("FirstBurstLength", &limits::ISCSI_FIRST_BURST_BYTES.to_string()),
            ("MaxRecvDataSegmentLength", &limits::ISCSI_SEGMENT_BYTES.to_string()),
        ] {
            text::push(&mut text, key, value);
        }
        Say { stage: OPERATIONAL, next: Some(FULL_FEATURE), text }
    }

    fn operational(&mut self, pairs: &[Pair], granted: Option<u8>) -> Result<Option<Say>, Violation> {
        let mut text = Vec::new();
        for (key, value) in pairs {
            self.agree(key, value, &mut text)?;
        }
        match granted {
            Some(FULL_FEATURE) if text.is_empty() => Ok(None),
            Some(_) => Err(Violation::Login("it goes on before we have answered")),
            None => Ok(Some(Say { stage: OPERATIONAL, next: Some(FULL_FEATURE), text })),
        }
    }

    /// Keys that a target declares, also in the security stage.
    fn declared(&mut self, pairs: &[Pair]) -> Result<(), Violation> {
        let declares = |key: &str| key == "MaxRecvDataSegmentLength";
        for (key, value) in pairs.iter().filter(|(key, _)| declares(key)) {
            self.agree(key, value, &mut Vec::new())?;
        }
        Ok(())
    }

    /// One operational key: an answer to an offer of ours, a declaration, or an offer that `text` answers.
    fn agree(&mut self, key: &str, value: &str, text: &mut Vec<u8>) -> Result<(), Violation> {
        let wrong = Violation::Login("it answered an offer with something else");
        let params = &mut self.params;
        let number = |most: u64| text::number(value).filter(|n| (512..=most).contains(n)).map(|n| n as u32);
        match key {
            "TargetPortalGroupTag" | "TargetAlias" | "TargetAddress" => {}
            "MaxRecvDataSegmentLength" => params.peer_segment = number(0xff_ffff).ok_or(wrong)?,
            // It may decline what it does not know; then the default holds.
            _ if ["Reject", "NotUnderstood", "Irrelevant"].contains(&value) && self.offered => {}
            "HeaderDigest" => params.header_digest = digest(value).ok_or(wrong)?,
            "DataDigest" => params.data_digest = digest(value).ok_or(wrong)?,
            "InitialR2T" => params.initial_r2t = yes(value).ok_or(wrong)?,
            "ImmediateData" => params.immediate_data = yes(value).ok_or(wrong)?,
            "MaxBurstLength" => params.max_burst = number(limits::TRANSFER_BYTES as u64).ok_or(wrong)?,
            "FirstBurstLength" => params.first_burst = number(limits::ISCSI_FIRST_BURST_BYTES as u64).ok_or(wrong)?,
            "MaxConnections" | "MaxOutstandingR2T" if value == "1" => {}
            "ErrorRecoveryLevel" if value == "0" => {}
            "DefaultTime2Wait" | "DefaultTime2Retain" => {}
            "DataPDUInOrder" | "DataSequenceInOrder" if value == "Yes" => {}
            "MaxConnections"
            | "MaxOutstandingR2T"
            | "ErrorRecoveryLevel"
            | "DataPDUInOrder"
            | "DataSequenceInOrder" => {
                return Err(wrong);
            }
            _ => {
                if let Some(answer) = params.answer(key, value).text() {
                    text::push(text, key, answer);
                }
            }
        }
        Ok(())
    }
}

fn digest(value: &str) -> Option<bool> {
    match value {
        "CRC32C" => Some(true),
        "None" => Some(false),
        _ => None,
    }
}

fn yes(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}
