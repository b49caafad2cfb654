//! Which control plane's calls are obeyed (docs/decisions/0006-stores.md).
//!
//! A call names the term of the control plane that makes it. One of a lower term than was heard of is refused. One of a
//! higher term waits until all calls of lower ones have ended: whoever makes it sees in the reports all that they did.
//! Calls that name no term are made by people and programs, and pass.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tonic::Status;

use super::Engine;
use super::v0::on_node;

/// The highest term. Held for reading by each call that was let in, and for writing by one that raises it.
#[derive(Clone, Default)]
pub struct Terms(Arc<RwLock<u64>>);

/// A call's right to be carried out; higher terms wait for its end.
type Admission = Option<OwnedRwLockReadGuard<u64>>;

fn term(headers: &HeaderMap) -> Result<Option<u64>, Status> {
    let Some(value) = headers.get(api::TERM_METADATA) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Status::invalid_argument("the control plane's term is no number"))
}

impl Terms {
    /// Begins with the highest term that the node remembers.
    pub fn new(term: u64) -> Terms {
        Terms(Arc::new(RwLock::new(term)))
    }

    /// Lets a call of that term in. `heed` notes a higher one durably, before anything of it is carried out.
    async fn admit<F: Future<Output = ()>>(
        &self,
        term: Option<u64>,
        heed: impl FnOnce(u64) -> F,
    ) -> Result<Admission, Status> {
        let Some(term) = term else { return Ok(None) };
        let held = self.0.clone().read_owned().await;
        if *held >= term {
            return judge(held, term).map(Some);
        }
        drop(held);
        let mut highest = self.0.clone().write_owned().await;
        // Another call may have been faster.
        if *highest < term {
            *highest = term;
            heed(term).await;
        }
        judge(highest.downgrade(), term).map(Some)
    }
}

fn judge(held: OwnedRwLockReadGuard<u64>, term: u64) -> Result<OwnedRwLockReadGuard<u64>, Status> {
    if *held == term {
        return Ok(held);
    }
    let text = format!("a later control plane (term {}) is obeyed here, not that of term {term}", *held);
    Err(Status::aborted(text))
}

/// The middleware of all services of the engine.
pub async fn obey(State((engine, terms)): State<(Engine, Terms)>, request: Request, next: Next) -> Response {
    let heed = |term| async move {
        tracing::info!("the control plane of term {term} is obeyed from now on");
        let noted = on_node!(engine, node => node.heed_term(term).await).await;
        if let Err(error) = noted {
            tracing::warn!("the term {term} would not be remembered after a restart: {error}");
        }
    };
    let admitted = match term(request.headers()) {
        Ok(term) => terms.admit(term, heed).await,
        Err(status) => Err(status),
    };
    match admitted {
        Err(status) => status.into_http(),
        Ok(None) => next.run(request).await,
        Ok(Some(admission)) => {
            // On a task of its own: a call whose caller has gone away is still being carried out, and counts until its end.
            let call = tokio::spawn(async move {
                let answer = next.run(request).await;
                drop(admission);
                answer
            });
            let failed = |_| Status::internal("the call was lost").into_http::<Body>();
            call.await.unwrap_or_else(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tonic::Code;

    async fn admit(terms: &Terms, term: u64) -> Result<Admission, Status> {
        terms.admit(Some(term), async |_| {}).await
    }

    #[tokio::test]
    async fn lower_terms_are_refused_and_no_term_is_no_control_plane() {
        let terms = Terms::new(5);
        assert_eq!(admit(&terms, 4).await.unwrap_err().code(), Code::Aborted);
        assert!(admit(&terms, 5).await.unwrap().is_some());
        assert!(terms.admit(None, async |_| panic!("there is no term")).await.unwrap().is_none());
        let noted = AtomicU64::new(0);
        assert!(terms.admit(Some(7), async |term| noted.store(term, Ordering::Relaxed)).await.unwrap().is_some());
        assert_eq!(noted.into_inner(), 7);
        let refused = admit(&terms, 5).await.unwrap_err();
        assert!(refused.code() == Code::Aborted && refused.message().contains("term 7"), "{refused}");
    }

    #[tokio::test]
    async fn a_higher_term_waits_for_the_calls_of_lower_ones_and_holds_off_new_ones() {
        let terms = Terms::new(1);
        let (first, second) = (admit(&terms, 1).await.unwrap(), admit(&terms, 1).await.unwrap());
        let raising = tokio::spawn({
            let terms = terms.clone();
            async move { admit(&terms, 2).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let late = tokio::spawn({
            let terms = terms.clone();
            async move { admit(&terms, 1).await.map(drop) }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!raising.is_finished() && !late.is_finished());
        drop(second);
        raising.await.unwrap().unwrap();
        assert_eq!(late.await.unwrap().unwrap_err().code(), Code::Aborted);
    }

    #[test]
    fn terms_are_numbers() {
        let mut headers = HeaderMap::new();
        assert_eq!(term(&headers).unwrap(), None);
        headers.insert(api::TERM_METADATA, "12".parse().unwrap());
        assert_eq!(term(&headers).unwrap(), Some(12));
        headers.insert(api::TERM_METADATA, "x".parse().unwrap());
        assert_eq!(term(&headers).unwrap_err().code(), Code::InvalidArgument);
    }
}
