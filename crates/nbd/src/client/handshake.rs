//! The handshake of the client.

use block::limits;

use super::{Client, State, TEXT_BYTES, Violation};
use crate::proto::{
    GREETING, OPTION_REPLY_HEADER_BYTES, OPTION_REPLY_MAGIC, get16, get32, get64, handshake, info, option,
    option_bytes, reply,
};

impl<T> Client<T> {
    pub(super) fn greeting(&mut self) -> Result<bool, Violation> {
        let bytes = self.bytes();
        let known = bytes.len().min(GREETING.len());
        if bytes[..known] != GREETING[..known] {
            return Err(Violation::NotNewstyle);
        }
        let Some(flags) = get16(bytes, GREETING.len()) else { return Ok(false) };
        if flags & handshake::FIXED_NEWSTYLE == 0 {
            return Err(Violation::NotNewstyle);
        }
        self.start += GREETING.len() + 2;
        let ours = flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        self.output.small(&u32::from(ours).to_be_bytes());
        self.ask(if self.options.extended { State::Extended } else { State::Structured });
        Ok(true)
    }

    /// Sends the option of a state.
    fn ask(&mut self, state: State) {
        self.state = state;
        let bytes = match state {
            State::Extended => option_bytes(option::EXTENDED_HEADERS, &[]),
            State::Structured => option_bytes(option::STRUCTURED_REPLY, &[]),
            State::Go => {
                let name = self.options.export.as_bytes();
                let wanted = [1u16.to_be_bytes(), info::BLOCK_SIZE.to_be_bytes()].concat();
                option_bytes(option::GO, &[&(name.len() as u32).to_be_bytes()[..], name, &wanted].concat())
            }
            State::Greeting | State::Ready => unreachable!("no option goes with {state:?}"),
        };
        bytes.chunks(2048).for_each(|piece| self.output.small(piece));
    }

    /// One answer to an option.
    pub(super) fn option_reply(&mut self) -> Result<bool, Violation> {
        let bytes = self.bytes();
        let Some(length) = get32(bytes, 16) else { return Ok(false) };
        if get64(bytes, 0) != Some(OPTION_REPLY_MAGIC) {
            return Err(Violation::Protocol("a wrong magic number in the answer to an option"));
        }
        let length = length as usize;
        if length > TEXT_BYTES {
            return Err(Violation::Protocol("the answer to an option is too long"));
        }
        let Some(data) = bytes.get(OPTION_REPLY_HEADER_BYTES..OPTION_REPLY_HEADER_BYTES + length) else {
            return Ok(false);
        };
        let (option, kind) = (get32(bytes, 8).unwrap_or(0), get32(bytes, 12).unwrap_or(0));
        let data = data.to_vec();
        self.start += OPTION_REPLY_HEADER_BYTES + length;
        let asked = match self.state {
            State::Extended => option::EXTENDED_HEADERS,
            State::Structured => option::STRUCTURED_REPLY,
            _ => option::GO,
        };
        if option != asked {
            return Err(Violation::Protocol("an answer to another option"));
        }
        let is_error = kind & reply::ERROR != 0;
        match self.state {
            State::Go if kind == reply::INFO => self.learn(&data)?,
            State::Go if kind == reply::ERR_UNKNOWN => {
                return Err(Violation::NoSuchExport(self.options.export.clone()));
            }
            State::Go if is_error => {
                let text = String::from_utf8_lossy(&data).into_owned();
                let why = if text.is_empty() { format!("error {:#x}", kind & !reply::ERROR) } else { text };
                return Err(Violation::Refused { export: self.options.export.clone(), why });
            }
            State::Go if kind == reply::ACK => {
                if !self.has_info {
                    return Err(Violation::Protocol("it does not tell the size of the export"));
                }
                self.state = State::Ready;
            }
            State::Extended if is_error => self.ask(State::Structured),
            State::Extended | State::Structured if is_error || kind == reply::ACK => {
                self.chunks = !is_error;
                self.info.extended = self.state == State::Extended;
                self.ask(State::Go);
            }
            _ => return Err(Violation::Protocol("an answer that does not fit the option")),
        }
        Ok(true)
    }

    /// Something about the export.
    fn learn(&mut self, data: &[u8]) -> Result<(), Violation> {
        match get16(data, 0) {
            Some(info::EXPORT) => {
                let (Some(size), Some(flags)) = (get64(data, 2), get16(data, 10)) else {
                    return Err(Violation::Protocol("an INFO_EXPORT that is too short"));
                };
                (self.info.size, self.info.flags, self.has_info) = (size, flags, true);
            }
            Some(info::BLOCK_SIZE) => {
                let (Some(smallest), Some(longest)) = (get32(data, 2), get32(data, 10)) else {
                    return Err(Violation::Protocol("an INFO_BLOCK_SIZE that is too short"));
                };
                if !smallest.is_power_of_two() || smallest > 64 << 10 || longest < smallest {
                    return Err(Violation::Protocol("impossible block sizes"));
                }
                self.info.smallest = smallest;
                self.info.longest = longest.min(limits::NBD_PAYLOAD_BYTES as u32);
            }
            Some(_) => {}
            None => return Err(Violation::Protocol("an empty INFO")),
        }
        Ok(())
    }
}
