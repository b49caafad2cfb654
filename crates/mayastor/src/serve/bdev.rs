//! The service `mayastor.BdevRpc`, with the status codes of v0.3.0.

use api::v0::bdev_rpc_server::BdevRpc;
use api::v0::{BdevShareReply, BdevShareRequest, BdevUri, Bdevs, CreateReply, Null};
use engine::model::{ErrorKind, Protocol};
use tonic::{Code, Request, Response, Status};

use super::Engine;
use super::convert::bdev_v0;
use super::status::{legacy, status};
use super::v0::on_node;

type Answer<T> = Result<Response<T>, Status>;

/// A URI that cannot be parsed is a wrong argument; all that goes wrong afterwards was an internal error.
const DEVICE: &[(ErrorKind, Code)] = &[
    (ErrorKind::AlreadyExists, Code::Internal),
    (ErrorKind::NotFound, Code::Internal),
    (ErrorKind::FailedPrecondition, Code::Internal),
    (ErrorKind::Unavailable, Code::Internal),
];
const SHARE: &[(ErrorKind, Code)] =
    &[(ErrorKind::FailedPrecondition, Code::Internal), (ErrorKind::AlreadyExists, Code::Internal)];

#[tonic::async_trait]
impl BdevRpc for Engine {
    async fn list(&self, _: Request<Null>) -> Answer<Bdevs> {
        let bdevs = on_node!(self, node => Ok(node.bdevs())).await.map_err(status)?;
        Ok(Response::new(Bdevs { bdevs: bdevs.into_iter().map(bdev_v0).collect() }))
    }

    async fn create(&self, request: Request<BdevUri>) -> Answer<CreateReply> {
        let uri = request.into_inner().uri;
        let name = on_node!(self, node => node.create_bdev(uri).await).await.map_err(legacy(DEVICE))?;
        Ok(Response::new(CreateReply { name }))
    }

    async fn destroy(&self, request: Request<BdevUri>) -> Answer<Null> {
        let uri = request.into_inner().uri;
        on_node!(self, node => node.destroy_bdev(uri).await).await.map_err(legacy(DEVICE))?;
        Ok(Response::new(Null {}))
    }

    async fn share(&self, request: Request<BdevShareRequest>) -> Answer<BdevShareReply> {
        let BdevShareRequest { name, proto } = request.into_inner();
        let protocol = match proto.as_str() {
            "nvmf" => Protocol::Nvmf,
            "iscsi" => Protocol::Iscsi,
            "nbd" => Protocol::Nbd,
            _ => return Err(Status::invalid_argument(format!("{proto:?} is not a protocol; use nvmf, iscsi or nbd"))),
        };
        let uri = on_node!(self, node => node.share_bdev(name, protocol).await).await.map_err(legacy(SHARE))?;
        Ok(Response::new(BdevShareReply { uri }))
    }

    async fn unshare(&self, request: Request<CreateReply>) -> Answer<Null> {
        let name = request.into_inner().name;
        on_node!(self, node => node.unshare_bdev(name).await).await.map_err(status)?;
        Ok(Response::new(Null {}))
    }
}
