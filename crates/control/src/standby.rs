//! A control plane while another one leads: it says who does.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use access::conn::Incoming;
use access::{Access, GateLayer};
use api::v1;
use api::v1::leadership_server::LeadershipServer;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::rest::Doorway;
use crate::rest::problem::Problem;
use crate::store::election::{Candidate, Election};

/// How often the store is asked who leads.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection is kept. Whoever came by one address for all control planes (a Service of Kubernetes, a balancer)
/// finds the leader only with a new connection: on an old one an engine's ledgers would never be recorded.
const AGE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone)]
pub struct Standby {
    known: watch::Receiver<Known>,
    access: Access,
}

/// What is known of the leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub leader: Option<Candidate>,
    /// Why nobody knows.
    pub trouble: String,
}

impl Known {
    fn text(&self) -> String {
        match &self.leader {
            Some(leader) => {
                format!("this control plane stands by; {} at {} leads", leader.name, leader.grpc)
            }
            None if self.trouble.is_empty() => "no control plane leads at the moment; try again".to_owned(),
            None => format!("no control plane leads at the moment: {}", self.trouble),
        }
    }
}

/// The answer to whoever asks a control plane that does not lead.
pub(crate) fn unavailable(known: &Known) -> Status {
    let mut status = Status::unavailable(known.text());
    let leader = known.leader.as_ref().map(|l| l.grpc.clone()).unwrap_or_default();
    if let Ok(leader) = leader.parse() {
        status.metadata_mut().insert(api::LEADER_METADATA, leader);
    }
    status
}

impl Standby {
    /// Begins to ask who leads. To be called inside a tokio runtime.
    pub fn new(election: Arc<dyn Election>, access: Access) -> Standby {
        let (sender, receiver) = watch::channel(Known::default());
        tokio::spawn(async move {
            while !sender.is_closed() {
                let known = match election.leader().await {
                    Ok(leader) => Known { leader, trouble: String::new() },
                    Err(error) => Known { leader: None, trouble: error.to_string() },
                };
                sender.send_replace(known);
                tokio::time::sleep(LOOK).await;
            }
        });
        Standby { known: receiver, access }
    }

    fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Answers engines and clients until `shutdown` ends.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let refuse =
            async |State(standby): State<Standby>| -> HttpResponse { unavailable(&standby.known()).into_http() };
        let router: Router = Router::new().fallback(refuse).with_state(self.clone());
        let Access { gate, tls, .. } = self.access.clone();
        tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .max_connection_age(AGE)
            .max_connection_age_grace(AGE)
            .layer(GateLayer::new(gate))
            .add_routes(Routes::from(router).add_service(LeadershipServer::new(self.clone())))
            .serve_with_incoming_shutdown(Incoming::new(listener, tls), shutdown)
            .await
    }

    /// Sends browsers and programs to the leader until `shutdown` ends. Who may ask is the leader's affair.
    pub async fn serve_http(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let router = Router::new().fallback(elsewhere).with_state(self.clone());
        axum::serve(Doorway(Incoming::new(listener, self.access.tls.clone())), router)
            .with_graceful_shutdown(shutdown)
            .await
    }
}

/// To the same place at the leader's.
async fn elsewhere(State(standby): State<Standby>, request: HttpRequest) -> HttpResponse {
    let known = standby.known();
    let mut response = Problem::from(unavailable(&known)).into_response();
    let leader = known.leader.map(|l| l.http).filter(|http| !http.is_empty());
    let scheme = if standby.access.tls.is_some() { "https" } else { "http" };
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    if let Some(Ok(place)) = leader.map(|http| format!("{scheme}://{http}{path}").parse()) {
        // 307: the method and the body stay.
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert(header::LOCATION, place);
        *response.body_mut() = Body::empty();
    }
    response
}

#[tonic::async_trait]
impl v1::leadership_server::Leadership for Standby {
    async fn get_leader(&self, _: Request<v1::Empty>) -> Result<Response<v1::Leader>, Status> {
        let Known { leader, trouble } = self.known();
        let Candidate { name, grpc, http } = leader.unwrap_or_default();
        let (here, term) = (false, 0);
        Ok(Response::new(v1::Leader { here, name, grpc_endpoint: grpc, http_endpoint: http, term, trouble }))
    }
}
