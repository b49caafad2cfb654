//! Refusals as problem documents (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};
use utoipa::ToSchema;

/// Why something was not done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, for a person.
    pub detail: String,
    /// What is wrong, for a program: the gRPC code in lower case, such as `not-found` or `failed-precondition`.
    pub code: &'static str,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or("Problem").to_owned();
        Problem { kind: "about:blank", title, status: status.as_u16(), detail: detail.into(), code }
    }
    /// 400: the request itself is wrong.
    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "invalid-argument", detail)
    }
    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    }
    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "permission-denied", detail)
    }
    /// 401: nobody that is known.
    pub fn unauthenticated(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }
    /// 405.
    pub fn method() -> Problem {
        let text = "this method does not exist here; /openapi.json lists what there is";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "unimplemented", text)
    }
    /// A request that could not be read, with the status of whoever tried.
    pub fn unreadable(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem::new(status, "invalid-argument", detail)
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Problem {
        let (http, code) = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => (StatusCode::BAD_REQUEST, "invalid-argument"),
            Code::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Code::AlreadyExists => (StatusCode::CONFLICT, "already-exists"),
            Code::FailedPrecondition => (StatusCode::CONFLICT, "failed-precondition"),
            Code::Aborted => (StatusCode::CONFLICT, "aborted"),
            // No room: not a failure of the server, and another state of the cluster would allow it.
            Code::ResourceExhausted => (StatusCode::CONFLICT, "resource-exhausted"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded"),
            Code::PermissionDenied => (StatusCode::FORBIDDEN, "permission-denied"),
            Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
            Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "data-loss"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Problem::new(http, code, status.message())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("plain data");
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
