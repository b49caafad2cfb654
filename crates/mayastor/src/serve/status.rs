//! The node's errors as gRPC statuses.

use engine::model::{Error, ErrorKind};
use tonic::{Code, Status};

/// The code of a kind; one to one.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Aborted => Code::Aborted,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::DataLoss => Code::DataLoss,
    }
}

/// The status of an error, for the calls beyond v0.3.0.
pub fn status(error: Error) -> Status {
    Status::new(code(error.kind), error.message)
}

/// The status of an error for a call whose v0.3.0 contract has other codes for some kinds.
pub fn legacy(codes: &'static [(ErrorKind, Code)]) -> impl Fn(Error) -> Status {
    move |error| {
        let own = codes.iter().find(|(kind, _)| *kind == error.kind);
        Status::new(own.map_or_else(|| code(error.kind), |(_, code)| *code), error.message)
    }
}
