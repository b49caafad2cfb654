//! The caller's side: how the cluster's parts and the client commands reach the others.

use std::path::Path;
use std::sync::Arc;

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use crate::gate::secrets;
use crate::secret::Secret;
use crate::tls::Client;
use crate::watched::Watched;

/// A connection that shows who calls.
pub type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// Puts the token into each request.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<Arc<Source>>);

#[derive(Debug)]
enum Source {
    Text(Secret),
    File(Watched<Vec<Secret>>),
}

impl Bearer {
    fn secret(&self) -> Option<Secret> {
        match self.0.as_deref()? {
            Source::Text(secret) => Some(secret.clone()),
            Source::File(file) => file.get().first().cloned(),
        }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = self.secret() {
            let text = format!("Bearer {}", secret.expose());
            let mut value =
                AsciiMetadataValue::try_from(text).map_err(|_| Status::internal("a token with odd bytes"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// How others are called: with which token, encrypted or not. The default: without a token, in the clear.
#[derive(Clone, Debug, Default)]
pub struct Dial {
    bearer: Bearer,
    tls: Option<Client>,
}

impl Dial {
    /// Shows this token.
    #[must_use]
    pub fn with_token(mut self, secret: Secret) -> Dial {
        self.bearer = Bearer(Some(Arc::new(Source::Text(secret))));
        self
    }
    /// Shows the first token of this file, which is read again when it changes.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub fn with_token_file(mut self, path: &Path) -> Result<Dial, String> {
        let file = Watched::new(path, secrets);
        file.check()?;
        self.bearer = Bearer(Some(Arc::new(Source::File(file))));
        Ok(self)
    }
    /// Encrypts, and trusts those whose certificates `client` can check.
    #[must_use]
    pub fn with_tls(mut self, client: Client) -> Dial {
        self.tls = Some(client);
        self
    }
    /// The value of the header `Authorization`, for requests that are no RPCs. Not to be logged.
    pub fn header(&self) -> Option<String> {
        self.bearer.secret().map(|secret| format!("Bearer {}", secret.expose()))
    }
    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection that is made when it is used, and again when it was lost.
    pub fn lazy(&self, endpoint: &Endpoint) -> Channel {
        let channel = match &self.tls {
            None => endpoint.connect_lazy(),
            Some(client) => endpoint.connect_with_connector_lazy(client.clone()),
        };
        InterceptedService::new(channel, self.bearer.clone())
    }
    /// A connection that is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let channel = match &self.tls {
            None => endpoint.connect().await?,
            Some(client) => endpoint.connect_with_connector(client.clone()).await?,
        };
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }
}
