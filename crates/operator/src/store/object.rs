//! Records inside objects of our own kinds.

use control::store::{Entry, Expected, StoreError};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::{CallError, call, spec};
use crate::resource::{FINALIZER, MayastorNode, MayastorVolume};

/// Which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Volume,
    Node,
}

/// The objects of a kind.
pub(super) struct Objects {
    kind: Kind,
    resource: ApiResource,
    api: Api<DynamicObject>,
}

/// An object.
pub(super) struct Object(DynamicObject);

/// A record that is to be written must be a JSON object.
pub(super) fn data(key: &str, value: &[u8]) -> Result<Value, StoreError> {
    let parsed: Result<Value, _> = serde_json::from_slice(value);
    parsed.ok().filter(Value::is_object).ok_or_else(|| StoreError::Corrupt {
        key: key.to_owned(),
        why: "only a JSON object can be kept in Kubernetes".to_owned(),
    })
}

impl Object {
    pub fn name(&self) -> &str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }
    fn record(&self) -> Option<&Value> {
        self.0.data.get("record").filter(|r| r.is_object())
    }
    /// The key of its record.
    pub fn key(&self) -> Option<&str> {
        self.record()?["key"].as_str()
    }
    pub fn revision(&self) -> Option<u64> {
        self.record()?["revision"].as_u64()
    }
    /// The value of its record.
    pub fn data(&self) -> Option<&Value> {
        Some(&self.record()?["data"])
    }
    pub fn spec(&self) -> &Value {
        &self.0.data["spec"]
    }
    pub fn entry(&self) -> Option<Entry> {
        let value = serde_json::to_vec(self.data()?).expect("what was parsed can be written");
        Some(Entry { value, revision: self.revision()? })
    }
    pub fn keyed(&self) -> Option<(String, Entry)> {
        Some((self.key()?.to_owned(), self.entry()?))
    }
    fn is_going(&self) -> bool {
        self.0.metadata.deletion_timestamp.is_some()
    }
}

fn record(key: &str, revision: u64, data: &Value) -> Value {
    json!({ "revision": revision, "key": key, "data": data })
}

fn conflict(key: &str) -> StoreError {
    StoreError::Conflict(key.to_owned())
}

/// The revision of a new record: one that no record of that key had, lest a change that was meant for a former one fits.
pub(super) fn first_revision() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(1)
}

/// The operations of a patch.
fn patch(operations: Value) -> Patch<Value> {
    Patch::Json(serde_json::from_value(operations).expect("operations as the standard has them"))
}

impl Objects {
    pub fn new(client: &Client, namespace: &str, kind: Kind) -> Objects {
        let resource = match kind {
            Kind::Volume => ApiResource::erase::<MayastorVolume>(&()),
            Kind::Node => ApiResource::erase::<MayastorNode>(&()),
        };
        Objects { kind, api: Api::namespaced_with(client.clone(), namespace, &resource), resource }
    }

    pub async fn get(&self, name: &str) -> Result<Option<Object>, StoreError> {
        Ok(call(self.api.get_opt(name)).await?.map(Object))
    }

