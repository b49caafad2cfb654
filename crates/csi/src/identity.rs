//! Who the driver is.

use api::csi;
use csi::plugin_capability::{self, service, volume_expansion};
use tonic::{Request, Response, Status};

use crate::DRIVER;

/// Whether a plugin can do its work now.
#[tonic::async_trait]
pub trait Ready: Send + Sync + 'static {
    /// `Ok(false)`: it has not come up yet.
    async fn ready(&self) -> Result<bool, Status>;
}

/// Always ready.
pub struct Always;

#[tonic::async_trait]
impl Ready for Always {
    async fn ready(&self) -> Result<bool, Status> {
        Ok(true)
    }
}

/// The service.
pub struct Identity<R>(pub R);

#[tonic::async_trait]
impl<R: Ready> csi::identity_server::Identity for Identity<R> {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::BTreeMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let service = |kind: service::Type| csi::PluginCapability {
            r#type: Some(plugin_capability::Type::Service(plugin_capability::Service { r#type: kind as i32 })),
        };
        let online = plugin_capability::VolumeExpansion { r#type: volume_expansion::Type::Online as i32 };
        let capabilities = vec![
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            csi::PluginCapability { r#type: Some(plugin_capability::Type::VolumeExpansion(online)) },
        ];
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(self.0.ready().await?) }))
    }
}
