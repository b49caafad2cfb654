//! Who leads, asked of the one that does.

use std::sync::Arc;

use api::v1;
use tonic::{Request, Response, Status};

use crate::Inner;

/// See the module.
pub(crate) struct Here(pub Arc<Inner>);

#[tonic::async_trait]
impl v1::leadership_server::Leadership for Here {
    async fn get_leader(&self, _: Request<v1::Empty>) -> Result<Response<v1::Leader>, Status> {
        self.0.leads()?;
        let candidate = self.0.candidate.clone();
        Ok(Response::new(v1::Leader {
            here: true,
            name: candidate.name,
            grpc_endpoint: candidate.grpc,
            http_endpoint: candidate.http,
            term: self.0.state.term(),
            trouble: String::new(),
        }))
    }
}