    /// All objects, from a quorum of the API server's own store.
    pub async fn list(&self) -> Result<Vec<Object>, StoreError> {
        let (mut all, mut page) = (Vec::new(), ListParams::default().limit(500));
        loop {
            let found = call(self.api.list(&page)).await?;
            all.extend(found.items.into_iter().map(Object));
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Writes a record, and into `spec` what people are to see of it.
    pub async fn put(&self, name: &str, key: &str, expected: Expected, data: Value) -> Result<u64, StoreError> {
        if expected == Expected::Absent
            && let Some(revision) = self.create(name, key, &data).await?
        {
            return Ok(revision);
        }
        let found = self.get(name).await?;
        match (expected, found) {
            (Expected::Anything, None) => self.create(name, key, &data).await?.ok_or_else(|| conflict(key)),
            (Expected::Anything | Expected::Absent, Some(object)) if object.record().is_none() => {
                self.adopt(&object, key, &data).await
            }
            (Expected::Anything, Some(object)) => self.change(&object, key, &data).await,
            (Expected::Revision(wanted), Some(object))
                if object.revision() == Some(wanted) && object.key() == Some(key) =>
            {
                self.change(&object, key, &data).await
            }
            _ => Err(conflict(key)),
        }
    }

    /// Makes an object with a record; `None` when there is one of that name.
    async fn create(&self, name: &str, key: &str, data: &Value) -> Result<Option<u64>, StoreError> {
        let revision = first_revision();
        let mut object = DynamicObject::new(name, &self.resource);
        object.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        object.data = json!({ "spec": self.spec_of(data), "record": record(key, revision, data) });
        match call(self.api.create(&PostParams::default(), &object)).await {
            Ok(_) => Ok(Some(revision)),
            Err(error) if error.code() == 409 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn spec_of(&self, data: &Value) -> Value {
        match self.kind {
            Kind::Volume => spec::of(data),
            Kind::Node => json!({ "grpcEndpoint": data["endpoint"] }),
        }
    }

    /// Puts a record into an object that a person made. What it asks for must be what the record says.
    async fn adopt(&self, object: &Object, key: &str, data: &Value) -> Result<u64, StoreError> {
        let same = match self.kind {
            Kind::Volume => spec::agrees(object.spec(), data),
            Kind::Node => true,
        };
        if object.is_going() || !same {
            return Err(conflict(key));
        }
        let revision = first_revision();
        let mut operations = vec![
            json!({ "op": "test", "path": "/metadata/resourceVersion", "value": object.0.resource_version() }),
            json!({ "op": "add", "path": "/record", "value": record(key, revision, data) }),
        ];
        if self.kind == Kind::Node {
            operations.push(json!({ "op": "replace", "path": "/spec", "value": self.spec_of(data) }));
        }
        operations.extend(finalizer(object));
        self.patch(object, key, operations).await.map(|()| revision)
    }

    /// Replaces the record of an object, if it is still the one that is known.
    async fn change(&self, object: &Object, key: &str, data: &Value) -> Result<u64, StoreError> {
        let known = object.revision().ok_or_else(|| conflict(key))?;
        let revision = known + 1;
        let guard = vec![
            json!({ "op": "test", "path": "/record/revision", "value": known }),
            json!({ "op": "test", "path": "/record/key", "value": key }),
            json!({ "op": "replace", "path": "/record", "value": record(key, revision, data) }),
        ];
        let mirrored = match self.kind {
            Kind::Volume => spec::mirror(object.spec(), object.data().unwrap_or(&Value::Null), data),
            Kind::Node => vec![json!({ "op": "replace", "path": "/spec", "value": self.spec_of(data) })],
        };
        let done = self.patch(object, key, [guard.clone(), mirrored.clone()].concat()).await;
        match done {
            // Nothing was changed. A person's edit came in between? Then it stays, and is taken over later.
            Err(StoreError::Conflict(_)) if !mirrored.is_empty() => self.patch(object, key, guard).await?,
            done => done?,
        }
        Ok(revision)
    }

    async fn patch(&self, object: &Object, key: &str, operations: Vec<Value>) -> Result<(), StoreError> {
        let operations = patch(Value::Array(operations));
        match call(self.api.patch(object.name(), &PatchParams::default(), &operations)).await {
            Ok(_) => Ok(()),
            // 422: a test failed, so nothing was changed. 404: it is gone.
            Err(error) if [404, 409].contains(&error.code()) || is_failed_test(&error) => Err(conflict(key)),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a record with its object. Done again after a crash in the middle, it goes on.
    pub async fn remove(&self, found: Option<Object>, key: &str, expected: Expected) -> Result<u64, StoreError> {
        let revision = found.as_ref().and_then(Object::revision);
        if !expected.fits(revision) {
            return Err(conflict(key));
        }
        let (Some(object), Some(revision)) = (found, revision) else { return Ok(0) };
        let rest: Vec<&String> = object.0.finalizers().iter().filter(|f| *f != FINALIZER).collect();
        let operations = vec![
            json!({ "op": "test", "path": "/record/revision", "value": revision }),
            json!({ "op": "add", "path": "/metadata/finalizers", "value": rest }),
        ];
        self.patch(&object, key, operations).await?;
        // Without a finalizer it is gone by now when its deletion was what started this.
        let it = Preconditions { uid: object.0.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(it), ..DeleteParams::default() };
        match call(self.api.delete(object.name(), &parameters)).await {
            Ok(_) => Ok(revision + 1),
            Err(error) if [404, 409].contains(&error.code()) => Ok(revision + 1),
            Err(error) => Err(error.into()),
        }
    }

    /// Raises the revision of the record, whatever happens to it meanwhile.
    pub async fn claim(&self, object: &Object) -> Result<(), StoreError> {
        let mut known = object.revision();
        loop {
            let Some(revision) = known else { return Ok(()) };
            let operations = vec![
                json!({ "op": "test", "path": "/record/revision", "value": revision }),
                json!({ "op": "replace", "path": "/record/revision", "value": revision + 1 }),
            ];
            match self.patch(object, "", operations).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Conflict(_)) => {
                    known = self.get(object.name()).await?.and_then(|object| object.revision());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Adds our finalizer to those that an object has.
fn finalizer(object: &Object) -> Option<Value> {
    let all = object.0.finalizers();
    if all.iter().any(|f| f == FINALIZER) {
        return None;
    }
    let all: Vec<&str> = all.iter().map(String::as_str).chain([FINALIZER]).collect();
    Some(json!({ "op": "add", "path": "/metadata/finalizers", "value": all }))
}

/// Whether a patch was refused because one of its tests failed: the API server has no reason of its own for that.
pub(super) fn is_failed_test(error: &CallError) -> bool {
    match error {
        CallError::Answered(kube::Error::Api(status)) => status.code == 422 && status.message.contains("test"),
        _ => false,
    }
}
