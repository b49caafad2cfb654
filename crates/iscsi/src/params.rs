//! Operational keys (13): what the two sides of a session agree on.

use block::limits;

use crate::text::number;

/// What a session's connection has agreed on; at first the defaults of the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// HeaderDigest is CRC32C.
    pub header_digest: bool,
    /// DataDigest is CRC32C.
    pub data_digest: bool,
    /// Unsolicited data comes only within the command's own PDU.
    pub initial_r2t: bool,
    /// A command's PDU may carry data.
    pub immediate_data: bool,
    /// Bytes of data in one sequence (solicited, or Data-In).
    pub max_burst: u32,
    /// Bytes of unsolicited data of one command.
    pub first_burst: u32,
    /// Bytes of data in one PDU that the peer takes.
    pub peer_segment: u32,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            peer_segment: 8192,
        }
    }
}

/// The answer to a key that the initiator offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This value.
    Value(String),
    /// A declaration: nothing is answered.
    Nothing,
    /// The value is not a valid one.
    Reject,
    /// The key is not known.
    NotUnderstood,
}

impl Answer {
    /// The text of the answer, if there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Answer::Value(value) => Some(value),
            Answer::Nothing => None,
            Answer::Reject => Some("Reject"),
            Answer::NotUnderstood => Some("NotUnderstood"),
        }
    }
}

fn yes(value: bool) -> Answer {
    Answer::Value(if value { "Yes" } else { "No" }.to_owned())
}

/// `Yes` or `No`.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A number within a range.
fn within(value: &str, least: u64, most: u64) -> Option<u32> {
    number(value).filter(|n| (least..=most).contains(n)).map(|n| n as u32)
}

/// The lower of the offer and `ours`, when the offer is a number within the range.
fn lower(value: &str, least: u64, most: u64, ours: u32) -> Option<(u32, Answer)> {
    let agreed = within(value, least, most)?.min(ours);
    Some((agreed, Answer::Value(agreed.to_string())))
}

impl Params {
    /// Answers one operational key as the target (13.1 to 13.26).
    pub fn answer(&mut self, key: &str, value: &str) -> Answer {
        if ["Reject", "NotUnderstood", "Irrelevant", "None"].contains(&value) && !key.ends_with("Digest") {
            return Answer::Nothing;
        }
        self.negotiate(key, value).unwrap_or(Answer::Reject)
    }

    fn negotiate(&mut self, key: &str, value: &str) -> Option<Answer> {
        let answer = match key {
            "HeaderDigest" => digest(value, &mut self.header_digest)?,
            "DataDigest" => digest(value, &mut self.data_digest)?,
            "InitialR2T" => {
                self.initial_r2t = boolean(value)?;
                yes(self.initial_r2t)
            }
            "ImmediateData" => {
                self.immediate_data = boolean(value)?;
                yes(self.immediate_data)
            }
            "MaxRecvDataSegmentLength" => {
                self.peer_segment = within(value, 512, 0xff_ffff)?;
                Answer::Nothing
            }
            "MaxBurstLength" => {
                let (agreed, answer) = lower(value, 512, 0xff_ffff, limits::TRANSFER_BYTES as u32)?;
                self.max_burst = agreed;
                self.first_burst = self.first_burst.min(agreed);
                answer
            }
            "FirstBurstLength" => {
                let ours = (limits::ISCSI_FIRST_BURST_BYTES as u32).min(self.max_burst);
                let (agreed, answer) = lower(value, 512, 0xff_ffff, ours)?;
                self.first_burst = agreed;
                answer
            }
            "MaxConnections" | "MaxOutstandingR2T" => lower(value, 1, 65_535, 1)?.1,
            "ErrorRecoveryLevel" => lower(value, 0, 2, 0)?.1,
            "DefaultTime2Retain" => lower(value, 0, 3600, 0)?.1,
            "DefaultTime2Wait" => Answer::Value(within(value, 0, 3600)?.max(2).to_string()),
            // Data comes in order; that needs both sides to allow otherwise.
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                boolean(value)?;
                yes(true)
            }
            "IFMarker" | "OFMarker" => {
                boolean(value)?;
                yes(false)
            }
            "IFMarkInt" | "OFMarkInt" => Answer::Reject,
            "iSCSIProtocolLevel" => lower(value, 0, 31, 1)?.1,
            "TaskReporting" => {
                Answer::Value(value.split(',').find(|v| *v == "RFC3720").map_or("Reject", |v| v).to_owned())
            }
            "InitiatorAlias" => Answer::Nothing,
            _ => Answer::NotUnderstood,
        };
        Some(answer)
    }
}

/// The initiator's first choice among those that we know.
fn digest(list: &str, chosen: &mut bool) -> Option<Answer> {
    let choice = list.split(',').find(|d| ["CRC32C", "None"].contains(d))?;
    *chosen = choice == "CRC32C";
    Some(Answer::Value(choice.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Answer {
        Answer::Value(text.to_owned())
    }

    #[test]
    fn what_linux_offers() {
        let mut p = Params::default();
        let offers = [
            ("HeaderDigest", "None,CRC32C", value("None")),
            ("DataDigest", "CRC32C,None", value("CRC32C")),
            ("DefaultTime2Wait", "0", value("2")),
            ("DefaultTime2Retain", "20", value("0")),
            ("IFMarker", "No", value("No")),
            ("ErrorRecoveryLevel", "2", value("0")),
            ("InitialR2T", "No", value("No")),
            ("ImmediateData", "Yes", value("Yes")),
            ("MaxBurstLength", "16776192", value("1048576")),
            ("FirstBurstLength", "262144", value("65536")),
            ("MaxOutstandingR2T", "8", value("1")),
            ("MaxConnections", "1", value("1")),
            ("DataPDUInOrder", "No", value("Yes")),
            ("MaxRecvDataSegmentLength", "262144", Answer::Nothing),
            ("TaskReporting", "FastAbort,RFC3720", value("RFC3720")),
            ("X-com.example.key", "1", Answer::NotUnderstood),
            ("SomethingElse", "NotUnderstood", Answer::Nothing),
        ];
        for (key, offer, answer) in offers {
            assert_eq!(p.answer(key, offer), answer, "{key}");
        }
        let expected = Params {
            header_digest: false,
            data_digest: true,
            initial_r2t: false,
            immediate_data: true,
            max_burst: 1 << 20,
            first_burst: 65_536,
            peer_segment: 262_144,
        };
        assert_eq!(p, expected);
    }

    #[test]
    fn values_that_are_not_valid_are_rejected_and_change_nothing() {
        let mut p = Params::default();
        for (key, offer) in [
            ("MaxBurstLength", "511"),
            ("MaxBurstLength", "x"),
            ("FirstBurstLength", "16777216"),
            ("InitialR2T", "maybe"),
            ("MaxConnections", "0"),
            ("HeaderDigest", "MD5"),
            ("MaxRecvDataSegmentLength", "0"),
            ("ErrorRecoveryLevel", "3"),
        ] {
            assert_eq!(p.answer(key, offer), Answer::Reject, "{key}={offer}");
        }
        assert_eq!(p, Params::default());
    }

    #[test]
    fn the_first_burst_is_never_longer_than_a_burst() {
        let mut p = Params::default();
        p.answer("MaxBurstLength", "4096");
        assert_eq!(p.answer("FirstBurstLength", "8192"), value("4096"));
        assert_eq!(p.first_burst, 4096);
    }
}
