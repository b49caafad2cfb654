//! Who may ask. A browser carries other people's scripts: none of them may reach a control plane through it.
//!
//! * What changes something must come from the page itself: a foreign `Origin` is refused.
//! * On a loopback address only loopback names are answered: a foreign name that was made to point here (DNS rebinding)
//!   is refused, for reading too.
//! * Where credentials are needed, each route needs the role that `access::table` says; the page's own files none.

use access::call::Call;
use access::gate::Denied;
use access::layer::Notary;
use access::{Gate, Need, Role, table};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use tracing::Instrument;

use super::problem::Problem;

/// The page may load only what comes from here, nobody may frame it, and nothing is guessed.
const HEADERS: [(header::HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The middleware.
pub async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    let mut response = match check(&request, door.reach) {
        Ok(()) => serve(&door, request, next).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// What the guard goes by.
#[derive(Clone)]
pub struct Door {
    /// From where the server can be reached.
    pub reach: Reach,
    /// Judges callers.
    pub gate: Gate,
    /// Is told of what they changed.
    pub notary: Notary,
}

/// Serves a request of somebody who may ask for it.
async fn serve(door: &Door, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|m| m.as_str().to_owned());
    let need = table::route(request.method(), route.as_deref());
    let authorization = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes());
    let peer = request.extensions().get::<ConnectInfo<super::Caller>>();
    let peer = peer.map(|ConnectInfo(super::Caller(peer))| peer.clone()).unwrap_or_default();
    let from = peer.address.map(|a| a.to_string()).unwrap_or_default();
    let what = format!("{} {}", request.method(), route.as_deref().unwrap_or("?"));
    let caller = match door.gate.check(authorization, peer.certified.as_deref(), need) {
        Ok(caller) => caller,
        Err(denied) => {
            tracing::warn!(target: "mayastor::audit", call = what, from, "refused: {denied}");
            return refusal(&denied);
        }
    };
    let call = Call::new(caller, what);
    let span = tracing::info_span!("call", id = call.id, what = call.what, by = %call.caller.name);
    let changes = !matches!(need, Need::Nothing | Need::Role(Role::Read));
    let served = async {
        let response = call.clone().run(next.run(request)).await;
        if changes {
            let done = response.status().is_success();
            tracing::info!(target: "mayastor::audit", from, failed = !done, about = call.about(), "{}", call.what);
            if done && !call.is_noted() && !call.caller.name.is_empty() {
                (door.notary)(&call);
            }
        }
        response
    };
    served.instrument(span).await
}

fn refusal(denied: &Denied) -> Response {
    match denied {
        Denied::Unknown(_) => {
            let mut response = Problem::unauthenticated(denied.to_string()).into_response();
            let scheme = HeaderValue::from_static("Bearer realm=\"mayastor\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            response
        }
        Denied::TooLow { .. } => Problem::forbidden(denied.to_string()).into_response(),
    }
}

/// From where the server can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// From this machine only.
    Loopback,
    /// From other machines too.
    Network,
}

fn check(request: &Request, reach: Reach) -> Result<(), Problem> {
    let text = |name| request.headers().get(name).map(|v| v.to_str().unwrap_or("?"));
    let host = request.uri().authority().map(|a| a.as_str()).or_else(|| text(header::HOST)).unwrap_or_default();
    if reach == Reach::Loopback && !is_loopback(host) {
        let detail = format!("this control plane is only for this machine; {host:?} is not its name");
        return Err(Problem::forbidden(detail));
    }
    let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if let Some(origin) = text(header::ORIGIN).filter(|_| !reads)
        && origin.split_once("://").map(|(_, o)| o) != Some(host)
    {
        return Err(Problem::forbidden(format!("a page of {origin:?} may not change anything here")));
    }
    Ok(())
}

/// Whether a `Host` names this machine as itself; none at all is no browser.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.is_empty() || name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn ask(method: Method, host: &str, origin: Option<&str>) -> Result<(), u16> {
        let mut request = Request::builder().method(method).uri("/v1/volumes").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        check(&request.body(Body::empty()).expect("a request"), Reach::Loopback).map_err(|p| p.status)
    }

    #[test]
    fn other_peoples_pages_get_nothing() {
        let own = "127.0.0.1:10123";
        assert_eq!(ask(Method::POST, own, None), Ok(()));
        assert_eq!(ask(Method::POST, own, Some("http://127.0.0.1:10123")), Ok(()));
        assert_eq!(ask(Method::POST, own, Some("http://evil.example")), Err(403));
        assert_eq!(ask(Method::POST, own, Some("null")), Err(403));
        assert_eq!(ask(Method::DELETE, own, Some("http://127.0.0.1:8000")), Err(403));
        assert_eq!(ask(Method::GET, "evil.example:10123", None), Err(403));
        for host in ["localhost:10123", "[::1]:10123", "127.0.0.1"] {
            assert_eq!(ask(Method::GET, host, None), Ok(()), "{host}");
        }
    }
}
