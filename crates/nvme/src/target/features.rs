//! Get Features and Set Features (Base 5.15 and 5.27).

use block::Buf;

use super::admin::Answer;
use super::controller::{Controller, KeepAlive};
use super::{Effect, Outbox, Target};
use crate::Status;
use crate::command::{Sqe, feature, notice};

/// SV in CDW10 of Set Features: save across power cycles.
const SAVE: u32 = 1 << 31;
/// EXHID in CDW11: a 128 bit host identifier, the only form over fabrics.
const EXTENDED_HOST_ID: u32 = 1;

impl Controller {
    /// Get Features. SEL is not supported (ONCS bit 4 is clear), so this is always the current value.
    pub(super) fn get_feature(&self, sqe: &Sqe) -> Result<Answer, Status> {
        let is_nvm = self.subsystem.is_some();
        match sqe.cdw10.get() as u8 {
            feature::ASYNC_EVENTS => Ok(Answer::Done(self.events.enabled.into())),
            feature::KEEP_ALIVE => Ok(Answer::Done(self.keep_alive.map_or(0, |k| k.ms()).into())),
            feature::HOST_IDENTIFIER if sqe.cdw11.get() & EXTENDED_HOST_ID == 0 => {
                Err(Status::HOST_ID_INCONSISTENT.do_not_retry())
            }
            feature::HOST_IDENTIFIER => Ok(Answer::Data(self.host_id.to_vec())),
            feature::WRITE_CACHE if is_nvm => Ok(Answer::Done(1)),
            feature::NUMBER_OF_QUEUES if is_nvm => Ok(Answer::Done(queues_result(self.io_queues))),
            feature::ARBITRATION
            | feature::POWER_MANAGEMENT
            | feature::TEMPERATURE_THRESHOLD
            | feature::ERROR_RECOVERY
            | feature::WRITE_ATOMICITY
                if is_nvm =>
            {
                Ok(Answer::Done(0))
            }
            _ => Err(Status::INVALID_FIELD.do_not_retry()),
        }
    }
}

impl Target {
    pub(super) fn set_feature(
        &mut self,
        controller: u16,
        sqe: &Sqe,
        data: Option<Buf>,
        out: &mut Outbox,
    ) -> Result<Answer, Status> {
        let controller = self.controllers.get_mut(&controller).ok_or(Status::INTERNAL)?;
        if sqe.cdw10.get() & SAVE != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.do_not_retry());
        }
        let is_nvm = controller.subsystem.is_some();
        let value = sqe.cdw11.get();
        match sqe.cdw10.get() as u8 {
            feature::ASYNC_EVENTS => {
                // Only what OAES offers; SMART warnings (bits 4:0) may be asked for and never come.
                let offered = if is_nvm { notice::NAMESPACE_ATTRIBUTES | 0x1f } else { notice::DISCOVERY_LOG };
                if value & !offered != 0 {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                controller.events.enabled = value;
                Ok(Answer::Done(0))
            }
            feature::KEEP_ALIVE => {
                controller.keep_alive = KeepAlive::new(value);
                out.push(Effect::Timer);
                Ok(Answer::Done(0))
            }
            feature::HOST_IDENTIFIER => {
                // Over fabrics the identifier comes with Connect and does not change (Base 5.27.1.25).
                match data {
                    Some(data) if value & EXTENDED_HOST_ID != 0 && *data == controller.host_id => Ok(Answer::Done(0)),
                    _ => Err(Status::HOST_ID_INCONSISTENT.do_not_retry()),
                }
            }
            feature::NUMBER_OF_QUEUES if is_nvm => {
                let (submission, completion) = (value as u16, (value >> 16) as u16);
                if submission == u16::MAX || completion == u16::MAX {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                // Every queue is a pair, so the smaller number counts.
                let wanted = submission.min(completion) + 1;
                controller.io_queues = wanted.min(block::limits::IO_QUEUES);
                Ok(Answer::Done(queues_result(controller.io_queues)))
            }
            feature::WRITE_CACHE if is_nvm && value & 1 == 1 => Ok(Answer::Done(0)),
            feature::WRITE_CACHE if is_nvm => Err(Status::FEATURE_NOT_CHANGEABLE.do_not_retry()),
            feature::ARBITRATION
            | feature::POWER_MANAGEMENT
            | feature::TEMPERATURE_THRESHOLD
            | feature::ERROR_RECOVERY
            | feature::WRITE_ATOMICITY
                if is_nvm && value == 0 =>
            {
                Ok(Answer::Done(0))
            }
            _ => Err(Status::INVALID_FIELD.do_not_retry()),
        }
    }
}

/// NCQA and NSQA, 0's based.
fn queues_result(queues: u16) -> u64 {
    let n = u64::from(queues.saturating_sub(1));
    n | n << 16
}
